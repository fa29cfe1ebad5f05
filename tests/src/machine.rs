//! What a virtual machine is made of: firmware, what it starts from, disks on every kind of bus. A description; see
//! [`crate::guest`] for a running one.
//!
//! Must not know: what the machine does once it runs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::guest::Guest;

/// What starts the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// A BIOS.
    SeaBios,
    /// UEFI.
    Ovmf,
    /// UEFI that starts only what is signed by keys that machines come with.
    OvmfSecureBoot,
}

/// What a disk hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// As in most virtual machines.
    VirtioBlk,
    /// As SATA disks do.
    Ahci,
    /// As most new machines have.
    Nvme,
    /// SCSI, on a virtual controller.
    Scsi,
    /// A stick or an external disk.
    Usb,
}

/// What becomes of what the guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// It is forgotten when the machine ends; the image stays as it is.
    Discarded,
    /// It goes to the image.
    Kept,
}

/// A disk of the machine.
#[derive(Clone, Debug)]
pub struct Drive {
    /// Its content, as it is on the disk, or in a format that its name ends in.
    pub image: PathBuf,
    /// What it hangs on.
    pub bus: Bus,
    /// Its serial number.
    pub serial: Option<String>,
    /// Bytes of a sector.
    pub sector: u32,
    /// Whether the image changes.
    pub writes: Writes,
    /// Sectors of 512 bytes that cannot be read.
    pub bad_sectors: Vec<u64>,
}

/// What firmware starts first.
#[derive(Clone, Debug)]
pub enum Medium {
    /// The first disk.
    Disks,
    /// A CD.
    Cd(PathBuf),
    /// A stick, which forgets what is written to it.
    Stick(PathBuf),
    /// A stick that keeps what is written to it.
    KeptStick(PathBuf),
    /// What a server in the network hands out by TFTP; DHCP names the first file.
    Network {
        /// The server's folder.
        folder: PathBuf,
        /// The file that the firmware starts.
        file: String,
    },
    /// A kernel that is there before anything else, as over the network.
    Kernel {
        /// The kernel, or any program for UEFI.
        image: PathBuf,
        /// Its initramfs.
        initramfs: Option<PathBuf>,
        /// Its command line.
        command_line: String,
    },
}

/// A machine that can be started.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(crate) name: String,
    firmware: Firmware,
    medium: Medium,
    drives: Vec<Drive>,
    memory_mib: u32,
    processors: u32,
    network: Option<String>,
}

impl Drive {
    /// A disk with sectors of 512 bytes and no serial number, whose image does not change.
    #[must_use]
    pub fn new(image: &Path, bus: Bus) -> Self {
        Self {
            image: image.to_owned(),
            bus,
            serial: None,
            sector: 512,
            writes: Writes::Discarded,
            bad_sectors: Vec::new(),
        }
    }

    /// With this serial number.
    #[must_use]
    pub fn serial(self, serial: &str) -> Self {
        Self { serial: Some(serial.to_owned()), ..self }
    }

    /// With sectors of this many bytes.
    #[must_use]
    pub fn sector(self, sector: u32) -> Self {
        Self { sector, ..self }
    }

    /// With an image that keeps what the guest writes.
    #[must_use]
    pub fn kept(self) -> Self {
        Self { writes: Writes::Kept, ..self }
    }

    /// With sectors that cannot be read. Such a disk cannot be written.
    #[must_use]
    pub fn bad_sectors(self, sectors: &[u64]) -> Self {
        Self { bad_sectors: sectors.to_vec(), ..self }
    }

    /// QEMU's name for what the image's name ends in.
    fn format(&self) -> &str {
        match self.image.extension().and_then(|extension| extension.to_str()) {
            Some(format @ ("qcow2" | "vdi" | "vhdx" | "vmdk")) => format,
            _ => "raw",
        }
    }

    /// QEMU's properties of the device, for the disk whose content has this name.
    pub(crate) fn device(&self, content: &str) -> Vec<(&'static str, String)> {
        let driver = match self.bus {
            Bus::VirtioBlk => "virtio-blk-pci",
            Bus::Ahci => "ide-hd",
            Bus::Nvme => "nvme",
            Bus::Scsi => "scsi-hd",
            Bus::Usb => "usb-storage",
        };
        let mut properties = vec![("driver", driver.to_owned()), ("drive", content.to_owned())];
        if self.bus == Bus::Scsi {
            properties.push(("bus", "scsi.0".to_owned()));
        }
        // NVMe disks always have one.
        let serial = self.serial.clone().or_else(|| (self.bus == Bus::Nvme).then(|| format!("nvme-{content}")));
        properties.extend(serial.map(|serial| ("serial", serial)));
        // The controller has ports 0 to 5, one disk on each; the last is for the CD.
        let port = |content: &str| content.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0_u8);
        if self.bus == Bus::Ahci {
            properties.push(("bus", format!("ide.{}", port(content) % 5)));
        }
        if self.sector != 512 {
            properties.push(("logical_block_size", self.sector.to_string()));
            properties.push(("physical_block_size", self.sector.to_string()));
        }
        properties
    }
}

impl Machine {
    /// A machine with a BIOS, two processors, 768 MiB, and nothing to start from yet. Its files and messages are named
    /// after it.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            firmware: Firmware::SeaBios,
            medium: Medium::Disks,
            drives: Vec::new(),
            memory_mib: 768,
            processors: 2,
            network: None,
        }
    }

    /// With this firmware.
    #[must_use]
    pub fn firmware(self, firmware: Firmware) -> Self {
        Self { firmware, ..self }
    }

    /// Started from this.
    #[must_use]
    pub fn medium(self, medium: Medium) -> Self {
        Self { medium, ..self }
    }

    /// With one more disk.
    #[must_use]
    pub fn drive(mut self, drive: Drive) -> Self {
        self.drives.push(drive);
        self
    }

    /// With this much memory.
    #[must_use]
    pub fn memory_mib(self, memory_mib: u32) -> Self {
        Self { memory_mib, ..self }
    }

    /// With this many processors.
    #[must_use]
    pub fn processors(self, processors: u32) -> Self {
        Self { processors, ..self }
    }

    /// With a network card behind a router to this machine; `options` are QEMU's for its user network, such as
    /// `hostfwd=tcp::2222-:22`.
    #[must_use]
    pub fn network(self, options: &str) -> Self {
        Self { network: Some(options.to_owned()), ..self }
    }

    /// Starts it. The console is logged to `NAME.serial.log` in `folder`.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start(&self, folder: &Path) -> Result<Guest> {
        Guest::start(self, folder)
    }

    /// QEMU's options, except those for talking to it.
    pub(crate) fn options(&self, folder: &Path) -> Result<Vec<String>> {
        let mut options = Options::default();
        let secure = self.firmware == Firmware::OvmfSecureBoot;
        options.add("-machine", if secure { "q35,smm=on" } else { "q35" });
        // With a thread for each processor, Linux now and then meets code that it has half patched, and panics.
        options.add("-accel", "tcg,thread=single");
        options.add("-smp", &self.processors.to_string());
        options.add("-m", &self.memory_mib.to_string());
        for fixed in ["-nodefaults", "-no-reboot"] {
            options.words.push(fixed.to_owned());
        }
        for [option, value] in
            [["-display", "none"], ["-vga", "std"], ["-device", "virtio-rng-pci"], ["-device", "qemu-xhci,id=usb"]]
        {
            options.add(option, value);
        }
        options.firmware(self.firmware, &folder.join(format!("{}.uefi-variables", self.name)))?;
        options.medium(&self.medium, self.firmware);
        if self.drives.iter().any(|drive| drive.bus == Bus::Scsi) {
            options.add("-device", "virtio-scsi-pci,id=scsi");
        }
        for (index, drive) in self.drives.iter().enumerate() {
            options.drive(&format!("disk{index}"), drive);
        }
        if let Some(network) = &self.network {
            options.add("-netdev", ["user,id=network", network].join(",").trim_end_matches(','));
            options.add("-device", "virtio-net-pci,netdev=network");
        }
        Ok(options.words)
    }
}

#[derive(Default)]
struct Options {
    words: Vec<String>,
}

impl Options {
    fn add(&mut self, option: &str, value: &str) {
        self.words.extend([option.to_owned(), value.to_owned()]);
    }

    /// UEFI keeps its variables in a file of its own, at first a copy of Debian's.
    fn firmware(&mut self, firmware: Firmware, variables: &Path) -> Result<()> {
        const FOLDER: &str = "/usr/share/OVMF";
        let (code, empty) = match firmware {
            Firmware::SeaBios => return Ok(()),
            Firmware::Ovmf => ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
            // With the keys of Microsoft and Debian, and protected from the system by the processor's system
            // management mode: without that protection the firmware does not enforce anything.
            Firmware::OvmfSecureBoot => {
                self.add("-global", "driver=cfi.pflash01,property=secure,value=on");
                ("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd")
            }
        };
        let empty = format!("{FOLDER}/{empty}");
        fs::copy(&empty, variables).with_context(|| format!("cannot copy {empty}"))?;
        self.add("-drive", &format!("if=pflash,format=raw,unit=0,readonly=on,file={FOLDER}/{code}"));
        self.add("-drive", &format!("if=pflash,format=raw,unit=1,file={}", variables.display()));
        Ok(())
    }

    fn medium(&mut self, medium: &Medium, firmware: Firmware) {
        match medium {
            Medium::Disks => {}
            Medium::Cd(image) => {
                let file = image.display();
                self.add("-drive", &format!("if=none,id=medium,format=raw,media=cdrom,readonly=on,file={file}"));
                self.add("-device", "ide-cd,drive=medium,bus=ide.5,bootindex=0");
            }
            Medium::Stick(image) | Medium::KeptStick(image) => {
                let file = image.display();
                let writes = if matches!(medium, Medium::Stick(_)) { "snapshot=on" } else { "cache=writeback" };
                self.add("-drive", &format!("if=none,id=medium,format=raw,{writes},file={file}"));
                self.add("-device", "usb-storage,drive=medium,bootindex=0,removable=on,serial=STICK");
            }
            Medium::Network { folder, file } => {
                self.add("-netdev", &format!("user,id=medium,tftp={},bootfile={file}", folder.display()));
                // A card of QEMU comes with iPXE, which a BIOS needs. UEFI has its own; the file sizes that this iPXE tells shim
                // are wrong.
                let firmware = if firmware == Firmware::SeaBios { "" } else { ",romfile=" };
                self.add("-device", &format!("virtio-net-pci,netdev=medium,bootindex=0{firmware}"));
            }
            Medium::Kernel { image, initramfs, command_line } => {
                self.add("-kernel", &image.display().to_string());
                if let Some(initramfs) = initramfs {
                    self.add("-initrd", &initramfs.display().to_string());
                }
                if !command_line.is_empty() {
                    self.add("-append", command_line);
                }
            }
        }
    }

    fn drive(&mut self, name: &str, drive: &Drive) {
        let writes = match drive.writes {
            Writes::Discarded => "snapshot=on,cache=unsafe",
            Writes::Kept => "cache=writeback",
        };
        let file = drive.image.display();
        if drive.bad_sectors.is_empty() {
            // Discarded, as a real disk would forget it.
            let format = drive.format();
            self.add("-drive", &format!("if=none,id={name},format={format},discard=unmap,{writes},file={file}"));
        } else {
            let error = |(number, sector): (usize, &u64)| {
                let rule = format!("file.inject-error.{number}");
                format!(",{rule}.event=read_aio,{rule}.errno=5,{rule}.sector={sector},{rule}.once=off")
            };
            let errors: String = drive.bad_sectors.iter().enumerate().map(error).collect();
            let source = format!("file.driver=blkdebug,file.image.driver=file,file.image.filename={file}");
            self.add("-drive", &format!("if=none,id={name},format=raw,read-only=on,rerror=report,{source}{errors}"));
        }
        let mut device = drive.device(name);
        let driver = device.remove(0).1;
        let properties: String = device.iter().map(|(name, value)| format!(",{name}={value}")).collect();
        self.add("-device", &format!("{driver}{properties}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_says_what_it_is() {
        let drive = Drive::new("/x.img".as_ref(), Bus::Scsi).serial("ABC").sector(4096);
        let mut options = Options::default();
        options.drive("disk0", &drive);
        assert_eq!(
            options.words.last().map(String::as_str),
            Some("scsi-hd,drive=disk0,bus=scsi.0,serial=ABC,logical_block_size=4096,physical_block_size=4096")
        );
    }
}
