//! Words in other languages: what must be written how.
//!
//! Must not know: machines.

#![forbid(unsafe_code)]

/// Which addresses network cards get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Macs {
    /// Those that the captured machine had.
    Keep,
    /// The hypervisor's choice.
    New,
}

/// For an XML attribute or text.
#[must_use]
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            // XML has no words for these at all.
            c if c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}') => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// One word of a shell.
#[must_use]
pub(super) fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// One word of PowerShell. It takes typographic quotation marks for plain ones.
#[must_use]
pub(super) fn power_shell(text: &str) -> String {
    let mut word = String::from("'");
    for c in text.chars() {
        if matches!(c, '\'' | '\u{2018}' | '\u{2019}' | '\u{201A}' | '\u{201B}') {
            word.push(c);
        }
        word.push(c);
    }
    word.push('\'');
    word
}
