//! What a person at a serial console sees: the screen that the bytes make, and keys that are pressed when it shows
//! something.
//!
//! Must not know: what the screens of the agent look like.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use regex_lite::Regex;

use crate::guest::Guest;
use crate::tool;

/// A question that programs ask a terminal: where is the cursor?
const WHERE: &str = "\u{1b}[6n";

const LOOK: Duration = Duration::from_millis(100);

/// What is pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Press<'t> {
    /// Enter.
    Enter,
    /// Escape.
    Escape,
    /// Arrow down.
    Down,
    /// Arrow up.
    Up,
    /// Arrow to the right.
    Right,
    /// Letters, and whatever else has a key of its own.
    Text(&'t str),
}

/// A terminal of 80 columns and 24 rows at the other end of a guest's serial line.
pub struct Screen {
    terminal: vt100::Parser,
    /// How much of what the console said was drawn.
    drawn: usize,
}

impl Default for Screen {
    fn default() -> Self {
        Self { terminal: vt100::Parser::new(24, 80, 0), drawn: 0 }
    }
}

impl Screen {
    /// Draws what is new, and answers as terminals do.
    fn look(&mut self, guest: &mut Guest) -> Result<()> {
        let said = guest.console();
        let new = said.get(self.drawn..).unwrap_or_default();
        let mut answers = String::new();
        for (number, part) in new.split(WHERE).enumerate() {
            if number > 0 {
                let (row, column) = self.terminal.screen().cursor_position();
                answers += &format!("\u{1b}[{};{}R", row + 1, column + 1);
            }
            self.terminal.process(part.as_bytes());
        }
        self.drawn = said.len();
        if answers.is_empty() { Ok(()) } else { guest.write(&answers) }
    }

    /// The screen's text, a line for each row.
    #[must_use]
    pub fn text(&self) -> String {
        let rows: Vec<String> = self.terminal.screen().rows(0, 80).collect();
        rows.join("\n")
    }

    /// Waits until the screen shows something that matches; gives the match's groups.
    ///
    /// # Errors
    /// When it does not in time: with the screen.
    pub fn wait_for(&mut self, guest: &mut Guest, pattern: &str, limit: Duration) -> Result<Vec<String>> {
        let compiled = Regex::new(pattern)?;
        let deadline = Instant::now() + limit;
        loop {
            tool::check_interrupted()?;
            self.look(guest)?;
            let text = self.text();
            if let Some(found) = compiled.captures(&text) {
                return Ok(found.iter().map(|group| group.map_or(String::new(), |g| g.as_str().into())).collect());
            }
            if Instant::now() >= deadline {
                bail!("waited {} s for `{pattern}` on the screen, which shows:\n{text}", limit.as_secs());
            }
            thread::sleep(LOOK);
        }
    }

    /// Presses keys, one after another, as fast as a person.
    ///
    /// # Errors
    /// When the machine is gone.
    pub fn press(&mut self, guest: &mut Guest, keys: &[Press<'_>]) -> Result<()> {
        for key in keys {
            self.look(guest)?;
            guest.write(match key {
                Press::Enter => "\r",
                Press::Escape => "\u{1b}",
                Press::Down => "\u{1b}[B",
                Press::Up => "\u{1b}[A",
                Press::Right => "\u{1b}[C",
                Press::Text(text) => text,
            })?;
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Moves the mark (`>`) to the row that matches, and presses Enter.
    ///
    /// # Errors
    /// When no row matches, or the mark cannot be moved there.
    pub fn choose(&mut self, guest: &mut Guest, pattern: &str, limit: Duration) -> Result<()> {
        self.mark(guest, pattern, limit)?;
        self.press(guest, &[Press::Enter])
    }

    /// Moves the mark (`>`) to the row that matches.
    ///
    /// # Errors
    /// As [`Screen::choose`].
    pub fn mark(&mut self, guest: &mut Guest, pattern: &str, limit: Duration) -> Result<()> {
        let compiled = Regex::new(pattern)?;
        self.wait_for(guest, pattern, limit)?;
        for _ in 0..100 {
            let text = self.text();
            let row = |is: &dyn Fn(&str) -> bool| text.lines().position(is);
            let wanted = row(&|line| compiled.is_match(line));
            let marked = row(&|line| line.trim_start().starts_with("> "));
            match (marked, wanted) {
                (Some(marked), Some(wanted)) if marked == wanted => return Ok(()),
                (Some(marked), Some(wanted)) if marked > wanted => self.press(guest, &[Press::Up])?,
                (_, Some(_)) => self.press(guest, &[Press::Down])?,
                (_, None) => {}
            }
            // A slow machine draws later.
            thread::sleep(LOOK * 3);
            self.look(guest)?;
        }
        bail!("the mark does not get to `{pattern}`:\n{}", self.text())
    }
}
