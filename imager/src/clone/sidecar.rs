//! The text beside each file of a linked clone: what it depends on, for people and for programs.
//!
//! It is a convenience: the file itself says which image it reads and where, and the repository knows its clones.
//! Must not know: how files are served.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{appended, put_in_place};
use crate::error::{Error, Result};
use crate::repo::Repository;
use crate::repo::clones::{CloneFile, CloneId, CloneRecord};
use crate::repo::config::Hex;
use crate::repo::manifest::ImageId;

/// Far more than one has.
const BYTES_MAX: u64 = 1 << 20;

/// What a linked clone depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sidecar {
    /// For people.
    pub read_me: String,
    /// The clone.
    pub clone: CloneId,
    /// The image that it reads from.
    pub image: ImageId,
    /// Where the repository was.
    pub repository: String,
    /// Which repository it is.
    pub repository_id: Hex<16>,
    /// Where the image has to be served.
    pub socket: PathBuf,
    /// All files of the clone.
    pub files: Vec<CloneFile>,
    /// When it was made.
    pub created: Timestamp,
}

impl Sidecar {
    pub(super) fn new(repository: &Repository, clone: CloneId, record: &CloneRecord, socket: &Path) -> Self {
        let location = repository.store().location();
        let first = record.files.first().map(|file| file.path.as_str()).unwrap_or_default();
        let read_me = format!(
            "This is a linked clone: it holds only what was changed, and reads everything else from the image {} of the repository {location}. \
             It does not start while the image is not served. \
             `imager run {first}` serves it and starts a virtual machine; `imager serve --for {first}` serves it for others. \
             The image cannot be forgotten before `imager clone --release {clone}`. \
             `imager clone --detach {first}` makes it stand alone.",
            record.image
        );
        Self {
            read_me,
            clone,
            image: record.image,
            repository: location,
            repository_id: repository.config().id,
            socket: socket.to_owned(),
            files: record.files.clone(),
            created: record.created,
        }
    }

    /// Where the text of a file is.
    #[must_use]
    pub fn path_for(file: &Path) -> PathBuf {
        appended(file, ".clone.json")
    }

    pub(super) fn write(&self, file: &Path) -> Result<()> {
        let (path, part) = (Self::path_for(file), appended(file, ".clone.json.part"));
        let mut json = serde_json::to_vec_pretty(self).map_err(|error| Error::Internal(error.to_string()))?;
        json.push(b'\n');
        let written = File::create(&part).and_then(|mut file| file.write_all(&json).and_then(|()| file.sync_all()));
        written.map_err(Error::io("write", &part))?;
        put_in_place(&part, &path)
    }

    /// Reads the text of a file; `None` when there is none that can be read.
    #[must_use]
    pub fn read(file: &Path) -> Option<Self> {
        let mut json = Vec::new();
        File::open(Self::path_for(file)).ok()?.take(BYTES_MAX).read_to_end(&mut json).ok()?;
        serde_json::from_slice(&json).ok()
    }
}
