//! The kernel's questions and their answers.
//!
//! Must not know: how disks and files are read.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyXattr, Request,
};

use super::attributes::{file_type, of_file, of_node};
use super::directories::{Directories, Directory};
use super::tree::{Child, Meant, Node, ROOT, Tree};
use crate::files::{File, Kind, NAME_BYTES_MAX, NodeId};
use crate::fs::FsError;
use crate::progress::lock;
use crate::read_at::ReadAt;

/// Nothing changes in an image.
const FOREVER: Duration = Duration::from_secs(86_400);
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;
/// How far the kernel reads ahead.
const READ_AHEAD_BYTES: u32 = 1 << 20;

/// What is open.
#[derive(Clone)]
enum Handle {
    File(Arc<dyn File>),
    Directory(Arc<Directory>),
}

/// A mounted image.
pub(super) struct ImageFs {
    tree: Tree,
    directories: Directories,
    handles: Mutex<HashMap<u64, Handle>>,
    next: AtomicU64,
}

impl ImageFs {
    pub(super) fn new(tree: Tree) -> Self {
        Self { tree, directories: Directories::default(), handles: Mutex::default(), next: AtomicU64::new(1) }
    }

    fn keep(&self, handle: Handle) -> FileHandle {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.handles).insert(number, handle);
        FileHandle(number)
    }

    fn handle(&self, number: FileHandle) -> Option<Handle> {
        lock(&self.handles).get(&number.0).cloned()
    }

    fn meant(&self, number: INodeNo) -> Result<Meant<'_>, Errno> {
        self.tree.meant(number.0).ok_or(Errno::EIO)
    }

    fn attributes(&self, number: u64) -> Result<FileAttr, Errno> {
        match self.meant(INodeNo(number))? {
            Meant::Node(node) => {
                let kind = match node {
                    Node::Directory(_) => FileType::Directory,
                    Node::Raw(_) => FileType::RegularFile,
                };
                Ok(of_node(number, node.size(), kind, self.tree.created))
            }
            Meant::File(_, files, node) => {
                let stat = files.stat(node).map_err(|error| errno(&error))?;
                Ok(of_file(number, &stat, files.description().ownership))
            }
        }
    }

    fn find(&self, parent: INodeNo, name: &[u8]) -> Result<FileAttr, Errno> {
        let number = match self.meant(parent)? {
            Meant::Node(Node::Raw(_)) => return Err(Errno::ENOTDIR),
            Meant::Node(Node::Directory(names)) => {
                let child = names.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, child)| *child);
                self.tree.child_number(child.ok_or(Errno::ENOENT)?).ok_or(Errno::EIO)?
            }
            Meant::File(slot, files, node) => {
                let directory = self.directories.get(parent.0, &*files, node).map_err(|error| errno(&error))?;
                let found = directory.find(name);
                // What damage took may have been there.
                let missing = if directory.damage.is_some() { Errno::EIO } else { Errno::ENOENT };
                Tree::number(slot, found.ok_or(missing)?.node).map_err(|error| errno(&error))?
            }
        };
        self.attributes(number)
    }

    fn open_file(&self, number: INodeNo) -> Result<FileHandle, Errno> {
        match self.meant(number)? {
            Meant::Node(Node::Raw(_)) => Ok(FileHandle(0)),
            Meant::Node(Node::Directory(_)) => Err(Errno::EISDIR),
            Meant::File(_, files, node) => {
                let file = files.open(node).map_err(|error| errno(&error))?;
                Ok(self.keep(Handle::File(Arc::from(file))))
            }
        }
    }

    fn bytes(&self, number: INodeNo, handle: FileHandle, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        if let Some(Handle::File(file)) = self.handle(handle) {
            let left = usize::try_from(file.size().saturating_sub(offset)).unwrap_or(usize::MAX);
            let mut bytes = vec![0; len.min(left)];
            let read = file.read_at(offset, &mut bytes).map_err(|error| errno(&error))?;
            bytes.truncate(read);
            return Ok(bytes);
        }
        let Meant::Node(Node::Raw(volume)) = self.meant(number)? else { return Err(Errno::EBADF) };
        let left = usize::try_from(volume.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        volume.read_vec(offset, len.min(left)).map_err(|_| Errno::EIO)
    }

    fn fill(&self, number: INodeNo, handle: FileHandle, offset: u64, reply: &mut ReplyDirectory) -> Result<(), Errno> {
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let dots = [".", ".."].map(|name| (name.as_bytes().to_vec(), number, FileType::Directory));
        let names: Box<dyn Iterator<Item = (Vec<u8>, INodeNo, FileType)>> =
            match (self.meant(number)?, self.handle(handle)) {
                (Meant::Node(Node::Directory(names)), _) => Box::new(names.iter().map(|(name, child)| {
                    let (number, kind) = match *child {
                        Child::Node(node) => {
                            let is_raw = matches!(self.tree.meant(node), Some(Meant::Node(Node::Raw(_))));
                            (node, if is_raw { FileType::RegularFile } else { FileType::Directory })
                        }
                        // It is not opened only to be listed.
                        Child::Files(slot) => (Tree::number(slot, NodeId(0)).unwrap_or(ROOT), FileType::Directory),
                    };
                    (name.as_bytes().to_vec(), INodeNo(number), kind)
                })),
                (Meant::File(slot, files, _), Some(Handle::Directory(directory))) => {
                    let all: Vec<_> = directory
                        .entries
                        .iter()
                        .skip(skip.saturating_sub(2))
                        // More does not fit into one answer.
                        .take(4096)
                        .map(|entry| {
                            let kind = entry.kind.or_else(|| files.stat(entry.node).ok().map(|stat| stat.kind));
                            let number = Tree::number(slot, entry.node).unwrap_or(ROOT);
                            (entry.name.clone(), INodeNo(number), file_type(kind.unwrap_or(Kind::File)))
                        })
                        .collect();
                    let before = if skip < 2 { &dots[skip..] } else { &[] };
                    return add_all(before.iter().cloned().chain(all), offset, reply);
                }
                _ => return Err(Errno::ENOTDIR),
            };
        add_all(dots.into_iter().chain(names).skip(skip), offset, reply)
    }

    fn xattrs(&self, number: INodeNo) -> Result<Vec<crate::files::Xattr>, Errno> {
        match self.meant(number)? {
            Meant::Node(_) => Ok(Vec::new()),
            Meant::File(_, files, node) => files.xattrs(node).map_err(|error| errno(&error)),
        }
    }
}

fn add_all(
    names: impl Iterator<Item = (Vec<u8>, INodeNo, FileType)>,
    offset: u64,
    reply: &mut ReplyDirectory,
) -> Result<(), Errno> {
    for (next, (name, number, kind)) in (offset + 1..).zip(names) {
        // The kernel takes no such name, and would refuse the whole directory for it.
        let is_odd = name.contains(&b'/') || name.contains(&0) || name.len() > NAME_BYTES_MAX.min(255);
        if !is_odd && reply.add(number, next, kind, OsStr::from_bytes(&name)) {
            break;
        }
    }
    Ok(())
}

/// The number that says it best to programs.
fn errno(error: &FsError) -> Errno {
    match error {
        FsError::Unsupported(_) => Errno::EOPNOTSUPP,
        FsError::Corrupt { .. } | FsError::Io(_) => Errno::EIO,
    }
}

impl Filesystem for ImageFs {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        if let Err(most) = config.set_max_readahead(READ_AHEAD_BYTES) {
            let _ = config.set_max_readahead(most);
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name.as_bytes()) {
            Ok(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(number.0) {
            Ok(attributes) => reply.attr(&FOREVER, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _request: &Request, number: INodeNo, reply: ReplyData) {
        let target = self.meant(number).and_then(|meant| match meant {
            Meant::File(_, files, node) => files.read_link(node).map_err(|error| errno(&error)),
            Meant::Node(_) => Err(Errno::EINVAL),
        });
        match target {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.open_file(number) {
            Ok(handle) => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.bytes(number, handle, offset, usize::try_from(size).unwrap_or(0)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.handles).remove(&handle.0);
        reply.ok();
    }

    fn opendir(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.meant(number).and_then(|meant| match meant {
            Meant::Node(Node::Directory(_)) => Ok(FileHandle(0)),
            Meant::Node(Node::Raw(_)) => Err(Errno::ENOTDIR),
            Meant::File(_, files, node) => {
                let directory = self.directories.get(number.0, &*files, node).map_err(|error| errno(&error))?;
                Ok(self.keep(Handle::Directory(directory)))
            }
        });
        match opened {
            Ok(handle) => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _request: &Request, number: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        // What was there is shown; the end says that there should be more.
        if let Some(Handle::Directory(directory)) = self.handle(handle)
            && directory.damage.is_some()
            && usize::try_from(offset).is_ok_and(|offset| offset >= directory.entries.len() + 2)
        {
            return reply.error(Errno::EIO);
        }
        match self.fill(number, handle, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        lock(&self.handles).remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, number: INodeNo, reply: ReplyStatfs) {
        let (size, used, block) = match self.tree.meant(number.0) {
            Some(Meant::File(slot, files, _)) => {
                let description = files.description();
                (description.size, self.tree.used(slot), description.block_size)
            }
            _ => (self.tree.size, self.tree.size, 4096),
        };
        let blocks = |bytes: u64| bytes / u64::from(block.max(1));
        let free = blocks(size.saturating_sub(used));
        reply.statfs(blocks(size), free, free, 0, 0, block, 255, block);
    }

    fn getxattr(&self, _request: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let found = self.xattrs(number).map(|all| all.into_iter().find(|xattr| xattr.name == name.as_bytes()));
        match found {
            Ok(Some(xattr)) => match xattr.value {
                Some(value) => send(reply, size, &value),
                None => reply.error(Errno::E2BIG),
            },
            Ok(None) => reply.error(Errno::ENODATA),
            Err(error) => reply.error(error),
        }
    }

    fn listxattr(&self, _request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        match self.xattrs(number) {
            Ok(all) => {
                let names: Vec<u8> = all.into_iter().flat_map(|xattr| [xattr.name, vec![0]].concat()).collect();
                send(reply, size, &names);
            }
            Err(error) => reply.error(error),
        }
    }

    fn lseek(
        &self,
        _request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Ok(from) = u64::try_from(offset) else { return reply.error(Errno::EINVAL) };
        let (size, data) = match (self.handle(handle), self.tree.meant(number.0)) {
            (Some(Handle::File(file)), _) => (file.size(), file.next_data(from)),
            (_, Some(Meant::Node(node))) => {
                let size = node.size();
                (size, (from < size).then(|| crate::extent::Extent::between(from, size)))
            }
            _ => return reply.error(Errno::EBADF),
        };
        let found = match (whence, data) {
            _ if from >= size => None,
            (SEEK_DATA, data) => data.map(|data| data.start),
            (SEEK_HOLE, Some(data)) if data.start == from => Some(data.end()),
            (SEEK_HOLE, _) => Some(from),
            _ => return reply.error(Errno::EINVAL),
        };
        match found.and_then(|found| i64::try_from(found).ok()) {
            Some(found) => reply.offset(found),
            None => reply.error(Errno::ENXIO),
        }
    }
}

fn send(reply: ReplyXattr, room: u32, value: &[u8]) {
    match u32::try_from(value.len()) {
        Ok(len) if room == 0 => reply.size(len),
        Ok(len) if len <= room => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}
