//! `imager import` of an image directory of Clonezilla.

use std::path::{Path, PathBuf};

use clap::Args;

use super::capture::{OpenedSources, Take, take_into};
use super::draw::plain;
use super::watch::Watch;
use super::{Global, open, print_json};
use crate::clonezilla::{self, VolumeReport};
use crate::error::{Error, Result};
use crate::units::size;

/// Which of it, and by way of what.
#[derive(Args)]
pub(super) struct ClonezillaOptions {
    /// Of a Clonezilla directory with several disks, this one; may be given several times.
    #[arg(long = "disk", value_name = "NAME")]
    disks: Vec<String>,
    /// Where a Clonezilla directory's volumes are unpacked, into a file without a name. [default: the repository]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

impl ClonezillaOptions {
    pub(super) fn is_given(&self) -> bool {
        !self.disks.is_empty() || self.scratch.is_some()
    }
}

/// Unpacks a directory of Clonezilla, and takes an image of the disks that this gives.
pub(super) fn import_clonezilla(
    global: &Global,
    path: &Path,
    options: ClonezillaOptions,
    mut args: Take,
) -> Result<u8> {
    let directory = clonezilla::open(path, &options.disks)?;
    // Whether there is a repository, and its password, is asked before the long work.
    let repository = open::repository(global)?;
    let scratch = match options.scratch.or_else(|| global.repo.as_ref().map(PathBuf::from)) {
        Some(scratch) => scratch,
        None => return Err(Error::Usage("name a directory to unpack into with --scratch".to_owned())),
    };
    let watch = Watch::start(global, "import")?;
    let unpacked = directory.unpack(&scratch, watch.progress());
    drop(watch);
    let clonezilla::Unpacked { sources, owner, volumes, warnings } = unpacked?;
    for volume in &volumes {
        tell(global, volume);
    }
    let origin = directory.origin();
    for warning in &warnings {
        if global.json {
            print_json(&serde_json::json!({ "type": "message", "message": format!("warning: {warning}") }));
        } else {
            println!("warning: {}", plain(warning));
        }
    }
    if !global.json {
        println!("{}", plain(&origin));
        if let Some(taken) = directory.taken() {
            let when = taken.strftime("%Y-%m-%d %H:%M UTC");
            println!("The image counts as one of {when}: `latest` and `forget` go by that.");
        }
    }
    args.note = Some(match args.note {
        Some(note) => format!("{note} ({origin})"),
        None => origin,
    });
    let opened = OpenedSources { sources, in_use: Vec::new(), notes: Vec::new() };
    take_into(global, &repository, &opened, args, Some(owner))
}

/// Says what was read of a volume.
fn tell(global: &Global, volume: &VolumeReport) {
    if global.json {
        print_json(&serde_json::json!({ "type": "volume", "volume": volume }));
        return;
    }
    let kind = volume.file_system.as_ref().map_or(String::new(), |kind| format!("{kind}, "));
    let checked = match &volume.checksum {
        Some(sum) => format!(", checked with {sum}"),
        None => String::new(),
    };
    println!(
        "{}: {}{} by {} ({}), {} of {}{}",
        plain(&volume.device),
        plain(&kind),
        if volume.used == 0 { "made" } else { "stored" },
        volume.stored_by,
        volume.compression,
        size(volume.used),
        size(volume.size),
        checked
    );
}
