//! One file, written under a temporary name with all that belongs to it, and then named.
//!
//! Must not know: the walk, the way to the directory.

use std::ffi::{OsStr, OsString};
use std::fs::File as LocalFile;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;

use rustix::fs::{self as sys, AtFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::target::{TargetTree, check_name};
use super::{Options, Owners, Summary, is_unable};
use crate::error::{Error, Result};
use crate::files::{File, FileSystem, Kind, Ownership, Stat, Time, Xattr, unwrapped};
use crate::progress::Progress;

/// How much is read and written at once.
const PIECE_BYTES: usize = 1 << 20;
/// Files below are made durable together, at the end.
const SYNC_BYTES: u64 = 1 << 20;

/// What is about to be written.
pub(super) struct Writer<'a> {
    files: &'a dyn FileSystem,
    options: &'a Options,
    summary: &'a mut Summary,
    /// Its path in the image, for messages.
    path: &'a [u8],
    stat: &'a Stat,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        files: &'a dyn FileSystem,
        options: &'a Options,
        summary: &'a mut Summary,
        path: &'a [u8],
        stat: &'a Stat,
    ) -> Self {
        Self { files, options, summary, path, stat }
    }

    /// Makes the file; false when the target cannot have its kind, which the summary then says.
    pub(super) fn make(&mut self, tree: &mut TargetTree, name: &[u8], progress: &Progress) -> Result<bool> {
        check_name(name)?;
        if self.stat.kind == Kind::File {
            let file = self.files.open(self.stat.node).map_err(unwrapped)?;
            if self.is_there(&*file, tree, name)? {
                Progress::add(&progress.done, self.stat.size.min(self.stat.stored.max(4096)));
                self.summary.already_there += 1;
                return Ok(true);
            }
            tree.check_free(name, self.options.existing)?;
            self.make_regular(&*file, tree, name, progress)?;
            self.summary.files += 1;
            return Ok(true);
        }
        if self.is_same_other(tree, name)? {
            self.summary.already_there += 1;
            return Ok(true);
        }
        tree.check_free(name, self.options.existing)?;
        let temporary = tree.temporary_name();
        match self.make_other(tree, &temporary) {
            Ok(()) => {}
            Err(error) => {
                let error = std::io::Error::from(error);
                if is_unable(&error) {
                    self.summary.lose(&format!("{}s (left out)", self.stat.kind.word()), self.path, error.to_string());
                    return Ok(false);
                }
                return Err(Error::io(format!("make the {}", self.stat.kind.word()), tree.shown(name))(error));
            }
        }
        let named =
            self.finish_unopened(tree, &temporary).and_then(|()| tree.rename(&temporary, name, self.options.existing));
        if named.is_err() {
            tree.remove(&temporary);
        }
        named?;
        match self.stat.kind {
            Kind::Symlink => self.summary.symlinks += 1,
            _ => self.summary.specials += 1,
        }
        Ok(true)
    }

    /// Whether the same link, device, pipe or socket is there already.
    fn is_same_other(&self, tree: &TargetTree, name: &[u8]) -> Result<bool> {
        if self.stat.kind == Kind::Symlink {
            let Ok(found) = sys::readlinkat(tree.here(), OsStr::from_bytes(name), Vec::new()) else { return Ok(false) };
            return Ok(found.as_bytes() == self.files.read_link(self.stat.node).map_err(unwrapped)?);
        }
        let Some(found) = tree.existing(name)? else { return Ok(false) };
        let same_device = found.st_rdev == sys::makedev(self.stat.device.0, self.stat.device.1);
        Ok(Kind::from_mode(found.st_mode) == Some(self.stat.kind) && same_device)
    }

    /// Whether the copy is there already, whole: of the same size and time, and, where it may be one whose bytes a
    /// power cut took, the same.
    fn is_there(&self, file: &dyn File, tree: &TargetTree, name: &[u8]) -> Result<bool> {
        let Some(found) = tree.existing(name)? else { return Ok(false) };
        let is_file = sys::FileType::from_raw_mode(found.st_mode) == sys::FileType::RegularFile;
        let size = u64::try_from(found.st_size).unwrap_or(0);
        let time = self.stat.modified;
        let same_time = found.st_mtime == time.seconds && u32::try_from(found.st_mtime_nsec) == Ok(time.nanoseconds);
        if !is_file || size != file.size() || !same_time {
            return Ok(false);
        }
        if size >= SYNC_BYTES {
            return Ok(true);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(local) = sys::openat(tree.here(), OsStr::from_bytes(name), flags, Mode::empty()) else {
            return Ok(false);
        };
        let len = usize::try_from(size).unwrap_or(0);
        let (mut theirs, mut ours) = (vec![0; len], vec![0; len]);
        file.read_at(0, &mut theirs).map_err(unwrapped)?;
        Ok(LocalFile::from(local).read_exact_at(&mut ours, 0).is_ok() && ours == theirs)
    }

    fn make_regular(&mut self, file: &dyn File, tree: &mut TargetTree, name: &[u8], progress: &Progress) -> Result<()> {
        let temporary = tree.temporary_name();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let local = sys::openat(tree.here(), &*temporary, flags, Mode::from_raw_mode(0o600));
        let local = LocalFile::from(local.map_err(|error| tree.error("create", name, error))?);
        let written = self.fill(file, &local, progress).map_err(|error| match error {
            Filling::Read(error) => error,
            Filling::Write(error) => Error::io("write", tree.shown(name))(error),
        });
        let named = written
            .and_then(|()| self.finish_opened(&local, 0o666))
            .and_then(|()| tree.rename(&temporary, name, self.options.existing));
        if named.is_err() {
            tree.remove(&temporary);
        }
        named
    }

    /// Copies the bytes, and leaves the holes out.
    fn fill(&mut self, file: &dyn File, local: &LocalFile, progress: &Progress) -> Result<(), Filling> {
        let mut buffer = vec![0; usize::try_from(file.size()).unwrap_or(usize::MAX).min(PIECE_BYTES)];
        let mut at = 0;
        let mut written = 0u64;
        while let Some(data) = file.next_data(at) {
            let len = usize::try_from(data.len).unwrap_or(usize::MAX).min(buffer.len());
            let Some(piece) = buffer.get_mut(..len).filter(|piece| !piece.is_empty()) else { break };
            progress.check().map_err(Filling::Read)?;
            let read = file.read_at(data.start, piece).map_err(|error| Filling::Read(unwrapped(error)))?;
            if read == 0 {
                break;
            }
            local.write_all_at(piece.get(..read).unwrap_or_default(), data.start).map_err(Filling::Write)?;
            written += read as u64;
            Progress::add(&progress.done, read as u64);
            at = data.start.saturating_add(read as u64);
        }
        local.set_len(file.size()).map_err(Filling::Write)?;
        if file.size() >= SYNC_BYTES {
            local.sync_data().map_err(Filling::Write)?;
        }
        self.summary.bytes += written;
        Ok(())
    }

    fn make_other(&self, tree: &TargetTree, temporary: &OsStr) -> std::result::Result<(), Errno> {
        let kind = match self.stat.kind {
            Kind::Symlink => {
                let target = self.files.read_link(self.stat.node).map_err(|_| Errno::IO)?;
                return sys::symlinkat(OsString::from_vec(target), tree.here(), temporary);
            }
            Kind::CharacterDevice => sys::FileType::CharacterDevice,
            Kind::BlockDevice => sys::FileType::BlockDevice,
            Kind::Fifo => sys::FileType::Fifo,
            Kind::Socket => sys::FileType::Socket,
            Kind::File | Kind::Directory => return Err(Errno::INVAL),
        };
        let device = sys::makedev(self.stat.device.0, self.stat.device.1);
        sys::mknodat(tree.here(), temporary, kind, Mode::from_raw_mode(0o600), device)
    }

    /// Owner, attributes, mode and times of an open file or directory. `plain_mode` is what a file system without
    /// modes gets, less what the process keeps from new files.
    fn finish_opened(&mut self, local: &LocalFile, plain_mode: u32) -> Result<()> {
        let failed = |what: &str| {
            let shown = super::shown(self.path);
            let operation = what.to_owned();
            move |error: Errno| Error::io(operation, shown)(error.into())
        };
        let set_mode = failed("set the mode of the copy of");
        let set_times = failed("set the times of the copy of");
        let permissions = match self.has_owner() {
            true => self.own(|uid, gid| sys::fchown(local, uid, gid)),
            false => plain_mode & !umask(),
        };
        for xattr in self.xattrs() {
            self.set_xattr(&xattr, |name, value| sys::fsetxattr(local, name, value, XattrFlags::empty()));
        }
        if let Err(error) = sys::fchmod(local, Mode::from_raw_mode(permissions)) {
            let error_io = std::io::Error::from(error);
            if !is_unable(&error_io) {
                return Err(set_mode(error));
            }
            self.summary.lose("modes", self.path, error_io.to_string());
        }
        sys::futimens(local, &self.times()).map_err(set_times)
    }

    /// The same for what is not opened: links, devices.
    fn finish_unopened(&mut self, tree: &TargetTree, temporary: &OsStr) -> Result<()> {
        let here = tree.here();
        let link = AtFlags::SYMLINK_NOFOLLOW;
        let mut permissions = None;
        if self.has_owner() {
            permissions = Some(self.own(|uid, gid| sys::chownat(here, temporary, uid, gid, link)));
        }
        let place = format!("/proc/self/fd/{}/", here.as_fd().as_raw_fd());
        let place = [place.as_bytes(), temporary.as_bytes()].concat();
        for xattr in self.xattrs() {
            self.set_xattr(&xattr, |name, value| {
                sys::lsetxattr(OsStr::from_bytes(&place), name, value, XattrFlags::empty())
            });
        }
        if let (Some(permissions), false) = (permissions, self.stat.kind == Kind::Symlink) {
            let set = sys::chmodat(here, temporary, Mode::from_raw_mode(permissions), AtFlags::empty());
            set.map_err(|error| Error::io("set the mode of the copy of", super::shown(self.path))(error.into()))?;
        }
        sys::utimensat(here, temporary, &self.times(), link)
            .map_err(|error| Error::io("set the times of the copy of", super::shown(self.path))(error.into()))
    }

    /// What a directory gets when all is in it.
    pub(super) fn finish_directory(&mut self, tree: &TargetTree) -> Result<()> {
        let here = tree.here().try_clone_to_owned().map_err(Error::io("open", super::shown(self.path)))?;
        self.finish_opened(&LocalFile::from(here), 0o777)
    }

    fn has_owner(&self) -> bool {
        self.files.description().ownership == Ownership::Unix
    }

    /// Sets the owner; gives the permissions that may be set then. What runs as its owner must be its owner's.
    fn own(&mut self, set: impl Fn(Option<sys::Uid>, Option<sys::Gid>) -> rustix::io::Result<()>) -> u32 {
        let stat = self.stat;
        let is_mine = nix::unistd::geteuid().as_raw() == stat.uid && nix::unistd::getegid().as_raw() == stat.gid;
        let without_privilege = if is_mine { stat.permissions } else { stat.permissions & !0o6000 };
        if self.options.owners == Owners::Mine {
            return without_privilege;
        }
        // These are the values that mean "leave it".
        if stat.uid == u32::MAX || stat.gid == u32::MAX {
            self.summary.lose("owners", self.path, "there is no such owner");
            return without_privilege;
        }
        match set(Some(sys::Uid::from_raw(stat.uid)), Some(sys::Gid::from_raw(stat.gid))) {
            Ok(()) => stat.permissions,
            Err(_) if is_mine => without_privilege,
            Err(error) => {
                self.summary.lose("owners", self.path, crate::error::words(&error.into()));
                if stat.permissions & 0o6000 != 0 {
                    self.summary.lose("set-user-id and set-group-id", self.path, "the owner is another one");
                }
                without_privilege
            }
        }
    }

    fn xattrs(&mut self) -> Vec<Xattr> {
        match self.files.xattrs(self.stat.node) {
            Ok(xattrs) => xattrs,
            Err(error) => {
                self.summary.lose("extended attributes", self.path, error.to_string());
                Vec::new()
            }
        }
    }

    fn set_xattr(&mut self, xattr: &Xattr, set: impl Fn(&OsStr, &[u8]) -> rustix::io::Result<()>) {
        let space = xattr.name.split(|byte| *byte == b'.').next().unwrap_or_default();
        let what = match xattr.name.as_slice() {
            name if name.starts_with(b"system.posix_acl") => "access control lists".to_owned(),
            _ => format!("extended attributes ({}.*)", crate::files::screen::escaped(space)),
        };
        let Some(value) = &xattr.value else {
            self.summary.lose(
                &what,
                self.path,
                format!("one has {} bytes, which is too long or cannot be read", xattr.size),
            );
            return;
        };
        if let Err(error) = set(OsStr::from_bytes(&xattr.name), value) {
            self.summary.lose(&what, self.path, crate::error::words(&error.into()));
        }
    }

    fn times(&self) -> Timestamps {
        let time = |time: Time| Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanoseconds) };
        Timestamps { last_access: time(self.stat.accessed), last_modification: time(self.stat.modified) }
    }
}

/// Whose fault it is.
enum Filling {
    Read(Error),
    Write(std::io::Error),
}

/// What this process keeps from new files. There is no way to ask but to set it; the kernel also tells it.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for wrong in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b", &[b'a'; 256]] {
            assert!(check_name(wrong).is_err(), "{wrong:?}");
        }
        for fine in [&b"a"[..], b"...", b"\xff\n\x1b", &[b'a'; 255]] {
            assert!(check_name(fine).is_ok(), "{fine:?}");
        }
        assert_eq!(umask() & !0o777, 0);
    }
}
