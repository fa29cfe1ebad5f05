//! The directory that files are copied into, and the way down to where the copy is.
//!
//! Directories are opened one by one, each by its name in the one above, and never through a link. Must not know:
//! file systems of images.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::Existing;
use crate::error::{Error, Result};
use crate::files::Kind;
use crate::files::address::Found;
use crate::files::screen::escaped;

/// Longest name that Linux takes.
const NAME_MAX: usize = 255;
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);

/// A directory on the way down.
struct Level {
    name: Vec<u8>,
    /// What this copy has made here: a second name for one of them is a collision.
    made: HashSet<u64>,
}

/// The target.
pub(super) struct TargetTree {
    /// Where it is, for messages.
    root_path: PathBuf,
    root: OwnedFd,
    here: OwnedFd,
    made_in_root: HashSet<u64>,
    levels: Vec<Level>,
    temporary: u64,
}

/// Where the copies go: the directory, and the name of each source in it.
///
/// # Errors
/// [`Error::Usage`], [`Error::Io`].
pub(super) fn place(target: &Path, sources: &[Found]) -> Result<(TargetTree, Vec<Vec<u8>>)> {
    let is_directory = std::fs::metadata(target).is_ok_and(|found| found.is_dir());
    let wants_directory =
        target.as_os_str().as_bytes().ends_with(b"/") && sources.first().is_none_or(|s| s.stat.kind != Kind::Directory);
    if !is_directory && (sources.len() > 1 || wants_directory) {
        return Err(Error::Usage(format!("{} is no directory", target.display())));
    }
    if is_directory {
        let name = |found: &Found| found.name().map_or_else(Vec::new, <[u8]>::to_vec);
        return Ok((TargetTree::open(target)?, sources.iter().map(name).collect()));
    }
    let name = target.file_name().map(|name| name.as_bytes().to_vec());
    let name = name.ok_or_else(|| Error::Usage(format!("{} is no name for a file", target.display())))?;
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((TargetTree::open(parent)?, vec![name]))
}

impl TargetTree {
    fn open(path: &Path) -> Result<Self> {
        // The user names this one, so that it may be a link.
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let open = || sys::open(path, flags, Mode::empty()).map_err(|error| Error::io("open", path)(error.into()));
        let (root, here) = (open()?, open()?);
        let root_path = path.to_owned();
        Ok(Self { root_path, root, here, made_in_root: HashSet::new(), levels: Vec::new(), temporary: 0 })
    }

    /// The directory where the copy is.
    pub(super) fn here(&self) -> BorrowedFd<'_> {
        self.here.as_fd()
    }

    /// The names from the target to a name here.
    pub(super) fn path_of(&self, name: &[u8]) -> Vec<Vec<u8>> {
        self.levels
            .iter()
            .map(|level| level.name.clone())
            .filter(|name| !name.is_empty())
            .chain([name.to_vec()])
            .collect()
    }

    /// The same as a path, for messages.
    pub(super) fn shown(&self, name: &[u8]) -> PathBuf {
        let mut path = self.root_path.clone();
        path.extend(self.path_of(name).into_iter().map(OsString::from_vec));
        PathBuf::from(escaped(path.as_os_str().as_bytes()))
    }

    /// An [`Error::Io`] about a name here.
    pub(super) fn error(&self, operation: &str, name: &[u8], error: Errno) -> Error {
        Error::io(operation, self.shown(name))(error.into())
    }

    fn made(&mut self) -> &mut HashSet<u64> {
        self.levels.last_mut().map_or(&mut self.made_in_root, |level| &mut level.made)
    }

    /// Makes a directory here, unless there is one, and goes into it. The empty name is the directory itself.
    pub(super) fn enter(&mut self, name: &[u8]) -> Result<()> {
        if name.is_empty() && self.levels.is_empty() {
            self.levels.push(Level { name: Vec::new(), made: HashSet::new() });
            return Ok(());
        }
        check_name(name)?;
        let os_name = OsStr::from_bytes(name);
        let made = match sys::mkdirat(&self.here, os_name, Mode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(self.error("make the directory", name, error)),
        };
        let below = sys::openat(&self.here, os_name, DIRECTORY, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => Error::refused(self.shown(name), "there is something that is no directory"),
            error => self.error("open", name, error),
        })?;
        let inode = sys::fstat(&below).map_err(|error| self.error("look at", name, error))?.st_ino;
        if !self.made().insert(inode) && !made {
            return Err(collision());
        }
        self.here = below;
        self.levels.push(Level { name: name.to_vec(), made: HashSet::new() });
        Ok(())
    }

    /// Goes back up.
    pub(super) fn leave(&mut self) -> Result<()> {
        self.levels.pop();
        let names: Vec<_> =
            self.levels.iter().map(|level| level.name.clone()).filter(|name| !name.is_empty()).collect();
        self.here = self.directory(&names)?;
        Ok(())
    }

    /// Opens a directory of the target anew, by its names.
    fn directory(&self, names: &[Vec<u8>]) -> Result<OwnedFd> {
        let failed = |error: Errno| Error::io("open a directory in", &self.root_path)(error.into());
        let mut here = self.root.try_clone().map_err(Error::io("open", &self.root_path))?;
        for name in names {
            here = sys::openat(&here, OsStr::from_bytes(name), DIRECTORY, Mode::empty()).map_err(failed)?;
        }
        Ok(here)
    }

    /// A name that nothing has here yet.
    pub(super) fn temporary_name(&mut self) -> OsString {
        self.temporary += 1;
        format!(".imager-{}-{}.part", std::process::id(), self.temporary).into()
    }

    /// What is here under a name: its inode and what it is.
    pub(super) fn existing(&self, name: &[u8]) -> Result<Option<sys::Stat>> {
        match sys::statat(&self.here, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.error("look at", name, error)),
        }
    }

    /// Sees whether a name may be written here.
    pub(super) fn check_free(&mut self, name: &[u8], existing: Existing) -> Result<()> {
        check_name(name)?;
        let Some(found) = self.existing(name)? else { return Ok(()) };
        if self.made().contains(&found.st_ino) {
            return Err(collision());
        }
        if sys::FileType::from_raw_mode(found.st_mode) == sys::FileType::Directory {
            return Err(Error::refused(self.shown(name), "there is a directory of that name"));
        }
        match existing {
            Existing::Keep => Err(Error::refused(self.shown(name), "it is there already; --force replaces it")),
            Existing::Replace => Ok(()),
        }
    }

    /// Gives what was made under a temporary name its own.
    pub(super) fn rename(&mut self, temporary: &OsStr, name: &[u8], existing: Existing) -> Result<()> {
        let os_name = OsStr::from_bytes(name);
        let renamed = match existing {
            Existing::Keep => {
                match sys::renameat_with(&self.here, temporary, &self.here, os_name, RenameFlags::NOREPLACE) {
                    // Some file systems do not know this call; it was seen that the name is free.
                    Err(Errno::INVAL | Errno::NOSYS) if self.existing(name)?.is_none() => {
                        sys::renameat(&self.here, temporary, &self.here, os_name)
                    }
                    other => other,
                }
            }
            Existing::Replace => sys::renameat(&self.here, temporary, &self.here, os_name),
        };
        renamed.map_err(|error| self.error("name", name, error))?;
        if let Some(found) = self.existing(name)? {
            self.made().insert(found.st_ino);
        }
        Ok(())
    }

    /// Forgets what was begun under a temporary name.
    pub(super) fn remove(&self, temporary: &OsStr) {
        // It has a name that says what it is.
        let _ = sys::unlinkat(&self.here, temporary, AtFlags::empty());
    }

    /// Makes `name` here another name of the file `first`.
    pub(super) fn link(&mut self, first: &[Vec<u8>], name: &[u8], existing: Existing) -> Result<()> {
        let Some((first_name, directory)) = first.split_last() else {
            return Err(Error::Internal("a link to nothing".into()));
        };
        let above = self.directory(directory)?;
        let first_name = OsStr::from_bytes(first_name);
        // A copy that goes on finds its links.
        if let (Some(found), Ok(same)) =
            (self.existing(name)?, sys::statat(&above, first_name, AtFlags::SYMLINK_NOFOLLOW))
            && (found.st_dev, found.st_ino) == (same.st_dev, same.st_ino)
        {
            return Ok(());
        }
        self.check_free(name, existing)?;
        let temporary = self.temporary_name();
        sys::linkat(&above, first_name, &self.here, &*temporary, AtFlags::empty())
            .map_err(|error| self.error("link", name, error))?;
        let renamed = self.rename(&temporary, name, existing);
        if renamed.is_err() {
            self.remove(&temporary);
        }
        renamed
    }

    /// Makes everything durable.
    pub(super) fn flush(&self) -> Result<()> {
        sys::syncfs(&self.root).map_err(|error| Error::io("flush", &self.root_path)(error.into()))
    }
}

fn collision() -> Error {
    Error::Usage(
        "another file of the same directory has the same name here; copy it alone, under a name of its own".into(),
    )
}

/// Refuses names that lead elsewhere or cannot be.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
        return Err(Error::Usage("a name that no file can have: damage, or somebody's trap".into()));
    }
    if name.len() > NAME_MAX {
        let len = name.len();
        return Err(Error::Usage(format!(
            "its name has {len} bytes, and Linux takes {NAME_MAX}: copy it alone, under another name"
        )));
    }
    Ok(())
}
