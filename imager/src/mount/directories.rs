//! Directories that were read lately, so that looking up each of ten thousand names does not read all of them anew.
//!
//! Must not know: FUSE.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::files::walk::{Order, entries};
use crate::files::{Case, Entry, FileSystem, NodeId, fold_case};
use crate::fs::FsError;
use crate::progress::lock;

/// Names that are kept, in all directories together: some 60 MiB.
const NAMES_MAX: usize = 400_000;

/// A directory in memory.
pub(super) struct Directory {
    pub(super) entries: Vec<Entry>,
    by_name: HashMap<Vec<u8>, usize>,
    /// Where case does not matter.
    by_folded: HashMap<Vec<u8>, usize>,
    /// The damage that cut it short.
    pub(super) damage: Option<String>,
}

impl Directory {
    fn read(files: &dyn FileSystem, node: NodeId) -> Result<Self, FsError> {
        let (entries, result) = entries(files, node, Order::Place);
        let damage = match result {
            Err(error) if entries.is_empty() => return Err(error),
            Err(error) => Some(error.to_string()),
            Ok(()) => None,
        };
        let is_same_case = files.description().case == Case::Same;
        let mut directory =
            Self { by_name: HashMap::with_capacity(entries.len()), by_folded: HashMap::new(), entries, damage };
        for (index, entry) in directory.entries.iter().enumerate() {
            directory.by_name.entry(entry.name.clone()).or_insert(index);
            if is_same_case {
                directory.by_folded.entry(fold_case(&entry.name)).or_insert(index);
            }
        }
        Ok(directory)
    }

    /// The entry of a name.
    pub(super) fn find(&self, name: &[u8]) -> Option<&Entry> {
        let exact = self.by_name.get(name);
        let index =
            exact.or_else(|| if self.by_folded.is_empty() { None } else { self.by_folded.get(&fold_case(name)) });
        self.entries.get(*index?)
    }
}

#[derive(Default)]
struct Kept {
    directories: HashMap<u64, (u64, Arc<Directory>)>,
    names: usize,
    clock: u64,
}

/// The ones read last.
#[derive(Default)]
pub(super) struct Directories {
    kept: Mutex<Kept>,
}

impl Directories {
    /// The directory of that inode number.
    pub(super) fn get(&self, number: u64, files: &dyn FileSystem, node: NodeId) -> Result<Arc<Directory>, FsError> {
        {
            let mut kept = lock(&self.kept);
            kept.clock += 1;
            let now = kept.clock;
            if let Some((used, directory)) = kept.directories.get_mut(&number) {
                *used = now;
                return Ok(Arc::clone(directory));
            }
        }
        let directory = Arc::new(Directory::read(files, node)?);
        let mut kept = lock(&self.kept);
        let now = kept.clock;
        if kept.directories.insert(number, (now, Arc::clone(&directory))).is_none() {
            kept.names += directory.entries.len() + 1;
        }
        while kept.names > NAMES_MAX && kept.directories.len() > 1 {
            let oldest = kept.directories.iter().min_by_key(|(_, (used, _))| *used).map(|(number, _)| *number);
            let Some((_, gone)) = oldest.and_then(|oldest| kept.directories.remove(&oldest)) else { break };
            kept.names = kept.names.saturating_sub(gone.entries.len() + 1);
        }
        Ok(directory)
    }
}
