//! How things look: characters and colours that the terminal has.
//!
//! Screens name roles and draw with every character; what the terminal lacks is replaced when all is drawn. Must not
//! know: screens.

use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;

/// Which characters the terminal shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Glyphs {
    /// All.
    Full,
    /// Those of the Linux console's own font.
    Console,
    /// ASCII.
    Ascii,
}

/// Which colours the terminal shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Palette {
    /// The sixteen that every terminal has.
    Colour,
    /// None: bold, underlined and reversed must do.
    Mono,
}

/// What a piece of the screen is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The bars at the top and at the bottom.
    Bar,
    /// A key, in the bar at the bottom.
    BarKey,
    /// A heading.
    Heading,
    /// What can be read, but need not be.
    Dim,
    /// Where the user is.
    Focus,
    /// What destroys.
    Danger,
    /// What should be known.
    Warning,
    /// What went well.
    Good,
    /// The nth partition of a disk.
    Part(usize),
    /// Anything else.
    Text,
}

/// Characters and colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Theme {
    /// Characters.
    pub glyphs: Glyphs,
    /// Colours.
    pub palette: Palette,
}

/// What a process can know of its terminal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// `TERM`.
    pub term: String,
    /// The first of `LC_ALL`, `LC_CTYPE`, `LANG` that says something.
    pub language: String,
    /// `NO_COLOR` is set.
    pub no_color: bool,
    /// The terminal's device: `/dev/ttyS0`.
    pub device: String,
}

impl Surroundings {
    /// Is there a slow line between here and the user?
    pub(crate) fn is_serial(&self) -> bool {
        let name = self.device.strip_prefix("/dev/").unwrap_or_default();
        ["ttyS", "ttyUSB", "ttyAMA", "ttyACM", "hvc", "hvsi", "xvc"].iter().any(|prefix| name.starts_with(prefix))
    }
}

impl Theme {
    /// What the terminal most likely shows.
    pub(crate) fn of(terminal: &Surroundings) -> Self {
        const MONO: [&str; 6] = ["", "dumb", "vt52", "vt100", "vt102", "vt220"];
        let utf8 = terminal.language.to_ascii_uppercase().replace('-', "").contains("UTF8");
        let glyphs = match terminal.term.as_str() {
            "linux" if !terminal.is_serial() => Glyphs::Console,
            _ if utf8 && !terminal.is_serial() => Glyphs::Full,
            // A terminal at the other end of a line that somebody took the trouble to name.
            term if utf8 && ["xterm", "screen", "tmux", "rxvt"].iter().any(|known| term.starts_with(known)) => {
                Glyphs::Full
            }
            _ => Glyphs::Ascii,
        };
        let mono = terminal.no_color || MONO.contains(&terminal.term.as_str()) || terminal.term.ends_with("-m");
        Self { glyphs, palette: if mono { Palette::Mono } else { Palette::Colour } }
    }

    /// The next one, for users whose terminal was judged wrongly.
    pub(crate) fn next(self) -> Self {
        let (glyphs, palette) = match (self.glyphs, self.palette) {
            (Glyphs::Full, palette) => (Glyphs::Console, palette),
            (Glyphs::Console, palette) => (Glyphs::Ascii, palette),
            (Glyphs::Ascii, Palette::Colour) => (Glyphs::Full, Palette::Mono),
            (Glyphs::Ascii, Palette::Mono) => (Glyphs::Full, Palette::Colour),
        };
        Self { glyphs, palette }
    }

    /// How a role looks.
    pub(crate) fn style(self, role: Role) -> Style {
        let plain = Style::new();
        if self.palette == Palette::Mono {
            return match role {
                Role::Bar | Role::Focus => plain.add_modifier(Modifier::REVERSED),
                Role::BarKey => plain.add_modifier(Modifier::REVERSED | Modifier::BOLD),
                Role::Heading | Role::Warning => plain.add_modifier(Modifier::BOLD),
                Role::Danger => plain.add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
                Role::Dim | Role::Good | Role::Part(_) | Role::Text => plain,
            };
        }
        const PARTS: [Color; 5] = [Color::Cyan, Color::Green, Color::Magenta, Color::Yellow, Color::Blue];
        match role {
            Role::Bar => plain.fg(Color::White).bg(Color::Blue),
            Role::BarKey => plain.fg(Color::Yellow).bg(Color::Blue).add_modifier(Modifier::BOLD),
            Role::Heading => plain.fg(Color::Cyan).add_modifier(Modifier::BOLD),
            Role::Dim => plain.fg(Color::DarkGray),
            Role::Focus => plain.fg(Color::Black).bg(Color::Cyan),
            Role::Danger => plain.fg(Color::LightRed).add_modifier(Modifier::BOLD),
            Role::Warning => plain.fg(Color::Yellow),
            Role::Good => plain.fg(Color::Green),
            Role::Part(number) => plain.fg(PARTS.get(number % PARTS.len()).copied().unwrap_or(Color::Cyan)),
            Role::Text => plain,
        }
    }

    /// A piece of text in a role.
    pub(crate) fn span(self, role: Role, text: impl Into<String>) -> Span<'static> {
        Span::styled(text.into(), self.style(role))
    }

    /// Replaces what the terminal does not show.
    pub(crate) fn finish(self, buffer: &mut Buffer) {
        if self.glyphs == Glyphs::Full {
            return;
        }
        for cell in &mut buffer.content {
            if cell.symbol().is_ascii() {
                continue;
            }
            let shown = match (self.glyphs, cell.symbol()) {
                (Glyphs::Console, symbol) => on_console(symbol),
                (_, symbol) => in_ascii(symbol),
            };
            if let Some(shown) = shown {
                cell.set_symbol(shown);
            }
        }
    }
}

/// The replacement for what the console's font lacks; none for what it has.
fn on_console(symbol: &str) -> Option<&'static str> {
    const FONT: &str = "─│┌┐└┘├┤┬┴┼═║╔╗╚╝█▓▒░▀▄▌▐←↑→↓▲▼◄►√×•·○■";
    match symbol {
        "▁" | "▂" => Some(" "),
        "▃" | "▅" | "▆" => Some("▄"),
        "▇" => Some("█"),
        _ if FONT.contains(symbol) => None,
        // Latin-1 is there, too.
        _ if symbol.chars().all(|c| ('\u{A1}'..='\u{FF}').contains(&c)) => None,
        _ => Some("?"),
    }
}

fn in_ascii(symbol: &str) -> Option<&'static str> {
    Some(match symbol {
        "─" | "═" | "░" => "-",
        "│" | "║" => "|",
        "┌" | "┐" | "└" | "┘" | "├" | "┤" | "┬" | "┴" | "┼" | "╔" | "╗" | "╚" | "╝" => "+",
        "█" | "■" => "#",
        "▓" | "▇" | "▆" | "▅" => "=",
        "▒" => ":",
        "▄" | "▃" => "_",
        "▂" | "▁" | "·" => ".",
        "←" | "◄" => "<",
        "→" | "►" => ">",
        "↑" | "▲" => "^",
        "↓" | "▼" => "v",
        "√" => "*",
        "×" => "x",
        "•" => "*",
        "○" => "o",
        _ => "?",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn theme(term: &str, language: &str, device: &str) -> (Glyphs, Palette) {
        let terminal =
            Surroundings { term: term.into(), language: language.into(), device: device.into(), no_color: false };
        let Theme { glyphs, palette } = Theme::of(&terminal);
        (glyphs, palette)
    }

    #[test]
    fn the_terminal_decides() {
        assert_eq!(theme("linux", "", "/dev/tty1"), (Glyphs::Console, Palette::Colour));
        assert_eq!(theme("vt220", "", "/dev/ttyS0"), (Glyphs::Ascii, Palette::Mono));
        assert_eq!(theme("linux", "C.UTF-8", "/dev/ttyS0"), (Glyphs::Ascii, Palette::Colour));
        assert_eq!(theme("xterm-256color", "en_GB.utf8", "/dev/ttyS0"), (Glyphs::Full, Palette::Colour));
        assert_eq!(theme("xterm", "C", "/dev/pts/1"), (Glyphs::Ascii, Palette::Colour));
        assert_eq!(theme("xterm", "C.UTF-8", "/dev/pts/1"), (Glyphs::Full, Palette::Colour));
    }

    #[test]
    fn the_key_goes_through_all_themes_and_back() {
        let first = Theme { glyphs: Glyphs::Full, palette: Palette::Colour };
        let mut seen = vec![first];
        while seen.last().map(|last| last.next()) != Some(first) {
            let next = seen.last().unwrap().next();
            assert!(!seen.contains(&next));
            seen.push(next);
        }
        assert_eq!(seen.len(), 6);
    }
}
