//! The manifest: what an image is an image of. JSON, sealed like every small object.
//!
//! Fields are only ever added; a reader ignores those that it does not know.

#![forbid(unsafe_code)]

use std::collections::HashSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Repository;
use super::block_map::Root;
use super::config::{Hex, from_json};
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
    /// When the capture began; of an imported image, when its disks were as they are.
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
    #[serde(default, deserialize_with = "null_is_empty")]
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
    #[serde(default, deserialize_with = "null_is_empty")]
    pub notes: Vec<Note>,
    /// Files whose content was left out on request.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// What may be absent may be null, too.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
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
        Manifest::from_json(&name, &self.read_object(Kind::Image, &name)?)
    }

    /// Removes an image. What only it needed stays until the next prune.
    ///
    /// # Errors
    /// What the store says.
    pub fn forget_image(&self, id: ImageId) -> Result<()> {
        self.store().delete(&object_name(id))?;
        self.store().flush_deletes(Kind::Image.folder())?;
        // What was kept of it. Should this be cut off, a prune does it.
        self.remove_proof(id)
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

/// The id of the image that the object `name` is.
#[must_use]
pub fn image_id(name: &str) -> Option<ImageId> {
    name.strip_prefix(Kind::Image.folder())?.strip_prefix('/')?.parse().ok()
}

/// Bytes that the disks of an image have together, at most: no position overflows.
pub const DISK_BYTES_MAX: u64 = i64::MAX.cast_unsigned();

impl Manifest {
    /// Parses and checks the payload of the image object `name`.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::NewerFormat`].
    pub fn from_json(name: &str, payload: &[u8]) -> Result<Self> {
        let manifest: Self = from_json(name, payload)?;
        manifest.check().map_err(|what| Error::damaged(name, 0, what))?;
        Ok(manifest)
    }

    /// Regions are ascending, disjoint and within their disk and their partition.
    pub(super) fn check(&self) -> Result<(), String> {
        let total = self.disks.iter().try_fold(0u64, |sum, disk| sum.checked_add(disk.size));
        if total.is_none_or(|total| total > DISK_BYTES_MAX) {
            return Err("its disks are larger than disks can be".to_owned());
        }
        for (number, disk) in self.disks.iter().enumerate() {
            let mut at = 0;
            for region in &disk.regions {
                let place = Extent::new(region.start, region.len);
                if region.start < at || region.start.checked_add(region.len).is_none_or(|end| end > disk.size) {
                    return Err(format!("disk {number} has a region outside of its place at byte {}", region.start));
                }
                at = place.end();
                // Whoever restores one partition must not be made to write another.
                let partition = region.partition.map(|n| disk.table.partitions.iter().find(|p| p.number == n));
                if partition.is_some_and(|p| p.is_none_or(|p| p.extent().intersection(place) != place)) {
                    return Err(format!(
                        "disk {number} has a region outside of its partition at byte {}",
                        region.start
                    ));
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// One disk of 100 MiB with two partitions, as a capture writes it.
    fn sample() -> Value {
        let region = |start: u64, len: u64, partition: Option<u32>| {
            let root = json!({ "id": "ab".repeat(32), "height": u32::from(len > 16 << 20) });
            json!({ "start": start << 20, "len": len << 20, "partition": partition, "root": root })
        };
        let partition = |number: u32, start: u64, len: u64| {
            json!({
                "number": number, "start": start << 20, "len": len << 20, "role": "primary", "type_id": "0x83",
                "type_name": "Linux", "id": null, "name": null, "attributes": 0, "bootable": false
            })
        };
        json!({
            "version": 1, "tool": "test", "created": "2026-01-02T03:04:05Z", "finished": "2026-01-02T03:05:00Z",
            "machine_id": "unknown", "machine": { "firmware": "bios", "memory": 0, "cpus": 1, "nics": [] },
            "disks": [{
                "identity": {
                    "path": "/dev/sda", "size": 100 << 20, "logical_sector": 512, "physical_sector": 512,
                    "removable": false, "read_only": false
                },
                "size": 100 << 20, "sector_size": 512, "all_sectors": false, "volumes": [], "unreadable": [],
                "table": {
                    "kind": "mbr", "sector_size": 512, "disk_id": null, "warnings": [],
                    "structures": [{ "start": 0, "len": 512 }],
                    "partitions": [partition(1, 1, 9), partition(2, 10, 90)]
                },
                "regions": [region(0, 1, None), region(1, 9, Some(1)), region(10, 90, Some(2))],
            }],
            "stats": { "read": 0, "zero": 0, "known": 0, "new": 0, "stored": 0, "chunks": 0, "new_chunks": 0 },
        })
    }

    fn parse(manifest: &Value) -> Result<Manifest> {
        Manifest::from_json("images/test", manifest.to_string().as_bytes())
    }

    #[test]
    fn fields_that_may_be_absent_may_and_unknown_ones_too() {
        let mut manifest = sample();
        assert_eq!(parse(&manifest).unwrap().disks[0].regions.len(), 3);
        manifest["from_the_future"] = json!({ "deep": [1, 2, 3] });
        manifest["disks"][0]["regions"][1].as_object_mut().unwrap().remove("root");
        assert_eq!(parse(&manifest).unwrap().disks[0].regions[1].root, None);
    }

    #[test]
    fn a_remark_of_a_kind_of_tomorrow_is_read_and_kept() {
        let mut manifest = sample();
        let notes = json!([
            { "kind": "of_tomorrow", "detail": "what is not known today", "weight": [1, u64::MAX] },
            { "kind": "read_whole", "reason": "no map" },
            { "kind": "bare" },
        ]);
        let volume = json!({
            "partition": 1, "start": 1 << 20, "len": 9 << 20, "kind": "fs_of_tomorrow", "block_size": 4096, "used": 1,
            "notes": notes,
        });
        manifest["disks"][0]["volumes"] = json!([volume]);
        let found = parse(&manifest).unwrap();
        let found_notes = &found.disks[0].volumes[0].notes;
        assert!(matches!(&found_notes[0], Note::Unknown { kind, .. } if kind == "of_tomorrow"), "{found_notes:?}");
        assert_eq!(found_notes[1], Note::ReadWhole { reason: "no map".into() });
        assert_eq!(json!(found)["disks"][0]["volumes"][0]["notes"], notes);
        manifest["disks"][0]["volumes"][0]["notes"] = json!([{ "detail": "no kind at all" }]);
        assert!(matches!(parse(&manifest), Err(Error::Damaged { .. })));
    }

    #[test]
    fn a_list_that_may_be_absent_may_be_null() {
        let mut manifest = sample();
        let volume = json!({
            "start": 0, "len": 1, "kind": "ext4", "block_size": 4096, "used": 1, "notes": null, "left_out": null,
        });
        manifest["disks"][0]["warnings"] = Value::Null;
        manifest["disks"][0]["volumes"] = json!([volume]);
        assert!(parse(&manifest).unwrap().disks[0].volumes[0].notes.is_empty());
    }

    #[test]
    fn a_newer_version_is_not_damage() {
        let mut manifest = json!({ "version": 2, "nothing": "else is known" });
        assert!(matches!(parse(&manifest), Err(Error::NewerFormat { found: 2, known: 1, .. })));
        manifest["version"] = json!(1);
        assert!(matches!(parse(&manifest), Err(Error::Damaged { .. })));
    }

    #[test]
    fn regions_out_of_place_are_refused() {
        let refused = |pointer: &str, value: Value| {
            let mut manifest = sample();
            *manifest.pointer_mut(pointer).unwrap() = value;
            match parse(&manifest) {
                Err(Error::Damaged { what, .. }) => what,
                other => panic!("{pointer}: {:?}", other.map(|manifest| manifest.disks[0].regions.clone())),
            }
        };
        let mib = 1u64 << 20;
        for (pointer, value) in [
            ("/disks/0/regions/2/len", 91 * mib),
            ("/disks/0/regions/2/len", u64::MAX),
            ("/disks/0/regions/1/start", mib - 1),
            ("/disks/0/regions/2/start", 9 * mib),
        ] {
            let what = refused(pointer, json!(value));
            assert!(what.contains("outside of its place"), "{pointer}: {what}");
        }
        // What is said to be partition 1 lies on partition 2: restoring 1 alone would overwrite 2.
        assert!(refused("/disks/0/regions/2/partition", json!(1)).contains("outside of its partition"));
        assert!(refused("/disks/0/regions/0/partition", json!(2)).contains("outside of its partition"));
        assert!(refused("/disks/0/regions/1/partition", json!(7)).contains("outside of its partition"));
        assert!(refused("/disks/0/size", json!(u64::MAX)).contains("larger than disks can be"));
        let mut two = sample();
        two["disks"] = json!([two["disks"][0], two["disks"][0]]);
        for disk in [0, 1] {
            two["disks"][disk]["size"] = json!(DISK_BYTES_MAX / 2 + 1);
        }
        assert!(matches!(parse(&two), Err(Error::Damaged { .. })));
    }

    proptest! {
        #[test]
        fn changed_json_is_a_manifest_or_an_error(
            changes in proptest::collection::vec((0usize..2600, "[-0-9a-z\"{}\\[\\],:.]"), 1..4),
        ) {
            let mut text = sample().to_string();
            for (at, what) in changes {
                if at < text.len() {
                    text.replace_range(at..=at, &what);
                }
            }
            if let Ok(manifest) = Manifest::from_json("images/test", text.as_bytes()) {
                prop_assert!(manifest.check().is_ok());
                let _ = (manifest.machine_words(), manifest.place(0, 5 << 20), manifest.place(9, u64::MAX));
            }
        }
    }
}
