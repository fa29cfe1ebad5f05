//! `imager clone`.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};

use super::draw::{plain, table};
use super::images::{short_id, when};
use super::serve::serve_clone;
use super::{Global, count, open, print_json};
use crate::clone::{self, Found};
use crate::error::{Error, Result};
use crate::repo::Repository;
use crate::repo::clones::{CloneId, CloneRecord};
use crate::units::size;

#[derive(Args)]
#[command(group = ArgGroup::new("what").required(true))]
pub(super) struct CloneArgs {
    /// Make a disk that holds only its own changes, and reads the rest from the image while that is served.
    #[arg(long, group = "what", requires = "output")]
    linked: bool,
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
