//! A qcow2 file that holds nothing yet and reads everything from another disk, and what such a file says of that disk.
//!
//! ```text
//! cluster 0        header, extensions, name of the backing disk
//! cluster 1        refcount table, one entry
//! cluster 2        refcount block
//! cluster 3 …      L1 table, zeros: a hole in the file
//! ```
//!
//! Version 3. Must not know: images, repositories.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{BACKING_FORMAT, L1_BYTES_MAX, MAGIC, NAME_BYTES_MAX};
use crate::read_at::field;

const HEADER_LEN: u32 = 104;
/// With clusters of 64 KiB a write that is smaller reads little from the image, and the tables stay small.
const CLUSTER_BITS: u32 = 16;
/// For disks whose tables would be too large otherwise.
const CLUSTER_BITS_LARGE: u32 = 21;

/// What an overlay is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Size of the disk in bytes.
    pub size: u64,
    /// What it reads the rest from, as QEMU is told.
    pub backing: String,
}

impl Overlay {
    /// Writes the file, which is empty. It grows to hold what is written to the disk.
    ///
    /// # Errors
    /// What the system says; `InvalidInput` for a disk too large or a name too long.
    pub fn write(&self, file: &File) -> io::Result<()> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        if self.backing.len() > NAME_BYTES_MAX {
            return Err(invalid("what it reads from has too long a name for qcow2"));
        }
        let l1 = |bits: u32| self.size.div_ceil(1 << (2 * bits - 3)).max(1);
        let bits = if l1(CLUSTER_BITS) * 8 > L1_BYTES_MAX / 32 { CLUSTER_BITS_LARGE } else { CLUSTER_BITS };
        let l1_entries = l1(bits);
        if l1_entries * 8 > L1_BYTES_MAX {
            return Err(invalid("the disk is too large for qcow2"));
        }
        let cluster = 1u64 << bits;
        let clusters = 3 + (l1_entries * 8).div_ceil(cluster);
        let name_at = HEADER_LEN + 16 + 8;
        let mut header = Vec::with_capacity(1024);
        header.extend_from_slice(&MAGIC);
        let narrow = |value: u64| u32::try_from(value).map_err(|_| invalid("the disk is too large for qcow2"));
        header.extend_from_slice(&3u32.to_be_bytes());
        header.extend_from_slice(&u64::from(name_at).to_be_bytes());
        header.extend_from_slice(&narrow(self.backing.len() as u64)?.to_be_bytes());
        header.extend_from_slice(&bits.to_be_bytes());
        header.extend_from_slice(&self.size.to_be_bytes());
        // Not encrypted.
        header.extend_from_slice(&0u32.to_be_bytes());
        header.extend_from_slice(&narrow(l1_entries)?.to_be_bytes());
        header.extend_from_slice(&(3 * cluster).to_be_bytes());
        // The refcount table and its length in clusters.
        header.extend_from_slice(&cluster.to_be_bytes());
        header.extend_from_slice(&1u32.to_be_bytes());
        // No snapshots, no features.
        header.extend_from_slice(&[0; 4 + 8 + 24]);
        // Refcounts of 16 bits.
        header.extend_from_slice(&4u32.to_be_bytes());
        header.extend_from_slice(&HEADER_LEN.to_be_bytes());
        header.extend_from_slice(&BACKING_FORMAT.to_be_bytes());
        header.extend_from_slice(&3u32.to_be_bytes());
        header.extend_from_slice(b"raw\0\0\0\0\0");
        // The end of the extensions.
        header.extend_from_slice(&[0; 8]);
        header.extend_from_slice(self.backing.as_bytes());
        let counts: Vec<u8> = (0..clusters).flat_map(|_| 1u16.to_be_bytes()).collect();
        file.set_len(clusters * cluster)?;
        file.write_all_at(&counts, 2 * cluster)?;
        file.write_all_at(&(2 * cluster).to_be_bytes(), cluster)?;
        file.write_all_at(&header, 0)?;
        file.sync_all()
    }

    /// What a file that may be an overlay says of itself; `None` when it is no qcow2 file, or has no backing.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(file: &File) -> io::Result<Option<Self>> {
        let mut header = [0; 32];
        match file.read_exact_at(&mut header, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let number = |at| field::be32(&header, at).unwrap_or(0);
        let place = |at| field::be64(&header, at).unwrap_or(0);
        let len = usize::try_from(number(16)).unwrap_or(usize::MAX);
        if !header.starts_with(&MAGIC) || !(2..=3).contains(&number(4)) || place(8) == 0 {
            return Ok(None);
        }
        if len == 0 || len > NAME_BYTES_MAX {
            return Ok(None);
        }
        let mut name = vec![0; len];
        match file.read_exact_at(&mut name, place(8)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        Ok(String::from_utf8(name).ok().map(|backing| Self { size: place(24), backing }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        for size in [512, 3 << 30, 1 << 40, 300 << 40] {
            let file = tempfile::tempfile().unwrap();
            let overlay = Overlay { size, backing: "nbd+unix:///x/disk0?socket=/a%20b.sock".to_owned() };
            overlay.write(&file).unwrap();
            assert_eq!(Overlay::read(&file).unwrap(), Some(overlay));
        }
    }

    #[test]
    fn what_is_no_overlay_is_none() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Overlay::read(&file).unwrap(), None);
        for bytes in [&[0xFF; 600][..], b"QFI\xfb", &[&b"QFI\xfb\0\0\0\x03"[..], &[0xFF; 60]].concat()] {
            file.write_all_at(bytes, 0).unwrap();
            assert_eq!(Overlay::read(&file).unwrap(), None);
        }
    }

    #[test]
    fn too_much_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let refused = |size, len| Overlay { size, backing: "x".repeat(len) }.write(&file).unwrap_err().kind();
        assert_eq!(refused(1 << 20, 1024), io::ErrorKind::InvalidInput);
        assert_eq!(refused(u64::MAX, 4), io::ErrorKind::InvalidInput);
    }
}
