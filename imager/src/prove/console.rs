//! What consoles show, as text: a serial line's bytes without control sequences, and the memory of a screen in text mode.
//!
//! Pure. Must not know: what the text means.

#![forbid(unsafe_code)]

/// Columns of a screen in text mode.
const COLUMNS: usize = 80;

/// The text of a serial line. Where a program moves the cursor, a new line begins.
#[must_use]
pub fn plain_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                Some('[') => {
                    let end = chars.by_ref().find(|c| ('@'..='~').contains(c));
                    if matches!(end, Some('H' | 'f' | 'J' | 'E' | 'd')) && !plain.ends_with('\n') {
                        plain.push('\n');
                    }
                }
                // A character set follows.
                Some('(' | ')' | '#' | '%') => drop(chars.next()),
                // A title, up to its end.
                Some(']') => drop(chars.by_ref().find(|c| matches!(c, '\u{7}' | '\\'))),
                _ => {}
            },
            '\r' if chars.peek() == Some(&'\n') => {}
            '\r' | '\n' => {
                plain.push('\n');
            }
            '\u{8}' => drop(plain.pop()),
            '\t' => plain.push(' '),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}

/// The rows of a screen in text mode: a character and its colours in two bytes, 80 to the row. Rows that are empty are
/// left out: the memory has more rows than the screen, and nobody says which of them it shows.
#[must_use]
pub fn screen_text(memory: &[u8]) -> String {
    let mut text = String::new();
    for row in memory.chunks_exact(2 * COLUMNS) {
        let row: String = row.iter().step_by(2).map(|byte| character(*byte)).collect();
        let row = row.trim_end();
        if !row.is_empty() {
            text.push_str(row);
            text.push('\n');
        }
    }
    text
}

/// Letters and signs of code page 437; its frames and pictures do not matter here.
fn character(byte: u8) -> char {
    match byte {
        0x20..=0x7E => char::from(byte),
        0x00 | 0xFF => ' ',
        _ => '.',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_are_no_text() {
        let bytes = b"\x1b[2J\x1b[01;01HGNU GRUB\x1b[0m\x1b[3;1Hgrub rescue> \x1b(B\x1b]0;t\x07ok\r\nab\x08c\tlogin: ";
        assert_eq!(plain_text(bytes), "\nGNU GRUB\ngrub rescue> ok\nac login: ");
    }

    #[test]
    fn nothing_breaks_it() {
        for bytes in [&b"\x1b"[..], b"\x1b[", b"\x1b[12;", b"\x1b]x", b"\xff\xfe\x1b(", b"\x08\x08"] {
            let _ = plain_text(bytes);
        }
        assert_eq!(screen_text(&[0x41; 33]), "");
    }

    #[test]
    fn a_screen_is_its_rows() {
        let mut memory = vec![0; 32 << 10];
        let mut put = |row: usize, text: &str| {
            for (column, byte) in text.bytes().enumerate() {
                memory[(row * COLUMNS + column) * 2] = byte;
                memory[(row * COLUMNS + column) * 2 + 1] = 7;
            }
        };
        put(0, "No bootable device.");
        put(3, "  web login:");
        assert_eq!(screen_text(&memory), "No bootable device.\n  web login:\n");
    }
}
