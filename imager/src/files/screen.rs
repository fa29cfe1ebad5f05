//! Names as they may be shown: whatever a stranger's disk calls its files, a terminal must not obey it.
//!
//! Must not know: terminals.

use super::Time;

/// The name as text that is safe on a terminal: control characters, backslashes, marks that turn the direction of
/// writing and bytes that are no UTF-8 are escaped as `\n`, `\x1b`, `\u{202e}`.
#[must_use]
pub fn escaped(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                c if c.is_control() && c < '\u{80}' => text.push_str(&format!("\\x{:02x}", u32::from(c))),
                c if c.is_control() || is_format(c) => text.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The same with nothing but ASCII in it, for terminals that show no more.
#[must_use]
pub fn escaped_ascii(name: &[u8]) -> String {
    let plain = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\u{{{:x}}}", u32::from(c)) };
    escaped(name).chars().map(plain).collect()
}

/// The twelve permission bits as `ls -l` has them: "rwxr-xr-x".
#[must_use]
pub fn letters(permissions: u32) -> String {
    let mut text: Vec<char> = (0..9u32)
        .map(|at| {
            if permissions >> (8 - at) & 1 == 1 {
                ['r', 'w', 'x'][usize::from(at % 3 == 1) + 2 * usize::from(at % 3 == 2)]
            } else {
                '-'
            }
        })
        .collect();
    for (bit, at, with, without) in [(0o4000, 2, 's', 'S'), (0o2000, 5, 's', 'S'), (0o1000, 8, 't', 'T')] {
        if let (true, Some(letter)) = (permissions & bit != 0, text.get_mut(at)) {
            *letter = if *letter == 'x' { with } else { without };
        }
    }
    text.into_iter().collect()
}

/// A moment to the minute, in UTC: "2026-10-02 03:04"; seconds since 1970 for one that no calendar has.
#[must_use]
pub fn moment(time: Time) -> String {
    let known = jiff::Timestamp::new(time.seconds, i32::try_from(time.nanoseconds).unwrap_or(0)).ok();
    let text = known.map(|time| time.strftime("%Y-%m-%d %H:%M").to_string());
    text.unwrap_or_else(|| format!("{:>16}", time.seconds))
}

/// Characters that have no shape of their own and change how their neighbours look.
fn is_format(character: char) -> bool {
    matches!(character, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The bytes that [`escaped`] made text of; text without backslashes is itself. `None` for an escape that is none.
#[must_use]
pub fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let mut characters = after.chars();
        match characters.next()? {
            '\\' => bytes.push(b'\\'),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'x' => {
                bytes.push(u8::from_str_radix(after.get(1..3)?, 16).ok()?);
                characters = after.get(3..)?.chars();
            }
            'u' => {
                let (digits, behind) = after.strip_prefix("u{")?.split_once('}')?;
                let character = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                characters = behind.chars();
            }
            _ => return None,
        }
        rest = characters.as_str();
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn modes_are_letters() {
        assert_eq!(letters(0o755), "rwxr-xr-x");
        assert_eq!(letters(0o4750), "rwsr-x---");
        assert_eq!(letters(0o1776), "rwxrwxrwT");
        assert_eq!(letters(0o2060), "---rwS---");
    }

    #[test]
    fn moments_are_dates_where_there_is_one() {
        assert_eq!(moment(Time { seconds: 0, nanoseconds: 0 }), "1970-01-01 00:00");
        assert_eq!(moment(Time { seconds: i64::MAX, nanoseconds: 0 }), "9223372036854775807");
    }

    #[test]
    fn a_terminal_has_nothing_to_obey() {
        assert_eq!(escaped(b"a\x1b[2Jb\n\x7f\xff\\"), "a\\x1b[2Jb\\n\\x7f\\xff\\\\");
        assert_eq!(escaped("\u{9b}2J \u{202e}fdp.exe".as_bytes()), "\\u{9b}2J \\u{202e}fdp.exe");
        assert_eq!(escaped("Übung ☃".as_bytes()), "Übung ☃");
        // A lone surrogate, as NTFS may have it.
        assert_eq!(escaped(b"\xed\xa0\x80"), "\\xed\\xa0\\x80");
    }

    proptest! {
        #[test]
        fn what_was_escaped_is_found_again(name: Vec<u8>) {
            let text = escaped(&name);
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert_eq!(unescaped(&text), Some(name));
        }

        #[test]
        fn any_text_is_taken_or_refused(text: String) {
            let _ = unescaped(&text);
        }
    }
}
