//! `cargo xtask test`: every test of every crate, with what the tests need.

use anyhow::Result;
use lifeboat_tests::{imager, tool};

use crate::{media, packages};

#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Only tests whose name contains this.
    filter: Option<String>,
    /// Only the tests of this crate.
    #[arg(long, short)]
    package: Option<String>,
}

/// The tests themselves are built as `cargo test` does; the end-to-end ones run the optimised program, for the sake
/// of the disks' size.
pub(crate) fn run(options: &Options) -> Result<()> {
    packages::ensure(&[packages::DISKS, packages::TESTS])?;
    let imager = imager::binary()?;
    let mut cargo = tool::command("cargo");
    cargo.current_dir(imager::workspace()).env("IMAGER_BIN", imager).arg("test");
    if options.package.as_deref().is_none_or(|package| package == "lifeboat-tests") {
        cargo.env("LIFEBOAT_MEDIA", media::run(&media::Options::default())?);
    }
    match &options.package {
        Some(package) => cargo.args(["--package", package]),
        None => cargo.arg("--workspace"),
    };
    tool::show(cargo.args(&options.filter))
}
