//! Progress on a terminal as a bar, for programs as lines of JSON; Ctrl-C.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::{Global, print_json};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::units::{duration, size};

/// Shows a job's progress until it is dropped.
pub(super) struct Watch {
    progress: Arc<Progress>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts watching. The first Ctrl-C asks the job to stop, the second ends the process at once.
    pub(super) fn start(global: &Global, verb: &'static str) -> Result<Self> {
        Self::start_as(if global.json { Shown::Json } else { Shown::Bar }, verb)
    }

    /// As [`Watch::start`], for work that has the terminal to itself: messages are shown, how far it is, is not.
    pub(super) fn silent(verb: &'static str) -> Result<Self> {
        Self::start_as(Shown::Messages, verb)
    }

    fn start_as(shown: Shown, verb: &'static str) -> Result<Self> {
        let progress = Arc::new(Progress::new());
        let done = Arc::new(AtomicBool::new(false));
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            let register = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupted)));
            register.map_err(|error| Error::Internal(format!("cannot watch for Ctrl-C: {error}")))?;
        }
        let shared = (Arc::clone(&progress), Arc::clone(&done));
        let thread = std::thread::Builder::new()
            .name("progress".into())
            .spawn(move || show(&shared.0, &shared.1, &interrupted, verb, shown))
            .map_err(|error| Error::Internal(format!("cannot start a thread: {error}")))?;
        Ok(Self { progress, done, thread: Some(thread) })
    }

    /// The counters that the job counts with.
    pub(super) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// What is shown of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// A bar, on a terminal.
    Bar,
    /// Lines of JSON.
    Json,
    /// What it says, nothing else.
    Messages,
}

fn show(progress: &Progress, done: &AtomicBool, interrupted: &AtomicBool, verb: &str, shown: Shown) {
    let json = shown == Shown::Json;
    let is_terminal = std::io::stderr().is_terminal() && shown == Shown::Bar;
    let bar = ProgressBar::with_draw_target(
        None,
        if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
    );
    if let Ok(style) = ProgressStyle::with_template("{msg}") {
        bar.set_style(style);
    }
    let mut state = State { phase: None, began: Instant::now(), told: Instant::now(), stopping: false };
    loop {
        let over = done.load(Ordering::Relaxed);
        for message in progress.take_messages() {
            if json {
                print_json(&serde_json::json!({ "type": "message", "message": message }));
            } else {
                bar.suspend(|| eprintln!("{message}"));
            }
        }
        if interrupted.load(Ordering::Relaxed) && !state.stopping {
            state.stopping = true;
            progress.stop();
            if shown == Shown::Bar {
                bar.suspend(|| eprintln!("Stopping. Press Ctrl-C again to end at once."));
            }
        }
        if over {
            break;
        }
        if is_terminal || json {
            state.tell(progress, &bar, verb, json);
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    bar.finish_and_clear();
}

struct State {
    phase: Option<crate::progress::Phase>,
    began: Instant,
    told: Instant,
    stopping: bool,
}

impl State {
    fn tell(&mut self, progress: &Progress, bar: &ProgressBar, verb: &str, json: bool) {
        let phase = progress.phase();
        if phase != self.phase {
            self.phase = phase;
            self.began = Instant::now();
        }
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (done, total) = (load(&progress.done), load(&progress.total));
        let elapsed = self.began.elapsed();
        // The first moments say nothing.
        let time = elapsed.as_millis();
        let rate = if time < 300 { 0 } else { u64::try_from(u128::from(done) * 1000 / time).unwrap_or(0) };
        let left = (rate > 0 && total > done).then(|| Duration::from_secs((total - done) / rate));
        let word = phase.map_or("starting", crate::progress::Phase::word);
        if json {
            if self.told.elapsed() >= Duration::from_secs(1) {
                self.told = Instant::now();
                let mut line = serde_json::json!({
                    "type": "progress", "job": verb, "phase": word, "done": done, "total": total,
                    "bytes_per_second": rate, "seconds_left": left.map(|left| left.as_secs()),
                    "zero": load(&progress.zero), "known": load(&progress.known), "new": load(&progress.new),
                    "stored": load(&progress.stored), "level": load(&progress.level),
                });
                let covered = progress.covered();
                if let (false, Some(line)) = (covered.is_empty(), line.as_object_mut()) {
                    line.insert("map".to_owned(), serde_json::json!(covered));
                }
                print_json(&line);
            }
            return;
        }
        let columns = super::draw::columns_of(std::io::stderr()).unwrap_or(80);
        let mut lines = bar_line(word, done, total, rate, left, columns);
        let (known, new, stored) = (load(&progress.known), load(&progress.new), load(&progress.stored));
        if verb == "capture" && new + known > 0 {
            lines += &format!("\n  {} known already, {} new", size(known), size(new));
            if stored > 0 {
                lines += &format!(", stored as {} at level {}", size(stored), load(&progress.level));
            }
        }
        bar.set_message(lines);
        bar.tick();
    }
}

/// "copying [=====>    ]  42% 1.20 GiB of 2.85 GiB, 210 MiB/s, 8 s left", or as much of it as fits.
fn bar_line(word: &str, done: u64, total: u64, rate: u64, left: Option<Duration>, columns: usize) -> String {
    if total == 0 {
        return format!("{word} ...");
    }
    let done = done.min(total);
    let percent = format!("{:>3}%", u128::from(done) * 100 / u128::from(total));
    let mut figures = vec![format!(" {} of {}", size(done), size(total))];
    if rate > 0 {
        figures.push(format!(", {}/s", size(rate)));
    }
    figures.extend(left.map(|left| format!(", {} left", duration(left))));
    // The last column stays empty: some terminals go to the next line behind it.
    let room = columns.saturating_sub(word.len() + percent.len() + 2);
    while figures.iter().map(String::len).sum::<usize>() > room {
        figures.pop();
    }
    let figures = figures.concat();
    let room = room.saturating_sub(figures.len() + 3).min(40);
    if room < 5 {
        return format!("{word} {percent}{figures}");
    }
    let full = usize::try_from(u128::from(done) * room as u128 / u128::from(total)).unwrap_or(0);
    let head = if full < room { ">" } else { "" };
    format!("{word} [{:<room$}] {percent}{figures}", "=".repeat(full) + head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fits_its_terminal() {
        let long = Some(Duration::from_secs(86_399));
        for columns in [20, 40, 60, 80, 132] {
            for done in [0, 1 << 30, 1023 << 30, 1 << 40] {
                let line = bar_line("finishing", done, 1 << 40, 1023 << 20, long, columns);
                assert!(line.len() < columns, "{columns}: {line}");
            }
        }
        let line = bar_line("copying", 1 << 30, 1 << 31, 1 << 20, None, 60);
        assert_eq!(line, "copying [=====>     ]  50% 1.00 GiB of 2.00 GiB, 1.00 MiB/s");
        assert_eq!(bar_line("verifying", 0, 0, 0, None, 80), "verifying ...");
    }
}
