//! The user interface on one console.
//!
//! `update(state, event) → effects` and `draw(state)` are pure; effects are done in threads and come back as events, so
//! that nothing ever makes the user wait for a disk. Must not know: PID 1, other consoles.

mod disk_map;
mod draw;
mod effects;
mod facts;
mod field;
mod files;
mod page;
mod screens;
mod state;
mod terminal;
mod theme;
mod update;

use std::io;
use std::process::{Command, ExitCode};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use self::draw::draw;
use self::state::{Effect, Event, State, Surroundings};
use self::terminal::{Input, Taken};
use self::theme::Theme;
use self::update::update;
use crate::job::client::{Client, Update};
use crate::job::{self};

/// Time between two ticks.
const TICK: Duration = Duration::from_secs(1);
/// Time between two pictures that no key asked for, on a serial line.
const SERIAL_PAUSE: Duration = Duration::from_secs(1);
/// The same elsewhere.
const PAUSE: Duration = Duration::from_millis(100);
/// Events that wait for a console that takes no more: somebody pressed Scroll Lock, or a modem holds the line. Who has more
/// to say waits, so that memory does not fill.
const EVENTS_MAX: usize = 32;

/// Runs until the console is gone.
#[expect(clippy::print_stderr, reason = "there is no user interface to say it")]
pub(crate) fn run() -> ExitCode {
    match run_on_terminal() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the user interface ended: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_on_terminal() -> io::Result<()> {
    let surroundings = terminal::surroundings();
    let (sender, events) = mpsc::sync_channel(EVENTS_MAX);
    let taken = Taken::take()?;
    let size = terminal::assume_size(&surroundings);
    let mut screen = Terminal::new(CrosstermBackend::new(io::stdout()))?;
    let (mut state, mut wanted) =
        State::new(Theme::of(&surroundings), where_this_runs(), job::run_directory().join("log"));
    // There is something to see before the terminal was asked for its size, and the keeper was found.
    screen.draw(|frame| draw(&state, frame))?;
    if let Ok(console) = std::env::var(crate::init::CONSOLE) {
        crate::log::say(&format!("console {console}: the first screen is there"));
    }
    let input = Input::start(sender.clone(), size)?;
    let from_keeper = sender.clone();
    let keeper = Client::start(move |update| {
        let event = match update {
            Update::Status(status) => Event::Job(status),
            Update::Refused(refusal) => Event::Refused(refusal.refused),
            Update::Lost => Event::KeeperLost,
        };
        from_keeper.send(event).is_ok()
    })?;
    effects::watch(sender.clone(), effects::ram_disks(state.surroundings()));

    let pause = if surroundings.is_serial() { SERIAL_PAUSE } else { PAUSE };
    let mut clock = Clock::new(pause);
    loop {
        // What this thread has to say to itself: it cannot wait for room among the events, which only it makes.
        let mut own = Vec::new();
        for effect in wanted.drain(..) {
            match effect {
                Effect::Quit => {
                    drop(taken);
                    return Ok(());
                }
                Effect::Redraw => {
                    input.measure();
                    let _cursor = input.cursor()?;
                    screen.clear()?;
                }
                Effect::Shell => {
                    if let Err(why) = input.lend(shell)?? {
                        own.push(Event::Refused(why));
                    }
                    screen.clear()?;
                }
                Effect::Send(request) => {
                    if let Err(error) = keeper.send(&request) {
                        own.push(Event::Refused(format!("That could not be passed on: {error}.")));
                    }
                }
                effect => own.extend(effects::start(effect, &sender)),
            }
        }
        if clock.is_time_to_draw() {
            let _cursor = input.cursor()?;
            screen.draw(|frame| draw(&state, frame))?;
        }
        for event in clock.next(&events, own, state.is_moving()) {
            #[cfg(debug_assertions)]
            break_where_asked("main", matches!(event, Event::Key(BREAK)).then_some(()));
            match event {
                Event::Hangup => return Ok(()),
                Event::Tick if terminal::is_gone() => return Ok(()),
                Event::Resize => screen.autoresize()?,
                _ => {}
            }
            wanted.extend(update(&mut state, event));
        }
    }
}

/// Whether there is something new to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Picture {
    Same,
    /// When the pause is over.
    Soon,
    /// A key was pressed: whoever pressed it waits.
    Now,
}

/// When the next picture and the next tick are due.
struct Clock {
    tick: Instant,
    drawn: Instant,
    pause: Duration,
    picture: Picture,
}

impl Clock {
    fn new(pause: Duration) -> Self {
        Self { tick: Instant::now(), drawn: Instant::now(), pause, picture: Picture::Now }
    }

    fn is_time_to_draw(&mut self) -> bool {
        let is_time = match self.picture {
            Picture::Same => false,
            Picture::Soon => self.drawn.elapsed() >= self.pause,
            Picture::Now => true,
        };
        if is_time {
            (self.drawn, self.picture) = (Instant::now(), Picture::Same);
        }
        is_time
    }

    /// What happened meanwhile, behind what is known already. A tick counts for the picture only where something moves.
    fn next(&mut self, events: &Receiver<Event>, mut found: Vec<Event>, is_moving: bool) -> Vec<Event> {
        let mut wait = TICK.saturating_sub(self.tick.elapsed());
        if self.picture == Picture::Soon {
            wait = wait.min(self.pause.saturating_sub(self.drawn.elapsed()));
        }
        if found.is_empty() {
            match events.recv_timeout(wait) {
                Ok(event) => found.push(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => found.push(Event::Hangup),
            }
        }
        // However fast more comes, it is drawn now and then.
        found.extend(events.try_iter().take(EVENTS_MAX));
        let is_urgent = |event: &Event| matches!(event, Event::Key(_) | Event::Resize | Event::Refused(_));
        if found.iter().any(is_urgent) {
            self.picture = Picture::Now;
        } else if !found.is_empty() && self.picture == Picture::Same {
            self.picture = Picture::Soon;
        }
        if self.tick.elapsed() >= TICK {
            self.tick = Instant::now();
            found.push(Event::Tick);
            if is_moving && self.picture == Picture::Same {
                self.picture = Picture::Soon;
            }
        }
        found
    }
}

/// In builds for tests, this key breaks the thread that `LIFEBOAT_BREAK` names. No other key should.
#[cfg(debug_assertions)]
const BREAK: state::Key = state::Key::Char('!');

/// Panics when it is time to and this is the thread that is to break.
#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "that is what is tried out")]
fn break_where_asked(thread: &str, time: Option<()>) {
    if time.is_some() && std::env::var("LIFEBOAT_BREAK").as_deref() == Ok(thread) {
        panic!("as if by mistake");
    }
}

/// On our own medium, PID 1 is this very program.
fn where_this_runs() -> Surroundings {
    let program = |path: &str| std::fs::read_link(path).ok();
    match (program("/proc/1/exe"), program("/proc/self/exe")) {
        (Some(first), Some(own)) if first == own => Surroundings::Medium,
        _ => Surroundings::Guest,
    }
}

/// A shell on this terminal, until its user leaves it. The inner error is for the user.
fn shell() -> io::Result<Result<(), String>> {
    terminal::give_back();
    let ran =
        ["/bin/sh", "/bin/bash", "/bin/busybox"].iter().find(|path| std::path::Path::new(path).exists()).map(|path| {
            let mut command = Command::new(path);
            if path.ends_with("busybox") {
                command.arg("sh");
            }
            command.status()
        });
    terminal::take_again()?;
    Ok(match ran {
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(format!("The shell cannot be started: {error}.")),
        None => Err("There is no shell on this medium: it was made without one. All else works without it.".to_owned()),
    })
}

#[cfg(test)]
mod tests;
