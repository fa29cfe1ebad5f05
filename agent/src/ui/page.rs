//! A page of lines that scrolls to where the user is, and the words and columns in it.
//!
//! Must not know: screens.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::theme::{Role, Theme};

/// Lines, some of which must be in sight.
pub(super) struct Page {
    theme: Theme,
    width: usize,
    lines: Vec<Line<'static>>,
    focus: Option<(usize, usize)>,
}

impl Page {
    /// An empty page, `width` columns wide.
    pub(super) fn new(theme: Theme, width: u16) -> Self {
        Self { theme, width: usize::from(width), lines: Vec::new(), focus: None }
    }

    /// Columns.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Lines so far.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// One line as it is.
    pub(super) fn line(&mut self, spans: Vec<Span<'static>>) {
        self.lines.push(Line::from(spans));
    }

    /// One line in one role, cut where it does not fit.
    pub(super) fn cut(&mut self, role: Role, text: &str) {
        let text = cut(text, self.width);
        self.line(vec![self.theme.span(role, text)]);
    }

    /// An empty line, unless there is one already.
    pub(super) fn gap(&mut self) {
        if self.lines.last().is_some_and(|line| line.width() > 0) {
            self.lines.push(Line::default());
        }
    }

    /// Text, wrapped.
    pub(super) fn say(&mut self, role: Role, text: &str) {
        self.say_after(role, "", text);
    }

    /// Text with something in front of its first line, wrapped so that it stands behind that.
    pub(super) fn say_after(&mut self, role: Role, before: &str, text: &str) {
        let indent = width_of(before);
        // Very long lines are hard to read.
        let room = self.width.min(100 + indent).saturating_sub(indent).max(1);
        for (number, part) in wrap(text, room).into_iter().enumerate() {
            let lead = if number == 0 { before.to_owned() } else { " ".repeat(indent) };
            self.line(vec![self.theme.span(role, lead), self.theme.span(role, part)]);
        }
    }

    /// A heading.
    pub(super) fn heading(&mut self, text: &str) {
        self.gap();
        self.say(Role::Heading, text);
    }

    /// Something to go to, one line; drawn across the whole width when the user is there.
    pub(super) fn choice(&mut self, here: Here, text: &str) {
        self.choice_in(Role::Text, here, text);
    }

    /// The same in another role.
    pub(super) fn choice_in(&mut self, role: Role, here: Here, text: &str) {
        let mark = if here == Here::Yes { "► " } else { "  " };
        let text = fit(&format!("{mark}{text}"), self.width);
        let role = if here == Here::Yes { Role::Focus } else { role };
        if here == Here::Yes {
            self.focus = Some((self.lines.len(), self.lines.len()));
        }
        self.line(vec![self.theme.span(role, text)]);
    }

    /// What was added since there were `from` lines belongs to what the user is at.
    pub(super) fn keep_in_sight(&mut self, from: usize) {
        self.focus = Some((from, self.lines.len().saturating_sub(1)));
    }

    /// Draws the page, scrolled so that what the user is at is in sight; without such a thing, by `scroll` lines.
    pub(super) fn draw(&self, scroll: usize, area: Rect, buffer: &mut Buffer) {
        let area = area.intersection(buffer.area);
        let height = usize::from(area.height);
        let hidden = self.lines.len().saturating_sub(height);
        let top = match self.focus {
            // The first lines with it, where they fit.
            Some((_, last)) if last < height => 0,
            Some((first, last)) => {
                let centred = (first + last).div_ceil(2).saturating_sub(height / 2);
                if last - first >= height { first } else { centred }.min(hidden)
            }
            None => scroll.min(hidden),
        };
        for (y, line) in (area.y..area.bottom()).zip(self.lines.iter().skip(top)) {
            buffer.set_line(area.x, y, line, area.width);
        }
        let style = self.theme.style(Role::Dim);
        if area.width > 2 && height > 1 {
            if top > 0 {
                buffer.set_string(area.right().saturating_sub(1), area.y, "▲", style);
            }
            if top < hidden {
                buffer.set_string(area.right().saturating_sub(1), area.bottom().saturating_sub(1), "▼", style);
            }
        }
    }
}

/// Is the user here?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Here {
    /// Yes.
    Yes,
    /// Elsewhere.
    No,
}

impl Here {
    /// The user is at `cursor`; this is `place`.
    pub(super) fn at(cursor: usize, place: usize) -> Self {
        if cursor == place { Self::Yes } else { Self::No }
    }
}

/// Columns that a text takes.
pub(super) fn width_of(text: &str) -> usize {
    Span::raw(text).width()
}

/// The text cut or filled up to exactly `width` columns.
pub(super) fn fit(text: &str, width: usize) -> String {
    let cut = cut(text, width);
    let fill = width.saturating_sub(width_of(&cut));
    cut + &" ".repeat(fill)
}

/// The same, to the right.
pub(super) fn fit_right(text: &str, width: usize) -> String {
    let cut = cut(text, width);
    " ".repeat(width.saturating_sub(width_of(&cut))) + &cut
}

/// The text, or as much of it as fits, with a sign that there was more.
pub(super) fn cut(text: &str, width: usize) -> String {
    if width_of(text) <= width {
        return text.to_owned();
    }
    let mut room = width.saturating_sub(2);
    let mut shown = String::new();
    for c in text.chars() {
        let columns = width_of(c.encode_utf8(&mut [0; 4]));
        if columns > room {
            break;
        }
        room -= columns;
        shown.push(c);
    }
    shown + if width >= 2 { ".." } else { "" }
}

/// Words in lines of at most `width` columns; longer words are broken.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            let mut word = word.to_owned();
            if !line.is_empty() && width_of(&line) + 1 + width_of(&word) > width {
                lines.push(std::mem::take(&mut line));
            }
            while width_of(&word) > width && word.chars().nth(1).is_some() {
                let head: String = head_of(&word, width);
                word = word.split_off(head.len());
                lines.push(head);
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&word);
        }
        lines.push(line);
    }
    lines
}

/// As many characters as fit, one at least.
fn head_of(word: &str, width: usize) -> String {
    let mut head = String::new();
    for c in word.chars() {
        if !head.is_empty() && width_of(&head) + width_of(c.encode_utf8(&mut [0; 4])) > width {
            break;
        }
        head.push(c);
    }
    head
}

/// Text from outside, such as a label, so that it is nothing but text.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// "1 disk", "2 disks".
pub(super) fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_wrapped_and_long_ones_broken() {
        assert_eq!(wrap("a bb ccc", 4), ["a bb", "ccc"]);
        assert_eq!(wrap("abcdefgh i", 3), ["abc", "def", "gh", "i"]);
        assert_eq!(wrap("", 3), [""]);
        assert_eq!(wrap("一二三", 1), ["一", "二", "三"]);
    }

    #[test]
    fn texts_are_cut_to_their_columns() {
        assert_eq!(fit("abc", 5), "abc  ");
        assert_eq!(fit("abcdef", 5), "abc..");
        assert_eq!(fit("一二三", 5), "一.. ");
        assert_eq!(fit_right("7", 3), "  7");
        assert_eq!(cut("abc", 1), "");
    }
}
