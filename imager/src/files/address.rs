//! `IMAGE:PARTITION/PATH`: which file of which partition of which image.
//!
//! `latest:p2/etc/fstab` is a file on partition 2 of an image with one disk, `latest:disk1p2/etc` a directory on the
//! second of several, `latest:p2` the root of a file system, and `latest:disk0` one on a disk without partitions.
//! Must not know: terminals, targets.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::screen::{escaped, unescaped};
use super::walk::{Order, entries};
use super::{FileSystem, Kind, NodeId, Part, Stat, parts, unwrapped};
use crate::error::{Error, Result};
use crate::repo::manifest::Manifest;

/// Symbolic links on the way to one file; as many as Linux follows.
const LINKS_MAX: usize = 40;
/// Names that are held against one that was not found.
const COMPARED_MAX: usize = 20_000;

/// What a command line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Beginning of an image's id, its name, or `latest`.
    pub image: String,
    /// Which partition; none when only an image is named.
    pub part: Option<PartName>,
    /// From the root of its file system; empty for the root.
    pub path: Vec<u8>,
}

/// `p2`, `disk1p2`, `disk1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartName {
    /// From 0.
    pub disk: Option<usize>,
    /// As Linux numbers it.
    pub partition: Option<u32>,
}

impl PartName {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (disk, rest) = match text.strip_prefix("disk") {
            None => (None, text),
            Some(rest) => {
                let end = rest.find('p').unwrap_or(rest.len());
                let (digits, rest) = rest.split_at(end);
                (Some(number(digits).then(|| digits.parse().ok())??), rest)
            }
        };
        let partition = match rest.strip_prefix('p') {
            None if rest.is_empty() && disk.is_some() => None,
            None => return None,
            Some(digits) => Some(number(digits).then(|| digits.parse().ok())??),
        };
        Some(Self { disk, partition })
    }
}

impl Address {
    /// Takes an argument apart. The first colon that a partition's name follows ends the image's name.
    ///
    /// # Errors
    /// [`Error::Usage`], which says what it should look like.
    pub fn parse(argument: &OsStr) -> Result<Self> {
        let bytes = argument.as_bytes();
        let text = |bytes: &[u8]| {
            let is_text = std::str::from_utf8(bytes).map(ToOwned::to_owned);
            is_text.map_err(|_| Error::Usage(format!("{} names no image", escaped(bytes))))
        };
        for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b':') {
            let (image, rest) = (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..).unwrap_or_default());
            let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            let (part, path) = rest.split_at(end);
            if let (false, Some(part)) = (image.is_empty(), PartName::parse(part)) {
                return Ok(Self { image: text(image)?, part: Some(part), path: path.to_vec() });
            }
        }
        match bytes.iter().position(|byte| *byte == b':') {
            None => Ok(Self { image: text(bytes)?, part: None, path: Vec::new() }),
            Some(at) if at + 1 == bytes.len() && at > 0 => {
                Ok(Self { image: text(bytes.get(..at).unwrap_or_default())?, part: None, path: Vec::new() })
            }
            Some(_) => Err(Error::Usage(format!(
                "{} is not IMAGE:PARTITION/PATH, as in latest:p2/etc/fstab, or latest:disk1p2/etc when there are several disks",
                escaped(bytes)
            ))),
        }
    }
}

/// The part of an image that a name means.
///
/// # Errors
/// [`Error::Usage`], with the parts that there are.
pub fn find_part(manifest: &Manifest, name: PartName) -> Result<Part> {
    let all = parts(manifest);
    let disk = match (name.disk, manifest.disks.len()) {
        (Some(disk), _) => disk,
        (None, 1) => 0,
        (None, disks) => {
            return Err(Error::Usage(format!(
                "the image has {disks} disks: name one, as in disk0p1; {}",
                choices(manifest, &all)
            )));
        }
    };
    // Whatever the table says, the whole disk is there.
    let found = all.iter().find(|part| (part.disk, part.partition) == (disk, name.partition)).cloned();
    found.ok_or_else(|| Error::Usage(format!("the image has no such partition; {}", choices(manifest, &all))))
}

/// "files are in p1 (ext4), p2 (ntfs \"Windows\")".
#[must_use]
pub fn choices(manifest: &Manifest, parts: &[Part]) -> String {
    let name = |part: &Part| {
        let captured = part.captured.as_ref();
        let kind = captured.map_or("unknown", |captured| captured.kind.as_str());
        let label = captured.and_then(|captured| captured.label.as_deref());
        let label = label.map(|label| format!(" \"{}\"", escaped(label.as_bytes()))).unwrap_or_default();
        format!("{} ({}{label})", part.name(manifest), escaped(kind.as_bytes()))
    };
    let names: Vec<String> = parts.iter().filter(|part| part.has_files()).map(name).collect();
    if names.is_empty() {
        return "none of its partitions has files that can be read here".into();
    }
    format!("files are in {}", names.join(", "))
}

/// What to do with a symbolic link at the end of a path. Those on the way are followed, within the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLink {
    /// The link itself is meant.
    Keep,
    /// What it points to is meant.
    Follow,
}

/// A file that a path leads to.
#[derive(Clone, Debug)]
pub struct Found {
    /// From the root, without links; empty for the root itself.
    pub path: Vec<Vec<u8>>,
    /// What it is.
    pub stat: Stat,
}

impl Found {
    /// Its own name; none for the root.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        self.path.last().map(Vec::as_slice)
    }

    /// The path, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("/{}", self.path.iter().map(|name| escaped(name)).collect::<Vec<_>>().join("/"))
    }
}

/// Follows a path from the root.
///
/// # Errors
/// [`Error::Usage`] when there is no such file, with names that look alike; [`Error::FileSystem`].
pub fn resolve(files: &dyn FileSystem, path: &[u8], last: LastLink) -> Result<Found> {
    // A slash at the end asks for what a link points to.
    let last = if path.ends_with(b"/") { LastLink::Follow } else { last };
    let mut todo: Vec<Vec<u8>> = names(path).rev().collect();
    let mut way: Vec<(Vec<u8>, NodeId)> = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == b".." {
            way.pop();
            continue;
        }
        let here = way.last().map_or(files.root(), |(_, node)| *node);
        let shown = || format!("/{}", way.iter().map(|(name, _)| escaped(name)).collect::<Vec<_>>().join("/"));
        let stat = files.stat(here).map_err(unwrapped)?;
        if stat.kind != Kind::Directory {
            return Err(Error::Usage(format!("{} is no directory but a {}", shown(), stat.kind.word())));
        }
        let found = files.lookup(here, &name).map_err(unwrapped)?;
        let found =
            match (found, std::str::from_utf8(&name).ok().filter(|text| text.contains('\\')).and_then(unescaped)) {
                (None, Some(raw)) => files.lookup(here, &raw).map_err(unwrapped)?,
                (found, _) => found,
            };
        let Some(entry) = found else {
            let alike = similar(files, here, &name);
            let hint = if alike.is_empty() { String::new() } else { format!("; there is {}", alike.join(", ")) };
            return Err(Error::Usage(format!("there is no {} in {}{hint}", escaped(&name), shown())));
        };
        let stat = files.stat(entry.node).map_err(unwrapped)?;
        if stat.kind == Kind::Symlink && (!todo.is_empty() || last == LastLink::Follow) {
            links += 1;
            if links > LINKS_MAX {
                return Err(Error::Usage(format!("too many symbolic links at {} in {}", escaped(&name), shown())));
            }
            let target = files.read_link(entry.node).map_err(unwrapped)?;
            if target.starts_with(b"/") {
                way.clear();
            }
            todo.extend(names(&target).rev());
            continue;
        }
        way.push((entry.name, entry.node));
    }
    let node = way.last().map_or(files.root(), |(_, node)| *node);
    let stat = files.stat(node).map_err(unwrapped)?;
    Ok(Found { path: way.into_iter().map(|(name, _)| name).collect(), stat })
}

fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).map(<[u8]>::to_vec)
}

/// Up to three names of a directory that look like one that it does not have.
fn similar(files: &dyn FileSystem, directory: NodeId, name: &[u8]) -> Vec<String> {
    let (entries, _) = entries(files, directory, Order::Name);
    let wanted = String::from_utf8_lossy(name).to_lowercase();
    let limit = 1 + wanted.chars().count() / 4;
    let mut close: Vec<(usize, String)> = Vec::new();
    for entry in entries.iter().take(COMPARED_MAX) {
        let other = String::from_utf8_lossy(&entry.name).to_lowercase();
        let far = distance(&wanted, &other);
        if far <= limit || (wanted.len() > 2 && other.contains(&wanted)) {
            close.push((far, escaped(&entry.name)));
        }
    }
    close.sort();
    close.into_iter().take(3).map(|(_, name)| name).collect()
}

/// How many letters must be changed, put in or left out (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (number, letter) in a.chars().enumerate() {
        let mut next = vec![number + 1];
        for (column, other) in b.iter().enumerate() {
            let above = row.get(column + 1).copied().unwrap_or(0) + 1;
            let left = next.last().copied().unwrap_or(0) + 1;
            let diagonal = row.get(column).copied().unwrap_or(0) + usize::from(*other != letter);
            next.push(above.min(left).min(diagonal));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, Option<usize>, Option<u32>, String)> {
        let address = Address::parse(OsStr::new(text)).ok()?;
        let part = address.part?;
        Some((address.image, part.disk, part.partition, String::from_utf8(address.path).unwrap()))
    }

    #[test]
    fn addresses_are_taken_apart() {
        let some = |image: &str, disk, partition, path: &str| Some((image.into(), disk, partition, path.into()));
        assert_eq!(parsed("latest:p2/etc/fstab"), some("latest", None, Some(2), "/etc/fstab"));
        assert_eq!(parsed("latest:disk1p12"), some("latest", Some(1), Some(12), ""));
        assert_eq!(parsed("ab:disk0/"), some("ab", Some(0), None, "/"));
        assert_eq!(parsed("a:b c:p1/x:p2/y"), some("a:b c", None, Some(1), "/x:p2/y"));
        for wrong in ["x:p", "x:p2a/b", "x:/etc", "x:disk/etc", ":p2/etc", "x:diskp1", "x:p99999999999", "x:p+1"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
            assert!(Address::parse(OsStr::new(wrong)).is_err(), "{wrong}");
        }
        for image in ["latest", "latest:"] {
            let address = Address::parse(OsStr::new(image)).unwrap();
            assert_eq!((address.image.as_str(), address.part), ("latest", None));
        }
    }

    #[test]
    fn distances_are_letters() {
        assert_eq!((distance("fstab", "fstab"), distance("fstab", "fstap"), distance("", "abc")), (0, 1, 3));
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
