//! `cargo xtask test`: every test of every crate, with what the tests need.

use anyhow::Result;
use lifeboat_tests::{imager, tool};

use crate::media::{self, Made};
use crate::packages;

#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Only tests whose name contains this.
    pub(crate) filter: Option<String>,
    /// Only the tests of this crate.
    #[arg(long, short)]
    pub(crate) package: Option<String>,
    /// Media that were made already.
    #[arg(skip)]
    pub(crate) made: Option<Made>,
}

/// The tests themselves are built as `cargo test` does; the end-to-end ones boot the media, and run the program that is
/// on them.
pub(crate) fn run(options: Options) -> Result<()> {
    packages::ensure(&[packages::DISKS, packages::TESTS])?;
    let mut cargo = tool::command("cargo");
    cargo.current_dir(imager::workspace()).arg("test");
    if options.package.as_deref().is_none_or(|package| package == "lifeboat-tests") {
        let made = options.made.map_or_else(|| media::run(&media::Options::default()), Ok)?;
        cargo.env("LIFEBOAT_MEDIA", made.folder).env("IMAGER_BIN", made.imager);
    }
    match &options.package {
        Some(package) => cargo.args(["--package", package]),
        None => cargo.arg("--workspace"),
    };
    tool::show(cargo.args(&options.filter))
}
