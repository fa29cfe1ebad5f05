//! Walks through trees of directories, however broken.
//!
//! A directory that was seen before is not entered again, so that loops end and a few forged directories cannot
//! stand for millions. Must not know: what is done with what is found.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::{Entry, FileSystem, Kind, NodeId, Stat};
use crate::error::Result;
use crate::fs::FsError;

/// Deeper is not gone. Linux itself cannot name much deeper files.
const DEPTH_MAX: usize = 2048;
/// Memory that the names of one directory may take, or of all that a walk is in. Millions of them fit, and a forged directory may claim any number:
/// each of its blocks may be the same one.
const NAMES_BYTES_MAX: usize = 512 << 20;
/// What an entry takes beside its name, with some room for those who keep it.
const ENTRY_BYTES: usize = 64;

/// In which order the entries of a directory come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By name, for people.
    Name,
    /// As they lie on the volume, which is the fastest.
    Place,
}

/// What a walk comes across.
pub enum Event<'a> {
    /// A file or a directory.
    Found {
        /// From the walk's start, with `/` between the names.
        path: &'a [u8],
        /// Its name, as it lies on the volume.
        name: &'a [u8],
        /// What is known of it.
        stat: &'a Stat,
        /// Directories between it and the start.
        depth: usize,
    },
    /// All of a directory was visited.
    Left {
        /// Its path.
        path: &'a [u8],
        /// Which one.
        node: NodeId,
    },
    /// Something could not be read; the walk goes on behind it.
    Failed {
        /// Its path.
        path: &'a [u8],
        /// Why.
        error: FsError,
    },
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on, into the directory if it was one.
    Continue,
    /// Do not go into this directory.
    Skip,
}

/// The entries of a directory, in order.
///
/// # Errors
/// [`FsError`]; with what comes before the damage.
pub fn entries(files: &dyn FileSystem, directory: NodeId, order: Order) -> (Vec<Entry>, Result<(), FsError>) {
    entries_within(files, directory, order, NAMES_BYTES_MAX)
}

fn entries_within(
    files: &dyn FileSystem,
    directory: NodeId,
    order: Order,
    bytes_max: usize,
) -> (Vec<Entry>, Result<(), FsError>) {
    let mut entries = Vec::new();
    let mut bytes = 0;
    let mut result = files.list(directory, &mut |entry| {
        bytes += entry.name.len() + ENTRY_BYTES;
        if bytes > bytes_max {
            return ControlFlow::Break(());
        }
        entries.push(entry);
        ControlFlow::Continue(())
    });
    if bytes > bytes_max {
        let count = entries.len();
        result = Err(FsError::unsupported(format!("a directory with more names than fit into memory, {count} so far")));
    }
    match order {
        Order::Name => entries.sort_unstable_by(|a, b| a.name.cmp(&b.name)),
        Order::Place => entries.sort_by_key(|entry| entry.node),
    }
    (entries, result)
}

struct Frame {
    node: NodeId,
    path_len: usize,
    entries: std::vec::IntoIter<Entry>,
    /// Memory that its entries take.
    bytes: usize,
}

/// Visits everything below the directory `start`; `start` itself is only left.
///
/// # Errors
/// Those of `visit`, which end the walk.
pub fn walk(
    files: &dyn FileSystem,
    start: NodeId,
    order: Order,
    visit: &mut dyn FnMut(Event<'_>) -> Result<Next>,
) -> Result<()> {
    let mut seen = HashSet::from([start, files.root()]);
    let mut path: Vec<u8> = Vec::new();
    let first = frame(files, start, &path, order, NAMES_BYTES_MAX, visit)?;
    let mut left = NAMES_BYTES_MAX.saturating_sub(first.bytes);
    let mut stack = vec![first];
    while let Some(top) = stack.last_mut() {
        path.truncate(top.path_len);
        let Some(entry) = top.entries.next() else {
            visit(Event::Left { path: &path, node: top.node })?;
            left += top.bytes;
            stack.pop();
            continue;
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&entry.name);
        let stat = match files.stat(entry.node) {
            Ok(stat) => stat,
            Err(error) => {
                visit(Event::Failed { path: &path, error })?;
                continue;
            }
        };
        let depth = stack.len() - 1;
        let next = visit(Event::Found { path: &path, name: &entry.name, stat: &stat, depth })?;
        if stat.kind != Kind::Directory || next == Next::Skip {
            continue;
        }
        let hindrance = if !seen.insert(entry.node) {
            Some("a directory that has two places in the tree is gone into only once")
        } else if stack.len() >= DEPTH_MAX {
            Some("directories lie too deep in each other")
        } else {
            None
        };
        if let Some(what) = hindrance {
            visit(Event::Failed { path: &path, error: FsError::corrupt(0, what) })?;
            visit(Event::Left { path: &path, node: entry.node })?;
            continue;
        }
        let below = frame(files, entry.node, &path, order, left, visit)?;
        left = left.saturating_sub(below.bytes);
        stack.push(below);
    }
    Ok(())
}

fn frame(
    files: &dyn FileSystem,
    node: NodeId,
    path: &[u8],
    order: Order,
    bytes_max: usize,
    visit: &mut dyn FnMut(Event<'_>) -> Result<Next>,
) -> Result<Frame> {
    let (entries, result) = entries_within(files, node, order, bytes_max);
    if let Err(error) = result {
        visit(Event::Failed { path, error })?;
    }
    let bytes = entries.iter().map(|entry| entry.name.len() + ENTRY_BYTES).sum();
    Ok(Frame { node, path_len: path.len(), entries: entries.into_iter(), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{Description, File, Xattr};

    /// A directory without end.
    struct Endless;

    impl FileSystem for Endless {
        fn description(&self) -> &Description {
            unreachable!("nobody asks")
        }

        fn root(&self) -> NodeId {
            NodeId(1)
        }

        fn stat(&self, _: NodeId) -> Result<Stat, FsError> {
            unreachable!("nobody asks")
        }

        fn list(&self, _: NodeId, visit: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), FsError> {
            while visit(Entry { name: vec![b'x'; 200], node: NodeId(2), kind: None }).is_continue() {}
            Ok(())
        }

        fn open(&self, _: NodeId) -> Result<Box<dyn File>, FsError> {
            unreachable!("nobody asks")
        }

        fn read_link(&self, _: NodeId) -> Result<Vec<u8>, FsError> {
            unreachable!("nobody asks")
        }

        fn xattrs(&self, _: NodeId) -> Result<Vec<Xattr>, FsError> {
            unreachable!("nobody asks")
        }
    }

    #[test]
    fn names_without_end_do_not_take_all_memory() {
        let (found, result) = entries_within(&Endless, NodeId(1), Order::Place, 100_000);
        assert_eq!(found.len(), 100_000 / (200 + ENTRY_BYTES));
        assert!(result.unwrap_err().to_string().contains("more names than fit into memory, 378 so far"));
    }
}
