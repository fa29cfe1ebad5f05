//! Log: what this program and the kernel said, the newest at the end.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::ui::page::{Page, plain};
use crate::ui::state::{Answer, Effect, Effects, Key, KeyHint, Move, Screen, Ticket, World};
use crate::ui::theme::Role;

/// The screen.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    asked: Ticket,
    lines: Option<Result<Vec<String>, String>>,
    /// Lines between the last one and the bottom of the screen.
    up: usize,
}

impl Log {
    /// Begins by reading it.
    pub(crate) fn new(world: &World, effects: &mut Effects) -> Self {
        let asked = effects.ask(|ticket| Effect::ReadLog(ticket, world.log.clone()));
        Self { asked, lines: None, up: 0 }
    }

    fn len(&self) -> usize {
        self.lines.as_ref().and_then(|lines| lines.as_ref().ok()).map_or(0, Vec::len)
    }
}

impl Screen for Log {
    fn title(&self, world: &World) -> String {
        format!("log: {}", world.log.display())
    }

    fn keys(&self, _world: &World) -> Vec<KeyHint> {
        vec![("↑↓ PgUp PgDn", "scroll"), ("End", "newest"), ("u", "read it again")]
    }

    fn help(&self) -> &'static str {
        "Log\n\
        What this program said since the machine was started, the newest line at the bottom. If a disk or a cable is at \
        fault, the kernel's own words are here, too.\n\n\
        ↑ ↓: one line\n\
        PgUp PgDn: twenty lines\n\
        Home End: the oldest, the newest\n\
        u: read it again"
    }

    fn key(&mut self, key: Key, world: &World, effects: &mut Effects) -> Move {
        let last = self.len().saturating_sub(1);
        self.up = match key {
            Key::Up => self.up.saturating_add(1),
            Key::Down => self.up.saturating_sub(1),
            Key::PageUp => self.up.saturating_add(20),
            Key::PageDown => self.up.saturating_sub(20),
            Key::Home => last,
            Key::End => 0,
            _ => self.up,
        }
        .min(last);
        if key == Key::Char('u') {
            self.asked = effects.ask(|ticket| Effect::ReadLog(ticket, world.log.clone()));
            self.up = 0;
        }
        Move::Stay
    }

    fn answer(&mut self, answer: &Answer, _world: &World, _effects: &mut Effects) {
        if let Answer::Log(ticket, lines) = answer
            && *ticket == self.asked
        {
            self.lines = Some(lines.clone());
            self.up = self.up.min(self.len());
        }
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let mut page = Page::new(world.theme, area.width);
        match &self.lines {
            None => page.say(Role::Dim, "The log is being read ..."),
            Some(Err(error)) => page.say(
                Role::Warning,
                &format!("There is no log to show: {error}. In a shell, `dmesg` shows what the kernel said."),
            ),
            Some(Ok(lines)) if lines.is_empty() => page.say(Role::Dim, "Nothing was said yet."),
            Some(Ok(lines)) => {
                // No more than can be seen is wrapped.
                let height = usize::from(area.height);
                let end = lines.len().saturating_sub(self.up);
                let begin = end.saturating_sub(height);
                for line in lines.get(begin..end).unwrap_or_default() {
                    page.line(vec![world.theme.span(Role::Text, plain(line))]);
                }
            }
        }
        page.draw(0, area, buffer);
    }
}
