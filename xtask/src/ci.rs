//! `cargo xtask ci`: everything that must hold before a change is merged.

use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use lifeboat_tests::{imager, tool};

use crate::{media, packages, test, tidy};

/// For all fuzz targets together: enough to notice what a change broke. Longer runs are made by hand.
const FUZZING_SECONDS: usize = 120;

const FUZZING_SECONDS_PER_TARGET: usize = 30;

pub(crate) fn run() -> Result<()> {
    // What cannot be installed is known in the first minute.
    packages::ensure(&[packages::CHECKS, packages::DISKS, packages::MEDIA, packages::TESTS])?;
    step("tidy", tidy::check)?;
    step("format", || cargo(&["fmt", "--all", "--check"]))?;
    step("lints", || cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step("documentation", documentation)?;
    let made = step("media", || media::run(&media::Options { twice: true, ..Default::default() }))?;
    step("tests", || test::run(test::Options { made: Some(made), ..Default::default() }))?;
    step("fuzzing", fuzz)?;
    println!("everything holds");
    Ok(())
}

fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {name}");
    let start = Instant::now();
    let done = work().with_context(|| format!("{name}: does not hold"))?;
    println!("== {name}: {:.0} s", start.elapsed().as_secs_f64());
    Ok(done)
}

fn cargo(arguments: &[&str]) -> Result<()> {
    tool::show(tool::command("cargo").current_dir(imager::workspace()).args(arguments))
}

fn documentation() -> Result<()> {
    let mut cargo = tool::command("cargo");
    cargo.current_dir(imager::workspace()).env("RUSTDOCFLAGS", "-D warnings");
    tool::show(cargo.args(["doc", "--workspace", "--no-deps", "--document-private-items"]))
}

/// Each target for a short while. The installed stable toolchain is told to accept the sanitizer's flags.
fn fuzz() -> Result<()> {
    let folder = imager::workspace().join("imager/fuzz");
    if !folder.is_dir() {
        println!("skipped: there is no imager/fuzz");
        return Ok(());
    }
    if tool::find("cargo-fuzz").is_none() && !cargo_home_has_fuzz() {
        cargo(&["install", "--locked", "cargo-fuzz"])?;
    }
    // Without unsafe code the address sanitizer finds nothing, and doubles the time to build.
    let built = imager::target_folder()?.join("fuzz");
    let mut build = tool::command("cargo");
    build.current_dir(imager::workspace().join("imager")).env("RUSTC_BOOTSTRAP", "1");
    tool::show(build.args(["fuzz", "build", "--sanitizer", "none", "--target-dir"]).arg(&built))?;
    let programs = built.join(host()?).join("release");
    let targets = fuzz_targets(&folder)?;
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let seconds = (cores * FUZZING_SECONDS / targets.len().max(1)).min(FUZZING_SECONDS_PER_TARGET);
    println!("{} targets, {seconds} s each, {cores} at a time", targets.len());
    let corpora = imager::target_folder()?.join("fuzz-corpus");
    let run = |target: &String| -> Result<()> {
        // What is found on the way goes to the first folder; the seeds stay as they are.
        let found = corpora.join(target);
        fs::create_dir_all(&found).with_context(|| found.display().to_string())?;
        let mut program = tool::command(programs.join(target));
        program.arg(found).arg(folder.join("corpus").join(target));
        program.args([&format!("-max_total_time={seconds}"), "-print_final_stats=1", "-max_len=131072"]);
        program.arg(format!("-artifact_prefix={}/", programs.display()));
        tool::output(&mut program).map(drop).with_context(|| format!("the fuzz target {target} found something"))
    };
    let next = AtomicUsize::new(0);
    let worker = || -> Result<()> {
        while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
            run(target)?;
            println!("-- {target}: nothing found");
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })
}

/// What this machine is to the compiler.
fn host() -> Result<String> {
    let said = tool::run("rustc", ["-vV"])?;
    said.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned).context("rustc does not say its host")
}

/// `cargo install` puts programs where PATH need not lead, and cargo finds them all the same.
fn cargo_home_has_fuzz() -> bool {
    tool::run("cargo", ["fuzz", "--version"]).is_ok()
}

fn fuzz_targets(folder: &Path) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(folder.join("fuzz_targets")).context("imager/fuzz has no fuzz_targets")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            targets.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    targets.sort();
    Ok(targets)
}
