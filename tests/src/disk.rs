//! Disk images with partition tables: made by sfdisk, read back by sfdisk.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::tool;

/// The unit of every size in a layout.
pub const MIB: u64 = 1 << 20;

/// Where a partition lies, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// First byte.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
}

/// Which partition table a disk gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// GUID partition table.
    Gpt,
    /// Master boot record.
    Mbr,
}

/// One partition to be made. The first starts at 1 MiB, each next where the one before it ends.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its name, where the table has names.
    pub name: &'a str,
    /// sfdisk's name for its type: `linux`, `uefi`, `swap`, a GUID, a hexadecimal number.
    pub kind: &'a str,
    /// Its size.
    pub mib: u64,
}

/// A disk image and its partitions, in the table's order.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The image file.
    pub image: PathBuf,
    /// Where its partitions are.
    pub partitions: Vec<Partition>,
}

impl Disk {
    /// Makes a sparse image of `mib` MiB with a table and partitions.
    ///
    /// # Errors
    /// When the file cannot be made or sfdisk refuses the layout.
    pub fn create(image: &Path, mib: u64, table: Table, wanted: &[Wanted]) -> Result<Self> {
        sparse_file(image, mib * MIB)?;
        let mut script = match table {
            Table::Gpt => "label: gpt\n".to_owned(),
            Table::Mbr => "label: dos\n".to_owned(),
        };
        let mut start = 1;
        for (index, Wanted { name, kind, mib }) in wanted.iter().enumerate() {
            let extra = match table {
                Table::Gpt => format!("name=\"{name}\""),
                Table::Mbr if index == 0 => "bootable".to_owned(),
                Table::Mbr => String::new(),
            };
            script += &format!("start={start}MiB, size={mib}MiB, type={kind}, {extra}\n");
            start += mib;
        }
        tool::sh(
            "sfdisk --quiet --wipe always \"$image\" <<< \"$script\"",
            &[("image", image.as_os_str()), ("script", script.as_ref())],
        )?;
        Self::open(image)
    }

    /// Reads the table of an image.
    ///
    /// # Errors
    /// When it has none that sfdisk understands.
    pub fn open(image: &Path) -> Result<Self> {
        let table: Value = serde_json::from_str(&tool::run("sfdisk", ["--json".as_ref(), image.as_os_str()])?)?;
        let table = &table["partitiontable"];
        let sector = table["sectorsize"].as_u64().unwrap_or(512);
        let Some(entries) = table["partitions"].as_array() else { bail!("{} has no partitions", image.display()) };
        let bytes = |entry: &Value, field: &str| entry[field].as_u64().map(|sectors| sectors * sector);
        let partitions = entries
            .iter()
            .map(|entry| Some(Partition { start: bytes(entry, "start")?, len: bytes(entry, "size")? }))
            .collect::<Option<_>>()
            .with_context(|| format!("sfdisk's list of {} lacks a start or a size", image.display()))?;
        Ok(Self { image: image.to_owned(), partitions })
    }

    /// The partition with this number, counted from 1 as people do.
    ///
    /// # Errors
    /// When there is no such partition.
    pub fn partition(&self, number: usize) -> Result<&Partition> {
        let found = number.checked_sub(1).and_then(|index| self.partitions.get(index));
        found.with_context(|| format!("{} has no partition {number}", self.image.display()))
    }

    /// How mtools is told of a FAT partition in an image: it needs no kernel support and no loop device.
    ///
    /// # Errors
    /// When there is no such partition.
    pub fn mtools_name(&self, number: usize) -> Result<String> {
        Ok(format!("{}@@{}", self.image.display(), self.partition(number)?.start))
    }
}

/// Makes a sparse file; one that was there before is gone.
///
/// # Errors
/// When it cannot be made.
pub fn sparse_file(path: &Path, size: u64) -> Result<()> {
    let made = File::create(path).and_then(|file| file.set_len(size));
    made.with_context(|| format!("cannot make {}", path.display()))
}
