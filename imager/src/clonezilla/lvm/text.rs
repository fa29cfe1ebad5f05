//! LVM's configuration text: what `vgcfgbackup` writes.
//!
//! ```text
//! creation_time = 1682936430      # seconds
//! vg0 {
//!     id = "qdlt6U-…"
//!     physical_volumes { pv0 { … } }
//!     logical_volumes { root { segment1 { stripes = [ "pv0", 0 ] } } }
//! }
//! ```
//!
//! Must not know: what the values mean. Source: lvm.conf(5), "SYNTAX"; lvm2's `lib/config`.

#![forbid(unsafe_code)]

use std::ops::Range;

/// Sections within sections; volume groups have four levels.
const DEPTH_MAX: usize = 16;
/// What a text may have: LVM itself keeps it in a megabyte.
const BYTES_MAX: usize = 16 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(u64),
    List(Vec<Value>),
}

/// What stands between two braces, or all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    values: Vec<(String, Value)>,
    pub(super) sections: Vec<(String, Section)>,
    /// Where the section stands in the text, with its name and braces.
    pub(super) place: Range<usize>,
}

impl Section {
    /// Parses a whole text.
    ///
    /// # Errors
    /// The byte and what is wrong there.
    pub(super) fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        if text.len() > BYTES_MAX {
            return Err((0, "it is larger than the description of a volume group can be"));
        }
        let mut parser = Parser { text, at: 0 };
        let mut whole = parser.section(0)?;
        if parser.peek().is_some() {
            return Err((parser.at, "a brace too many"));
        }
        whole.place = 0..text.len();
        Ok(whole)
    }

    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|(found, _)| found == name).map(|(_, section)| section)
    }

    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.values.iter().find(|(found, _)| found == name).map(|(_, value)| value)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.value(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.value(name) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn list(&self, name: &str) -> Option<&[Value]> {
        match self.value(name) {
            Some(Value::List(list)) => Some(list),
            _ => None,
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

type Parsed<T> = Result<T, (usize, &'static str)>;

impl Parser<'_> {
    /// The next character that is neither space nor comment.
    fn peek(&mut self) -> Option<char> {
        loop {
            let rest = self.text.get(self.at..)?;
            let next = rest.chars().next()?;
            match next {
                '#' => self.at += rest.find('\n').unwrap_or(rest.len()),
                space if space.is_whitespace() => self.at += space.len_utf8(),
                other => return Some(other),
            }
        }
    }

    fn take(&mut self, expected: char) -> bool {
        let is_there = self.peek() == Some(expected);
        if is_there {
            self.at += expected.len_utf8();
        }
        is_there
    }

    fn word(&mut self) -> Parsed<String> {
        self.peek();
        let rest = self.text.get(self.at..).unwrap_or_default();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_-+.@/".contains(c))).unwrap_or(rest.len());
        if end == 0 {
            return Err((self.at, "a name was expected"));
        }
        self.at += end;
        Ok(rest.get(..end).unwrap_or_default().to_owned())
    }

    fn section(&mut self, depth: usize) -> Parsed<Section> {
        if depth > DEPTH_MAX {
            return Err((self.at, "too many sections within sections"));
        }
        let mut section = Section::default();
        while let Some(next) = self.peek() {
            if next == '}' {
                break;
            }
            let start = self.at;
            let name = self.word()?;
            if self.take('{') {
                let mut inner = self.section(depth + 1)?;
                if !self.take('}') {
                    return Err((self.at, "it ends within a section"));
                }
                inner.place = start..self.at;
                section.sections.push((name, inner));
            } else if self.take('=') {
                let value = self.value(0)?;
                section.values.push((name, value));
            } else {
                return Err((self.at, "neither a section nor a value"));
            }
        }
        Ok(section)
    }

    fn value(&mut self, depth: usize) -> Parsed<Value> {
        let start = self.at;
        match self.peek() {
            Some('"') => {
                self.at += 1;
                let mut text = String::new();
                let mut chars = self.text.get(self.at..).unwrap_or_default().char_indices();
                while let Some((offset, c)) = chars.next() {
                    match c {
                        '"' => {
                            self.at += offset + 1;
                            return Ok(Value::Text(text));
                        }
                        '\\' => text.extend(chars.next().map(|(_, c)| c)),
                        other => text.push(other),
                    }
                }
                Err((start, "a text that does not end"))
            }
            Some('[') if depth == 0 => {
                self.at += 1;
                let mut list = Vec::new();
                while !self.take(']') {
                    list.push(self.value(depth + 1)?);
                    if !self.take(',') && self.peek() != Some(']') {
                        return Err((self.at, "a list that does not end"));
                    }
                }
                Ok(Value::List(list))
            }
            _ => {
                let word = self.word()?;
                // Numbers below zero and with points are of no interest.
                Ok(word.parse().map_or(Value::Text(word), Value::Number))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_is_parsed() {
        let text = "# by hand\nversion = 1\nname = \"a \\\"b\\\" } # c\" # d\nvg {\n a = [ \"x\", 5 ]\n b = []\n in { n = 18446744073709551615 m = -1 }\n}\nz=2";
        let whole = Section::parse(text).unwrap();
        assert_eq!((whole.number("version"), whole.number("z")), (Some(1), Some(2)));
        assert_eq!(whole.text("name"), Some("a \"b\" } # c"));
        let vg = whole.section("vg").unwrap();
        assert_eq!(vg.list("a").unwrap(), [Value::Text("x".into()), Value::Number(5)]);
        assert_eq!(vg.list("b").unwrap(), []);
        assert_eq!(vg.section("in").unwrap().number("n"), Some(u64::MAX));
        assert!(text[vg.place.clone()].starts_with("vg {") && text[vg.place.clone()].ends_with("}\n}"));
    }

    #[test]
    fn what_is_no_such_text_is_refused() {
        for text in ["}", "a {", "a", "a = ", "a = \"x", "a = [ 1", "a = [ [ 1 ] ]", &"a { ".repeat(1000), "= 1"] {
            assert!(Section::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[a{}=\\[\\]\", 1#\\\\\nä]{0,80}") {
            let _ = Section::parse(&text);
        }
    }
}
