//! The terminal: raw while the user interface runs, as it was before afterwards, also after a panic.
//!
//! Must not know: screens.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::execute;
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};

use super::state::{Event, Key};
use super::theme::Surroundings;

/// What a terminal has that does not say.
const COLUMNS: u16 = 80;
const ROWS: u16 = 24;
/// The largest that is believed: a line with noise on it may answer anything, and a picture takes memory.
const COLUMNS_MAX: u16 = 600;
const ROWS_MAX: u16 = 300;
/// The longest that keys wait for the end of a loan.
const POLL: Duration = Duration::from_millis(400);
/// What follows Escape within this time belongs to it: on a slow line, the bytes of an arrow key come one by one.
const ESCAPE: Duration = Duration::from_millis(80);

/// What a process can know of the terminal that it is on.
pub(super) fn surroundings() -> Surroundings {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let device = std::fs::read_link("/proc/self/fd/0").map(|path| path.display().to_string()).unwrap_or_default();
    Surroundings {
        term: variable("TERM").unwrap_or_default(),
        language: ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable).unwrap_or_default(),
        no_color: variable("NO_COLOR").is_some(),
        device,
    }
}

/// The threads without which there is no user interface.
const NEEDED: [&str; 3] = ["main", "keys", "keeper"];
/// As of any program in Rust that panics.
const EXIT_PANIC: i32 = 101;

/// Takes the terminal, and gives it back when it is dropped.
pub(super) struct Taken;

impl Taken {
    /// Raw mode, the other screen, no cursor.
    ///
    /// A panic in a thread that the user interface cannot be without ends all of it, and whoever started it starts another: a
    /// screen that looks well but does not hear would be worse. A panic elsewhere is the end of what was asked for there.
    ///
    /// # Errors
    /// When there is no terminal.
    pub(super) fn take() -> io::Result<Self> {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if thread::current().name().is_some_and(|name| NEEDED.contains(&name)) {
                give_back();
                hook(panic);
                std::process::exit(EXIT_PANIC);
            }
            // Standard error is this terminal when nothing else was said.
            if std::env::var_os(crate::log::VARIABLE).is_some() {
                hook(panic);
            }
        }));
        take_again()?;
        Ok(Self)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

/// After [`give_back`].
///
/// # Errors
/// When the terminal is gone.
pub(super) fn take_again() -> io::Result<()> {
    enable_raw_mode()?;
    // Not every terminal has another screen; then what is there is in the way.
    execute!(io::stdout(), EnterAlternateScreen, Clear(ClearType::All), Hide)
}

/// The line was unplugged. Who waits for keys does not notice: crossterm takes the error for silence and asks again at once,
/// for ever, even where it was given a limit.
pub(super) fn is_gone() -> bool {
    rustix::termios::tcgetattr(io::stdin()).is_err()
}

/// The terminal as it was. A terminal that is gone needs nothing.
pub(super) fn give_back() {
    let _ = execute!(io::stdout(), Show, LeaveAlternateScreen);
    let _ = disable_raw_mode();
}

/// Whether a terminal has to be asked for its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// The kernel knows it.
    Known,
    /// Serial lines have none, or one that somebody guessed.
    Guessed,
}

/// A size for a terminal that has none, to begin with.
pub(super) fn assume_size(surroundings: &Surroundings) -> Size {
    let is_size = |size: Winsize| (1..=COLUMNS_MAX).contains(&size.ws_col) && (1..=ROWS_MAX).contains(&size.ws_row);
    let known = tcgetwinsize(io::stdin()).is_ok_and(is_size);
    if !known {
        set_size(COLUMNS, ROWS);
    }
    if known && !surroundings.is_serial() { Size::Known } else { Size::Guessed }
}

fn set_size(columns: u16, rows: u16) {
    // Drawn at another size it is still usable.
    let _ = tcsetwinsize(io::stdin(), Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 });
}

/// Asks the terminal where its last corner is. One that does not answer keeps its size.
fn find_size() {
    let corner = || -> io::Result<(u16, u16)> {
        execute!(io::stdout(), MoveTo(998, 998))?;
        crossterm::cursor::position()
    };
    if let Ok((x @ 9..COLUMNS_MAX, y @ 4..ROWS_MAX)) = corner() {
        set_size(x.saturating_add(1), y.saturating_add(1));
    }
}

/// Reads keys, except while the terminal is lent.
pub(super) struct Input {
    lent: Arc<AtomicBool>,
    waiting: Arc<AtomicBool>,
    measure: Arc<AtomicBool>,
    size: Size,
    /// Held while the cursor must stay where it is.
    cursor: Arc<Mutex<()>>,
}

impl Input {
    /// Begins to read, into `events`, after the size is known.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(events: SyncSender<Event>, size: Size) -> io::Result<Self> {
        let flag = |on: bool| Arc::new(AtomicBool::new(on));
        let (measure, cursor) = (flag(size == Size::Guessed), Arc::new(Mutex::new(())));
        let input = Self { lent: flag(false), waiting: flag(false), measure, size, cursor };
        let (lent, waiting) = (Arc::clone(&input.lent), Arc::clone(&input.waiting));
        let (measure, cursor) = (Arc::clone(&input.measure), Arc::clone(&input.cursor));
        thread::Builder::new().name("keys".into()).spawn(move || {
            loop {
                if lent.load(Ordering::SeqCst) {
                    waiting.store(true, Ordering::SeqCst);
                    thread::park_timeout(POLL);
                    continue;
                }
                waiting.store(false, Ordering::SeqCst);
                if measure.swap(false, Ordering::SeqCst) {
                    let still = cursor.lock().unwrap_or_else(PoisonError::into_inner);
                    find_size();
                    drop(still);
                    if !deliver(&events, &lent, Event::Resize) {
                        return;
                    }
                }
                let read = match event::poll(POLL) {
                    Ok(true) => next(),
                    Ok(false) => continue,
                    Err(error) => Err(error),
                };
                // The terminal is gone: whoever started this program starts another when there is one again.
                let Ok(found) = read else {
                    waiting.store(true, Ordering::SeqCst);
                    let _ = events.send(Event::Hangup);
                    return;
                };
                for event in found {
                    #[cfg(debug_assertions)]
                    super::break_where_asked("keys", matches!(event, Event::Key(super::BREAK)).then_some(()));
                    if !deliver(&events, &lent, event) {
                        return;
                    }
                }
            }
        })?;
        Ok(input)
    }

    /// Leaves the terminal to `borrower` until it is done.
    ///
    /// # Errors
    /// When the terminal is gone before.
    pub(super) fn lend<T>(&self, borrower: impl FnOnce() -> T) -> io::Result<T> {
        self.lent.store(true, Ordering::SeqCst);
        wait_for(|| self.waiting.load(Ordering::SeqCst).then_some(()))?;
        let done = borrower();
        self.waiting.store(false, Ordering::SeqCst);
        self.lent.store(false, Ordering::SeqCst);
        Ok(done)
    }

    /// Asks a terminal for its size again that may have another by now, and cannot say so by itself.
    pub(super) fn measure(&self) {
        self.measure.store(self.size == Size::Guessed, Ordering::SeqCst);
    }

    /// The cursor may be moved while this is held.
    ///
    /// # Errors
    /// When the terminal is gone before.
    pub(super) fn cursor(&self) -> io::Result<MutexGuard<'_, ()>> {
        wait_for(|| match self.cursor.try_lock() {
            Ok(cursor) => Some(cursor),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        })
    }
}

/// What the thread that reads keys is to give, which never comes from a terminal that is gone: see [`is_gone`].
fn wait_for<T>(given: impl Fn() -> Option<T>) -> io::Result<T> {
    loop {
        if let Some(given) = given() {
            return Ok(given);
        }
        if is_gone() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Hands an event over, once there is room for it; false when nobody takes any. What comes while the terminal is lent is
/// for the borrower, who is waited for.
fn deliver(events: &SyncSender<Event>, lent: &AtomicBool, mut event: Event) -> bool {
    loop {
        match events.try_send(event) {
            Ok(()) => return true,
            Err(TrySendError::Disconnected(_)) => return false,
            Err(TrySendError::Full(_)) if lent.load(Ordering::SeqCst) => return true,
            Err(TrySendError::Full(back)) => event = back,
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The next key or whatever it is; several, when what looked like the beginning of one was not.
fn next() -> io::Result<Vec<Event>> {
    let first = event::read()?;
    let is_escape = matches!(&first, event::Event::Key(key) if key.code == KeyCode::Esc);
    if !is_escape || !event::poll(ESCAPE)? {
        return Ok(translated(&first).into_iter().collect());
    }
    let second = event::read()?;
    let introduces = matches!(&second, event::Event::Key(key) if matches!(key.code, KeyCode::Char('[' | 'O')));
    if !introduces || !event::poll(ESCAPE)? {
        return Ok([first, second].iter().filter_map(translated).collect());
    }
    // The rest of a key, cut into pieces by a slow line: letters end it.
    let mut number = String::new();
    while event::poll(ESCAPE)? {
        let event::Event::Key(key) = event::read()? else { break };
        let KeyCode::Char(c) = key.code else { break };
        if c.is_ascii_digit() || c == ';' {
            number.push(c);
            continue;
        }
        return Ok(key_of_sequence(&number, c).map(Event::Key).into_iter().collect());
    }
    Ok(Vec::new())
}

/// Source: ECMA-48 and the names that xterm gives its keys.
fn key_of_sequence(number: &str, last: char) -> Option<Key> {
    Some(match (number, last) {
        (_, 'A') => Key::Up,
        (_, 'B') => Key::Down,
        (_, 'C') => Key::Right,
        (_, 'D') => Key::Left,
        (_, 'H') | ("1" | "7", '~') => Key::Home,
        (_, 'F') | ("4" | "8", '~') => Key::End,
        (_, 'Z') => Key::BackTab,
        (_, 'P') | ("11", '~') => Key::Function(1),
        (_, 'Q') | ("12", '~') => Key::Function(2),
        ("15", '~') => Key::Function(5),
        ("3", '~') => Key::Delete,
        ("5", '~') => Key::PageUp,
        ("6", '~') => Key::PageDown,
        _ => return None,
    })
}

/// What an event means here; nothing, mostly, unless it is a key.
fn translated(event: &event::Event) -> Option<Event> {
    match event {
        event::Event::Resize(..) => Some(Event::Resize),
        event::Event::Key(key) if key.kind != KeyEventKind::Release => key_of(key).map(Event::Key),
        _ => None,
    }
}

fn key_of(key: &KeyEvent) -> Option<Key> {
    Some(match key.code {
        KeyCode::Char(c) if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Ctrl(c.to_ascii_lowercase()),
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::F(number) => Key::Function(number),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Esc,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Delete => Key::Delete,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_a_slow_line_cut_into_pieces_are_put_together() {
        assert_eq!(key_of_sequence("", 'A'), Some(Key::Up));
        assert_eq!(key_of_sequence("6", '~'), Some(Key::PageDown));
        assert_eq!(key_of_sequence("99", '~'), None);
    }

    #[test]
    fn keys_are_understood() {
        let key = |code, modifiers| key_of(&KeyEvent::new(code, modifiers));
        assert_eq!(key(KeyCode::Char('L'), KeyModifiers::CONTROL), Some(Key::Ctrl('l')));
        assert_eq!(key(KeyCode::Char('L'), KeyModifiers::SHIFT), Some(Key::Char('L')));
        assert_eq!(key(KeyCode::CapsLock, KeyModifiers::NONE), None);
    }
}
