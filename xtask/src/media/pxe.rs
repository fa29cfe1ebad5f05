//! `pxe/`: what a server hands out to machines that start over the network, with examples.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::Ingredients;
use super::boot;

/// For machines whose firmware, or first stage, is iPXE.
const IPXE: &str = include_str!("pxe.ipxe");

/// For machines with UEFI: shim and GRUB as from a disk, so that Secure Boot can stay on.
const GRUB: &str = include_str!("pxe-grub.cfg");

pub(super) fn build(ingredients: &Ingredients, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("grub"))?;
    let (shim, grub) = boot::signed(ingredients, "grubnetx64.efi.signed")?;
    let files = [
        (ingredients.kernel.clone(), "vmlinuz"),
        (ingredients.initramfs.clone(), "initramfs"),
        (shim, "bootx64.efi"),
        (grub, "grubx64.efi"),
        (ingredients.text("pxe.ipxe", IPXE)?, "lifeboat.ipxe"),
        (ingredients.text("pxe-grub.cfg", GRUB)?, "grub/grub.cfg"),
    ];
    for (file, name) in files {
        fs::copy(file, folder.join(name))?;
        ingredients.date(&folder.join(name))?;
    }
    Ok(())
}
