//! The demo's disk: which file systems it has, what is on them, and what becomes of them in a day.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, Result};
use lifeboat_tests::disk::{Disk, Partition, Table, Wanted};
use lifeboat_tests::fingerprint::Fingerprint;
use lifeboat_tests::mounted::{Loop, Mount, WorkFolder};
use lifeboat_tests::tool;

const DISK_MIB: u64 = 3072;

/// One partition of the disk and what is on it.
struct Volume {
    wanted: Wanted<'static>,
    kind: Kind,
    /// Where its files come from, and how much of it is taken.
    source: &'static str,
    source_mib: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fat,
    Ext4,
    Xfs,
    Ntfs,
    Swap,
}

const VOLUMES: &[Volume] = &[
    volume("esp", "uefi", 128, Kind::Fat, "/usr/bin", 24),
    volume("root", "linux", 1200, Kind::Ext4, "/usr/lib", 320),
    volume("data", "linux", 900, Kind::Xfs, "/usr/share", 200),
    volume("windows", "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", 512, Kind::Ntfs, "/usr/include", 60),
    volume("swap", "swap", 128, Kind::Swap, "", 0),
];

const fn volume(
    name: &'static str,
    kind_on_disk: &'static str,
    mib: u64,
    kind: Kind,
    source: &'static str,
    source_mib: u64,
) -> Volume {
    Volume { wanted: Wanted { name, kind: kind_on_disk, mib }, kind, source, source_mib }
}

impl Kind {
    /// mount's name for it; FAT is read and written by mtools, for kernels without it.
    fn mounted_as(self) -> Option<&'static str> {
        match self {
            Self::Ext4 => Some("ext4"),
            Self::Xfs => Some("xfs"),
            Self::Ntfs => Some("ntfs-3g"),
            Self::Fat | Self::Swap => None,
        }
    }

    fn make(self, device: &Path) -> Result<()> {
        let (program, options): (&str, &[&str]) = match self {
            Self::Fat => ("mkfs.vfat", &["-F", "32", "-n", "ESP"]),
            Self::Ext4 => ("mkfs.ext4", &["-q", "-L", "root"]),
            Self::Xfs => ("mkfs.xfs", &["-q", "-L", "data"]),
            Self::Ntfs => ("mkntfs", &["-Q", "-F", "-q", "-L", "windows"]),
            Self::Swap => ("mkswap", &["-L", "swap"]),
        };
        tool::run(program, options.iter().map(OsStr::new).chain([device.as_os_str()]))?;
        Ok(())
    }

    /// Its own checker, told to change nothing.
    fn check(self, device: &Path) -> Result<()> {
        let (program, options): (&str, &[&str]) = match self {
            Self::Fat => ("fsck.vfat", &["-n"]),
            Self::Ext4 => ("e2fsck", &["-f", "-n"]),
            Self::Xfs => ("xfs_repair", &["-n"]),
            Self::Ntfs => ("ntfsfix", &["-n"]),
            Self::Swap => ("swaplabel", &[]),
        };
        tool::run(program, options.iter().map(OsStr::new).chain([device.as_os_str()]))?;
        Ok(())
    }
}

/// Makes the disk and fills it.
pub(crate) fn make(folder: &WorkFolder, image: &Path) -> Result<Disk> {
    let wanted: Vec<Wanted> = VOLUMES.iter().map(|volume| volume.wanted).collect();
    let disk = Disk::create(image, DISK_MIB, Table::Gpt, &wanted)?;
    for (volume, number) in VOLUMES.iter().zip(1..) {
        {
            let device = Loop::partition(image, disk.partition(number)?, &[])?;
            volume.kind.make(&device.path)?;
            tool::run("sync", [&device.path])?;
        }
        with_files(folder, &disk, number, volume.kind, Access::Write, |files| {
            copy_some(volume.source.as_ref(), volume.source_mib, files)
        })?;
    }
    Ok(disk)
}

/// New files, files rewritten from the middle on, deleted files, on every file system.
pub(crate) fn change(folder: &WorkFolder, disk: &Disk) -> Result<()> {
    for (volume, number) in VOLUMES.iter().zip(1..) {
        with_files(folder, disk, number, volume.kind, Access::Write, |files| {
            let script = "cd \"$files\"
                list=$(find . -type f | sort)
                awk 'NR % 60 == 0' <<< \"$list\" | xargs --no-run-if-empty rm
                awk 'NR % 60 == 30' <<< \"$list\" | while read -r file; do
                  echo rewritten | dd of=\"$file\" bs=1 seek=$(($(stat -c %s \"$file\") / 2)) conv=notrunc status=none
                done
                mkdir new; seq 400000 > new/numbers.txt; head -c 1M /dev/urandom > new/noise.bin";
            tool::sh(script, &[("files", files)])?;
            Ok(())
        })?;
    }
    Ok(())
}

/// Runs each file system's own checker.
pub(crate) fn check(disk: &Disk) -> Result<()> {
    for (volume, number) in VOLUMES.iter().zip(1..) {
        let device = Loop::partition(&disk.image, disk.partition(number)?, &["--read-only"])?;
        volume.kind.check(&device.path).with_context(|| format!("partition {number}"))?;
    }
    Ok(())
}

/// What is in every file of a disk.
pub(crate) struct State(Vec<Fingerprint>);

impl State {
    pub(crate) fn of(folder: &WorkFolder, disk: &Disk) -> Result<Self> {
        let mut volumes = Vec::new();
        for (volume, number) in VOLUMES.iter().zip(1..) {
            with_files(folder, disk, number, volume.kind, Access::Read, |files| {
                volumes.push(Fingerprint::of(files)?);
                Ok(())
            })?;
        }
        Ok(Self(volumes))
    }

    pub(crate) fn files(&self) -> usize {
        self.0.iter().map(Fingerprint::files).sum()
    }

    pub(crate) fn check_equal(&self, other: &Self, what: &str) -> Result<()> {
        let pairs = self.0.iter().zip(&other.0).zip(VOLUMES);
        pairs.into_iter().try_for_each(|((mine, theirs), volume)| {
            mine.check_equal(theirs, &format!("{what}, partition \"{}\"", volume.wanted.name))
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// Gives `work` a folder with the files of a partition; nothing happens for one without files.
fn with_files(
    folder: &WorkFolder,
    disk: &Disk,
    number: usize,
    kind: Kind,
    access: Access,
    work: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let at = folder.join("files");
    let partition = disk.partition(number)?;
    match (kind, kind.mounted_as()) {
        (Kind::Swap, _) => Ok(()),
        (_, Some(kind)) => with_mount(&disk.image, partition, kind, access, &at, work),
        (_, None) => with_copies(&disk.mtools_name(number)?, access, &at, work),
    }
}

fn with_mount(
    image: &Path,
    partition: &Partition,
    kind: &str,
    access: Access,
    at: &Path,
    work: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let options = if access == Access::Read { "ro" } else { "rw" };
    let mount = Mount::partition(image, partition, kind, options, at)?;
    work(&mount.at)?;
    mount.unmount()
}

/// FAT: its files are copied out, and back in when they may have changed.
fn with_copies(volume: &str, access: Access, at: &Path, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let variables = [("volume", OsStr::new(volume)), ("at", at.as_os_str())];
    // A copy of an empty volume has nothing to match `::/*`.
    tool::sh(
        "rm -rf \"$at\"; mkdir \"$at\"; mdir -b -i \"$volume\" ::/ | grep -q . && mcopy -s -p -m -i \"$volume\" '::/*' \"$at\" || true",
        &variables,
    )?;
    work(at)?;
    if access == Access::Write {
        tool::sh(
            "mdir -b -i \"$volume\" ::/ | grep -q . && mdeltree -i \"$volume\" '::/*'; mcopy -s -m -i \"$volume\" \"$at\"/* ::/",
            &variables,
        )?;
    }
    tool::sh("rm -rf \"$at\"", &variables)?;
    Ok(())
}

/// Copies whole files, in the order of their names, until `mib` MiB are reached; only those with names that every
/// file system here can hold, and tell apart when it ignores case.
fn copy_some(source: &Path, mib: u64, to: &Path) -> Result<()> {
    let script = "cd \"$source\"
        find . -xdev -type f -size -8M -printf '%s %p\\n' | sort -k 2 |
          awk -v most=$((mib << 20)) 'NF == 2 && $2 ~ /^[A-Za-z0-9._\\/+-]+$/ && !seen[tolower($2)]++ &&
            (total += $1) <= most { print $2 }' |
          tar -cf - --no-recursion --files-from - | tar -xf - -C \"$to\" --no-same-owner";
    tool::sh(script, &[("source", source.as_os_str()), ("mib", mib.to_string().as_ref()), ("to", to.as_os_str())])?;
    Ok(())
}
