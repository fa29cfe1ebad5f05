//! A file that has its name only when it is complete.
//!
//! Must not know: what is in it.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::disk::target::Replace;
use crate::error::{Error, Result};

/// `FILE.part`, which becomes `FILE`, or goes.
pub struct Part {
    path: PathBuf,
    part: PathBuf,
    replace: Replace,
    done: bool,
}

impl Part {
    /// Nothing happens yet.
    ///
    /// # Errors
    /// [`Error::TargetRefused`] when there is a file and it may not be replaced.
    pub fn new(path: &Path, replace: Replace) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| Error::refused(path, "it is no name of a file"))?;
        let mut part = name.to_owned();
        part.push(".part");
        let new = Self { path: path.to_owned(), part: path.with_file_name(part), replace, done: false };
        new.check()?;
        Ok(new)
    }

    fn check(&self) -> Result<()> {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if found.is_dir() => Err(Error::refused(&self.path, "it is a directory; name a file in it")),
            Ok(_) if self.replace == Replace::No => {
                Err(Error::refused(&self.path, "the file exists; --force overwrites it"))
            }
            Ok(found) if !found.is_file() => Err(Error::refused(&self.path, "it is no plain file")),
            _ => Ok(()),
        }
    }

    /// Where it is until it is complete.
    #[must_use]
    pub fn working_path(&self) -> &Path {
        &self.part
    }

    /// Makes the file, to be written from its beginning.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(&self) -> Result<BufWriter<File>> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&self.part);
        Ok(BufWriter::with_capacity(1 << 20, file.map_err(Error::io("create", &self.part))?))
    }

    /// Everything is on the medium and has its name when this returns. Gives the file's length, and what it takes of
    /// its file system, in bytes.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::TargetRefused`] when a file has got the name meanwhile.
    pub fn finish(mut self) -> Result<(u64, u64)> {
        let file = File::open(&self.part).map_err(Error::io("open", &self.part))?;
        file.sync_all().map_err(Error::io("flush", &self.part))?;
        let found = file.metadata().map_err(Error::io("look at", &self.part))?;
        self.check()?;
        fs::rename(&self.part, &self.path).map_err(Error::io("rename to its name", &self.part))?;
        self.done = true;
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(Error::io("flush", directory))?;
        Ok((found.len(), found.blocks().saturating_mul(512)))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.done {
            // What remains has a name that says so.
            let _ = fs::remove_file(&self.part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_there_when_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.qcow2");
        let part = Part::new(&path, Replace::No).unwrap();
        part.create().unwrap().write_all(b"half").unwrap();
        assert!(part.working_path().ends_with("x.qcow2.part") && part.working_path().exists());
        drop(part);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let part = Part::new(&path, Replace::No).unwrap();
        part.create().unwrap().write_all(b"whole").unwrap();
        assert_eq!(part.finish().unwrap().0, 5);
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert!(matches!(Part::new(&path, Replace::No), Err(Error::TargetRefused { .. })));
        assert!(Part::new(&path, Replace::Yes).is_ok());
        assert!(Part::new(dir.path(), Replace::Yes).is_err());
    }
}
