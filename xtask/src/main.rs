//! Builds and runs everything: the demo, the tests, the benchmarks, what CI checks.
//!
//! `cargo xtask COMMAND`. Whatever a command makes goes below cargo's target folder. Must not know: how `imager`
//! works inside.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a program for people at a terminal")]

mod bench;
mod ci;
mod demo;
mod measure;
mod media;
mod packages;
mod quiet;
mod table;
mod test;
mod tidy;

use clap::{Parser, Subcommand};

/// Builds and runs everything.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Images a disk, changes it, brings it back, and shows what each step cost.
    Demo,
    /// Builds what machines are started with: the ISO, the stick's image, files for the network.
    Media(media::Options),
    /// Runs every test of every crate.
    Test(test::Options),
    /// Measures imager against other tools.
    Bench(bench::Options),
    /// Everything that must hold before a change is merged.
    Ci,
    /// Runs a command and writes what it cost to a file.
    #[command(hide = true)]
    Measured(measure::Measured),
    /// Touches free memory once.
    #[command(hide = true)]
    Heat(quiet::Heat),
}

fn main() -> anyhow::Result<()> {
    let command = Arguments::parse().command;
    if !matches!(command, Command::Measured(_)) {
        lifeboat_tests::tool::catch_interrupts()?;
    }
    match command {
        Command::Demo => demo::run(),
        Command::Media(options) => media::run(&options).map(drop),
        Command::Test(options) => test::run(options),
        Command::Bench(options) => bench::run(&options),
        Command::Ci => ci::run(),
        Command::Measured(measured) => measured.run(),
        Command::Heat(heat) => heat.run(),
    }
}
