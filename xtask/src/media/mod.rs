//! `cargo xtask media`: everything that a machine can be started with, from one kernel and one initramfs.
//!
//! Two builds of the same sources with the same packages give the same bytes: nothing in a medium comes from the
//! clock, from chance, or from a folder's order.

mod agent;
mod boot;
mod initramfs;
mod iso;
mod kernel;
mod pxe;
mod stick;
mod uki;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use lifeboat_tests::{imager, tool};

use crate::packages;

#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Which modules go in: all of `initramfs/modules.list`, or what QEMU's machines need.
    #[arg(long, value_enum, default_value_t = Profile::Full)]
    pub(crate) profile: Profile,
    /// Builds everything twice, and fails when a byte differs.
    #[arg(long)]
    pub(crate) twice: bool,
}

/// How much goes on the media.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Profile {
    /// `target/media`: for machines.
    #[default]
    Full,
    /// `target/media-minimal`: for tests that build media again and again.
    Minimal,
}

/// What every medium holds, and where the media of one folder are made.
struct Ingredients {
    kernel: PathBuf,
    initramfs: PathBuf,
    /// `VERSION (COMMIT)`.
    build_id: String,
    /// What every file on the media is dated, in seconds since 1970.
    time: u32,
    os_release: String,
    /// Half-made things.
    work: PathBuf,
    /// Unpacked Debian packages.
    packages: PathBuf,
}

/// What was made.
pub(crate) struct Made {
    /// The media.
    pub(crate) folder: PathBuf,
    /// The program on them, as the command line.
    pub(crate) imager: PathBuf,
}

/// Makes the media and says where they are.
pub(crate) fn run(options: &Options) -> Result<Made> {
    packages::ensure(&[packages::MEDIA])?;
    let target = imager::target_folder()?;
    let folder = target.join(match options.profile {
        Profile::Full => "media",
        Profile::Minimal => "media-minimal",
    });
    let packages = target.join("packages");
    let sources = Sources {
        agent: step("the agent", || agent::build(&target))?,
        kernel: step("the kernel", || kernel::Kernel::get(&packages))?,
        packages,
        build_id: build_id()?,
        time: time()?,
    };
    if options.twice {
        let again = target.join("media-again");
        thread::scope(|scope| {
            let second = scope.spawn(|| sources.build(options.profile, &again));
            sources.build(options.profile, &folder)?;
            second.join().unwrap_or_else(|_| bail!("a thread panicked"))
        })?;
        tool::run("diff", ["--recursive".as_ref(), folder.as_os_str(), again.as_os_str()])
            .context("two builds of the same differ")?;
        fs::remove_dir_all(again)?;
        println!("both builds are the same, byte for byte");
    } else {
        sources.build(options.profile, &folder)?;
    }
    show_sizes(&folder)?;
    Ok(Made { folder, imager: agent::as_imager(&sources.agent)? })
}

/// What all media of one run are made from.
struct Sources {
    agent: PathBuf,
    kernel: kernel::Kernel,
    /// Unpacked Debian packages.
    packages: PathBuf,
    build_id: String,
    time: u32,
}

impl Sources {
    /// Makes all media in `folder`, which is emptied first.
    fn build(&self, profile: Profile, folder: &Path) -> Result<()> {
        let work = folder.join("work");
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("cannot clear away {}", folder.display()))?;
        }
        fs::create_dir_all(&work)?;
        let mut ingredients = Ingredients {
            kernel: self.kernel.image.clone(),
            initramfs: work.join("initramfs"),
            build_id: self.build_id.clone(),
            time: self.time,
            os_release: os_release(&self.build_id, &self.kernel.version),
            work: work.clone(),
            packages: self.packages.clone(),
        };
        let initramfs = step("the initramfs", || initramfs::build(profile, &self.agent, &self.kernel, &ingredients))?;
        fs::write(&ingredients.initramfs, initramfs)?;
        // From here on everything has the one date that goes on the media.
        ingredients.kernel = ingredients.dated_copy(&ingredients.kernel, "vmlinuz")?;
        ingredients.date(&ingredients.initramfs)?;

        step("lifeboat.iso", || iso::build(&ingredients, &folder.join("lifeboat.iso")))?;
        step("lifeboat-usb.img", || stick::build(&ingredients, &folder.join("lifeboat-usb.img")))?;
        step("lifeboat.efi", || uki::build(&ingredients, &folder.join("lifeboat.efi")))?;
        step("pxe", || pxe::build(&ingredients, &folder.join("pxe")))?;
        Ok(fs::remove_dir_all(work)?)
    }
}

impl Ingredients {
    /// A copy in the work folder that is dated as everything is.
    fn dated_copy(&self, file: &Path, name: &str) -> Result<PathBuf> {
        let copy = self.work.join(name);
        if let Some(folder) = copy.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(file, &copy).with_context(|| format!("cannot copy {}", file.display()))?;
        self.date(&copy)?;
        Ok(copy)
    }

    /// A text file in the work folder.
    fn text(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.work.join(name);
        fs::write(&file, text)?;
        self.date(&file)?;
        Ok(file)
    }

    fn date(&self, file: &Path) -> Result<()> {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(self.time.into());
        fs::File::options().write(true).open(file)?.set_modified(time).context("cannot date a file")
    }

    /// A tool that is to take this date for now.
    fn command(&self, program: &str) -> std::process::Command {
        let mut command = tool::command(program);
        command.env("SOURCE_DATE_EPOCH", self.time.to_string());
        command
    }
}

fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let made = work().with_context(|| format!("cannot make {name}"))?;
    println!("{name:<18} {:6.1} s", start.elapsed().as_secs_f64());
    Ok(made)
}

/// The version, and what the sources were at.
fn build_id() -> Result<String> {
    let git = |words: &[&str]| tool::output(tool::command("git").current_dir(imager::workspace()).args(words));
    let version = env!("CARGO_PKG_VERSION");
    // Sources may have been unpacked from an archive.
    let Ok(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return Ok(version.to_owned()) };
    let changed = if git(&["status", "--porcelain"])?.is_empty() { "" } else { ", changed" };
    Ok(format!("{version} ({}{changed})", commit.trim()))
}

/// The date of everything on the media: `SOURCE_DATE_EPOCH`, or the sources' own.
fn time() -> Result<u32> {
    /// The first that FAT can say.
    const YEAR_1980: u32 = 315_532_800;
    let said = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(said) => said,
        Err(_) => {
            let git = &mut tool::command("git");
            tool::output(git.current_dir(imager::workspace()).args(["log", "-1", "--format=%ct"]))
                .unwrap_or_else(|_| YEAR_1980.to_string())
        }
    };
    let time: u32 = said.trim().parse().context("SOURCE_DATE_EPOCH is not a number of seconds")?;
    // FAT counts in steps of two seconds.
    Ok(time.max(YEAR_1980) & !1)
}

fn os_release(build_id: &str, kernel: &str) -> String {
    format!(
        "NAME=Lifeboat\nID=lifeboat\nPRETTY_NAME=\"Lifeboat {build_id}\"\nVERSION_ID={}\nBUILD_ID=\"{build_id}\"\n\
         LIFEBOAT_KERNEL={kernel}\n",
        env!("CARGO_PKG_VERSION")
    )
}

fn show_sizes(folder: &Path) -> Result<()> {
    println!();
    for name in ["lifeboat.iso", "lifeboat-usb.img", "lifeboat.efi", "pxe/vmlinuz", "pxe/initramfs"] {
        let path = folder.join(name);
        let bytes = fs::metadata(&path).with_context(|| path.display().to_string())?.len();
        println!("{:7.1} MiB  {}", mib(bytes), path.display());
    }
    Ok(())
}

/// For people to read.
fn mib(bytes: u64) -> f64 {
    let tenths = bytes.saturating_mul(10) >> 20;
    f64::from(u32::try_from(tenths).unwrap_or(u32::MAX)) / 10.0
}
