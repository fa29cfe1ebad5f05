//! What can be wrong with a disk file. "Not supported" is never "damaged".
//!
//! Must not know: paths. Who opened the file adds its own.

use std::io;
use std::path::Path;

use crate::error::Error;

/// Why a file cannot be read as a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Its structures contradict each other, their checksums, or its size.
    #[error("damaged at byte {offset}: {what}")]
    Damaged {
        /// Byte position in the file.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// It is fine, but needs what is not done here; says what to do instead.
    #[error("{0}")]
    Unsupported(String),
    /// Another file that the disk needs.
    #[error("{0}")]
    Other(Box<Error>),
    /// The file cannot be read.
    #[error(transparent)]
    Io(io::Error),
}

impl DiskError {
    /// A [`DiskError::Damaged`].
    pub fn damaged(offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged { offset, what: what.into() }
    }

    /// A [`DiskError::Unsupported`].
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported(what.into())
    }

    /// The same about the file at `path`.
    #[must_use]
    pub fn of(self, path: &Path) -> Error {
        match self {
            Self::Damaged { offset, what } => Error::damaged(path.display().to_string(), offset, what),
            Self::Unsupported(what) => Error::Usage(format!("{}: {what}", path.display())),
            Self::Other(error) => *error,
            Self::Io(error) => Error::io("read", path)(error),
        }
    }
}

impl From<io::Error> for DiskError {
    /// Damage that was found while reading is damage again.
    fn from(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(inner) => inner,
            Err(error) => Self::Io(error),
        }
    }
}

impl From<DiskError> for io::Error {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Io(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}
