//! A Debian system is installed, imaged and brought back to another disk, and boots there as it did before.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use lifeboat_tests::boot_disk::{BootDisk, DISK_MIB};
use lifeboat_tests::disk::{MIB, Table, sparse_file};
use lifeboat_tests::machine::{Bus, Firmware};
use lifeboat_tests::mounted::Mount;
use lifeboat_tests::tool;

use crate::support::{boots, folder, installed, same_files_as, skip};

const LARGER_MIB: u64 = DISK_MIB + 1024;

#[test]
fn a_gpt_disk_restored_to_a_larger_one_boots_with_a_bios() -> Result<()> {
    if skip("gpt-bios") {
        return Ok(());
    }
    let installed = installed(Table::Gpt)?;
    let target = larger_disk("gpt-bios")?;
    installed.repository.restore(&target, &["--force", "--verify"])?;

    let restored = same_files_as(&installed, &target)?;
    ensure!(disk_id(&target)? == disk_id(&installed.disk.disk.image)?, "the disk has another GUID than before");
    gpt_is_sound_to_the_last_sector(&restored)?;
    boots("gpt-bios", &restored, Firmware::SeaBios, Bus::VirtioBlk)
}

#[test]
fn a_gpt_disk_restored_with_new_ids_boots_with_uefi() -> Result<()> {
    if skip("gpt-uefi") {
        return Ok(());
    }
    let installed = installed(Table::Gpt)?;
    let target = larger_disk("gpt-uefi")?;
    installed.repository.restore(&target, &["--force", "--new-ids"])?;

    let restored = same_files_as(&installed, &target)?;
    ensure!(disk_id(&target)? != disk_id(&installed.disk.disk.image)?, "the disk kept its GUID");
    gpt_is_sound_to_the_last_sector(&restored)?;
    boots("gpt-uefi", &restored, Firmware::Ovmf, Bus::Ahci)
}

#[test]
fn a_broken_mbr_disk_is_rolled_back_and_boots_with_a_bios() -> Result<()> {
    if skip("mbr-bios") {
        return Ok(());
    }
    let installed = installed(Table::Mbr)?;
    let target = larger_disk("mbr-bios")?;
    installed.repository.restore(&target, &["--force"])?;
    break_system(&same_files_as(&installed, &target)?)?;

    installed.repository.restore(&target, &["--force", "--changed-only"])?;
    let restored = same_files_as(&installed, &target)?;
    boots("mbr-bios", &restored, Firmware::SeaBios, Bus::Ahci)
}

fn larger_disk(name: &str) -> Result<PathBuf> {
    let path = folder()?.join(&format!("{name}-restored.img"));
    sparse_file(&path, LARGER_MIB * MIB)?;
    Ok(path)
}

fn disk_id(image: &std::path::Path) -> Result<String> {
    tool::run("sfdisk", ["--disk-id".as_ref(), image.as_os_str()])
}

/// sgdisk finds nothing to complain about, such as a second table that is not at the larger disk's end.
fn gpt_is_sound_to_the_last_sector(disk: &BootDisk) -> Result<()> {
    let said = tool::run("sgdisk", ["--verify".as_ref(), disk.disk.image.as_os_str()])?;
    ensure!(said.contains("No problems found"), "sgdisk finds problems:\n{said}");
    Ok(())
}

/// No boot code, no kernel, no init: what a mishap or an attacker leaves.
fn break_system(restored: &BootDisk) -> Result<()> {
    let image = File::options().write(true).open(&restored.disk.image)?;
    image.write_all_at(&[0; 440], 0)?;
    let root = restored.disk.partition(restored.root)?;
    let mount = Mount::partition(&restored.disk.image, root, "ext4", "rw", &folder()?.join("broken"))?;
    std::fs::remove_dir_all(mount.at.join("boot"))?;
    std::fs::remove_dir_all(mount.at.join("usr/lib/systemd"))?;
    std::fs::write(mount.at.join("ransom.txt"), "pay up\n".repeat(1_000_000))?;
    mount.unmount()
}
