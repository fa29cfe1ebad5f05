//! `lifeboat.iso`: boots as a CD and, written to a stick as it is, from USB; from a BIOS and from UEFI.

use std::fs;
use std::path::Path;

use anyhow::Result;
use lifeboat_tests::tool;

use super::Ingredients;
use super::boot::{self, Fat};

const LABEL: &str = "LIFEBOAT";

pub(super) fn build(ingredients: &Ingredients, iso: &Path) -> Result<()> {
    let root = ingredients.work.join("iso");
    let core = boot::grub_core(ingredients, "i386-pc-eltorito", "/boot/grub", "iso9660")?;
    let mut files = boot::common_files(ingredients, boot::MENU)?;
    files.push((core, "boot/grub/eltorito.img"));
    for (file, path) in files {
        ingredients.dated_copy(&file, &format!("iso/{path}"))?;
    }

    let esp = ingredients.work.join("esp.img");
    let efi = boot::efi_files(ingredients)?;
    let fat = Fat { label: "LIFEBOATEFI", serial: "11FEB0A7", bits: "16", bytes: Fat::bytes_for(&efi)? };
    fat.build(ingredients, &esp, &efi)?;

    let mut xorriso = ingredients.command("xorriso");
    // Dates and, from them, the disk's GUID come from SOURCE_DATE_EPOCH.
    xorriso.args(["-as", "mkisofs", "-quiet", "-no-pad", "-r", "-J", "-joliet-long", "-V", LABEL]);
    // Folders are as old as the staging folder otherwise.
    xorriso.args(["--set_all_file_dates", &format!("={}", ingredients.time)]);
    // A CD in a machine with a BIOS.
    xorriso.args(["-b", "boot/grub/eltorito.img", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]);
    // The same on a stick: GRUB's boot record, and a partition table that covers the file system.
    xorriso.args(["--grub2-boot-info", "--grub2-mbr"]).arg(boot::grub_file("boot_hybrid.img"));
    xorriso.args(["-partition_offset", "16"]);
    // UEFI: the EFI system partition behind the file system, from a CD and from a stick.
    xorriso.args(["-append_partition", "2", "0xef"]).arg(&esp).arg("-appended_part_as_gpt");
    xorriso.args(["-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::", "-no-emul-boot"]);
    xorriso.arg("-o").arg(iso).arg(&root);
    tool::output(&mut xorriso)?;
    fs::remove_dir_all(root)?;
    Ok(())
}
