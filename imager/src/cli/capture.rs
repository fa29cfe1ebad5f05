//! `imager inspect` and `imager capture`; what `imager import` shares with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Args;

use super::draw::{Drawing, DrawnVolume, bar, partitions, plain};
use super::watch::Watch;
use super::{Global, Spare, open, parse_memory, print_json};
use crate::capture::{self, Level, Options, Owner, Verify};
use crate::disk::identity;
use crate::disk::source::Source;
use crate::error::{Error, Result};
use crate::layout::{self, Layout, Wanted};
use crate::memory::Budget;
use crate::repo::Repository;
use crate::units::{duration, size};
use crate::vm_disk::{self, Follow, Format, How, Opened};

#[derive(Args)]
pub(super) struct Inspect {
    /// A block device or a disk-image file.
    disk: PathBuf,
    #[command(flatten)]
    files: DiskFiles,
}

/// How files are read as disks.
#[derive(Args)]
pub(super) struct DiskFiles {
    /// What the disk-image files are: raw, qcow2, vmdk, vhdx, vhd, vdi. [default: what their content says]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Also read the files outside of its own directory that a disk-image file names as parts of the disk.
    #[arg(long)]
    follow_backing: bool,
    /// Size of a sector in bytes, for disk-image files whose table does not tell.
    #[arg(long, value_name = "BYTES", value_parser = ["512", "4096"])]
    sector_size: Option<String>,
}

impl DiskFiles {
    /// Refuses them where they mean nothing.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub(super) fn refuse(&self, what: &str) -> Result<()> {
        if self.format.is_some() || self.follow_backing || self.sector_size.is_some() {
            return Err(Error::Usage(format!(
                "--format, --follow-backing and --sector-size are for disk-image files, not for {what}"
            )));
        }
        Ok(())
    }

    pub(super) fn how(&self) -> How {
        How {
            format: self.format,
            follow: if self.follow_backing { Follow::Anywhere } else { Follow::SameDirectory },
            sector_size: self.sector_size.as_ref().and_then(|text| text.parse().ok()),
        }
    }
}

#[derive(Args)]
pub(super) struct Capture {
    /// Block devices or disk-image files (raw, qcow2, vmdk, vhdx, vhd, vdi): all disks of one machine.
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    #[command(flatten)]
    take: Take,
    #[command(flatten)]
    files: DiskFiles,
}

/// What becomes of the disks: what `capture` and `import` have in common.
#[derive(Args)]
pub(super) struct Take {
    /// A name for the image. Several may have the same.
    #[arg(long, value_parser = parse_name)]
    pub name: Option<String>,
    /// A note that is kept with it.
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// Read every sector, not only what is in use.
    #[arg(long)]
    all_sectors: bool,
    /// Compression: `auto`, or a zstd level from 1 to 22.
    #[arg(long, default_value = "auto", value_parser = parse_level)]
    level: Level,
    /// Memory to stay within. [default: half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    memory: Option<u64>,
    /// Leave out the content of such files; restored, they are zeros.
    #[arg(long, value_enum, value_name = "KIND")]
    leave_out: Vec<Spare>,
    /// Capture disks that are in use for writing all the same. Such an image may mix old and new blocks.
    #[arg(long)]
    pub live: bool,
    /// Do not check the seals of what was stored.
    #[arg(long, conflicts_with = "verify_data")]
    no_verify: bool,
    /// Read everything back that was stored.
    #[arg(long)]
    verify_data: bool,
}

fn parse_level(text: &str) -> std::result::Result<Level, String> {
    if text == "auto" {
        return Ok(Level::Auto);
    }
    match text.parse() {
        Ok(level @ 1..=22) => Ok(Level::Fixed(level)),
        _ => Err("give `auto` or a number from 1 to 22".into()),
    }
}

/// A name that finds the image again.
fn parse_name(text: &str) -> std::result::Result<String, String> {
    match text {
        "" => Err("the name is empty".into()),
        "latest" => Err("`latest` always means the newest image".into()),
        _ => Ok(text.to_owned()),
    }
}

/// A layout as the drawings want it.
fn drawing(layout: &Layout) -> Drawing<'_> {
    let volumes = layout.volumes.iter().map(|volume| DrawnVolume {
        partition: volume.partition,
        start: volume.place.start,
        len: volume.place.len,
        kind: &volume.file_system.kind,
        label: volume.file_system.label.as_deref(),
        used: volume.file_system.used.total(),
        notes: &volume.file_system.notes,
    });
    Drawing { size: layout.size, table: &layout.table, volumes: volumes.collect() }
}

pub(super) fn inspect(global: &Global, args: &Inspect) -> Result<u8> {
    let opened = vm_disk::open(&args.disk, &args.files.how())?;
    let source = &*opened.source;
    let layout =
        layout::read(source, source.sector_size(), &Wanted::default()).map_err(Error::io("read", &args.disk))?;
    let identity = source.identity();
    if global.json {
        let volumes: Vec<_> = layout
            .volumes
            .iter()
            .map(|volume| {
                let fs = &volume.file_system;
                serde_json::json!({
                    "partition": volume.partition, "start": volume.place.start, "len": volume.place.len,
                    "kind": fs.kind, "label": fs.label, "uuid": fs.uuid, "block_size": fs.block_size,
                    "used": fs.used.total(), "notes": fs.notes,
                    "spare_files": fs.spare_files.iter().map(|file| serde_json::json!({
                        "path": file.path, "kind": file.kind, "bytes": file.extents.total() })).collect::<Vec<_>>(),
                })
            })
            .collect();
        print_json(&serde_json::json!({
            "type": "disk", "identity": identity, "format": opened.format.name(), "files": opened.files,
            "notes": opened.notes, "table": layout.table, "volumes": volumes,
            "wanted": layout.wanted_bytes(), "warnings": layout.warnings,
        }));
        return Ok(0);
    }
    println!("{identity}: {}, sectors of {} bytes", size(identity.size), layout.table.sector_size);
    for note in opened.words() {
        println!("  {}", plain(&note));
    }
    println!("{}", bar(&drawing(&layout)));
    print!("{}", partitions(&drawing(&layout)));
    for warning in &layout.warnings {
        println!("  warning: {warning}");
    }
    println!("An image of it reads {}.", size(layout.wanted_bytes()));
    Ok(0)
}

/// Disks that were opened, and what of them is in use, in words.
pub(super) struct OpenedSources {
    pub sources: Vec<Box<dyn Source>>,
    pub in_use: Vec<String>,
    /// What the disk-image files are, in words.
    pub notes: Vec<String>,
}

/// Opens what is to be read, and says what of it is in use. That is refused unless `live` was asked for.
///
/// # Errors
/// [`Error::Io`], [`Error::Usage`], [`Error::Damaged`].
pub(super) fn open_sources(paths: &[PathBuf], how: &How, live: bool) -> Result<OpenedSources> {
    let named = |path: &PathBuf| Ok((path.clone(), vm_disk::open(path, how)?));
    sources_of(paths.iter().map(named).collect::<Result<_>>()?, live)
}

/// The same of what was opened, each with what it was called.
///
/// # Errors
/// [`Error::Io`], [`Error::Usage`].
pub(super) fn sources_of(files: Vec<(PathBuf, Opened)>, live: bool) -> Result<OpenedSources> {
    let mut opened = OpenedSources { sources: Vec::new(), in_use: Vec::new(), notes: Vec::new() };
    for (name, file) in files {
        opened.notes.extend(file.words());
        if opened.sources.iter().any(|other| other.identity().path == file.source.identity().path) {
            return Err(Error::Usage(format!("{} is named twice", name.display())));
        }
        for part in &file.files {
            opened.in_use.extend(mounted_for_writing(part)?);
            if vm_disk::is_written_by_qemu(part) {
                opened.in_use.push(format!("a running virtual machine writes to {}", part.display()));
            }
        }
        opened.sources.push(file.source);
    }
    match opened.in_use.first() {
        Some(first) if !live => Err(Error::Usage(format!(
            "{first}: an image of it may mix old and new blocks. Unmount it (shut the virtual machine down), or remount it read-only; --live captures it all the same"
        ))),
        _ => Ok(opened),
    }
}

pub(super) fn capture(global: &Global, args: Capture) -> Result<u8> {
    let opened = open_sources(&args.sources, &args.files.how(), args.take.live)?;
    take(global, &opened, args.take, None)
}

/// Takes an image of disks that were opened; `of` is the machine that they are of, when it is not this one.
pub(super) fn take(global: &Global, opened: &OpenedSources, args: Take, of: Option<Owner>) -> Result<u8> {
    take_into(global, &open::repository(global)?, opened, args, of)
}

/// The same, into a repository that is open.
pub(super) fn take_into(
    global: &Global,
    repository: &Arc<Repository>,
    opened: &OpenedSources,
    args: Take,
    of: Option<Owner>,
) -> Result<u8> {
    let OpenedSources { sources, in_use: live, notes } = opened;
    let watch = Watch::start(global, "capture")?;
    for note in notes {
        watch.progress().say(plain(note));
    }
    for warning in live {
        watch.progress().say(format!("warning: {warning}: the image may mix old and new blocks"));
    }
    let memory = args.memory.map_or_else(Budget::of_this_machine, Budget::new);
    let options = Options {
        name: args.name,
        note: args.note,
        wanted: Wanted {
            all_sectors: args.all_sectors,
            leave_out: args.leave_out.into_iter().map(Into::into).collect(),
        },
        level: args.level,
        memory,
        pack_bytes: memory.pack_bytes(),
        verify: match (args.no_verify, args.verify_data) {
            (true, _) => Verify::Presence,
            (_, true) => Verify::Data,
            _ => Verify::Seals,
        },
        live: live.clone(),
        owner: of,
    };
    let began = Instant::now();
    let captured = capture::capture(repository, sources, &options, watch.progress());
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (level, stored) = (load(&watch.progress().level), load(&watch.progress().stored));
    drop(watch);
    let captured = captured.map_err(|error| match error {
        Error::Interrupted | Error::Store { .. } | Error::SourceVanished { .. } if stored > 0 => {
            error.midway("what was stored so far is kept: the same command again goes on from there")
        }
        other => other,
    })?;
    let stats = captured.manifest.stats;
    let unreadable: u64 =
        captured.manifest.disks.iter().flat_map(|disk| &disk.unreadable).map(|extent| extent.len).sum();
    if global.json {
        print_json(&serde_json::json!({
            "type": "captured", "image": captured.id.to_string(), "name": captured.manifest.name,
            "seconds": began.elapsed().as_secs_f64(), "stats": stats, "unreadable": unreadable,
        }));
    } else {
        let name = captured.manifest.name.as_deref().unwrap_or_default();
        println!("image {}  {}", captured.id, plain(name));
        println!(
            "read {} in {}: {} zeros, {} known already, {} new",
            size(stats.read),
            duration(began.elapsed()),
            size(stats.zero),
            size(stats.known),
            size(stats.new),
        );
        println!("added {} to the repository (compression level {level})", size(stats.stored));
        if unreadable > 0 {
            println!(
                "warning: {} could not be read and will be restored as zeros; `imager show {}` says where",
                size(unreadable),
                captured.id
            );
        }
    }
    Ok(if unreadable > 0 { 10 } else { 0 })
}

/// What of a source is mounted for writing, in words.
fn mounted_for_writing(path: &Path) -> Result<Vec<String>> {
    let uses = identity::uses_of(path).map_err(Error::io("look who uses", path))?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let is_writable = |place: &Path| {
        mounts.lines().any(|line| {
            let mut words = line.split(' ').skip(1);
            let at = words.next().map(|at| at.replace("\\040", " "));
            let options = words.nth(1).unwrap_or_default();
            at.as_deref() == place.to_str() && options.split(',').any(|option| option == "rw")
        })
    };
    let mounted = uses.mounted_at.iter().filter(|(_, place)| is_writable(place));
    let mut found: Vec<String> = mounted
        .map(|(device, place)| format!("{} is mounted for writing at {}", device.display(), place.display()))
        .collect();
    found.extend(uses.swap.iter().map(|swap| format!("{} is in use as swap space", swap.display())));
    Ok(found)
}
