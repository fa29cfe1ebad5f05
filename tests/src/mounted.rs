//! Loop devices and mounts that are gone when dropped, and a work folder that leaves neither behind.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::disk::Partition;
use crate::tool;

/// A loop device, detached when dropped.
#[derive(Debug)]
pub struct Loop {
    /// The device: `/dev/loopN`.
    pub path: PathBuf,
}

impl Loop {
    /// Attaches a whole image; `options` are losetup's own (`--partscan`, `--read-only` …).
    ///
    /// # Errors
    /// What losetup says.
    pub fn attach(image: &Path, options: &[&str]) -> Result<Self> {
        let fixed = ["--find", "--show"].iter().chain(options).map(OsStr::new);
        let path = tool::run("losetup", fixed.chain([image.as_os_str()]))?;
        Ok(Self { path: path.trim().into() })
    }

    /// Attaches a whole disk with a device node for each partition (`/dev/loopNpM`). The kernel may have been built
    /// without any kind of partition table; partx then tells it where the partitions are.
    ///
    /// # Errors
    /// What losetup or partx say.
    pub fn disk(image: &Path) -> Result<Self> {
        let device = Self::attach(image, &["--partscan"])?;
        tool::run("partx", [OsStr::new("--update"), device.path.as_os_str()])?;
        Ok(device)
    }

    /// Attaches one partition of an image. Needs no partition scan, and so no device nodes beside its own.
    ///
    /// # Errors
    /// What losetup says.
    pub fn partition(image: &Path, partition: &Partition, options: &[&str]) -> Result<Self> {
        let (offset, size) = (partition.start.to_string(), partition.len.to_string());
        let mut all = vec!["--offset", &offset, "--sizelimit", &size];
        all.extend(options);
        Self::attach(image, &all)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        tool::clean_up("losetup", [OsStr::new("--detach"), self.path.as_os_str()]);
    }
}

/// A mounted file system, unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    /// Where it is mounted.
    pub at: PathBuf,
    // After the mount point, so that the device goes when the file system is gone.
    _device: Option<Loop>,
}

impl Mount {
    /// Mounts one partition of an image at the folder `at`. `kind` is the file system: a kernel's one, or
    /// `ntfs-3g`, or `bind` for a folder of this system.
    ///
    /// # Errors
    /// What losetup or mount say.
    pub fn partition(image: &Path, partition: &Partition, kind: &str, options: &str, at: &Path) -> Result<Self> {
        let device = Loop::partition(image, partition, if options.starts_with("ro") { &["--read-only"] } else { &[] })?;
        let mut mount = Self::new(&device.path, kind, options, at)?;
        mount._device = Some(device);
        Ok(mount)
    }

    /// Mounts `source` at the folder `at`; `kind` and `options` are mount's own.
    ///
    /// # Errors
    /// What mount says.
    pub fn new(source: &Path, kind: &str, options: &str, at: &Path) -> Result<Self> {
        fs::create_dir_all(at).with_context(|| format!("cannot make {}", at.display()))?;
        let words = ["-t", kind, "-o", options].map(OsStr::new);
        tool::run("mount", words.into_iter().chain([source.as_os_str(), at.as_os_str()]))?;
        Ok(Self { at: at.to_owned(), _device: None })
    }

    /// Unmounts, so that everything that was written is in the image when this returns.
    ///
    /// # Errors
    /// When it stays busy.
    pub fn unmount(self) -> Result<()> {
        tool::run("sync", [OsStr::new("--file-system"), self.at.as_os_str()])?;
        if !unmount(&self.at) {
            bail!("{} stays busy", self.at.display());
        }
        // A FUSE file system's process may still be writing for a moment after the mount is gone.
        if let Some(device) = &self._device {
            wait_until_unused(&device.path)?;
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        unmount(&self.at);
    }
}

fn is_mounted(at: &Path) -> bool {
    mounts_below(at).iter().any(|mount| mount == at)
}

fn unmount(at: &Path) -> bool {
    for _ in 0..50 {
        if !is_mounted(at) || tool::clean_up("umount", [at]) {
            return true;
        }
        sleep(Duration::from_millis(100));
    }
    tool::clean_up("umount", [OsStr::new("--lazy"), at.as_os_str()])
}

/// Waits for the last process that holds the device open (ours do not) to let go of it.
fn wait_until_unused(device: &Path) -> Result<()> {
    for _ in 0..100 {
        if !held_open(device) {
            return Ok(());
        }
        sleep(Duration::from_millis(100));
    }
    bail!("{} is still in use ten seconds after it was unmounted", device.display());
}

fn held_open(device: &Path) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes
        .flatten()
        .filter_map(|process| fs::read_dir(process.path().join("fd")).ok())
        .flat_map(|open| open.flatten())
        .any(|file| fs::read_link(file.path()).is_ok_and(|target| target == device))
}

/// Mount points at or below a folder, the deepest first.
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut below: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(|at| PathBuf::from(at.replace("\\040", " ")))
        .filter(|at| at.starts_with(folder))
        .collect();
    below.sort_by_key(|at| std::cmp::Reverse(at.as_os_str().len()));
    below
}

/// A folder for images and mounts. Whatever is mounted in it or attached from it is taken down when it is
/// opened (an earlier run may have been killed) and when it is dropped.
#[derive(Debug)]
pub struct WorkFolder {
    /// The folder.
    pub path: PathBuf,
    keep: Keep,
}

/// What becomes of a [`WorkFolder`]'s files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// They are deleted when it is opened and when it is dropped.
    Nothing,
    /// They stay.
    Files,
}

impl WorkFolder {
    /// Makes the folder, or clears away what an earlier run left of it.
    ///
    /// # Errors
    /// When it cannot be made or emptied.
    pub fn open(path: &Path, keep: Keep) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        let path = path.canonicalize().with_context(|| format!("cannot open {}", path.display()))?;
        let folder = Self { path, keep };
        folder.take_down();
        if keep == Keep::Nothing {
            empty(&folder.path)?;
        }
        Ok(folder)
    }

    /// A path in the folder.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn take_down(&self) {
        for at in mounts_below(&self.path) {
            unmount(&at);
        }
        for device in loops_backed_by(&self.path) {
            tool::clean_up("losetup", ["--detach", &device]);
        }
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        self.take_down();
        // Never delete through a mount that would not go.
        if self.keep == Keep::Nothing && mounts_below(&self.path).is_empty() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn empty(folder: &Path) -> Result<()> {
    if let Some(mount) = mounts_below(folder).first() {
        bail!("{} is still mounted; unmount it first", mount.display());
    }
    fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

fn loops_backed_by(folder: &Path) -> Vec<String> {
    let Ok(list) = tool::command("losetup").args(["--list", "--noheadings", "--output", "NAME,BACK-FILE"]).output()
    else {
        return Vec::new();
    };
    String::from_utf8_lossy(&list.stdout)
        .lines()
        .filter_map(|line| line.trim().split_once(char::is_whitespace))
        .filter(|(_, file)| Path::new(file.trim()).starts_with(folder))
        .map(|(device, _)| device.to_owned())
        .collect()
}
