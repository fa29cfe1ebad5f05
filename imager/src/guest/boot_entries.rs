//! Boot entries for a machine that has none yet: where the boot loaders are on its disk.
//!
//! ```text
//! EFI system partition ─► \EFI\BOOT\BOOTX64.EFI? firmware finds it by itself
//!                      └► \EFI\VENDOR\… ─► boot loaders that are known, the likeliest first ─► boot entries
//! ```
//!
//! What the captured machine's own entries said, no image tells. Whatever lies on the partition, this ends, and at worst with
//! a warning. Must not know: how entries lie in a file of variables, QEMU.

#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::sync::Arc;

use crate::error::Result;
use crate::files::walk::{Order, entries};
use crate::files::{FileSystem, Kind, NodeId, PartitionVolume, Time, fold_case, open_volume, unwrapped};
use crate::fs::FsError;
use crate::image_disk::Shelf;
use crate::repo::manifest::{DiskImage, Manifest};
use crate::table::Partition;
use crate::vm::uefi_variables::{BootEntry, PartitionPath};

/// What firmware starts from a disk that it knows nothing of.
const BY_ITSELF: [&str; 3] = ["EFI", "BOOT", "BOOTX64.EFI"];

/// Boot loaders: the folder below `\EFI`, where any vendor's is meant unless it is named, and the file. What starts others
/// comes before what is started by it; Windows comes last, since it is what other systems' loaders offer, too.
const LOADERS: &[(Option<&str>, &str)] = &[
    // For Secure Boot: starts GRUB, or whatever else is beside it.
    (None, "shimx64.efi"),
    (None, "shim.efi"),
    (None, "grubx64.efi"),
    (None, "grub.efi"),
    (None, "systemd-bootx64.efi"),
    (None, "refind_x64.efi"),
    (None, "limine_x64.efi"),
    (None, "elilo.efi"),
    (Some("Microsoft\\Boot"), "bootmgfw.efi"),
];

/// A machine gets no more entries.
const ENTRIES_MAX: usize = 16;
/// And of a disk no more partitions, of a partition no more vendors and files are looked at: they may be forged to take time.
const PARTITIONS_MAX: usize = 8;
const FOLDERS_MAX: usize = 64;
const FILES_MAX: usize = 64;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The entries to make, the first to be tried first. None where firmware needs none.
    pub(super) entries: Vec<BootEntry>,
    /// What may keep the machine from starting.
    pub(super) warnings: Vec<String>,
}

/// Looks for what a machine can be started from on one disk of an image.
pub(super) fn wanted(shelf: &Arc<Shelf>, manifest: &Manifest, number: usize) -> Wanted {
    let Some(disk) = manifest.disks.get(number) else { return Wanted::default() };
    let mut found = Wanted::default();
    let mut loaders = Vec::new();
    for partition in partitions(disk) {
        let files = PartitionVolume::new(shelf, manifest, number, Some(partition.number))
            .and_then(|volume| open_volume(Arc::new(volume)).map_err(unwrapped));
        let looked = match files {
            Ok(files) => look(&*files),
            Err(error) => Looked { damage: Some(error.to_string()), ..Looked::default() },
        };
        if looked.starts_by_itself {
            return Wanted::default();
        }
        found.warnings.extend(looked.damage.map(|damage| {
            format!("partition {}, where boot loaders should be, cannot be read: {damage}", partition.number)
        }));
        match PartitionPath::of(&disk.table, partition) {
            Some(place) => loaders.extend(looked.loaders.into_iter().map(|loader| (loader, place.clone()))),
            None if looked.loaders.is_empty() => {}
            None => found.warnings.push(format!(
                "the boot loader on partition {} gets no boot entry: nothing tells that partition from others",
                partition.number
            )),
        }
    }
    loaders.sort_by_key(|(loader, _)| loader.order());
    loaders.truncate(ENTRIES_MAX);
    let entry = |(loader, partition): (Loader, PartitionPath)| BootEntry { partition, file: loader.path };
    found.entries.extend(loaders.into_iter().map(entry));
    if found.entries.is_empty() {
        found.warnings.push(
            "no boot loader that is known was found on an EFI system partition: if it does not start, choose its file in the firmware's menu, once".into(),
        );
    }
    found
}

/// The EFI system partitions of a disk; if it has none, whatever has FAT on it, which firmware takes as well.
fn partitions(disk: &DiskImage) -> impl Iterator<Item = &Partition> {
    let all = || disk.table.partitions.iter();
    let is_system = |partition: &Partition| partition.type_name == "EFI system";
    let is_fat = |partition: &Partition| {
        disk.volumes.iter().any(|volume| volume.partition == Some(partition.number) && volume.kind == "vfat")
    };
    let has_system = all().any(is_system);
    all().filter(move |of| if has_system { is_system(of) } else { is_fat(of) }).take(PARTITIONS_MAX)
}

/// A boot loader.
#[derive(Debug, PartialEq, Eq)]
struct Loader {
    /// As firmware takes it.
    path: String,
    /// Its place in the table.
    rank: usize,
    /// When it was written.
    modified: Time,
}

impl Loader {
    /// By the table; of the same kind the newest first: what an earlier system has left may still be there.
    fn order(&self) -> (usize, Reverse<Time>) {
        (self.rank, Reverse(self.modified))
    }
}

/// What is on a partition.
#[derive(Debug, Default)]
struct Looked {
    starts_by_itself: bool,
    loaders: Vec<Loader>,
    /// What could not be read, the first of it.
    damage: Option<String>,
}

/// Looks for boot loaders. What can be read counts, whatever else is damaged.
fn look(files: &dyn FileSystem) -> Looked {
    let mut looker = Looker { files, looked: Looked::default(), files_left: FILES_MAX };
    looker.look();
    looker.looked
}

struct Looker<'a> {
    files: &'a dyn FileSystem,
    looked: Looked,
    files_left: usize,
}

impl Looker<'_> {
    fn look(&mut self) {
        let [efi, boot, loader] = BY_ITSELF;
        let Some((efi, efi_name)) = self.folder(self.files.root(), efi) else { return };
        let by_itself = self.folder(efi, boot).and_then(|(boot, _)| self.program(boot, loader));
        self.looked.starts_by_itself = by_itself.is_some();
        if self.looked.starts_by_itself {
            return;
        }
        let (listed, damage) = entries(self.files, efi, Order::Place);
        self.note(damage);
        let folders = listed.into_iter().filter(|entry| entry.kind != Some(Kind::File)).take(FOLDERS_MAX);
        for folder in folders {
            let Some(name) = plain(&folder.name) else { continue };
            self.vendor(folder.node, &format!("\\{efi_name}\\{name}"));
        }
        for (rank, (folder, file)) in LOADERS.iter().enumerate() {
            let Some(folder) = folder else { continue };
            let below = folder.split('\\').try_fold((efi, format!("\\{efi_name}")), |(node, path), name| {
                let (node, name) = self.folder(node, name)?;
                Some((node, format!("{path}\\{name}")))
            });
            if let Some((folder, path)) = below
                && let Some((name, modified)) = self.program(folder, file)
            {
                self.looked.loaders.push(Loader { path: format!("{path}\\{name}"), rank, modified });
            }
        }
    }

    /// A vendor's folder.
    fn vendor(&mut self, folder: NodeId, path: &str) {
        let (listed, damage) = entries(self.files, folder, Order::Place);
        self.note(damage);
        let folded: Vec<Vec<u8>> = listed.iter().map(|entry| fold_case(&entry.name)).collect();
        for (rank, (_, file)) in LOADERS.iter().enumerate().filter(|(_, (folder, _))| folder.is_none()) {
            let wanted = fold_case(file.as_bytes());
            let named = folded.iter().position(|name| *name == wanted).and_then(|at| listed.get(at));
            if let Some((name, modified)) = named.and_then(|entry| self.program_at(entry.node, &entry.name)) {
                self.looked.loaders.push(Loader { path: format!("{path}\\{name}"), rank, modified });
            }
        }
    }

    /// The folder of that name, and its name as it is written there.
    fn folder(&mut self, parent: NodeId, name: &str) -> Option<(NodeId, String)> {
        let found = self.files.lookup(parent, name.as_bytes());
        let found = self.note(found).flatten()?;
        let stat = self.files.stat(found.node);
        let stat = self.note(stat)?;
        (stat.kind == Kind::Directory).then_some((found.node, plain(&found.name)?))
    }

    /// The program of that name, and when it was written.
    fn program(&mut self, folder: NodeId, name: &str) -> Option<(String, Time)> {
        let found = self.files.lookup(folder, name.as_bytes());
        let found = self.note(found).flatten()?;
        self.program_at(found.node, &found.name)
    }

    /// Its first two bytes say whether a file is one: not if it was cut short, or overwritten.
    fn program_at(&mut self, node: NodeId, name: &[u8]) -> Option<(String, Time)> {
        const MAGIC: [u8; 2] = *b"MZ";
        self.files_left = self.files_left.checked_sub(1)?;
        let stat = self.files.stat(node);
        let stat = self.note(stat).filter(|stat| stat.kind == Kind::File)?;
        let mut begin = [0; 2];
        let read = self.files.open(node).and_then(|file| file.read_at(0, &mut begin));
        (self.note(read)? == begin.len() && begin == MAGIC).then_some((plain(name)?, stat.modified))
    }

    /// Keeps the first error for the user.
    fn note<T>(&mut self, result: Result<T, FsError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.looked.damage.get_or_insert_with(|| unwrapped(error).to_string());
                None
            }
        }
    }
}

/// A name that can be a part of a path.
fn plain(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let is_plain = !name.is_empty() && !name.contains(|c: char| c.is_control() || matches!(c, '\\' | '/'));
    is_plain.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::files::{BytesFile, Case, Description, Entry, File, Ownership, Stat, Xattr};

    /// Files by their paths, each with the time of its last change; a time of 0 is one that cannot be read.
    struct Tree {
        description: Description,
        files: Vec<(&'static str, i64)>,
    }

    fn tree(files: &[(&'static str, i64)]) -> Tree {
        let description = Description {
            kind: "vfat".into(),
            label: None,
            block_size: 512,
            size: 1 << 20,
            case: Case::Same,
            ownership: Ownership::None,
            warnings: Vec::new(),
        };
        Tree { description, files: files.to_vec() }
    }

    impl Tree {
        /// Nodes are places in this list: every file, and every folder above one.
        fn paths(&self) -> Vec<&'static str> {
            let mut paths = vec![""];
            for (file, _) in &self.files {
                for (end, _) in file.match_indices('/').filter(|(at, _)| *at > 0) {
                    if !paths.contains(&&file[..end]) {
                        paths.push(&file[..end]);
                    }
                }
                paths.push(file);
            }
            paths
        }

        fn path(&self, node: NodeId) -> &'static str {
            self.paths()[usize::try_from(node.0).unwrap()]
        }

        fn file(&self, node: NodeId) -> Option<i64> {
            self.files.iter().find(|(path, _)| *path == self.path(node)).map(|(_, time)| *time)
        }
    }

    impl FileSystem for Tree {
        fn description(&self) -> &Description {
            &self.description
        }

        fn root(&self) -> NodeId {
            NodeId(0)
        }

        fn stat(&self, node: NodeId) -> Result<Stat, FsError> {
            let time = Time { seconds: self.file(node).unwrap_or(0), nanoseconds: 0 };
            Ok(Stat {
                node,
                kind: if self.file(node).is_some() { Kind::File } else { Kind::Directory },
                size: 2,
                stored: 512,
                permissions: 0o644,
                uid: 0,
                gid: 0,
                links: 1,
                device: (0, 0),
                accessed: time,
                modified: time,
                changed: time,
                created: None,
            })
        }

        fn list(&self, directory: NodeId, visit: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), FsError> {
            let directory = self.path(directory);
            for (node, path) in (0..).map(NodeId).zip(self.paths()) {
                let Some(name) = path.strip_prefix(directory).and_then(|rest| rest.strip_prefix('/')) else { continue };
                if !name.contains('/') && visit(Entry { name: name.into(), node, kind: None }).is_break() {
                    return Ok(());
                }
            }
            if directory.ends_with("damaged") { Err(FsError::corrupt(7, "a broken folder")) } else { Ok(()) }
        }

        fn open(&self, node: NodeId) -> Result<Box<dyn File>, FsError> {
            match self.file(node) {
                Some(0) | None => Err(FsError::corrupt(9, "a broken file")),
                Some(_) if self.path(node).ends_with("grub.efi") => Ok(Box::new(BytesFile(b"#!".to_vec()))),
                Some(_) => Ok(Box::new(BytesFile(b"MZ".to_vec()))),
            }
        }

        fn read_link(&self, node: NodeId) -> Result<Vec<u8>, FsError> {
            Err(FsError::corrupt(node.0, "no link"))
        }

        fn xattrs(&self, _node: NodeId) -> Result<Vec<Xattr>, FsError> {
            Ok(Vec::new())
        }
    }

    fn paths(looked: &mut Looked) -> Vec<&str> {
        looked.loaders.sort_by_key(Loader::order);
        looked.loaders.iter().map(|loader| &*loader.path).collect()
    }

    #[test]
    fn what_firmware_finds_by_itself_needs_nothing() {
        let looked = look(&tree(&[("/efi/Boot/bootx64.efi", 1), ("/efi/debian/grubx64.efi", 2)]));
        assert!(looked.starts_by_itself && looked.loaders.is_empty());
        let mut looked = look(&tree(&[("/EFI/BOOT/BOOTX64.EFI", 0), ("/EFI/BOOT/grubx64.efi", 2)]));
        assert!(!looked.starts_by_itself, "it cannot be read");
        assert_eq!(paths(&mut looked), ["\\EFI\\BOOT\\grubx64.efi"]);
        assert!(looked.damage.is_some());
    }

    #[test]
    fn loaders_come_by_kind_and_then_the_newest_first() {
        let mut looked = look(&tree(&[
            ("/EFI/Microsoft/Boot/bootmgfw.efi", 9),
            ("/EFI/ubuntu/grubx64.efi", 3),
            ("/EFI/ubuntu/shimx64.efi", 3),
            ("/EFI/debian/GRUBX64.EFI", 7),
            ("/EFI/debian/shimx64.efi", 7),
            ("/EFI/debian/fbx64.efi", 7),
            ("/EFI/other/grub.efi", 7),
            ("/EFI/systemd/systemd-bootx64.efi", 8),
            ("/EFI/a\\b/grubx64.efi", 8),
            ("/EFI/readme", 8),
        ]));
        assert!(!looked.starts_by_itself && looked.damage.is_none());
        let expected = [
            "\\EFI\\debian\\shimx64.efi",
            "\\EFI\\ubuntu\\shimx64.efi",
            "\\EFI\\debian\\GRUBX64.EFI",
            "\\EFI\\ubuntu\\grubx64.efi",
            "\\EFI\\systemd\\systemd-bootx64.efi",
            "\\EFI\\Microsoft\\Boot\\bootmgfw.efi",
        ];
        assert_eq!(paths(&mut looked), expected);
    }

    #[test]
    fn damage_hides_only_what_it_hurts() {
        let mut looked = look(&tree(&[
            ("/EFI/damaged/grubx64.efi", 1),
            ("/EFI/debian/shimx64.efi", 0),
            ("/EFI/debian/grubx64.efi", 2),
        ]));
        assert_eq!(paths(&mut looked), ["\\EFI\\debian\\grubx64.efi", "\\EFI\\damaged\\grubx64.efi"]);
        assert!(looked.damage.is_some_and(|damage| damage.contains("broken folder")));
        assert!(paths(&mut look(&tree(&[]))).is_empty());
        assert!(paths(&mut look(&tree(&[("/EFI", 1)]))).is_empty());
    }
}
