//! `lifeboat-usb.img`: a stick that boots from a BIOS and from UEFI, and has room for backups.
//!
//! Three partitions: GRUB's core for a BIOS; the EFI system partition with everything that boots, which Windows and macOS can
//! read, too; and the one for backups, the last, so that it can grow to the stick's end at the first boot.
//!
//! Backups are on ext4 rather than exFAT: it has a journal, so that a stick pulled out or a power cut midway loses nothing that
//! was stored, and the running kernel can grow it (`EXT4_IOC_RESIZE_FS`) without a helper program. What exFAT would give, that
//! Windows can read the files, is of little use: they are encrypted packs.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lifeboat_tests::disk::{Disk, MIB, Partition, sparse_file};
use lifeboat_tests::tool;

use super::Ingredients;
use super::boot::{self, Fat};

/// GRUB's core, before all else.
const CORE_MIB: u64 = 1;

/// Larger than what is in it, so that a newer one fits; FAT32, which every firmware reads.
const ESP_MIB: u64 = 128;

/// The agent finds the partition by this, and makes it as large as the stick allows.
const BACKUP_LABEL: &str = "LIFEBOAT";

/// Enough for a journal that does not slow down writing; it cannot grow with the rest.
const BACKUP_MIB: u64 = 96;

const JOURNAL_MIB: u64 = 32;

/// Between the last partition and the image's end: the second partition table.
const END_MIB: u64 = 1;

const BACKUP_UUID: &str = "1f5b0a7d-c0de-4000-8000-000000000003";

/// sfdisk's description; every GUID is fixed, and known to `imager::stick`.
fn layout() -> String {
    let [core, esp, backup] = [1, 1 + CORE_MIB, 1 + CORE_MIB + ESP_MIB];
    format!(
        "label: gpt\nlabel-id: 1F5B0A7D-C0DE-4000-8000-000000000000\n\
         start={core}MiB, size={CORE_MIB}MiB, name=\"BIOS boot\", type=21686148-6449-6E6F-744E-656564454649, \
         uuid=1F5B0A7D-C0DE-4000-8000-000000000001\n\
         start={esp}MiB, size={ESP_MIB}MiB, name=\"EFI system\", type=uefi, uuid=1F5B0A7D-C0DE-4000-8000-000000000002\n\
         start={backup}MiB, size={BACKUP_MIB}MiB, name=\"{BACKUP_LABEL}\", type=linux, \
         uuid=1F5B0A7D-C0DE-4000-8000-000000000003\n"
    )
}

/// The menu, which says to the agent that it was started from the stick: only then it enlarges it.
fn menu() -> String {
    boot::MENU.replace("linux /boot/vmlinuz ", "linux /boot/vmlinuz lifeboat-medium=stick ")
}

pub(super) fn build(ingredients: &Ingredients, image: &Path) -> Result<()> {
    sparse_file(image, (1 + CORE_MIB + ESP_MIB + BACKUP_MIB + END_MIB) * MIB)?;
    let variables =
        [("image", image.as_os_str()), ("layout", layout().as_ref())].map(|(name, value)| (name, value.to_owned()));
    tool::sh("sfdisk --quiet \"$image\" <<< \"$layout\"", &variables)?;
    let disk = Disk::open(image)?;

    let mut files = boot::common_files(ingredients, &menu())?;
    files.extend(boot::efi_files(ingredients)?);
    let esp = ingredients.work.join("stick-esp.img");
    let bytes = ESP_MIB * MIB;
    ensure!(Fat::bytes_for(&files)? < bytes, "the files do not fit into the EFI system partition: make it larger");
    Fat { label: "LIFEBOATEFI", serial: "11FEB0A8", bits: "32", bytes }.build(ingredients, &esp, &files)?;
    place(image, &esp, disk.partition(2)?)?;

    let backup = ingredients.work.join("stick-backup.img");
    make_backup_file_system(ingredients, &backup)?;
    place(image, &backup, disk.partition(3)?)?;

    // The second partition, by its number: the disk's is whatever the BIOS started from.
    let core = boot::grub_core(ingredients, "i386-pc", "(,gpt2)/boot/grub", "fat")?;
    install_core(image, &core, disk.partition(1)?)
}

/// Few inodes, for packs are large; nothing reserved for root; the journal as large as it will ever be.
fn make_backup_file_system(ingredients: &Ingredients, file: &Path) -> Result<()> {
    sparse_file(file, BACKUP_MIB * MIB)?;
    let mut mkfs = ingredients.command("mkfs.ext4");
    // mkfs knows no SOURCE_DATE_EPOCH.
    mkfs.env("E2FSPROGS_FAKE_TIME", ingredients.time.to_string());
    mkfs.args(["-q", "-F", "-b", "4096", "-i", "65536", "-m", "0", "-L", BACKUP_LABEL, "-U", BACKUP_UUID]);
    mkfs.args(["-J", &format!("size={JOURNAL_MIB}"), "-E"]);
    // The hashes of folders are seeded by chance otherwise. The folder for files that fsck finds is root's.
    mkfs.arg(format!("hash_seed={BACKUP_UUID},root_owner=0:0,lazy_itable_init=1,lazy_journal_init=0")).arg(file);
    tool::output(&mut mkfs)?;
    Ok(())
}

/// Copies a file to where a partition is; what is all zeros stays a hole.
fn place(image: &Path, file: &Path, partition: &Partition) -> Result<()> {
    let target = File::options().write(true).open(image)?;
    let mut source = File::open(file)?;
    ensure!(source.metadata()?.len() <= partition.len, "{} is larger than its partition", file.display());
    let mut buffer = vec![0; 64 << 10];
    let mut at = partition.start;
    loop {
        let count = source.read(&mut buffer)?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.iter().any(|&byte| byte != 0) {
            target.write_all_at(bytes, at)?;
        }
        at += u64::try_from(count)?;
    }
}

/// What `grub-bios-setup` does on a disk, done on an image: the boot record is told where the core begins, and the core's
/// first sector where the rest is. The places are GRUB's (`include/grub/i386/pc/boot.h`).
fn install_core(image: &Path, core: &Path, partition: &Partition) -> Result<()> {
    const SECTOR: u64 = 512;
    const CORE_SECTOR: u64 = 0x5c;
    const DRIVE_CHECK: u64 = 0x66;
    const REST_SECTOR: u64 = 0x1f4;
    let mut code = std::fs::read(boot::grub_file("boot.img")).context("GRUB's boot record is missing")?;
    // The partition table and the disk's signature are not the loader's.
    code.truncate(440);
    let core = std::fs::read(core)?;
    ensure!(u64::try_from(core.len())? <= partition.len, "GRUB's core is larger than its partition");

    let first = partition.start / SECTOR;
    let image = File::options().write(true).open(image)?;
    image.write_all_at(&code, 0)?;
    image.write_all_at(&first.to_le_bytes(), CORE_SECTOR)?;
    // Two no-operations in place of a jump: trust a BIOS that says it started from a hard disk.
    image.write_all_at(&[0x90, 0x90], DRIVE_CHECK)?;
    image.write_all_at(&core, partition.start)?;
    image.write_all_at(&(first + 1).to_le_bytes(), partition.start + REST_SECTOR)?;
    Ok(())
}
