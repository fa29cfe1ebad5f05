//! A virtual machine as QEMU's command line.
//!
//! Pure: nothing is looked up or started here. Source: `qemu-system-x86_64(1)`. Must not know: images, how disks are served.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::programs::{Accelerator, MACHINE};
use crate::vm::hardware::{Controller, Hardware, System};

/// Ports of the AHCI controller that the machine has anyway, and of each further one.
const AHCI_PORTS: usize = 6;
/// What the buses of disks take of a serial number.
const SERIAL_CHARS: usize = 20;
/// More network cards than this are left out.
const NICS_MAX: usize = 8;

/// Whether the machine has a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// It has no network card.
    None,
    /// Behind an address translation of its own: it reaches others, nobody reaches it.
    User,
}

/// What becomes of what the guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// They stay in the files, also when the power of this machine goes.
    Kept,
    /// They stay in the files until these are thrown away.
    Careless,
    /// They never get to the files.
    Dropped,
}

/// Where the serial console is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    /// On the terminal; Ctrl-C ends the machine.
    Terminal,
    /// Written to a file.
    File(PathBuf),
    /// Nowhere.
    None,
}

/// What starts the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pflash {
    /// The code.
    pub code: PathBuf,
    /// The machine's own variables.
    pub variables: PathBuf,
}

/// A machine that can be started.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// What it is like.
    pub hardware: &'a Hardware,
    /// qcow2 files, one for each disk of the hardware that it shall have, by the disk's number.
    pub disks: &'a [(usize, PathBuf)],
    /// UEFI's files; none for a BIOS.
    pub pflash: Option<Pflash>,
    /// What runs it.
    pub accelerator: Accelerator,
    /// Memory in bytes.
    pub memory: u64,
    /// Processors.
    pub processors: u32,
    /// What becomes of what is written.
    pub writes: Writes,
    /// Whether it has a network.
    pub network: Network,
    /// QEMU's `-display`.
    pub display: &'a str,
    /// The serial console.
    pub console: Console,
    /// The monitor's socket.
    pub monitor: &'a Path,
    /// Whether systemd is asked, by the machine's SMBIOS, for a login prompt on the serial console.
    pub serial_login: SerialLogin,
    /// Whatever else QEMU shall be told.
    pub extra: &'a [OsString],
}

/// Whether systemd is asked for a login prompt on the serial console; since version 254 it looks for such requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SerialLogin {
    /// It is.
    Asked,
    /// It is not.
    Not,
}

/// A path as the value of an option that others follow: QEMU reads two commas as one.
pub(super) fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

impl Options<'_> {
    /// The arguments.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let mut words = Words::default();
        let hardware = self.hardware;
        words.add("-name", hardware.name.clone());
        words.flag("-nodefaults");
        words.flag("-no-user-config");
        words.add("-machine", MACHINE);
        words.add("-accel", self.accelerator.option());
        words.add("-cpu", self.accelerator.processor());
        words.add("-smp", format!("cpus={0},sockets=1,cores={0},threads=1", self.processors));
        words.add("-m", format!("{}M", self.memory >> 20));
        words.add("-rtc", if hardware.system == System::Windows { "base=localtime" } else { "base=utc" });
        words.add("-vga", "std");
        words.add("-device", "virtio-rng-pci");
        words.add("-device", "qemu-xhci,id=usb");
        words.add("-device", "usb-tablet,bus=usb.0");
        words.add("-display", self.display);
        if let Some(Pflash { code, variables }) = &self.pflash {
            words.add("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={}", escaped(code)));
            words.add("-drive", format!("if=pflash,unit=1,format=raw,file={}", escaped(variables)));
        }
        self.disks(&mut words);
        self.network(&mut words);
        match &self.console {
            Console::Terminal => {
                words.add("-chardev", "stdio,id=console,mux=on,signal=on");
                words.add("-serial", "chardev:console");
                words.add("-mon", "chardev=console");
            }
            Console::File(path) => {
                words.add("-chardev", format!("file,id=console,path={}", escaped(path)));
                words.add("-serial", "chardev:console");
            }
            Console::None => words.add("-serial", "null"),
        }
        words.add("-chardev", format!("socket,id=monitor,server=on,wait=off,path={}", escaped(self.monitor)));
        words.add("-mon", "chardev=monitor,mode=control");
        if self.serial_login == SerialLogin::Asked {
            words.add("-smbios", "type=11,value=io.systemd.credential:getty.ttys.serial=ttyS0");
        }
        words.0.extend(self.extra.iter().cloned());
        words.0
    }

    fn disks(&self, words: &mut Words) {
        let controller = self.hardware.controller;
        if controller == Controller::VirtioScsi {
            words.add("-device", "virtio-scsi-pci,id=scsi");
        }
        let first = self.hardware.disks.iter().find(|disk| disk.boots).map(|disk| disk.number);
        for (place, (number, file)) in self.disks.iter().enumerate() {
            let disk = self.hardware.disks.iter().find(|disk| disk.number == *number);
            let sector = disk.map_or(512, |disk| disk.sector_size);
            let writes = match self.writes {
                Writes::Kept => "cache=writeback",
                Writes::Careless => "cache=unsafe",
                Writes::Dropped => "cache=unsafe,snapshot=on",
            };
            // A full or broken disk here pauses the machine; it does not find its own disk broken.
            words.add(
                "-drive",
                format!(
                    "if=none,id=drive{number},format=qcow2,discard=unmap,werror=stop,{writes},file={}",
                    escaped(file)
                ),
            );
            let mut device = match controller {
                Controller::Sata if place < AHCI_PORTS => format!("ide-hd,bus=ide.{place}"),
                Controller::Sata => {
                    let (card, port) = (place / AHCI_PORTS, place % AHCI_PORTS);
                    if port == 0 {
                        words.add("-device", format!("ahci,id=ahci{card}"));
                    }
                    format!("ide-hd,bus=ahci{card}.{port}")
                }
                Controller::Nvme => "nvme".to_owned(),
                Controller::VirtioBlk => "virtio-blk-pci".to_owned(),
                Controller::VirtioScsi => "scsi-hd,bus=scsi.0".to_owned(),
            };
            device += &format!(",drive=drive{number}");
            // The disk that it starts from first, the others as they come.
            let order = if first == Some(*number) { 0 } else { place + 1 };
            device += &format!(",bootindex={order}");
            if sector != 512 {
                device += &format!(",logical_block_size={sector},physical_block_size={sector}");
            }
            let serial =
                disk.and_then(|disk| disk.serial.as_deref()).map(plain_serial).filter(|serial| !serial.is_empty());
            match (serial, controller) {
                (Some(serial), _) => device += &format!(",serial={serial}"),
                // Every NVMe disk has one.
                (None, Controller::Nvme) => device += &format!(",serial=disk{number}"),
                (None, _) => {}
            }
            words.add("-device", device);
        }
    }

    fn network(&self, words: &mut Words) {
        if self.network == Network::None {
            return words.add("-nic", "none");
        }
        let cards = self.hardware.nics.iter().take(NICS_MAX);
        let mut count = 0;
        for card in cards {
            words.add("-nic", format!("user,model=e1000e,mac={}", card.mac));
            count += 1;
        }
        if count == 0 {
            words.add("-nic", "user,model=e1000e");
        }
    }
}

/// Letters, digits and what stands between them; what ends an option does not.
fn plain_serial(serial: &str) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ');
    serial.chars().filter(is_plain).take(SERIAL_CHARS).collect()
}

#[derive(Default)]
struct Words(Vec<OsString>);

impl Words {
    fn flag(&mut self, word: &str) {
        self.0.push(word.into());
    }

    fn add(&mut self, option: &str, value: impl Into<String>) {
        self.0.extend([option.into(), OsString::from(value.into())]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::hardware::{Disk, Firmware, Nic};

    fn hardware(disks: usize) -> Hardware {
        let disk = |number| Disk {
            number,
            size: 1 << 30,
            sector_size: 512,
            boots: number == 1,
            serial: Some("A,b=c 123456789012345678901234567890".into()),
        };
        Hardware {
            name: "web".into(),
            description: String::new(),
            firmware: Firmware::Bios,
            memory: 1 << 30,
            cpus: 2,
            controller: Controller::Sata,
            disks: (0..disks).map(disk).collect(),
            nics: vec![Nic { name: "eno1".into(), mac: "52:54:00:12:34:56".into() }],
            system: System::Linux,
            warnings: Vec::new(),
        }
    }

    fn line(hardware: &Hardware, change: impl Fn(&mut Options<'_>)) -> String {
        let disks: Vec<_> =
            hardware.disks.iter().map(|disk| (disk.number, format!("/d,{}", disk.number).into())).collect();
        let mut options = Options {
            hardware,
            disks: &disks,
            pflash: None,
            accelerator: Accelerator::Tcg,
            memory: 1 << 30,
            processors: 2,
            writes: Writes::Dropped,
            network: Network::None,
            display: "none",
            console: Console::None,
            monitor: Path::new("/monitor"),
            serial_login: SerialLogin::Not,
            extra: &[],
        };
        change(&mut options);
        options.arguments().iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn disks_hang_where_they_did_and_the_right_one_starts_the_machine() {
        let found = line(&hardware(8), |_| ());
        assert!(
            found.contains("format=qcow2,discard=unmap,werror=stop,cache=unsafe,snapshot=on,file=/d,,0"),
            "{found}"
        );
        assert!(found.contains("ide-hd,bus=ide.0,drive=drive0,bootindex=1,serial=Abc 1234567890123456"), "{found}");
        assert!(found.contains("ide-hd,bus=ide.1,drive=drive1,bootindex=0"), "{found}");
        assert!(found.contains("-device ahci,id=ahci1 -device ide-hd,bus=ahci1.0,drive=drive6"), "{found}");
        assert!(found.contains("bus=ahci1.1,drive=drive7"), "{found}");
    }

    #[test]
    fn large_sectors_are_said_and_nvme_disks_have_serial_numbers() {
        let mut hardware = hardware(1);
        hardware.controller = Controller::Nvme;
        hardware.disks[0].sector_size = 4096;
        hardware.disks[0].serial = None;
        let found = line(&hardware, |_| ());
        assert!(
            found.contains(
                "nvme,drive=drive0,bootindex=1,logical_block_size=4096,physical_block_size=4096,serial=disk0"
            ),
            "{found}"
        );
    }

    #[test]
    fn the_network_is_there_when_it_is_wanted() {
        assert!(line(&hardware(1), |_| ()).contains("-nic none"));
        let found = line(&hardware(1), |options| options.network = Network::User);
        assert!(found.contains("-nic user,model=e1000e,mac=52:54:00:12:34:56"), "{found}");
    }
}
