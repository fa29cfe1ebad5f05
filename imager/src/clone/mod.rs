//! Linked clones: disks of a virtual machine at once, that hold their own changes and read the rest from an image.
//!
//! ```text
//! VM ─► FILE (qcow2, changes) ─► socket ─► `imager serve --for FILE` ─► image in the repository
//! ```
//!
//! Making one reads a manifest and writes a few kilobytes, whatever the image's size. Beside each file is a text that says
//! what it depends on. Must not know: terminals, QEMU's options.

pub mod backing;
mod detach;
pub mod lock;
mod sidecar;

use std::fs::File;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

pub use self::backing::Backing;
use self::backing::SOCKET_PATH_MAX;
pub use self::detach::{Detached, detach};
pub use self::sidecar::Sidecar;
use crate::error::{Error, Result};
use crate::repo::Repository;
use crate::repo::clones::{CloneFile, CloneId, CloneRecord};
use crate::repo::manifest::{ImageId, Manifest};
use crate::vm_disk::qcow2::overlay::Overlay;

/// What to make.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The image.
    pub image: ImageId,
    /// Its manifest.
    pub manifest: &'a Manifest,
    /// Only this disk of it.
    pub disk: Option<usize>,
    /// The file, or what the files of several disks are named after.
    pub output: &'a Path,
    /// Where the image will be served; beside the file unless said otherwise.
    pub socket: Option<&'a Path>,
}

/// A linked clone that was made.
#[derive(Clone, Debug)]
pub struct Linked {
    /// Its id in the repository.
    pub id: CloneId,
    /// Its files, with the number of the disk that each is.
    pub files: Vec<(usize, PathBuf)>,
    /// Where the image has to be served.
    pub socket: PathBuf,
}

/// Makes a linked clone and registers it.
///
/// # Errors
/// [`Error::TargetRefused`] for files that are there; [`Error::Usage`] for a disk that is not; what the store and the system
/// say. Nothing is left then.
pub fn link(repository: &Repository, wanted: &Wanted<'_>) -> Result<Linked> {
    let output = absolute(wanted.output)?;
    let files = files_of(&output, wanted.manifest, wanted.disk)?;
    for (_, path) in &files {
        if path.symlink_metadata().is_ok() || Sidecar::path_for(path).symlink_metadata().is_ok() {
            return Err(Error::refused(path, "it is there already; give another name, or remove it"));
        }
    }
    let socket = match wanted.socket {
        Some(path) => absolute(path)?,
        None => appended(&output, ".imager-serve.sock"),
    };
    check_socket(&socket)?;
    let named: Result<Vec<CloneFile>> =
        files.iter().map(|(disk, path)| Ok(CloneFile { disk: *disk, path: text_of(path)?.to_owned() })).collect();
    let host = crate::machine::this_machine().hostname.unwrap_or_default();
    // First known, then there: a prune never sees the one without the other.
    let id = repository.register_clone(wanted.image, wanted.manifest, &host, named?)?;
    let record = repository.linked_clone(id)?;
    let sidecar = Sidecar::new(repository, id, &record, &socket);
    let made = files.iter().try_for_each(|(disk, path)| {
        let size = wanted
            .manifest
            .disks
            .get(*disk)
            .map_or(0, |disk| disk.size.next_multiple_of(u64::from(disk.sector_size).max(512)));
        make(
            path,
            &Overlay { size, backing: Backing { image: wanted.image, disk: *disk, socket: socket.clone() }.uri() },
        )?;
        sidecar.write(path)
    });
    if let Err(error) = made {
        for (_, path) in &files {
            // None of these was there before.
            let _ = std::fs::remove_file(Sidecar::path_for(path));
            let _ = std::fs::remove_file(path);
        }
        repository.release_clone(id)?;
        return Err(error);
    }
    Ok(Linked { id, files, socket })
}

/// The files of a clone: one by its own name, several by their numbers: `vm-disk0.qcow2`.
fn files_of(output: &Path, manifest: &Manifest, disk: Option<usize>) -> Result<Vec<(usize, PathBuf)>> {
    let count = manifest.disks.len();
    match disk {
        Some(number) if number < count => Ok(vec![(number, output.to_owned())]),
        Some(number) => Err(Error::Usage(format!("the image has no disk {number}: it has {count}, counted from 0"))),
        None if count == 0 => Err(Error::Usage("the image has no disks".into())),
        None if count == 1 => Ok(vec![(0, output.to_owned())]),
        None => {
            let stem = output.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            let extension = output.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
            let name = |number| format!("{stem}-disk{number}{}", extension.as_deref().unwrap_or_default());
            Ok((0..count).map(|number| (number, output.with_file_name(name(number)))).collect())
        }
    }
}

/// Writes an overlay so that it is there whole or not at all.
pub(crate) fn make(path: &Path, overlay: &Overlay) -> Result<()> {
    let part = appended(path, ".part");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&part);
    let written = file.and_then(|file| overlay.write(&file)).map_err(Error::io("write", &part));
    if let Err(error) = written.and_then(|()| put_in_place(&part, path)) {
        let _ = std::fs::remove_file(&part);
        return Err(error);
    }
    Ok(())
}

/// Gives a finished file its name, and makes that durable. What is at that name already stays.
pub(crate) fn put_in_place(part: &Path, path: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, part, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Err(Error::refused(path, "it is there already; give another name, or remove it")),
        // File systems that cannot tell.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if path.symlink_metadata().is_err() => {
            std::fs::rename(part, path).map_err(Error::io("rename", part))?;
        }
        Err(error) => return Err(Error::io("rename", part)(error.into())),
    }
    flush_folder(path)
}

/// Makes what was renamed beside `path` durable.
pub(crate) fn flush_folder(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Network shares that flush no directories have told their server at once.
        Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => Ok(()),
        other => other.map_err(Error::io("flush", folder)),
    }
}

/// Whether a server can listen there.
fn check_socket(socket: &Path) -> Result<()> {
    if socket.as_os_str().len() > SOCKET_PATH_MAX {
        return Err(Error::Usage(format!(
            "the image would be served on {}, which is longer than the {SOCKET_PATH_MAX} bytes that a socket's path may have; give a shorter one with --socket",
            socket.display()
        )));
    }
    match UnixListener::bind(socket) {
        Ok(listener) => {
            drop(listener);
            std::fs::remove_file(socket).map_err(Error::io("remove", socket))
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(Error::refused(
            socket,
            "the image would be served there, and something is there already; remove it, or give another place with --socket",
        )),
        Err(error) => Err(Error::Usage(format!(
            "the image cannot be served on {}: {error}. Give another place with --socket, on a file system that has sockets",
            socket.display()
        ))),
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).map_err(Error::io("look at", path))?;
    text_of(&path)?;
    Ok(path)
}

fn text_of(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::Usage(format!("the name {} is no text", path.display())))
}

fn appended(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// A file of a linked clone, as found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// What the file itself says.
    pub backing: Backing,
    /// Size of the disk.
    pub size: u64,
    /// What the text beside it says, when it is there.
    pub sidecar: Option<Sidecar>,
}

impl Found {
    /// Looks at a file; `None` when it is no linked clone.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn at(path: &Path) -> Result<Option<Self>> {
        let path = std::path::absolute(path).map_err(Error::io("look at", path))?;
        if !path.metadata().map_err(Error::io("open", &path))?.is_file() {
            return Ok(None);
        }
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let Some(overlay) = Overlay::read(&file).map_err(Error::io("read", &path))? else { return Ok(None) };
        let Some(backing) = Backing::from_uri(&overlay.backing) else { return Ok(None) };
        // Of another clone, should it be copied here by mistake.
        let sidecar = Sidecar::read(&path).filter(|sidecar| sidecar.image == backing.image);
        Ok(Some(Self { path, backing, size: overlay.size, sidecar }))
    }

    /// As [`Found::at`], for a file that has to be one.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is none, [`Error::Io`].
    pub fn must_be_at(path: &Path) -> Result<Self> {
        Self::at(path)?.ok_or_else(|| {
            Error::Usage(format!("{} is no linked clone: no file that `imager clone --linked` made", path.display()))
        })
    }

    /// The clone that it is a file of, if it is registered.
    ///
    /// # Errors
    /// What the store says.
    pub fn registered(&self, repository: &Repository) -> Result<Option<(CloneId, CloneRecord)>> {
        let clones = repository.clones()?.found.into_iter().filter(|(_, record)| record.image == self.backing.image);
        let id = self.sidecar.as_ref().map(|sidecar| sidecar.clone);
        let path = self.path.to_str();
        let (mut by_id, mut by_path) = (None, None);
        for (found, record) in clones {
            if Some(found) == id {
                by_id = Some((found, record));
            } else if record.files.iter().any(|file| Some(file.path.as_str()) == path) {
                by_path = Some((found, record));
            }
        }
        Ok(by_id.or(by_path))
    }

    /// The manifest of the image that it needs: as registered, or as the repository has it now.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] when it is neither registered nor there; what the store says.
    pub fn manifest(&self, repository: &Repository) -> Result<(Manifest, Option<CloneId>)> {
        if let Some((id, record)) = self.registered(repository)? {
            return Ok((record.manifest, Some(id)));
        }
        match repository.manifest(self.backing.image) {
            Ok(manifest) => Ok((manifest, None)),
            Err(Error::Missing { .. }) => Err(Error::NoSuchImage(format!(
                "{} needs the image {}, which the repository {} does not have",
                self.path.display(),
                self.backing.image,
                repository.store().location()
            ))),
            Err(error) => Err(error),
        }
    }
}
