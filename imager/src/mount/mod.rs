//! An image as a directory: disks and partitions as files, and the files in them.
//!
//! ```text
//! DIR/disk0/disk.raw                 the whole disk
//! DIR/disk0/p2/partition.raw         a partition
//! DIR/disk0/p2/files/…               the files of its file system
//! DIR/disk0/files/…                  those of a disk without partitions
//! ```
//!
//! All of it is read-only. Inode numbers say which file it is, and so are the same in every mount of an image. Many
//! readers are served at once; what they read in order is fetched ahead. Must not know: terminals, stores.

mod attributes;
mod directories;
mod filesystem;
mod tree;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};

use self::filesystem::ImageFs;
use self::tree::Tree;
use crate::error::{Error, Result};
use crate::image_disk::Shelf;
use crate::progress::Progress;
use crate::repo::manifest::Manifest;

/// Threads that answer the kernel. More than there are processors, since some wait for the store.
const THREADS: usize = 8;

/// Who may read the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// The user that mounts. Root sees what owners and modes allow everybody; another user reads everything, as with
    /// any other way to read the repository.
    #[default]
    Owner,
    /// Everybody, as far as the owners and modes of the files allow.
    Others,
}

/// A mounted image; unmounted when dropped.
pub struct Mounted {
    session: Option<Session<ImageFs>>,
    warnings: Arc<tree::Warnings>,
}

/// Mounts an image on a directory.
///
/// # Errors
/// [`Error::Io`] with what the system says.
pub fn mount(shelf: &Arc<Shelf>, manifest: &Manifest, directory: &Path, access: Access) -> Result<Mounted> {
    let found = std::fs::metadata(directory).map_err(Error::io("mount on", directory))?;
    if !found.is_dir() {
        return Err(Error::Usage(format!("{} is no directory", directory.display())));
    }
    let tree = Tree::new(shelf, manifest)?;
    let warnings = tree.warnings();
    let is_root = nix::unistd::geteuid().is_root();
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::FSName("imager".into()),
        MountOption::Subtype("imager".into()),
    ];
    if is_root || access == Access::Others {
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    config.acl = if access == Access::Others { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    let session = Session::new(ImageFs::new(tree), directory, &config).map_err(|error| {
        let hint = match (is_root, error.kind()) {
            (true, std::io::ErrorKind::NotFound) => "; is there a /dev/fuse? (`modprobe fuse`)",
            (false, _) => "; without root it takes fusermount3 (Debian: apt install fuse3), and --allow-other a line user_allow_other in /etc/fuse.conf",
            _ => "",
        };
        Error::Io { operation: "mount on".into(), path: directory.to_owned(), error: with_hint(error, hint) }
    })?;
    Ok(Mounted { session: Some(session), warnings })
}

fn with_hint(error: std::io::Error, hint: &str) -> std::io::Error {
    if hint.is_empty() { error } else { std::io::Error::new(error.kind(), format!("{error}{hint}")) }
}

impl Mounted {
    /// Answers until the directory is unmounted, or `progress` is asked to stop, which unmounts it.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be unmounted.
    pub fn run(mut self, directory: &Path, progress: &Progress) -> Result<()> {
        let Some(mut session) = self.session.take() else { return Ok(()) };
        let mut unmounter = session.unmount_callable();
        let thread = std::thread::Builder::new().name("mount".into()).spawn(move || session.run());
        let thread = thread.map_err(|error| Error::Internal(format!("cannot start a thread: {error}")))?;
        let mut unmounted = false;
        while !thread.is_finished() {
            for warning in self.warnings.take() {
                progress.say(warning);
            }
            if progress.is_stopped() && !unmounted {
                unmounter.unmount().map_err(Error::io("unmount", directory))?;
                unmounted = true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        match thread.join() {
            Ok(result) => result.map_err(Error::io("serve", directory)),
            Err(_) => Err(Error::Internal("the mount's thread panicked".into())),
        }
    }
}
