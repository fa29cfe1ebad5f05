//! Fills the initramfs by the lists in `initramfs/`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use initramfs::cpio::Archive;
use initramfs::list::{self, ModuleList};
use initramfs::modules::Tree;
use initramfs::{firmware, programs};
use lifeboat_tests::imager;
use lifeboat_tests::package::Package;

use super::kernel::Kernel;
use super::{Ingredients, Profile, mib};

/// The compressed archive.
pub(super) fn build(profile: Profile, agent: &Path, kernel: &Kernel, ingredients: &Ingredients) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    initramfs::add_agent(&mut archive, agent, &ingredients.os_release)?;

    let name = match profile {
        Profile::Full => "modules.list",
        Profile::Minimal => "modules-minimal.list",
    };
    let tree = Tree::open(&kernel.modules)?;
    let modules = tree.select(name, &ModuleList::parse(name, &read(name)?)?)?;
    initramfs::add_modules(&mut archive, &kernel.version, &tree, &modules)?;

    for program in list::programs("programs.list", &read("programs.list")?)? {
        let package = |name: &String| Ok(Package::needed(name, &ingredients.packages)?.folder);
        let packages: Vec<PathBuf> = program.packages.iter().map(package).collect::<Result<_>>()?;
        programs::add(&mut archive, &program, &packages)?;
    }

    let mut packages = Vec::new();
    for name in list::names(&read("firmware.list")?) {
        packages.extend(Package::unpacked(&name, &ingredients.packages)?.map(|package| package.folder));
    }
    let firmware = firmware::add(&mut archive, &modules, &packages)?;

    let compressed = initramfs::compressed(&archive, ingredients.time)?;
    let plain = archive.to_bytes(ingredients.time)?.len();
    println!(
        "  Linux {}, {} modules, {} files of firmware ({} that drivers may ask for are in no package here), {:.1} MiB in RAM",
        kernel.version,
        modules.len(),
        firmware.added.len(),
        firmware.missing.len(),
        mib(u64::try_from(plain)?),
    );
    Ok(compressed)
}

fn read(list: &str) -> Result<String> {
    let path = imager::workspace().join("initramfs").join(list);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}
