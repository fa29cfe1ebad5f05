//! The words that say what is to be done without anybody there: on the kernel's command line, or in a file.
//!
//! [`WORDS`] is the one table from which the parser, the messages, `agent words` and the README come. Must not know: disks.

use std::collections::BTreeMap;

/// A word, what it takes, and what it does.
pub(crate) struct Word {
    /// As it is written.
    pub(crate) name: &'static str,
    /// What may stand behind the `=`.
    pub(crate) value: &'static str,
    /// What it does.
    pub(crate) says: &'static str,
}

/// All words.
#[rustfmt::skip]
pub(crate) const WORDS: &[Word] = &[
    Word { name: "lifeboat.job", value: "capture, restore, verify", says: "what is done; without it the user interface asks" },
    Word { name: "lifeboat.repo", value: "label:NAME/PATH, uuid:UUID/PATH, /dev/NAME/PATH", says: "the repository: a file system and a directory on it, `lifeboat` when none is given" },
    Word { name: "lifeboat.password-file", value: "/PATH, label:NAME/PATH, ...", says: "a file whose first line is the repository's password: in the initramfs, or on a file system" },
    Word { name: "lifeboat.init", value: "yes, no", says: "make the repository if there is none" },
    Word { name: "lifeboat.disk", value: "serial:S, wwn:W, size:N, only, all", says: "capture: the disks, with commas in between. `only` is the one disk, `all` are all, without those of the repository and of the medium" },
    Word { name: "lifeboat.name", value: "TEXT", says: "capture: the image's name" },
    Word { name: "lifeboat.note", value: "TEXT", says: "capture: a note that is kept with the image; `\"` around what has blanks" },
    Word { name: "lifeboat.level", value: "auto, 1 to 22", says: "capture: the compression level" },
    Word { name: "lifeboat.image", value: "ID, NAME, latest", says: "restore and verify: the image; restore: `latest` when none is given, verify: all" },
    Word { name: "lifeboat.target", value: "serial:S, wwn:W, size:N, only", says: "restore: the disk to overwrite; for an image of several disks `disk0=serial:S,disk1=serial:T`" },
    Word { name: "lifeboat.confirm", value: "SERIAL", says: "restore: the serial number of each disk to overwrite (its path, if it has none), with commas in between. Without it nothing is done" },
    Word { name: "lifeboat.then", value: "poweroff, reboot, nothing", says: "what happens to the machine when the job has ended well; when it has not, the machine stays on and says so" },
    Word { name: "lifeboat.progress", value: "plain, json", says: "how progress is shown on every console" },
    Word { name: "lifeboat.network", value: "dhcp, IP/PREFIX,GATEWAY,DNS", says: "set up the network; gateway and DNS server may be left out" },
    Word { name: "lifeboat.config", value: "http://HOST/PATH, label:NAME/PATH, /PATH, ...", says: "a file of more such words, `#` before remarks; what the command line says goes first" },
];

/// The table that the README has, a line each.
pub(crate) fn table() -> String {
    let lines = WORDS.iter().map(|word| format!("| `{}=` | {} | {} |\n", word.name, word.value, word.says));
    lines.collect()
}

/// What the words of one source say, by name.
pub(crate) type Values = BTreeMap<&'static str, String>;

/// Takes the words that are ours out of a kernel command line or a file.
///
/// # Errors
/// All that is wrong with them, a line each: unknown words with the nearest known one, words without a value.
pub(crate) fn parse(text: &str) -> Result<Values, Vec<String>> {
    let mut values = Values::new();
    let mut wrong = Vec::new();
    for line in text.lines() {
        for word in split(line) {
            let Some((name, value)) = word.split_once('=') else {
                if word.starts_with("lifeboat.") {
                    wrong.push(format!("{word} needs a value: {word}=..."));
                }
                continue;
            };
            if !name.starts_with("lifeboat.") {
                continue;
            }
            match WORDS.iter().find(|known| known.name == name) {
                Some(known) if value.is_empty() => wrong.push(format!("{name} needs a value: {}", known.value)),
                // The last one counts, as it does for the kernel.
                Some(known) => drop(values.insert(known.name, value.to_owned())),
                None => wrong.push(unknown(name)),
            }
        }
    }
    if wrong.is_empty() { Ok(values) } else { Err(wrong) }
}

/// Words between blanks; `"` keeps blanks together, wherever in a word it stands. `#` at a word's beginning ends the line.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut is_quoted = false;
    for c in line.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            '#' if word.is_empty() && !is_quoted => break,
            c if c.is_whitespace() && !is_quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

fn unknown(name: &str) -> String {
    let nearest = WORDS.iter().min_by_key(|known| distance(known.name, name));
    let meant = nearest.filter(|known| distance(known.name, name) <= 4);
    let meant =
        meant.map_or_else(|| "the README lists all words".to_owned(), |known| format!("is {} meant?", known.name));
    format!("{name} is no word that Lifeboat knows; {meant}")
}

/// How many letters have to be changed, added or left out.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (number, c) in one.chars().enumerate() {
        let mut left = number + 1;
        let mut next = vec![left];
        for (pair, d) in row.windows(2).zip(&other) {
            let [diagonal, above] = *pair else { continue };
            left = (diagonal + usize::from(c != *d)).min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_taken_from_between_others() {
        let line = "BOOT_IMAGE=/vmlinuz quiet lifeboat.job=capture lifeboat.note=\"before the move\" \"lifeboat.name=a b\" lifeboat.disk=serial:A=1 lifeboat.job=verify";
        let values = parse(line).unwrap();
        assert_eq!(values["lifeboat.note"], "before the move");
        assert_eq!(values["lifeboat.name"], "a b");
        assert_eq!(values["lifeboat.disk"], "serial:A=1");
        assert_eq!(values["lifeboat.job"], "verify");
        assert_eq!(values.len(), 4);
    }

    #[test]
    fn files_have_lines_and_remarks() {
        let values = parse("# lifeboat.job=restore\nlifeboat.job=capture # really\r\n\n  lifeboat.name=a#b\n").unwrap();
        assert_eq!(values["lifeboat.job"], "capture");
        assert_eq!(values["lifeboat.name"], "a#b");
    }

    #[test]
    fn what_is_wrong_is_said_all_at_once() {
        let wrong = parse("lifeboat.jb=capture lifeboat.name= lifeboat.disk lifeboat.frobnicate=1").unwrap_err();
        assert_eq!(wrong.len(), 4);
        assert!(wrong[0].contains("is lifeboat.job meant?"), "{}", wrong[0]);
        assert!(wrong[3].contains("README"), "{}", wrong[3]);
    }

    #[test]
    fn the_readme_has_this_table() {
        let readme = include_str!("../../../README.md");
        assert!(readme.contains(&table()), "the README's table is not\n{}", table());
        let lines = readme.lines().filter(|line| line.starts_with("| `lifeboat.") && line.contains("=` |")).count();
        assert_eq!(lines, WORDS.len(), "the README's table has other lines than WORDS");
    }

    #[test]
    fn distances_count_letters() {
        assert_eq!((distance("kitten", "sitting"), distance("", "abc"), distance("a", "a")), (3, 3, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_taken_apart(text in "(lifeboat\\.|job|config|[a-z.=\"# \n]|\\PC){0,40}") {
            match parse(&text) {
                Ok(values) => prop_assert!(values.values().all(|value| !value.is_empty())),
                Err(wrong) => prop_assert!(!wrong.is_empty()),
            }
        }
    }
}
