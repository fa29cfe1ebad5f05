//! Work on disks: one job at a time, whoever asked for it, watched from every console.
//!
//! The keeper listens on [`socket`]. Whoever connects gets a line of JSON, a [`Status`] or `null`, at once and
//! whenever something changes (at most twice a second), and may send [`Request`]s, a line each. The steps of a job
//! are runs of `imager --json`, each a process of its own: whatever happens to one, the keeper lives and says so.
//! Must not know: screens, disks.

pub(crate) mod client;
pub(crate) mod keeper;
mod report;
pub(crate) mod step;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the keeper listens: `/run/lifeboat/jobs`.
pub(crate) fn socket() -> PathBuf {
    run_directory().join("jobs")
}

/// Where everything is that lives as long as the machine is on: `/run/lifeboat`, or what `LIFEBOAT_RUN` says, for
/// trying things out beside a running system.
pub(crate) fn run_directory() -> PathBuf {
    std::env::var_os("LIFEBOAT_RUN").map_or_else(|| "/run/lifeboat".into(), PathBuf::from)
}

/// Samples of the rate that a status has at most, one a second.
pub(crate) const RATES_MAX: usize = 600;

/// Messages that a status has at most, the newest.
pub(crate) const MESSAGES_MAX: usize = 200;

/// What a console asks of the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Start a job. Refused, with a [`Refusal`], while one runs.
    Start(Job),
    /// Stop reading and writing until `Resume`.
    Pause,
    /// Go on.
    Resume,
    /// End the job cleanly; what is stored is kept.
    Cancel,
    /// Forget the job that has ended.
    Dismiss,
    /// Turn the machine off, or start it again; refused while a job runs.
    Power(Power),
}

/// An answer to a request that cannot be granted, sent to the console that made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// Why, and what to do.
    pub refused: String,
}

/// How a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Power {
    /// Off.
    Off,
    /// And on again.
    Reboot,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    /// What it is, for people: "Back up 2 disks to /mnt/stick".
    pub title: String,
    /// What it is, for drawing it.
    pub kind: Kind,
    /// Done one after another, until one fails.
    pub steps: Vec<Step>,
    /// The password of the repository.
    pub password: Option<String>,
    /// A directory for the report; none is written without.
    pub report: Option<std::path::PathBuf>,
    /// What happens to the machine when the job has ended well.
    pub then: Option<Power>,
}

/// Kinds of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Disks into a repository.
    Capture,
    /// An image to disks.
    Restore,
    /// A proof that a repository is good.
    Verify,
    /// A disk onto another.
    Clone,
    /// Files out of an image into a directory.
    Copy,
}

/// One run of `imager`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// What it does, for people: "make the repository".
    pub says: String,
    /// Its arguments, without the program's name and without `--json`.
    pub arguments: Vec<String>,
}

/// How the job goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Counts the jobs since the machine was started.
    pub number: u64,
    /// The job's.
    pub title: String,
    /// The job's.
    pub kind: Kind,
    /// What each step does.
    pub steps: Vec<String>,
    /// The step that runs, or ran last, from 0.
    pub step: usize,
    /// What it does now.
    pub state: State,
    /// Seconds since the job began, without pauses.
    pub seconds: u64,
    /// The newest counts of the present step; `imager`'s own words for them.
    pub progress: Option<Counts>,
    /// Bytes a second, a sample for each second, the newest last.
    pub rates: Vec<u64>,
    /// What the steps said, the newest last.
    pub messages: Vec<String>,
    /// What the steps had as results: `imager`'s JSON, an object for each.
    pub results: Vec<serde_json::Value>,
    /// Where the report is.
    pub report: Option<std::path::PathBuf>,
}

/// What a job does now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(crate) enum State {
    /// It works.
    Running,
    /// It waits for `Resume`.
    Paused,
    /// It was asked to end.
    Cancelling,
    /// It has ended.
    Ended {
        /// `imager`'s exit code; none for a process that was killed.
        exit_code: Option<u8>,
        /// What went wrong.
        error: Option<String>,
    },
}

/// What `imager` says of its progress once a second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// planning, copying, verifying, finishing.
    pub phase: String,
    /// Bytes handled in this phase, of `total`.
    pub done: u64,
    /// Bytes to handle in this phase.
    pub total: u64,
    /// Mean rate of this phase.
    pub bytes_per_second: u64,
    /// Until this phase ends.
    pub seconds_left: Option<u64>,
    /// Bytes of zeros.
    pub zero: u64,
    /// Bytes that the repository had.
    pub known: u64,
    /// Bytes that it did not have.
    pub new: u64,
    /// Bytes that went into the store.
    pub stored: u64,
    /// The compression level.
    pub level: u64,
    /// Where on each disk this phase has been; empty where that is not counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub map: Vec<Map>,
}

/// Where on a disk the work has been.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Map {
    /// The disk's path.
    pub disk: String,
    /// Digits from the disk's first byte to its last: 0 where nothing was done yet, 9 where everything was.
    pub cells: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_socket() {
        let job = Job {
            title: "t".into(),
            kind: Kind::Restore,
            steps: vec![Step { says: "s".into(), arguments: vec!["a".into()] }],
            password: None,
            report: Some("/x".into()),
            then: Some(Power::Reboot),
        };
        for request in [
            Request::Start(job),
            Request::Pause,
            Request::Resume,
            Request::Cancel,
            Request::Dismiss,
            Request::Power(Power::Off),
            Request::Power(Power::Reboot),
        ] {
            let line = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request, "{line}");
        }
    }
}
