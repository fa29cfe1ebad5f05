//! `cargo xtask ci`: everything that must hold before a change is merged.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use lifeboat_tests::{imager, tool};

use crate::{media, test, tidy};

/// For all fuzz targets together: enough to notice what a change broke. Longer runs are made by hand.
const FUZZING_SECONDS: usize = 240;

const FUZZING_SECONDS_PER_TARGET: usize = 30;

pub(crate) fn run() -> Result<()> {
    step("tidy", tidy::check)?;
    step("format", || cargo(&["fmt", "--all", "--check"]))?;
    step("lints", || cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step("documentation", documentation)?;
    step("media", || media::run(&media::Options { twice: true, ..Default::default() }).map(drop))?;
    step("tests", || test::run(&test::Options::default()))?;
    step("fuzzing", fuzz)?;
    println!("everything holds");
    Ok(())
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== {name}");
    let start = Instant::now();
    work().with_context(|| format!("{name}: does not hold"))?;
    println!("== {name}: {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
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
    let targets = fuzz_targets(&folder)?;
    let seconds = (FUZZING_SECONDS / targets.len().max(1)).min(FUZZING_SECONDS_PER_TARGET);
    for target in &targets {
        println!("-- {target}, {seconds} s");
        // What is found on the way goes to the first folder; the seeds stay as they are.
        let found = imager::target_folder()?.join("fuzz-corpus").join(target);
        fs::create_dir_all(&found).with_context(|| found.display().to_string())?;
        let mut cargo = tool::command("cargo");
        cargo.current_dir(imager::workspace().join("imager")).env("RUSTC_BOOTSTRAP", "1");
        // Without unsafe code the address sanitizer finds nothing, and doubles the time to build.
        cargo.args(["fuzz", "run", "--sanitizer", "none", target]).arg(found).arg(folder.join("corpus").join(target));
        cargo.args(["--", &format!("-max_total_time={seconds}"), "-print_final_stats=1", "-max_len=131072"]);
        tool::show(&mut cargo).with_context(|| format!("the fuzz target {target} found something"))?;
    }
    println!("{} fuzz targets found nothing", targets.len());
    Ok(())
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
