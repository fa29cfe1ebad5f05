//! `imager import`: the disks of machines that other programs keep, as an image.
//!
//! What the arguments are decides how they are read: [`Input`] has an arm for each kind.

use std::path::{Path, PathBuf};

use clap::Args;

use super::capture::{DiskFiles, OpenedSources, Take, open_sources, take, take_into};
use super::draw::plain;
use super::watch::Watch;
use super::{Global, open, print_json};
use crate::capture::Owner;
use crate::clonezilla::{self, VolumeReport};
use crate::disk::source::Source;
use crate::error::{Error, Result};
use crate::layout::{self, Wanted};
use crate::machine::{Firmware, Machine};
use crate::units::size;

#[derive(Args)]
pub(super) struct Import {
    /// Disk files of a virtual machine (raw, qcow2, vmdk, vhdx, vhd, vdi), all disks of one machine; or an image
    /// directory of Clonezilla.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    take: Take,
    #[command(flatten)]
    files: DiskFiles,
    /// Of a Clonezilla directory with several disks, this one; may be given several times.
    #[arg(long = "disk", value_name = "NAME")]
    disks: Vec<String>,
    /// Where a Clonezilla directory's volumes are unpacked, into a file without a name. [default: the repository]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

/// What there is to import.
enum Input {
    /// Files, each of which is a disk.
    DiskFiles(Vec<PathBuf>),
    /// A directory that Clonezilla made.
    Clonezilla(PathBuf),
}

impl Input {
    /// What `paths` are.
    ///
    /// # Errors
    /// [`Error::Io`] for what is not there, [`Error::Usage`] for what cannot be imported.
    fn of(paths: Vec<PathBuf>) -> Result<Self> {
        if let [path] = paths.as_slice()
            && clonezilla::is_directory(path)
        {
            return Ok(Self::Clonezilla(path.clone()));
        }
        for path in &paths {
            let metadata = std::fs::metadata(path).map_err(Error::io("look at", path))?;
            if metadata.is_dir() {
                return Err(Error::Usage(format!(
                    "{} is a directory, and none that Clonezilla made, which has a file `disk` or `parts`; name the disk files in it, all disks of one machine",
                    path.display()
                )));
            }
        }
        Ok(Self::DiskFiles(paths))
    }
}

pub(super) fn import(global: &Global, args: Import) -> Result<u8> {
    let Import { paths, take: args, files, disks, scratch } = args;
    match Input::of(paths)? {
        Input::Clonezilla(path) => import_clonezilla(global, &path, &disks, scratch, args),
        Input::DiskFiles(_) if !disks.is_empty() || scratch.is_some() => {
            Err(Error::Usage("--disk and --scratch are for directories that Clonezilla made".to_owned()))
        }
        Input::DiskFiles(paths) => {
            let opened = open_sources(&paths, &files.how(), args.live)?;
            let owner = owner(&opened, args.name.as_deref());
            take(global, &opened, args, Some(owner))
        }
    }
}

/// Unpacks a directory of Clonezilla, and takes an image of the disks that this gives.
fn import_clonezilla(
    global: &Global,
    path: &Path,
    disks: &[String],
    scratch: Option<PathBuf>,
    mut args: Take,
) -> Result<u8> {
    let directory = clonezilla::open(path, disks)?;
    // Whether there is a repository, and its password, is asked before the long work.
    let repository = open::repository(global)?;
    let scratch = match scratch.or_else(|| global.repo.as_ref().map(PathBuf::from)) {
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
    if !global.json {
        for warning in &warnings {
            println!("warning: {}", plain(warning));
        }
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

/// Whose disks they are: not this machine's. Its images are told from others by the image's name, or the file's.
fn owner(opened: &OpenedSources, name: Option<&str>) -> Owner {
    let first = opened.sources.first().map(|source| &**source);
    let of_file = || Some(first?.identity().path.file_stem()?.to_string_lossy().into_owned());
    let name = name.map(str::to_owned).or_else(of_file).unwrap_or_else(|| "unknown".to_owned());
    Owner {
        machine: Machine::unknown(first.map_or(Firmware::Bios, firmware)),
        id: format!("imported {name}"),
        taken: None,
        remarks: Vec::new(),
    }
}

/// What a disk is meant to be booted by: UEFI when it has an EFI system partition and none for a BIOS boot loader.
fn firmware(disk: &dyn Source) -> Firmware {
    const EFI_SYSTEM: [&str; 2] = ["C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "0xef"];
    const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";
    // A disk whose table cannot be read is refused when its image is taken.
    let Ok(layout) = layout::read(disk, disk.sector_size(), &Wanted::default()) else { return Firmware::Bios };
    let has = |types: &[&str]| {
        layout
            .table
            .partitions
            .iter()
            .any(|partition| types.iter().any(|id| partition.type_id.eq_ignore_ascii_case(id)))
    };
    if has(&EFI_SYSTEM) && !has(&[BIOS_BOOT]) { Firmware::Uefi } else { Firmware::Bios }
}
