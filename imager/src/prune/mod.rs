//! Freeing the space that no image needs, beside running captures and readers.
//!
//! First whatever is worth keeping of half-empty packs is written to new packs and indexed. Then the old packs
//! are doomed: their names are written to the store, where captures that begin later see them. Then the prune
//! looks for captures that are running. If there are none, it looks once more whether an image has come that
//! needs a doomed pack, and deletes; else a later prune does so. Killed at any point, the next one goes on.
//! `repo/session.rs` says why nothing gets lost. Must not know: terminals.

mod rewrite;
mod survey;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use self::rewrite::rewrite;
use self::survey::{Survey, chunks_of, needed_chunks, survey, unfinished_sessions};
use crate::capture::KnownChunks;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::progress::{Phase, Progress};
use crate::repo::Repository;
use crate::repo::config::FORMAT_VERSION;
use crate::repo::index::{IndexedPack, Inventory};
use crate::repo::object::Kind;
use crate::repo::pack::{PackId, SessionId, object_name};
use crate::repo::session::{CAPTURE_STALE_AFTER, Doomed, FoundSession, PRUNE_STALE_AFTER, Session, Work};

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
    prune_by(&Clock::of_this_machine(), repository, options, progress)
}

/// As [`prune`], by another clock than this machine's.
///
/// # Errors
/// As [`prune`].
pub fn prune_by(clock: &Clock, repository: &Arc<Repository>, options: &Options, progress: &Progress) -> Result<Pruned> {
    progress.begin(Phase::Planning, 0);
    let mut pruned = Pruned::default();
    let host = crate::machine::this_machine().hostname.unwrap_or_default();
    let session = Session::start_by(clock.clone(), repository, Work::Prune, &host)?;
    let result = Job { repository, session: &session, options, progress }.run(&mut pruned);
    // A prune that failed leaves nothing that its session would protect.
    if let Err(error) = session.end() {
        pruned.warnings.push(format!("the next prune may have to wait for half an hour: {error}"));
    }
    result.map(|()| pruned)
}

/// A prune at work.
struct Job<'a> {
    repository: &'a Arc<Repository>,
    session: &'a Session,
    options: &'a Options,
    progress: &'a Progress,
}

impl Job<'_> {
    fn run(&self, pruned: &mut Pruned) -> Result<()> {
        let Self { repository, session, options, progress } = *self;
        let now = store_time(repository, session)?;
        let others = other_sessions(repository, session, now)?;
        if let Some(other) = others.iter().find(|other| other.is_prune && other.is_live) {
            return Err(Error::Busy(format!(
                "another prune is running on {}, or was cut off there less than {} minutes ago",
                other.host,
                PRUNE_STALE_AFTER.as_mins()
            )));
        }
        if options.dry_run == DryRun::No {
            forget_unfinished(repository, &others)?;
        }
        self.finish_earlier(&others, pruned)?;
        let doomed: HashSet<PackId> = repository.doomed()?.lists.into_iter().flat_map(|(_, list)| list.packs).collect();
        let survey = survey(repository, &doomed, &others, options, progress)?;
        if !survey.doubtful.is_empty() {
            pruned.warnings.push(format!(
                "{} packs cannot be read and are kept: images miss chunks that may be in them. `imager verify` says more",
                survey.doubtful.len()
            ));
        }
        pruned.before = survey.inventory.stored.values().map(|pack| pack.size).sum();
        pruned.unfinished = survey.unfinished;
        let gain: u64 =
            survey.drop.iter().chain(survey.rewrite.iter().map(|pack| &pack.id)).map(|id| survey.size(*id)).sum();
        if options.dry_run == DryRun::Yes {
            pruned.freed += gain;
            pruned.rewritten = survey.rewrite_bytes;
            return Ok(());
        }
        let mut rewritten = Vec::new();
        let mut dooms = survey.drop.clone();
        match rewrite(repository, session.id, &survey, options, progress, &mut rewritten) {
            Ok(()) => dooms.extend(survey.rewrite.iter().map(|pack| pack.id)),
            // A full store is what a prune is to help with: what needs no new pack goes all the same.
            Err(error @ Error::Store { operation: "write", .. }) if !dooms.is_empty() => {
                pruned.warnings.push(format!("packs that are needed in part stay as they are: {error}"));
                dooms.extend(rewritten.drain(..).map(|pack| pack.id));
            }
            Err(error) => return Err(error),
        }
        pruned.rewritten = rewritten.iter().map(|pack| pack.size).sum();
        consolidate_index(repository, &survey, &rewritten, &dooms)?;
        if !dooms.is_empty() {
            progress.begin(Phase::Finishing, 0);
            self.doom(dooms, gain, pruned)?;
        }
        repository.remove_stale_proofs()?;
        pruned.freed += repository.store().remove_debris(now - CAPTURE_STALE_AFTER)?;
        sweep_sessions(repository, &others, options)
    }

    /// Dooms packs, and deletes them if no capture is running.
    fn doom(&self, packs: Vec<PackId>, gain: u64, pruned: &mut Pruned) -> Result<()> {
        let Self { repository, session, .. } = *self;
        // The order is what makes this safe: first doom, then look for captures.
        let mut list = Doomed { version: FORMAT_VERSION, packs, waits_for: Vec::new() };
        let name = repository.write_object(Kind::Doomed, &to_json(&list)?)?;
        let running = other_sessions(repository, session, store_time(repository, session)?)?;
        list.waits_for = live_captures(&running).map(|other| other.id).collect();
        if list.waits_for.is_empty() {
            return self.delete_doomed(&name, &list, &running, pruned);
        }
        repository.replace_object(Kind::Doomed, &name, &to_json(&list)?)?;
        pruned.waiting += gain;
        pruned.waits_for.extend(live_captures(&running).map(|other| other.host.clone()));
        Ok(())
    }

    /// Deletes what earlier prunes have doomed, if the captures they wait for are over.
    fn finish_earlier(&self, others: &[Other], pruned: &mut Pruned) -> Result<()> {
        let Self { repository, options, .. } = *self;
        let doomed = repository.doomed()?;
        for name in doomed.unreadable.iter().filter(|_| options.dry_run == DryRun::No) {
            // No prune but this one is running, so nobody will delete anything that this list named.
            repository.store().delete(name)?;
        }
        let live: HashSet<SessionId> = live_captures(others).map(|other| other.id).collect();
        for (name, mut list) in doomed.lists {
            // A list without a word on whom it waits for may be of a prune that was killed before it looked:
            // whoever runs now may have begun before it.
            let looked = !list.waits_for.is_empty();
            let waits = if looked { list.waits_for.iter().any(|id| live.contains(id)) } else { !live.is_empty() };
            if options.dry_run == DryRun::No && !waits {
                self.delete_doomed(&name, &list, others, pruned)?;
                continue;
            }
            if options.dry_run == DryRun::No && !looked {
                // Not for those that begin later: in a large fleet some capture is always running.
                list.waits_for = live.iter().copied().collect();
                repository.replace_object(Kind::Doomed, &name, &to_json(&list)?)?;
            }
            pruned.waits_for.extend(live_captures(others).map(|other| other.host.clone()));
        }
        Ok(())
    }

    /// Deletes doomed packs, after a last look whether anything needs them.
    fn delete_doomed(&self, name: &str, list: &Doomed, others: &[Other], pruned: &mut Pruned) -> Result<()> {
        let Self { repository, session, options, progress } = *self;
        let doomed: HashSet<PackId> = list.packs.iter().copied().collect();
        // What another list dooms may be gone in a moment. Its prune has the same thought about ours: whichever of
        // the two lists was written last, its prune sees the other.
        let others_doom = repository.doomed()?.lists.into_iter().filter(|(other, _)| other != name);
        let others_doom: HashSet<PackId> = others_doom.flat_map(|(_, list)| list.packs).collect();
        // Chunks that an image needs and that only a doomed pack has keep that pack.
        let needed = needed_chunks(repository, progress)?;
        let (mut elsewhere, mut here) = (KnownChunks::default(), KnownChunks::default());
        let mut packs: Vec<(PackId, u64, SessionId, Vec<u128>)> = Vec::new();
        let inventory = repository.for_each_pack(&mut |pack| {
            let chunks = chunks_of(pack).filter(|chunk| needed.contains(chunk));
            if doomed.contains(&pack.id) {
                let chunks: Vec<u128> = chunks.collect();
                here.extend(&chunks);
                packs.push((pack.id, pack.size, pack.directory.session, chunks));
            } else if !others_doom.contains(&pack.id) {
                elsewhere.extend(chunks);
            }
            Ok(())
        })?;
        let kept_sessions = unfinished_sessions(others, options);
        let mut deletes: HashMap<PackId, u64> = packs
            .into_iter()
            .filter(|(_, _, session, chunks)| {
                !kept_sessions.contains(session) && chunks.iter().all(|chunk| elsewhere.contains(chunk))
            })
            .map(|(id, size, _, _)| (id, size))
            .collect();
        if needed.iter().all(|chunk| elsewhere.contains(chunk) || here.contains(chunk)) {
            let unreadable = inventory.damaged.iter().map(|(id, _)| *id).filter(|id| doomed.contains(id));
            deletes.extend(unreadable.map(|id| (id, inventory.stored.get(&id).map_or(0, |pack| pack.size))));
        }
        // All this is worth nothing if others took this prune for dead meanwhile: they may have done away with the list,
        // and captures may rely on its packs again.
        session.must_have_been_heard()?;
        if !repository.store().list(Kind::Doomed.folder())?.iter().any(|object| object.name == name) {
            return Err(Error::Busy(format!("{name} was taken away by somebody else; run it again")));
        }
        // Otherwise a loss of power could bring back an image without its packs.
        repository.store().flush_deletes(Kind::Image.folder())?;
        repository.store().flush_deletes(Kind::Clone.folder())?;
        drop_from_index(repository, &inventory, &deletes)?;
        for (id, size) in &deletes {
            progress.check()?;
            session.must_have_been_heard()?;
            repository.store().delete(&object_name(*id))?;
            pruned.freed += size;
            pruned.packs_deleted += 1;
        }
        repository.store().delete(name)
    }
}

/// Removes the halves of manifests that captures left which are over.
fn forget_unfinished(repository: &Repository, others: &[Other]) -> Result<()> {
    for (image, session) in repository.unfinished_images()? {
        if others.iter().any(|other| other.id == session && !other.is_live) {
            repository.forget_image(image)?;
        }
    }
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

fn live_captures(others: &[Other]) -> impl Iterator<Item = &Other> {
    others.iter().filter(|other| other.is_live && !other.is_prune)
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
        .map(|found| {
            let (is_prune, is_live) = (found.is_prune(), found.is_live(now));
            let FoundSession { id, record, modified } = found;
            let host = record.map_or_else(|| "an unknown machine".to_owned(), |record| record.host);
            Other { id, host, is_prune, is_live, age: now.duration_since(modified) }
        })
        .collect())
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

/// Takes away the sessions that mean nothing any more: their packs are like all others now. A capture that
/// only slept so long announces itself anew before its work becomes visible.
fn sweep_sessions(repository: &Repository, others: &[Other], options: &Options) -> Result<()> {
    let over = others.iter().filter(|other| !other.is_live);
    for other in over.filter(|other| other.is_prune || other.age >= options.keep_unfinished) {
        repository.store().delete(&format!("{}/{}", Kind::Session.folder(), other.id))?;
    }
    Ok(())
}
