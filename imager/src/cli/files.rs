//! `imager ls`, `imager cp` and `imager find`: single files out of images.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::draw::unicode;
use super::watch::Watch;
use super::{Global, open, parse_size, print_json};
use crate::error::{Error, Result};
use crate::files::address::{Address, Found, LastLink, choices, find_part, resolve};
use crate::files::copy::{self, Existing, Options, Owners, Recursive, Summary};
use crate::files::walk::{Event, Next, Order, entries, walk};
use crate::files::{self, FileSystem, Kind, Stat, Time, parts, screen, unwrapped};
use crate::fs::{FsError, Note};
use crate::image_disk::Shelf;
use crate::memory::Budget;
use crate::progress::Progress;
use crate::repo::manifest::Manifest;
use crate::units::size;

/// Decompressed frames that are kept.
const CACHE_BYTES: u64 = 128 << 20;

const PLACES: &str = "\
A file is named IMAGE:PARTITION/PATH:
    latest:p2/etc/fstab         on partition 2 of an image with one disk
    latest:disk1p2/etc/fstab    on partition 2 of the second disk, counted from disk0
    latest:disk0/               on a disk without partitions
    latest                      the partitions themselves
Names are shown with backslash escapes for what a terminal might obey; the same escapes are understood in PATH.";

#[derive(Args)]
#[command(after_help = PLACES)]
pub(super) struct Ls {
    /// IMAGE:PARTITION/PATH, or an image to see which partitions it has.
    place: OsString,
    /// Modes, owners, sizes, times.
    #[arg(short, long)]
    long: bool,
    /// Also what is in the directories below.
    #[arg(short = 'R', long)]
    recursive: bool,
}

#[derive(Args)]
#[command(after_help = PLACES)]
pub(super) struct Cp {
    /// IMAGE:PARTITION/PATH, one or several of one partition; then where they go.
    #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "TARGET"])]
    places: Vec<OsString>,
    /// Copy directories with all that is in them.
    #[arg(short, long)]
    recursive: bool,
    /// Replace files that are there already.
    #[arg(long)]
    force: bool,
    /// TARGET is a directory, which is made if it is not there; the copies go into it.
    #[arg(long)]
    make_directory: bool,
    /// The copies belong to whoever runs this, not to whom the files belonged.
    #[arg(long)]
    no_owners: bool,
}

#[derive(Args)]
#[command(after_help = PLACES)]
pub(super) struct Find {
    /// IMAGE:PARTITION/PATH: where to begin.
    place: OsString,
    /// Names like this one: * is any text, ? any letter, [a-z] one of these.
    #[arg(long, value_name = "PATTERN")]
    name: Option<OsString>,
    /// As --name, whatever the case.
    #[arg(long, value_name = "PATTERN")]
    iname: Option<OsString>,
    /// Only of this kind.
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    kind: Option<Type>,
    /// Only files of this size: +1M is more, -1M is less, 1M the very same.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_bound)]
    size: Option<Bound>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Type {
    /// Regular files.
    #[value(name = "f", alias = "file")]
    File,
    /// Directories.
    #[value(name = "d", alias = "directory")]
    Directory,
    /// Symbolic links.
    #[value(name = "l", alias = "symlink")]
    Symlink,
    /// Devices, pipes and sockets.
    #[value(name = "special")]
    Special,
}

impl Type {
    fn is(self, kind: Kind) -> bool {
        match kind {
            Kind::File => self == Self::File,
            Kind::Directory => self == Self::Directory,
            Kind::Symlink => self == Self::Symlink,
            _ => self == Self::Special,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    More(u64),
    Less(u64),
    Same(u64),
}

fn parse_bound(text: &str) -> std::result::Result<Bound, String> {
    Ok(match text.as_bytes().first() {
        Some(b'+') => Bound::More(parse_size(text.get(1..).unwrap_or_default())?),
        Some(b'-') => Bound::Less(parse_size(text.get(1..).unwrap_or_default())?),
        _ => Bound::Same(parse_size(text)?),
    })
}

/// A name that a terminal may see.
fn shown(name: &[u8]) -> String {
    if unicode() { screen::escaped(name) } else { screen::escaped_ascii(name) }
}

fn shown_path(path: &[Vec<u8>]) -> String {
    format!("/{}", path.iter().map(|name| shown(name)).collect::<Vec<_>>().join("/"))
}

/// An image, one of its file systems, and the paths that were named in it.
struct Opened {
    manifest: Manifest,
    part: Option<(String, Arc<dyn FileSystem>)>,
    paths: Vec<Vec<u8>>,
}

fn opened(global: &Global, places: &[OsString]) -> Result<Opened> {
    let addresses = places.iter().map(|place| Address::parse(place)).collect::<Result<Vec<_>>>()?;
    let first = addresses.first().ok_or_else(|| Error::Usage("which file?".into()))?;
    if addresses.iter().any(|other| (&other.image, other.part) != (&first.image, first.part)) {
        return Err(Error::Usage("all files must be of one partition of one image; copy the others separately".into()));
    }
    let repository = open::repository(global)?;
    let (_, manifest) = repository.find_image(&first.image)?;
    let Some(name) = first.part else {
        return Ok(Opened { manifest, part: None, paths: Vec::new() });
    };
    let part = find_part(&manifest, name)?;
    for note in part.captured.iter().flat_map(|captured| &captured.notes) {
        if let Note::Hibernated { detail } = note {
            let name = part.name(&manifest);
            let detail = shown(detail.as_bytes());
            warn(global, &format!("{name}: {detail}: what that system has in memory is not in the files"));
        }
    }
    let shelf = Shelf::open(repository, Budget::new(CACHE_BYTES))?;
    let opened = files::open(&shelf, &manifest, part.disk, part.partition).map_err(|error| match error {
        Error::FileSystem(error @ FsError::Unsupported(_)) => {
            let choices = choices(&manifest, &parts(&manifest));
            Error::Usage(format!("{}: {error}; {choices}", part.name(&manifest)))
        }
        other => other,
    })?;
    for warning in &opened.description().warnings {
        warn(global, &format!("{}: {warning}", part.name(&manifest)));
    }
    let name = part.name(&manifest);
    Ok(Opened { manifest, part: Some((name, opened)), paths: addresses.into_iter().map(|a| a.path).collect() })
}

fn warn(global: &Global, message: &str) {
    if global.json {
        print_json(&serde_json::json!({ "type": "message", "message": format!("warning: {message}") }));
    } else {
        eprintln!("warning: {message}");
    }
}

pub(super) fn ls(global: &Global, args: &Ls) -> Result<u8> {
    let opened = opened(global, std::slice::from_ref(&args.place))?;
    let Some((_, files)) = &opened.part else { return Ok(list_parts(global, &opened.manifest)) };
    let found = resolve(&**files, opened.paths.first().map_or(&[], Vec::as_slice), LastLink::Keep)?;
    let show = Show { global, files: &**files, long: args.long };
    if found.stat.kind != Kind::Directory {
        show.one(found.name().unwrap_or_default(), &found.path.join(&b'/'), &found.stat);
        return Ok(0);
    }
    let mut failed = 0;
    let base = found.path.join(&b'/');
    if args.recursive {
        let mut directory: Option<Vec<u8>> = None;
        walk(&**files, found.stat.node, Order::Name, &mut |event| {
            match event {
                Event::Found { path, name, stat, .. } => {
                    let whole = joined(&base, path);
                    let above = parent(&whole);
                    if !global.json && directory.as_deref() != Some(above) {
                        let gap = if directory.is_some() { "\n" } else { "" };
                        let names: Vec<Vec<u8>> = above.split(|b| *b == b'/').map(<[u8]>::to_vec).collect();
                        let names = if above.is_empty() { &[][..] } else { &names[..] };
                        println!("{gap}{}:", shown_path(names));
                        directory = Some(above.to_vec());
                    }
                    show.one(name, &whole, stat);
                }
                Event::Failed { path, error } => {
                    failed += 1;
                    warn(global, &format!("{}: {}", shown(&joined(&base, path)), unwrapped(error)));
                }
                Event::Left { .. } => {}
            }
            Ok(Next::Continue)
        })?;
    } else {
        let (entries, result) = entries(&**files, found.stat.node, Order::Name);
        for entry in entries {
            match files.stat(entry.node) {
                Ok(stat) => show.one(&entry.name, &joined(&base, &entry.name), &stat),
                Err(error) => {
                    failed += 1;
                    warn(global, &format!("{}: {}", shown(&entry.name), unwrapped(error)));
                }
            }
        }
        result.map_err(unwrapped)?;
    }
    Ok(if failed > 0 { 4 } else { 0 })
}

fn joined(base: &[u8], path: &[u8]) -> Vec<u8> {
    if base.is_empty() || path.is_empty() { [base, path].concat() } else { [base, b"/", path].concat() }
}

fn parent(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    slash.and_then(|at| path.get(..at)).unwrap_or_default()
}

fn list_parts(global: &Global, manifest: &Manifest) -> u8 {
    for part in parts(manifest) {
        let name = part.name(manifest);
        let captured = part.captured.as_ref();
        let kind = captured.map_or("unknown", |captured| captured.kind.as_str());
        let label = captured.and_then(|captured| captured.label.as_deref());
        let has_files = part.has_files();
        if global.json {
            print_json(&serde_json::json!({
                "type": "part", "name": name, "disk": part.disk, "partition": part.partition,
                "kind": kind, "label": label, "size": part.place.len, "files": has_files,
            }));
        } else {
            let label = label.map(|label| shown(label.as_bytes())).unwrap_or_default();
            let files = if has_files { "" } else { "  (its files cannot be read)" };
            println!("{name:<10} {kind:<8} {:>10}  {label}{files}", size(part.place.len));
        }
    }
    0
}

/// How files are shown.
struct Show<'a> {
    global: &'a Global,
    files: &'a dyn FileSystem,
    long: bool,
}

impl Show<'_> {
    fn one(&self, name: &[u8], path: &[u8], stat: &Stat) {
        let target = (stat.kind == Kind::Symlink && (self.long || self.global.json))
            .then(|| self.files.read_link(stat.node).ok())
            .flatten();
        if self.global.json {
            print_json(&json(path, stat, target.as_deref()));
            return;
        }
        let name = shown(name);
        if !self.long {
            println!("{name}{}", if stat.kind == Kind::Directory { "/" } else { "" });
            return;
        }
        let extent = match stat.kind {
            Kind::CharacterDevice | Kind::BlockDevice => format!("{}, {}", stat.device.0, stat.device.1),
            _ => stat.size.to_string(),
        };
        let arrow = target.map(|target| format!(" -> {}", shown(&target))).unwrap_or_default();
        println!(
            "{}{} {:>4} {:>6} {:>6} {extent:>12} {} {name}{arrow}",
            stat.kind.letter(),
            screen::letters(stat.permissions),
            stat.links,
            stat.uid,
            stat.gid,
            screen::moment(stat.modified)
        );
    }
}

fn timestamp(time: Time) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(time.seconds, i32::try_from(time.nanoseconds).unwrap_or(0)).ok()
}

/// A file for programs. `path` is text with the escapes of [`screen`]; `path_hex` its bytes, where they are no UTF-8.
fn json(path: &[u8], stat: &Stat, target: Option<&[u8]>) -> serde_json::Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let rooted = [b"/", path].concat();
    let time = |time: Time| timestamp(time).map(|time| time.to_string());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut object = serde_json::json!({
        "type": "file", "path": text(&rooted), "kind": stat.kind.word(), "size": stat.size, "stored": stat.stored,
        "mode": format!("{:04o}", stat.permissions), "uid": stat.uid, "gid": stat.gid, "links": stat.links,
        "node": stat.node.0, "modified": time(stat.modified), "accessed": time(stat.accessed),
        "changed": time(stat.changed), "created": stat.created.and_then(time),
    });
    if let Some(fields) = object.as_object_mut() {
        if std::str::from_utf8(&rooted).is_err() {
            fields.insert("path_hex".into(), hex(&rooted).into());
        }
        if let Some(target) = target {
            fields.insert("target".into(), text(target).into());
        }
        if matches!(stat.kind, Kind::CharacterDevice | Kind::BlockDevice) {
            fields.insert("device".into(), format!("{}:{}", stat.device.0, stat.device.1).into());
        }
    }
    object
}

pub(super) fn find(global: &Global, args: &Find) -> Result<u8> {
    use std::os::unix::ffi::OsStrExt;
    let opened = opened(global, std::slice::from_ref(&args.place))?;
    let Some((_, files)) = &opened.part else {
        let choices = choices(&opened.manifest, &parts(&opened.manifest));
        return Err(Error::Usage(format!("in which partition? As in latest:p2/; {choices}")));
    };
    let found = resolve(&**files, opened.paths.first().map_or(&[], Vec::as_slice), LastLink::Follow)?;
    let base = found.path.join(&b'/');
    let show = Show { global, files: &**files, long: false };
    let matches = |name: &[u8], stat: &Stat| {
        args.kind.is_none_or(|kind| kind.is(stat.kind))
            && args.name.as_ref().is_none_or(|pattern| files::pattern::matches(pattern.as_bytes(), name))
            && args.iname.as_ref().is_none_or(|pattern| {
                files::pattern::matches(&files::fold_case(pattern.as_bytes()), &files::fold_case(name))
            })
            && args.size.is_none_or(|bound| {
                stat.kind == Kind::File
                    && match bound {
                        Bound::More(than) => stat.size > than,
                        Bound::Less(than) => stat.size < than,
                        Bound::Same(as_) => stat.size == as_,
                    }
            })
    };
    let mut failed = 0;
    let show_match = |name: &[u8], path: &[u8], stat: &Stat| {
        if matches(name, stat) {
            if global.json {
                show.one(name, path, stat);
            } else {
                println!("/{}", path.split(|byte| *byte == b'/').map(shown).collect::<Vec<_>>().join("/"));
            }
        }
    };
    if found.stat.kind != Kind::Directory {
        show_match(found.name().unwrap_or_default(), &base, &found.stat);
        return Ok(0);
    }
    walk(&**files, found.stat.node, Order::Name, &mut |event| {
        match event {
            Event::Found { path, name, stat, .. } => show_match(name, &joined(&base, path), stat),
            Event::Failed { path, error } => {
                failed += 1;
                warn(global, &format!("{}: {}", shown(&joined(&base, path)), unwrapped(error)));
            }
            Event::Left { .. } => {}
        }
        Ok(Next::Continue)
    })?;
    Ok(if failed > 0 { 4 } else { 0 })
}

pub(super) fn cp(global: &Global, args: &Cp) -> Result<u8> {
    let Some((target, sources)) = args.places.split_last() else { return Err(Error::Usage("where to?".into())) };
    let opened = opened(global, sources)?;
    let Some((part, files)) = &opened.part else {
        let choices = choices(&opened.manifest, &parts(&opened.manifest));
        return Err(Error::Usage(format!("from which partition? As in latest:p2/etc/fstab; {choices}")));
    };
    let found =
        opened.paths.iter().map(|path| resolve(&**files, path, LastLink::Keep)).collect::<Result<Vec<Found>>>()?;
    let options = Options {
        recursive: if args.recursive { Recursive::Yes } else { Recursive::No },
        existing: if args.force { Existing::Replace } else { Existing::Keep },
        owners: if args.no_owners { Owners::Mine } else { Owners::Keep },
    };
    if args.make_directory {
        make_directory(Path::new(target))?;
    }
    let watch = Watch::start(global, "cp")?;
    let result = copy::copy(&**files, &found, &PathBuf::from(target), &options, watch.progress());
    let started = Progress::phase(watch.progress()).is_some();
    drop(watch);
    let summary = result.map_err(|error| match error {
        error @ Error::Usage(_) => error,
        error if started => {
            error.midway("what was copied is whole; the same command again goes on where this one ended")
        }
        error => error,
    })?;
    report(global, part, &summary);
    Ok(if summary.failed > 0 { 4 } else { 0 })
}

fn files_in_words(count: u64) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

/// One that is there already will do: the same command again goes on.
fn make_directory(path: &Path) -> Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.map_err(Error::io("make the directory", path)),
    }
}

fn report(global: &Global, part: &str, summary: &Summary) {
    if global.json {
        let failures: Vec<_> = summary
            .failures
            .iter()
            .map(|failure| serde_json::json!({ "path": failure.path, "reason": failure.reason }))
            .collect();
        let not_kept: Vec<_> = summary
            .not_kept()
            .map(|lost| serde_json::json!({ "what": lost.what, "count": lost.count, "example": lost.example, "reason": lost.reason }))
            .collect();
        print_json(&serde_json::json!({
            "type": "copied_files", "from": part, "files": summary.files, "directories": summary.directories,
            "symlinks": summary.symlinks, "hard_links": summary.hard_links, "specials": summary.specials,
            "already_there": summary.already_there, "bytes": summary.bytes, "failed": summary.failed,
            "failures": failures, "not_kept": not_kept,
        }));
        if summary.failed > 0 {
            let message =
                format!("{} could not be copied; `failures` says which and why", files_in_words(summary.failed));
            print_json(&serde_json::json!({ "type": "error", "message": message, "exit_code": 4 }));
        }
        return;
    }
    let ascii = |text: &str| {
        if unicode() { text.to_owned() } else { screen::escaped_ascii(text.as_bytes()).replace("\\\\", "\\") }
    };
    for failure in &summary.failures {
        eprintln!("not copied: {}: {}", ascii(&failure.path), ascii(&failure.reason));
    }
    let more = summary.failed.saturating_sub(summary.failures.len() as u64);
    if more > 0 {
        eprintln!("not copied: {more} more");
    }
    for lost in summary.not_kept() {
        let reason = if lost.reason.is_empty() { String::new() } else { format!(": {}", ascii(&lost.reason)) };
        eprintln!("not kept: {}, of {} files, as {}{reason}", lost.what, lost.count, ascii(&lost.example));
    }
    let mut parts = vec![format!("{} files ({})", summary.files, size(summary.bytes))];
    for (count, what) in [
        (summary.directories, "directories"),
        (summary.symlinks, "symbolic links"),
        (summary.hard_links, "hard links"),
        (summary.specials, "devices, pipes and sockets"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    let there = if summary.already_there > 0 {
        format!("; {} were there already", summary.already_there)
    } else {
        String::new()
    };
    println!("copied {}{there}", parts.join(", "));
    if summary.failed > 0 {
        println!("{} could not be copied", summary.failed);
    }
}
