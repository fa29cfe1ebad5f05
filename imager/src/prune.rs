//! Freeing the space that no image needs, beside running captures and readers.
//!
//! First whatever is worth keeping of half-empty packs is written to new packs and indexed. Then the old packs
//! are doomed: their names are written to the store, where captures that begin later see them. Then the prune
//! looks for captures that are running. If there are none, it looks once more whether an image has come that
//! needs a doomed pack, and deletes; else a later prune does so. Killed at any point, the next one goes on.
//! `repo/session.rs` says why nothing gets lost. Must not know: terminals.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::bulk::map_reader;
use crate::capture::{KnownChunks, short};
use crate::error::{Error, Result};
use crate::progress::{Phase, Progress};
use crate::repo::Repository;
use crate::repo::block_map::Run;
use crate::repo::config::FORMAT_VERSION;
use crate::repo::frame;
use crate::repo::index::{IndexedPack, Inventory};
use crate::repo::object::Kind;
use crate::repo::pack::{
    ChunkEntry, CodedFrame, Content, FrameEntry, Pack, PackBuilder, PackId, RawFrame, SessionId, object_name,
};
use crate::repo::session::{Doomed, FoundSession, STALE_AFTER, Session, Work};

/// How much a prune does.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A pack is rewritten when more than so many percent of it are not needed.
    pub waste_percent: u8,
    /// What interrupted captures left is kept so long, for the next capture to go on from.
    pub keep_unfinished: SignedDuration,
    /// Whether to say only what would be done.
    pub dry_run: DryRun,
    /// Size of new packs.
    pub pack_bytes: u64,
    /// How hard to compress what is compressed anew.
    pub level: i32,
}

/// Whether anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DryRun {
    /// Nothing is.
    Yes,
    /// It is.
    No,
}

/// What a prune did, in bytes unless said otherwise.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pruned {
    /// Size of all packs before.
    pub before: u64,
    /// Freed now.
    pub freed: u64,
    /// Written to new packs, to free more.
    pub rewritten: u64,
    /// To be freed by the next prune, after the captures that run now.
    pub waiting: u64,
    /// Left by interrupted captures, kept for the next one.
    pub unfinished: u64,
    /// Number of packs deleted.
    pub packs_deleted: usize,
    /// Captures that are waited for.
    pub waits_for: Vec<String>,
    /// What should be known.
    pub warnings: Vec<String>,
}

/// Frees what no image needs.
///
/// # Errors
/// [`Error::Busy`] when another prune is running; [`Error::Damaged`] when it cannot be known what images need,
/// in which case nothing is deleted; what the store says.
pub fn prune(repository: &Arc<Repository>, options: &Options, progress: &Progress) -> Result<Pruned> {
    progress.begin(Phase::Planning, 0);
    let mut pruned = Pruned::default();
    let host = crate::machine::this_machine().hostname.unwrap_or_default();
    let session = Session::start(repository, Work::Prune, &host)?;
    let result = prune_as(repository, &session, options, progress, &mut pruned);
    // A prune that failed leaves nothing that its session would protect.
    session.end()?;
    result.map(|()| pruned)
}

fn prune_as(
    repository: &Arc<Repository>,
    session: &Session,
    options: &Options,
    progress: &Progress,
    pruned: &mut Pruned,
) -> Result<()> {
    let now = store_time(repository, session)?;
    let others = other_sessions(repository, session, now)?;
    if let Some(other) = others.iter().find(|other| other.is_prune && other.is_live) {
        return Err(Error::Busy(format!("another prune is running on {}", other.host)));
    }
    finish_earlier(repository, &others, options, progress, pruned)?;
    let doomed: HashSet<PackId> = repository.doomed()?.into_iter().flat_map(|(_, list)| list.packs).collect();
    let survey = survey(repository, &doomed, &others, options, progress)?;
    pruned.before = survey.inventory.stored.values().map(|pack| pack.size).sum();
    pruned.unfinished = survey.unfinished;
    let gain: u64 =
        survey.drop.iter().chain(survey.rewrite.iter().map(|pack| &pack.id)).map(|id| survey.size(*id)).sum();
    if options.dry_run == DryRun::Yes {
        pruned.freed += gain;
        pruned.rewritten = survey.rewrite_bytes;
        return Ok(());
    }
    let rewritten = rewrite(repository, session, &survey, options, progress)?;
    pruned.rewritten = rewritten.iter().map(|pack| pack.size).sum();
    let mut dooms = survey.drop.clone();
    dooms.extend(survey.rewrite.iter().map(|pack| pack.id));
    consolidate_index(repository, &survey, &rewritten, &dooms)?;
    if dooms.is_empty() {
        return sweep_sessions(repository, &others);
    }
    progress.begin(Phase::Finishing, 0);
    // The order is what makes this safe: first doom, then look for captures.
    let mut list = Doomed { version: FORMAT_VERSION, packs: dooms, waits_for: Vec::new() };
    let name = repository.write_object(Kind::Doomed, &to_json(&list)?)?;
    let running = other_sessions(repository, session, store_time(repository, session)?)?;
    list.waits_for = running.iter().filter(|other| other.is_live && !other.is_prune).map(|other| other.id).collect();
    if list.waits_for.is_empty() {
        delete_doomed(repository, &name, list, &running, options, progress, pruned)?;
        return sweep_sessions(repository, &others);
    }
    repository.replace_object(Kind::Doomed, &name, &to_json(&list)?)?;
    pruned.waiting += gain;
    pruned.waits_for = running.iter().filter(|other| other.is_live).map(|other| other.host.clone()).collect();
    Ok(())
}

fn to_json(list: &Doomed) -> Result<Vec<u8>> {
    serde_json::to_vec(list).map_err(|error| Error::Internal(error.to_string()))
}

/// Another session, judged.
struct Other {
    id: SessionId,
    host: String,
    is_prune: bool,
    is_live: bool,
    age: SignedDuration,
}

/// Now, by the store's clock: when our own session was last written.
fn store_time(repository: &Repository, session: &Session) -> Result<Timestamp> {
    session.renew()?;
    let own = repository.sessions()?.into_iter().find(|found| found.id == session.id);
    own.map(|found| found.modified).ok_or_else(|| Error::Busy("the session of this prune is gone; run it again".into()))
}

fn other_sessions(repository: &Repository, session: &Session, now: Timestamp) -> Result<Vec<Other>> {
    let others = repository.sessions()?.into_iter().filter(|found| found.id != session.id);
    Ok(others
        .map(|FoundSession { id, record, modified }| {
            let age = now.duration_since(modified);
            let host = record.as_ref().map_or_else(|| "an unknown machine".to_owned(), |record| record.host.clone());
            // One that cannot be read is taken for a capture.
            let is_prune = record.as_ref().is_some_and(|record| record.work == Work::Prune);
            let is_over = record.is_some_and(|record| record.interrupted);
            Other { id, host, is_prune, is_live: age < STALE_AFTER && !is_over, age }
        })
        .collect())
}

/// Deletes what earlier prunes have doomed, if the captures they wait for are over.
fn finish_earlier(
    repository: &Arc<Repository>,
    others: &[Other],
    options: &Options,
    progress: &Progress,
    pruned: &mut Pruned,
) -> Result<()> {
    let live: HashSet<SessionId> = others.iter().filter(|other| other.is_live).map(|other| other.id).collect();
    for (name, list) in repository.doomed()? {
        // A list without a word on whom it waits for may be of a prune that was killed before it looked:
        // whoever runs now may have begun before it.
        let waits = if list.waits_for.is_empty() {
            !live.is_empty()
        } else {
            list.waits_for.iter().any(|id| live.contains(id))
        };
        if waits || options.dry_run == DryRun::Yes {
            pruned.waits_for.extend(others.iter().filter(|other| other.is_live).map(|other| other.host.clone()));
            continue;
        }
        delete_doomed(repository, &name, list, others, options, progress, pruned)?;
    }
    Ok(())
}

/// Deletes doomed packs, after a last look whether anything needs them.
fn delete_doomed(
    repository: &Arc<Repository>,
    name: &str,
    list: Doomed,
    others: &[Other],
    options: &Options,
    progress: &Progress,
    pruned: &mut Pruned,
) -> Result<()> {
    let doomed: HashSet<PackId> = list.packs.iter().copied().collect();
    // Chunks that an image needs and that only a doomed pack has keep that pack.
    let needed = needed_chunks(repository, progress)?;
    let mut elsewhere = KnownChunks::default();
    let mut packs: Vec<(PackId, u64, SessionId, Vec<u128>)> = Vec::new();
    let inventory = repository.for_each_pack(&mut |pack| {
        let chunks = chunks_of(pack).filter(|chunk| needed.contains(chunk));
        if doomed.contains(&pack.id) {
            packs.push((pack.id, pack.size, pack.directory.session, chunks.collect()));
        } else {
            elsewhere.extend(chunks);
        }
        Ok(())
    })?;
    let kept_sessions = unfinished_sessions(others, options);
    let deletes: HashMap<PackId, u64> = packs
        .into_iter()
        .filter(|(_, _, session, chunks)| {
            !kept_sessions.contains(session) && chunks.iter().all(|chunk| elsewhere.contains(chunk))
        })
        .map(|(id, size, _, _)| (id, size))
        .collect();
    drop_from_index(repository, &inventory, &deletes)?;
    for (id, size) in &deletes {
        progress.check()?;
        repository.store().delete(&object_name(*id))?;
        pruned.freed += size;
        pruned.packs_deleted += 1;
    }
    repository.store().delete(name)
}

/// Replaces index objects that name deleted packs. Done before the packs go, so that no index names a pack that
/// is not there for longer than a killed prune leaves it.
fn drop_from_index(repository: &Repository, inventory: &Inventory, deletes: &HashMap<PackId, u64>) -> Result<()> {
    for (name, packs) in &inventory.index_objects {
        if packs.iter().any(|id| deletes.contains_key(id)) {
            let kept: Vec<IndexedPack> =
                repository.index_object(name)?.into_iter().filter(|pack| !deletes.contains_key(&pack.id)).collect();
            repository.write_index(&kept)?;
            repository.store().delete(name)?;
        }
    }
    Ok(())
}

fn chunks_of(pack: &IndexedPack) -> impl Iterator<Item = u128> + '_ {
    pack.directory.frames.iter().flat_map(|frame| &frame.chunks).map(|chunk| short(chunk.id))
}

/// Every chunk that an image needs, its block maps included.
fn needed_chunks(repository: &Repository, progress: &Progress) -> Result<KnownChunks> {
    let (images, damaged) = repository.images()?;
    if let Some((_, error)) = damaged.into_iter().next() {
        // Whatever that image needs is not known, so nothing may go.
        return Err(error);
    }
    let (mut reader, _) = map_reader(repository, &HashSet::new(), &mut |_| Ok(()))?;
    let mut needed = KnownChunks::default();
    // Nodes whose children are known to be needed already.
    let mut entered: HashSet<([u8; 32], u64, u64)> = HashSet::new();
    for (_, manifest) in &images {
        for region in manifest.disks.iter().flat_map(|disk| &disk.regions) {
            progress.check()?;
            let Some(root) = region.root else { continue };
            let mut nodes = KnownChunks::default();
            let walked = reader.walk_into(
                root,
                region.len,
                |id, start| {
                    nodes.insert(short(id));
                    entered.insert((id.0, start, region.len))
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
struct Survey {
    inventory: Inventory,
    needed: KnownChunks,
    /// Chunks of packs that stay.
    kept: KnownChunks,
    /// Packs that nobody needs.
    drop: Vec<PackId>,
    /// Packs of which some is needed.
    rewrite: Vec<IndexedPack>,
    rewrite_bytes: u64,
    unfinished: u64,
    /// Packs that stay as they are, and are in the index already.
    index_is_tidy: bool,
    keep: Vec<PackId>,
}

impl Survey {
    fn size(&self, id: PackId) -> u64 {
        self.inventory.stored.get(&id).map_or(0, |pack| pack.size)
    }
}

/// Sessions whose packs stay though no image names them: captures that run, or were interrupted lately.
fn unfinished_sessions(others: &[Other], options: &Options) -> HashSet<SessionId> {
    let fresh = others.iter().filter(|other| !other.is_prune && (other.is_live || other.age < options.keep_unfinished));
    fresh.map(|other| other.id).collect()
}

fn survey(
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
    let inventory = repository.for_each_pack(&mut |pack| {
        progress.check()?;
        if !doomed.contains(&pack.id) {
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
            live += u64::from(frame.stored_len) * wanted / raw.max(1);
        }
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
    let index_is_tidy = inventory.unindexed.is_empty()
        && inventory.missing.is_empty()
        && inventory.damaged_index.is_empty()
        && inventory.index_objects.len() <= 8;
    Ok(Survey { inventory, needed, kept, drop, rewrite, rewrite_bytes, unfinished, index_is_tidy, keep })
}

/// Puts what is needed of half-empty packs into new ones. A frame that is needed as a whole is not even
/// decompressed.
fn rewrite(
    repository: &Repository,
    session: &Session,
    survey: &Survey,
    options: &Options,
    progress: &Progress,
) -> Result<Vec<IndexedPack>> {
    progress.begin(Phase::Copying, survey.rewrite_bytes);
    let mut writer = Rewriter {
        repository,
        session: session.id,
        options,
        data: PackBuilder::new(repository.secret(), session.id)?,
        map: PackBuilder::new(repository.secret(), session.id)?,
        done: Vec::new(),
    };
    let mut taken = survey.kept.clone();
    for pack in &survey.rewrite {
        let reader = repository.pack_reader(pack.id);
        let frames = pack.directory.frames.iter().zip(pack.directory.frame_offsets());
        for (number, (entry, offset)) in (0..).zip(frames) {
            progress.check()?;
            let wanted: Vec<bool> = entry
                .chunks
                .iter()
                .map(|chunk| survey.needed.contains(&short(chunk.id)) && taken.insert(short(chunk.id)))
                .collect();
            if !wanted.contains(&true) {
                continue;
            }
            let range = offset..offset + u64::from(entry.stored_len);
            let sealed = repository.store().get_range(&object_name(pack.id), range)?.to_vec();
            let coded = if wanted.contains(&false) {
                let raw = needed_part(repository, pack.id, number, offset, entry, sealed, &wanted)?;
                frame::compress(raw, options.level, &mut drop).map_err(|error| Error::Internal(error.to_string()))?
            } else {
                reader.coded_frame(number, offset, entry, sealed)?
            };
            writer.push(coded)?;
            Progress::add(&progress.done, entry.stored_len.into());
        }
    }
    writer.finish()
}

fn needed_part(
    repository: &Repository,
    pack: PackId,
    number: u32,
    offset: u64,
    entry: &FrameEntry,
    mut sealed: Vec<u8>,
    wanted: &[bool],
) -> Result<RawFrame> {
    let mut raw = vec![0; entry.raw_len_in_memory()];
    repository.pack_reader(pack).frame(number, offset, entry, &mut sealed, &mut raw)?;
    let (mut data, mut chunks) = (Vec::new(), Vec::<ChunkEntry>::new());
    let mut at = 0;
    for (chunk, wanted) in entry.chunks.iter().zip(wanted) {
        let len = usize::try_from(chunk.len).unwrap_or(usize::MAX);
        if *wanted {
            let bytes = raw.get(at..at + len).unwrap_or_default();
            if repository.chunk_id(entry.content, [bytes]) != chunk.id {
                return Err(Error::damaged(object_name(pack), offset, "a chunk is not what its id says"));
            }
            data.extend_from_slice(bytes);
            chunks.push(*chunk);
        }
        at += len;
    }
    Ok(RawFrame { content: entry.content, data, chunks })
}

struct Rewriter<'a> {
    repository: &'a Repository,
    session: SessionId,
    options: &'a Options,
    data: PackBuilder,
    map: PackBuilder,
    done: Vec<IndexedPack>,
}

impl Rewriter<'_> {
    fn push(&mut self, frame: CodedFrame) -> Result<()> {
        let builder = if frame.content == Content::Data { &mut self.data } else { &mut self.map };
        builder.push(frame)?;
        if builder.size() >= self.options.pack_bytes {
            let full = std::mem::replace(builder, PackBuilder::new(self.repository.secret(), self.session)?);
            self.put(full)?;
        }
        Ok(())
    }

    fn put(&mut self, builder: PackBuilder) -> Result<()> {
        if !builder.is_empty() {
            let Pack { id, parts, size, directory } = builder.finish()?;
            self.repository.store().put(&object_name(id), parts)?;
            self.done.push(IndexedPack { id, size, directory });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<IndexedPack>> {
        let empty = || PackBuilder::new(self.repository.secret(), self.session);
        let (data, map) = (std::mem::replace(&mut self.data, empty()?), std::mem::replace(&mut self.map, empty()?));
        self.put(data)?;
        self.put(map)?;
        Ok(self.done)
    }
}

/// One tidy index in place of many; doomed packs stay in it until they are deleted.
fn consolidate_index(
    repository: &Repository,
    survey: &Survey,
    rewritten: &[IndexedPack],
    dooms: &[PackId],
) -> Result<()> {
    if survey.index_is_tidy {
        repository.write_index(rewritten)?;
        return Ok(());
    }
    let wanted: HashSet<PackId> = survey.keep.iter().chain(dooms).copied().collect();
    let mut seen = HashSet::new();
    let mut packs: Vec<IndexedPack> = Vec::new();
    for (name, _) in &survey.inventory.index_objects {
        let named = repository.index_object(name)?;
        packs.extend(named.into_iter().filter(|pack| wanted.contains(&pack.id) && seen.insert(pack.id)));
    }
    let unindexed = survey.inventory.unindexed.iter().chain(rewritten);
    packs.extend(unindexed.filter(|pack| seen.insert(pack.id)).cloned());
    repository.write_index(&packs)?;
    let old = survey.inventory.index_objects.iter().map(|(name, _)| name);
    let damaged = survey.inventory.damaged_index.iter().map(|(name, _)| name);
    old.chain(damaged).try_for_each(|name| repository.store().delete(name))
}

/// Takes away the traces of sessions that ended without a word and whose packs are gone.
fn sweep_sessions(repository: &Repository, others: &[Other]) -> Result<()> {
    let old = SignedDuration::from_hours(24 * 7);
    for other in others.iter().filter(|other| !other.is_live && (other.is_prune || other.age > old)) {
        repository.store().delete(&format!("{}/{}", Kind::Session.folder(), other.id))?;
    }
    Ok(())
}
