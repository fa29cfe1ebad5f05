//! Files and trees out of a file system into a directory of this machine.
//!
//! Owners, modes, times, links, extended attributes and holes are kept where the target can; what could not be is
//! counted in the [`Summary`], not passed over. Nothing is written outside of the target: every directory is opened
//! by its name in the one above it, links in the target are never followed, and names that would lead elsewhere are
//! refused. A file gets its name when it is whole. Must not know: terminals, images, how file systems lie on a disk.

mod target;
mod write;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use self::target::TargetTree;
use self::write::Writer;
use super::address::Found;
use super::screen::escaped;
use super::walk::{Event, Next, Order, walk};
use super::{FileSystem, Kind, NodeId, Ownership, Stat, unwrapped};
use crate::error::{Error, Result};
use crate::progress::{Phase, Progress};

/// Failures that are kept with their words; the others are counted.
const FAILURES_MAX: usize = 1000;

/// What to do with files that are there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// Leave them, and say so. One that is the same as the copy would be is no failure.
    #[default]
    Keep,
    /// Put the copy in their place.
    Replace,
}

/// Whether directories are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recursive {
    /// With all that is in them.
    Yes,
    /// No: to name one is a mistake.
    #[default]
    No,
}

/// Whether what is copied belongs to whom it belonged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owners {
    /// As far as this process may say so.
    #[default]
    Keep,
    /// To whom this process belongs.
    Mine,
}

/// How to copy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether directories are copied.
    pub recursive: Recursive,
    /// What to do with files that are there already.
    pub existing: Existing,
    /// Who owns the copies.
    pub owners: Owners,
}

/// Something that was not copied.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Where it is in the image's file system; escaped, for people.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Something that the target could not keep.
#[derive(Clone, Debug)]
pub struct NotKept {
    /// What: "owners", "device files", "extended attributes (security.*)" …
    pub what: String,
    /// How many files it is about.
    pub count: u64,
    /// One of them; escaped, for people.
    pub example: String,
    /// Why, as the system says.
    pub reason: String,
}

/// What was copied, and what was not.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Further names of files that were copied already.
    pub hard_links: u64,
    /// Devices, pipes, sockets.
    pub specials: u64,
    /// Files that were there already, and the same.
    pub already_there: u64,
    /// Bytes written; holes do not count.
    pub bytes: u64,
    /// How many files were not copied.
    pub failed: u64,
    /// The first of them.
    pub failures: Vec<Failure>,
    not_kept: BTreeMap<String, NotKept>,
}

impl Summary {
    /// What the target could not keep, a line each.
    pub fn not_kept(&self) -> impl Iterator<Item = &NotKept> {
        self.not_kept.values()
    }

    fn fail(&mut self, path: &[u8], reason: impl Into<String>) {
        self.failed += 1;
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(Failure { path: shown(path), reason: reason.into() });
        }
    }

    fn lose(&mut self, what: &str, path: &[u8], reason: impl Into<String>) {
        let entry = self.not_kept.entry(what.to_owned()).or_insert_with(|| NotKept {
            what: what.to_owned(),
            count: 0,
            example: shown(path),
            reason: reason.into(),
        });
        entry.count += 1;
    }
}

fn shown(path: &[u8]) -> String {
    format!("/{}", path.split(|byte| *byte == b'/').map(escaped).collect::<Vec<_>>().join("/"))
}

/// Copies files and trees. As with `cp`, they go into `target` when that is a directory or there are several of them;
/// otherwise `target` is the new name.
///
/// What cannot be read or written is left out and stands in the summary; the copy goes on.
///
/// # Errors
/// [`Error::Usage`] for a directory without [`Recursive::Yes`]; [`Error::Io`] for a target that cannot be written to
/// any more (full, gone); [`Error::Interrupted`]. The same call again goes on where this one ended.
pub fn copy(
    files: &dyn FileSystem,
    sources: &[Found],
    target: &Path,
    options: &Options,
    progress: &Progress,
) -> Result<Summary> {
    if let Some(directory) =
        sources.iter().find(|found| found.stat.kind == Kind::Directory && options.recursive == Recursive::No)
    {
        return Err(Error::Usage(format!("{} is a directory; -r copies all that is in it", directory.shown())));
    }
    let (tree, names) = target::place(target, sources)?;
    progress.begin(Phase::Planning, 0);
    let total = plan(files, sources, progress)?;
    progress.begin(Phase::Copying, total);
    let mut job = Job { files, options, progress, tree, summary: Summary::default(), linked: HashMap::new() };
    let result = sources.iter().zip(&names).try_for_each(|(source, name)| job.copy_one(source, name));
    // Also what a copy that was interrupted has made.
    let flushed = job.tree.flush();
    result?;
    flushed?;
    if files.description().ownership == Ownership::None && job.summary.files + job.summary.directories > 0 {
        let what = match files.description().kind.as_str() {
            "ntfs" => Some("the permissions that Windows keeps (the copies have those of this machine)"),
            _ => None,
        };
        if let Some(what) = what {
            job.summary.lose(what, b"", "");
        }
    }
    Ok(job.summary)
}

/// Copies one tree, or one file; see [`copy`].
///
/// # Errors
/// As [`copy`].
pub fn copy_tree(
    files: &dyn FileSystem,
    source: &Found,
    target: &Path,
    options: &Options,
    progress: &Progress,
) -> Result<Summary> {
    copy(files, std::slice::from_ref(source), target, &Options { recursive: Recursive::Yes, ..*options }, progress)
}

/// How many bytes there are to be copied.
fn plan(files: &dyn FileSystem, sources: &[Found], progress: &Progress) -> Result<u64> {
    let mut total = 0u64;
    let mut add = |stat: &Stat| {
        if stat.kind == Kind::File {
            total = total.saturating_add(stat.size.min(stat.stored.max(4096)));
        }
    };
    for source in sources {
        add(&source.stat);
        if source.stat.kind == Kind::Directory {
            walk(files, source.stat.node, Order::Place, &mut |event| {
                progress.check()?;
                if let Event::Found { stat, .. } = event {
                    add(stat);
                }
                Ok(Next::Continue)
            })?;
        }
    }
    Ok(total)
}

/// A copy at work.
struct Job<'a> {
    files: &'a dyn FileSystem,
    options: &'a Options,
    progress: &'a Progress,
    tree: TargetTree,
    summary: Summary,
    /// Where files with several names were copied to: the names from the target on.
    linked: HashMap<NodeId, Vec<Vec<u8>>>,
}

impl Job<'_> {
    fn copy_one(&mut self, source: &Found, name: &[u8]) -> Result<()> {
        let path = source.path.join(&b'/');
        if source.stat.kind != Kind::Directory {
            return self.copy_file(&path, name, &source.stat);
        }
        if !self.enter(&path, name, &source.stat)? {
            return Ok(());
        }
        let (files, progress) = (self.files, self.progress);
        // Directories that could not be made are not entered, and not left.
        walk(files, source.stat.node, Order::Place, &mut |event| {
            progress.check()?;
            let whole =
                |below: &[u8]| if path.is_empty() { below.to_vec() } else { [&path, &b"/"[..], below].concat() };
            match event {
                Event::Found { path, name, stat, .. } if stat.kind == Kind::Directory => {
                    Ok(if self.enter(&whole(path), name, stat)? { Next::Continue } else { Next::Skip })
                }
                Event::Found { path, name, stat, .. } => {
                    self.copy_file(&whole(path), name, stat)?;
                    Ok(Next::Continue)
                }
                Event::Left { path, node } => {
                    self.leave(&whole(path), node)?;
                    Ok(Next::Continue)
                }
                Event::Failed { path, error } => {
                    self.fail(&whole(path), unwrapped(error))?;
                    Ok(Next::Continue)
                }
            }
        })
    }

    /// Counts a failure; one that all that follows would share ends the copy.
    fn fail(&mut self, path: &[u8], error: Error) -> Result<()> {
        use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match error {
            Error::Interrupted => return Err(error),
            Error::Io { error: ref cause, .. }
                if matches!(cause.kind(), QuotaExceeded | ReadOnlyFilesystem | StorageFull)
                    || cause.raw_os_error() == Some(nix::errno::Errno::EIO as i32) =>
            {
                return Err(error);
            }
            error => self.summary.fail(path, error.to_string()),
        }
        Ok(())
    }

    /// Makes a directory, and goes into it; false when that cannot be.
    fn enter(&mut self, path: &[u8], name: &[u8], _stat: &Stat) -> Result<bool> {
        match self.tree.enter(name) {
            Ok(()) => Ok(true),
            Err(error) => self.fail(path, error).map(|()| false),
        }
    }

    /// Gives the directory what it had, now that nothing changes it any more, and goes back.
    fn leave(&mut self, path: &[u8], node: NodeId) -> Result<()> {
        match self.files.stat(node).map_err(unwrapped) {
            Ok(stat) => {
                Writer::new(self.files, self.options, &mut self.summary, path, &stat).finish_directory(&self.tree)?;
                self.summary.directories += 1;
            }
            Err(error) => self.fail(path, error)?,
        }
        self.tree.leave()
    }

    fn copy_file(&mut self, path: &[u8], name: &[u8], stat: &Stat) -> Result<()> {
        match self.try_copy(path, name, stat) {
            Ok(()) => Ok(()),
            Err(error) => self.fail(path, error),
        }
    }

    fn try_copy(&mut self, path: &[u8], name: &[u8], stat: &Stat) -> Result<()> {
        self.progress.check()?;
        if stat.kind != Kind::Directory
            && stat.links > 1
            && let Some(first) = self.linked.get(&stat.node)
            && first.as_slice() != self.tree.path_of(name)
        {
            match self.tree.link(first, name, self.options.existing) {
                Ok(()) => {
                    self.summary.hard_links += 1;
                    return Ok(());
                }
                Err(Error::Io { error, .. }) if is_unable(&error) => {
                    self.summary.lose("hard links (the names have a copy each)", path, error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        let mut writer = Writer::new(self.files, self.options, &mut self.summary, path, stat);
        let made = writer.make(&mut self.tree, name, self.progress)?;
        if made && stat.links > 1 {
            self.linked.entry(stat.node).or_insert_with(|| self.tree.path_of(name));
        }
        Ok(())
    }
}

/// Whether the system says that it never could, and not that something is wrong just now.
fn is_unable(error: &std::io::Error) -> bool {
    use nix::errno::Errno;
    let numbers = [
        Errno::EOPNOTSUPP,
        Errno::EPERM,
        Errno::EACCES,
        Errno::EMLINK,
        Errno::EXDEV,
        Errno::EINVAL,
        Errno::ENOSYS,
        Errno::E2BIG,
        Errno::ENOSPC,
        Errno::ERANGE,
    ];
    error.raw_os_error().is_some_and(|number| numbers.iter().any(|known| *known as i32 == number))
}
