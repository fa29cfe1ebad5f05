//! What goes on the boot medium: the kernel's modules with all that they need, helper programs with their
//! libraries, and the agent as `/init`, in one archive that is the same whenever it is built from the same.
//!
//! What goes in is said by lists that are made to be edited, beside this crate's `src`. Must not know: what the agent
//! does, how media are made, where packages come from.

#![forbid(unsafe_code)]

pub mod cpio;
mod elf;
pub mod error;
pub mod firmware;
pub mod index;
pub mod list;
pub mod modinfo;
pub mod modules;
pub mod programs;

use std::fs;
use std::path::Path;

use cpio::{Archive, Entry};
use error::Error;
use index::Index;
use modules::{Module, Tree};

/// Folders that the agent mounts things on and writes to.
const FOLDERS: &[&str] = &["dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp"];

/// The agent's other names: what it is called by decides what it does.
const NAMES: &[&str] = &["/bin/imager", "/sbin/modprobe"];

/// Adds the agent under all its names, the folders that it expects, and `os_release` as `/etc/os-release`.
///
/// # Errors
/// When the agent cannot be read.
pub fn add_agent(archive: &mut Archive, agent: &Path, os_release: &str) -> Result<(), Error> {
    for folder in FOLDERS {
        archive.add(folder, Entry::Folder)?;
    }
    // Before the agent mounts anything, its output has to go somewhere.
    archive.add("/dev/console", Entry::CharacterDevice(5, 1))?;
    archive.add("/dev/null", Entry::CharacterDevice(1, 3))?;
    archive.add("/init", Entry::Program(fs::read(agent).map_err(Error::file(agent))?))?;
    for name in NAMES {
        archive.add(name, Entry::Link("/init".to_owned()))?;
    }
    archive.add("/etc/os-release", Entry::File(os_release.as_bytes().to_vec()))
}

/// Adds modules and their index at `/lib/modules/VERSION`.
///
/// # Errors
/// When the list of what is built into the kernel cannot be read.
pub fn add_modules(archive: &mut Archive, version: &str, tree: &Tree, modules: &[Module]) -> Result<(), Error> {
    let at = format!("/lib/modules/{version}");
    for module in modules {
        archive.add(&format!("{at}/{}", module.path), Entry::File(module.content.clone()))?;
    }
    let index = Index::of(modules);
    let built_in = tree.folder().join("modules.builtin");
    let built_in = fs::read_to_string(&built_in).map_err(Error::file(&built_in))?;
    for (name, text) in [
        ("modules.dep", index.dependencies),
        ("modules.alias", index.aliases),
        ("modules.softdep", index.soft_dependencies),
        ("modules.builtin", built_in),
    ] {
        archive.add(&format!("{at}/{name}"), Entry::File(text.into_bytes()))?;
    }
    Ok(())
}

/// The archive as the boot loader loads it.
///
/// # Errors
/// When a file in it is too large for its form, or there is no memory to compress it.
pub fn compressed(archive: &Archive, time: u32) -> Result<Vec<u8>, Error> {
    // Most of it are modules that are compressed already: more than this gains nothing.
    const LEVEL: i32 = 19;
    let bytes = archive.to_bytes(time)?;
    zstd::bulk::compress(&bytes, LEVEL).map_err(Error::file(Path::new("the compressed initramfs")))
}
