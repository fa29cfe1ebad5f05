//! `imager import`: the disks of machines that other programs keep, as an image.
//!
//! What the arguments are decides how they are read: [`Input`] has an arm for each kind.

use std::path::PathBuf;

use clap::Args;

use super::capture::{DiskFiles, OpenedSources, Take, open_sources, sources_of, take, take_into};
use super::import_clonezilla::{ClonezillaOptions, import_clonezilla};
use super::watch::Watch;
use super::{Global, open};
use crate::capture::Owner;
use crate::clonezilla;
use crate::disk::source::Source;
use crate::error::{Error, Result};
use crate::layout::{self, Wanted};
use crate::machine::{Firmware, Machine};
use crate::vm_disk;

#[derive(Args)]
pub(super) struct Import {
    /// Disk files of a virtual machine (raw, qcow2, vmdk, vhdx, vhd, vdi), all disks of one machine; its OVA
    /// or OVF; or an image directory of Clonezilla.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    take: Take,
    #[command(flatten)]
    files: DiskFiles,
    #[command(flatten)]
    clonezilla: ClonezillaOptions,
}

/// What there is to import.
enum Input {
    /// Files, each of which is a disk.
    DiskFiles(Vec<PathBuf>),
    /// A directory that Clonezilla made.
    Clonezilla(PathBuf),
    /// A virtual machine that was exported, as an OVA or with an OVF descriptor.
    Appliance(PathBuf),
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
        match &*paths {
            [path] if vm_disk::is_appliance(path) => Ok(Self::Appliance(path.clone())),
            _ => Ok(Self::DiskFiles(paths)),
        }
    }
}

pub(super) fn import(global: &Global, args: Import) -> Result<u8> {
    let Import { paths, take: mut args, files, clonezilla: options } = args;
    match Input::of(paths)? {
        Input::Clonezilla(path) => {
            files.refuse("a directory that Clonezilla made")?;
            import_clonezilla(global, &path, options, args)
        }
        Input::DiskFiles(_) | Input::Appliance(_) if options.is_given() => {
            Err(Error::Usage("--disk and --scratch are for directories that Clonezilla made".to_owned()))
        }
        Input::DiskFiles(paths) => {
            let opened = open_sources(&paths, &files.how(), args.live)?;
            let owner = owner(&opened, args.name.as_deref());
            take(global, &opened, args, Some(owner))
        }
        Input::Appliance(path) => {
            // Whether there is a repository, and its password, is asked before the long work.
            let repository = open::repository(global)?;
            let watch = Watch::start(global, "import")?;
            let machine = vm_disk::open_appliance(&path, &files.how(), watch.progress());
            drop(watch);
            let machine = machine?;
            let named = machine.disks.into_iter().map(|disk| (disk.source.identity().path.clone(), disk));
            let opened = sources_of(named.collect(), args.live)?;
            args.name = args.name.or(machine.name.filter(|name| !name.is_empty() && name != "latest"));
            let owner = owner(&opened, args.name.as_deref());
            take_into(global, &repository, &opened, args, Some(owner))
        }
    }
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
