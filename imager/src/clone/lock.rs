//! Whether a virtual machine has a disk file open, and keeping one from opening it.
//!
//! QEMU holds locks of open file descriptions on single bytes of a file: at 100 + n for each thing that it does to the
//! file, at 200 + n for each thing that nobody else may do. Source: QEMU's `block/file-posix.c` and `docs/interop`;
//! the numbers have been the same since 2.10. Must not know: what is in the file.

#![forbid(unsafe_code)]

use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::{Error, Result};

/// What is done to a file: reading what does not change.
const READING: i64 = 100;
/// Writing, and changing the size, are done to a file.
const WRITING: [i64; 2] = [101, 103];
/// Nobody else may write, or change the size.
const NO_WRITING: [i64; 2] = [201, 203];

/// Keeps virtual machines from opening a file for writing, as long as it is held.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock goes with the file")] File);

impl Lock {
    /// Takes hold of `file`, which is at `path`. Where the file system knows no locks, QEMU has none either, and nothing is
    /// known.
    ///
    /// # Errors
    /// [`Error::Busy`] when a virtual machine has it open; [`Error::Io`].
    pub fn take(file: &File, path: &Path) -> Result<Self> {
        let own = file.try_clone().map_err(Error::io("open", path))?;
        for byte in [READING].into_iter().chain(NO_WRITING) {
            match fcntl(&own, FcntlArg::F_OFD_SETLK(&flock(libc::F_RDLCK, byte))) {
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EACCES) => return Err(busy(path)),
                Err(Errno::EOPNOTSUPP | Errno::ENOLCK | Errno::EINVAL) => return Ok(Self(own)),
                Err(error) => return Err(Error::io("lock", path)(error.into())),
            }
        }
        for byte in WRITING {
            let mut found = flock(libc::F_WRLCK, byte);
            fcntl(&own, FcntlArg::F_OFD_GETLK(&mut found)).map_err(|error| Error::io("lock", path)(error.into()))?;
            if i32::from(found.l_type) != libc::F_UNLCK {
                return Err(busy(path));
            }
        }
        Ok(Self(own))
    }
}

fn busy(path: &Path) -> Error {
    Error::Busy(format!("{} is open in a virtual machine; shut that down first", path.display()))
}

fn flock(kind: i32, byte: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or(0),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or(0),
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(path: &Path) -> File {
        File::options().read(true).write(true).open(path).unwrap()
    }

    #[test]
    fn a_writer_is_noticed_and_kept_away() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let virtual_machine = opened(file.path());
        fcntl(&virtual_machine, FcntlArg::F_OFD_SETLK(&flock(libc::F_RDLCK, 101))).unwrap();
        let error = Lock::take(&opened(file.path()), file.path()).unwrap_err();
        assert!(matches!(error, Error::Busy(_)), "{error}");
        drop(virtual_machine);
        let held = Lock::take(&opened(file.path()), file.path()).unwrap();
        // What QEMU looks at before it writes: does anybody forbid that?
        let mut found = flock(libc::F_WRLCK, 201);
        fcntl(opened(file.path()), FcntlArg::F_OFD_GETLK(&mut found)).unwrap();
        assert_eq!(i32::from(found.l_type), libc::F_RDLCK);
        drop(held);
        Lock::take(&opened(file.path()), file.path()).unwrap();
    }
}
