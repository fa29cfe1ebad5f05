//! A line of text that the user types.
//!
//! Must not know: screens.

use ratatui::text::Span;

use super::page::{Here, Page, fit, width_of};
use super::state::Key;
use super::theme::Role;

/// Characters that a field takes.
const CHARS_MAX: usize = 200;

/// What is typed, and how it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Field {
    chars: Vec<char>,
    cursor: usize,
    show: Show,
}

/// Whether the text may be seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Show {
    /// It may.
    #[default]
    Text,
    /// It is a password.
    Dots,
}

impl Field {
    /// A field with text in it.
    pub(super) fn with(text: &str) -> Self {
        let chars: Vec<char> = text.chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect();
        Self { cursor: chars.len(), chars, show: Show::Text }
    }

    /// An empty field for a password.
    pub(super) fn secret() -> Self {
        Self { show: Show::Dots, ..Self::default() }
    }

    /// What was typed.
    pub(super) fn text(&self) -> String {
        self.chars.iter().collect()
    }

    /// Nothing was typed.
    pub(super) fn is_empty(&self) -> bool {
        self.chars.is_empty()
    }

    /// Shows a password, or hides it again.
    pub(super) fn toggle(&mut self) {
        self.show = if self.show == Show::Text { Show::Dots } else { Show::Text };
    }

    /// Takes a key in; keys that are none of its own do nothing.
    pub(super) fn key(&mut self, key: Key) {
        match key {
            Key::Char(c) if !c.is_control() && self.chars.len() < CHARS_MAX => {
                self.chars.insert(self.cursor.min(self.chars.len()), c);
                self.cursor += 1;
            }
            Key::Backspace if self.cursor > 0 => {
                self.cursor -= 1;
                self.chars.remove(self.cursor);
            }
            Key::Delete if self.cursor < self.chars.len() => {
                self.chars.remove(self.cursor);
            }
            Key::Left => self.cursor = self.cursor.saturating_sub(1),
            Key::Right => self.cursor = (self.cursor + 1).min(self.chars.len()),
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = self.chars.len(),
            Key::Ctrl('u') => {
                self.chars.clear();
                self.cursor = 0;
            }
            _ => {}
        }
    }

    /// The field with its name in front, and a cursor when the user is there.
    pub(super) fn draw(
        &self,
        page: &mut Page,
        theme: super::theme::Theme,
        here: Here,
        name: &str,
        name_columns: usize,
    ) {
        let room = page.width().saturating_sub(name_columns + 6).clamp(4, 60);
        let shown = |c: char| if self.show == Show::Dots { '•' } else { c };
        let before: String = self.chars.iter().take(self.cursor).copied().map(shown).collect();
        let after: String = self.chars.iter().skip(self.cursor + 1).copied().map(shown).collect();
        let at = self.chars.get(self.cursor).copied().map_or(' ', shown);
        // The end of what stands before the cursor is what one wants to see.
        let mut tail = before.as_str();
        while width_of(tail) + 2 > room {
            let mut chars = tail.chars();
            chars.next();
            tail = chars.as_str();
        }
        let from = page.len();
        let mark = if here == Here::Yes { "► " } else { "  " };
        let mut spans =
            vec![theme.span(Role::Text, mark), theme.span(Role::Text, fit(name, name_columns)), Span::raw("[")];
        let text = theme.span(Role::Heading, tail.to_owned());
        let rest = room.saturating_sub(text.width() + 1);
        spans.push(text);
        let cursor = theme.span(if here == Here::Yes { Role::Focus } else { Role::Heading }, at.to_string());
        spans.push(cursor);
        spans.push(theme.span(Role::Heading, fit(&after, rest)));
        spans.push(Span::raw("]"));
        page.line(spans);
        if here == Here::Yes {
            page.keep_in_sight(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_edit() {
        let mut field = Field::with("ac");
        for key in [Key::Left, Key::Char('b'), Key::End, Key::Char('d'), Key::Home, Key::Delete, Key::Backspace] {
            field.key(key);
        }
        assert_eq!(field.text(), "bcd");
        field.key(Key::Ctrl('u'));
        assert!(field.is_empty());
        for _ in 0..CHARS_MAX + 5 {
            field.key(Key::Char('x'));
        }
        assert_eq!(field.text().len(), CHARS_MAX);
    }
}
