//! What a command costs: wall and processor time, peak memory, bytes read and written.
//!
//! A small process of its own runs the command and asks the kernel about its children afterwards, so that each
//! figure belongs to that one command, with everything it started.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use lifeboat_tests::tool;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::{Deserialize, Serialize};

/// What one run of a command cost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// From start to end.
    pub(crate) wall_s: f64,
    /// Of all processors, in the command and in the kernel for it.
    pub(crate) processor_s: f64,
    /// Of the largest of its processes.
    pub(crate) memory_peak_bytes: u64,
    /// Through any file; 0 where the kernel keeps no such account.
    pub(crate) read_bytes: u64,
    /// Through any file; 0 where the kernel keeps no such account.
    pub(crate) written_bytes: u64,
}

/// The hidden subcommand: `measured REPORT PROGRAM ARGUMENT...`.
#[derive(clap::Args)]
pub(crate) struct Measured {
    report: PathBuf,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    words: Vec<String>,
}

impl Measured {
    pub(crate) fn run(&self) -> Result<()> {
        let [program, arguments @ ..] = &*self.words else { bail!("nothing to measure") };
        let io_before = io_account();
        let start = Instant::now();
        let status = Command::new(program).args(arguments).status().with_context(|| format!("cannot run {program}"))?;
        let wall_s = start.elapsed().as_secs_f64();
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let io = io_account();
        let cost = Cost {
            wall_s,
            processor_s: processor_seconds(&usage),
            memory_peak_bytes: u64::try_from(usage.max_rss()).unwrap_or(0) * 1024,
            read_bytes: io.0.saturating_sub(io_before.0),
            written_bytes: io.1.saturating_sub(io_before.1),
        };
        fs::write(&self.report, serde_json::to_vec(&cost)?).context("cannot write the report")?;
        std::process::exit(status.code().unwrap_or(125));
    }
}

/// Runs a command, its output kept for the error, and says what it cost. `scratch` is a folder for the report.
///
/// # Errors
/// When it fails: with what it said.
pub(crate) fn cost_of(command: &Command, scratch: &Path) -> Result<Cost> {
    let report = scratch.join("cost.json");
    let mut measured = tool::command("/proc/self/exe");
    measured.arg("measured").arg(&report).arg("--").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        measured.env(name, value.unwrap_or_default());
    }
    tool::output(measured.stdin(Stdio::null()))?;
    Ok(serde_json::from_slice(&fs::read(&report).context("the measured command left no report")?)?)
}

fn processor_seconds(usage: &Usage) -> f64 {
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn seconds(time: TimeVal) -> f64 {
    std::time::Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or(0)).as_secs_f64()
}

/// Bytes read and written so far by this process and all children that it waited for.
fn io_account() -> (u64, u64) {
    let account = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let field = |name: &str| account.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0);
    (field("rchar:"), field("wchar:"))
}
