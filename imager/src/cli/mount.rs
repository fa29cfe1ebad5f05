//! `imager mount`.

use std::path::PathBuf;

use clap::Args;

use super::watch::Watch;
use super::{Global, open, parse_memory, print_json};
use crate::error::Result;
use crate::image_disk::Shelf;
use crate::memory::Budget;
use crate::mount::{self, Access};

/// Decompressed frames that are kept.
const CACHE_BYTES: u64 = 256 << 20;

const SHAPE: &str = "\
DIR then holds, read-only:
    disk0/disk.raw              the first disk, to be loop-mounted or copied
    disk0/p2/partition.raw      its partition 2
    disk0/p2/files/             the files of it: ext2, ext3, ext4, XFS, NTFS, FAT
    disk0/files/                the files of a disk without partitions
Owners and modes are those of the files, and count for everybody when root mounts or with --allow-other; another user
who mounts reads everything, as with `imager cp`. Devices and set-user-id programs do nothing. Without root it takes
fusermount3. It ends with Ctrl-C, `umount DIR` or `fusermount3 -u DIR`.";

#[derive(Args)]
#[command(after_help = SHAPE)]
pub(super) struct Mount {
    /// Beginning of the image's id, its name, or `latest`.
    image: String,
    /// An empty directory.
    directory: PathBuf,
    /// Memory for what was read lately.
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    memory: Option<u64>,
    /// Let other users read, too, as far as owners and modes allow.
    #[arg(long)]
    allow_other: bool,
}

pub(super) fn mount(global: &Global, args: &Mount) -> Result<u8> {
    let repository = open::repository(global)?;
    let (_, manifest) = repository.find_image(&args.image)?;
    let shelf = Shelf::open(repository, Budget::new(args.memory.unwrap_or(CACHE_BYTES)))?;
    let access = if args.allow_other { Access::Others } else { Access::Owner };
    let watch = Watch::start(global, "mount")?;
    let mounted = mount::mount(&shelf, &manifest, &args.directory, access)?;
    if global.json {
        print_json(&serde_json::json!({ "type": "mounted", "directory": args.directory }));
    } else {
        println!("Mounted on {}, read-only, until Ctrl-C.", args.directory.display());
    }
    mounted.run(&args.directory, watch.progress())?;
    drop(watch);
    if global.json {
        print_json(&serde_json::json!({ "type": "unmounted", "directory": args.directory }));
    }
    Ok(0)
}
