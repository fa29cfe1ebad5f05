//! Linked clones: disks of virtual machines outside of the repository that hold only what was changed, and read the rest
//! from an image.
//!
//! Each is an object with a copy of its image's manifest. So whatever becomes of the image's own object, a prune
//! knows what the clone needs, and the clone goes on. Must not know: what a clone's files look like.

#![forbid(unsafe_code)]

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Repository;
use super::config::{FORMAT_VERSION, Hex, from_json};
use super::manifest::{ImageId, Manifest};
use super::object::Kind;
use super::seal::random;
use crate::error::{Error, Result};

/// Names a linked clone.
pub type CloneId = Hex<16>;

/// What the repository knows of a linked clone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CloneRecord {
    /// Format version.
    pub version: u64,
    /// The image that it reads from.
    pub image: ImageId,
    /// The machine that its files are on.
    pub host: String,
    /// When it was made, by that machine's clock.
    pub created: Timestamp,
    /// Its files on that machine.
    pub files: Vec<CloneFile>,
    /// The image's manifest.
    pub manifest: Manifest,
}

/// One file of a linked clone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneFile {
    /// The disk's number in the image.
    pub disk: usize,
    /// Absolute path.
    pub path: String,
}

/// Linked clones, and those of which nobody knows what they need.
#[derive(Debug, Default)]
pub struct Clones {
    /// In the order of their making.
    pub found: Vec<(CloneId, CloneRecord)>,
    /// Those that cannot be read, and why.
    pub unreadable: Vec<(CloneId, Error)>,
}

impl Clones {
    /// Those that read from an image.
    pub fn of_image(&self, image: ImageId) -> impl Iterator<Item = &(CloneId, CloneRecord)> {
        self.found.iter().filter(move |(_, record)| record.image == image)
    }
}

impl CloneRecord {
    fn from_json(name: &str, payload: &[u8]) -> Result<Self> {
        let record: Self = from_json(name, payload)?;
        record.manifest.check().map_err(|what| Error::damaged(name, 0, what))?;
        Ok(record)
    }

    /// Where it is, in words.
    #[must_use]
    pub fn place(&self) -> String {
        let paths: Vec<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        format!("{} on {}", paths.join(", "), if self.host.is_empty() { "an unnamed machine" } else { &self.host })
    }
}

impl Repository {
    /// Makes a linked clone known, so that what it needs stays.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] when the image was forgotten meanwhile; what the store says.
    pub fn register_clone(
        &self,
        image: ImageId,
        manifest: &Manifest,
        host: &str,
        files: Vec<CloneFile>,
    ) -> Result<CloneId> {
        let record = CloneRecord {
            version: FORMAT_VERSION,
            image,
            host: host.to_owned(),
            created: Timestamp::now(),
            files,
            manifest: manifest.clone(),
        };
        let id = Hex(random()?);
        let payload = serde_json::to_vec(&record).map_err(|error| Error::Internal(error.to_string()))?;
        self.replace_object(Kind::Clone, &object_name(id), &payload)?;
        // In this order: an image that is there now was there when the clone was put, and whoever reads images first
        // and clones second sees one of the two.
        match self.manifest(image) {
            Ok(_) => Ok(id),
            Err(Error::Missing { .. }) => {
                self.release_clone(id)?;
                Err(Error::NoSuchImage(format!("the image {image} was forgotten just now")))
            }
            Err(error) => {
                let _ = self.release_clone(id);
                Err(error)
            }
        }
    }

    /// One linked clone.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Damaged`], [`Error::NewerFormat`], what the store says.
    pub fn linked_clone(&self, id: CloneId) -> Result<CloneRecord> {
        let name = object_name(id);
        CloneRecord::from_json(&name, &self.read_object(Kind::Clone, &name)?)
    }

    /// All linked clones.
    ///
    /// # Errors
    /// What the store says.
    pub fn clones(&self) -> Result<Clones> {
        let mut clones = Clones::default();
        for object in self.store().list(Kind::Clone.folder())? {
            let Some(id) = clone_id(&object.name) else { continue };
            match self.linked_clone(id) {
                Ok(record) => clones.found.push((id, record)),
                // Released meanwhile.
                Err(Error::Missing { .. }) => {}
                Err(error @ (Error::Damaged { .. } | Error::NewerFormat { .. })) => clones.unreadable.push((id, error)),
                Err(error) => return Err(error),
            }
        }
        clones.found.sort_by_key(|(id, record)| (record.created, *id));
        Ok(clones)
    }

    /// Takes a linked clone off the list: what only it needs may go with the next prune.
    ///
    /// # Errors
    /// What the store says.
    pub fn release_clone(&self, id: CloneId) -> Result<()> {
        self.store().delete(&object_name(id))?;
        self.store().flush_deletes(Kind::Clone.folder())
    }
}

fn object_name(id: CloneId) -> String {
    format!("{}/{id}", Kind::Clone.folder())
}

fn clone_id(name: &str) -> Option<CloneId> {
    name.strip_prefix(Kind::Clone.folder())?.strip_prefix('/')?.parse().ok()
}
