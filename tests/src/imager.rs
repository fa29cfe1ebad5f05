//! Where things are built, and the `imager` program that is tested.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::tool;

/// The workspace's root folder.
#[must_use]
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where cargo puts what it builds; everything that is made here goes below it, too.
///
/// # Errors
/// When cargo does not say.
pub fn target_folder() -> Result<PathBuf> {
    let cargo = &mut tool::command("cargo");
    let said = tool::output(cargo.current_dir(workspace()).args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&said)?;
    Ok(metadata["target_directory"].as_str().context("cargo metadata names no target directory")?.into())
}

/// The program: `IMAGER_BIN` when that is set, otherwise built now, optimised.
///
/// # Errors
/// When it does not build.
pub fn binary() -> Result<PathBuf> {
    match std::env::var_os("IMAGER_BIN") {
        Some(path) => Ok(path.into()),
        None => build(),
    }
}

/// Builds the optimised program and says where it is. Cargo's own progress is shown.
///
/// # Errors
/// When it does not build.
pub fn build() -> Result<PathBuf> {
    let cargo = &mut tool::command("cargo");
    tool::show(cargo.current_dir(workspace()).args(["build", "--release", "--package", "imager"]))?;
    Ok(target_folder()?.join("release/imager"))
}
