//! Who a block device is, and who uses it.
//!
//! From sysfs alone, so that it works in a bare initramfs; where udev runs, what it knows fills the gaps. A
//! disk is its serial number or WWN, never its name. Must not know: what lies on a disk.
//!
//! Sources: the kernel's `Documentation/ABI/{stable,testing}/sysfs-*`, SPC-4 (the vital product data pages
//! 80h and 83h).

#![forbid(unsafe_code)]

mod sysfs;
mod uses;

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::read_at::field;
use sysfs::{Block, Number, System, attribute, clean};
pub use uses::{Uses, backing_disks, uses_of};

/// Who a disk is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Where it is now: `/dev/sda`, or the image file. Not part of who it is.
    #[serde(serialize_with = "as_text")]
    pub path: PathBuf,
    /// Maker and model, as the device itself says.
    pub model: Option<String>,
    /// The unit's serial number.
    pub serial: Option<String>,
    /// World wide name, as udev and lsblk print it: `0x5000c50015ea71ac`, `eui.0025385b71b0a4d2`.
    pub wwn: Option<String>,
    /// How it is attached: nvme, sata, sas, scsi, fc, iscsi, usb, virtio, xen, mmc, md, dm, nbd, loop, file.
    pub transport: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// Logical sector size in bytes.
    pub logical_sector: u32,
    /// Physical sector size in bytes.
    pub physical_sector: u32,
    /// Does it turn? Virtual disks mostly claim that they do.
    pub rotational: Option<bool>,
    /// Is its medium removable? A USB disk is not, a stick mostly is.
    pub removable: bool,
    /// It cannot be written.
    pub read_only: bool,
    /// The disk, when the device is a partition. All that is said above of who it is comes from that.
    pub partition_of: Option<PathBuf>,
}

/// A file's name need not be text, but what is kept must be.
fn as_text<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// Who a block device is. Symbolic links such as `/dev/disk/by-id/…` are followed.
///
/// # Errors
/// `InvalidInput` for anything but a block device; `NotFound` when the device is gone.
pub fn of_device(path: &Path) -> io::Result<Identity> {
    let system = System::host();
    let path = fs::canonicalize(path)?;
    let block = system.block(number_of(&path)?)?;
    Ok(Identity { path, ..identify(&system, &block) })
}

/// Who a disk image is: a file of some size, with sectors of 512 bytes as far as anybody knows.
///
/// # Errors
/// `InvalidInput` for anything but a regular file.
pub fn of_file(path: &Path) -> io::Result<Identity> {
    let path = fs::canonicalize(path)?;
    let meta = fs::metadata(&path)?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a file", path.display())));
    }
    let read_only = meta.permissions().readonly();
    Ok(Identity { read_only, ..of_new_file(path, meta.len()) })
}

/// Who a disk image of `size` bytes will be once its file is made.
#[must_use]
pub fn of_new_file(path: PathBuf, size: u64) -> Identity {
    Identity {
        path,
        model: None,
        serial: None,
        wwn: None,
        transport: Some("file".to_owned()),
        size,
        logical_sector: 512,
        physical_sector: 512,
        rotational: None,
        removable: false,
        read_only: false,
        partition_of: None,
    }
}

/// The whole disks of this machine, by name: what one would image.
///
/// Left out are memory disks, loop devices without a file, drives without a medium, CD-ROM and floppy
/// drives, boot areas of eMMC, and what is built on other disks (md, dm).
///
/// # Errors
/// When there is no sysfs.
pub fn all_disks() -> io::Result<Vec<Identity>> {
    disks_of(&System::host())
}

fn disks_of(system: &System) -> io::Result<Vec<Identity>> {
    const NO_DISKS: [&str; 7] = ["ram", "zram", "sr", "fd", "md", "dm-", "mtdblock"];
    let mut blocks = system.blocks()?;
    blocks.retain(|block| {
        let emmc_boot =
            block.name.starts_with("mmcblk") && (block.name.contains("boot") || block.name.contains("rpmb"));
        let hidden = block.value("hidden") == Some(1);
        let other = NO_DISKS.iter().any(|prefix| block.name.starts_with(prefix));
        let loop_without_file = block.name.starts_with("loop") && block.backing_file().is_none();
        !(emmc_boot || hidden || other || loop_without_file) && block.slaves().is_empty()
    });
    // sda before sdb before sdaa.
    blocks.sort_by_key(|block| (block.name.len(), block.name.clone()));
    let disks = blocks.iter().map(|block| identify(system, block));
    Ok(disks.filter(|disk| disk.size > 0).collect())
}

fn number_of(path: &Path) -> io::Result<Number> {
    let meta = fs::metadata(path)?;
    if meta.file_type().is_block_device() {
        return Ok(Number::of(meta.rdev()));
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a block device", path.display())))
}

fn identify(system: &System, block: &Block) -> Identity {
    let whole = block.disk();
    let disk = whole.as_ref().unwrap_or(block);
    let udev = |key: &str| system.udev(disk.number, key);
    let sector = |file: &str| disk.value(file).and_then(|size| u32::try_from(size).ok());
    let logical_sector = sector("queue/logical_block_size").unwrap_or(512);
    Identity {
        path: block.node(),
        model: model(disk).or_else(|| udev("ID_MODEL").map(|model| model.replace('_', " "))),
        serial: serial(disk).or_else(|| udev("ID_SERIAL_SHORT").filter(|serial| tells_apart(serial))),
        wwn: wwn(disk).or_else(|| udev("ID_WWN_WITH_EXTENSION")).or_else(|| udev("ID_WWN")),
        transport: transport(disk).map(str::to_owned),
        size: block.value("size").unwrap_or(0).saturating_mul(512),
        logical_sector,
        physical_sector: sector("queue/physical_block_size").unwrap_or(logical_sector),
        rotational: disk.value("queue/rotational").map(|value| value == 1),
        removable: disk.value("removable") == Some(1),
        read_only: block.value("ro") == Some(1) || disk.value("ro") == Some(1),
        partition_of: whole.as_ref().map(Block::node),
    }
}

/// SCSI and NVMe have a model, MMC has a name. "ATA" is not a maker, and some write theirs twice.
fn model(disk: &Block) -> Option<String> {
    let model = disk.text("device/model").or_else(|| disk.text("device/name"))?;
    match disk.text("device/vendor") {
        Some(vendor) if vendor != "ATA" && !vendor.starts_with("0x") && !model.starts_with(&vendor) => {
            Some(format!("{vendor} {model}"))
        }
        _ => Some(model),
    }
}

/// virtio has it at the disk, NVMe and MMC at the device, SCSI (and ATA in its guise) in page 80h, and USB
/// bridges that know no such page have one of their own.
fn serial(disk: &Block) -> Option<String> {
    let sources: [&dyn Fn() -> Option<String>; 5] = [
        &|| disk.text("serial"),
        &|| disk.text("device/serial"),
        &|| unit_serial_number(&fs::read(disk.dir.join("device/vpd_pg80")).ok()?),
        &|| disk.dir.ancestors().find(|dir| dir.join("idVendor").exists()).and_then(|dir| attribute(dir, "serial")),
        &|| disk.text("device/cid"),
    ];
    sources.into_iter().find_map(|source| source().filter(|serial| tells_apart(serial)))
}

/// Some makers leave their zeroes in.
fn tells_apart(serial: &str) -> bool {
    serial.chars().any(|c| c != '0' && c != ' ')
}

/// Vital product data page 80h: four bytes of header with the length, then text.
fn unit_serial_number(page: &[u8]) -> Option<String> {
    let len = usize::from(field::be16(page, 2)?);
    let text = page.get(4..)?;
    clean(&String::from_utf8_lossy(text.get(..len).unwrap_or(text)))
}

fn wwn(disk: &Block) -> Option<String> {
    let wwid = disk.text("wwid").or_else(|| disk.text("device/wwid"));
    match wwid {
        // Made of model and serial number by those that have no WWN.
        Some(wwid) if wwid.starts_with("t10.") => None,
        Some(wwid) => Some(wwid.strip_prefix("naa.").map_or(wwid.clone(), |naa| format!("0x{naa}"))),
        None => device_identification(&fs::read(disk.dir.join("device/vpd_pg83")).ok()?),
    }
}

/// Vital product data page 83h: the first NAA designator (type 3) of the unit itself (association 0).
fn device_identification(page: &[u8]) -> Option<String> {
    let len = usize::from(field::be16(page, 2)?);
    let mut rest = page.get(4..)?;
    rest = rest.get(..len).unwrap_or(rest);
    while let [_, kind, _, len, tail @ ..] = rest {
        let designator = tail.get(..usize::from(*len))?;
        if kind & 0x3F == 3 {
            let hex: String = designator.iter().map(|byte| format!("{byte:02x}")).collect();
            return Some(format!("0x{hex}"));
        }
        rest = tail.get(usize::from(*len)..)?;
    }
    None
}

/// How the disk is attached, from the way that leads to it. The outermost bus that says something wins: a
/// SATA disk in a USB case is a USB disk.
fn transport(disk: &Block) -> Option<&'static str> {
    const BY_NAME: [(&str, &str); 8] = [
        ("loop", "loop"),
        ("nvme", "nvme"),
        ("mmcblk", "mmc"),
        ("xvd", "xen"),
        ("nbd", "nbd"),
        ("md", "md"),
        ("dm-", "dm"),
        ("vd", "virtio"),
    ];
    const BY_WAY: [(&str, &str); 6] = [
        ("usb", "usb"),
        ("virtio", "virtio"),
        ("ata", "sata"),
        ("session", "iscsi"),
        ("rport-", "fc"),
        ("end_device-", "sas"),
    ];
    if let Some((_, transport)) = BY_NAME.iter().find(|(prefix, _)| disk.name.starts_with(prefix)) {
        return Some(transport);
    }
    let names: Vec<_> = disk.dir.iter().map(|name| name.to_string_lossy()).collect();
    let is_on = |prefix: &str| {
        let rest = |name: &str| name.strip_prefix(prefix).is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()));
        names.iter().any(|name| rest(name))
    };
    let by_way = BY_WAY.iter().find(|(prefix, _)| is_on(prefix)).map(|(_, transport)| *transport);
    by_way.or_else(|| disk.name.starts_with("sd").then_some("scsi"))
}

#[cfg(test)]
mod tests;
