//! Builds the agent so that it runs where nothing else is: static, and without what only a debugger reads.
//!
//! Under another name it is the `imager` that the demo and the end-to-end tests run: what is tested is what is on the
//! medium.

use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lifeboat_tests::{imager, tool};

/// Said explicitly: flags would otherwise go to build scripts, too, and those cannot be static.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The static agent. It has a target folder of its own below `target`, for its flags are its own.
pub(super) fn build(target: &Path) -> Result<PathBuf> {
    let folder = target.join("agent");
    let home = std::env::var("HOME").unwrap_or_default();
    let cargo_home = std::env::var("CARGO_HOME").unwrap_or_else(|_| format!("{home}/.cargo"));
    // Where it was built is nobody's business and would make builds differ.
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        format!("--remap-path-prefix={}=/lifeboat", imager::workspace().display()),
        format!("--remap-path-prefix={cargo_home}=/cargo"),
    ];
    let mut cargo = tool::command("cargo");
    cargo
        .current_dir(imager::workspace())
        .env("CARGO_TARGET_DIR", &folder)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env_remove("RUSTFLAGS")
        .args(["build", "--quiet", "--profile", "medium", "--target", TARGET, "--package", "agent"]);
    tool::show(&mut cargo)?;
    Ok(folder.join(TARGET).join("medium/agent"))
}

/// The agent under the name by which it is the command line.
pub(super) fn as_imager(agent: &Path) -> Result<PathBuf> {
    let link = agent.with_file_name("imager");
    match symlink("agent", &link) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error).context(link.display().to_string()),
        _ => Ok(link),
    }
}
