//! What a file is, by its content.
//!
//! A raw disk's content is chosen by the machine that wrote it, which may make it look like anything. So a file is
//! taken for what its first bytes say only when nothing speaks for a raw disk, and whether it may name other files is
//! decided elsewhere. Must not know: paths.

use super::Format;
use super::error::DiskError;
use super::{qcow2, vdi, vhd, vhdx, vmdk};
use crate::read_at::{ReadAt, field};

/// The format of `file`.
///
/// # Errors
/// [`DiskError::Unsupported`] for what is both, or a format that is not read here.
pub fn detect(file: &dyn ReadAt) -> Result<Format, DiskError> {
    let len = usize::try_from(file.size().min(4608)).unwrap_or_default();
    let start = file.read_vec(0, len).map_err(DiskError::Io)?;
    let Some(format) = in_front(&start, file.size())? else {
        return Ok(if has_footer(file)? { Format::Vhd } else { Format::Raw });
    };
    if has_partition_table(&start) {
        return Err(DiskError::unsupported(format!(
            "it begins as a {format} file does, and has the partition table of a raw disk; which of both it is, say with --format {format} or --format raw"
        )));
    }
    Ok(format)
}

fn in_front(start: &[u8], size: u64) -> Result<Option<Format>, DiskError> {
    let other = |name: &str| {
        Err(DiskError::unsupported(format!(
            "it looks like a {name} file, which is not read here; `qemu-img convert -O qcow2` makes one that is, and --format raw takes the bytes as they are"
        )))
    };
    Ok(match start {
        _ if start.starts_with(&qcow2::MAGIC) => Some(Format::Qcow2),
        _ if start.starts_with(vmdk::MAGIC) => Some(Format::Vmdk),
        _ if size <= vmdk::DESCRIPTOR_BYTES_MAX && vmdk::is_descriptor(start) => Some(Format::Vmdk),
        _ if start.starts_with(vhdx::SIGNATURE) => Some(Format::Vhdx),
        _ if start.starts_with(vhd::COOKIE) => Some(Format::Vhd),
        _ if field::le32(start, 0x40) == Some(vdi::SIGNATURE) && start.starts_with(b"<<<") => Some(Format::Vdi),
        _ if has_partition_table(start) => None,
        _ if start.starts_with(b"QED\0") => return other("QED"),
        _ if start.starts_with(b"WithoutFreeSpace") || start.starts_with(b"WithouFreSpacExt") => {
            return other("Parallels");
        }
        _ if start.starts_with(b"COWD") => return other("VMDK snapshot (COWD)"),
        _ => None,
    })
}

/// The mark of a boot record, or a GPT of disks with sectors of 512 or 4,096 bytes.
fn has_partition_table(start: &[u8]) -> bool {
    let has = |at: usize, mark: &[u8]| start.get(at..).is_some_and(|rest| rest.starts_with(mark));
    has(510, b"\x55\xAA") || has(512, b"EFI PART") || has(4096, b"EFI PART")
}

/// A footer that is right in everything. A fixed disk is a raw one but for its last sector; of a dynamic one the copy in
/// front may be damaged.
fn has_footer(file: &dyn ReadAt) -> Result<bool, DiskError> {
    let Some(room) = file.size().checked_sub(512) else { return Ok(false) };
    let last = file.read_vec(room, 512).map_err(DiskError::Io)?;
    Ok(match vhd::Footer::from_bytes(&last) {
        Ok(footer) if footer.kind == vhd::Kind::Fixed => footer.size == room,
        Ok(footer) => file.read_vec(footer.header_offset, 8).is_ok_and(|bytes| bytes == b"cxsparse"),
        Err(_) => false,
    })
}
