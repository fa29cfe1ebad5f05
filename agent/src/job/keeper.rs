//! Runs one job at a time, each step as a process of its own, and tells every console how it goes.
//!
//! What runs is noted in a file, so that a keeper that was started anew can say what became of it.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::step::{self, Control, Said};
use super::{Counts, Job, MESSAGES_MAX, RATES_MAX, Refusal, Request, State, Status, report, run_directory, socket};
use crate::log::say;

/// Between two words to a console, at least.
const TELL: Duration = Duration::from_millis(500);

/// Between two words to a console while a job runs, at most.
const SECOND: Duration = Duration::from_secs(1);

/// How long a console may take to listen before it is given up.
const CONSOLE_SLOW: Duration = Duration::from_secs(10);

/// Between the end of a job and the end of the machine, for every console to show how it went.
const LAST_LOOK: Duration = Duration::from_secs(3);

/// Bytes of a request.
const REQUEST_MAX: u64 = 1 << 20;

/// `imager`'s exit code for an image of which some sectors could not be read.
const EXIT_UNREADABLE: u8 = 10;

/// Runs until it is told to end. SIGTERM ends the job cleanly first.
pub(crate) fn run() -> ExitCode {
    match keep() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("cannot keep jobs: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn keep() -> io::Result<()> {
    fs::create_dir_all(run_directory())?;
    let keeper = Arc::new(Keeper::default());
    keeper.take_over();
    let path = socket();
    // Of a keeper that is gone: PID 1 starts one at a time.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let ending = Arc::clone(&keeper);
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut is_first = true;
        for _ in signals.forever() {
            if !is_first || !ending.shared().is_busy() {
                // The second signal does not wait for the job.
                std::process::exit(0);
            }
            is_first = false;
            // Refused when the job is about to end by itself.
            let _ = ending.cancel();
            let waiting = Arc::clone(&ending);
            let wait = move || {
                waiting.wait_for_end();
                std::process::exit(0);
            };
            if thread::Builder::new().name("ending".into()).spawn(wait).is_err() {
                // A second signal is not heard then; PID 1 waits no longer than it wants to.
                ending.wait_for_end();
                std::process::exit(0);
            }
        }
    })?;
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            thread::sleep(TELL);
            continue;
        };
        let keeper = Arc::clone(&keeper);
        // Without a thread, that console is told nothing and tries again.
        let _ = thread::Builder::new().name("console".into()).spawn(move || keeper.serve(&stream));
    }
    Ok(())
}

#[derive(Default)]
struct Keeper {
    shared: Mutex<Shared>,
    changed: Condvar,
}

#[derive(Default)]
struct Shared {
    status: Option<Status>,
    /// Of the newest job.
    number: u64,
    control: Arc<Control>,
    clock: Clock,
    /// Counts the changes.
    version: u64,
    /// The report is being written, or the machine about to be turned off.
    is_finishing: bool,
}

impl Shared {
    fn is_busy(&self) -> bool {
        self.is_finishing || self.status.as_ref().is_some_and(|status| !matches!(status.state, State::Ended { .. }))
    }

    /// As consoles get it.
    fn snapshot(&self) -> Option<Status> {
        self.status.as_ref().map(|status| Status { seconds: self.clock.elapsed().as_secs(), ..status.clone() })
    }
}

/// The time that a job took, without pauses.
#[derive(Default)]
struct Clock {
    before: Duration,
    since: Option<Instant>,
}

impl Clock {
    fn go(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    fn stop(&mut self) {
        self.before = self.elapsed();
        self.since = None;
    }

    fn elapsed(&self) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// What is noted of a job for the next keeper.
#[derive(Serialize, Deserialize)]
struct Note {
    status: Status,
    /// The process group of the step that runs.
    group: Option<i32>,
}

fn note_file() -> PathBuf {
    run_directory().join("job.json")
}

impl Keeper {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Shared)) {
        let mut shared = self.shared();
        change(&mut shared);
        shared.version += 1;
        self.changed.notify_all();
    }

    fn change_status(&self, change: impl FnOnce(&mut Status)) {
        self.change(|shared| {
            if let Some(status) = &mut shared.status {
                change(status);
            }
        });
    }

    /// Ends what an earlier keeper left running, and says what happened.
    fn take_over(&self) {
        let Some(note) = fs::read(note_file()).ok().and_then(|bytes| serde_json::from_slice::<Note>(&bytes).ok())
        else {
            return;
        };
        let Note { mut status, group } = note;
        if !matches!(status.state, State::Ended { .. }) {
            if let Some(group) = group {
                end_left_over(group);
            }
            let error = "the program that kept the job was killed, and the job with it. What was stored is kept: start the job again, and it goes on from there";
            say(&format!("{}: {error}", status.title));
            status.state = State::Ended { exit_code: None, error: Some(error.to_owned()) };
        }
        let before = Duration::from_secs(status.seconds);
        self.change(|shared| {
            shared.number = status.number;
            shared.status = Some(status);
            shared.clock = Clock { before, since: None };
        });
        self.note(None);
    }

    /// Notes the job for the next keeper.
    fn note(&self, group: Option<Pid>) {
        let status = self.shared().snapshot();
        let written = match status {
            Some(status) => serde_json::to_vec(&Note { status, group: group.map(Pid::as_raw) })
                .map_err(io::Error::from)
                .and_then(|bytes| {
                    let partial = note_file().with_extension("partial");
                    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, note_file()));
                    // Half a note is of no use, and takes room where there is none.
                    written.inspect_err(|_| drop(fs::remove_file(&partial)))
                }),
            None => fs::remove_file(note_file()),
        };
        match written {
            Err(error) if error.kind() != io::ErrorKind::NotFound => say(&format!("cannot note the job: {error}")),
            _ => {}
        }
    }

    /// One console, until it is gone.
    fn serve(self: &Arc<Self>, stream: &UnixStream) {
        let Ok(writer) = stream.try_clone() else { return };
        let _ = writer.set_write_timeout(Some(CONSOLE_SLOW));
        let writer = Arc::new(Mutex::new(writer));
        let is_gone = Arc::new(AtomicBool::new(false));
        let (keeper, told, gone) = (Arc::clone(self), Arc::clone(&writer), Arc::clone(&is_gone));
        let telling = thread::Builder::new().name("telling".into()).spawn(move || keeper.tell(&told, &gone));
        if telling.is_err() {
            return;
        }
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.by_ref().take(REQUEST_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            let granted = serde_json::from_slice::<Request>(&line)
                .map_err(|error| format!("the keeper does not understand the request: {error}"))
                .and_then(|request| self.grant(request));
            if let Err(refused) = granted
                && write_line(&writer, &Refusal { refused }).is_err()
            {
                break;
            }
        }
        is_gone.store(true, Ordering::SeqCst);
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }

    /// Tells a console of every change, and of the time that passes, until it is gone.
    fn tell(&self, writer: &Mutex<UnixStream>, is_gone: &AtomicBool) {
        let mut told = None;
        while !is_gone.load(Ordering::SeqCst) {
            let mut shared = self.shared();
            if told == Some(shared.version) {
                shared = self.changed.wait_timeout(shared, SECOND).unwrap_or_else(PoisonError::into_inner).0;
                if told == Some(shared.version) && shared.clock.since.is_none() {
                    continue;
                }
            }
            told = Some(shared.version);
            let status = shared.snapshot();
            drop(shared);
            if write_line(writer, &status).is_err() {
                // One that listens no more is not left believing that nothing happens: it comes back when it can.
                let writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = writer.shutdown(std::net::Shutdown::Both);
                return;
            }
            thread::sleep(TELL);
        }
    }

    fn grant(self: &Arc<Self>, request: Request) -> Result<(), String> {
        match request {
            Request::Start(job) => self.start(job),
            Request::Pause => self.pause(),
            Request::Resume => self.resume(),
            Request::Cancel => self.cancel(),
            Request::Dismiss => self.dismiss(),
            Request::Power(power) => {
                if self.shared().is_busy() {
                    return Err("a job runs; cancel it, or wait for its end".into());
                }
                crate::power::ask(power).map_err(|error| error.to_string())
            }
        }
    }

    fn start(self: &Arc<Self>, job: Job) -> Result<(), String> {
        if job.steps.is_empty() {
            return Err("the job has no steps".into());
        }
        let control = Arc::new(Control::default());
        {
            let mut shared = self.shared();
            if shared.is_busy() {
                return Err("another job runs; cancel it, or wait for its end".into());
            }
            shared.version += 1;
            shared.control = Arc::clone(&control);
            shared.clock = Clock { before: Duration::ZERO, since: Some(Instant::now()) };
            shared.number += 1;
            shared.status = Some(Status {
                number: shared.number,
                title: job.title.clone(),
                kind: job.kind,
                steps: job.steps.iter().map(|step| step.says.clone()).collect(),
                step: 0,
                state: State::Running,
                seconds: 0,
                progress: None,
                rates: Vec::new(),
                messages: Vec::new(),
                results: Vec::new(),
                report: None,
            });
            self.changed.notify_all();
        }
        say(&format!("job begins: {}", job.title));
        let keeper = Arc::clone(self);
        let begun = thread::Builder::new().name("job".into()).spawn(move || {
            if keeper.ends_whatever_happens(|| keeper.work(&job, &control)).is_err() {
                keeper.note(None);
            }
        });
        begun.map(drop).map_err(|error| {
            let error = format!("cannot start the job: {error}");
            self.change(|shared| end(shared, None, Some(error.clone())));
            error
        })
    }

    fn pause(&self) -> Result<(), String> {
        let mut shared = self.shared();
        match shared.status.as_mut().map(|status| &mut status.state) {
            Some(state @ State::Running) => *state = State::Paused,
            _ => return Err("no job runs that could pause".into()),
        }
        shared.control.pause();
        shared.clock.stop();
        shared.version += 1;
        self.changed.notify_all();
        Ok(())
    }

    fn resume(&self) -> Result<(), String> {
        let mut shared = self.shared();
        match shared.status.as_mut().map(|status| &mut status.state) {
            Some(state @ State::Paused) => *state = State::Running,
            _ => return Err("no job has paused".into()),
        }
        shared.control.resume();
        shared.clock.go();
        shared.version += 1;
        self.changed.notify_all();
        Ok(())
    }

    /// The second time, the step ends at once.
    fn cancel(&self) -> Result<(), String> {
        let mut shared = self.shared();
        match shared.status.as_mut().map(|status| &mut status.state) {
            Some(state @ (State::Running | State::Paused | State::Cancelling)) => *state = State::Cancelling,
            _ => return Err("no job runs".into()),
        }
        shared.control.cancel();
        shared.clock.go();
        shared.version += 1;
        self.changed.notify_all();
        Ok(())
    }

    fn dismiss(&self) -> Result<(), String> {
        if self.shared().is_busy() {
            return Err("the job still runs; cancel it, or wait for its end".into());
        }
        self.change(|shared| shared.status = None);
        self.note(None);
        Ok(())
    }

    fn wait_for_end(&self) {
        let mut shared = self.shared();
        while shared.is_busy() {
            shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A programming error in the work ends the job, too: beside one that seems to run for ever no other could be started, and
    /// the machine could not be turned off from the screens.
    fn ends_whatever_happens(&self, work: impl FnOnce()) -> thread::Result<()> {
        let worked = catch_unwind(AssertUnwindSafe(work));
        if worked.is_err() {
            let error = "a programming error ended the job; the log says more. What was stored is kept: start the job again, and it goes on from there";
            self.change(|shared| {
                shared.is_finishing = false;
                end(shared, None, Some(error.to_owned()));
            });
        }
        worked
    }

    /// All steps, in a thread of its own: steps die with the thread that started them.
    fn work(&self, job: &Job, control: &Control) {
        let mut exit_code = Some(0);
        let mut error = None;
        for (number, step) in job.steps.iter().enumerate() {
            self.change_status(|status| {
                status.step = number;
                status.progress = None;
            });
            let mut said_error = None;
            let mut rate = Rate::default();
            let hear = |said| match said {
                Said::Error(message) => said_error = Some(message),
                Said::Message(message) => self.change_status(|status| push(&mut status.messages, message)),
                Said::Result(value) => self.change_status(|status| status.results.push(value)),
                Said::Progress(counts) => {
                    let sample = rate.sample(&counts);
                    self.change_status(|status| {
                        status.rates.extend(sample);
                        let surplus = status.rates.len().saturating_sub(RATES_MAX);
                        status.rates.drain(..surplus);
                        status.progress = Some(counts);
                    });
                }
            };
            let ended =
                step::run(&step.arguments, job.password.as_deref(), control, |group| self.note(Some(group)), hear);
            (exit_code, error) = outcome(ended, said_error, exit_code);
            if !matches!(exit_code, Some(0 | EXIT_UNREADABLE)) || error.is_some() {
                break;
            }
        }
        if control.is_cancelled() && exit_code == Some(130) {
            error = Some("cancelled; what was stored is kept".to_owned());
        }
        self.finish(job, exit_code, error);
    }

    /// The report is written and everything is on the medium before anybody hears that the job has ended: who pulls
    /// the stick then loses nothing.
    fn finish(&self, job: &Job, exit_code: Option<u8>, error: Option<String>) {
        self.change(|shared| shared.is_finishing = true);
        let ended = self
            .shared()
            .snapshot()
            .map(|status| Status { state: State::Ended { exit_code, error: error.clone() }, ..status });
        let mut report = None;
        // Not under the lock: a slow stick must not keep the consoles waiting.
        if let (Some(directory), Some(status)) = (&job.report, ended) {
            match report::write(directory, &status, Timestamp::now()) {
                Ok(path) => report = Some(path),
                Err(error) => {
                    let line = format!("no report could be written to {}: {error}", directory.display());
                    say(&line);
                    self.change_status(|status| push(&mut status.messages, line));
                }
            }
        }
        nix::unistd::sync();
        let power = job.then.filter(|_| exit_code == Some(0));
        self.change(|shared| {
            shared.is_finishing = power.is_some();
            if let Some(status) = &mut shared.status {
                status.report = report;
            }
            end(shared, exit_code, error);
        });
        self.note(None);
        if let Some(power) = power {
            thread::sleep(LAST_LOOK);
            if let Err(error) = crate::power::ask(power) {
                let line = format!("the machine stays on: {error}");
                say(&line);
                self.change_status(|status| push(&mut status.messages, line));
            }
            self.change(|shared| shared.is_finishing = false);
            self.note(None);
        }
    }
}

fn end(shared: &mut Shared, exit_code: Option<u8>, error: Option<String>) {
    shared.clock.stop();
    if let Some(status) = &mut shared.status {
        let shown = match (exit_code, &error) {
            (Some(0), _) => "done".to_owned(),
            (Some(code), None) => format!("done with exit code {code}"),
            (_, Some(error)) => error.clone(),
            (None, None) => "killed".to_owned(),
        };
        say(&format!("job ends: {}: {shown}", status.title));
        status.state = State::Ended { exit_code, error };
    }
}

fn write_line(writer: &Mutex<UnixStream>, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    writer.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
}

fn push(messages: &mut Vec<String>, message: String) {
    if messages.len() >= MESSAGES_MAX {
        messages.remove(0);
    }
    messages.push(message);
}

/// A step dies with its keeper. Should it live on, for whatever reason, it ends here.
fn end_left_over(group: i32) {
    let command_line = fs::read(format!("/proc/{group}/cmdline")).unwrap_or_default();
    // The number may be another's by now.
    if command_line.starts_with(b"imager\0--json\0") {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

/// Exit code and error of the job so far, after a step.
fn outcome(ended: io::Result<step::Ended>, said: Option<String>, before: Option<u8>) -> (Option<u8>, Option<String>) {
    let ended = match ended {
        Ok(ended) => ended,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return (Some(130), None),
        Err(error) => return (None, Some(format!("cannot start imager: {error}"))),
    };
    let complaints = || Some(ended.complaints.join("; ")).filter(|text| !text.is_empty());
    match (ended.exit_code, ended.signal) {
        // What an earlier step had to remark stays true.
        (Some(0), _) => (before, None),
        (Some(EXIT_UNREADABLE), _) => (Some(EXIT_UNREADABLE), said),
        (Some(code), _) => {
            let error = said.or_else(complaints);
            (Some(code), error.or_else(|| Some(format!("imager ended with exit code {code}"))))
        }
        (None, Some(nix::libc::SIGKILL)) => {
            let error = "imager was killed: most likely memory ran out. What was stored is kept; the same job again goes on from there";
            (None, Some(error.to_owned()))
        }
        (None, signal) => {
            let signal = signal.map_or_else(|| "?".to_owned(), |signal| signal.to_string());
            let error = format!("imager was ended by signal {signal}, which is a programming error in it");
            let complaints = complaints().map(|text| format!(": {text}")).unwrap_or_default();
            (None, Some(error + &complaints))
        }
    }
}

/// Bytes a second between two reports of the same phase.
#[derive(Default)]
struct Rate {
    last: Option<(String, u64, Instant)>,
}

impl Rate {
    fn sample(&mut self, counts: &Counts) -> Option<u64> {
        let now = Instant::now();
        let last = self.last.replace((counts.phase.clone(), counts.done, now));
        let (phase, done, then) = last.filter(|(phase, ..)| *phase == counts.phase)?;
        let _ = phase;
        let millis = now.saturating_duration_since(then).as_millis().max(1);
        u64::try_from(u128::from(counts.done.saturating_sub(done)) * 1000 / millis).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Kind;

    fn ended(exit_code: Option<u8>, signal: Option<i32>) -> io::Result<step::Ended> {
        Ok(step::Ended { exit_code, signal, complaints: vec!["a".into(), "b".into()] })
    }

    fn status() -> Status {
        Status {
            number: 1,
            title: "t".into(),
            kind: Kind::Capture,
            steps: vec!["s".into()],
            step: 0,
            state: State::Running,
            seconds: 0,
            progress: None,
            rates: Vec::new(),
            messages: Vec::new(),
            results: Vec::new(),
            report: None,
        }
    }

    #[test]
    fn every_end_has_its_words() {
        let said = || Some("said".to_owned());
        assert_eq!(outcome(ended(Some(0), None), None, Some(0)), (Some(0), None));
        assert_eq!(outcome(ended(Some(0), None), None, Some(10)), (Some(10), None));
        assert_eq!(outcome(ended(Some(10), None), None, Some(0)), (Some(10), None));
        assert_eq!(outcome(ended(Some(5), None), said(), Some(0)), (Some(5), said()));
        assert_eq!(outcome(ended(Some(1), None), None, Some(0)), (Some(1), Some("a; b".into())));
        let (code, error) = outcome(ended(None, Some(9)), None, Some(0));
        assert!(code.is_none() && error.is_some_and(|error| error.contains("memory ran out")));
        assert_eq!(outcome(Err(io::ErrorKind::Interrupted.into()), None, Some(0)).0, Some(130));
    }

    #[test]
    fn a_job_that_panics_has_ended() {
        let keeper = Keeper::default();
        keeper.change(|shared| (shared.status, shared.is_finishing) = (Some(status()), true));
        assert!(keeper.ends_whatever_happens(|| panic!("as if by mistake")).is_err());
        assert!(!keeper.shared().is_busy());
        let state = keeper.shared().snapshot().map(|status| status.state);
        assert!(
            matches!(&state, Some(State::Ended { exit_code: None, error: Some(error) }) if error.contains("start the job again")),
            "{state:?}"
        );
    }

    #[test]
    fn a_console_that_does_not_listen_is_let_go() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        let keeper = Keeper::default();
        let status = Status { messages: vec!["x".repeat(8 << 20)], ..status() };
        keeper.change(|shared| shared.status = Some(status));
        keeper.tell(&Mutex::new(ours.try_clone().unwrap()), &AtomicBool::new(false));
        // It hears that nobody speaks to it any more, though another holds the line, too.
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).unwrap();
        assert!(!heard.is_empty() && heard.len() < 8 << 20);
        drop(ours);
    }

    #[test]
    fn the_clock_leaves_pauses_out() {
        let mut clock = Clock { before: Duration::from_secs(5), since: None };
        clock.go();
        clock.stop();
        let stopped = clock.elapsed();
        thread::sleep(Duration::from_millis(20));
        assert_eq!(clock.elapsed(), stopped);
        assert!(stopped >= Duration::from_secs(5) && stopped < Duration::from_secs(6));
    }

    #[test]
    fn rates_are_of_one_phase() {
        let counts = |phase: &str, done| Counts { phase: phase.into(), done, ..Counts::default() };
        let mut rate = Rate::default();
        assert_eq!(rate.sample(&counts("planning", 10)), None);
        assert!(rate.sample(&counts("planning", 1000)).is_some_and(|rate| rate > 0));
        assert_eq!(rate.sample(&counts("copying", 0)), None);
    }
}
