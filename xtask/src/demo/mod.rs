//! `cargo xtask demo`: a disk is imaged, changed, imaged again, verified, restored and rolled back; each time every
//! file is compared, and a table shows what each step cost. Then a machine that was started from the boot medium does
//! the same with a Debian system, which boots from another disk afterwards.
//!
//! Everything lies below `target/demo` and `target/e2e`, and what is large is gone when the demo ends.

mod machine;
mod volumes;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use lifeboat_tests::disk::{self, Disk, MIB};
use lifeboat_tests::mounted::{Keep, Loop, WorkFolder};
use lifeboat_tests::{imager, media as media_of_tests, tool};

use crate::measure::{self, Cost};
use crate::table::{self, Table};
use crate::{media, packages};
use volumes::State;

/// How much larger the disk is to which the first image is restored.
const LARGER_BY: u64 = 1024 * MIB;

pub(crate) fn run() -> Result<()> {
    if !tool::is_root() {
        bail!(
            "the demo attaches loop devices and mounts file systems, which needs root; run `sudo -E cargo xtask demo`, \
             or as root in a container or virtual machine with /dev/loop-control"
        );
    }
    packages::ensure(&[packages::DISKS, packages::TESTS])?;
    let start = Instant::now();
    let made = media::run(&media::Options::default())?;
    media_of_tests::are_in(made.folder);
    let folder = WorkFolder::open(&imager::target_folder()?.join("demo"), Keep::Nothing)?;
    let mut demo = Demo::new(made.imager, folder)?;
    demo.play()?;
    println!("\n{}", demo.table.markdown());
    println!("Every file compared equal, and each file system passed its own check.\n");
    let pictures = machine::play()?;
    println!("\nPictures of the screens are in {}. {:.0} s in all.", pictures.display(), start.elapsed().as_secs_f64());
    Ok(())
}

struct Demo {
    imager: PathBuf,
    folder: WorkFolder,
    repository: PathBuf,
    password_file: PathBuf,
    table: Table,
}

/// What a step does, for the table's last column.
#[derive(Clone, Copy)]
enum Does {
    /// It reads a disk into the repository: what it read and did not have to store, it saved.
    Capture,
    /// It writes a disk out of the repository: what it did not have to write of the disk's content, it saved.
    RollBack,
    Other,
}

impl Demo {
    fn new(imager: PathBuf, folder: WorkFolder) -> Result<Self> {
        let (repository, password_file) = (folder.join("repository"), folder.join("password"));
        fs::write(&password_file, "correct horse battery staple\n")?;
        let heading = ["step", "time", "read", "written", "repository grows by", "saved", "peak memory"];
        Ok(Self { imager, folder, repository, password_file, table: Table::new(1, heading) })
    }

    fn play(&mut self) -> Result<()> {
        say("making a disk with an EFI system partition, ext4, XFS, NTFS and swap, filled from this system");
        let disk = volumes::make(&self.folder, &self.folder.join("disk.img"))?;
        let before = State::of(&self.folder, &disk)?;
        say(&format!("{} files on it", before.files()));

        let repository = self.repository.clone();
        self.step("init, with a password", Does::Other, &["init", text(&repository)?])?;
        self.capture("capture", "before", &disk)?;

        say("changing the disk: new files, rewritten files, deleted files");
        volumes::change(&self.folder, &disk)?;
        let after = State::of(&self.folder, &disk)?;
        self.capture("capture after the change", "after", &disk)?;
        self.step("diff of the two images", Does::Other, &["diff", "before", "after"])?;
        self.step("verify, reading all data", Does::Other, &["verify", "--read-data"])?;

        let larger = self.folder.join("larger.img");
        disk::sparse_file(&larger, fs::metadata(&disk.image)?.len() + LARGER_BY)?;
        let restore = ["restore", "before", "--to", text(&larger)?, "--force"];
        self.step("restore to a larger disk", Does::Other, &restore)?;
        self.compare("the larger disk", &before, &larger)?;
        fs::remove_file(&larger)?;

        {
            // A device, as an administrator would have it; it has no serial, so it is confirmed by its path.
            let device = Loop::attach(&disk.image, &[])?;
            let target = text(&device.path)?;
            let roll_back = ["restore", "before", "--changed-only", "--to", target, "--confirm", target];
            self.step("roll back what changed", Does::RollBack, &roll_back)?;
        }
        self.compare("the disk that was rolled back", &before, &disk.image)?;

        let other = self.folder.join("after.img");
        self.step("restore, reading back", Does::Other, &["restore", "after", "--verify", "--to", text(&other)?])?;
        self.compare("the second image's disk", &after, &other)
    }

    fn compare(&self, what: &str, expected: &State, image: &Path) -> Result<()> {
        say(&format!("checking {what}: its file systems, and every file"));
        let disk = Disk::open(image)?;
        volumes::check(&disk).with_context(|| format!("{what} is damaged"))?;
        expected.check_equal(&State::of(&self.folder, &disk)?, what)
    }

    fn capture(&mut self, step: &str, name: &str, disk: &Disk) -> Result<()> {
        let device = Loop::attach(&disk.image, &["--read-only"])?;
        self.step(step, Does::Capture, &["capture", text(&device.path)?, "--name", name])
    }

    fn step(&mut self, name: &str, does: Does, arguments: &[&str]) -> Result<()> {
        say(&format!("imager {}", arguments.join(" ")));
        let mut command = tool::command(&self.imager);
        command.env("IMAGER_REPO", &self.repository).env("IMAGER_PASSWORD_FILE", &self.password_file).args(arguments);
        let before = size_of(&self.repository)?;
        let cost = measure::cost_of(&command, &self.folder.path)?;
        let grown = size_of(&self.repository)?.saturating_sub(before);
        self.add_row(name, does, cost, grown);
        Ok(())
    }

    fn add_row(&mut self, name: &str, does: Does, cost: Cost, grown: u64) {
        let saved = match does {
            Does::Capture => percent_less(grown, cost.read_bytes),
            Does::RollBack => percent_less(cost.written_bytes, cost.read_bytes),
            Does::Other => String::new(),
        };
        self.table.row([
            name.to_owned(),
            table::seconds(cost.wall_s),
            table::bytes(cost.read_bytes),
            table::bytes(cost.written_bytes),
            table::bytes(grown),
            saved,
            table::bytes(cost.memory_peak_bytes),
        ]);
    }
}

/// A path as a word of a command line.
fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

fn percent_less(part: u64, whole: u64) -> String {
    let percent = u128::from(whole.saturating_sub(part)) * 100 / u128::from(whole.max(1));
    format!("{percent} %")
}

fn say(line: &str) {
    println!("- {line}");
}

fn size_of(folder: &Path) -> Result<u64> {
    if !folder.exists() {
        return Ok(0);
    }
    let listed = tool::run("du", [OsStr::new("-s"), "-B1".as_ref(), "--apparent-size".as_ref(), folder.as_os_str()])?;
    listed.split_whitespace().next().and_then(|size| size.parse().ok()).context("du does not say a size")
}
