//! The few bytes of a captured disk that hold its partition table, read from the repository.

use std::collections::{BTreeMap, HashSet};
use std::io;

use crate::bulk::for_each_run;
use crate::error::Result;
use crate::extent::{Extent, ExtentSet};
use crate::read_at::{ReadAt, check_range};
use crate::repo::Repository;
use crate::repo::block_map::Run;
use crate::repo::manifest::Manifest;
use crate::repo::pack::ChunkId;
use crate::repo::reader::ChunkReader;
use crate::table::{PartitionTable, TableKind};

/// As a disk: what is not of its partition table reads as zeros.
pub(super) struct CapturedBytes {
    size: u64,
    chunks: BTreeMap<u64, Vec<u8>>,
}

impl CapturedBytes {
    /// Reads the chunks that hold the table of disk `disk`.
    pub(super) fn read(
        repository: &Repository,
        manifest: &Manifest,
        disk: usize,
        maps: &mut ChunkReader<'_>,
    ) -> Result<Self> {
        let Some(image) = manifest.disks.get(disk) else { return Ok(Self { size: 0, chunks: BTreeMap::new() }) };
        let places = places_of(&image.table, image.size);
        let mut needed: Vec<(u64, ChunkId)> = Vec::new();
        let touches = |region: usize| {
            let region = image.regions.get(region);
            region.is_some_and(|region| places.intersect(Extent::new(region.start, region.len)).next().is_some())
        };
        for_each_run(manifest, maps, &|d, region| d == disk && touches(region), &mut |run| {
            if let Run::Chunk(id) = run.run
                && places.intersect(Extent::new(run.start, run.len.into())).next().is_some()
            {
                needed.push((run.start, id));
            }
            Ok(())
        })?;
        let ids: HashSet<ChunkId> = needed.iter().map(|(_, id)| *id).collect();
        let mut reader = ChunkReader::new(repository);
        repository.for_each_pack(&mut |pack| {
            reader.add_pack(pack, |_, chunk| ids.contains(&chunk.id));
            Ok(())
        })?;
        let chunks = needed.into_iter().map(|(start, id)| Ok((start, reader.chunk(id)?))).collect::<Result<_>>()?;
        Ok(Self { size: image.size, chunks })
    }
}

/// The bytes that are needed to make a table right. A broken chain of logical partitions can make all of an
/// extended partition part of the table, and nothing there is ever changed.
fn places_of(table: &PartitionTable, size: u64) -> ExtentSet {
    let first = Extent::new(0, u64::from(table.sector_size.max(512)).min(size));
    match table.kind {
        TableKind::Gpt | TableKind::HybridMbr => table.structures.union(&ExtentSet::from_iter([first])),
        TableKind::Mbr | TableKind::None => ExtentSet::from_iter([first]),
    }
}

impl ReadAt for CapturedBytes {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.size)?;
        buf.fill(0);
        let wanted = Extent::new(offset, buf.len() as u64);
        for (&start, bytes) in self.chunks.range(..wanted.end()) {
            let shared = Extent::new(start, bytes.len() as u64).intersection(wanted);
            let range = |from: u64| -> Option<std::ops::Range<usize>> {
                let first = usize::try_from(shared.start.checked_sub(from)?).ok()?;
                Some(first..first.checked_add(usize::try_from(shared.len).ok()?)?)
            };
            if let (false, Some(to), Some(of)) = (shared.is_empty(), range(offset), range(start))
                && let (Some(to), Some(of)) = (buf.get_mut(to), bytes.get(of))
            {
                to.copy_from_slice(of);
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_mbr_only_the_first_sector_is_needed() {
        let table = |kind| PartitionTable {
            kind,
            sector_size: 4096,
            disk_id: None,
            partitions: Vec::new(),
            structures: [Extent::new(0, 8192), Extent::new(1 << 20, 1 << 40)].into_iter().collect(),
            warnings: Vec::new(),
        };
        let first = [Extent::new(0, 4096)];
        assert_eq!(places_of(&table(TableKind::Mbr), 1 << 41).as_slice(), first);
        assert_eq!(places_of(&table(TableKind::None), 1 << 41).as_slice(), first);
        let gpt = table(TableKind::Gpt);
        assert_eq!(places_of(&gpt, 1 << 41), gpt.structures);
    }
}
