//! Makes measurements on a shared or virtual machine comparable: free memory that is really there, and quiet.

use std::fs;
use std::hint::black_box;
use std::io::{self, Read};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_tests::tool;

/// How long to wait for other work to end before measuring anyway.
const PATIENCE: Duration = Duration::from_secs(15);

const LOOK: Duration = Duration::from_millis(500);

/// Processor time, in clock ticks of a hundredth of a second, that counts as quiet within one look.
const TICKS_QUIET_MAX: u64 = 15;

/// The hidden subcommand: `heat MIB`.
///
/// A guest that hands free pages back to its host pays for each when it is next used, and that can cost more than
/// the tools that are measured. A process of its own, so that the pages are free again when its input ends.
#[derive(clap::Args)]
pub(crate) struct Heat {
    mib: u64,
}

impl Heat {
    pub(crate) fn run(&self) -> Result<()> {
        const SPARE: u64 = 1 << 30;
        let size = (self.mib << 20).min(free_bytes().saturating_sub(SPARE));
        let mut memory = vec![0_u8; usize::try_from(size)?];
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        black_box(&memory);
        println!("touched");
        io::copy(&mut io::stdin(), &mut io::sink())?;
        Ok(())
    }
}

/// Has the page cache drop the files of what ran before: full of them, it makes room by throwing out what is measured next.
///
/// # Errors
/// When that is not allowed.
pub(crate) fn forget_files() -> Result<()> {
    tool::run("sync", [""; 0])?;
    fs::write("/proc/sys/vm/drop_caches", "1").context("cannot drop the page cache")
}

/// Waits until nobody else computes, touches free memory, and has the input read again before it is free: the host may
/// have made room for it with what was read first, and takes memory back that is free for a second.
///
/// # Errors
/// When the user asks to stop, or what `read_again` says.
pub(crate) fn prepare(heat_mib: u64, read_again: impl FnOnce() -> Result<()>) -> Result<()> {
    wait_until_quiet()?;
    let mut heat = tool::command("/proc/self/exe");
    heat.args(["heat", &heat_mib.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut heat = heat.spawn().context("cannot touch free memory")?;
    // Nothing comes when it has failed, which its status tells.
    heat.stdout.as_mut().map(|said| said.read(&mut [0; 1])).transpose()?;
    let read = read_again();
    drop(heat.stdin.take());
    ensure!(heat.wait()?.success(), "touching free memory failed");
    read
}

fn wait_until_quiet() -> Result<()> {
    let mut quiet_looks = 0;
    for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
        let before = busy_ticks();
        sleep(LOOK);
        tool::check_interrupted()?;
        let is_quiet = busy_ticks().saturating_sub(before) < TICKS_QUIET_MAX;
        quiet_looks = if is_quiet { quiet_looks + 1 } else { 0 };
        if quiet_looks == 2 {
            break;
        }
    }
    Ok(())
}

/// What all processors have done so far, waiting for disks and idling left out.
fn busy_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let all = stat.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1);
    const IDLE: usize = 3;
    const WAITING: usize = 4;
    let busy = all.enumerate().filter(|(column, _)| *column != IDLE && *column != WAITING).take(6);
    busy.filter_map(|(_, ticks)| ticks.parse::<u64>().ok()).sum()
}

fn free_bytes() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free =
        meminfo.lines().find_map(|line| line.strip_prefix("MemFree:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    free.unwrap_or(0) * 1024
}
