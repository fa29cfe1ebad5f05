//! A console: a pseudo terminal with the user interface on it, and somebody who reads and types.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{LocalFlags, tcgetattr};
use rustix::termios::Action;

const LIMIT: Duration = Duration::from_secs(60);

/// Whether the terminal at the other end says where its cursor is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// As terminals do.
    Answers(u16, u16),
    /// As when nothing is plugged in.
    Mute,
    /// As when noise is on the line.
    Lies,
}

/// Whether anything gets out of a terminal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    On,
    /// As with Scroll Lock, or a modem that holds the line.
    Off,
}

/// A line, and the terminal at its end. No program that is started meanwhile, by whichever test, holds the line as well: it
/// could not be unplugged.
pub(crate) fn pseudo_terminal() -> (File, File) {
    let line = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    grantpt(&line).unwrap();
    unlockpt(&line).unwrap();
    let name = ptsname_r(&line).unwrap();
    let terminal = File::options().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(name).unwrap();
    (File::from(OwnedFd::from(line)), terminal)
}

/// The keeper and the consoles of a machine, in a directory.
pub(crate) struct Console {
    ui: Child,
    line: File,
    screen: Arc<Mutex<vt100::Parser>>,
    received: Arc<AtomicUsize>,
}

impl Console {
    /// A line without a size, as serial ones are, with the user interface on it.
    pub(crate) fn open(run: &Path, places: &Path, terminal: Terminal) -> Self {
        Self::open_to_break(run, places, terminal, "")
    }

    /// The same, and `!` breaks this thread of the user interface.
    pub(crate) fn open_to_break(run: &Path, places: &Path, terminal: Terminal, thread: &str) -> Self {
        let (line, terminal_device) = pseudo_terminal();
        let stdio = || Stdio::from(terminal_device.try_clone().unwrap());
        let ui = Command::new(env!("CARGO_BIN_EXE_agent"))
            .arg("ui")
            .env("LIFEBOAT_RUN", run)
            .env("LIFEBOAT_PLACES", places)
            .env("LIFEBOAT_BREAK", thread)
            .env("TERM", "vt220")
            .env_remove("LANG")
            .env_remove("LC_ALL")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let (columns, rows) = match terminal {
            Terminal::Answers(columns, rows) => (columns, rows),
            Terminal::Mute | Terminal::Lies => (80, 24),
        };
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let received = Arc::new(AtomicUsize::new(0));
        let (mut from, shared, count) = (line.try_clone().unwrap(), Arc::clone(&screen), Arc::clone(&received));
        let mut to = line.try_clone().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Reading fails once nobody has the other end open.
            while let Ok(len @ 1..) = from.read(&mut buffer) {
                let bytes = &buffer[..len];
                count.fetch_add(len, Ordering::SeqCst);
                shared.lock().unwrap().process(bytes);
                if bytes.windows(4).any(|window| window == b"\x1b[6n") {
                    let answer = match terminal {
                        Terminal::Answers(..) => format!("\x1b[{rows};{columns}R"),
                        Terminal::Mute => continue,
                        Terminal::Lies => "\x1b[65000;65000R".to_owned(),
                    };
                    to.write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        Self { ui, line, screen, received }
    }

    pub(crate) fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Without frames and line ends.
    fn words(&self) -> String {
        let text = self.text();
        let words = text.split(|c: char| c.is_whitespace() || c == '|').filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn sees(&self, text: &str) -> bool {
        self.words().contains(text)
    }

    pub(crate) fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + LIMIT;
        while !self.sees(text) {
            assert!(Instant::now() < deadline, "no {text:?} on\n{}", self.text());
            sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn press(&mut self, bytes: &str) {
        self.line.write_all(bytes.as_bytes()).unwrap();
    }

    /// Presses `key` until the line that is marked ends so.
    pub(crate) fn go_to(&mut self, key: &str, text: &str) {
        for _ in 0..100 {
            let before = self.marked();
            if before.as_ref().is_some_and(|line| line.trim_end().ends_with(text)) {
                return;
            }
            self.press(key);
            let deadline = Instant::now() + LIMIT;
            while self.marked() == before {
                assert!(Instant::now() < deadline, "no {text:?} to go to on\n{}", self.text());
                sleep(Duration::from_millis(20));
            }
        }
        panic!("no {text:?} to go to on\n{}", self.text());
    }

    fn marked(&self) -> Option<String> {
        self.text().lines().find(|line| line.trim_start().starts_with("> ")).map(str::to_owned)
    }

    /// Lets out what is written to the terminal, or holds it.
    pub(crate) fn set_flow(&self, flow: Flow) {
        // The user interface's end of the line: the kernel holds that up.
        let path = format!("/proc/{}/fd/1", self.ui.id());
        let flags = nix::fcntl::OFlag::O_NOCTTY.bits();
        let end = File::options().read(true).write(true).custom_flags(flags).open(path).unwrap();
        let action = if flow == Flow::On { Action::OOn } else { Action::OOff };
        rustix::termios::tcflow(&end, action).unwrap();
    }

    /// The user interface dies as if by the kernel.
    pub(crate) fn kill(&mut self) {
        self.ui.kill().unwrap();
        self.ui.wait().unwrap();
    }

    /// Bytes that came over the line so far.
    pub(crate) fn received(&self) -> usize {
        self.received.load(Ordering::SeqCst)
    }

    /// Whether keys come a line at a time and are echoed, as before.
    pub(crate) fn is_as_before(&self) -> bool {
        tcgetattr(&self.line).unwrap().local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    /// Waits until the kernel knows the terminal's size in columns and rows.
    pub(crate) fn wait_for_size(&self, wanted: (u16, u16)) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let size = rustix::termios::tcgetwinsize(&self.line).unwrap();
            if (size.ws_col, size.ws_row) == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{} columns, {} rows", size.ws_col, size.ws_row);
            sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn wait_for_end(&mut self) {
        let deadline = Instant::now() + LIMIT;
        while self.ui.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it goes on:\n{}", self.text());
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.ui.kill();
        let _ = self.ui.wait();
    }
}
