//! Running the system's own tools, and stopping cleanly on Ctrl-C.
//!
//! A tool that fails is an error with everything it said. Children share the terminal's process group, so
//! that Ctrl-C reaches the running one; [`check_interrupted`] then keeps the next from starting, the error
//! travels up, and what was mounted or attached is taken down on the way.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on Ctrl-C, a hang-up and SIGTERM end the work with an error instead of ending the process.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn catch_interrupts() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [nix::libc::SIGINT, nix::libc::SIGTERM, nix::libc::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag)).context("cannot catch signals")?;
    }
    Ok(())
}

/// Fails once the user has asked to stop.
///
/// # Errors
/// "interrupted".
pub fn check_interrupted() -> Result<()> {
    match INTERRUPTED.get() {
        Some(flag) if flag.load(Ordering::Relaxed) => bail!("interrupted"),
        _ => Ok(()),
    }
}

/// A command with `/usr/sbin` on its path, its language C, its clock UTC and nothing to read.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null());
    command
}

/// Runs a tool and returns what it wrote to standard output.
///
/// # Errors
/// When it cannot be started or fails: with everything it said.
pub fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Result<String> {
    output(command(program).args(args))
}

/// Runs a shell script (`-euo pipefail`) with `variables` in its environment; for the set-up of disks,
/// where a pipe says more than ten lines.
///
/// # Errors
/// As [`run`].
pub fn sh<V: AsRef<OsStr>>(script: &str, variables: &[(&str, V)]) -> Result<String> {
    let mut bash = command("bash");
    for (name, value) in variables {
        bash.env(name, value);
    }
    output(bash.args(["-euo", "pipefail", "-c", script]))
}

/// Runs a prepared command and returns what it wrote to standard output.
///
/// # Errors
/// As [`run`].
pub fn output(command: &mut Command) -> Result<String> {
    check_interrupted()?;
    let shown = shown(command);
    let output = command.output().with_context(|| format!("cannot run {shown}"))?;
    check_interrupted()?;
    if !output.status.success() {
        bail!("{shown} failed ({})\n{}", output.status, said(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a prepared command that talks to the user itself.
///
/// # Errors
/// When it cannot be started or fails.
pub fn show(command: &mut Command) -> Result<()> {
    check_interrupted()?;
    let shown = shown(command);
    let status = command.status().with_context(|| format!("cannot run {shown}"))?;
    check_interrupted()?;
    if !status.success() {
        bail!("{shown} failed ({status})");
    }
    Ok(())
}

/// Takes something down. Runs even when the user has asked to stop; true when it worked.
pub fn clean_up<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> bool {
    command(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Where a tool is, or nothing.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
        .split(':')
        .map(|folder| PathBuf::from(folder).join(program))
        .find(|file| file.is_file())
}

/// True when this process may attach loop devices and mount.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// What a tool said; of very much, the beginning and the end.
fn said(output: &Output) -> String {
    const FIRST: usize = 10;
    const LAST: usize = 40;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    match (lines.get(..FIRST), lines.len().checked_sub(LAST).and_then(|from| lines.get(from..))) {
        (Some(first), Some(last)) if lines.len() > FIRST + LAST => {
            format!("{}\n[{} more lines]\n{}", first.join("\n"), lines.len() - FIRST - LAST, last.join("\n"))
        }
        _ => text,
    }
}
