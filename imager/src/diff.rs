//! What changed between two images, per partition.
//!
//! Subtrees of the block maps that both share are not even read. Must not know: terminals.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::bulk::map_reader;
use crate::error::Result;
use crate::extent::{Extent, ExtentSet};
use crate::repo::Repository;
use crate::repo::block_map::{Record, Run};
use crate::repo::manifest::{DiskImage, Manifest, Region};
use crate::repo::reader::ChunkReader;

/// Differences of one disk.
#[derive(Debug, Serialize)]
pub struct DiskDiff {
    /// The disk, by model and serial.
    pub disk: String,
    /// Its number in the older and the newer image; none where it is missing.
    pub numbers: (Option<usize>, Option<usize>),
    /// Whether the partition tables are the same.
    pub same_table: bool,
    /// Differences by partition.
    pub parts: Vec<PartDiff>,
}

/// Differences of one partition, or of what lies outside of them.
#[derive(Debug, Serialize)]
pub struct PartDiff {
    /// Which part, in words.
    pub place: String,
    /// Bytes that both have and that differ.
    pub changed: u64,
    /// Bytes that only the newer image has.
    pub added: u64,
    /// Bytes that only the older image has.
    pub removed: u64,
    /// Bytes in use in the newer image.
    pub used: u64,
}

/// Compares `old` with `new`. Disks are the same when their serial numbers are; of the others, those that have
/// the same place in the list. What differs is counted in whole chunks.
///
/// # Errors
/// Damage in the block maps, what the store says.
pub fn diff(repository: &Repository, old: &Manifest, new: &Manifest) -> Result<Vec<DiskDiff>> {
    let (mut reader, _) = map_reader(repository, &HashSet::new(), &mut |_| Ok(()))?;
    let pairs = pair_disks(old, new);
    pairs
        .into_iter()
        .map(|(before, after)| {
            let old_disk = before.and_then(|number| old.disks.get(number));
            let new_disk = after.and_then(|number| new.disks.get(number));
            let place_in = |manifest: &Manifest, number: Option<usize>, region: &Region| {
                manifest.place(number.unwrap_or(0), region.start)
            };
            let parts = diff_disk(&mut reader, old_disk, new_disk, &|side, region| match side {
                Side::Old => place_in(old, before, region),
                Side::New => place_in(new, after, region),
            })?;
            let same_table =
                old_disk.zip(new_disk).is_some_and(|(old, new)| old.table.partitions == new.table.partitions);
            let disk = new_disk.or(old_disk).map_or_else(String::new, |disk| disk.identity.to_string());
            Ok(DiskDiff { disk, numbers: (before, after), same_table, parts })
        })
        .collect()
}

fn pair_disks(old: &Manifest, new: &Manifest) -> Vec<(Option<usize>, Option<usize>)> {
    let serials = |manifest: &Manifest| -> Vec<Option<String>> {
        manifest.disks.iter().map(|disk| disk.identity.serial.clone()).collect()
    };
    pair(&serials(old), &serials(new))
}

/// Serial numbers first, so that a disk that was added does not take another's partner.
fn pair(old: &[Option<String>], new: &[Option<String>]) -> Vec<(Option<usize>, Option<usize>)> {
    let mut free: Vec<usize> = (0..old.len()).collect();
    let mut take = |fits: &dyn Fn(usize) -> bool| {
        let found = free.iter().position(|other| fits(*other));
        found.map(|position| free.remove(position))
    };
    let by_serial: Vec<Option<usize>> = new
        .iter()
        .map(|serial| take(&|other| serial.is_some() && old.get(other).is_some_and(|found| found == serial)))
        .collect();
    let mut pairs: Vec<_> = by_serial
        .into_iter()
        .enumerate()
        .map(|(number, found)| (found.or_else(|| take(&|other| other == number)), Some(number)))
        .collect();
    pairs.extend(free.into_iter().map(|number| (Some(number), None)));
    pairs
}

/// Which image a region is of.
#[derive(Clone, Copy)]
enum Side {
    Old,
    New,
}

/// Regions are compared by partition; the space outside of partitions by its place.
fn diff_disk(
    reader: &mut ChunkReader<'_>,
    old: Option<&DiskImage>,
    new: Option<&DiskImage>,
    place: &dyn Fn(Side, &Region) -> String,
) -> Result<Vec<PartDiff>> {
    let regions = |disk: Option<&DiskImage>| disk.map(|disk| disk.regions.clone()).unwrap_or_default();
    let (mut before, after) = (regions(old), regions(new));
    let mut parts: Vec<PartDiff> = Vec::new();
    let mut add = |name: String, part: PartDiff| match parts.iter_mut().find(|known| known.place == name) {
        Some(known) => {
            known.changed += part.changed;
            known.added += part.added;
            known.removed += part.removed;
            known.used += part.used;
        }
        None => parts.push(PartDiff { place: name, ..part }),
    };
    for region in &after {
        let same_part = |other: &Region| match region.partition {
            // A partition may have moved; FAT's two regions are told apart by which is which.
            Some(_) => other.partition == region.partition && (other.len == region.len || other.start == region.start),
            None => other.partition.is_none() && other.start == region.start,
        };
        let old = before.iter().position(same_part).map(|position| before.remove(position));
        add(place(Side::New, region), diff_regions(reader, old.as_ref(), Some(region))?);
    }
    for region in &before {
        add(place(Side::Old, region), diff_regions(reader, Some(region), None)?);
    }
    Ok(parts)
}

fn diff_regions(reader: &mut ChunkReader<'_>, old: Option<&Region>, new: Option<&Region>) -> Result<PartDiff> {
    // Nodes of the old map by place, to leave out what both share.
    let nodes: RefCell<HashSet<([u8; 32], u64)>> = RefCell::default();
    if let Some((region, root)) = old.and_then(|region| Some((region, region.root?))) {
        reader.walk_into(root, region.len, |tree| nodes.borrow_mut().insert((tree.id.0, tree.start)), |_| Ok(()))?;
    }
    let mut fresh: Vec<Record> = Vec::new();
    let mut shared: HashSet<([u8; 32], u64)> = HashSet::new();
    let mut used = 0;
    if let Some((region, root)) = new.and_then(|region| Some((region, region.root?))) {
        reader.walk_into(
            root,
            region.len,
            |tree| {
                let both = nodes.borrow().contains(&(tree.id.0, tree.start));
                if both {
                    shared.insert((tree.id.0, tree.start));
                }
                !both
            },
            |record| {
                fresh.push(record);
                Ok(())
            },
        )?;
        reader.walk(root, region.len, |record| {
            if !matches!(record.run, Run::Zero) {
                used += u64::from(record.len);
            }
            Ok(())
        })?;
    }
    let mut stale: Vec<Record> = Vec::new();
    if let Some((region, root)) = old.and_then(|region| Some((region, region.root?))) {
        reader.walk_into(
            root,
            region.len,
            |tree| !shared.contains(&(tree.id.0, tree.start)),
            |record| {
                stale.push(record);
                Ok(())
            },
        )?;
    }
    let same: HashMap<u64, Record> = stale.iter().map(|record| (record.start, *record)).collect();
    let is_same = |record: &Record| same.get(&record.start) == Some(record);
    let differs = |records: &[Record]| -> ExtentSet {
        let equal: HashSet<u64> = fresh.iter().filter(|record| is_same(record)).map(|record| record.start).collect();
        let kept = records.iter().filter(|record| !equal.contains(&record.start));
        kept.map(|record| Extent::new(record.start, record.len.into())).collect()
    };
    let (before, after) = (differs(&stale), differs(&fresh));
    let added = after.minus(&before).total();
    let removed = before.minus(&after).total();
    Ok(PartDiff { place: String::new(), changed: after.total() - added, added, removed, used })
}

#[cfg(test)]
mod tests {
    use super::pair;

    #[test]
    fn disks_find_each_other_by_serial_number_and_then_by_place() {
        let serials =
            |text: &str| -> Vec<Option<String>> { text.chars().map(|c| (c != '-').then(|| c.to_string())).collect() };
        for (old, new, pairs) in [
            ("--", "--", vec![(Some(0), Some(0)), (Some(1), Some(1))]),
            ("AB", "BA", vec![(Some(1), Some(0)), (Some(0), Some(1))]),
            // A new disk in front, an old one gone.
            ("AB", "CA", vec![(None, Some(0)), (Some(0), Some(1)), (Some(1), None)]),
            // The second disk was replaced.
            ("AB", "AC", vec![(Some(0), Some(0)), (Some(1), Some(1))]),
            ("A", "A-", vec![(Some(0), Some(0)), (None, Some(1))]),
        ] {
            assert_eq!(pair(&serials(old), &serials(new)), pairs, "{old} {new}");
        }
    }
}
