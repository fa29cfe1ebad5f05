//! The files that a disk file names, as they are found on this machine.
//!
//! What a file names is read, and ends up in an image, so a name must not lead to whatever its writer would like to
//! see: a virtual machine can write a header with any name onto its raw disk. Names are followed only
//!
//! - in a file that is of its format by more than its content: its name ends like it, or the user says so, or the file
//!   above it does;
//! - to regular files in its own directory, unless the user allows others.
//!
//! Must not know: what the formats' structures are.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cache::Cache;
use super::contents::{Contents, Neighbours};
use super::error::DiskError;
use super::open::{Follow, read_with};
use super::{Format, detect};
use crate::disk::source::SourceDisk;
use crate::error::Error;

/// Files that are below each other.
const DEPTH_MAX: usize = 64;

/// A file that was opened, to notice that it shrinks, and when a chain comes back to it.
#[derive(Clone, Debug)]
pub(super) struct OpenedFile {
    pub path: PathBuf,
    pub size: u64,
    /// Device and inode.
    pub id: (u64, u64),
}

/// Everything that opening one disk has opened.
#[derive(Default)]
pub(super) struct Family {
    pub files: RefCell<Vec<OpenedFile>>,
    pub notes: RefCell<Vec<String>>,
    pub cache: Arc<Cache>,
}

/// The surroundings of one file.
pub(super) struct Surroundings<'a> {
    pub family: &'a Family,
    pub follow: Follow,
    /// The file, as it was named.
    path: PathBuf,
    format: Format,
    /// Whether it is what it seems by more than its content.
    is_trusted: bool,
    /// The files above it and itself.
    above: Vec<(u64, u64)>,
}

impl<'a> Surroundings<'a> {
    /// Those of the file that the user names.
    pub(super) fn of_first(
        family: &'a Family,
        path: &Path,
        format: Format,
        stated: Option<Format>,
        follow: Follow,
    ) -> Self {
        let is_trusted = stated.is_some() || is_named_like(path, format);
        Self { family, follow, path: path.to_owned(), format, is_trusted, above: Vec::new() }
    }

    /// Notes that the file itself was opened.
    pub(super) fn enter(&mut self, file: OpenedFile) {
        self.above.push(file.id);
        self.family.files.borrow_mut().push(file);
    }

    /// Where `name` leads, when it may be followed.
    fn resolve(&self, name: &[u8]) -> Result<PathBuf, DiskError> {
        let words = String::from_utf8_lossy(name).into_owned();
        let refuse = |why: String| Err(DiskError::unsupported(why));
        let name = name.strip_prefix(b"file:").unwrap_or(name);
        if name.is_empty() || name.contains(&0) {
            return refuse("it names a file without a name".to_owned());
        }
        if is_address(name) {
            return refuse(format!(
                "it needs `{words}`, which is no file. A linked clone of an image: make it a full one while that is served (`qemu-img convert -O qcow2 {} FULL.qcow2`) and take that",
                self.path.display()
            ));
        }
        if !self.is_trusted {
            return refuse(format!(
                "by its content it is a {0} file that needs `{words}`, but its name does not end in .{0}: a virtual machine can write such content onto its raw disk to get at other files. --format {0} if it is one, --format raw if not",
                self.format
            ));
        }
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let path = directory.join(OsStr::from_bytes(name));
        let found = fs::canonicalize(&path).map_err(|error| {
            let advice = format!("{} needs it", self.path.display());
            DiskError::Other(Box::new(Error::io("open", &path)(error).midway(advice)))
        })?;
        if self.follow == Follow::SameDirectory {
            let itself = fs::canonicalize(&self.path).ok();
            let homes = [fs::canonicalize(directory).ok(), itself.and_then(|path| path.parent().map(Path::to_owned))];
            if !homes.iter().flatten().any(|home| found.parent() == Some(home)) || !found.is_file() {
                return refuse(format!(
                    "it needs {}, which is no file in its own directory; --follow-backing reads that, too",
                    found.display()
                ));
            }
        }
        Ok(path)
    }

    fn open(&self, name: &[u8]) -> Result<(SourceDisk, OpenedFile), DiskError> {
        let path = self.resolve(name)?;
        let (file, opened) = open_file(&path).map_err(|error| DiskError::Other(Box::new(error)))?;
        if self.above.contains(&opened.id) {
            return Err(DiskError::unsupported(format!("it needs {}, which needs it in turn", path.display())));
        }
        if self.above.len() >= DEPTH_MAX {
            return Err(DiskError::unsupported(format!("more than {DEPTH_MAX} files need each other")));
        }
        Ok((file, opened))
    }
}

impl Neighbours for Surroundings<'_> {
    fn file(&self, name: &[u8]) -> Result<Box<dyn Contents>, DiskError> {
        let (file, opened) = self.open(name)?;
        self.family.files.borrow_mut().push(opened);
        Ok(Box::new(file))
    }

    fn disk(&self, name: &[u8], format: Option<&[u8]>) -> Result<Box<dyn Contents>, DiskError> {
        let (file, opened) = self.open(name)?;
        let path = opened.path.clone();
        let format_of = || -> Result<(Format, bool), DiskError> {
            let Some(stated) = format else {
                let found = detect(&file)?;
                return Ok((found, is_named_like(&path, found)));
            };
            let stated = String::from_utf8_lossy(stated);
            let stated = if stated == "vpc" { "vhd" } else { &*stated };
            let unknown = || DiskError::unsupported(format!("it is said to be a disk of the format `{stated}`"));
            Ok((stated.parse().map_err(|_| unknown())?, true))
        };
        let (format, is_trusted) = format_of().map_err(|error| DiskError::Other(Box::new(error.of(&path))))?;
        let above = self.above.clone();
        let mut around = Self { family: self.family, follow: self.follow, path, format, is_trusted, above };
        around.enter(opened);
        let disk = read_with(Box::new(file), format, &around, &self.family.cache);
        let disk = disk.map_err(|error| DiskError::Other(Box::new(error.of(&around.path))))?;
        let mut notes = self.family.notes.borrow_mut();
        notes.extend(disk.notes.iter().map(|note| format!("{}: {note}", around.path.display())));
        Ok(disk.contents)
    }
}

/// Opens a file that a disk is in.
pub(super) fn open_file(path: &Path) -> Result<(SourceDisk, OpenedFile), Error> {
    let metadata = fs::metadata(path).map_err(Error::io("open", path))?;
    let file = SourceDisk::open(path)?;
    let size = crate::read_at::ReadAt::size(&file);
    Ok((file, OpenedFile { path: path.to_owned(), size, id: (metadata.dev(), metadata.ino()) }))
}

/// A name such as `nbd://host/export`, `json:{…}` or `rbd:pool/image`, not a path.
fn is_address(name: &[u8]) -> bool {
    let scheme = name.split(|&byte| byte == b'/').next().unwrap_or_default();
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_');
    scheme.iter().position(|&byte| byte == b':').is_some_and(|at| at > 0 && scheme.iter().take(at).all(is_letter))
}

/// Whether a file's name ends as those of its format do.
fn is_named_like(path: &Path, format: Format) -> bool {
    let endings: &[&str] = match format {
        Format::Raw => &["raw", "img"],
        Format::Qcow2 => &["qcow2", "qcow", "qcow2c"],
        Format::Vmdk => &["vmdk"],
        Format::Vhdx => &["vhdx", "avhdx"],
        Format::Vhd => &["vhd", "avhd", "vpc"],
        Format::Vdi => &["vdi"],
    };
    path.extension().is_some_and(|ending| endings.iter().any(|other| ending.eq_ignore_ascii_case(other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_paths() {
        for address in ["nbd://h/e", "nbd+unix:///e?socket=/s", "json:{\"driver\":\"file\"}", "rbd:pool/x", "http://a"]
        {
            assert!(is_address(address.as_bytes()), "{address}");
        }
        for path in ["base.qcow2", "/a/b:c", "./a:b", "a/b:c", ":x", "ba se"] {
            assert!(!is_address(path.as_bytes()), "{path}");
        }
    }
}
