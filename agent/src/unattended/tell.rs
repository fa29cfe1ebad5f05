//! Lines on every console, for people or for programs.
//!
//! A console that takes no more is passed over: nobody's screen may hold a job up. Must not know: what is done.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use imager::units::{duration, size};
use nix::fcntl::OFlag;
use serde_json::{Value, json};

use super::words::Values;
use crate::job::{Counts, Job, State, Status};

/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    News,
    Problem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    Json,
}

/// Says everything on every console.
pub(super) struct Teller {
    consoles: Vec<File>,
    form: Form,
    enter: Arc<AtomicBool>,
    told: Option<Instant>,
    phase: String,
    step: Option<usize>,
    messages: usize,
}

impl Teller {
    pub(super) fn on_all_consoles() -> Self {
        let flags = (OFlag::O_NOCTTY | OFlag::O_NONBLOCK).bits();
        let open = |name: String| {
            File::options().read(true).write(true).custom_flags(flags).open(Path::new("/dev").join(name)).ok()
        };
        let consoles = crate::init::console_names().into_iter().filter_map(open).collect();
        Self {
            consoles,
            form: Form::Plain,
            enter: Arc::default(),
            told: None,
            phase: String::new(),
            step: None,
            messages: 0,
        }
    }

    /// What `lifeboat.progress` says.
    pub(super) fn set_tone(&mut self, values: &Values) -> Result<(), Vec<String>> {
        self.form = match values.get("lifeboat.progress").map(String::as_str) {
            None | Some("plain") => Form::Plain,
            Some("json") => Form::Json,
            Some(other) => return Err(vec![format!("lifeboat.progress={other}: give plain or json")]),
        };
        Ok(())
    }

    pub(super) fn say(&mut self, tone: Tone, line: &str) {
        crate::log::say(line);
        match (self.form, tone) {
            (Form::Plain, Tone::News) => self.line(&format!("lifeboat: {line}")),
            (Form::Plain, Tone::Problem) => self.line(&format!("lifeboat: PROBLEM: {line}")),
            (Form::Json, Tone::News) => self.json(&json!({"type": "message", "message": line})),
            (Form::Json, Tone::Problem) => self.json(&json!({"type": "error", "message": line})),
        }
    }

    fn json(&mut self, value: &Value) {
        self.line(&value.to_string());
    }

    fn line(&mut self, line: &str) {
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        for console in &mut self.consoles {
            write_patiently(console, format!("{line}\r\n").as_bytes());
        }
    }

    /// What begins now.
    pub(super) fn begin(&mut self, job: &Job) {
        self.say(Tone::News, &job.title);
        if self.form == Form::Plain {
            self.line("lifeboat: press Enter for the screens; the job goes on");
        }
    }

    /// Says what is new in a status; once the job has ended, its exit code.
    pub(super) fn status(&mut self, status: &Status) -> Option<ExitCode> {
        for message in status.messages.iter().skip(self.messages) {
            self.say(Tone::News, message);
        }
        self.messages = status.messages.len();
        if self.step != Some(status.step) {
            self.step = Some(status.step);
            if let Some(says) = status.steps.get(status.step) {
                let (number, all) = (status.step + 1, status.steps.len());
                self.say(Tone::News, &format!("step {number} of {all}: {says}"));
            }
        }
        if let State::Ended { exit_code, error } = &status.state {
            for result in &status.results {
                self.result(result);
            }
            self.ended(*exit_code, error.as_deref());
            return Some(exit_code.map_or(ExitCode::FAILURE, ExitCode::from));
        }
        if let Some(counts) = &status.progress {
            let is_due = self.told.is_none_or(|told| told.elapsed() >= PROGRESS);
            if is_due || counts.phase != self.phase {
                self.told = Some(Instant::now());
                self.phase.clone_from(&counts.phase);
                match self.form {
                    Form::Plain => self.line(&format!("lifeboat: {}", progress(counts))),
                    Form::Json => {
                        // The map is for drawing, and long for a slow line.
                        let counts = Counts { map: Vec::new(), ..counts.clone() };
                        self.json(&json!({"type": "progress", "progress": counts, "seconds": status.seconds}));
                    }
                }
            }
        }
        None
    }

    fn result(&mut self, result: &Value) {
        if self.form == Form::Json {
            self.json(result);
            return;
        }
        let number = |pointer: &str| result.pointer(pointer).and_then(Value::as_u64).map(size);
        let image = result.get("image").and_then(Value::as_str).unwrap_or_default();
        let line = match result.get("type").and_then(Value::as_str) {
            Some("captured") => {
                let (read, stored) = (number("/stats/read"), number("/stats/stored"));
                format!("image {image}: {} read, {} added", read.unwrap_or_default(), stored.unwrap_or_default())
            }
            Some("restored") => {
                format!("image {image} restored: {} written", number("/result/written").unwrap_or_default())
            }
            _ => return,
        };
        self.line(&format!("lifeboat: {line}"));
    }

    /// The last line: how it ended.
    pub(super) fn ended(&mut self, exit_code: Option<u8>, error: Option<&str>) {
        if self.form == Form::Json {
            self.json(&json!({"type": "ended", "exit_code": exit_code, "error": error}));
            return;
        }
        let line = match (exit_code, error) {
            (Some(0), _) => "done: exit status 0".to_owned(),
            (Some(code), None) => format!("done, with exit status {code}"),
            (Some(code), Some(error)) => format!("FAILED: exit status {code}: {error}"),
            (None, error) => format!("FAILED: {}", error.unwrap_or("the job was killed")),
        };
        self.line(&format!("lifeboat: {line}"));
    }

    /// From now on Enter on any console is noticed.
    pub(super) fn listen_for_enter(&self) {
        for console in &self.consoles {
            let Ok(mut console) = console.try_clone() else { continue };
            let enter = Arc::clone(&self.enter);
            // Without a thread nobody listens there; the job does not need it.
            let _ = thread::Builder::new().name("enter".into()).spawn(move || {
                let mut key = [0; 64];
                loop {
                    match console.read(&mut key) {
                        Ok(count) if count > 0 => {
                            let typed = key.get(..count).unwrap_or_default();
                            if typed.iter().any(|key| b"\r\n".contains(key)) {
                                enter.store(true, Ordering::SeqCst);
                                return;
                            }
                        }
                        Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return,
                        _ => {}
                    }
                    thread::sleep(Duration::from_millis(200));
                }
            });
        }
    }

    pub(super) fn is_enter_pressed(&self) -> bool {
        self.enter.load(Ordering::SeqCst)
    }

    /// Leaves what was said on the consoles until somebody has read it.
    pub(super) fn wait_for_enter(&mut self) {
        if self.form == Form::Plain {
            self.line("lifeboat: press Enter for the screens");
        }
        self.listen_for_enter();
        while !self.is_enter_pressed() && !self.consoles.is_empty() {
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// As much as the console takes within a second; a slow line needs its time.
fn write_patiently(console: &mut File, mut bytes: &[u8]) {
    let began = Instant::now();
    while !bytes.is_empty() && began.elapsed() < Duration::from_secs(1) {
        match console.write(bytes) {
            Ok(count) if count > 0 => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return,
            _ => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// "copying 42 %, 1.20 GiB of 2.85 GiB, 210 MiB/s, 8 s left".
fn progress(counts: &Counts) -> String {
    let mut line = counts.phase.clone();
    if counts.total > 0 {
        let done = counts.done.min(counts.total);
        let percent = u128::from(done) * 100 / u128::from(counts.total);
        line += &format!(" {percent} %, {} of {}", size(done), size(counts.total));
    }
    if counts.bytes_per_second > 0 {
        line += &format!(", {}/s", size(counts.bytes_per_second));
    }
    if let Some(left) = counts.seconds_left {
        line += &format!(", {} left", duration(Duration::from_secs(left)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_one_line() {
        let counts = Counts {
            phase: "copying".into(),
            done: 1 << 30,
            total: 1 << 31,
            bytes_per_second: 1 << 20,
            seconds_left: Some(70),
            ..Counts::default()
        };
        assert_eq!(progress(&counts), "copying 50 %, 1.00 GiB of 2.00 GiB, 1.00 MiB/s, 1 min 10 s left");
        assert_eq!(progress(&Counts { phase: "planning".into(), ..Counts::default() }), "planning");
    }
}
