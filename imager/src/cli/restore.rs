//! `imager restore`.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;

use super::confirm::{Overwriting, confirm};
use super::watch::Watch;
use super::{Global, count, open, parse_memory, print_json};
use crate::disk::target::{Replace, Target, TargetDisk};
use crate::error::{Error, Result};
use crate::memory::Budget;
use crate::progress::Phase;
use crate::repo::Repository;
use crate::repo::index::with_fresh_index;
use crate::repo::manifest::Manifest;
use crate::restore::{
    self, ChangedOnly, DiskTarget, OnDamage, Options, Plan, PlanSummary, Unused, WhatToWrite, check_device,
    check_different, check_file, check_partition, find_kind,
};
use crate::table::Ids;
use crate::units::{duration, size};

#[derive(Args)]
pub(super) struct Restore {
    /// Beginning of the image's id, its name, or `latest`.
    image: String,
    /// A block device or a disk-image file; for several disks `disk0=TARGET`, `disk1=TARGET` and so on; for one
    /// partition's content alone `p2=TARGET` or `disk0p2=TARGET`.
    #[arg(long = "to", required = true, value_name = "TARGET")]
    targets: Vec<String>,
    /// Only these partitions, by number.
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS")]
    only: Vec<u32>,
    /// Read the target first and write only what differs.
    #[arg(long)]
    changed_only: bool,
    /// Give the disk and its partitions new GUIDs (MBR: a new signature).
    #[arg(long)]
    new_ids: bool,
    #[command(flatten)]
    how: Overwriting,
    /// Tell the target that unused space is not needed (TRIM). [default: leave it as it is]
    #[arg(long)]
    discard: bool,
    /// Where the repository is damaged, write zeros and go on.
    #[arg(long)]
    keep_going: bool,
    /// Memory to stay within. [default: half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    memory: Option<u64>,
}

/// `disk0p2=/dev/sdb3`, understood.
#[derive(Debug, PartialEq, Eq)]
struct Destination {
    disk: Option<usize>,
    partition: Option<u32>,
    path: PathBuf,
}

/// Parses `TARGET`, `diskN=TARGET`, `pN=TARGET`, `diskNpM=TARGET`. A path with `=` in it is one if the part before
/// is none of those words.
fn parse_destination(text: &str) -> Destination {
    let plain = || Destination { disk: None, partition: None, path: text.into() };
    let Some((key, path)) = text.split_once('=') else { return plain() };
    let (disk, partition) = match key.strip_prefix("disk") {
        Some(rest) => rest.split_once('p').map_or((Some(rest), None), |(disk, part)| (Some(disk), Some(part))),
        None => (None, key.strip_prefix('p')),
    };
    let (disk, partition) = (disk.map(str::parse).transpose(), partition.map(str::parse).transpose());
    match (disk, partition) {
        (Ok(None), Ok(None)) | (Err(_), _) | (_, Err(_)) => plain(),
        (Ok(disk), Ok(partition)) => Destination { disk, partition, path: path.into() },
    }
}

pub(super) fn restore(global: &Global, args: Restore) -> Result<u8> {
    let repository = open::repository(global)?;
    let (id, manifest) = repository.find_image(&args.image)?;
    let destinations: Vec<Destination> = args.targets.iter().map(|target| parse_destination(target)).collect();
    check_destinations(&args, &destinations, &manifest)?;
    let options = Options {
        changed_only: if args.changed_only { ChangedOnly::Yes } else { ChangedOnly::No },
        unused: if args.discard { Unused::Discard } else { Unused::Leave },
        ids: if args.new_ids { Ids::New } else { Ids::Keep },
        read_back: args.how.read_back(),
        damage: if args.keep_going { OnDamage::Zeros } else { OnDamage::Stop },
        memory: args.memory.map_or_else(Budget::of_this_machine, Budget::new),
    };
    let opened: Vec<Opened> = destinations
        .into_iter()
        .map(|destination| open_target(&args, &repository, &manifest, destination))
        .collect::<Result<_>>()?;
    let watch = Watch::start(global, "restore")?;
    let plan = with_fresh_index(|| {
        let targets = opened.iter().map(Opened::disk_target).collect();
        Plan::new(&repository, &manifest, targets, &options, watch.progress())
    })?;
    let summary = plan.summary();
    if args.how.dry_run {
        drop(watch);
        print_plan(global, &summary);
        return Ok(0);
    }
    let began = Instant::now();
    let restored = restore::restore(&repository, plan, &options, watch.progress());
    let phase = watch.progress().phase();
    drop(watch);
    let mut restored = restored.map_err(|error| match phase {
        Some(Phase::Copying | Phase::Verifying | Phase::Finishing) => {
            let incomplete = "the target is incomplete and does not look bootable";
            let force = if opened.iter().any(|target| target.is_file) { "--force " } else { "" };
            match error {
                // Of the target, and it says so.
                Error::DamageFound(_) => error,
                Error::Damaged { .. } | Error::Missing { .. } => {
                    error.midway(format!("{incomplete}; --keep-going puts zeros where the repository is damaged"))
                }
                _ => error.midway(format!(
                    "{incomplete}: the same command again with {force}--changed-only goes on from there"
                )),
            }
        }
        _ => error,
    })?;
    for target in opened.iter().filter(|target| target.what.writes_table()) {
        if let Some(error) = target.disk.reread_table() {
            restored.warnings.push(format!(
                "the kernel does not read the new partition table of {} ({error}); `partprobe`, or the next start, does",
                target.disk.path().display()
            ));
        }
    }
    if args.new_ids {
        restored.warnings.push(
            "the disk has new identifiers; boot entries and /etc/fstab lines that name the old ones must be changed"
                .into(),
        );
    }
    if global.json {
        print_json(&serde_json::json!({
            "type": "restored", "image": id.to_string(), "seconds": began.elapsed().as_secs_f64(), "result": restored,
        }));
    } else {
        println!("restored {id}");
        println!(
            "{} written, {} unchanged, {} read from the repository, in {}",
            size(restored.written),
            size(restored.unchanged),
            size(restored.read),
            duration(began.elapsed()),
        );
        if restored.read_back {
            println!("read back and found equal");
        }
        for warning in &restored.warnings {
            println!("warning: {warning}");
        }
        if restored.unreadable > 0 {
            println!("warning: {} are zeros because the source could not be read there", size(restored.unreadable));
        }
        if restored.lost > 0 {
            println!(
                "warning: {} are zeros because the repository is damaged; `imager verify --read-data {id}` says where",
                size(restored.lost)
            );
        }
    }
    Ok(if restored.lost > 0 { 4 } else { 0 })
}

fn check_destinations(args: &Restore, destinations: &[Destination], manifest: &Manifest) -> Result<()> {
    let disks = manifest.disks.len();
    for destination in destinations {
        if destination.disk.is_some_and(|disk| disk >= disks) {
            return Err(Error::Usage(format!("the image has {}; the first is disk0", count(disks, "disk"))));
        }
        if destination.disk.is_none() && disks > 1 {
            let how = if destination.partition.is_some() { "disk0p2=TARGET" } else { "disk0=TARGET" };
            return Err(Error::Usage(format!("the image has {disks} disks; say which one goes there: --to {how}")));
        }
        if destination.partition.is_some() && !args.only.is_empty() {
            return Err(Error::Usage("--only and a partition in --to say the same; give one of them".into()));
        }
    }
    if !args.only.is_empty() && destinations.len() > 1 {
        return Err(Error::Usage("--only goes with one target".into()));
    }
    check_different(destinations.iter().map(|destination| &*destination.path))
}

/// A target that was checked and confirmed.
struct Opened {
    number: usize,
    what: WhatToWrite,
    disk: Arc<TargetDisk>,
    is_file: bool,
}

impl Opened {
    fn disk_target(&self) -> DiskTarget {
        let target: Arc<dyn Target> = self.disk.clone();
        DiskTarget { disk: self.number, target, what: self.what.clone() }
    }
}

fn open_target(
    args: &Restore,
    repository: &Repository,
    manifest: &Manifest,
    destination: Destination,
) -> Result<Opened> {
    let Destination { disk, partition, path } = destination;
    let number = disk.unwrap_or(0);
    let image = manifest.disks.get(number).ok_or_else(|| Error::Usage(format!("the image has no disk {number}")))?;
    let only: Vec<u32> = partition.map_or_else(|| args.only.clone(), |partition| vec![partition]);
    let is_device = std::fs::metadata(&path).is_ok_and(|metadata| metadata.file_type().is_block_device());
    only.iter().try_for_each(|&number| check_partition(image, number))?;
    let place = partition.and_then(|number| image.table.partitions.iter().find(|p| p.number == number));
    let disk = if is_device {
        let identity = check_device(&path, repository.store().local_directory().as_deref())?;
        if !args.how.dry_run {
            confirm(&args.how.confirm, &identity)?;
        }
        TargetDisk::open_device(&path)?
    } else {
        check_file(&path, repository.store().local_directory().as_deref())?;
        let size = place.map_or(image.size, |place| place.len);
        open_file(args, &path, size, partition.is_none() && !only.is_empty())?
    };
    let what = match partition {
        Some(partition) => WhatToWrite::OnePartitionAlone(partition),
        None if only.is_empty() => WhatToWrite::All,
        None => find_kind(image, &only, &disk, Target::identity(&disk))?,
    };
    Ok(Opened { number, what, disk: Arc::new(disk), is_file: !is_device })
}

/// A file is changed in place when that is what was asked for; otherwise it is made anew, no smaller than it was.
fn open_file(args: &Restore, path: &Path, size: u64, some_partitions: bool) -> Result<TargetDisk> {
    let len = std::fs::metadata(path).map(|metadata| metadata.len());
    match len {
        Ok(_) if args.how.force && (args.changed_only || some_partitions) => TargetDisk::file_in_place(path, size),
        Ok(len) if args.how.force => TargetDisk::new_file(path, size.max(len), Replace::Yes),
        _ => TargetDisk::new_file(path, size, Replace::No),
    }
}

fn print_plan(global: &Global, summary: &PlanSummary) {
    if global.json {
        print_json(&serde_json::json!({ "type": "plan", "plan": summary }));
        return;
    }
    for disk in &summary.disks {
        let numbers = |numbers: &Vec<u32>| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let which = match &disk.partitions {
            None => "everything".to_owned(),
            Some(chosen) if disk.writes_table => {
                format!("the partition table, what lies outside of partitions, and of these {}", numbers(chosen))
            }
            Some(chosen) => format!("partition {}", numbers(chosen)),
        };
        println!("disk {} to {} ({}): {which}", disk.disk, disk.target.display(), size(disk.target_size));
        println!("  {} of data, {} of zeros", size(disk.data), size(disk.zeros));
        if disk.discard > 0 {
            println!("  {} discarded first", size(disk.discard));
        }
        if disk.unreadable > 0 {
            println!("  {} of zeros where the source could not be read", size(disk.unreadable));
        }
        for patch in &disk.patches {
            println!("  partition table: {} at byte {} changed to fit", size(patch.len), patch.start);
        }
    }
    println!("{} are read from the repository. Nothing was written.", size(summary.read));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_parse() {
        for (text, disk, partition, path) in [
            ("/dev/sda", None, None, "/dev/sda"),
            ("disk2=/dev/sda", Some(2), None, "/dev/sda"),
            ("p3=/dev/sda1", None, Some(3), "/dev/sda1"),
            ("disk1p3=a=b", Some(1), Some(3), "a=b"),
            ("/tmp/a=b", None, None, "/tmp/a=b"),
            ("disk.img", None, None, "disk.img"),
            ("diskette=x", None, None, "diskette=x"),
            ("prefix=x", None, None, "prefix=x"),
        ] {
            assert_eq!(parse_destination(text), Destination { disk, partition, path: path.into() }, "{text}");
        }
    }
}
