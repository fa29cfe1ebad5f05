//! `imager restore`.

use std::io::{IsTerminal, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;

use super::watch::Watch;
use super::{Global, open, parse_size, print_json};
use crate::disk::identity::Identity;
use crate::disk::target::{Replace, Target, TargetDisk};
use crate::error::{Error, Result};
use crate::memory::Budget;
use crate::repo::Repository;
use crate::repo::index::with_fresh_index;
use crate::repo::manifest::Manifest;
use crate::restore::{
    self, ChangedOnly, DiskTarget, OnDamage, Options, Plan, PlanSummary, ReadBack, Unused, WhatToWrite, check_device,
    find_kind,
};
use crate::table::Ids;
use crate::units::{duration, size};

#[derive(Args)]
pub(super) struct Restore {
    /// Beginning of the image's id, its name, or `latest`.
    image: String,
    /// A block device or a disk-image file; for several disks `disk0=TARGET`, `disk1=TARGET` …; for one
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
    /// Read everything back.
    #[arg(long)]
    verify: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Serial number of the block device to overwrite (its path, if it has none); once for each.
    #[arg(long, value_name = "SERIAL")]
    confirm: Vec<String>,
    /// Overwrite a file that exists.
    #[arg(long)]
    force: bool,
    /// Tell the target that unused space is not needed (TRIM). [default: leave it as it is]
    #[arg(long)]
    discard: bool,
    /// Where the repository is damaged, write zeros and go on.
    #[arg(long)]
    keep_going: bool,
    /// Memory to stay within. [default: half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
}

/// `disk0p2=/dev/sdb3`, understood.
#[derive(Debug, PartialEq, Eq)]
struct Destination {
    disk: usize,
    partition: Option<u32>,
    path: PathBuf,
}

/// Parses `TARGET`, `diskN=TARGET`, `pN=TARGET`, `diskNpM=TARGET`. A path with `=` in it is one if the part before
/// is none of those words.
fn parse_destination(text: &str) -> Destination {
    let plain = || Destination { disk: 0, partition: None, path: text.into() };
    let Some((key, path)) = text.split_once('=') else { return plain() };
    let (disk, partition) = match (key.strip_prefix("disk"), key.strip_prefix('p')) {
        (Some(rest), _) => match rest.split_once('p') {
            Some((disk, partition)) => (disk.parse().ok(), Some(partition)),
            None => (rest.parse().ok(), None),
        },
        (None, Some(partition)) => (Some(0), Some(partition)),
        (None, None) => return plain(),
    };
    match (disk, partition.map(str::parse)) {
        (Some(disk), None) => Destination { disk, partition: None, path: path.into() },
        (Some(disk), Some(Ok(partition))) => Destination { disk, partition: Some(partition), path: path.into() },
        _ => plain(),
    }
}

pub(super) fn restore(global: &Global, args: Restore) -> Result<u8> {
    let repository = open::repository(global)?;
    let (id, manifest) = repository.find_image(&args.image)?;
    let destinations: Vec<Destination> = args.targets.iter().map(|target| parse_destination(target)).collect();
    check_destinations(&args.targets, &destinations, &manifest)?;
    let options = Options {
        changed_only: if args.changed_only { ChangedOnly::Yes } else { ChangedOnly::No },
        unused: if args.discard { Unused::Discard } else { Unused::Leave },
        ids: if args.new_ids { Ids::New } else { Ids::Keep },
        read_back: if args.verify { ReadBack::Yes } else { ReadBack::No },
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
    if args.dry_run {
        drop(watch);
        print_plan(global, &summary);
        return Ok(0);
    }
    let began = Instant::now();
    let restored = restore::restore(&repository, plan, &options, watch.progress());
    drop(watch);
    let mut restored = restored?;
    for target in &opened {
        if let Some(error) = target.disk.as_ref().and_then(|disk| disk.reread_table()) {
            let path = target.disk.as_ref().map(|disk| disk.path()).unwrap_or_default();
            restored
                .warnings
                .push(format!("the kernel does not read the new partition table of {}: {error}", path.display()));
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
        println!(
            "restored {id}: {} written, {} unchanged, {} read from the repository, in {}{}",
            size(restored.written),
            size(restored.unchanged),
            size(restored.read),
            duration(began.elapsed()),
            if restored.read_back { "; read back and found equal" } else { "" },
        );
        for warning in &restored.warnings {
            println!("warning: {warning}");
        }
        if restored.unreadable > 0 {
            println!("warning: {} are zeros because the source could not be read there", size(restored.unreadable));
        }
        if restored.lost > 0 {
            println!(
                "warning: {} are zeros because the repository is damaged; `imager verify {id}` says where",
                size(restored.lost)
            );
        }
    }
    Ok(if restored.lost > 0 { 4 } else { 0 })
}

fn check_destinations(targets: &[String], destinations: &[Destination], manifest: &Manifest) -> Result<()> {
    for (number, destination) in destinations.iter().enumerate() {
        if destination.disk >= manifest.disks.len() {
            return Err(Error::Usage(format!("the image has {} disks, the first is disk0", manifest.disks.len())));
        }
        let earlier = destinations.get(..number).unwrap_or_default();
        if earlier.iter().any(|other| other.path == destination.path) {
            return Err(Error::Usage(format!("{} is named twice", destination.path.display())));
        }
    }
    let named = |text: &String| text.starts_with("disk") || text.starts_with('p');
    if manifest.disks.len() > 1 && !targets.iter().all(named) {
        return Err(Error::Usage(format!(
            "the image has {} disks; say which goes where: --to disk0=TARGET",
            manifest.disks.len()
        )));
    }
    Ok(())
}

/// A target that was checked and confirmed.
struct Opened {
    number: usize,
    what: WhatToWrite,
    target: Arc<dyn Target>,
    disk: Option<Arc<TargetDisk>>,
}

impl Opened {
    fn disk_target(&self) -> DiskTarget {
        DiskTarget { disk: self.number, target: Arc::clone(&self.target), what: self.what.clone() }
    }
}

fn open_target(
    args: &Restore,
    repository: &Repository,
    manifest: &Manifest,
    destination: Destination,
) -> Result<Opened> {
    let Destination { disk: number, partition, path } = destination;
    let image = manifest.disks.get(number).ok_or_else(|| Error::Usage(format!("the image has no disk {number}")))?;
    let only: Vec<u32> = partition.map_or_else(|| args.only.clone(), |partition| vec![partition]);
    let is_device = std::fs::metadata(&path).is_ok_and(|metadata| metadata.file_type().is_block_device());
    let needed = match partition {
        Some(partition) => image.table.partitions.iter().find(|p| p.number == partition).map(|p| p.len),
        None => Some(image.size),
    };
    let needed = needed.ok_or_else(|| Error::Usage("the disk in the image has no such partition".into()))?;
    let disk = if is_device {
        let identity = check_device(&path, repository.store())?;
        if !args.dry_run {
            confirm(args, &identity)?;
        }
        TargetDisk::open_device(&path)?
    } else {
        open_file(args, &path, needed, partition.is_none() && !only.is_empty())?
    };
    let what = match partition {
        Some(partition) => WhatToWrite::OnePartitionAlone(partition),
        None if only.is_empty() => WhatToWrite::All,
        None => find_kind(image, &only, &disk, Target::identity(&disk))?,
    };
    let disk = Arc::new(disk);
    let target: Arc<dyn Target> = disk.clone();
    Ok(Opened { number, what, target, disk: Some(disk) })
}

/// A file is changed in place when that is what was asked for; otherwise it is made anew.
fn open_file(args: &Restore, path: &Path, size: u64, some_partitions: bool) -> Result<TargetDisk> {
    let exists = path.exists();
    if exists && !args.force {
        return Err(Error::refused(path, "the file exists; --force overwrites it"));
    }
    if args.dry_run {
        // Nothing may be left behind: an unnamed file stands in for one that is not there.
        return if exists { TargetDisk::open_file_read_only(path) } else { TargetDisk::stand_in(path, size) };
    }
    if exists && (args.changed_only || some_partitions) {
        return TargetDisk::open_file(path, size);
    }
    TargetDisk::create_file(path, size, if args.force { Replace::Yes } else { Replace::No })
}

/// Makes sure that this is the disk that is meant.
fn confirm(args: &Restore, identity: &Identity) -> Result<()> {
    let name = identity.serial.clone().unwrap_or_else(|| identity.path.display().to_string());
    if args.confirm.contains(&name) {
        return Ok(());
    }
    let what = if identity.serial.is_some() { "serial number" } else { "path" };
    if !args.confirm.is_empty() || !std::io::stdin().is_terminal() {
        return Err(Error::refused(
            &identity.path,
            format!("it is {identity}, {}; to overwrite it, give its {what}: --confirm {name}", size(identity.size)),
        ));
    }
    eprintln!("{} will be overwritten: {identity}, {}", identity.path.display(), size(identity.size));
    eprint!("Type its {what} to go on: ");
    let _ = std::io::stderr().flush();
    let mut typed = String::new();
    std::io::stdin().read_line(&mut typed).map_err(Error::io("read from", "the terminal"))?;
    if typed.trim() == name { Ok(()) } else { Err(Error::refused(&identity.path, format!("that is not its {what}"))) }
}

fn print_plan(global: &Global, summary: &PlanSummary) {
    if global.json {
        print_json(&serde_json::json!({ "type": "plan", "plan": summary }));
        return;
    }
    for disk in &summary.disks {
        let which = disk.partitions.as_ref().map_or_else(
            || "everything".to_owned(),
            |numbers| format!("partitions {}", numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
        );
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
        let expected = |disk, partition, path: &str| Destination { disk, partition, path: path.into() };
        assert_eq!(parse_destination("/dev/sda"), expected(0, None, "/dev/sda"));
        assert_eq!(parse_destination("disk2=/dev/sda"), expected(2, None, "/dev/sda"));
        assert_eq!(parse_destination("p3=/dev/sda1"), expected(0, Some(3), "/dev/sda1"));
        assert_eq!(parse_destination("disk1p3=a=b"), expected(1, Some(3), "a=b"));
        assert_eq!(parse_destination("/tmp/a=b"), expected(0, None, "/tmp/a=b"));
        assert_eq!(parse_destination("prefix=x"), expected(0, None, "prefix=x"));
    }
}
