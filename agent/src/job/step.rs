//! One run of `imager` as a child: started, heard, paused, ended.
//!
//! Must not know: jobs, consoles.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde_json::Value;

use super::Counts;

/// Lines on standard error that are kept, the newest.
const COMPLAINTS_MAX: usize = 20;

/// Bytes of a line that are looked at.
const LINE_MAX: u64 = 4 << 20;

/// What a step says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    /// How far it is.
    Progress(Counts),
    /// A line for people.
    Message(String),
    /// What went wrong.
    Error(String),
    /// What came of it.
    Result(Value),
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// None for one that was killed.
    pub(super) exit_code: Option<u8>,
    /// The signal that killed it.
    pub(super) signal: Option<i32>,
    /// Its last words on standard error.
    pub(super) complaints: Vec<String>,
}

/// What is asked of the step that runs, and of those that follow.
#[derive(Debug, Default)]
pub(super) struct Control {
    asked: Mutex<Asked>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Asked {
    group: Option<Pid>,
    paused: bool,
    cancelled: bool,
}

impl Control {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pause(&self) {
        let mut asked = self.asked();
        asked.paused = true;
        signal(asked.group, Signal::SIGSTOP);
    }

    pub(super) fn resume(&self) {
        let mut asked = self.asked();
        asked.paused = false;
        signal(asked.group, Signal::SIGCONT);
        self.changed.notify_all();
    }

    /// The first time the step ends what it is at; the second time it ends at once.
    pub(super) fn cancel(&self) {
        let mut asked = self.asked();
        asked.cancelled = true;
        asked.paused = false;
        // Stopped, it would not hear.
        signal(asked.group, Signal::SIGCONT);
        signal(asked.group, Signal::SIGINT);
        self.changed.notify_all();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.asked().cancelled
    }

    /// Waits while it is paused.
    fn wait_for_leave(&self) -> MutexGuard<'_, Asked> {
        let mut asked = self.asked();
        while asked.paused && !asked.cancelled {
            asked = self.changed.wait(asked).unwrap_or_else(PoisonError::into_inner);
        }
        asked
    }
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // It may have ended this moment.
        let _ = killpg(group, signal);
    }
}

/// Runs a step to its end. `started` gets its process group, `hear` all that it says.
///
/// # Errors
/// When it cannot be started. `Interrupted` when it was cancelled before it began.
pub(super) fn run(
    arguments: &[String],
    password: Option<&str>,
    control: &Control,
    started: impl FnOnce(Pid),
    mut hear: impl FnMut(Said),
) -> io::Result<Ended> {
    let mut asked = control.wait_for_leave();
    if asked.cancelled {
        return Err(io::ErrorKind::Interrupted.into());
    }
    let mut child = spawn(arguments, password)?;
    let pid = Pid::from_raw(child.id().cast_signed());
    asked.group = Some(pid);
    drop(asked);
    started(pid);
    // Without a thread nobody hears what it complains of; the step does not need it.
    let listen_to = |stderr| thread::Builder::new().name("complaints".into()).spawn(move || last_lines(stderr)).ok();
    let complaints = child.stderr.take().and_then(listen_to);
    if let Some(stdout) = child.stdout.take() {
        listen(stdout, &mut hear);
    }
    let status = wait(&mut child, pid, control)?;
    let complaints = complaints.and_then(|thread| thread.join().ok()).unwrap_or_default();
    let exit_code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(Ended { exit_code, signal: status.signal(), complaints })
}

fn spawn(arguments: &[String], password: Option<&str>) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("agent").arg("step").arg(std::process::id().to_string()).args(arguments);
    for name in ["IMAGER_REPO", "IMAGER_PASSWORD", "IMAGER_PASSWORD_FILE"] {
        command.env_remove(name);
    }
    if let Some(password) = password {
        command.env("IMAGER_PASSWORD", password);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).spawn()
}

/// The role `step KEEPER ARGUMENTS…`: becomes `imager`, and dies with the keeper, whatever that dies of: nobody works on
/// disks unseen.
pub(crate) fn become_imager(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let keeper = arguments.next().and_then(|pid| pid.parse().ok()).map(Pid::from_raw);
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    if keeper != Some(nix::unistd::getppid()) {
        // The keeper died before that.
        return ExitCode::FAILURE;
    }
    // When memory runs out, rather the step than the keeper or a console.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    let error = Command::new("/proc/self/exe").arg0("imager").arg("--json").args(arguments).exec();
    crate::log::say(&format!("cannot start imager: {error}"));
    ExitCode::FAILURE
}

/// Its number stays its own until nobody can signal it any more.
fn wait(child: &mut Child, pid: Pid, control: &Control) -> io::Result<std::process::ExitStatus> {
    let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while let Err(nix::errno::Errno::EINTR) = waitid(Id::Pid(pid), ended) {}
    control.asked().group = None;
    child.wait()
}

fn listen(stdout: impl Read, hear: &mut impl FnMut(Said)) {
    let mut stdout = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        match stdout.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => hear(parse(&line)),
        }
    }
}

/// A line of `imager --json`.
fn parse(line: &[u8]) -> Said {
    let plain = || Said::Message(String::from_utf8_lossy(line).trim_end().to_owned());
    let Ok(value) = serde_json::from_slice::<Value>(line) else { return plain() };
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    match value.get("type").and_then(Value::as_str) {
        Some("progress") => serde_json::from_value(value).map_or_else(|_| plain(), Said::Progress),
        Some("message") => text("message").map_or_else(plain, Said::Message),
        Some("error") => text("message").map_or_else(plain, Said::Error),
        Some(_) => Said::Result(value),
        None => plain(),
    }
}

fn last_lines(stderr: impl Read) -> Vec<String> {
    let mut kept = std::collections::VecDeque::new();
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match stderr.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return kept.into(),
            Ok(_) if kept.len() == COMPLAINTS_MAX => drop(kept.pop_front()),
            Ok(_) => {}
        }
        kept.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_imager_are_understood() {
        let progress = br#"{"type":"progress","job":"capture","phase":"copying","done":1,"total":2,"bytes_per_second":3,"seconds_left":null,"zero":4,"known":5,"new":6,"stored":7,"level":8}"#;
        let Said::Progress(counts) = parse(progress) else { panic!("no progress") };
        assert_eq!((counts.phase.as_str(), counts.done, counts.total, counts.level), ("copying", 1, 2, 8));
        assert_eq!(parse(br#"{"type":"message","message":"a"}"#), Said::Message("a".into()));
        assert_eq!(parse(br#"{"type":"error","message":"b","exit_code":3}"#), Said::Error("b".into()));
        assert!(matches!(parse(br#"{"type":"captured","image":"x"}"#), Said::Result(_)));
        assert_eq!(parse(b"plain words\n"), Said::Message("plain words".into()));
        assert_eq!(parse(b"{}"), Said::Message("{}".into()));
    }

    #[test]
    fn the_last_complaints_are_kept() {
        let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
        let kept = last_lines(text.as_bytes());
        assert_eq!((kept.len(), kept.last().map(String::as_str)), (COMPLAINTS_MAX, Some("line 99")));
    }
}
