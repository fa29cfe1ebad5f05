//! Who works on the repository right now, so that a prune never takes away what a capture counts on.
//!
//! A capture announces itself with a session object *before* it looks which packs are doomed; a prune
//! announces which packs it dooms *before* it looks which sessions there are. So at least one of the two
//! sees the other: the capture does not use a doomed pack, or the prune waits with deleting. A session is
//! written anew every minute; a capture that was not heard of for half an hour (by the store's clock, not ours)
//! no longer holds up a prune, nor does one whose process is known to be gone. So a capture that slept looks once more, before its image becomes visible, whether
//! everything it relies on is there and not doomed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::Repository;
use super::config::{FORMAT_VERSION, Hex, from_json};
use super::manifest::ImageId;
use super::object::Kind;
use super::pack::{PackId, SessionId};
use super::seal::random;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::process::ProcessId;
use crate::progress::lock;

pub(super) const HEARTBEAT: Duration = Duration::from_secs(60);
/// A capture that was not heard of for so long holds up no prune.
pub const CAPTURE_STALE_AFTER: SignedDuration = SignedDuration::from_mins(30);
/// Nor does such a prune. That two are never at work is thrift, not safety, so that it need not be so long.
pub const PRUNE_STALE_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// A capture: adds packs, and relies on packs that are there.
    Capture,
    /// A prune: deletes packs.
    Prune,
}

/// What a session object says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Format version.
    pub version: u64,
    /// What it is for.
    pub work: Work,
    /// The machine it runs on.
    pub host: String,
    /// When it began, by that machine's clock.
    pub started: Timestamp,
    /// The image that a capture will make. While the session is there, a manifest of that name that cannot be
    /// read is one that was never finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageId>,
    /// The process, so that others on the same machine need not wait once it was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessId>,
    /// It ended before its work was done; what it stored waits for the next capture.
    #[serde(default)]
    pub interrupted: bool,
}

/// A session in the store.
#[derive(Clone, Debug)]
pub struct FoundSession {
    /// Its id.
    pub id: SessionId,
    /// What it says; none when it cannot be read.
    pub record: Option<SessionRecord>,
    /// When it was last written, by the store's clock.
    pub modified: Timestamp,
}

impl FoundSession {
    /// Whether it is a prune. One that cannot be read is taken for a capture.
    #[must_use]
    pub fn is_prune(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.work == Work::Prune)
    }

    /// Whether it must be taken for running, at the time `now` of the store's clock.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        let stale_after = if self.is_prune() { PRUNE_STALE_AFTER } else { CAPTURE_STALE_AFTER };
        let is_over = self
            .record
            .as_ref()
            .is_some_and(|record| record.interrupted || record.process.as_ref().is_some_and(ProcessId::is_gone));
        !is_over && now.duration_since(self.modified) < stale_after
    }
}

/// Packs that a prune is about to delete.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Doomed {
    /// Format version.
    pub version: u64,
    /// The packs.
    pub packs: Vec<PackId>,
    /// The captures that ran when they were doomed, and may rely on them.
    pub waits_for: Vec<SessionId>,
}

/// What prunes have doomed.
#[derive(Debug, Default)]
pub struct DoomedLists {
    /// The lists, with their object names.
    pub lists: Vec<(String, Doomed)>,
    /// Names of lists that cannot be read. A prune deletes nothing before its list was written, so such a list is
    /// that of a prune that ended there, or was damaged later.
    pub unreadable: Vec<String>,
}

/// A session that was not announced for so long may be taken for over at any moment, by others: a minute earlier than
/// the first of them do.
const UNHEARD_AFTER: Duration = Duration::from_secs(240);

/// When a session was last announced, by our own clock.
struct Announced {
    clock: Clock,
    last: Mutex<Duration>,
    /// The longest time for which nothing was heard of it.
    longest_gap: Mutex<Duration>,
}

impl Announced {
    fn new(clock: Clock) -> Self {
        Self { last: Mutex::new(clock.now()), longest_gap: Mutex::default(), clock }
    }

    /// Counts from the moment before the object is put: the store's time of it is no earlier.
    fn by(&self, put: impl FnOnce() -> Result<()>) -> Result<()> {
        let began = self.clock.now();
        put()?;
        let mut last = lock(&self.last);
        let mut longest = lock(&self.longest_gap);
        *longest = self.clock.now().saturating_sub(*last).max(*longest);
        *last = began;
        Ok(())
    }

    fn longest_gap(&self) -> Duration {
        let since = self.clock.now().saturating_sub(*lock(&self.last));
        since.max(*lock(&self.longest_gap))
    }
}

/// A session of this process. Ends when [`Session::end`] is called; otherwise its object stays and says
/// that something was interrupted.
pub struct Session {
    repository: Arc<Repository>,
    /// Its id; packs carry it.
    pub id: SessionId,
    name: String,
    record: SessionRecord,
    announced: Arc<Announced>,
    heart: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Session {
    /// Announces a session and keeps it alive.
    ///
    /// # Errors
    /// What the store says.
    pub fn start(repository: &Arc<Repository>, work: Work, host: &str) -> Result<Self> {
        Self::start_by(Clock::of_this_machine(), repository, work, host)
    }

    /// As [`Session::start`], by another clock than this machine's.
    ///
    /// # Errors
    /// What the store says.
    pub fn start_by(clock: Clock, repository: &Arc<Repository>, work: Work, host: &str) -> Result<Self> {
        let id = Hex(random()?);
        let image = match work {
            Work::Capture => Some(Hex(random()?)),
            Work::Prune => None,
        };
        let name = format!("{}/{id}", Kind::Session.folder());
        let record = SessionRecord {
            version: FORMAT_VERSION,
            work,
            host: host.to_owned(),
            started: Timestamp::now(),
            image,
            process: ProcessId::of_this(),
            interrupted: false,
        };
        let payload = serde_json::to_vec(&record).map_err(|error| Error::Internal(error.to_string()))?;
        let announced = Arc::new(Announced::new(clock));
        repository.replace_object(Kind::Session, &name, &payload)?;
        let (stop, stopped) = bounded::<()>(0);
        let (beating, beating_name, beats) = (Arc::clone(repository), name.clone(), Arc::clone(&announced));
        let heart = std::thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || {
                while stopped.recv_timeout(HEARTBEAT) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
                    // A store that fails here fails the work itself elsewhere.
                    let _ = beats.by(|| beating.replace_object(Kind::Session, &beating_name, &payload));
                }
            })
            .map_err(|error| Error::Internal(format!("cannot start a thread: {error}")))?;
        Ok(Self { repository: Arc::clone(repository), id, name, record, announced, heart: Some((stop, heart)) })
    }

    /// The image that it will make; none for a prune.
    #[must_use]
    pub fn image(&self) -> Option<ImageId> {
        self.record.image
    }

    /// Announces the session anew, as just before its work becomes visible.
    ///
    /// # Errors
    /// What the store says.
    pub fn renew(&self) -> Result<()> {
        let payload = serde_json::to_vec(&self.record).map_err(|error| Error::Internal(error.to_string()))?;
        self.announced.by(|| self.repository.replace_object(Kind::Session, &self.name, &payload))
    }

    /// Nobody had reason to take the session for over, at any time since it began.
    ///
    /// # Errors
    /// [`Error::Busy`] when the machine was suspended, or the store not reached, for so long that others may have gone
    /// on as if it were not there.
    pub fn must_have_been_heard(&self) -> Result<()> {
        let gap = self.announced.longest_gap();
        if gap < UNHEARD_AFTER {
            return Ok(());
        }
        Err(Error::Busy(format!(
            "nothing was heard of this job for {} minutes, since the machine slept or the store did not answer, and others may have worked on the repository meanwhile; run it again",
            gap.as_secs() / 60
        )))
    }

    /// Withdraws the session: its work is done and visible.
    ///
    /// # Errors
    /// What the store says.
    pub fn end(mut self) -> Result<()> {
        self.stop_heart();
        self.repository.store().delete(&self.name)
    }

    /// Says that the session ended early. What it stored is kept for the next capture, and no prune waits.
    ///
    /// # Errors
    /// What the store says.
    pub fn interrupt(mut self) -> Result<()> {
        self.stop_heart();
        self.record.interrupted = true;
        self.renew()
    }

    fn stop_heart(&mut self) {
        if let Some((stop, heart)) = self.heart.take() {
            drop(stop);
            let _ = heart.join();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop_heart();
    }
}

impl Repository {
    /// All sessions.
    ///
    /// # Errors
    /// What the store says; [`Error::NewerFormat`], since what a newer program counts on is not known.
    pub fn sessions(&self) -> Result<Vec<FoundSession>> {
        let mut sessions = Vec::new();
        for object in self.store().list(Kind::Session.folder())? {
            let Ok(id) = object.file_name().parse() else { continue };
            let payload = self.read_object(Kind::Session, &object.name);
            let record = match payload.and_then(|payload| from_json(&object.name, &payload)) {
                Ok(record) => Some(record),
                Err(Error::Missing { .. }) => continue,
                Err(Error::Damaged { .. }) => None,
                Err(error) => return Err(error),
            };
            sessions.push(FoundSession { id, record, modified: object.modified });
        }
        Ok(sessions)
    }

    /// Lists of doomed packs.
    ///
    /// # Errors
    /// What the store says; [`Error::NewerFormat`].
    pub fn doomed(&self) -> Result<DoomedLists> {
        let mut found = DoomedLists::default();
        for object in self.store().list(Kind::Doomed.folder())? {
            let payload = self.read_object(Kind::Doomed, &object.name);
            match payload.and_then(|payload| from_json(&object.name, &payload)) {
                Ok(list) => found.lists.push((object.name, list)),
                Err(Error::Missing { .. }) => {}
                Err(Error::Damaged { .. }) => found.unreadable.push(object.name),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The packs that the capture `session` must not rely on: those that are doomed by a prune that does
    /// not wait for it.
    ///
    /// # Errors
    /// [`Error::Busy`] when a prune is running and its list cannot be read; what the store says.
    pub fn doomed_packs_for(&self, session: SessionId) -> Result<HashSet<PackId>> {
        let DoomedLists { lists, unreadable } = self.doomed()?;
        if let Some(name) = unreadable.first()
            && self.has_live_prune(session)?
        {
            return Err(Error::Busy(format!("a prune is running, and {name} cannot be read; try again after it")));
        }
        let others = lists.into_iter().filter(|(_, list)| !list.waits_for.contains(&session));
        Ok(others.flat_map(|(_, list)| list.packs).collect())
    }

    /// Whether a prune runs beside our own session, whose last announcement tells the store's time.
    fn has_live_prune(&self, own: SessionId) -> Result<bool> {
        let sessions = self.sessions()?;
        let now = sessions.iter().find(|found| found.id == own).map(|found| found.modified);
        Ok(sessions.iter().any(|found| found.is_prune() && now.is_none_or(|now| found.is_live(now))))
    }
}
