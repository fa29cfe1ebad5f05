//! The directories above the files: disks, partitions, and the file system of each, opened when it is needed.
//!
//! Must not know: FUSE.

use std::sync::{Arc, Mutex, OnceLock};

use crate::error::Result;
use crate::extent::Extent;
use crate::files::{self, FileSystem, NodeId, Part, PartitionVolume, parts};
use crate::fs::FsError;
use crate::image_disk::{ImageDisk, ReadAhead, Shelf};
use crate::progress::lock;
use crate::read_at::ReadAt;
use crate::repo::manifest::Manifest;

/// An inode number says in its highest byte which file system it is about; 0 is these directories.
const PART_SHIFT: u32 = 56;
/// So many file systems fit.
const FILE_SYSTEMS_MAX: usize = 255;
/// The number of the root.
pub(super) const ROOT: u64 = 1;

/// What the user should be told, once.
#[derive(Default)]
pub(super) struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.0))
    }

    fn say(&self, warning: String) {
        lock(&self.0).push(warning);
    }
}

/// A directory of disks or partitions, or a disk or partition as a file.
pub(super) enum Node {
    Directory(Vec<(String, Child)>),
    /// A run of a disk.
    Raw(PartitionVolume),
}

/// What a name stands for.
#[derive(Clone, Copy)]
pub(super) enum Child {
    /// The node of this number.
    Node(u64),
    /// The root of this file system.
    Files(usize),
}

/// A file system, once it was needed.
struct Slot {
    name: String,
    volume: Mutex<Option<PartitionVolume>>,
    /// Bytes of it that are in use.
    used: u64,
    opened: OnceLock<Option<Arc<dyn FileSystem>>>,
}

/// All of it.
pub(super) struct Tree {
    /// By number, less one.
    nodes: Vec<Node>,
    slots: Vec<Slot>,
    warnings: Arc<Warnings>,
    ahead: Option<Arc<ReadAhead>>,
    pub(super) size: u64,
    pub(super) created: jiff::Timestamp,
}

/// What an inode number is about.
pub(super) enum Meant<'a> {
    Node(&'a Node),
    File(usize, Arc<dyn FileSystem>, NodeId),
}

impl Tree {
    pub(super) fn new(shelf: &Arc<Shelf>, manifest: &Manifest) -> Result<Self> {
        let mut tree = Self {
            nodes: vec![Node::Directory(Vec::new())],
            slots: Vec::new(),
            warnings: Arc::default(),
            ahead: ReadAhead::start(),
            size: manifest.disks.iter().map(|disk| disk.size).sum(),
            created: manifest.created,
        };
        let all = parts(manifest);
        let mut disks = Vec::new();
        for (number, disk) in ImageDisk::all_of(shelf, manifest).into_iter().enumerate() {
            let disk = Arc::new(disk);
            let whole = tree.volume(&disk, Extent::new(0, disk.size()));
            let mut names = vec![("disk.raw".to_owned(), Child::Node(tree.add(Node::Raw(whole))))];
            for part in all.iter().filter(|part| part.disk == number) {
                let name = part.name(manifest);
                match part.partition {
                    None => names.extend(tree.files(name, &disk, part)),
                    Some(partition) => {
                        let raw = tree.volume(&disk, part.place);
                        let mut inner = vec![("partition.raw".to_owned(), Child::Node(tree.add(Node::Raw(raw))))];
                        inner.extend(tree.files(name, &disk, part));
                        names.push((format!("p{partition}"), Child::Node(tree.add(Node::Directory(inner)))));
                    }
                }
            }
            disks.push((format!("disk{number}"), Child::Node(tree.add(Node::Directory(names)))));
        }
        if let Some(root) = tree.nodes.first_mut() {
            *root = Node::Directory(disks);
        }
        Ok(tree)
    }

    fn volume(&self, disk: &Arc<ImageDisk>, place: Extent) -> PartitionVolume {
        PartitionVolume::of(Arc::clone(disk), place).with_read_ahead(self.ahead.clone())
    }

    fn add(&mut self, node: Node) -> u64 {
        self.nodes.push(node);
        self.nodes.len() as u64
    }

    fn files(&mut self, name: String, disk: &Arc<ImageDisk>, part: &Part) -> Option<(String, Child)> {
        if !part.has_files() {
            return None;
        }
        if self.slots.len() >= FILE_SYSTEMS_MAX {
            self.warnings.say(format!(
                "{name}: the files of only {FILE_SYSTEMS_MAX} file systems can be shown; its partition.raw is there"
            ));
            return None;
        }
        let volume = Mutex::new(Some(self.volume(disk, part.place)));
        let used = part.captured.as_ref().map_or(0, |captured| captured.used);
        self.slots.push(Slot { name, volume, used, opened: OnceLock::new() });
        Some(("files".to_owned(), Child::Files(self.slots.len() - 1)))
    }

    pub(super) fn warnings(&self) -> Arc<Warnings> {
        Arc::clone(&self.warnings)
    }

    /// A file system, opened now if need be; `None` when that failed, of which the user was told.
    pub(super) fn file_system(&self, slot: usize) -> Option<Arc<dyn FileSystem>> {
        let slot = self.slots.get(slot)?;
        let open = || {
            let volume = lock(&slot.volume).take()?;
            match files::open_volume(Arc::new(volume)) {
                Ok(opened) => {
                    for warning in &opened.description().warnings {
                        self.warnings.say(format!("warning: {}: {warning}", slot.name));
                    }
                    Some(opened)
                }
                Err(error) => {
                    self.warnings.say(format!("{}: its files cannot be read: {error}", slot.name));
                    None
                }
            }
        };
        slot.opened.get_or_init(open).clone()
    }

    /// Bytes in use of a file system.
    pub(super) fn used(&self, slot: usize) -> u64 {
        self.slots.get(slot).map_or(0, |slot| slot.used)
    }

    /// The inode number of a file.
    pub(super) fn number(slot: usize, node: NodeId) -> Result<u64, FsError> {
        let high = u64::try_from(slot + 1).unwrap_or(u64::MAX);
        if node.0 >> PART_SHIFT != 0 {
            return Err(FsError::unsupported(format!("file number {}", node.0)));
        }
        Ok(high << PART_SHIFT | node.0)
    }

    /// The inode number of what a name here stands for.
    pub(super) fn child_number(&self, child: Child) -> Option<u64> {
        match child {
            Child::Node(number) => Some(number),
            Child::Files(slot) => Self::number(slot, self.file_system(slot)?.root()).ok(),
        }
    }

    /// What an inode number is about.
    pub(super) fn meant(&self, number: u64) -> Option<Meant<'_>> {
        let high = usize::try_from(number >> PART_SHIFT).ok()?;
        let Some(slot) = high.checked_sub(1) else {
            let index = usize::try_from(number.checked_sub(1)?).ok()?;
            return self.nodes.get(index).map(Meant::Node);
        };
        Some(Meant::File(slot, self.file_system(slot)?, NodeId(number & ((1 << PART_SHIFT) - 1))))
    }
}

impl Node {
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Directory(_) => 0,
            Self::Raw(volume) => volume.size(),
        }
    }
}
