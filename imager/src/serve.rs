//! An image's disks and partitions as NBD exports.
//!
//! `disk0`, `disk1` and so on, and the partitions as `disk0p1`. Must not know: terminals.

#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::clone::backing::export_name;
use crate::error::Result;
use crate::extent::Extent;
use crate::image_disk::{Allocation, ImageDisk, ReadAhead, Shelf};
use crate::nbd::{self, Export};
use crate::repo::manifest::{ImageId, Manifest};
use crate::table::Role;

/// A disk, or a part of one.
struct Part {
    disk: Arc<ImageDisk>,
    place: Extent,
    description: String,
    ahead: Option<Arc<ReadAhead>>,
}

/// Every disk and partition of an image, by name; the first disk is the first.
#[must_use]
pub fn exports(shelf: &Arc<Shelf>, manifest: &Manifest) -> Vec<(String, Arc<dyn Export>)> {
    let mut exports: Vec<(String, Arc<dyn Export>)> = Vec::new();
    let ahead = ReadAhead::start();
    let when = manifest.created.strftime("%Y-%m-%d %H:%M");
    let machine = manifest.machine.hostname.as_deref().unwrap_or("a machine");
    for (number, (image, disk)) in manifest.disks.iter().zip(ImageDisk::all_of(shelf, manifest)).enumerate() {
        let disk = Arc::new(disk);
        let mut add = |name: String, place: Extent, what: String| {
            let description = format!("{what} of {machine}, {when}");
            let part = Part { disk: Arc::clone(&disk), place, description, ahead: ahead.clone() };
            exports.push((name, Arc::new(part)));
        };
        add(format!("disk{number}"), Extent::new(0, disk.size()), image.identity.to_string());
        for partition in image.table.partitions.iter().filter(|partition| partition.role != Role::Extended) {
            let place = partition.extent().intersection(Extent::new(0, disk.size()));
            if !place.is_empty() {
                add(format!("disk{number}p{}", partition.number), place, format!("partition {}", partition.number));
            }
        }
    }
    // The disks come first: a client that asks for no name gets one.
    exports.sort_by_key(|(name, _)| name.contains('p'));
    exports
}

/// The disks of the image `id` under the names that its linked clones look for, and then those of [`exports`].
#[must_use]
pub fn exports_for_clones(shelf: &Arc<Shelf>, id: ImageId, manifest: &Manifest) -> Vec<(String, Arc<dyn Export>)> {
    let plain = exports(shelf, manifest);
    let disks = plain.iter().take(manifest.disks.len()).enumerate();
    let named = disks.map(|(number, (_, disk))| (export_name(id, number), Arc::clone(disk)));
    named.collect::<Vec<_>>().into_iter().chain(plain).collect()
}

impl Part {
    fn on_disk(&self, place: Extent) -> Extent {
        Extent::new(self.place.start.saturating_add(place.start), place.len)
    }
}

impl Export for Part {
    fn size(&self) -> u64 {
        self.place.len
    }

    fn sector_size(&self) -> u32 {
        self.disk.sector_size()
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn read(&self, place: Extent) -> Result<Vec<nbd::Part>> {
        let place = self.on_disk(place);
        if let Some(ahead) = &self.ahead {
            ahead.note(&self.disk, place);
        }
        let parts = self.disk.parts(place)?;
        Ok(parts.into_iter().map(|(part, bytes)| bytes.map_or(nbd::Part::Zeros(part.len), nbd::Part::Bytes)).collect())
    }

    fn fetch(&self, place: Extent) {
        if let Some(ahead) = &self.ahead {
            ahead.fetch(&self.disk, self.on_disk(place));
        }
    }

    fn allocation(&self, wanted: Extent) -> Result<Vec<(Extent, Allocation)>> {
        let runs = self.disk.allocation(self.on_disk(wanted))?;
        Ok(runs.into_iter().map(|(run, what)| (Extent::new(run.start - self.place.start, run.len), what)).collect())
    }
}
