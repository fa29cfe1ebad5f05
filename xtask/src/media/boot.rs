//! What firmware starts: GRUB for a BIOS, and the files of an EFI system partition.
//!
//! Secure Boot holds from firmware to kernel: firmware checks shim (signed by Microsoft), shim checks GRUB, GRUB has shim check
//! the kernel (both signed by Debian). The initramfs is checked by nobody: whoever can change the medium can change what it does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lifeboat_tests::package::Package;
use lifeboat_tests::tool;

use super::Ingredients;

/// The menu.
pub(super) const MENU: &str = include_str!("grub.cfg");

/// What the menu's help shows.
pub(super) const HELP: &str = include_str!("help.txt");

/// GRUB's own modules for a BIOS; there it comes with nothing built in.
const MODULES: &[&str] = &[
    "biosdisk",
    "cat",
    "configfile",
    "echo",
    "linux",
    "normal",
    "part_gpt",
    "part_msdos",
    "search",
    "serial",
    "sleep",
    "terminal",
    "test",
];

const GRUB_FOLDER: &str = "/usr/lib/grub/i386-pc";

/// A part of GRUB for a BIOS, as its package has it.
pub(super) fn grub_file(name: &str) -> PathBuf {
    Path::new(GRUB_FOLDER).join(name)
}

/// GRUB's core for a BIOS, in the form that `format` names, with its files at `prefix` and the module for the file
/// system that it starts from.
pub(super) fn grub_core(ingredients: &Ingredients, format: &str, prefix: &str, file_system: &str) -> Result<PathBuf> {
    let core = ingredients.work.join(format!("{format}.img"));
    let mut mkimage = ingredients.command("grub-mkimage");
    mkimage.args(["--format", format, "--prefix", prefix, "--output"]).arg(&core).args(MODULES).arg(file_system);
    tool::output(&mut mkimage)?;
    ingredients.date(&core)?;
    Ok(core)
}

/// The menu, its help and what tells GRUB that this is the medium, as pairs of a file and its path on the medium.
pub(super) fn common_files(ingredients: &Ingredients, menu: &str) -> Result<Vec<(PathBuf, &'static str)>> {
    Ok(vec![
        (ingredients.text("info", &format!("Lifeboat {}\n", ingredients.build_id))?, ".disk/info"),
        (ingredients.text("grub.cfg", menu)?, "boot/grub/grub.cfg"),
        (ingredients.text("help.txt", HELP)?, "boot/grub/help.txt"),
        (ingredients.kernel.clone(), "boot/vmlinuz"),
        (ingredients.initramfs.clone(), "boot/initramfs"),
    ])
}

/// Shim and GRUB, signed: what firmware with UEFI looks for on a medium. GRUB finds the medium by its `.disk/info`.
pub(super) fn efi_files(ingredients: &Ingredients) -> Result<Vec<(PathBuf, &'static str)>> {
    let (shim, grub) = signed(ingredients, "gcdx64.efi.signed")?;
    Ok(vec![(shim, "EFI/BOOT/BOOTX64.EFI"), (grub, "EFI/BOOT/grubx64.efi")])
}

/// Debian's shim, and one of its signed builds of GRUB.
pub(super) fn signed(ingredients: &Ingredients, grub: &str) -> Result<(PathBuf, PathBuf)> {
    let shim = Package::needed("shim-signed", &ingredients.packages)?.file("usr/lib/shim/shimx64.efi.signed")?;
    let package = Package::needed("grub-efi-amd64-signed", &ingredients.packages)?;
    let signed = package.file(&format!("usr/lib/grub/x86_64-efi-signed/{grub}"))?;
    Ok((ingredients.dated_copy(&shim, "shim.efi")?, ingredients.dated_copy(&signed, grub)?))
}

/// A FAT file system.
pub(super) struct Fat<'a> {
    pub(super) label: &'a str,
    /// Its serial number, in hexadecimal; fixed, as all else.
    pub(super) serial: &'a str,
    /// 12, 16 or 32 bits an entry.
    pub(super) bits: &'a str,
    pub(super) bytes: u64,
}

impl Fat<'_> {
    /// Makes an image with these files in it.
    pub(super) fn build(&self, ingredients: &Ingredients, image: &Path, files: &[(PathBuf, &str)]) -> Result<()> {
        lifeboat_tests::disk::sparse_file(image, self.bytes)?;
        let mut mkfs = ingredients.command("mkfs.fat");
        // The smallest clusters: a small file system has to have enough of them for its kind.
        mkfs.args(["--invariant", "-s", "1", "-F", self.bits, "-n", self.label, "-i", self.serial]).arg(image);
        tool::output(&mut mkfs)?;
        let mut folders: Vec<&Path> = files.iter().flat_map(|(_, path)| Path::new(path).ancestors().skip(1)).collect();
        folders.sort();
        folders.dedup();
        for folder in folders.into_iter().filter(|folder| !folder.as_os_str().is_empty()) {
            let mut mmd = ingredients.command("mmd");
            tool::output(mmd.arg("-i").arg(image).arg(format!("::/{}", folder.display())))?;
        }
        for (file, path) in files {
            let mut mcopy = ingredients.command("mcopy");
            // With the file's date rather than the clock's.
            tool::output(mcopy.args(["-m", "-i"]).arg(image).arg(file).arg(format!("::/{path}")))?;
        }
        Ok(())
    }

    /// Bytes that hold these files, the file system's own tables and little more.
    pub(super) fn bytes_for(files: &[(PathBuf, &str)]) -> Result<u64> {
        const STEP: u64 = 256 << 10;
        let mut bytes = STEP;
        for (file, _) in files {
            bytes += fs::metadata(file).with_context(|| file.display().to_string())?.len();
        }
        if bytes >= 1 << 32 {
            bail!("the files are too large for FAT");
        }
        Ok(bytes.next_multiple_of(STEP))
    }
}
