//! The parsers of what lies in a directory beside the volumes, one by one, for the fuzz targets: an import comes to them
//! only by way of files.
//!
//! Must not know: files, directories.

#![forbid(unsafe_code)]

use super::disk::Assembled;
use super::facts::{self, DiskFacts};
use super::lvm::Group;
use super::sfdisk::Dump;
use super::swap::Swap;
use super::table::{self, Kept};
use crate::disk::identity::of_new_file;
use crate::extent::Extent;
use crate::read_at::ReadAt;
use crate::table::PartitionTable;

/// What was kept of a partition table.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeptTable<'a> {
    /// The dump of sfdisk.
    pub dump: Option<&'a str>,
    /// The first sector.
    pub mbr: Option<&'a [u8]>,
    /// The first sectors of a GPT disk.
    pub gpt: Option<&'a [u8]>,
    /// What follows the first sector.
    pub hidden: Option<&'a [u8]>,
    /// The first sector of the extended partition.
    pub ebr: Option<&'a [u8]>,
}

/// A disk of `size` bytes with the table that was kept, and that table.
///
/// # Errors
/// In words.
pub fn lay(kept: &KeptTable<'_>, size: u64, sector_size: u32) -> Result<(impl ReadAt + use<>, PartitionTable), String> {
    let kept = Kept {
        dump: kept.dump.map(Dump::parse).transpose()?,
        mbr: kept.mbr.map(<[u8]>::to_vec),
        gpt: kept.gpt.map(<[u8]>::to_vec),
        hidden: kept.hidden.map(<[u8]>::to_vec),
        ebr: kept.ebr.map(<[u8]>::to_vec),
    };
    let mut disk = Assembled::new(of_new_file("disk".into(), size));
    let (table, _) = table::lay(&mut disk, &kept, sector_size)?;
    Ok((disk, table))
}

/// Everything that is known of a disk and of a machine from `text`, whichever file it is of: for people.
#[must_use]
pub fn facts(text: &str, disk: &str) -> String {
    let disks = [DiskFacts::of_parted(text), DiskFacts::of_smart(text, disk), DiskFacts::of_blkdev(text, disk)];
    format!("{disks:?} {:?} {:?}", facts::machine(text, true), facts::saved(text))
}

/// A run of a logical volume: which bytes of that; the number of the physical volume, and where on it.
pub type Run = (Extent, usize, u64);

/// A volume group.
pub struct VolumeGroup {
    /// Of each logical volume, its bytes and its runs.
    pub logical: Vec<(u64, Vec<Run>)>,
    /// How many physical volumes there are.
    pub physical: usize,
    /// What the first of them begin with.
    pub beginnings: Vec<Result<Vec<u8>, String>>,
}

/// The volume group `name`, each of whose physical volumes has `len` bytes.
///
/// # Errors
/// In words.
pub fn volume_group(name: &str, text: &str, len: u64) -> Result<VolumeGroup, String> {
    const BEGINNINGS: usize = 4;
    let group = Group::parse(name, text)?;
    let logical = group.logical.iter().map(|volume| {
        let runs = volume.segments.iter().map(|segment| (segment.place, segment.physical, segment.start));
        (volume.bytes, runs.collect())
    });
    let physical = group.physical.len();
    let beginnings = (0..physical.min(BEGINNINGS)).map(|number| group.begin(number, len)).collect();
    Ok(VolumeGroup { logical: logical.collect(), physical, beginnings })
}

/// The first page of the swap space of `len` bytes that `text` tells of.
#[must_use]
pub fn swap_header(text: &str, len: u64) -> Option<Vec<u8>> {
    Swap::parse(text).header(len)
}
