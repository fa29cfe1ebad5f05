//! What can go wrong, in words that say what to do, and the exit code of each.
//!
//! Messages are lowercase fragments that fit behind "imager: ".

use std::io;
use std::path::PathBuf;

use crate::fs::FsError;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong. [`Error::exit_code`] groups the kinds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The arguments do not fit together, or name something that does not exist.
    #[error("{0}")]
    Usage(String),
    /// A local file or device did not do what was asked.
    #[error("cannot {operation} {}: {}", path.display(), words(error))]
    Io {
        /// "open", "read at byte 4096 of" …
        operation: String,
        /// The file or device.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The store failed.
    #[error("the store failed to {operation} {object}: {detail}")]
    Store {
        /// "read", "write", "list", "delete", "flush".
        operation: &'static str,
        /// The object's name in the repository.
        object: String,
        /// What the store says.
        detail: String,
    },
    /// An object that should be there is not.
    #[error("{object} is missing from the repository")]
    Missing {
        /// The object's name.
        object: String,
    },
    /// There is no repository.
    #[error("{0} holds no repository; `imager init` makes one")]
    NoRepository(String),
    /// There is one already.
    #[error("{0} already holds a repository")]
    RepositoryExists(String),
    /// Written by a newer version of this program.
    #[error("{object} has format version {found}, this program knows versions up to {known}; use a newer imager")]
    NewerFormat {
        /// The object's name.
        object: String,
        /// Version found.
        found: u64,
        /// Highest version known.
        known: u64,
    },
    /// No key slot opens with this password.
    #[error("no key slot opens with this password")]
    WrongPassword,
    /// The repository is encrypted and no password was given.
    #[error("the repository is encrypted; give the password with --password-file or IMAGER_PASSWORD_FILE")]
    PasswordNeeded,
    /// The bytes of an object are not what was written.
    #[error("{object} is damaged at byte {offset}: {what}")]
    Damaged {
        /// The object's name.
        object: String,
        /// Byte position in the object.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// A check ran to its end and found damage; the report has the particulars.
    #[error("{0}")]
    DamageFound(String),
    /// No image, or more than one, matches.
    #[error("{0}")]
    NoSuchImage(String),
    /// The target is not one that may be overwritten, or is too small.
    #[error("the target {} is refused: {reason}", path.display())]
    TargetRefused {
        /// The target.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The source is gone while it was read.
    #[error("the source {} vanished while it was read ({detail})", path.display())]
    SourceVanished {
        /// The source.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// A file system that is not understood, where understanding it was asked for.
    #[error(transparent)]
    FileSystem(#[from] FsError),
    /// Somebody else works on the same thing.
    #[error("{0}")]
    Busy(String),
    /// Stopped on request.
    #[error("stopped on request")]
    Interrupted,
    /// Ended midway, by any of the others.
    #[error("{error}; {advice}")]
    Midway {
        /// What ended it.
        error: Box<Error>,
        /// What there is of the work, and how to go on.
        advice: String,
    },
    /// A thread of the pipeline ended without an answer: a fault in this program.
    #[error("internal error: {0}; please report it")]
    Internal(String),
}

impl Error {
    /// An [`Error::Io`], for `map_err`.
    pub fn io(operation: impl Into<String>, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let (operation, path) = (operation.into(), path.into());
        move |error| Self::Io { operation, path, error }
    }

    /// An [`Error::Damaged`].
    pub fn damaged(object: impl Into<String>, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged { object: object.into(), offset, what: what.into() }
    }

    /// An [`Error::TargetRefused`].
    pub fn refused(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::TargetRefused { path: path.into(), reason: reason.into() }
    }

    /// The same error, with a word on what there is of the work and how to go on.
    #[must_use]
    pub fn midway(self, advice: impl Into<String>) -> Self {
        Self::Midway { error: Box::new(self), advice: advice.into() }
    }

    /// The exit code that the command line documents: see `imager --help`.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::NoRepository(_)
            | Self::RepositoryExists(_)
            | Self::NewerFormat { .. }
            | Self::WrongPassword
            | Self::PasswordNeeded => 3,
            Self::Damaged { .. } | Self::DamageFound(_) | Self::Missing { .. } => 4,
            Self::Store { .. } => 5,
            Self::TargetRefused { .. } => 6,
            Self::NoSuchImage(_) => 7,
            Self::SourceVanished { .. } => 8,
            Self::Busy(_) => 9,
            Self::Interrupted => 130,
            Self::Midway { error, .. } => error.exit_code(),
            Self::Io { .. } | Self::FileSystem(_) | Self::Internal(_) => 1,
        }
    }
}

/// What the system says, without its number, and what may help.
pub(crate) fn words(error: &io::Error) -> String {
    let mut words = error.to_string();
    if let Some(number) = error.raw_os_error() {
        words = words.replace(&format!(" (os error {number})"), "");
    }
    if error.kind() == io::ErrorKind::PermissionDenied && !nix::unistd::geteuid().is_root() {
        words += " (run it as root?)";
    }
    words
}
