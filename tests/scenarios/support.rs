//! The work folder, the disks that several scenarios share, and why a scenario is skipped.

use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result};
use lifeboat_tests::boot_disk::{self, BootDisk};
use lifeboat_tests::disk::Table;
use lifeboat_tests::mounted::{Keep, WorkFolder};
use lifeboat_tests::{debian, imager, tool};

/// Where disks, logs and the Debian system are: the system stays for the next run.
pub(crate) fn folder() -> Result<&'static WorkFolder> {
    static FOLDER: OnceLock<WorkFolder> = OnceLock::new();
    static OPENING: Mutex<()> = Mutex::new(());
    let _one = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(folder) = FOLDER.get() {
        return Ok(folder);
    }
    tool::catch_interrupts()?;
    let folder = WorkFolder::open(&imager::target_folder()?.join("e2e"), Keep::Files)?;
    Ok(FOLDER.get_or_init(|| folder))
}

/// The freshly installed disk with this table, made by whoever asks first.
pub(crate) fn installed_disk(table: Table) -> Result<BootDisk> {
    static DISKS: Mutex<Vec<(Table, BootDisk)>> = Mutex::new(Vec::new());
    let mut disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, disk)) = disks.iter().find(|(made, _)| *made == table) {
        return Ok(disk.clone());
    }
    let folder = folder()?;
    let tarball = debian::tarball(folder)?;
    let image = folder.join(&format!("{table:?}.img").to_lowercase());
    let disk = boot_disk::make(folder, &tarball, &image, table).context("cannot make a disk that boots")?;
    disks.push((table, disk.clone()));
    Ok(disk)
}

/// Says what is missing for a scenario with virtual machines on this machine, and true, when something is.
pub(crate) fn skip(scenario: &str) -> bool {
    let missing = if !tool::is_root() {
        Some("needs root: loop devices, mounts and debootstrap")
    } else if tool::find("qemu-system-x86_64").is_none() || !Path::new("/usr/share/OVMF/OVMF_CODE_4M.fd").exists() {
        Some("needs QEMU and OVMF; `cargo xtask test` installs them")
    } else if tool::find("debootstrap").is_none() {
        Some("needs debootstrap; `cargo xtask test` installs it")
    } else {
        None
    };
    if let Some(missing) = missing {
        say(&format!("skipped: {scenario}: {missing}"));
    }
    missing.is_some()
}

/// Says something that is seen even when the test passes: what `println!` prints, the test runner keeps to itself.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
