//! What one image leads to: the frames that its chunks are in, and the places that bad chunks hurt.
//!
//! A block map may name one node many times: each is gone into once, so that the time this takes depends on what is
//! stored, not on what somebody claims. Must not know: how frames are checked.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{Hurt, Report};
use crate::bulk::{ReadPlan, Want, map_reader};
use crate::capture::short;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::memory::Budget;
use crate::progress::Progress;
use crate::repo::Repository;
use crate::repo::block_map::{Record, Run, Subtree, SubtreeContent, Visitor, walk};
use crate::repo::manifest::{Manifest, Region};
use crate::repo::pack::{ChunkId, PackId};
use crate::repo::reader::ChunkReader;

/// Bad chunks of a region whose places are told one by one; behind them its whole rest counts as hurt. A forged block
/// map may name one chunk more often than anybody can count.
const HURT_CHUNKS_MAX: usize = 1 << 20;

/// An image to be looked at. Packs in `excluded` count as not there.
pub(super) struct Image<'a> {
    pub(super) repository: &'a Arc<Repository>,
    pub(super) manifest: &'a Manifest,
    pub(super) excluded: &'a HashSet<PackId>,
    pub(super) memory: Budget,
    pub(super) progress: &'a Progress,
}

impl Image<'_> {
    /// The numbers of disk and region of every block map.
    fn regions(&self) -> impl Iterator<Item = ((usize, usize), &Region)> {
        let disks = self.manifest.disks.iter().enumerate();
        disks.flat_map(|(disk, image)| {
            image.regions.iter().enumerate().map(move |(number, region)| ((disk, number), region))
        })
    }

    /// Plans the reading of every chunk, in portions that fit into memory. Wants have no places. A block map that
    /// cannot be read goes to the report, and the numbers of its disk and region are given back.
    pub(super) fn for_each_plan(
        &self,
        report: &mut Report,
        visit: &mut dyn FnMut(&ReadPlan) -> Result<()>,
    ) -> Result<HashSet<(usize, usize)>> {
        let (mut reader, _) = map_reader(self.repository, self.excluded, &mut |_| Ok(()))?;
        let mut known = HashSet::new();
        let mut broken = HashSet::new();
        let mut wants = Vec::new();
        for (numbers, region) in self.regions() {
            let Some(root) = region.root else { continue };
            let mut record = |record: Record| {
                let Run::Chunk(id) = record.run else { return Ok(()) };
                wants.push(Want { chunk: short(id), place: 0, len: record.len });
                if wants.len() < self.memory.planned_chunks_max() {
                    return Ok(());
                }
                self.progress.check()?;
                // Chunks that a disk has often are planned once; only what is left of the room decides.
                wants.sort_unstable();
                wants.dedup();
                if wants.len() < self.memory.planned_chunks_max() / 2 {
                    return Ok(());
                }
                visit(&ReadPlan::new(self.repository, std::mem::take(&mut wants), self.excluded)?)
            };
            let mut once = Once { reader: &mut reader, known: &mut known, record: &mut record };
            match walk(root, region.len, &mut once) {
                Ok(()) => {}
                Err(error @ (Error::Damaged { .. } | Error::Missing { .. })) => {
                    match &error {
                        Error::Missing { .. } => report.missing_chunks += 1,
                        _ => report.damaged_chunks += 1,
                    }
                    report.object(&error);
                    broken.insert(numbers);
                }
                Err(error) => return Err(error),
            }
        }
        visit(&ReadPlan::new(self.repository, wants, self.excluded)?)?;
        Ok(broken)
    }

    /// Where the chunks that are `bad` would lie, by disk and partition; of the regions in `broken`, everything.
    pub(super) fn hurts(&self, broken: &HashSet<(usize, usize)>, bad: [&HashSet<u128>; 2]) -> Result<Vec<Hurt>> {
        if broken.is_empty() && bad.iter().all(|chunks| chunks.is_empty()) {
            return Ok(Vec::new());
        }
        let (mut reader, _) = map_reader(self.repository, self.excluded, &mut |_| Ok(()))?;
        let mut sound = HashSet::new();
        let mut places: BTreeMap<(usize, String), Vec<Extent>> = BTreeMap::new();
        for (numbers, region) in self.regions() {
            let whole = Extent::new(region.start, region.len);
            let extents = match region.root {
                None => continue,
                Some(_) if broken.contains(&numbers) => vec![whole],
                Some(root) => {
                    let mut find = FindHurt::new(&mut reader, &mut sound, bad);
                    walk(root, region.len, &mut find)?;
                    let rest = find.rest.map(|start| Extent::between(start, region.len));
                    let extents = find.extents.into_iter().chain(rest);
                    extents.map(|extent| Extent::new(region.start + extent.start, extent.len)).collect()
                }
            };
            for extent in extents {
                let place = (numbers.0, self.manifest.place(numbers.0, extent.start));
                places.entry(place).or_default().push(extent);
            }
        }
        let mut hurts: Vec<(usize, Hurt)> = places
            .into_iter()
            .map(|((disk, place), extents)| {
                let hurt = Hurt {
                    image: None,
                    machine: self.manifest.machine_words(),
                    disk: self.manifest.disks.get(disk).map_or_else(String::new, |disk| disk.identity.to_string()),
                    place,
                    extents,
                };
                (disk, hurt)
            })
            .collect();
        hurts.sort_by_key(|(disk, hurt)| (*disk, hurt.extents.first().copied()));
        Ok(hurts.into_iter().map(|(_, hurt)| hurt).collect())
    }
}

/// Visits the records of every subtree once, in however many places it is. One that could not be read to its end
/// does not count.
struct Once<'a, 'r> {
    reader: &'a mut ChunkReader<'r>,
    known: &'a mut HashSet<SubtreeContent>,
    record: &'a mut dyn FnMut(Record) -> Result<()>,
}

impl Visitor for Once<'_, '_> {
    fn fetch(&mut self, id: ChunkId) -> Result<Vec<u8>> {
        self.reader.chunk(id)
    }

    fn enter(&mut self, subtree: Subtree) -> bool {
        !self.known.contains(&subtree.content())
    }

    fn leave(&mut self, subtree: Subtree) {
        self.known.insert(subtree.content());
    }

    fn record(&mut self, record: Record) -> Result<()> {
        (self.record)(record)
    }
}

/// Finds the places of bad chunks. A subtree that has none is gone into once.
struct FindHurt<'a, 'r> {
    reader: &'a mut ChunkReader<'r>,
    sound: &'a mut HashSet<SubtreeContent>,
    bad: [&'a HashSet<u128>; 2],
    /// For each subtree that the walk is in, whether it has bad chunks.
    hit: Vec<bool>,
    /// Ascending, neighbours joined.
    extents: Vec<Extent>,
    chunks: usize,
    /// From here on everything counts as hurt.
    rest: Option<u64>,
}

impl<'a, 'r> FindHurt<'a, 'r> {
    fn new(
        reader: &'a mut ChunkReader<'r>,
        sound: &'a mut HashSet<SubtreeContent>,
        bad: [&'a HashSet<u128>; 2],
    ) -> Self {
        Self { reader, sound, bad, hit: Vec::new(), extents: Vec::new(), chunks: 0, rest: None }
    }
}

impl Visitor for FindHurt<'_, '_> {
    fn fetch(&mut self, id: ChunkId) -> Result<Vec<u8>> {
        self.reader.chunk(id)
    }

    fn enter(&mut self, subtree: Subtree) -> bool {
        let enters = self.rest.is_none() && !self.sound.contains(&subtree.content());
        if enters {
            self.hit.push(false);
        }
        enters
    }

    fn leave(&mut self, subtree: Subtree) {
        if self.hit.pop() == Some(true) {
            if let Some(above) = self.hit.last_mut() {
                *above = true;
            }
        } else if self.rest.is_none() {
            self.sound.insert(subtree.content());
        }
    }

    fn record(&mut self, record: Record) -> Result<()> {
        let is_bad = |id| self.bad.iter().any(|chunks| chunks.contains(&short(id)));
        let is_bad = matches!(record.run, Run::Chunk(id) if is_bad(id));
        if !is_bad || self.rest.is_some() {
            return Ok(());
        }
        if let Some(hit) = self.hit.last_mut() {
            *hit = true;
        }
        self.chunks += 1;
        match self.extents.last_mut() {
            _ if self.chunks > HURT_CHUNKS_MAX => self.rest = Some(record.start),
            Some(last) if last.end() == record.start => last.len += u64::from(record.len),
            _ => self.extents.push(Extent::new(record.start, record.len.into())),
        }
        Ok(())
    }
}
