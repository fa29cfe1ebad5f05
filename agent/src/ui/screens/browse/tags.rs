//! The files that are tagged, to be copied together.
//!
//! Must not know: screens, places.

use std::collections::BTreeMap;

use crate::ui::files::File;
use crate::ui::page::count;
use imager::files::Kind;
use imager::units::size;

/// As many are copied at once. They become arguments of one process, which has room for no endless number.
pub(super) const TAGS_MAX: usize = 1000;
/// Bytes that their paths have together, for the same reason.
const TAG_BYTES_MAX: usize = 100 << 10;

/// A file or a directory that is to be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    /// Its path, escaped.
    pub shown: String,
    /// Its own name, escaped.
    pub name: String,
    /// With all that is in it.
    pub is_directory: bool,
    /// Bytes in a file.
    pub size: u64,
}

impl Tag {
    /// Of a name in a directory: its path as an argument, and what is shown of it.
    ///
    /// # Errors
    /// Why it cannot be copied, and what to do.
    pub(super) fn of(file: &File, directory: (Option<&str>, &str)) -> Result<(String, Self), String> {
        let (Some(above), Some(name)) = (directory.0, &file.argument) else {
            return Err(format!(
                "{} cannot be copied by itself: no path leads to a name like that without doubt. Copy the directory that \
                 it is in.",
                shortened(&file.name)
            ));
        };
        let facts = file.facts.as_ref().map_err(|why| {
            format!("{} is damaged in the image: {why}. Another image may have it whole.", shortened(&file.name))
        })?;
        let is_directory = facts.kind == Kind::Directory;
        let size = if facts.kind == Kind::File { facts.size } else { 0 };
        let shown = format!("{}/{}", directory.1, file.name);
        Ok((format!("{above}/{name}"), Self { shown, name: file.name.clone(), is_directory, size }))
    }
}

/// A name that fits into a sentence.
pub(super) fn shortened(name: &str) -> String {
    crate::ui::page::cut(name, 200)
}

/// What is tagged on one partition, by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tags(BTreeMap<String, Tag>);

impl Tags {
    /// One alone.
    pub(super) fn one(path: String, tag: Tag) -> Self {
        Self([(path, tag)].into())
    }

    /// Nothing is tagged.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// This path is tagged.
    pub(super) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// Takes the tag off a path, if it has one.
    pub(super) fn remove(&mut self, path: &str) -> bool {
        self.0.remove(path).is_some()
    }

    /// Takes all tags off.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Tags one more.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(super) fn add(&mut self, path: String, tag: Tag) -> Result<(), String> {
        let bytes: usize = self.0.keys().map(String::len).sum();
        if self.0.len() >= TAGS_MAX || bytes + path.len() > TAG_BYTES_MAX {
            return Err(format!(
                "{} are tagged, and no more can be copied at once. Copy these first (c), or tag the directory that holds \
                 them.",
                count(self.len(), "name")
            ));
        }
        if let Some(other) = self.0.values().find(|other| other.name == tag.name) {
            return Err(format!(
                "{} is tagged already, and two of the same name cannot go into one directory. Copy that one first (c), or \
                 take its tag off.",
                shortened(&other.shown)
            ));
        }
        self.0.insert(path, tag);
        Ok(())
    }

    /// Their paths, for `imager cp`.
    pub(super) fn paths(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// What is shown of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Tag> {
        self.0.values()
    }

    /// Bytes of the files; of directories nobody knows before they are walked.
    pub(super) fn bytes(&self) -> u64 {
        self.0.values().map(|tag| tag.size).fold(0, u64::saturating_add)
    }

    /// "2 files (1.50 KiB), 1 directory with all in it".
    pub(super) fn words(&self) -> String {
        let directories = self.0.values().filter(|tag| tag.is_directory).count();
        let files = self.len() - directories;
        let files = (files > 0).then(|| format!("{} ({})", count(files, "file"), size(self.bytes())));
        let plural = if directories == 1 { "directory" } else { "directories" };
        let directories = (directories > 0).then(|| format!("{directories} {plural} with all in it"));
        files.into_iter().chain(directories).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(path: &str, name: &str, size: u64) -> Tag {
        Tag { shown: path.into(), name: name.into(), is_directory: false, size }
    }

    #[test]
    fn tags_are_bounded_and_do_not_collide() {
        let mut tags = Tags::default();
        tags.add("/a/x".into(), tag("/a/x", "x", 5)).unwrap();
        assert!(tags.add("/b/x".into(), tag("/b/x", "x", 5)).unwrap_err().contains("/a/x is tagged already"));
        for number in 1..TAGS_MAX {
            tags.add(format!("/{number}"), tag("", &number.to_string(), 1)).unwrap();
        }
        assert!(tags.add("/y".into(), tag("/y", "y", 5)).unwrap_err().contains("1000 names are tagged"));
        assert!(tags.remove("/a/x") && !tags.remove("/a/x"));
        assert!(tags.add(format!("/{}", "z".repeat(TAG_BYTES_MAX)), tag("", "z", 1)).is_err());
        assert_eq!(tags.words(), "999 files (999 B)");
    }
}
