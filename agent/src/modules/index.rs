//! What depmod writes about a kernel's modules: `modules.dep`, `modules.alias`, `modules.softdep`, `modules.builtin`.
//!
//! Of the aliases, tens of thousands, only those that can match are looked at: they are sorted, and what stands in
//! front of a pattern's first wildcard is the beginning of all that it matches. Must not know: loading.
//!
//! Source of the format: depmod(8), modprobe.d(5).

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::pattern;

/// The modules of one kernel.
pub(super) struct Index {
    folder: PathBuf,
    /// By name, with `_` for `-`: the file, and the names of all that it needs, the nearest first.
    modules: BTreeMap<String, Module>,
    builtin: BTreeSet<String>,
    /// Sorted.
    aliases: Aliases,
    soft: BTreeMap<String, Soft>,
}

struct Module {
    file: String,
    needs: Vec<String>,
}

/// What should be there before and after a module, if it is to be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Soft {
    pub(super) before: Vec<String>,
    pub(super) after: Vec<String>,
}

impl Index {
    /// Of the kernel that runs.
    ///
    /// # Errors
    /// When its modules are not there: the kernel and the initramfs do not belong together.
    pub(super) fn of_this_kernel() -> io::Result<Self> {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        Self::read(&Path::new("/lib/modules").join(release))
    }

    /// Of the kernel whose modules are in `folder`.
    ///
    /// # Errors
    /// Without a `modules.dep`.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let dep = folder.join("modules.dep");
        let dep = fs::read_to_string(&dep)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", dep.display())))?;
        let text = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
        Ok(Self {
            folder: folder.to_owned(),
            modules: dep.lines().filter_map(parse_dep).collect(),
            builtin: text("modules.builtin").lines().map(name_of).collect(),
            aliases: Aliases::new(text("modules.alias")),
            soft: text("modules.softdep").lines().filter_map(parse_soft).collect(),
        })
    }

    /// The names of the modules for what hardware, or the kernel, calls itself; a module's own name is one, too.
    pub(super) fn find(&self, alias: &str) -> Vec<String> {
        let name = underscores(alias).into_owned();
        if self.modules.contains_key(&name) || self.builtin.contains(&name) {
            return vec![name];
        }
        let mut found = self.aliases.find(alias.as_bytes());
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The file of a module; none for what is not there.
    pub(super) fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.join(&self.modules.get(name)?.file))
    }

    /// All that has to be loaded before it, in this order.
    pub(super) fn needs(&self, name: &str) -> Vec<String> {
        self.modules.get(name).map(|module| module.needs.iter().rev().cloned().collect()).unwrap_or_default()
    }

    /// All that should be loaded before and after it.
    pub(super) fn soft(&self, name: &str) -> Soft {
        self.soft.get(name).cloned().unwrap_or_default()
    }

    /// It is in the kernel itself.
    pub(super) fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(name)
    }
}

/// `kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/jbd2/jbd2.ko`.
fn parse_dep(line: &str) -> Option<(String, Module)> {
    let (file, needs) = line.split_once(':')?;
    let needs = needs.split_ascii_whitespace().map(name_of).collect();
    Some((name_of(file), Module { file: file.to_owned(), needs }))
}

/// `softdep btrfs pre: crc32c xxhash64 post: …`.
fn parse_soft(line: &str) -> Option<(String, Soft)> {
    let mut words = line.split_ascii_whitespace();
    let name = (words.next()? == "softdep").then(|| words.next())??;
    let mut soft = Soft::default();
    let mut is_before = true;
    for word in words {
        match word {
            "pre:" => is_before = true,
            "post:" => is_before = false,
            _ if is_before => soft.before.push(word.to_owned()),
            _ => soft.after.push(word.to_owned()),
        }
    }
    Some((underscores(name).into_owned(), soft))
}

/// `kernel/drivers/char/hw_random/virtio-rng.ko` is `virtio_rng`.
fn name_of(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    underscores(base.split_once(".ko").map_or(base, |(name, _)| name)).into_owned()
}

fn underscores(name: &str) -> Cow<'_, str> {
    if name.contains('-') { name.replace('-', "_").into() } else { name.into() }
}

/// Lines `alias PATTERN MODULE`, sorted.
struct Aliases {
    text: String,
    /// Where each pattern begins, in order of the patterns.
    lines: Vec<u32>,
}

impl Aliases {
    fn new(text: String) -> Self {
        let mut lines = Vec::with_capacity(text.len() / 64);
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            if line.starts_with("alias ") {
                lines.extend(u32::try_from(at + "alias ".len()).ok());
            }
            at += line.len();
        }
        let mut aliases = Self { text, lines };
        let mut starts = std::mem::take(&mut aliases.lines);
        if !starts.is_sorted_by_key(|&start| aliases.pattern(start)) {
            starts.sort_by_key(|&start| aliases.pattern(start));
        }
        aliases.lines = starts;
        aliases
    }

    fn line(&self, start: u32) -> &[u8] {
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        self.text.as_bytes().get(start..).unwrap_or_default()
    }

    fn pattern(&self, start: u32) -> &[u8] {
        let line = self.line(start);
        line.get(..line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len())).unwrap_or_default()
    }

    fn module(&self, start: u32) -> Option<String> {
        let line = self.line(start).split(|&byte| byte == b'\n').next()?;
        let name = line.splitn(2, |&byte| byte == b' ').nth(1)?;
        Some(underscores(std::str::from_utf8(name.trim_ascii()).ok()?).into_owned())
    }

    fn find(&self, alias: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        // The patterns whose literal beginning is `prefix` exactly stand together, in three runs: the prefix alone,
        // and it with each of the characters that make it a pattern.
        for len in 0..=alias.len() {
            let prefix = alias.get(..len).unwrap_or_default();
            for next in [None, Some(b'*'), Some(b'?'), Some(b'['), Some(b'\\')] {
                if next.is_none() && len < alias.len() {
                    continue;
                }
                let beginning: Vec<u8> = prefix.iter().copied().chain(next).collect();
                let from = self.lines.partition_point(|&start| self.pattern(start) < beginning.as_slice());
                let run = self.lines.get(from..).unwrap_or_default();
                let run = run.iter().take_while(|&&start| match next {
                    None => self.pattern(start) == alias,
                    Some(_) => self.pattern(start).starts_with(&beginning),
                });
                let run = run.filter(|&&start| {
                    let pattern = self.pattern(start);
                    pattern::literal_prefix(pattern).len() == len && pattern::matches(pattern, alias)
                });
                found.extend(run.filter_map(|&start| self.module(start)));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index() -> Index {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        write(
            "modules.dep",
            "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko\nkernel/fs/jbd2/jbd2.ko:\nkernel/lib/crc16.ko:\nkernel/a/virtio-rng.ko: kernel/b/virtio.ko\nkernel/b/virtio.ko:\nkernel/c/crc32c-intel.ko:\n",
        );
        write(
            "modules.alias",
            "# Aliases\nalias fs-ext4 ext4\nalias virtio:d00000004v* virtio-rng\nalias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci\nalias pci:v*d*sv*sd*bc01sc08i02* nvme\nalias crypto-crc32c crc32c_intel\nalias crc32c crc32c_intel\nalias acpi*:PNP0501:* serial\n",
        );
        write("modules.softdep", "softdep ext4 pre: crc32c post: x y\n");
        write("modules.builtin", "kernel/drivers/tty/serial/8250/8250-core.ko\n");
        Index::read(folder.path()).unwrap()
    }

    #[test]
    fn hardware_finds_its_modules() {
        let index = index();
        for (alias, modules) in [
            ("fs-ext4", &["ext4"][..]),
            ("virtio:d00000004v00001AF4", &["virtio_rng"]),
            ("pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00", &["virtio_pci"]),
            ("pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc08i02", &["nvme", "virtio_pci"]),
            ("acpi:PNP0501:PNP0500:", &["serial"]),
            ("acpi:PNP0502:", &[]),
            ("virtio-rng", &["virtio_rng"]),
            ("8250_core", &["8250_core"]),
            ("", &[]),
        ] {
            assert_eq!(index.find(alias), modules, "{alias}");
        }
    }

    #[test]
    fn what_a_module_needs_comes_first() {
        let index = index();
        assert_eq!(index.needs("ext4"), ["crc16", "jbd2"]);
        assert_eq!(index.soft("ext4"), Soft { before: vec!["crc32c".into()], after: vec!["x".into(), "y".into()] });
        assert!(index.file("virtio_rng").unwrap().ends_with("kernel/a/virtio-rng.ko"));
        assert!(index.is_builtin("8250_core") && index.file("8250_core").is_none());
    }

    #[test]
    fn sorted_search_finds_what_a_search_through_all_finds() {
        let patterns = ["a*", "ab*c", "a?c", "abc", "[a-c]bc", "*", "ab[!x]", "a\\bc", "abd", "b*"];
        let text = patterns.iter().enumerate().map(|(n, p)| format!("alias {p} m{n}\n")).collect();
        let aliases = Aliases::new(text);
        for alias in ["abc", "ab", "a", "b", "abd", "xbc", ""] {
            let mut found = aliases.find(alias.as_bytes());
            found.sort();
            let all = patterns.iter().enumerate().filter(|(_, p)| pattern::matches(p.as_bytes(), alias.as_bytes()));
            let mut expected: Vec<String> = all.map(|(n, _)| format!("m{n}")).collect();
            expected.sort();
            assert_eq!(found, expected, "{alias}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_patterns_are_found_as_a_search_through_all_finds_them(
            patterns in prop::collection::vec("[abA*?!\\[\\]\\\\-]{0,6}", 0..8),
            alias in "[abA*?\\[\\\\-]{0,6}",
        ) {
            let text: String = patterns.iter().enumerate().map(|(n, p)| format!("alias {p} m{n}\n")).collect();
            let mut found = Aliases::new(text).find(alias.as_bytes());
            found.sort();
            let all = patterns.iter().enumerate().filter(|(_, p)| pattern::matches(p.as_bytes(), alias.as_bytes()));
            let mut expected: Vec<String> = all.map(|(n, _)| format!("m{n}")).collect();
            expected.sort();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_text_is_taken_apart(text in "([a-z/.: \n-]|alias |softdep |pre: |post: |\\PC){0,60}", alias in "\\PC{0,20}") {
            let _ = Aliases::new(text.clone()).find(alias.as_bytes());
            for line in text.lines() {
                let _ = (parse_dep(line), parse_soft(line), name_of(line));
            }
        }
    }
}
