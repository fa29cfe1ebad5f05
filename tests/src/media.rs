//! The boot media that are tested.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use crate::{imager, tool};

static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Names the folder with the media, for whoever asks later.
pub fn are_in(folder: PathBuf) {
    *BUILT.lock().unwrap_or_else(PoisonError::into_inner) = Some(folder);
}

/// The folder with the media: `LIFEBOAT_MEDIA` when that is set, what [`are_in`] named, otherwise built now by whoever
/// asks first.
///
/// # Errors
/// When they cannot be built.
pub fn folder() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LIFEBOAT_MEDIA") {
        return Ok(path.into());
    }
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(folder) = &*built {
        return Ok(folder.clone());
    }
    tool::show(tool::command("cargo").current_dir(imager::workspace()).args(["xtask", "media"]))?;
    Ok(built.insert(imager::target_folder()?.join("media")).clone())
}
