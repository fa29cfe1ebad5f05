//! The work folder, the disks that several scenarios share, and why a scenario is skipped.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, ensure};
use lifeboat_tests::boot_disk::{self, BootDisk, ROOT_UUID};
use lifeboat_tests::disk::{Disk, Table};
use lifeboat_tests::fingerprint::Fingerprint;
use lifeboat_tests::machine::{Bus, Drive, Firmware, Machine};
use lifeboat_tests::mounted::{Keep, Loop, Mount, WorkFolder};
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

/// A freshly installed disk, what is on it, and an image of it.
#[derive(Clone)]
pub(crate) struct Installed {
    pub(crate) disk: BootDisk,
    pub(crate) root_files: Fingerprint,
    pub(crate) repository: Repository,
}

/// The installed and captured disk with this table, made by whoever asks first.
pub(crate) fn installed(table: Table) -> Result<Installed> {
    static DISKS: Mutex<Vec<(Table, Installed)>> = Mutex::new(Vec::new());
    let mut disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, installed)) = disks.iter().find(|(made, _)| *made == table) {
        return Ok(installed.clone());
    }
    let folder = folder()?;
    let name = format!("{table:?}").to_lowercase();
    let tarball = debian::tarball(folder)?;
    let image = folder.join(&format!("{name}.img"));
    let disk = boot_disk::make(folder, &tarball, &image, table).context("cannot make a disk that boots")?;
    let root_files = root_files(&disk, &format!("{name}-files"))?;
    let repository = Repository::create(folder, &format!("{name}-repository"))?;
    repository.imager(["capture".as_ref(), image.as_os_str()])?;
    let installed = Installed { disk, root_files, repository };
    disks.push((table, installed.clone()));
    Ok(installed)
}

/// Every file of the root file system; it passes its own check first.
pub(crate) fn root_files(disk: &BootDisk, mount_point: &str) -> Result<Fingerprint> {
    let root = disk.disk.partition(disk.root)?;
    {
        let device = Loop::partition(&disk.disk.image, root, &["--read-only"])?;
        tool::run("e2fsck", ["-f".as_ref(), "-n".as_ref(), device.path.as_os_str()])?;
    }
    let mount = Mount::partition(&disk.disk.image, root, "ext4", "ro", &folder()?.join(mount_point))?;
    Fingerprint::of(&mount.at)
}

/// The restored disk, whose root file system is sound and has every file that the installed one has.
pub(crate) fn same_files_as(installed: &Installed, image: &Path) -> Result<BootDisk> {
    let disk = Disk::open(image)?;
    ensure!(disk.partitions == installed.disk.disk.partitions, "the partitions lie elsewhere than before");
    let restored = BootDisk { disk, ..installed.disk.clone() };
    let name = image.file_stem().context("an image without a name")?.to_string_lossy();
    let files = root_files(&restored, &format!("{name}-files"))?;
    installed.root_files.check_equal(&files, "the restored root file system")?;
    Ok(restored)
}

/// It boots to a login prompt, and is the system that was meant.
pub(crate) fn boots(name: &str, restored: &BootDisk, firmware: Firmware, bus: Bus) -> Result<()> {
    let machine = Machine::new(name).firmware(firmware).drive(Drive::new(&restored.disk.image, bus));
    let mut guest = machine.start(&folder()?.path)?;
    let took = guest.wait_for_login_prompt()?;
    say(&format!("{name}: login prompt after {:.0} s", took.as_secs_f64()));
    guest.log_in()?;
    ensure!(guest.shell("findmnt -no UUID /")? == ROOT_UUID, "another root file system than ours");
    let is_uefi = guest.shell("test -d /sys/firmware/efi && echo yes || echo no")?;
    ensure!((is_uefi == "yes") == (firmware == Firmware::Ovmf), "started by other firmware than was meant");
    let failed = guest.shell("systemctl list-units --failed --plain --no-legend")?;
    ensure!(failed.is_empty(), "units failed in the guest:\n{failed}");
    guest.power_off()
}

/// A repository with a password, and the program that works on it.
#[derive(Clone)]
pub(crate) struct Repository {
    path: PathBuf,
    password_file: PathBuf,
    imager: PathBuf,
}

impl Repository {
    pub(crate) fn create(folder: &WorkFolder, name: &str) -> Result<Self> {
        let path = folder.join(name);
        if path.exists() {
            fs::remove_dir_all(&path).context("cannot clear away an earlier run's repository")?;
        }
        let password_file = folder.join(&format!("{name}.password"));
        fs::write(&password_file, "correct horse battery staple\n")?;
        let repository = Self { path, password_file, imager: imager::binary()? };
        repository.imager(["init".as_ref(), repository.path.as_os_str()])?;
        Ok(repository)
    }

    /// Runs the program and returns what it printed.
    pub(crate) fn imager<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        tool::output(&mut self.command(arguments))
    }

    /// The program, to be run.
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = tool::command(&self.imager);
        command.env("IMAGER_REPO", &self.path).env("IMAGER_PASSWORD_FILE", &self.password_file).args(arguments);
        command
    }

    /// Restores the newest image to a file, with more options.
    pub(crate) fn restore(&self, target: &Path, options: &[&str]) -> Result<()> {
        let words = ["restore", "latest", "--to"].map(std::ffi::OsStr::new);
        let words = words.into_iter().chain([target.as_os_str()]).chain(options.iter().map(std::ffi::OsStr::new));
        self.imager(words).map(drop)
    }
}

/// Says what is missing for a scenario with virtual machines on this machine, and true, when something is.
pub(crate) fn skip(scenario: &str) -> bool {
    let missing = if !tool::is_root() {
        Some("needs root: loop devices, mounts and debootstrap")
    } else if !has_qemu() {
        Some(NEEDS_QEMU)
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

/// As [`skip`], for scenarios that start only what is made here and attach nothing to this machine.
pub(crate) fn skip_without_qemu(scenario: &str) -> bool {
    if !has_qemu() {
        say(&format!("skipped: {scenario}: {NEEDS_QEMU}"));
    }
    !has_qemu()
}

const NEEDS_QEMU: &str = "needs QEMU and OVMF; `cargo xtask test` installs them";

fn has_qemu() -> bool {
    tool::find("qemu-system-x86_64").is_some() && Path::new("/usr/share/OVMF/OVMF_CODE_4M.fd").exists()
}

/// Says something that is seen even when the test passes: what `println!` prints, the test runner keeps to itself.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
