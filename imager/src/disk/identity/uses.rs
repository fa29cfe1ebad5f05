//! Who uses a disk, and which disks a directory lies on: what decides whether a target may be overwritten.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::sysfs::{Block, Mounted, Number, System};

/// What uses a disk or a disk image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Device and mount point, for the disk, its partitions, and all that is built on them.
    pub mounted_at: Vec<(PathBuf, PathBuf)>,
    /// The devices among them that are swap.
    pub swap: Vec<PathBuf>,
    /// The devices that are built on it: `dm-0 (vg-root)`, `md127`, `loop3`.
    pub holders: Vec<String>,
}

impl Uses {
    /// Nobody uses it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mounted_at.is_empty() && self.swap.is_empty() && self.holders.is_empty()
    }
}

/// Who uses a block device (with all its partitions) or an image file (through loop devices or FUSE).
///
/// Of a partition's disk, only what uses it as a whole counts, not the other partitions.
///
/// # Errors
/// `InvalidInput` when the path is neither; `NotFound` when it is gone.
pub fn uses_of(path: &Path) -> io::Result<Uses> {
    let system = System::host();
    let meta = fs::metadata(path)?;
    let mut stack = Stack::new(&system);
    if meta.file_type().is_block_device() {
        let block = system.block(Number::of(meta.rdev()))?;
        stack.add_own(&block);
    } else if meta.is_file() {
        stack.add_loops_on(&Backing::of(&meta));
    } else {
        let kind = io::ErrorKind::InvalidInput;
        return Err(io::Error::new(kind, format!("{} is neither a block device nor a file", path.display())));
    }
    let mut uses = stack.uses();
    if meta.is_file() {
        uses.mounted_at.extend(mounted_without_device(&system, &meta));
    }
    Ok(uses)
}

/// Mounts whose source is the file itself: FUSE file systems do without a loop device.
fn mounted_without_device(system: &System, file: &fs::Metadata) -> Vec<(PathBuf, PathBuf)> {
    let is_file = |source: &Path| {
        source.is_absolute()
            && fs::metadata(source).is_ok_and(|meta| meta.is_file() && Backing::of(&meta) == Backing::of(file))
    };
    let mounts = system.mounts().into_iter().filter(|mounted| mounted.number.major == 0);
    mounts.filter(|mounted| is_file(Path::new(&mounted.source))).map(|m| (m.source.into(), m.at)).collect()
}

/// What a loop device shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backing {
    Device(Number),
    File { device: u64, inode: u64 },
}

impl Backing {
    fn of(meta: &fs::Metadata) -> Self {
        if meta.file_type().is_block_device() {
            return Self::Device(Number::of(meta.rdev()));
        }
        Self::File { device: meta.dev(), inode: meta.ino() }
    }
}

/// A disk, its partitions, and everything built on them.
pub(super) struct Stack<'a> {
    system: &'a System,
    loops: Vec<(Backing, Block)>,
    members: BTreeMap<Number, Block>,
    /// The members that are built on others.
    holders: Vec<Block>,
}

impl<'a> Stack<'a> {
    pub(super) fn new(system: &'a System) -> Self {
        let blocks = system.blocks().unwrap_or_default();
        let backing = |block: &Block| {
            let path = block.backing_file()?;
            Some(match system.number(&path) {
                Some(number) => Backing::Device(number),
                None => Backing::of(&fs::metadata(system.path(path)).ok()?),
            })
        };
        let loops = blocks.into_iter().filter_map(|block| Some((backing(&block)?, block))).collect();
        Self { system, loops, members: BTreeMap::new(), holders: Vec::new() }
    }

    /// The device that is asked about.
    pub(super) fn add_own(&mut self, block: &Block) {
        self.add(block);
        if let Some(disk) = block.disk() {
            self.members.insert(disk.number, disk.clone());
            self.add_holders_of(&disk);
        }
    }

    fn add(&mut self, block: &Block) {
        if self.members.insert(block.number, block.clone()).is_none() {
            self.add_holders_of(block);
            block.partitions().iter().for_each(|partition| self.add(partition));
        }
    }

    fn add_holders_of(&mut self, block: &Block) {
        for holder in block.holders() {
            self.add_holder(&holder);
        }
        self.add_loops_on(&Backing::Device(block.number));
    }

    fn add_loops_on(&mut self, backing: &Backing) {
        let loops: Vec<Block> =
            self.loops.iter().filter(|(b, _)| b == backing).map(|(_, block)| block.clone()).collect();
        loops.iter().for_each(|block| self.add_holder(block));
    }

    fn add_holder(&mut self, block: &Block) {
        if !self.members.contains_key(&block.number) {
            self.holders.push(block.clone());
            self.add(block);
        }
    }

    pub(super) fn uses(&self) -> Uses {
        let mut uses = Uses::default();
        for mounted in self.system.mounts() {
            let devices = self.system.devices_of(&mounted);
            if let Some(block) = devices.iter().find_map(|number| self.members.get(number)) {
                uses.mounted_at.push((block.node(), mounted.at));
            }
        }
        let swaps = self.system.swaps().into_iter();
        uses.swap =
            swaps.filter(|path| self.system.number(path).is_some_and(|n| self.members.contains_key(&n))).collect();
        uses.holders = self.holders.iter().map(name_of_holder).collect();
        uses
    }
}

fn name_of_holder(block: &Block) -> String {
    match block.text("dm/name") {
        Some(name) => format!("{} ({name})", block.name),
        None => block.name.clone(),
    }
}

/// The block devices, partitions left out, that the file system of `path` lies on: the disks themselves and
/// everything between them and the file system (md, dm, loop). Of these, none may be overwritten while
/// `path` is needed.
///
/// A path that does not exist yet counts as its first parent that does. Empty for file systems of the
/// network or of memory. The path of a block device counts as itself.
///
/// # Errors
/// What the system says of the path.
pub fn backing_disks(path: &Path) -> io::Result<Vec<PathBuf>> {
    let system = System::host();
    let mut found = BTreeMap::new();
    let path = std::path::absolute(path)?;
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    add_disks_of_path(&system, existing, &mut found)?;
    Ok(found.values().map(Block::node).collect())
}

fn add_disks_of_path(system: &System, path: &Path, found: &mut BTreeMap<Number, Block>) -> io::Result<()> {
    let meta = fs::metadata(system.path(path))?;
    if meta.file_type().is_block_device() {
        add_disks(system, Number::of(meta.rdev()), found);
        return Ok(());
    }
    let device = Number::of(meta.dev());
    match mount_of(system, path)? {
        Some(mounted) => add_disks_of_mount(system, &mounted, found),
        None => add_disks(system, device, found),
    }
    Ok(())
}

fn add_disks_of_mount(system: &System, mounted: &Mounted, found: &mut BTreeMap<Number, Block>) {
    for number in system.devices_of(mounted) {
        add_disks(system, number, found);
    }
    if mounted.number.major != 0 {
        return;
    }
    // An overlay writes to its upper directory; FUSE may sit on an image file. What these name may be hidden
    // by later mounts, so that what cannot be found is passed over.
    let options = mounted.options.as_bytes().split(|&b| b == b',');
    let upper = options.filter_map(|option| option.strip_prefix(b"upperdir=")).map(std::ffi::OsStr::from_bytes);
    for path in upper.chain([mounted.source.as_os_str()]).map(Path::new) {
        let is_file = fs::metadata(system.path(path)).is_ok_and(|meta| meta.is_file() || meta.is_dir());
        if path.is_absolute() && path != mounted.at && is_file && !path.starts_with(&mounted.at) {
            let _ = add_disks_of_path(system, path, found);
        }
    }
}

/// The mount that a path is in. The number of its device does not tell for btrfs, whose subvolumes have one
/// each; the mount's id does.
fn mount_of(system: &System, path: &Path) -> io::Result<Option<Mounted>> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open(system.path(path))?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).unwrap_or_default();
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse::<u64>().ok());
    Ok(id.and_then(|id| system.mounts().into_iter().find(|mounted| mounted.id == id)))
}

pub(super) fn add_disks(system: &System, number: Number, found: &mut BTreeMap<Number, Block>) {
    let Ok(block) = system.block(number) else { return };
    let disk = block.disk().unwrap_or(block);
    if found.insert(disk.number, disk.clone()).is_some() {
        return;
    }
    for slave in disk.slaves() {
        add_disks(system, slave.number, found);
    }
    if let Some(file) = disk.backing_file() {
        let _ = add_disks_of_path(system, &file, found);
    }
}
