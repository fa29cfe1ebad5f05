//! What is in the repository, what images need of it, and what should become of each pack.
//!
//! Must not know: how packs are rewritten and deleted.

use std::collections::HashSet;

use super::{Options, Other};
use crate::bulk::map_reader;
use crate::capture::{KnownChunks, short};
use crate::error::Result;
use crate::progress::Progress;
use crate::repo::Repository;
use crate::repo::block_map::{Run, SubtreeContent};
use crate::repo::index::{IndexedPack, Inventory};
use crate::repo::pack::{PackId, SessionId};

pub(super) fn chunks_of(pack: &IndexedPack) -> impl Iterator<Item = u128> + '_ {
    pack.directory.frames.iter().flat_map(|frame| &frame.chunks).map(|chunk| short(chunk.id))
}

/// Every chunk that an image or a linked clone needs, its block maps included.
pub(super) fn needed_chunks(repository: &Repository, progress: &Progress) -> Result<KnownChunks> {
    let (images, damaged) = repository.images()?;
    if let Some((_, error)) = damaged.into_iter().next() {
        // Whatever that image needs is not known, so nothing may go.
        return Err(error);
    }
    // After the images: whoever registers a clone looks afterwards whether its image is there, so that an image that was
    // forgotten before we looked either has its clone here, or never got one.
    let clones = repository.clones()?;
    if let Some((_, error)) = clones.unreadable.into_iter().next() {
        return Err(error);
    }
    let (mut reader, _) = map_reader(repository, &HashSet::new(), &mut |_| Ok(()))?;
    let mut needed = KnownChunks::default();
    // Nodes whose children are known to be needed already.
    let mut entered: HashSet<SubtreeContent> = HashSet::new();
    // Of most clones the image is there: its map is walked once.
    let forgotten = clones.found.iter().filter(|(_, clone)| !images.iter().any(|(id, _)| *id == clone.image));
    let manifests = images.iter().map(|(_, manifest)| manifest).chain(forgotten.map(|(_, clone)| &clone.manifest));
    for manifest in manifests {
        for region in manifest.disks.iter().flat_map(|disk| &disk.regions) {
            progress.check()?;
            let Some(root) = region.root else { continue };
            let mut nodes = KnownChunks::default();
            let walked = reader.walk_into(
                root,
                region.len,
                |tree| {
                    nodes.insert(short(tree.id));
                    entered.insert(tree.content())
                },
                |record| {
                    if let Run::Chunk(id) = record.run {
                        needed.insert(short(id));
                    }
                    Ok(())
                },
            );
            walked?;
            needed.extend(nodes);
        }
    }
    Ok(needed)
}

/// What is in the repository and what becomes of it.
pub(super) struct Survey {
    pub(super) inventory: Inventory,
    pub(super) needed: KnownChunks,
    /// Chunks of packs that stay.
    pub(super) kept: KnownChunks,
    /// Packs that nobody needs.
    pub(super) drop: Vec<PackId>,
    /// Packs of which some is needed.
    pub(super) rewrite: Vec<IndexedPack>,
    pub(super) rewrite_bytes: u64,
    /// Bytes of packs that only an unfinished capture needs.
    pub(super) unfinished: u64,
    pub(super) index_is_tidy: bool,
    /// Packs that stay as they are.
    pub(super) keep: Vec<PackId>,
    /// Packs that cannot be read and may hold what is missing elsewhere.
    pub(super) doubtful: Vec<PackId>,
}

impl Survey {
    pub(super) fn size(&self, id: PackId) -> u64 {
        self.inventory.stored.get(&id).map_or(0, |pack| pack.size)
    }
}

/// Sessions whose packs stay though no image names them: captures that run, or were interrupted lately.
pub(super) fn unfinished_sessions(others: &[Other], options: &Options) -> HashSet<SessionId> {
    let fresh = others.iter().filter(|other| !other.is_prune && (other.is_live || other.age < options.keep_unfinished));
    fresh.map(|other| other.id).collect()
}

/// Looks at everything. Packs that are `doomed` already are another prune's business.
pub(super) fn survey(
    repository: &Repository,
    doomed: &HashSet<PackId>,
    others: &[Other],
    options: &Options,
    progress: &Progress,
) -> Result<Survey> {
    let unfinished_sessions = unfinished_sessions(others, options);
    // The packs are listed before the images: a pack that is needed by an image that comes in between belongs
    // to a session that runs now, or is looked at again before it is deleted.
    let mut packs = Vec::new();
    let mut found = KnownChunks::default();
    let inventory = repository.for_each_pack(&mut |pack| {
        progress.check()?;
        if doomed.contains(&pack.id) {
            found.extend(chunks_of(pack));
        } else {
            packs.push(pack.clone());
        }
        Ok(())
    })?;
    let needed = needed_chunks(repository, progress)?;
    // The first pack that has a needed chunk keeps it; smaller ids first, so that two prunes agree.
    packs.sort_by_key(|pack| pack.id);
    let mut claimed = KnownChunks::default();
    let (mut drop, mut rewrite, mut keep) = (Vec::new(), Vec::new(), Vec::new());
    let (mut unfinished, mut rewrite_bytes) = (0, 0);
    let mut kept = KnownChunks::default();
    for pack in packs {
        let mut live = 0;
        let mut total = 0;
        for frame in &pack.directory.frames {
            let raw: u64 = frame.raw_len.into();
            let wanted: u64 = frame
                .chunks
                .iter()
                .filter(|chunk| needed.contains(&short(chunk.id)) && claimed.insert(short(chunk.id)))
                .map(|chunk| u64::from(chunk.len))
                .sum();
            total += u64::from(frame.stored_len);
            live += (u64::from(frame.stored_len) * wanted).div_ceil(raw.max(1));
        }
        found.extend(chunks_of(&pack));
        if unfinished_sessions.contains(&pack.directory.session) {
            unfinished += if live == 0 { pack.size } else { 0 };
            kept.extend(chunks_of(&pack));
            keep.push(pack.id);
        } else if live == 0 {
            drop.push(pack.id);
        } else if (total - live) * 100 > total * u64::from(options.waste_percent) {
            rewrite_bytes += live;
            rewrite.push(pack);
        } else {
            kept.extend(chunks_of(&pack));
            keep.push(pack.id);
        }
    }
    // Half of a pack that an interrupted job was about to write, unless something is missing.
    let unreadable = inventory.damaged.iter().map(|(id, _)| *id).filter(|id| !doomed.contains(id));
    let mut doubtful: Vec<PackId> = unreadable.collect();
    if needed.is_subset(&found) {
        drop.append(&mut doubtful);
    }
    let index_is_tidy = inventory.unindexed.is_empty()
        && inventory.missing.is_empty()
        && inventory.damaged_index.is_empty()
        && inventory.index_objects.len() <= 8;
    Ok(Survey { inventory, needed, kept, drop, rewrite, rewrite_bytes, unfinished, index_is_tidy, keep, doubtful })
}
