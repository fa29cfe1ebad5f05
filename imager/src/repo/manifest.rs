//! The manifest: what an image is an image of. JSON, sealed like every small object.
//!
//! Fields are only ever added; a reader ignores those that it does not know.

#![forbid(unsafe_code)]

use std::collections::HashSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Repository;
use super::block_map::Root;
use super::config::{FORMAT_VERSION, Hex};
use super::object::Kind;
use super::pack::SessionId;
use crate::disk::identity::Identity;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::fs::Note;
use crate::machine::Machine;
use crate::table::PartitionTable;

/// Names an image.
pub type ImageId = Hex<16>;

/// Images whose manifests cannot be read, and why.
pub type Unreadable = Vec<(ImageId, Error)>;

/// One machine's disks as they were at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version.
    pub version: u64,
    /// What the user calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the user says about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The program that made it.
    pub tool: String,
    /// When the capture began.
    pub created: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// The machine that the disks were read on.
    pub machine: Machine,
    /// Its stable id, to find the images of one machine.
    pub machine_id: String,
    /// The disks.
    pub disks: Vec<DiskImage>,
    /// What the capture cost.
    pub stats: Stats,
}

/// One disk in an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiskImage {
    /// Who the disk is.
    pub identity: Identity,
    /// Size in bytes.
    pub size: u64,
    /// Logical sector size in bytes.
    pub sector_size: u32,
    /// Whether every sector was read, or only what is in use.
    pub all_sectors: bool,
    /// Its partition table.
    pub table: PartitionTable,
    /// What was found on its partitions, or on the disk as a whole.
    pub volumes: Vec<Volume>,
    /// The runs of the disk that together are all of it, ascending; each with its block map.
    pub regions: Vec<Region>,
    /// What could not be read, in bytes of the disk. Restored as zeros.
    pub unreadable: Vec<Extent>,
    /// What should be known about it.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What is on a partition.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Volume {
    /// The partition's number; none for a file system on the bare disk.
    pub partition: Option<u32>,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// The file system, as `blkid` names it.
    pub kind: String,
    /// Its label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Its UUID or serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Block or cluster size in bytes.
    pub block_size: u32,
    /// Bytes in use, as its allocation map says.
    pub used: u64,
    /// What should be known about it.
    #[serde(default)]
    pub notes: Vec<Note>,
    /// Files whose content was left out on request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// A run of the disk with one grid of 4 KiB blocks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Region {
    /// First byte on the disk; where the grid begins.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// The partition that it belongs to.
    pub partition: Option<u32>,
    /// The block map; none when nothing in the region is in use.
    pub root: Option<Root>,
}

/// What a capture read and stored, in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Read from the disks.
    pub read: u64,
    /// Zeros among them, and holes of disk-image files.
    pub zero: u64,
    /// Chunks that the repository had already.
    pub known: u64,
    /// Chunks that were new, before compression.
    pub new: u64,
    /// What the image added to the repository.
    pub stored: u64,
    /// Number of chunks in the image.
    pub chunks: u64,
    /// Number of new chunks.
    pub new_chunks: u64,
}

impl Repository {
    /// Writes the manifest and so makes the image visible.
    ///
    /// # Errors
    /// What the store says.
    pub fn write_manifest(&self, id: ImageId, manifest: &Manifest) -> Result<()> {
        let payload = serde_json::to_vec(manifest).map_err(|error| Error::Internal(error.to_string()))?;
        self.replace_object(Kind::Image, &object_name(id), &payload)
    }

    /// Reads one manifest.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::NewerFormat`], or what the store says.
    pub fn manifest(&self, id: ImageId) -> Result<Manifest> {
        let name = object_name(id);
        let payload = self.read_object(Kind::Image, &name)?;
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        let damaged = |error: serde_json::Error| Error::damaged(&name, 0, error.to_string());
        let Versioned { version } = serde_json::from_slice(&payload).map_err(damaged)?;
        if version > FORMAT_VERSION {
            return Err(Error::NewerFormat { object: name, found: version, known: FORMAT_VERSION });
        }
        let manifest: Manifest = serde_json::from_slice(&payload).map_err(damaged)?;
        manifest.check().map_err(|what| Error::damaged(&name, 0, what))?;
        Ok(manifest)
    }

    /// Removes an image. What only it needed stays until the next prune.
    ///
    /// # Errors
    /// What the store says.
    pub fn forget_image(&self, id: ImageId) -> Result<()> {
        self.store().delete(&object_name(id))
    }

    /// The ids of all images.
    ///
    /// # Errors
    /// What the store says.
    pub fn image_ids(&self) -> Result<Vec<ImageId>> {
        Ok(self.store().list(Kind::Image.folder())?.iter().filter_map(|object| image_id(&object.name)).collect())
    }

    /// Images that a capture was about to make when it ended: there is a manifest, it cannot be read, and the
    /// capture's session still says that it is at work. With the sessions that say so.
    ///
    /// # Errors
    /// What the store says.
    pub fn unfinished_images(&self) -> Result<Vec<(ImageId, SessionId)>> {
        let ids: HashSet<ImageId> = self.image_ids()?.into_iter().collect();
        let mut unfinished = Vec::new();
        for session in self.sessions()? {
            let Some(image) = session.record.and_then(|record| record.image).filter(|id| ids.contains(id)) else {
                continue;
            };
            match self.manifest(image) {
                Err(Error::Damaged { .. }) => unfinished.push((image, session.id)),
                Ok(_) | Err(Error::Missing { .. } | Error::NewerFormat { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(unfinished)
    }

    /// All images, oldest first, and those whose manifests cannot be read. Images that were never finished are
    /// none.
    ///
    /// # Errors
    /// What the store says.
    pub fn images(&self) -> Result<(Vec<(ImageId, Manifest)>, Unreadable)> {
        let (mut images, mut damaged) = (Vec::new(), Vec::new());
        for id in self.image_ids()? {
            match self.manifest(id) {
                Ok(manifest) => images.push((id, manifest)),
                // Forgotten meanwhile.
                Err(Error::Missing { .. }) => {}
                Err(error @ (Error::Damaged { .. } | Error::NewerFormat { .. })) => damaged.push((id, error)),
                Err(error) => return Err(error),
            }
        }
        if !damaged.is_empty() {
            let unfinished: HashSet<ImageId> = self.unfinished_images()?.into_iter().map(|(id, _)| id).collect();
            damaged.retain(|(id, _)| !unfinished.contains(id));
        }
        images.sort_by_key(|(id, manifest)| (manifest.created, *id));
        Ok((images, damaged))
    }

    /// The image that `words` means: `latest`, a name (the newest of that name), or the beginning of an id.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] when there is none or the beginning fits several.
    pub fn find_image(&self, words: &str) -> Result<(ImageId, Manifest)> {
        let (images, damaged) = self.images()?;
        if words == "latest" {
            return images.into_iter().next_back().ok_or_else(|| no_image("the repository has no images yet".into()));
        }
        if let Some(found) = images.iter().rev().find(|(_, manifest)| manifest.name.as_deref() == Some(words)) {
            return Ok(found.clone());
        }
        let fits = |id: &ImageId| !words.is_empty() && id.to_string().starts_with(words);
        if let Some((_, error)) = damaged.into_iter().find(|(id, _)| fits(id)) {
            return Err(error);
        }
        let mut fitting = images.into_iter().filter(|(id, _)| fits(id));
        match (fitting.next(), fitting.next()) {
            (Some(found), None) => Ok(found),
            (Some(_), Some(_)) => {
                Err(no_image(format!("{words:?} is the beginning of several images' ids; give more of it")))
            }
            (None, _) => Err(no_image(format!("no image has the name or id {words:?}; `imager images` lists them"))),
        }
    }
}

fn no_image(what: String) -> Error {
    Error::NoSuchImage(what)
}

fn object_name(id: ImageId) -> String {
    format!("{}/{id}", Kind::Image.folder())
}

fn image_id(name: &str) -> Option<ImageId> {
    name.strip_prefix(Kind::Image.folder())?.strip_prefix('/')?.parse().ok()
}

impl Manifest {
    /// Regions are ascending, disjoint and within their disk.
    fn check(&self) -> Result<(), String> {
        for (number, disk) in self.disks.iter().enumerate() {
            let mut at = 0;
            for region in &disk.regions {
                let end = region.start.checked_add(region.len).filter(|&end| end <= disk.size);
                match end {
                    Some(end) if region.start >= at => at = end,
                    _ => {
                        return Err(format!(
                            "disk {number} has a region outside of its place at byte {}",
                            region.start
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// The machine, in words.
    #[must_use]
    pub fn machine_words(&self) -> String {
        let Machine { vendor, product, serial, hostname, .. } = &self.machine;
        let model = [vendor, product].into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ");
        let serial = serial.as_ref().map(|serial| format!("serial {serial}"));
        let parts = [hostname.clone(), Some(model).filter(|model| !model.is_empty()), serial];
        let words = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        if words.is_empty() { self.machine_id.clone() } else { words }
    }

    /// Where a byte of a disk lies, in words: "partition 2 (ext4 root)".
    #[must_use]
    pub fn place(&self, disk: usize, byte: u64) -> String {
        let volume = self.disks.get(disk).and_then(|disk| {
            disk.volumes.iter().find(|volume| (volume.start..volume.start.saturating_add(volume.len)).contains(&byte))
        });
        match volume {
            Some(Volume { partition: Some(number), kind, label: Some(label), .. }) => {
                format!("partition {number} ({kind}, {label:?})")
            }
            Some(Volume { partition: Some(number), kind, .. }) => format!("partition {number} ({kind})"),
            Some(Volume { kind, .. }) => format!("the whole disk ({kind})"),
            None => "outside of the partitions".to_owned(),
        }
    }
}
