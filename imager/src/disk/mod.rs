//! Disks as the machine has them: who they are, how they are read, how they are written.
//!
//! Must not know: partition tables, file systems, repositories.

pub(crate) mod guard;
pub mod health;
pub mod identity;
pub mod source;
pub(crate) mod sys;
pub mod target;

use std::fmt;

use self::identity::Identity;

/// The sector size that the device says it has; none for a file, whose partition table tells.
#[must_use]
pub fn sector_size_of(identity: &Identity) -> Option<u32> {
    (identity.transport.as_deref() != Some("file")).then_some(identity.logical_sector)
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.model, &self.serial) {
            (Some(model), Some(serial)) => write!(f, "{model}, serial {serial}"),
            (Some(model), None) => write!(f, "{model} ({})", self.path.display()),
            (None, Some(serial)) => write!(f, "serial {serial}"),
            (None, None) => write!(f, "{}", self.path.display()),
        }
    }
}
