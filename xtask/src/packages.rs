//! The Debian packages that each command needs. Missing ones are installed; when all are there, nothing is run.

use anyhow::{Result, bail};
use lifeboat_tests::tool;

/// Disks and the file systems on them.
pub(crate) const DISKS: &[&str] =
    &["dosfstools", "e2fsprogs", "fdisk", "gdisk", "mount", "mtools", "ntfs-3g", "util-linux", "xfsprogs"];

/// What puts boot media together. What goes onto them comes from packages that are unpacked, not installed.
pub(crate) const MEDIA: &[&str] =
    &["binutils", "dosfstools", "e2fsprogs", "fdisk", "grub-common", "grub-pc-bin", "mtools", "xorriso"];

/// What the tests compare with, and where the machines come from that they boot.
pub(crate) const TESTS: &[&str] = &[
    "acl",
    "attr",
    "btrfs-progs",
    "bzip2",
    "cpio",
    "debootstrap",
    "exfat-fuse",
    "exfatprogs",
    "ipxe-qemu",
    "libnbd-bin",
    "kmod",
    "libarchive-tools",
    "libxml2-utils",
    "lvm2",
    "lz4",
    "ovmf",
    "partclone",
    "psmisc",
    "python3",
    "python3-libvhdi",
    "python3-pip",
    "qemu-system-x86",
    "qemu-utils",
    "xz-utils",
    "zstd",
];

/// What `cargo xtask ci` needs beside what it calls: libFuzzer is C++, and the tree is asked for its files.
pub(crate) const CHECKS: &[&str] = &["g++", "git"];

/// What the benchmarks measure, and what they fill their disks with.
pub(crate) const PEERS: &[&str] =
    &["borgbackup", "debootstrap", "fio", "libnbd-bin", "partclone", "qemu-system-x86", "qemu-utils", "restic", "zstd"];

/// Sees to it that every package of these lists is installed.
///
/// # Errors
/// When some are missing and cannot be installed; says what to run.
pub(crate) fn ensure(lists: &[&[&str]]) -> Result<()> {
    if tool::find("dpkg-query").is_none() {
        println!("This is not a Debian system: these packages' programs must be there: {}", lists.concat().join(" "));
        return Ok(());
    }
    let wanted = lists.concat();
    let missing = missing(&wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install --no-install-recommends --yes {}", missing.join(" "));
    if !tool::is_root() {
        bail!("some packages are missing; run this once:\n  sudo {install}");
    }
    println!("Installing {}", missing.join(" "));
    let apt_get =
        |words: &[&str]| tool::show(tool::command("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(words));
    let install =
        |packages: &[&str]| apt_get(&[&["install", "--quiet", "--no-install-recommends", "--yes"], packages].concat());
    apt_get(&["update", "--quiet"])?;
    install(&missing)?;
    // What was there from another release may have had to go for what came: qemu-utils of the backports for QEMU.
    match self::missing(&wanted)? {
        gone if gone.is_empty() => Ok(()),
        gone => install(&gone),
    }
}

fn missing<'a>(wanted: &[&'a str]) -> Result<Vec<&'a str>> {
    // It fails when it does not know a package, and still lists the others.
    let format = "--showformat=${Package} ${db:Status-Status}\n";
    let listed = tool::command("dpkg-query").arg("--show").arg(format).args(wanted).output()?;
    let listed = String::from_utf8_lossy(&listed.stdout);
    let mut missing: Vec<&str> = wanted.to_vec();
    missing.retain(|name| !listed.lines().any(|line| line.strip_suffix(" installed") == Some(name)));
    missing.sort_unstable();
    missing.dedup();
    Ok(missing)
}
