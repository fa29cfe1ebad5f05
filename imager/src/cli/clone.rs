//! `imager clone`.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};

use super::draw::{plain, table};
use super::images::{short_id, when};
use super::serve::serve_clone;
use super::watch::Watch;
use super::{Global, count, open, print_json};
use crate::clone::{self, Found};
use crate::disk::target::Replace;
use crate::error::{Error, Result};
use crate::export::{Beside, How, Image, MachineOptions, Options, write_machine};
use crate::memory::Budget;
use crate::repo::Repository;
use crate::repo::clones::{CloneId, CloneRecord};
use crate::restore::{OnDamage, ReadBack, check_file};
use crate::units::size;
use crate::vm::Macs;
use crate::vm_disk::Format;

#[derive(Args)]
#[command(group = ArgGroup::new("what").required(true))]
pub(super) struct CloneArgs {
    /// Make a disk that holds only its own changes, and reads the rest from the image while that is served.
    #[arg(long, group = "what", requires = "output")]
    linked: bool,
    /// Make a disk that stands alone.
    #[arg(long, group = "what", requires = "output")]
    full: bool,
    /// Make a linked clone stand alone: what it reads from the image is copied into it. No virtual machine may have it open.
    #[arg(long, group = "what")]
    detach: bool,
    /// Serve the image that a linked clone needs, so that it can be started.
    #[arg(long, group = "what")]
    serve: bool,
    /// List the linked clones that the repository knows.
    #[arg(long, group = "what", conflicts_with = "subject")]
    list: bool,
    /// Let an image go that a linked clone needs: the image can be forgotten then, and the clone not be started any more.
    #[arg(long, group = "what")]
    release: bool,
    /// The image (beginning of its id, its name, or `latest`); a linked clone's file, or for --release its id.
    #[arg(value_name = "IMAGE|FILE", required_unless_present = "list")]
    subject: Option<String>,
    /// The file to make; files of several disks are named after it.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only this disk of the image, counted from 0.
    #[arg(long, value_name = "N", requires = "output")]
    disk: Option<usize>,
    /// With --full: raw, qcow2, vmdk, vhdx, vhd or vdi.
    #[arg(long, value_name = "FORMAT", requires = "full", default_value = "qcow2")]
    format: Format,
    /// With --linked: the socket that the image will be served on. [default: beside the file]
    #[arg(long, value_name = "PATH", requires = "linked")]
    socket: Option<PathBuf>,
}

pub(super) fn clone(global: &Global, args: &CloneArgs) -> Result<u8> {
    let subject = args.subject.as_deref().unwrap_or_default();
    match (args.list, args.serve, args.release, &args.output) {
        (true, ..) => list(global),
        (_, true, ..) => serve_clone(global, Path::new(subject), None),
        (_, _, true, _) => release(global, subject),
        _ if args.detach => detach(global, Path::new(subject)),
        (.., Some(output)) if args.full => full(global, args, subject, output),
        (.., Some(output)) => link(global, args, subject, output),
        _ => Err(Error::Usage("give the file to make with --output".into())),
    }
}

fn link(global: &Global, args: &CloneArgs, image: &str, output: &Path) -> Result<u8> {
    let repository = open::repository(global)?;
    let (id, manifest) = repository.find_image(image)?;
    let wanted =
        clone::Wanted { image: id, manifest: &manifest, disk: args.disk, output, socket: args.socket.as_deref() };
    let linked = clone::link(&repository, &wanted)?;
    if global.json {
        let files: Vec<_> =
            linked.files.iter().map(|(disk, path)| serde_json::json!({ "disk": disk, "path": path })).collect();
        print_json(&serde_json::json!({
            "type": "linked", "clone": linked.id.to_string(), "image": id.to_string(), "files": files,
            "socket": linked.socket,
        }));
        return Ok(0);
    }
    for (disk, path) in &linked.files {
        println!("disk {disk}: {}", path.display());
    }
    let first = linked.files.first().map(|(_, path)| path.display().to_string()).unwrap_or_default();
    println!("It reads from image {}, which stays until `imager clone --release {}`.", short_id(id), linked.id);
    println!("`imager run {first}` starts it; `imager serve --for {first}` serves the image to another starter.");
    Ok(0)
}

fn full(global: &Global, args: &CloneArgs, image: &str, output: &Path) -> Result<u8> {
    let repository = open::repository(global)?;
    let (id, manifest) = repository.find_image(image)?;
    let image = Image { repository, id, manifest };
    let disks = args.disk.map_or_else(|| (0..image.manifest.disks.len()).collect(), |disk| vec![disk]);
    let options = Options {
        how: How::Plain,
        replace: Replace::No,
        read_back: ReadBack::No,
        damage: OnDamage::Stop,
        memory: Budget::of_this_machine(),
    };
    let what = MachineOptions { disks, beside: Beside::No, macs: Macs::New };
    check_file(output, image.repository.store().local_directory().as_deref())?;
    let watch = Watch::start(global, "clone")?;
    let made = write_machine(&image, args.format, &options, &what, output, watch.progress());
    drop(watch);
    let made = made?;
    if global.json {
        let files: Vec<_> = made
            .disks
            .iter()
            .map(|disk| serde_json::json!({ "disk": disk.disk, "path": disk.path, "allocated": disk.allocated }))
            .collect();
        print_json(&serde_json::json!({ "type": "full", "image": id.to_string(), "files": files }));
        return Ok(0);
    }
    for disk in &made.disks {
        println!("disk {}: {}, {}", disk.disk, disk.path.display(), size(disk.allocated));
    }
    Ok(0)
}

fn detach(global: &Global, file: &Path) -> Result<u8> {
    let found = Found::must_be_at(file)?;
    let repository = open::of_clone(global, file)?;
    let watch = Watch::start(global, "clone")?;
    let detached = clone::detach(&repository, &found, Budget::of_this_machine(), watch.progress());
    drop(watch);
    let detached = detached.map_err(|error| match error {
        Error::Interrupted => error.midway("the linked clone is as it was; the same command begins anew"),
        error => error,
    })?;
    if global.json {
        let id = detached.released.map(|id| id.to_string());
        print_json(&serde_json::json!({ "type": "detached", "clone": id, "files": detached.files }));
        return Ok(0);
    }
    for path in &detached.files {
        println!("{} stands alone now", path.display());
    }
    Ok(0)
}

/// What has become of a clone's files, in words.
fn state(record: &CloneRecord, host: &str) -> String {
    if record.host != host {
        return format!("on {}", record.host);
    }
    let mut held = 0;
    for file in &record.files {
        match Found::at(Path::new(&file.path)) {
            Ok(Some(found)) if found.backing.image == record.image => {
                use std::os::unix::fs::MetadataExt;
                held += found.path.metadata().map_or(0, |metadata| metadata.blocks().saturating_mul(512));
            }
            Ok(_) => return "something else is there".into(),
            Err(Error::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => return "gone".into(),
            Err(error) => return format!("unknown: {error}"),
        }
    }
    format!("holds {}", size(held))
}

fn list(global: &Global) -> Result<u8> {
    let clones = open::repository(global)?.clones()?;
    let host = crate::machine::this_machine().hostname.unwrap_or_default();
    let mut rows = vec![["Clone", "Made", "Image", "State", "File"].map(str::to_owned)];
    for (id, record) in &clones.found {
        let state = state(record, &host);
        if global.json {
            print_json(&serde_json::json!({
                "type": "clone", "clone": id.to_string(), "image": record.image.to_string(), "host": record.host,
                "created": record.created, "files": record.files, "state": state,
            }));
            continue;
        }
        let paths: Vec<&str> = record.files.iter().map(|file| file.path.as_str()).collect();
        rows.push([
            id.to_string().chars().take(8).collect(),
            when(record.created),
            short_id(record.image),
            plain(&state),
            plain(&paths.join(", ")),
        ]);
    }
    if !global.json {
        if clones.found.is_empty() {
            println!("no linked clones; `imager clone --linked IMAGE -o FILE` makes one");
        } else {
            print!("{}", table(&rows));
        }
    }
    for (_, error) in &clones.unreadable {
        eprintln!("imager: {error}");
    }
    Ok(if clones.unreadable.is_empty() { 0 } else { 4 })
}

/// The clone that `words` mean: a file, or the beginning of an id.
fn find(repository: &Repository, words: &str) -> Result<(CloneId, Option<CloneRecord>)> {
    let clones = repository.clones()?;
    let path = std::path::absolute(words).map_err(Error::io("look at", words))?;
    if let Ok(Some(found)) = Found::at(&path)
        && let Some((id, record)) = found.registered(repository)?
    {
        return Ok((id, Some(record)));
    }
    let is_file = |record: &CloneRecord| record.files.iter().any(|file| Path::new(&file.path) == path);
    let fits = |id: &CloneId| !words.is_empty() && id.to_string().starts_with(words);
    let unreadable = clones.unreadable.into_iter().map(|(id, _)| (id, None));
    let all = clones.found.into_iter().map(|(id, record)| (id, Some(record))).chain(unreadable);
    let mut fitting = all.filter(|(id, record)| fits(id) || record.as_ref().is_some_and(is_file));
    match (fitting.next(), fitting.next()) {
        (Some(found), None) => Ok(found),
        (Some(_), Some(_)) => {
            Err(Error::Usage(format!("{words} means several linked clones; give the whole id of one")))
        }
        (None, _) => Err(Error::Usage(format!(
            "the repository knows no linked clone {words}; `imager clone --list` lists those that it knows"
        ))),
    }
}

fn release(global: &Global, words: &str) -> Result<u8> {
    let repository = open::of_clone(global, Path::new(words))?;
    let (id, record) = find(&repository, words)?;
    repository.release_clone(id)?;
    if global.json {
        let image = record.as_ref().map(|record| record.image.to_string());
        print_json(&serde_json::json!({ "type": "released", "clone": id.to_string(), "image": image }));
        return Ok(0);
    }
    println!("released {id}");
    if let Some(record) = record {
        let left = repository.clones()?.of_image(record.image).count();
        let others = if left == 0 { String::new() } else { format!(" once {} more let it go", count(left, "clone")) };
        println!(
            "Image {} can be forgotten now{others}; then {} cannot be started any more.",
            short_id(record.image),
            plain(&record.place())
        );
    }
    Ok(0)
}
