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
/// Names that are taken from one directory; more of them would be all of the memory.
const ENTRIES_MAX: usize = 8 << 20;

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
    let mut entries = Vec::new();
    let mut result = files.list(directory, &mut |entry| {
        entries.push(entry);
        if entries.len() < ENTRIES_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    if entries.len() >= ENTRIES_MAX {
        result = Err(FsError::unsupported(format!("a directory with more than {ENTRIES_MAX} names")));
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
    let mut stack = vec![frame(files, start, &path, order, visit)?];
    while let Some(top) = stack.last_mut() {
        path.truncate(top.path_len);
        let Some(entry) = top.entries.next() else {
            visit(Event::Left { path: &path, node: top.node })?;
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
        let below = frame(files, entry.node, &path, order, visit)?;
        stack.push(below);
    }
    Ok(())
}

fn frame(
    files: &dyn FileSystem,
    node: NodeId,
    path: &[u8],
    order: Order,
    visit: &mut dyn FnMut(Event<'_>) -> Result<Next>,
) -> Result<Frame> {
    let (entries, result) = entries(files, node, order);
    if let Err(error) = result {
        visit(Event::Failed { path, error })?;
    }
    Ok(Frame { node, path_len: path.len(), entries: entries.into_iter() })
}
