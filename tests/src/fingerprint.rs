//! What is in a tree of files: names, owners, modes, link targets and hashes of the contents.

use std::path::Path;

use anyhow::{Result, bail};

use crate::tool;

/// A tree's content, as sorted lines of text. Equal for equal trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Reads every file below `folder`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn of(folder: &Path) -> Result<Self> {
        let lines = tool::sh(
            "cd \"$folder\"
             { find . -xdev -printf '%y %m %U:%G %p %l\\n'
               find . -xdev -type f -print0 | xargs --null --no-run-if-empty --max-procs=2 --max-args=500 sha256sum
             } | sort",
            &[("folder", folder)],
        )?;
        Ok(Self(lines))
    }

    /// Number of files that were hashed.
    #[must_use]
    pub fn files(&self) -> usize {
        self.0.lines().filter(|line| line.as_bytes().get(64..66) == Some(b"  ")).count()
    }

    /// Fails when `other` differs, and names the first few differences.
    ///
    /// # Errors
    /// The differences.
    pub fn check_equal(&self, other: &Self, what: &str) -> Result<()> {
        if self == other {
            return Ok(());
        }
        let (mine, theirs): (Vec<_>, Vec<_>) = (self.0.lines().collect(), other.0.lines().collect());
        let missing = mine.iter().filter(|line| theirs.binary_search(line).is_err()).map(|line| format!("- {line}"));
        let extra = theirs.iter().filter(|line| mine.binary_search(line).is_err()).map(|line| format!("+ {line}"));
        let shown: Vec<String> = missing.chain(extra).take(10).collect();
        bail!("{what}: the files differ\n{}", shown.join("\n"));
    }
}
