//! What the text files of a Clonezilla directory tell of the machine, its disks and the time.
//!
//! Everything here may be absent, or in words of tomorrow; then it is not known. Must not know: files, volumes.
//!
//! Sources: what `parted -s DISK unit s print`, `smartctl -a`, `lsblk -o KNAME,NAME,SIZE,TYPE,FSTYPE,MOUNTPOINT,MODEL`
//! and `dmidecode` print; `ocs-functions` of Clonezilla 5 for the lines that say when.

#![forbid(unsafe_code)]

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

use crate::machine::{Firmware, Machine};

/// What is known of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DiskFacts {
    pub(super) model: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) wwn: Option<String>,
    pub(super) size: Option<u64>,
    pub(super) logical_sector: Option<u32>,
    pub(super) physical_sector: Option<u32>,
}

impl DiskFacts {
    /// What either knows; the first is asked first.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            model: self.model.or(other.model),
            serial: self.serial.or(other.serial),
            wwn: self.wwn.or(other.wwn),
            size: self.size.or(other.size),
            logical_sector: self.logical_sector.or(other.logical_sector),
            physical_sector: self.physical_sector.or(other.physical_sector),
        }
    }

    /// From `<disk>-pt.parted`.
    pub(super) fn of_parted(text: &str) -> Self {
        let mut facts = Self::default();
        let mut sectors = None;
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match key.trim() {
                "Model" => {
                    // "ATA Samsung SSD 860 (scsi)"
                    let model = value.rsplit_once(" (").map_or(value, |(model, _)| model);
                    let model = model.strip_prefix("ATA ").unwrap_or(model).trim();
                    facts.model = Some(model.to_owned()).filter(|model| !matches!(model.as_str(), "" | "Unknown"));
                }
                "Sector size (logical/physical)" => {
                    let mut sizes = value.split('/').map(|size| size.trim().trim_end_matches('B').parse().ok());
                    facts.logical_sector = sizes.next().flatten().filter(|size| is_sector_size(*size));
                    facts.physical_sector = sizes.next().flatten().filter(|size| is_sector_size(*size));
                }
                key if key.starts_with("Disk /dev/") => {
                    sectors = value.strip_suffix('s').and_then(|value| value.parse::<u64>().ok())
                }
                _ => {}
            }
        }
        facts.size = sectors.and_then(|sectors| sectors.checked_mul(facts.logical_sector.unwrap_or(512).into()));
        facts
    }

    /// From `Info-smart.txt`, the part of `disk`.
    pub(super) fn of_smart(text: &str, disk: &str) -> Self {
        let mut facts = Self::default();
        let mut is_ours = false;
        for line in text.lines() {
            if let Some(drive) = line.strip_prefix("For the drive: /dev/") {
                is_ours = drive.trim() == disk;
            }
            let Some((key, value)) = line.split_once(':').filter(|_| is_ours) else { continue };
            let value = value.trim();
            let text = || Some(value.to_owned()).filter(|value| !value.is_empty());
            match key.trim() {
                "Device Model" | "Model Number" | "Product" => facts.model = text(),
                "Serial Number" | "Serial number" => facts.serial = text(),
                "LU WWN Device Id" => {
                    let digits: String = value.split_whitespace().collect();
                    let is_hex = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                    facts.wwn = is_hex.then(|| format!("0x{}", digits.to_lowercase()));
                }
                "User Capacity" | "Namespace 1 Size/Capacity" | "Total NVM Capacity" => {
                    let digits: String = value
                        .chars()
                        .take_while(|c| c.is_ascii_digit() || matches!(c, ',' | '.' | '\''))
                        .filter(char::is_ascii_digit)
                        .collect();
                    facts.size = facts.size.or(digits.parse().ok().filter(|size| *size > 0));
                }
                _ => {}
            }
        }
        facts
    }

    /// From `blkdev.list`, the line of `disk`. Its columns are where its first line has their names.
    pub(super) fn of_blkdev(text: &str, disk: &str) -> Self {
        let mut lines = text.lines();
        let column = lines.next().and_then(|line| line.find("MODEL"));
        let line = lines.find(|line| line.split_whitespace().next() == Some(disk));
        // Characters, not bytes: the tree is drawn with some of several bytes, but not in the lines of disks.
        let model = column.zip(line).and_then(|(column, line)| line.get(column..)).map(str::trim);
        Self { model: model.filter(|model| !model.is_empty()).map(|model| model.replace('_', " ")), ..Self::default() }
    }
}

fn is_sector_size(size: u32) -> bool {
    size.is_power_of_two() && (512..=65_536).contains(&size)
}

/// What `dmidecode` says of the machine, and `is_uefi` of its firmware.
pub(super) fn machine(dmi: &str, is_uefi: bool) -> Machine {
    let mut machine = Machine::unknown(if is_uefi { Firmware::Uefi } else { Firmware::Bios });
    let (mut board_serial, mut threads, mut memory) = (None, 0u32, 0u64);
    let mut section = "";
    for line in dmi.lines() {
        if !line.starts_with(char::is_whitespace) {
            section = line.trim();
            continue;
        }
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        let text = || Some(value.to_owned()).filter(|text| !crate::machine::is_placeholder(text));
        match (section, key.trim()) {
            ("System Information", "Manufacturer") => machine.vendor = text(),
            ("System Information", "Product Name") => machine.product = text(),
            ("System Information", "Serial Number") => machine.serial = text(),
            ("System Information", "UUID") => {
                machine.uuid = text().map(|uuid| uuid.to_lowercase()).filter(|uuid| crate::machine::is_sane(uuid));
            }
            ("Base Board Information", "Serial Number") => board_serial = board_serial.or_else(text),
            ("Processor Information", "Version") => machine.cpu_model = machine.cpu_model.take().or_else(text),
            ("Processor Information", "Thread Count") => threads = threads.saturating_add(value.parse().unwrap_or(0)),
            ("Memory Device", "Size") => memory = memory.saturating_add(bytes_of(value)),
            _ => {}
        }
    }
    machine.serial = machine.serial.or(board_serial);
    machine.memory = memory;
    machine.cpus = threads.max(1);
    machine
}

/// `8 GB`, `8192 MB`.
fn bytes_of(words: &str) -> u64 {
    let Some((number, unit)) = words.split_once(' ') else { return 0 };
    let unit = match unit {
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1u64 << 40,
        _ => 0,
    };
    number.parse::<u64>().unwrap_or(0).saturating_mul(unit)
}

/// When the directory was made, as a line of `clonezilla-img` or of an `Info-` file says.
///
/// The former names the zone, but by letters that may mean several; those and the latter, which names none, are taken
/// as UTC, which is what Clonezilla's own system runs on unless it is told otherwise.
pub(super) fn saved(text: &str) -> Option<Timestamp> {
    text.lines().take(4).find_map(|line| {
        if let Some((_, when)) = line.split_once("saved by Clonezilla at ") {
            let mut words = when.trim().trim_end_matches('.').split_whitespace();
            let time: DateTime = format!("{}T{}", words.next()?, words.next()?).parse().ok()?;
            let hours = words.next().and_then(|zone| zone.parse::<i8>().ok());
            let zone = hours.and_then(|hours| Offset::from_hours(hours).ok()).unwrap_or(Offset::UTC);
            return time.to_zoned(TimeZone::fixed(zone)).ok().map(|time| time.timestamp());
        }
        // "… info at 2023-0501-1020:"
        let (_, when) = line.rsplit_once(" at ")?;
        let time = DateTime::strptime("%Y-%m%d-%H%M", when.trim().trim_end_matches(':')).ok()?;
        time.to_zoned(TimeZone::UTC).ok().map(|time| time.timestamp())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_described_by_several_files() {
        let parted = DiskFacts::of_parted(
            "Model: ATA Samsung SSD 860 (scsi)\nDisk /dev/sda: 976773168s\nSector size (logical/physical): 512B/4096B\n\
             Partition Table: gpt\nDisk Flags: \n",
        );
        assert_eq!(parted.model.as_deref(), Some("Samsung SSD 860"));
        assert_eq!((parted.size, parted.physical_sector), (Some(976_773_168 * 512), Some(4096)));
        let smart = "For the drive: /dev/sdb\nSerial Number:    OTHER\nFor the drive: /dev/sda\n\
             Device Model:     Samsung SSD 860 EVO 500GB\nSerial Number:    S3Z1NB0K\nLU WWN Device Id: 5 002538 e40a1b2c3\n\
             User Capacity:    500,107,862,016 bytes [500 GB]\n";
        let facts = DiskFacts::of_smart(smart, "sda").or(parted);
        assert_eq!(facts.model.as_deref(), Some("Samsung SSD 860 EVO 500GB"));
        assert_eq!(facts.serial.as_deref(), Some("S3Z1NB0K"));
        assert_eq!(facts.wwn.as_deref(), Some("0x5002538e40a1b2c3"));
        assert_eq!(facts.size, Some(500_107_862_016));
        assert_eq!(DiskFacts::of_smart(smart, "sdc"), DiskFacts::default());
        let list = "KNAME NAME    SIZE TYPE FSTYPE MOUNTPOINT MODEL\nsda   sda      20G disk                   QEMU_HARDDISK\n\
             sda1  ├─sda1  512M part vfat                   \n";
        assert_eq!(DiskFacts::of_blkdev(list, "sda").model.as_deref(), Some("QEMU HARDDISK"));
        assert_eq!(DiskFacts::of_blkdev(list, "sdb").model, None);
    }

    #[test]
    fn a_machine_is_described_by_dmidecode() {
        let found = machine(
            "# dmidecode 3.4\nHandle 0x0001, DMI type 1, 27 bytes\nSystem Information\n\tManufacturer: Acme Inc.\n\tProduct Name: Rocket 9\n\
             \tSerial Number: To be filled by O.E.M.\n\tUUID: 12345678-9ABC-DEF0-1234-56789ABCDEF0\n\n\
             Base Board Information\n\tManufacturer: Other\n\tSerial Number: B-7\n\n\
             Processor Information\n\tVersion: Fast CPU\n\tThread Count: 8\n\n\
             Memory Device\n\tSize: 8 GB\n\nMemory Device\n\tSize: 4096 MB\n\nMemory Device\n\tSize: No Module Installed\n",
            true,
        );
        assert_eq!((found.vendor.as_deref(), found.product.as_deref()), (Some("Acme Inc."), Some("Rocket 9")));
        assert_eq!(
            (found.serial.as_deref(), found.uuid.as_deref()),
            (Some("B-7"), Some("12345678-9abc-def0-1234-56789abcdef0"))
        );
        assert_eq!((found.memory, found.cpus, found.firmware), (12 << 30, 8, Firmware::Uefi));
        let nothing = machine("", false);
        assert_eq!((nothing.uuid, nothing.memory, nothing.cpus), (None, 0, 1));
    }

    #[test]
    fn the_time_is_in_several_files() {
        let at = |text: &str| saved(text).map(|time| time.to_string());
        assert_eq!(
            at("This image was saved by Clonezilla at 2023-05-01 10:20:30 UTC.\nmore").as_deref(),
            Some("2023-05-01T10:20:30Z")
        );
        assert_eq!(
            at("This image was saved by Clonezilla at 2023-05-01 10:20:30 +03.").as_deref(),
            Some("2023-05-01T07:20:30Z")
        );
        assert_eq!(
            at("This image was saved by Clonezilla at 2023-05-01 10:20:30 CEST.").as_deref(),
            Some("2023-05-01T10:20:30Z")
        );
        assert_eq!(
            at("This image was saved from this machine with DMI info at 2023-0501-1020:\n").as_deref(),
            Some("2023-05-01T10:20:00Z")
        );
        assert_eq!(at("nothing at all"), None);
        assert_eq!(at(""), None);
    }
}
