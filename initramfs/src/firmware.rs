//! Firmware that the modules on the medium say they load, as far as packages have it.
//!
//! Files under their exact names only: drivers of wired networks and of storage say those.

use std::fs;
use std::path::PathBuf;

use crate::cpio::{Archive, Entry};
use crate::error::Error;
use crate::modules::Module;

/// Which firmware went in, and which is nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firmware {
    /// Below `/lib/firmware`.
    pub added: Vec<String>,
    /// Asked for by modules, and in none of the packages.
    pub missing: Vec<String>,
}

/// Adds what `modules` ask for. `packages` are the folders into which packages with firmware are unpacked.
///
/// # Errors
/// When a file that is there cannot be read.
pub fn add(archive: &mut Archive, modules: &[Module], packages: &[PathBuf]) -> Result<Firmware, Error> {
    let mut wanted: Vec<&str> = modules.iter().flat_map(|module| &module.info.firmware).map(String::as_str).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut firmware = Firmware::default();
    for name in wanted {
        let folders = packages.iter().flat_map(|package| ["lib", "usr/lib"].map(|lib| package.join(lib)));
        match folders.map(|lib| lib.join("firmware").join(name)).find(|file| file.is_file()) {
            Some(file) => {
                let content = fs::read(&file).map_err(Error::file(&file))?;
                archive.add(&format!("/lib/firmware/{name}"), Entry::File(content))?;
                firmware.added.push(name.to_owned());
            }
            None => firmware.missing.push(name.to_owned()),
        }
    }
    Ok(firmware)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modinfo::ModInfo;

    #[test]
    fn what_is_there_goes_in_and_what_is_not_is_said() {
        let package = tempfile::tempdir().unwrap();
        fs::create_dir_all(package.path().join("usr/lib/firmware/card")).unwrap();
        fs::write(package.path().join("usr/lib/firmware/card/a.bin"), "a").unwrap();
        let names = ["card/b.bin", "card/a.bin"].map(str::to_owned).to_vec();
        let info = ModInfo { firmware: names, ..ModInfo::default() };
        let module = Module { path: "kernel/card.ko".into(), content: Vec::new(), info };

        let mut archive = Archive::default();
        let firmware = add(&mut archive, &[module], &[package.path().to_owned()]).unwrap();
        assert_eq!((firmware.added, firmware.missing), (vec!["card/a.bin".into()], vec!["card/b.bin".into()]));
        assert!(archive.entries().any(|(path, _)| path == "lib/firmware/card/a.bin"));
    }
}
