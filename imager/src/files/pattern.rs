//! Patterns for names, as shells have them: `*`, `?` and `[a-z]`.
//!
//! Must not know: where names come from.

/// Whether a name is like a pattern. `?` and `[…]` stand for one character, or for a byte of what is no UTF-8.
///
/// Takes time in proportion to both lengths at most, whatever they hold.
#[must_use]
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut in_name) = (0, 0);
    // Where the last star is, and how much of the name it stands for.
    let mut star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        let rest = name.get(in_name..).unwrap_or_default();
        let wanted = pattern.get(at..).unwrap_or_default();
        if wanted.first() == Some(&b'*') {
            star = Some((at, in_name));
            at += 1;
            continue;
        }
        if let Some((in_pattern, len)) = one(wanted, rest) {
            at += in_pattern;
            in_name += len;
            continue;
        }
        let Some((star_at, taken)) = star else { return false };
        let next = taken + character(name.get(taken..).unwrap_or_default());
        star = Some((star_at, next));
        at = star_at + 1;
        in_name = next;
    }
    pattern.get(at..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

/// Bytes of the first character.
fn character(name: &[u8]) -> usize {
    let len = match name.first() {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => 1,
    };
    match name.get(..len) {
        Some(bytes) if std::str::from_utf8(bytes).is_ok() => len,
        _ => 1,
    }
}

/// How much of the pattern, and of the name, the first element matches.
fn one(pattern: &[u8], name: &[u8]) -> Option<(usize, usize)> {
    let len = character(name);
    match pattern.first()? {
        b'?' => Some((1, len)),
        b'\\' if pattern.len() > 1 => (pattern.get(1) == name.first()).then_some((2, 1)),
        b'[' => match set(pattern, name.get(..len)?) {
            Some((in_pattern, true)) => Some((in_pattern, len)),
            Some((_, false)) => None,
            // Without an end it is a bracket.
            None => (name.first() == Some(&b'[')).then_some((1, 1)),
        },
        byte => (name.first() == Some(byte)).then_some((1, 1)),
    }
}

/// The length of a set, and whether the character is in it.
fn set(pattern: &[u8], wanted: &[u8]) -> Option<(usize, bool)> {
    let value = |bytes: &[u8]| -> u32 {
        let text = std::str::from_utf8(bytes).ok().and_then(|text| text.chars().next());
        text.map_or_else(|| bytes.first().map_or(0, |byte| u32::from(*byte)), u32::from)
    };
    let wanted = value(wanted);
    let mut at = 1;
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    at += usize::from(negated);
    let first = at;
    let mut is_in = false;
    loop {
        let rest = pattern.get(at..).filter(|rest| !rest.is_empty())?;
        if rest.first() == Some(&b']') && at > first {
            return Some((at + 1, is_in != negated));
        }
        let len = character(rest);
        let low = value(rest.get(..len)?);
        at += len;
        let mut high = low;
        let rest = pattern.get(at..).unwrap_or_default();
        if rest.first() == Some(&b'-') && !matches!(rest.get(1), None | Some(b']')) {
            let end = rest.get(1..)?;
            let len = character(end);
            high = value(end.get(..len)?);
            at += 1 + len;
        }
        is_in |= (low..=high).contains(&wanted);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_are_those_of_shells() {
        let cases: [(&str, &str, bool); 18] = [
            ("*.conf", "a.conf", true),
            ("*.conf", ".conf", true),
            ("*.conf", "a.conf.d", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXb", false),
            ("?", "ü", true),
            ("??", "ü", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[ä-ü]", "ö", true),
            ("[", "[", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("[a-]", "-", true),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn a_name_without_magic_matches_itself(name in "[a-zäöü.]{0,20}") {
            prop_assert!(matches(name.as_bytes(), name.as_bytes()));
            let starred = format!("*{name}*");
            prop_assert!(matches(starred.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn any_bytes_come_to_an_end(pattern: Vec<u8>, name: Vec<u8>) {
            let _ = matches(&pattern, &name);
        }
    }
}
