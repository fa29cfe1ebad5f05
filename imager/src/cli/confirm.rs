//! What every command takes that overwrites a disk; asks whether it is the disk that is meant.

use std::io::{IsTerminal, Write};
use std::path::Path;

use clap::Args;

use crate::disk::identity::Identity;
use crate::disk::target::Replace;
use crate::error::{Error, Result};
use crate::restore::ReadBack;
use crate::units::size;

/// How a disk or a file is overwritten.
#[derive(Args)]
pub(super) struct Overwriting {
    /// Read everything back and compare.
    #[arg(long)]
    verify: bool,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// Serial number of the block device to overwrite (its path, if it has none); once for each.
    #[arg(long, value_name = "SERIAL")]
    pub confirm: Vec<String>,
    /// Overwrite a file that exists. One that is larger than what is written keeps its size.
    #[arg(long)]
    pub force: bool,
}

impl Overwriting {
    pub(super) fn read_back(&self) -> ReadBack {
        if self.verify { ReadBack::Yes } else { ReadBack::No }
    }

    pub(super) fn replace(&self) -> Replace {
        if self.force { Replace::Yes } else { Replace::No }
    }
}

/// Makes sure that this is the disk that is meant.
///
/// # Errors
/// [`Error::TargetRefused`].
pub(super) fn confirm(named: &[String], identity: &Identity) -> Result<()> {
    let names_it = |given: &String| match &identity.serial {
        Some(serial) => given == serial,
        None => Path::new(given).canonicalize().is_ok_and(|path| path == identity.path),
    };
    if named.iter().any(names_it) {
        return Ok(());
    }
    let path = &identity.path;
    let (what, name) = match &identity.serial {
        Some(serial) => ("serial number", serial.clone()),
        None => ("path", path.display().to_string()),
    };
    let model = identity.model.as_deref().unwrap_or("a disk");
    let serial =
        identity.serial.as_ref().map_or_else(|| "no serial number".into(), |serial| format!("serial {serial}"));
    let disk = format!("{model}, {serial}, {}", size(identity.size));
    if !named.is_empty() || !std::io::stdin().is_terminal() {
        let why = if named.is_empty() { "" } else { ", which --confirm does not name" };
        return Err(Error::refused(
            path,
            format!("it is {disk}{why}; to overwrite it, give its {what}: --confirm {name}"),
        ));
    }
    eprintln!("{} will be overwritten: {disk}", path.display());
    eprint!("Type its {what} to go on: ");
    let _ = std::io::stderr().flush();
    let mut typed = String::new();
    std::io::stdin().read_line(&mut typed).map_err(Error::io("read from", "the terminal"))?;
    if names_it(&typed.trim().to_owned()) {
        Ok(())
    } else {
        Err(Error::refused(path, format!("that is not its {what}")))
    }
}
