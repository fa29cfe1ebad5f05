//! A Clonezilla directory: what it is, which disks it has, and what it tells of them.
//!
//! Must not know: how volumes are unpacked.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::facts::{self, DiskFacts};
use super::sfdisk::Dump;
use super::table::Kept;
use crate::capture::Owner;
use crate::disk::identity::{Identity, of_new_file};
use crate::error::{Error, Result};
use crate::machine::Firmware;
use crate::read_at::field;

/// What a text file may have: logs of many disks are in some.
const TEXT_BYTES_MAX: u64 = 64 << 20;
/// What the files that hold sectors may have; `hidden_data_after_mbr_limit` is 1 GiB, and nobody raises that.
const SECTORS_BYTES_MAX: u64 = 64 << 20;
/// A disk larger than this is a forged one.
const DISK_BYTES_MAX: u64 = 1 << 60;

/// A directory that Clonezilla made.
pub struct Directory {
    pub(super) path: PathBuf,
    /// Its own name.
    pub(super) name: String,
    /// Names of everything in it.
    pub(super) names: BTreeSet<String>,
    pub(super) disks: Vec<Disk>,
    /// Devices that it says were saved.
    pub(super) saved: BTreeSet<String>,
    /// When it was made.
    pub(super) taken: Option<Timestamp>,
    /// What should be known about all of it.
    pub(super) remarks: Vec<String>,
}

/// A disk in it.
pub(super) struct Disk {
    /// `sda`, `nvme0n1`, `cciss/c0d0`.
    pub(super) name: String,
    pub(super) kept: Kept,
    pub(super) identity: Identity,
}

/// Whether `path` looks like a directory that Clonezilla made.
#[must_use]
pub fn is_directory(path: &Path) -> bool {
    path.is_dir() && (path.join("disk").is_file() || path.join("parts").is_file())
}

/// Reads what a directory tells of itself. Of the disks in it, those in `wanted` are meant; all of them when there are
/// none.
///
/// # Errors
/// [`Error::Usage`] when it is no such directory or cannot be imported, [`Error::Io`].
pub fn open(path: &Path, wanted: &[String]) -> Result<Directory> {
    let path = fs::canonicalize(path).map_err(Error::io("look at", path))?;
    let names = fs::read_dir(&path).map_err(Error::io("list", &path))?;
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut directory =
        Directory { path, name, names, disks: Vec::new(), saved: BTreeSet::new(), taken: None, remarks: Vec::new() };
    directory.check()?;
    directory.saved = words(&directory.text("parts")?.unwrap_or_default());
    directory.taken = directory.time()?;
    for disk in directory.disk_names(wanted)? {
        let disk = directory.disk(disk)?;
        directory.disks.push(disk);
    }
    Ok(directory)
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(|word| word.trim_start_matches("/dev/").to_owned()).collect()
}

impl Directory {
    fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    fn refuse(&self, why: &str) -> Error {
        Error::Usage(format!("{}: {why}", self.path.display()))
    }

    /// Refuses what cannot be imported.
    fn check(&self) -> Result<()> {
        if self.has("ecryptfs.info") {
            return Err(self.refuse(
                "it is encrypted with eCryptfs; Clonezilla's ocs-decrypt-img decrypts it, and what that gives can be imported",
            ));
        }
        if !self.has("disk") && !self.has("parts") {
            return Err(
                self.refuse("it is no directory that Clonezilla made: it has neither a file `disk` nor a file `parts`")
            );
        }
        Ok(())
    }

    /// Which disks are meant.
    fn disk_names(&mut self, wanted: &[String]) -> Result<Vec<String>> {
        let whole: Vec<String> = self
            .text("disk")?
            .unwrap_or_default()
            .split_whitespace()
            .map(|word| word.trim_start_matches("/dev/").to_owned())
            .collect();
        let of_parts: BTreeSet<String> =
            self.names.iter().filter_map(|name| Some(name.strip_suffix("-pt.sf")?.to_owned())).collect();
        if wanted.is_empty() {
            if whole.is_empty() {
                let saved: Vec<&str> = self.saved.iter().map(String::as_str).collect();
                let hint = of_parts.first().map_or(String::new(), |disk| {
                    format!("; `--disk {disk}` imports that disk with them alone, and its other partitions empty")
                });
                return Err(self.refuse(&format!("it holds partitions, not a disk: {}{hint}", saved.join(", "))));
            }
            return Ok(whole);
        }
        for disk in wanted {
            let disk = disk.trim_start_matches("/dev/");
            if whole.iter().any(|name| name == disk) {
                continue;
            }
            if !of_parts.contains(&file_name(disk)) {
                let known: BTreeSet<&str> = whole.iter().chain(&of_parts).map(String::as_str).collect();
                let known: Vec<&str> = known.into_iter().collect();
                return Err(self.refuse(&format!("it has no disk {disk}; it has {}", known.join(", "))));
            }
            self.remarks.push(format!("of {disk}, Clonezilla saved some partitions only; the others are empty here"));
        }
        Ok(wanted.iter().map(|disk| disk.trim_start_matches("/dev/").to_owned()).collect())
    }

    /// A text file, however it is encoded; none when there is none.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>> {
        Ok(self.bytes(name, TEXT_BYTES_MAX)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn bytes(&self, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        if !self.has(name) {
            return Ok(None);
        }
        let path = self.path.join(name);
        // A pipe by that name would be waited for.
        if !fs::metadata(&path).map_err(Error::io("look at", &path))?.is_file() {
            return Err(Error::Usage(format!("{} is not a file", path.display())));
        }
        let file = fs::File::open(&path).map_err(Error::io("open", &path))?;
        let mut bytes = Vec::new();
        file.take(bytes_max).read_to_end(&mut bytes).map_err(Error::io("read", &path))?;
        Ok(Some(bytes))
    }

    fn sectors(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.bytes(name, SECTORS_BYTES_MAX)?.filter(|bytes| bytes.len() >= 512))
    }

    /// When it was made: as its files say, else when the oldest of its tables was last changed.
    fn time(&self) -> Result<Option<Timestamp>> {
        for name in ["clonezilla-img", "Info-dmi.txt", "Info-lshw.txt", "Info-lspci.txt", "Info-smart.txt"] {
            let saved = self.text(name)?.as_deref().and_then(facts::saved);
            if let Some(saved) = saved.filter(|saved| *saved <= Timestamp::now()) {
                return Ok(Some(saved));
            }
        }
        let tables = self.names.iter().filter(|name| name.ends_with("-pt.sf") || name.ends_with("-mbr"));
        let changed = tables.filter_map(|name| fs::metadata(self.path.join(name)).ok()?.modified().ok());
        Ok(changed.min().and_then(|time| Timestamp::try_from(time).ok()).filter(|time| *time <= Timestamp::now()))
    }

    fn disk(&self, name: String) -> Result<Disk> {
        let file = file_name(&name);
        let path = |suffix: &str| format!("{file}-{suffix}");
        let dump = match self.text(&path("pt.sf"))? {
            Some(text) => Some(
                Dump::parse(&text)
                    .map_err(|what| Error::damaged(self.path.join(path("pt.sf")).display().to_string(), 0, what))?,
            ),
            None => None,
        };
        let gpt = self.sectors(&path("gpt-1st"))?;
        let ebr = self.names.iter().find(|name| {
            let number = name.strip_prefix(&file).and_then(|rest| rest.strip_suffix("-ebr"));
            number.is_some_and(|number| {
                !number.is_empty() && number.trim_start_matches('p').bytes().all(|byte| byte.is_ascii_digit())
            })
        });
        let ebr = ebr.map(|name| self.sectors(name)).transpose()?.flatten();
        let kept = Kept {
            mbr: self.sectors(&path("mbr"))?,
            gpt,
            hidden: self.sectors(&path("hidden-data-after-mbr"))?,
            ebr,
            dump,
        };
        let parted = self.text(&path("pt.parted"))?.map(|text| DiskFacts::of_parted(&text)).unwrap_or_default();
        let smart = self.text("Info-smart.txt")?.map(|text| DiskFacts::of_smart(&text, &name)).unwrap_or_default();
        let listed = self.text("blkdev.list")?.map(|text| DiskFacts::of_blkdev(&text, &name)).unwrap_or_default();
        // What parted counted is exact; smartctl's figure may be of a disk that hides some of it.
        let size = parted.size;
        let facts = DiskFacts { size: None, ..smart.clone() }.or(parted).or(listed);
        let sector_size = kept.dump.as_ref().and_then(|dump| dump.sector_size).or(facts.logical_sector).unwrap_or(512);
        let size = disk_bytes(&kept, size.or(smart.size), sector_size)
            .ok_or_else(|| self.refuse(&format!("nothing in it tells how large {name} is")))?;
        if size > DISK_BYTES_MAX {
            return Err(self.refuse(&format!("it says that {name} has {size} bytes, which no disk has")));
        }
        let identity = Identity {
            model: facts.model,
            serial: facts.serial,
            wwn: facts.wwn,
            transport: transport(&name).map(str::to_owned),
            logical_sector: sector_size,
            physical_sector: facts.physical_sector.unwrap_or(sector_size).max(sector_size),
            read_only: true,
            ..of_new_file(self.path.join(&file), size)
        };
        Ok(Disk { name, kept, identity })
    }

    /// What is known of the machine. The same machine, imaged by this program later, has the same id.
    pub(super) fn owner(&self, is_uefi: bool) -> Result<Owner> {
        let dmi = self.text("Info-dmi.txt")?.unwrap_or_default();
        let machine =
            facts::machine(&dmi, is_uefi || self.text("efi-nvram.dat")?.is_some_and(|text| text.contains("Boot")));
        let vendor = machine.vendor.clone().unwrap_or_default();
        let uuid = machine.uuid.as_ref().map(|uuid| format!("uuid {uuid}"));
        let serial = machine.serial.as_ref().map(|serial| format!("serial {vendor} {serial}"));
        let id = uuid.or(serial).unwrap_or_else(|| format!("imported {}", self.name));
        Ok(Owner { machine, id, taken: self.taken, remarks: Vec::new() })
    }

    /// Where an image says that it comes from.
    #[must_use]
    pub fn origin(&self) -> String {
        let when = self.taken.map_or(String::new(), |taken| format!(" of {}", taken.strftime("%Y-%m-%d %H:%M UTC")));
        format!("imported from Clonezilla directory {}{when}", self.name)
    }

    /// Its own name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When it was made, as far as it is known.
    #[must_use]
    pub fn taken(&self) -> Option<Timestamp> {
        self.taken
    }
}

/// How Clonezilla writes the name of a device into those of files.
pub(super) fn file_name(device: &str) -> String {
    let device = device.trim_start_matches("/dev/");
    device.strip_prefix("mapper/").unwrap_or(device).replace('/', "-")
}

/// Size of a disk: as parted counted it, or as large as its table needs.
fn disk_bytes(kept: &Kept, counted: Option<u64>, sector_size: u32) -> Option<u64> {
    let sector = u64::from(sector_size);
    let backup = kept.gpt.as_deref().and_then(|gpt| {
        let header = gpt.get(usize::try_from(sector_size).ok()?..)?;
        let last = if header.starts_with(b"EFI PART") { field::le64(header, 32) } else { None };
        last?.checked_add(1)?.checked_mul(sector)
    });
    let dump = kept.dump.as_ref();
    let ends = dump.into_iter().flat_map(|dump| &dump.partitions).map(|line| line.start.saturating_add(line.size));
    let end = ends.max().map(|end| end.saturating_mul(sector));
    let is_gpt = dump.is_some_and(Dump::is_gpt);
    let usable = dump.and_then(|dump| dump.last_lba).map(|last| last.saturating_add(34).saturating_mul(sector));
    // Room for the backup of a GPT, and an end that is even.
    let needed =
        end.map(|end| end.saturating_add(if is_gpt { 1 << 20 } else { 0 }).div_ceil(1 << 20).saturating_mul(1 << 20));
    let size = counted.or(backup).or(usable).or(needed)?;
    Some(size.max(end.unwrap_or(0)) / sector * sector).filter(|size| *size > 0)
}

fn transport(name: &str) -> Option<&'static str> {
    const BY_NAME: [(&str, &str); 4] = [("nvme", "nvme"), ("mmcblk", "mmc"), ("vd", "virtio"), ("xvd", "xen")];
    BY_NAME.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, transport)| *transport)
}

/// Whether a machine with such partitions is booted by UEFI: with an EFI system partition and none for a BIOS loader.
pub(super) fn firmware_of(types: &[&str]) -> Firmware {
    let has = |id: &str| types.iter().any(|kind| kind.eq_ignore_ascii_case(id));
    let is_efi = has("C12A7328-F81F-11D2-BA4B-00A0C93EC93B") || has("0xef");
    if is_efi && !has("21686148-6449-6E6F-744E-656564454649") { Firmware::Uefi } else { Firmware::Bios }
}
