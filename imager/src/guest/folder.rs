//! The folder of a machine that runs: throwaway disks, sockets. It is gone with its owner; what one that was killed left, the
//! next one removes.
//!
//! Must not know: machines.

#![forbid(unsafe_code)]

use std::fs::{DirEntry, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use tempfile::TempDir;

use crate::error::{Error, Result};

const PREFIX: &str = "imager-vm-";
/// One that is younger may not be locked yet.
const YOUNG: Duration = Duration::from_secs(60);

/// A folder of its own, removed when it is dropped.
pub(super) struct Folder {
    folder: TempDir,
    /// As long as it is held, the folder is in use; a program that is killed holds nothing.
    _lock: Option<Flock<File>>,
}

impl Folder {
    /// Makes one: sockets have to be where paths are short, changes where there is more room than in memory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn make() -> Result<Self> {
        let place = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let place = if place.is_dir() { place } else { std::env::temp_dir() };
        Self::make_in(&place)
    }

    fn make_in(place: &Path) -> Result<Self> {
        remove_abandoned(place);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(place);
        let folder = folder.map_err(Error::io("make a folder in", place))?;
        // Where the file system knows no locks, nothing is ever taken for abandoned.
        let lock = lock(folder.path());
        Ok(Self { folder, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// The lock of a folder that nobody else has locked.
fn lock(folder: &Path) -> Option<Flock<File>> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let opened = File::options().read(true).custom_flags(flags).open(folder).ok()?;
    Flock::lock(opened, FlockArg::LockExclusiveNonblock).ok()
}

/// Removes folders of this user that nobody holds any more. What cannot be removed stays: it is in nobody's way.
fn remove_abandoned(place: &Path) {
    let Ok(entries) = std::fs::read_dir(place) else { return };
    for entry in entries.flatten().filter(is_old_and_ours) {
        if let Some(_lock) = lock(&entry.path()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn is_old_and_ours(entry: &DirEntry) -> bool {
    let is_named = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
    // Of a link itself, not of what it leads to.
    is_named
        && entry.metadata().is_ok_and(|found| {
            let age = found.modified().ok().and_then(|time| time.elapsed().ok());
            found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() && age.is_some_and(|age| age > YOUNG)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder as a killed program leaves it.
    fn abandoned(place: &Path, name: &str, age: Duration) -> PathBuf {
        let path = place.join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("disk0.qcow2"), "changes").unwrap();
        make_older(&path, age);
        path
    }

    fn make_older(path: &Path, age: Duration) {
        File::open(path).unwrap().set_modified(std::time::SystemTime::now() - age).unwrap();
    }

    #[test]
    fn what_a_killed_program_left_is_removed_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let hour = Duration::from_secs(3600);
        let old = abandoned(place.path(), "imager-vm-old", hour);
        let young = abandoned(place.path(), "imager-vm-young", Duration::ZERO);
        let other = abandoned(place.path(), "other", hour);
        let link = place.path().join("imager-vm-link");
        std::os::unix::fs::symlink(&other, &link).unwrap();
        let used = Folder::make_in(place.path()).unwrap();
        make_older(used.path(), hour);
        let second = Folder::make_in(place.path()).unwrap();
        assert!(!old.exists());
        assert!(young.exists() && other.join("disk0.qcow2").exists() && link.exists());
        assert!(used.path().exists() && second.path().exists());
        let paths = [used.path().to_owned(), second.path().to_owned()];
        drop((used, second));
        assert!(paths.iter().all(|path| !path.exists()));
    }
}
