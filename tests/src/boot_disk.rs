//! Puts a system on a disk so that it boots: partitions, file systems, GRUB.
//!
//! The host's kernel need not know FAT: mtools fills the EFI system partition, and what grub-install would put
//! there is made by grub-mkimage.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, Result};

use crate::disk::{Disk, Table, Wanted};
use crate::mounted::{Loop, Mount, WorkFolder};
use crate::tool;

/// The UUID of every root file system made here.
pub const ROOT_UUID: &str = "1ba7b0a7-0000-4000-8000-000000000001";

const SWAP_UUID: &str = "1ba7b0a7-0000-4000-8000-000000000002";

/// As FAT knows it, and as Linux writes it.
const ESP_SERIAL: (&str, &str) = ("1BA70003", "1BA7-0003");

/// BIOS boot partition, EFI system partition, swap, root: boots on BIOS and UEFI.
const GPT: &[Wanted] = &[
    Wanted { name: "bios", kind: "21686148-6449-6E6F-744E-656564454649", mib: 1 },
    Wanted { name: "esp", kind: "uefi", mib: 64 },
    Wanted { name: "swap", kind: "swap", mib: 64 },
    Wanted { name: "root", kind: "linux", mib: 1900 },
];

/// Root alone, GRUB's core in the gap before it: boots on BIOS.
const MBR: &[Wanted] = &[Wanted { name: "root", kind: "83", mib: 1900 }];

/// Size of the disks made here.
pub const DISK_MIB: u64 = 2048;

/// What a disk made here has where.
#[derive(Clone, Debug)]
pub struct BootDisk {
    /// The image.
    pub disk: Disk,
    /// The root partition's number.
    pub root: usize,
    /// The EFI system partition's number, where there is one.
    pub esp: Option<usize>,
}

/// Makes a disk that boots the system in `tarball`.
///
/// # Errors
/// When a tool fails.
pub fn make(folder: &WorkFolder, tarball: &Path, image: &Path, table: Table) -> Result<BootDisk> {
    let wanted = match table {
        Table::Gpt => GPT,
        Table::Mbr => MBR,
    };
    let number = |name| wanted.iter().position(|partition| partition.name == name).map(|index| index + 1);
    let disk = Disk::create(image, DISK_MIB, table, wanted)?;
    let root = number("root").context("the layout has no root")?;
    let made = BootDisk { disk, root, esp: number("esp") };

    let mut fstab = format!("UUID={ROOT_UUID} / ext4 defaults 0 1\n");
    if let Some(swap) = number("swap") {
        let device = Loop::partition(image, made.disk.partition(swap)?, &[])?;
        tool::run("mkswap", [OsStr::new("--uuid"), SWAP_UUID.as_ref(), device.path.as_os_str()])?;
        fstab += &format!("UUID={SWAP_UUID} none swap sw 0 0\n");
    }
    if made.esp.is_some() {
        fstab += &format!("UUID={} /boot/efi vfat umask=0077 0 0\n", ESP_SERIAL.1);
    }
    let mount_point = folder.join("root");
    let esp_image = folder.join("BOOTX64.EFI");
    fill_root(&made, tarball, &mount_point, &fstab, &esp_image)?;
    if let Some(esp) = made.esp {
        fill_esp(&made.disk, esp, &esp_image)?;
    }
    Ok(made)
}

fn fill_root(made: &BootDisk, tarball: &Path, at: &Path, fstab: &str, esp_image: &Path) -> Result<()> {
    let device = Loop::disk(&made.disk.image)?;
    let root_device = format!("{}p{}", device.path.display(), made.root);
    tool::run("mkfs.ext4", ["-q", "-L", "root", "-U", ROOT_UUID, "-E", "lazy_itable_init=0", &root_device])?;
    let root = Mount::new(root_device.as_ref(), "ext4", "nodiscard", at)?;
    tool::run("tar", [OsStr::new("-xf"), tarball.as_ref(), "-C".as_ref(), at.as_ref()])?;
    {
        let _proc = Mount::new("proc".as_ref(), "proc", "defaults", &at.join("proc"))?;
        let _sys = Mount::new("sysfs".as_ref(), "sysfs", "defaults", &at.join("sys"))?;
        tool::sh(
            GRUB,
            &[
                ("root", at.as_os_str()),
                ("disk", device.path.as_os_str()),
                ("root_device", root_device.as_ref()),
                ("uuid", ROOT_UUID.as_ref()),
                ("fstab", fstab.as_ref()),
                ("efi", esp_image.as_os_str()),
            ],
        )?;
    }
    root.unmount()
}

/// In the new root, as its own installer would. The device nodes are made in its own `/dev`, which the running
/// system never sees: without udev's link, GRUB would write the loop device's name into its configuration.
const GRUB: &str = r#"
echo "$fstab" > "$root/etc/fstab"
mkdir -p "$root/boot/efi" "$root/dev/disk/by-uuid"
cp -a "$disk" "$disk"p* "$root/dev/"
ln -s "$root_device" "$root/dev/disk/by-uuid/$uuid"
chroot "$root" grub-install --target=i386-pc --no-floppy "$disk"
chroot "$root" grub-mkconfig -o /boot/grub/grub.cfg
cp -r "$root/usr/lib/grub/x86_64-efi" "$root/boot/grub/"
printf 'search --fs-uuid --set=root %s\nset prefix=($root)/boot/grub\n' "$uuid" > "$root/tmp/early.cfg"
chroot "$root" grub-mkimage -O x86_64-efi -p /boot/grub -c /tmp/early.cfg -o /tmp/grub.efi \
  part_gpt part_msdos ext2 search search_fs_uuid normal configfile linux
mv "$root/tmp/grub.efi" "$efi"
rm -rf "$root/tmp/early.cfg" "$root"/dev/loop* "$root/dev/disk"
grep -q "root=UUID=$uuid" "$root/boot/grub/grub.cfg"
"#;

/// The path that firmware tries when it knows no boot entry: a disk carries it to another machine.
fn fill_esp(disk: &Disk, esp: usize, loader: &Path) -> Result<()> {
    {
        let device = Loop::partition(&disk.image, disk.partition(esp)?, &[])?;
        let words = ["-F", "32", "-n", "ESP", "-i", ESP_SERIAL.0].map(OsStr::new);
        tool::run("mkfs.vfat", words.into_iter().chain([device.path.as_os_str()]))?;
        tool::run("sync", [&device.path])?;
    }
    tool::sh(
        "mmd -i \"$esp\" ::/EFI ::/EFI/BOOT; mcopy -i \"$esp\" \"$loader\" ::/EFI/BOOT/BOOTX64.EFI",
        &[("esp", disk.mtools_name(esp)?.as_ref()), ("loader", loader.as_os_str())],
    )?;
    Ok(())
}
