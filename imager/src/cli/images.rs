//! `imager images`, `show`, `diff` and `forget`.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::draw::{Drawing, DrawnVolume, bar, partitions, plain, table};
use super::prove::write_report;
use super::{Global, count, open, print_json};
use crate::error::{Error, Result};
use crate::prove::report;
use crate::repo::Repository;
use crate::repo::clones::CloneId;
use crate::repo::index::with_fresh_index;
use crate::repo::manifest::{DiskImage, ImageId, Manifest};
use crate::retention::Policy;
use crate::units::size;

/// Unreadable places that `show` lists.
const UNREADABLE_SHOWN: usize = 20;

#[derive(Args)]
pub(super) struct Forget {
    /// Images to remove, by beginning of id, name, or `latest`.
    images: Vec<String>,
    /// Of each machine, keep the newest N images.
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_last: usize,
    /// Of each machine, keep the newest image of each of N days.
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_daily: usize,
    /// Of each machine, keep the newest image of each of N weeks.
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_weekly: usize,
    /// Of each machine, keep the newest image of each of N months.
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_monthly: usize,
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
}

/// Local time, to the minute.
pub(super) fn when(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
}

/// Local time, the day.
fn date(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d").to_string()
}

/// Enough of an id to tell images apart.
pub(super) fn short_id(id: ImageId) -> String {
    id.to_string().chars().take(8).collect()
}

pub(super) fn images(global: &Global) -> Result<u8> {
    let repository = open::repository(global)?;
    let (images, damaged) = repository.images()?;
    let proofs = repository.proofs()?;
    if global.json {
        for (id, manifest) in &images {
            let proof = proofs.get(id).map(|proof| report::json(*id, proof));
            print_json(&image_json(*id, manifest, proof));
        }
    } else if images.is_empty() {
        println!("no images yet; `imager capture DISK` makes one");
    } else {
        let heading = ["Image", "When", "Name", "Machine", "Size", "In use", "Added", "Proved"];
        let mut rows = vec![heading.map(str::to_owned)];
        rows.extend(images.iter().map(|(id, manifest)| {
            [
                short_id(*id),
                when(manifest.created),
                manifest.name.clone().unwrap_or_default(),
                manifest.machine.hostname.clone().unwrap_or_else(|| manifest.machine_words()),
                size(manifest.disks.iter().map(|disk| disk.size).sum()),
                size(manifest.stats.read),
                size(manifest.stats.stored),
                match proofs.get(id) {
                    Some(proof) if proof.proved => date(proof.when),
                    Some(_) => "FAILED".into(),
                    None => String::new(),
                },
            ]
        }));
        if proofs.is_empty() {
            // Nobody proves here: the room is for names.
            let shorter = rows
                .into_iter()
                .map(|[id, when, name, machine, size, used, added, _]| [id, when, name, machine, size, used, added]);
            print!("{}", table(&shorter.collect::<Vec<_>>()));
        } else {
            print!("{}", table(&rows));
        }
    }
    for (_, error) in &damaged {
        eprintln!("imager: {error}");
    }
    Ok(if damaged.is_empty() { 0 } else { 4 })
}

/// A captured disk as the drawings want it.
fn drawing(disk: &DiskImage) -> Drawing<'_> {
    let volumes = disk.volumes.iter().map(|volume| DrawnVolume {
        partition: volume.partition,
        start: volume.start,
        len: volume.len,
        kind: &volume.kind,
        label: volume.label.as_deref(),
        used: volume.used,
        notes: &volume.notes,
    });
    Drawing { size: disk.size, table: &disk.table, volumes: volumes.collect() }
}

/// An image as a line of JSON.
fn image_json(id: ImageId, manifest: &Manifest, proof: Option<serde_json::Value>) -> serde_json::Value {
    let mut line = serde_json::json!({ "type": "image", "id": id.to_string(), "manifest": manifest });
    if let (Some(fields), Some(proof)) = (line.as_object_mut(), proof) {
        fields.insert("proof".to_owned(), proof);
    }
    line
}

pub(super) fn show(global: &Global, image: &str, folder: Option<&PathBuf>) -> Result<u8> {
    let repository = open::repository(global)?;
    let (id, manifest) = repository.find_image(image)?;
    let written = folder.map(|folder| write_report(&repository, id, &manifest, folder.as_path())).transpose()?;
    let proof = match repository.proof(id) {
        // It can be made again.
        Err(error @ (Error::Damaged { .. } | Error::NewerFormat { .. })) => {
            eprintln!("imager: {error}");
            None
        }
        other => other?,
    };
    if global.json {
        print_json(&image_json(id, &manifest, proof.map(|proof| report::json(id, &proof))));
        return Ok(0);
    }
    println!("image    {id}");
    for (title, text) in [("name", &manifest.name), ("note", &manifest.note)] {
        if let Some(text) = text {
            println!("{title:<8} {}", plain(text));
        }
    }
    println!("taken    {} by {}", when(manifest.created), manifest.tool);
    println!("machine  {}", plain(&manifest.machine_words()));
    if let Some(proof) = &proof {
        let verdict = if proof.proved { "proved  " } else { "FAILED  " };
        println!("{verdict} {}: {}", date(proof.when), plain(&report::words(proof)));
    }
    for file in written.iter().flatten() {
        println!("report   {}", file.display());
    }
    for (clone, record) in repository.clones()?.of_image(id) {
        println!("clone    {}: {}", clone.to_string().get(..8).unwrap_or_default(), plain(&record.place()));
    }
    let stats = manifest.stats;
    println!("cost     {} in use, {} new, stored as {}", size(stats.read), size(stats.new), size(stats.stored));
    for (number, disk) in manifest.disks.iter().enumerate() {
        let all = if disk.all_sectors { ", every sector" } else { "" };
        let name = plain(&disk.identity.to_string());
        println!("\ndisk {number}: {name}: {}, sectors of {} bytes{all}", size(disk.size), disk.sector_size);
        println!("{}", bar(&drawing(disk)));
        print!("{}", partitions(&drawing(disk)));
        for volume in disk.volumes.iter().filter(|volume| !volume.left_out.is_empty()) {
            println!("  {}: left out: {}", manifest.place(number, volume.start), plain(&volume.left_out.join(", ")));
        }
        for warning in &disk.warnings {
            println!("  warning: {}", plain(warning));
        }
        for extent in disk.unreadable.iter().take(UNREADABLE_SHOWN) {
            let place = manifest.place(number, extent.start);
            println!("  unreadable: {} at byte {}, {place}", size(extent.len), extent.start);
        }
        if disk.unreadable.len() > UNREADABLE_SHOWN {
            println!("  ... and {} more places (--json has all)", disk.unreadable.len() - UNREADABLE_SHOWN);
        }
    }
    Ok(0)
}

pub(super) fn diff(global: &Global, old: &str, new: &str) -> Result<u8> {
    let repository = open::repository(global)?;
    let ((_, old), (_, new)) = (repository.find_image(old)?, repository.find_image(new)?);
    let disks = with_fresh_index(|| crate::diff::diff(&repository, &old, &new))?;
    if global.json {
        print_json(&serde_json::json!({ "type": "diff", "disks": disks }));
        return Ok(0);
    }
    for disk in &disks {
        match disk.numbers {
            (None, _) => println!("{}: only in the newer image", disk.disk),
            (_, None) => println!("{}: only in the older image", disk.disk),
            _ if disk.same_table => println!("{}:", disk.disk),
            _ => println!("{}: the partition table differs", disk.disk),
        }
        let mut rows = vec![["Part", "Changed", "Added", "Removed", "In use"].map(str::to_owned)];
        rows.extend(disk.parts.iter().map(|part| {
            [part.place.clone(), size(part.changed), size(part.added), size(part.removed), size(part.used)]
        }));
        print!("{}", table(&rows));
    }
    Ok(0)
}

/// Takes images out of `forgotten` that linked clones need, with one of the clones of each. What was named rather than
/// found by a rule is not passed over in silence.
///
/// # Errors
/// [`Error::Busy`] for a named image; damage that keeps what a clone needs from being known.
fn keep_what_clones_need(
    repository: &Repository,
    forgotten: &mut Vec<(ImageId, Manifest)>,
    policy: Policy,
) -> Result<Vec<(ImageId, CloneId)>> {
    let clones = repository.clones()?;
    if let Some((id, error)) = clones.unreadable.into_iter().next() {
        return Err(error.midway(format!(
            "nobody knows which image that linked clone needs, so none is forgotten; if the clone is not needed, `imager clone --release {id}`"
        )));
    }
    let mut kept = Vec::new();
    for (image, _) in forgotten.iter() {
        let Some((id, record)) = clones.found.iter().find(|(_, record)| record.image == *image) else { continue };
        if policy.is_empty() {
            return Err(Error::Busy(format!(
                "the image {} is needed by the linked clone {id}, {}: nothing was forgotten. `imager clone --release {id}` lets it go, and that clone can then not be started any more",
                short_id(*image),
                plain(&record.place())
            )));
        }
        kept.push((*image, *id));
    }
    forgotten.retain(|(image, _)| !kept.iter().any(|(id, _)| id == image));
    Ok(kept)
}

pub(super) fn forget(global: &Global, args: &Forget) -> Result<u8> {
    let policy =
        Policy { last: args.keep_last, daily: args.keep_daily, weekly: args.keep_weekly, monthly: args.keep_monthly };
    if args.images.is_empty() == policy.is_empty() {
        return Err(Error::Usage(
            "name images to forget, or give rules for what to keep (--keep-last N and the like), not both".into(),
        ));
    }
    let repository = open::repository(global)?;
    let mut forgotten: Vec<(ImageId, Manifest)> = Vec::new();
    for words in &args.images {
        let found = repository.find_image(words)?;
        if !forgotten.iter().any(|(id, _)| *id == found.0) {
            forgotten.push(found);
        }
    }
    if !policy.is_empty() {
        let (images, damaged) = repository.images()?;
        if let Some((_, error)) = damaged.into_iter().next() {
            return Err(error);
        }
        let facts: Vec<_> =
            images.iter().map(|(id, manifest)| (manifest.machine_id.clone(), *id, manifest.created)).collect();
        let ids = policy.forgets(&facts, &TimeZone::system());
        forgotten.extend(images.into_iter().filter(|(id, _)| ids.contains(id)));
    }
    let kept = keep_what_clones_need(&repository, &mut forgotten, policy)?;
    for (id, clone) in &kept {
        if global.json {
            print_json(&serde_json::json!({ "type": "kept", "image": id.to_string(), "clone": clone.to_string() }));
        } else {
            println!("kept {}: the linked clone {clone} needs it (`imager clone --list`)", short_id(*id));
        }
    }
    for (id, manifest) in &forgotten {
        if !args.dry_run {
            repository.forget_image(*id)?;
        }
        if global.json {
            print_json(&serde_json::json!({ "type": "forgotten", "image": id.to_string(), "dry_run": args.dry_run }));
        } else {
            let verb = if args.dry_run { "would forget" } else { "forgot" };
            println!(
                "{verb} {}  {}  {}",
                short_id(*id),
                when(manifest.created),
                plain(manifest.name.as_deref().unwrap_or_default())
            );
        }
    }
    if !global.json {
        let verb = if args.dry_run { "would be forgotten" } else { "forgotten; `imager prune` frees the space" };
        println!("{} {verb}", count(forgotten.len(), "image"));
    }
    Ok(0)
}
