//! Patterns of aliases, as in fnmatch(3) without flags: `*`, `?`, `[a-f]`, `[!x]`, and `\` before a character that
//! stands for itself.

#![forbid(unsafe_code)]

/// Does all of `text` match?
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern_at, mut text_at) = (0, 0);
    // Where to go on when what follows the last `*` does not match: the star takes one more.
    let mut star = None;
    loop {
        let rest = pattern.get(pattern_at..).unwrap_or_default();
        if rest.first() == Some(&b'*') {
            star = Some((pattern_at + 1, text_at));
            pattern_at += 1;
            continue;
        }
        let one = text.get(text_at).and_then(|&byte| one(rest, byte));
        match (one, star) {
            (Some(len), _) => (pattern_at, text_at) = (pattern_at + len, text_at + 1),
            (None, _) if rest.is_empty() && text_at == text.len() => return true,
            (None, Some((after, from))) if from < text.len() => {
                star = Some((after, from + 1));
                (pattern_at, text_at) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// The length of the pattern's first element, if `byte` matches it.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [b'[', set @ ..] => {
            let (is_negated, set) = match set {
                [b'!' | b'^', rest @ ..] => (true, rest),
                _ => (false, set),
            };
            // A bracket in first place stands for itself.
            let end = set.iter().skip(1).position(|&b| b == b']')? + 1;
            let members = set.get(..end)?;
            (is_in(members, byte) != is_negated).then_some(end + 2 + usize::from(is_negated))
        }
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

fn is_in(mut members: &[u8], byte: u8) -> bool {
    loop {
        members = match members {
            [low, b'-', high, rest @ ..] if (*low..=*high).contains(&byte) || rest.is_empty() => {
                return (*low..=*high).contains(&byte);
            }
            [_, b'-', _, rest @ ..] => rest,
            [member, ..] if *member == byte => return true,
            [_, rest @ ..] => rest,
            [] => return false,
        }
    }
}

/// The part in front of the first character with a meaning of its own.
pub(super) fn literal_prefix(pattern: &[u8]) -> &[u8] {
    let end = pattern.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(pattern.len());
    pattern.get(..end).unwrap_or(pattern)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_as_fnmatch_does() {
        for (pattern, text, expected) in [
            ("pci:v00008086d00001237sv*sd*bc*sc*i*", "pci:v00008086d00001237sv00001AF4sd00001100bc06sc00i00", true),
            ("pci:v00008086d00001238sv*", "pci:v00008086d00001237sv00001AF4", false),
            ("usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00", true),
            ("usb:v0421p0019d059[2-9]dc*", "usb:v0421p0019d0595dc00", true),
            ("usb:v0421p0019d059[2-9]dc*", "usb:v0421p0019d0591dc00", false),
            ("a[!b]c", "axc", true),
            ("a[!b]c", "abc", false),
            ("a[]x]c", "a]c", true),
            ("a[0-35-7]c", "a6c", true),
            ("a[0-35-7]c", "a4c", false),
            ("a[0-35-7]c", "a-c", false),
            ("*", "", true),
            ("a*", "a", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("a?", "a", false),
            ("[", "[", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_exponential_time() {
        let pattern = "a*".repeat(60) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(200).as_bytes()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_come_to_an_end(pattern: Vec<u8>, text: Vec<u8>) {
            let _ = matches(&pattern, &text);
            prop_assert!(pattern.starts_with(literal_prefix(&pattern)));
        }

        #[test]
        fn a_text_without_magic_matches_itself(text in "[a-zA-Z0-9:._-]{0,40}") {
            prop_assert!(matches(text.as_bytes(), text.as_bytes()));
            let starred = format!("*{text}*");
            prop_assert!(matches(starred.as_bytes(), text.as_bytes()));
        }
    }
}
