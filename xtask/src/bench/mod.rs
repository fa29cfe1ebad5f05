//! `cargo xtask bench`: imager and other tools on the same disks, taking turns, in one table.
//!
//! What is measured stands in [`contenders`], on which disks in [`disks`]. Before each measurement what other tools left in
//! the page cache is dropped, the input is read, other work is waited for, free memory is touched, and the input is read
//! again. Every tool runs once, then all again. Everything lies below `target/bench`; the disks and downloaded packages stay
//! for the next time.

mod contenders;
mod contents;
mod disks;
mod report;

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use lifeboat_tests::disk::Disk;
use lifeboat_tests::mounted::{Keep, Loop, WorkFolder};
use lifeboat_tests::{imager, tool};
use regex_lite::Regex;

use crate::{measure, packages, quiet};
use contenders::{Contender, Counts, SUBJECTS, Subject};
use report::{Report, Sample};

/// Shell functions that every script may use.
const HELPERS: &str = include_str!("helpers.sh");

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often each tool is measured.
    #[arg(long, default_value_t = 3)]
    reps: u32,
    /// Only what this regular expression finds in "subject/tool", as --list shows them.
    #[arg(long, default_value = "")]
    only: String,
    /// A disk image to measure on, instead of one made now: GPT, FAT, ext4, XFS, NTFS, swap.
    #[arg(long, value_name = "IMAGE")]
    disk: Option<PathBuf>,
    /// The same disk a day later, instead of one made from --disk.
    #[arg(long, value_name = "IMAGE")]
    day2: Option<PathBuf>,
    /// Two machines of one kind.
    #[arg(long, value_name = "IMAGE,IMAGE", value_delimiter = ',')]
    fleet: Vec<PathBuf>,
    /// Says what can be measured, and ends.
    #[arg(long)]
    list: bool,
    /// Keeps the repositories and images that the tools made.
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let only = Regex::new(&options.only).context("--only is no regular expression")?;
    let chosen: Vec<(&Subject, Vec<&Contender>)> = SUBJECTS
        .iter()
        .map(|subject| (subject, subject.contenders.iter().filter(|one| only.is_match(&subject.title(one))).collect()))
        .filter(|(_, contenders): &(_, Vec<_>)| !contenders.is_empty())
        .collect();
    ensure!(!chosen.is_empty(), "--only finds nothing; --list shows what there is");
    if options.list {
        chosen
            .iter()
            .for_each(|(subject, contenders)| contenders.iter().for_each(|one| println!("{}", subject.title(one))));
        return Ok(());
    }
    if !tool::is_root() {
        bail!("the benchmarks attach loop devices and mount file systems, which needs root");
    }
    packages::ensure(&[packages::DISKS, packages::PEERS])?;
    let bench = Bench::open(options, imager::binary()?, &chosen)?;
    let mut report = Report::create(&bench.folder.join("samples.tsv"))?;
    for (subject, contenders) in &chosen {
        for contender in contenders {
            bench.make_needed(contender)?;
        }
        for rep in 1..=options.reps {
            for contender in contenders {
                report.add(bench.measure(subject, contender, rep)?)?;
            }
        }
    }
    let table = report.markdown();
    println!("\n{table}");
    fs::write(bench.folder.join("table.md"), table)?;
    println!("The table and every sample are in {}", bench.folder.path.display());
    Ok(())
}

struct Bench {
    /// What the scripts find in their environment.
    variables: Vec<(&'static str, OsString)>,
    /// Repositories, images, targets.
    work: WorkFolder,
    /// The source's partitions. Held open, because a block device's page cache goes with its last user.
    _partitions: Vec<(Loop, File)>,
    folder: WorkFolder,
}

impl Bench {
    fn open(options: &Options, imager: PathBuf, chosen: &[(&Subject, Vec<&Contender>)]) -> Result<Self> {
        let folder = WorkFolder::open(&imager::target_folder()?.join("bench"), Keep::Files)?;
        let work = WorkFolder::open(&folder.join("work"), if options.keep { Keep::Files } else { Keep::Nothing })?;
        let uses = |variable: &str| chosen.iter().flat_map(|(_, contenders)| contenders).any(|one| one.uses(variable));
        let disks = disks::Disks::new(&folder);

        let disk = match &options.disk {
            Some(image) => image.canonicalize().with_context(|| image.display().to_string())?,
            None => disks.server()?,
        };
        let mut variables = vec![("IMG", disk.clone().into())];
        if uses("$DAY2") {
            variables.push(("DAY2", options.day2.clone().map_or_else(|| disks.day_later(&disk), Ok)?.into()));
        }
        if uses("-fleet") {
            let [a, b] = match &*options.fleet {
                [] => disks.fleet()?,
                [a, b] => [a.clone(), b.clone()],
                _ => bail!("--fleet takes two images, with a comma between them"),
            };
            variables.extend([("FLEET_A", a.into()), ("FLEET_B", b.into())]);
        }
        if uses("$HUGE") {
            variables.push(("HUGE", disks.huge()?.into()));
        }
        if uses("$DEBIAN") || uses("-debian") {
            variables.push(("DEBIAN", disks.debian()?.into()));
        }
        let (partitions, listed) = attach_partitions(&Disk::open(&disk)?)?;
        variables.extend([
            ("PARTITIONS", listed.into()),
            ("WORK", work.path.clone().into()),
            ("IMAGER", imager.into()),
            ("CORES", std::thread::available_parallelism()?.to_string().into()),
            ("XDG_CACHE_HOME", work.join("cache").into()),
            ("RESTIC_PASSWORD", "bench".into()),
            ("BORG_BASE_DIR", work.join("borg-base").into()),
            ("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes".into()),
            ("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes".into()),
        ]);
        Ok(Self { variables, work, _partitions: partitions, folder })
    }

    fn script(&self, script: &str) -> Result<()> {
        tool::sh(&format!("{HELPERS}\n{script}"), &self.variables)?;
        Ok(())
    }

    /// Runs, without measuring, whatever makes the things that a contender starts from.
    fn make_needed(&self, contender: &Contender) -> Result<()> {
        for need in contender.needs {
            if self.is_made(need) {
                continue;
            }
            let maker = contenders::maker_of(need).with_context(|| format!("nothing makes {need}"))?;
            self.make_needed(maker)?;
            println!("preparing {need}");
            self.script(maker.before)?;
            self.script(maker.command)?;
            self.mark_made(maker)?;
        }
        Ok(())
    }

    fn measure(&self, subject: &Subject, contender: &Contender, rep: u32) -> Result<Sample> {
        let title = subject.title(contender);
        quiet::forget_files()?;
        self.script(contender.before)?;
        let size_before = self.size_of(contender)?;
        tool::run("sync", [""; 0])?;
        self.script(contender.warm)?;
        quiet::prepare(subject.heat_mib, || {
            self.script("warm_programs")?;
            self.script(contender.warm)
        })?;

        let mut command = tool::command("bash");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.args(["-euo", "pipefail", "-c", &format!("{HELPERS}\n{}", contender.command)]);
        let cost = measure::cost_of(&command, &self.work.path).with_context(|| title.clone())?;

        let start = Instant::now();
        tool::run("sync", [""; 0])?;
        let sync_s = start.elapsed().as_secs_f64();
        let bytes = self.size_of(contender)?.saturating_sub(size_before);
        self.mark_made(contender)?;
        self.script(contender.after)?;
        if rep == 1 {
            match self.script(contender.check) {
                // Known of partclone: it leaves out the copy of the boot sector at the end of NTFS.
                Err(error) if !contender.tool.starts_with("imager") => {
                    println!("! {title}: the result is not whole: {error}")
                }
                other => other.with_context(|| format!("{title}: the result is wrong"))?,
            }
        }
        println!("{title}, {rep}: {:.2} s", cost.wall_s);
        Ok(Sample {
            subject: subject.name,
            tool: contender.tool,
            reference: subject.reference,
            rep,
            cost,
            bytes,
            sync_s,
        })
    }

    fn size_of(&self, contender: &Contender) -> Result<u64> {
        let path = self.work.join(contender.result);
        if contender.result.is_empty() || !path.exists() {
            return Ok(0);
        }
        let mut du = tool::command("du");
        du.args(["-s", "-B1"]).arg(&path);
        if contender.counts == Counts::Stored {
            du.arg("--apparent-size");
        }
        let listed = tool::output(&mut du)?;
        listed.split_whitespace().next().and_then(|size| size.parse().ok()).context("du does not say a size")
    }

    fn is_made(&self, result: &str) -> bool {
        self.work.join(&format!("{result}.made")).exists()
    }

    fn mark_made(&self, contender: &Contender) -> Result<()> {
        if contender.result.is_empty() {
            return Ok(());
        }
        fs::write(self.work.join(&format!("{}.made", contender.result)), "").context("cannot write to the work folder")
    }
}

/// The partitions with a file system that partclone knows, as `FILESYSTEM:DEVICE:NUMBER` with spaces between them.
fn attach_partitions(disk: &Disk) -> Result<(Vec<(Loop, File)>, String)> {
    let mut attached = Vec::new();
    let mut listed = Vec::new();
    for (partition, number) in disk.partitions.iter().zip(1..) {
        let device = Loop::partition(&disk.image, partition, &["--read-only"])?;
        let path = device.path.display().to_string();
        // It fails when it knows nothing about what is there.
        let kind = tool::run("blkid", ["-p", "-o", "value", "-s", "TYPE", &path]).unwrap_or_default();
        if let kind @ ("vfat" | "ext4" | "xfs" | "ntfs") = kind.trim() {
            listed.push(format!("{kind}:{path}:{number}"));
            let file = File::open(&device.path).with_context(|| format!("cannot open {path}"))?;
            attached.push((device, file));
        }
    }
    Ok((attached, listed.join(" ")))
}
