//! `imager copy` and `imager make-stick`: one disk onto another.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;

use super::capture::{OpenedSources, open_sources};
use super::confirm::confirm;
use super::watch::Watch;
use super::{Global, print_json};
use crate::copy::{self, Options, Plan};
use crate::disk::source::Source;
use crate::disk::target::{Replace, Target, TargetDisk};
use crate::error::{Error, Result};
use crate::layout::Wanted;
use crate::progress::Phase;
use crate::restore::{ReadBack, check_device, check_different, check_file};
use crate::table::Ids;
use crate::units::{duration, size};
use crate::vm_disk;

#[derive(Args)]
pub(super) struct Copy {
    /// A block device or a disk-image file.
    source: PathBuf,
    /// A block device, or a disk-image file, that is no smaller.
    #[arg(long = "to", value_name = "TARGET")]
    target: PathBuf,
    /// Copy every sector, not only what is in use.
    #[arg(long)]
    all_sectors: bool,
    /// Give the disk and its partitions new GUIDs (MBR: a new signature).
    #[arg(long)]
    new_ids: bool,
    /// Copy a disk that is mounted for writing all the same. The copy may mix old and new blocks.
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
pub(super) struct MakeStick {
    /// The stick: a block device.
    device: PathBuf,
    /// The stick's image, `lifeboat-usb.img`.
    #[arg(long, value_name = "FILE", default_value = "lifeboat-usb.img")]
    image: PathBuf,
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
struct How {
    /// Read both disks again and compare.
    #[arg(long)]
    verify: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Serial number of the block device to overwrite (its path, if it has none).
    #[arg(long, value_name = "SERIAL")]
    confirm: Vec<String>,
    /// Overwrite a file that exists.
    #[arg(long)]
    force: bool,
}

pub(super) fn copy(global: &Global, args: &Copy) -> Result<u8> {
    let opened = open_sources(std::slice::from_ref(&args.source), &vm_disk::How::raw(), args.live)?;
    check_different([&*args.source, &*args.target])?;
    let options = Options {
        wanted: Wanted { all_sectors: args.all_sectors, leave_out: Vec::new() },
        ids: if args.new_ids { Ids::New } else { Ids::Keep },
        read_back: if args.how.verify { ReadBack::Yes } else { ReadBack::No },
    };
    run(global, &opened, &args.target, &options, &args.how)
}

pub(super) fn make_stick(global: &Global, args: &MakeStick) -> Result<u8> {
    if !is_device(&args.device) {
        return Err(Error::refused(&args.device, "it is no block device; `lsblk` lists those that there are"));
    }
    let opened = open_sources(std::slice::from_ref(&args.image), &vm_disk::How::raw(), false)?;
    let read_back = if args.how.verify { ReadBack::Yes } else { ReadBack::No };
    let options = Options { wanted: Wanted::default(), ids: Ids::Keep, read_back };
    run(global, &opened, &args.device, &options, &args.how)
}

fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

fn open_target(path: &Path, source: &dyn Source, how: &How) -> Result<TargetDisk> {
    if is_device(path) {
        let identity = check_device(path, None)?;
        if !how.dry_run {
            confirm(&how.confirm, &identity)?;
        }
        return TargetDisk::open_device(path);
    }
    check_file(path, None)?;
    let replace = if how.force { Replace::Yes } else { Replace::No };
    let len = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    TargetDisk::new_file(path, source.size().max(len), replace)
}

fn run(global: &Global, opened: &OpenedSources, target: &Path, options: &Options, how: &How) -> Result<u8> {
    let source = &**opened.sources.first().ok_or_else(|| Error::Usage("there is nothing to copy".into()))?;
    let target = Arc::new(open_target(target, source, how)?);
    let watch = Watch::start(global, "copy")?;
    for warning in &opened.in_use {
        watch.progress().say(format!("warning: {warning}: the copy may mix old and new blocks"));
    }
    watch.progress().begin(Phase::Planning, 0);
    let plan = Plan::new(source, target.clone(), options)?;
    let (from, to) = (source.identity(), Target::identity(&*target));
    if how.dry_run {
        drop(watch);
        if global.json {
            print_json(&serde_json::json!({ "type": "plan", "source": from, "target": to, "bytes": plan.bytes() }));
        } else {
            println!("{from} to {to} ({}): {} would be copied.", size(to.size), size(plan.bytes()));
            println!("Nothing was written.");
        }
        return Ok(0);
    }
    let began = Instant::now();
    let copied = copy::copy(source, &plan, options, watch.progress());
    let phase = watch.progress().phase();
    drop(watch);
    let mut copied = copied.map_err(|error| match (phase, error) {
        (_, error @ Error::DamageFound(_)) | (None | Some(Phase::Planning), error) => error,
        (_, error) => {
            error.midway("the target is incomplete and does not look bootable: the same command again begins anew")
        }
    })?;
    if let Some(error) = target.reread_table() {
        copied.warnings.push(format!(
            "the kernel does not read the new partition table of {} ({error}); `partprobe`, or the next start, does",
            target.path().display()
        ));
    }
    if options.ids == Ids::Keep && is_device(&from.path) && is_device(&to.path) {
        copied.warnings.push(
            "both disks have the same identifiers now: take one out before the machine starts, or use --new-ids".into(),
        );
    }
    let unreadable: u64 = copied.unreadable.iter().map(|extent| extent.len).sum();
    if global.json {
        print_json(&serde_json::json!({
            "type": "copied", "seconds": began.elapsed().as_secs_f64(), "unreadable": unreadable, "result": copied,
        }));
    } else {
        println!("copied {} in {}", size(copied.read), duration(began.elapsed()));
        if copied.read_back {
            println!("read back and found equal");
        }
        for warning in &copied.warnings {
            println!("warning: {warning}");
        }
        if unreadable > 0 {
            println!("warning: {} could not be read and are zeros", size(unreadable));
        }
    }
    Ok(if unreadable > 0 { 10 } else { 0 })
}
