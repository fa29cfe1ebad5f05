//! The virtual machine that fits an image: what its manifest tells of the machine that was captured, and what is
//! most likely to start where it does not tell.
//!
//! Plain data, to be changed before it is used. Must not know: hypervisors, how the machine is started.

#![forbid(unsafe_code)]

use serde::Serialize;

use crate::fs::Note;
use crate::machine;
use crate::repo::manifest::{DiskImage, ImageId, Manifest};
use crate::table::{Role, TableKind};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What is said of a machine that is started by UEFI. Whoever gives it boot entries need not say it.
pub const NO_BOOT_ENTRIES: &str = "the firmware's boot entries are not part of an image: if it does not start, choose the boot loader's file on the EFI system partition in the firmware's menu, once";

/// Memory and processors where the manifest does not know what the machine had.
const MEMORY_DEFAULT: u64 = 4 * GIB;
const CPUS_DEFAULT: u32 = 2;

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hardware {
    /// A name that every hypervisor and file system takes: letters, digits, `-`, `.`; never empty, at most 60 bytes,
    /// beginning with a letter or a digit. The image's name, else the host name, else `image-` and the id's beginning.
    pub name: String,
    /// What the machine is, for people, in one line: host name, maker, model.
    pub description: String,
    /// What starts the machine.
    pub firmware: Firmware,
    /// Memory in bytes, a multiple of a MiB: what the machine had, rounded up to what its memory modules have had.
    pub memory: u64,
    /// Logical processors, never 0. To be shown as one socket: desktop editions of Windows use no more than two.
    pub cpus: u32,
    /// How the disks are attached: by what the captured system most surely has a driver for that it loads early
    /// enough to start from.
    pub controller: Controller,
    /// The disks, in the image's order. The machine starts from the one with [`Disk::boots`].
    pub disks: Vec<Disk>,
    /// The network cards that the machine had, by name. Empty when that is not known.
    pub nics: Vec<Nic>,
    /// What runs on it.
    pub system: System,
    /// What may keep it from starting, or from working as it did, whatever the hypervisor: a sentence each.
    pub warnings: Vec<String>,
}

/// What starts a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Firmware {
    /// Legacy BIOS.
    Bios,
    /// UEFI.
    Uefi {
        /// Whether Secure Boot was on, with the keys that machines are sold with. Off when it is not known: what
        /// starts with it starts without.
        secure_boot: bool,
    },
}

/// How disks are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Controller {
    /// AHCI: every system of the last fifteen years brings the driver, and physical machines load it. Only for
    /// sectors of 512 bytes: no hypervisor's AHCI has others.
    Sata,
    /// NVMe, with sectors of any size: for systems that were on it, which may not load AHCI's driver early, and for
    /// disks with sectors of 4,096 bytes.
    Nvme,
    /// virtio-blk: for systems that were on it.
    VirtioBlk,
    /// virtio-scsi: for systems that were on it.
    VirtioScsi,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Its number in the image.
    pub number: usize,
    /// Size in bytes.
    pub size: u64,
    /// Logical sector size in bytes: a partition table that was made for another is not found.
    pub sector_size: u32,
    /// Whether the machine starts from it; true for exactly one, if there is any.
    pub boots: bool,
    /// The serial number of the disk that was captured; systems that name their disks by it find them.
    pub serial: Option<String>,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// What the interface was called.
    pub name: String,
    /// The address that it had, as `52:54:00:12:34:56`. While the captured machine is on the same network, a virtual
    /// one must not have it, too.
    pub mac: String,
}

/// What runs on a machine, as far as its file systems tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum System {
    /// Linux. The clock is in UTC.
    Linux,
    /// Windows. The clock is in local time.
    Windows,
    /// Nobody knows.
    Unknown,
}

/// Generations of Hyper-V's machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Generation {
    /// BIOS, IDE; disks may be VHD or VHDX.
    One,
    /// UEFI, SCSI over the VMBus; disks must be VHDX.
    Two,
}

impl Hardware {
    /// The machine that fits an image.
    #[must_use]
    pub fn of_image(id: ImageId, manifest: &Manifest) -> Self {
        // Disk-image files say nothing of the machine that they were captured on.
        let is_own_machine = manifest.disks.iter().any(|disk| !is_file(disk));
        let machine = &manifest.machine;
        let boots = boot_disk(manifest);
        let firmware = firmware(manifest, boots, is_own_machine);
        let disks: Vec<Disk> =
            manifest.disks.iter().enumerate().map(|(number, disk)| of_disk(number, disk, boots)).collect();
        let memory = if is_own_machine && machine.memory > 0 { as_built(machine.memory) } else { MEMORY_DEFAULT };
        let nics = machine.nics.iter().filter(|_| is_own_machine);
        let mut hardware = Self {
            name: name_of(id, manifest),
            description: one_line(&manifest.machine_words()),
            firmware,
            memory,
            cpus: if is_own_machine && machine.cpus > 0 { machine.cpus } else { CPUS_DEFAULT },
            controller: controller(manifest, boots),
            disks,
            nics: nics
                .map(|nic| Nic { name: one_line(&nic.name), mac: nic.mac.to_lowercase() })
                .filter(Nic::is_sane)
                .collect(),
            system: system_of(manifest),
            warnings: Vec::new(),
        };
        hardware.warnings = hardware.warnings_of(manifest, is_own_machine);
        hardware
    }

    /// The same machine with these disks alone, by their numbers. It starts from the first if its own boot disk is not
    /// among them.
    #[must_use]
    pub fn with_disks(mut self, numbers: &[usize]) -> Self {
        self.disks.retain(|disk| numbers.contains(&disk.number));
        if !self.disks.iter().any(|disk| disk.boots)
            && let Some(first) = self.disks.first_mut()
        {
            first.boots = true;
        }
        self
    }

    /// The generation of Hyper-V's machines that starts it.
    #[must_use]
    pub fn generation(&self) -> Generation {
        match self.firmware {
            Firmware::Bios => Generation::One,
            Firmware::Uefi { .. } => Generation::Two,
        }
    }

    /// Whether a disk has sectors that are not of 512 bytes.
    #[must_use]
    pub fn has_large_sectors(&self) -> bool {
        self.disks.iter().any(|disk| disk.sector_size != 512)
    }

    /// What may not be the same there.
    fn warnings_of(&self, manifest: &Manifest, is_own_machine: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        let boot = self.disks.iter().find(|disk| disk.boots).and_then(|disk| manifest.disks.get(disk.number));
        let transport = boot.and_then(|disk| disk.identity.transport.as_deref()).unwrap_or("file");
        if matches!(transport, "sas" | "scsi" | "fc" | "iscsi" | "usb" | "xen" | "mmc") {
            warnings.push(format!(
                "the disk that it starts from was attached by {transport}; a system that loads no driver for SATA early does not find it on a virtual disk"
            ));
        }
        match self.system {
            System::Windows => warnings.push(
                "Windows finds new devices at the first start, may want to be activated again, and stops with INACCESSIBLE_BOOT_DEVICE where it has no driver for the disk's controller".into(),
            ),
            System::Linux if is_own_machine => warnings.push(
                "its network cards may get new names there, and network settings that name the old ones do not apply".into(),
            ),
            _ => {}
        }
        if matches!(self.firmware, Firmware::Uefi { .. }) && !has_fallback_hint(manifest) {
            warnings.push(NO_BOOT_ENTRIES.into());
        }
        if is_encrypted(manifest, "BitLocker") {
            warnings.push("BitLocker asks for its recovery key: a virtual machine's TPM is another".into());
        }
        if is_encrypted(manifest, "LUKS") {
            warnings.push("LUKS asks for its password, also where a TPM or a key server gave it before".into());
        }
        if boot.is_some_and(|disk| disk.sector_size != 512 && starts_by_bios(disk)) && self.firmware == Firmware::Bios {
            warnings.push("a BIOS does not start from a disk with sectors of 4,096 bytes".into());
        }
        warnings
    }
}

impl Nic {
    /// Six bytes, of one card: what a manifest has may have been made by anybody.
    fn is_sane(&self) -> bool {
        let bytes: Vec<Option<u8>> = self
            .mac
            .split(':')
            .map(|part| if part.len() == 2 { u8::from_str_radix(part, 16).ok() } else { None })
            .collect();
        bytes.len() == 6
            && bytes.iter().all(Option::is_some)
            && bytes.first().is_some_and(|byte| byte.is_some_and(|b| b & 1 == 0))
    }
}

fn is_file(disk: &DiskImage) -> bool {
    matches!(disk.identity.transport.as_deref(), Some("file" | "loop" | "nbd"))
}

fn of_disk(number: usize, disk: &DiskImage, boots: Option<usize>) -> Disk {
    Disk {
        number,
        size: disk.size,
        sector_size: disk.sector_size,
        boots: boots == Some(number),
        serial: disk.identity.serial.as_deref().map(one_line).filter(|serial| !serial.is_empty()),
    }
}

/// The first disk that something can start from, else the first.
fn boot_disk(manifest: &Manifest) -> Option<usize> {
    let starts = |disk: &DiskImage| starts_by_uefi(disk) || starts_by_bios(disk);
    manifest.disks.iter().position(starts).or(if manifest.disks.is_empty() { None } else { Some(0) })
}

fn starts_by_uefi(disk: &DiskImage) -> bool {
    disk.table.partitions.iter().any(|partition| partition.type_name == "EFI system")
}

/// GRUB's partition for BIOSes, a hybrid MBR, or an active partition of an MBR.
fn starts_by_bios(disk: &DiskImage) -> bool {
    let partitions = || disk.table.partitions.iter();
    match disk.table.kind {
        TableKind::Gpt => partitions().any(|partition| partition.type_name == "BIOS boot"),
        TableKind::HybridMbr => true,
        TableKind::Mbr => partitions().any(|partition| partition.bootable && partition.role != Role::Extended),
        TableKind::None => false,
    }
}

/// What the disks are made for; where that is both or neither, what the captured machine was started by.
fn firmware(manifest: &Manifest, boots: Option<usize>, is_own_machine: bool) -> Firmware {
    let disk = boots.and_then(|number| manifest.disks.get(number));
    let (uefi, bios) = (disk.is_some_and(starts_by_uefi), disk.is_some_and(starts_by_bios));
    let is_uefi = match (uefi, bios) {
        (true, false) => true,
        (false, true) => false,
        _ if is_own_machine => manifest.machine.firmware == machine::Firmware::Uefi,
        (uefi, _) => uefi,
    };
    if is_uefi {
        Firmware::Uefi { secure_boot: is_own_machine && manifest.machine.secure_boot == Some(true) }
    } else {
        Firmware::Bios
    }
}

/// By the disk that the system was started from; AHCI when that tells nothing.
fn controller(manifest: &Manifest, boots: Option<usize>) -> Controller {
    let Some(disk) = boots.and_then(|number| manifest.disks.get(number)) else { return Controller::Sata };
    let by_name = disk.identity.path.to_string_lossy().starts_with("/dev/vd");
    match disk.identity.transport.as_deref() {
        Some("nvme") => Controller::Nvme,
        Some("virtio") if by_name => Controller::VirtioBlk,
        Some("virtio") => Controller::VirtioScsi,
        _ if manifest.disks.iter().any(|disk| disk.sector_size != 512) => Controller::Nvme,
        _ => Controller::Sata,
    }
}

/// The kernel has less than the modules, since the firmware and it keep some.
fn as_built(memory: u64) -> u64 {
    let step = match memory {
        0..GIB => 64 * MIB,
        _ if memory < 4 * GIB => 256 * MIB,
        _ => GIB,
    };
    memory.min(u64::MAX - step).next_multiple_of(step)
}

fn system_of(manifest: &Manifest) -> System {
    let volumes = || manifest.disks.iter().flat_map(|disk| &disk.volumes);
    let types = || manifest.disks.iter().flat_map(|disk| &disk.table.partitions).map(|partition| &*partition.type_name);
    let has_linux = volumes().any(|volume| {
        matches!(&*volume.kind, "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "swap" | "LVM" | "LUKS" | "f2fs" | "zfs")
    }) || types().any(|name| name.starts_with("Linux"));
    let has_windows = volumes().any(|volume| volume.kind.eq_ignore_ascii_case("ntfs"))
        || types().any(|name| name.starts_with("Microsoft reserved"));
    match (has_linux, has_windows) {
        (true, _) => System::Linux,
        (false, true) => System::Windows,
        (false, false) => System::Unknown,
    }
}

fn is_encrypted(manifest: &Manifest, by: &str) -> bool {
    let mut volumes = manifest.disks.iter().flat_map(|disk| &disk.volumes);
    volumes.any(|volume| {
        let said = |note: &Note| matches!(note, Note::ReadWhole { reason } if reason.contains(by));
        volume.kind.contains(by) || volume.notes.iter().any(said)
    })
}

/// Sticks and other removable media start by the file that firmware looks for by itself.
fn has_fallback_hint(manifest: &Manifest) -> bool {
    manifest.disks.iter().any(|disk| disk.identity.removable)
}

/// The image's name, the machine's, or one made of the id.
fn name_of(id: ImageId, manifest: &Manifest) -> String {
    let names = [manifest.name.as_deref(), manifest.machine.hostname.as_deref()];
    let fitting = names.into_iter().flatten().map(plain).find(|name| !name.is_empty());
    fitting.unwrap_or_else(|| format!("image-{}", id.to_string().get(..8).unwrap_or_default()))
}

/// What every hypervisor and file system takes, of a name.
fn plain(name: &str) -> String {
    let mut plain = String::new();
    for c in name.chars() {
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' => plain.push(c),
            _ if plain.ends_with('-') => {}
            _ => plain.push('-'),
        }
    }
    plain.truncate(60);
    plain.trim_matches(|c| matches!(c, '-' | '.')).to_owned()
}

/// Without control characters: it goes into files of lines.
fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect::<String>().trim().to_owned()
}

/// A machine for the tests of whatever describes machines.
#[cfg(test)]
pub(super) fn sample() -> Hardware {
    Hardware {
        name: "web-1".into(),
        description: "web-1, Acme Rocket".into(),
        firmware: Firmware::Uefi { secure_boot: true },
        memory: 8 * GIB,
        cpus: 6,
        controller: Controller::Sata,
        disks: vec![Disk { number: 0, size: GIB, sector_size: 512, boots: true, serial: Some("S1".into()) }],
        nics: vec![Nic { name: "eno1".into(), mac: "00:1b:21:00:00:01".into() }],
        system: System::Linux,
        warnings: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::config::Hex;
    use serde_json::{Value, json};

    fn partition(number: u32, type_name: &str, bootable: bool) -> Value {
        json!({
            "number": number, "start": u64::from(number) << 20, "len": 1 << 20, "role": "primary", "type_id": "x",
            "type_name": type_name, "id": null, "name": null, "attributes": 0, "bootable": bootable
        })
    }

    fn disk(transport: &str, path: &str, kind: &str, partitions: &[Value], volumes: &[&str]) -> Value {
        let volume =
            |kind: &&str| json!({ "start": 1 << 20, "len": 1 << 20, "kind": kind, "block_size": 4096, "used": 1 });
        json!({
            "identity": {
                "path": path, "transport": transport, "serial": "S\n1", "size": 100 << 20, "logical_sector": 512,
                "physical_sector": 512, "removable": false, "read_only": false
            },
            "size": 100 << 20, "sector_size": 512, "all_sectors": false, "unreadable": [], "regions": [],
            "volumes": volumes.iter().map(volume).collect::<Vec<_>>(),
            "table": {
                "kind": kind, "sector_size": 512, "disk_id": null, "warnings": [], "structures": [],
                "partitions": partitions
            },
        })
    }

    fn hardware(firmware: &str, disks: &[Value]) -> Hardware {
        let manifest = json!({
            "version": 1, "tool": "test", "created": "2026-01-02T03:04:05Z", "finished": "2026-01-02T03:05:00Z",
            "machine_id": "unknown",
            "machine": {
                "firmware": firmware, "secure_boot": true, "memory": 8_200_000_000_u64, "cpus": 6,
                "hostname": "web 1/ä\n", "nics": [
                    { "name": "eno1", "mac": "00:1B:21:00:00:01" }, { "name": "bad", "mac": "'; rm -rf /" },
                    { "name": "group", "mac": "01:00:5e:00:00:01" }
                ]
            },
            "disks": disks,
            "stats": { "read": 0, "zero": 0, "known": 0, "new": 0, "stored": 0, "chunks": 0, "new_chunks": 0 },
        });
        let manifest = Manifest::from_json("images/test", manifest.to_string().as_bytes()).unwrap();
        Hardware::of_image(Hex([0xAB; 16]), &manifest)
    }

    #[test]
    fn a_physical_machine_keeps_what_it_had() {
        let esp = [partition(1, "EFI system", false), partition(2, "Linux file system", false)];
        let found = hardware("uefi", &[disk("sata", "/dev/sda", "gpt", &esp, &["vfat", "ext4"])]);
        assert_eq!(found.name, "web-1");
        assert_eq!(found.firmware, Firmware::Uefi { secure_boot: true });
        assert_eq!((found.memory, found.cpus), (8 << 30, 6));
        assert_eq!((found.controller, found.system), (Controller::Sata, System::Linux));
        assert_eq!(found.nics, [Nic { name: "eno1".into(), mac: "00:1b:21:00:00:01".into() }]);
        assert_eq!(found.disks[0].serial.as_deref(), Some("S1"));
        assert_eq!(found.generation(), Generation::Two);
    }

    #[test]
    fn a_disk_image_tells_nothing_of_the_machine_that_captured_it() {
        let found = hardware("uefi", &[disk("file", "/x.img", "mbr", &[partition(1, "NTFS", true)], &["ntfs"])]);
        assert_eq!((found.memory, found.cpus), (MEMORY_DEFAULT, CPUS_DEFAULT));
        assert_eq!(found.firmware, Firmware::Bios);
        assert!(found.nics.is_empty());
        assert_eq!((found.system, found.generation()), (System::Windows, Generation::One));
    }

    #[test]
    fn the_disks_tell_the_firmware_and_the_machine_where_they_take_either() {
        let (esp, grub) = (partition(1, "EFI system", false), partition(2, "BIOS boot", false));
        let of = |firmware, partitions: &[Value]| {
            hardware(firmware, &[disk("sata", "/dev/sda", "gpt", partitions, &[])]).generation()
        };
        assert_eq!(of("bios", std::slice::from_ref(&esp)), Generation::Two);
        assert_eq!(of("uefi", std::slice::from_ref(&grub)), Generation::One);
        assert_eq!(of("bios", &[esp.clone(), grub.clone()]), Generation::One);
        assert_eq!(of("uefi", &[esp, grub]), Generation::Two);
    }

    #[test]
    fn the_machine_starts_from_the_disk_that_can_and_by_the_driver_that_it_used() {
        let boot = disk("nvme", "/dev/nvme0n1", "gpt", &[partition(1, "EFI system", false)], &[]);
        let data = disk("sata", "/dev/sda", "gpt", &[partition(1, "Linux file system", false)], &["ext4"]);
        let found = hardware("uefi", &[data.clone(), boot]);
        assert_eq!(found.disks.iter().map(|disk| disk.boots).collect::<Vec<_>>(), [false, true]);
        assert_eq!(found.controller, Controller::Nvme);
        assert_eq!(hardware("bios", &[disk("virtio", "/dev/vda", "none", &[], &[])]).controller, Controller::VirtioBlk);
        assert_eq!(
            hardware("bios", &[disk("virtio", "/dev/sda", "none", &[], &[])]).controller,
            Controller::VirtioScsi
        );
        let mut large = data;
        large["sector_size"] = json!(4096);
        assert_eq!(hardware("bios", &[large]).controller, Controller::Nvme);
        assert!(hardware("bios", &[]).disks.is_empty());
    }

    #[test]
    fn names_are_plain() {
        for (name, expected) in
            [("web1.example.org", "web1.example.org"), ("../etc; x", "etc-x"), ("äöü", ""), ("-a-", "a")]
        {
            assert_eq!(plain(name), expected);
        }
        assert_eq!(plain(&"a".repeat(500)).len(), 60);
    }
}
