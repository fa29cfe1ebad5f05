//! What can go wrong when an initramfs is put together.

use std::path::{Path, PathBuf};

/// Why there is no initramfs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line of a list is not understood.
    #[error("line {line} of {list}: {problem}")]
    Line {
        /// Which list.
        list: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A module or a program is not what it should be.
    #[error("{path}: {problem}")]
    Elf {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A module needs one that the kernel's package does not have.
    #[error("the module {module} needs {needed}, which this kernel does not have")]
    Module {
        /// Who needs it.
        module: String,
        /// What is needed.
        needed: String,
    },
    /// A program needs a library that none of its packages has.
    #[error("{program} needs {library}: add the package that has it to its line in programs.list")]
    Library {
        /// Who needs it.
        program: PathBuf,
        /// What is needed.
        library: String,
    },
    /// Two things want the same place in the archive.
    #[error("two different things want to be {0} in the archive")]
    Twice(String),
    /// The archive's form cannot hold this.
    #[error("{0}: too large for the archive, which holds files below 4 GiB")]
    TooLarge(String),
}

impl Error {
    /// For `map_err` on an operation with the file at `path`.
    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        |source| Self::File { path: path.to_owned(), source }
    }
}
