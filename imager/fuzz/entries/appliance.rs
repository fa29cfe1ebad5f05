//! What must be true of every exported virtual machine: its disks lie within the archive, however that is made up.

use std::path::Path;
use std::sync::Arc;

use imager::progress::Progress;
use imager::read_at::ReadAt;
use imager::vm_disk::{Contents, read_ova};

use super::bytes_of::take;
use super::volume::PatchedVolume;

/// A larger disk is cut off.
const DISK_BYTES_MAX: usize = 1 << 20;

/// The archive as it is, when the first byte is 0. Else its descriptor and its manifest, each behind its length in two
/// bytes, and then one of its disks; the other is always the same.
pub(crate) fn run(data: &[u8]) {
    disks(data);
}

/// The same; gives how many disks are in it.
pub(crate) fn disks(data: &[u8]) -> usize {
    let Some((choice, mut data)) = data.split_first() else { return 0 };
    if *choice == 0 {
        return look(Arc::new(PatchedVolume::decode(data).into_owned()));
    }
    let mut part = || {
        let len = take::<2>(&mut data).map_or(0, u16::from_le_bytes);
        let (part, rest) = data.split_at(data.len().min(len.into()));
        data = rest;
        part
    };
    let (descriptor, manifest) = (part(), part());
    let disk = PatchedVolume::decode(data);
    let len = usize::try_from(disk.size()).unwrap().min(DISK_BYTES_MAX);
    let disk = disk.read_vec(0, len).unwrap();
    let mut archive = Vec::new();
    for (name, bytes) in
        [("vm.ovf", descriptor), ("vm.mf", manifest), ("a.vmdk", &disk[..]), ("b.raw", &[0x5A; 3000][..])]
    {
        append(&mut archive, name, bytes);
    }
    archive.resize(archive.len() + 1024, 0);
    look(Arc::new(archive))
}

/// A file of a tar.
pub(crate) fn append(archive: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..136].copy_from_slice(format!("{:011o}\0", bytes.len()).as_bytes());
    header[156] = b'0';
    header[257..263].copy_from_slice(b"ustar\0");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend(header);
    archive.extend(bytes);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

fn look(file: Arc<dyn Contents>) -> usize {
    let Ok(found) = read_ova(&file, Path::new("vm.ova"), None, &Progress::new()) else { return 0 };
    assert!(!found.disks.is_empty());
    for disk in &found.disks {
        let disk = &disk.disk.contents;
        let Ok(data) = disk.data_extents() else { continue };
        assert!(data.iter().all(|extent| extent.end() <= disk.size()), "data behind the disk's end");
        let len = usize::try_from(disk.size().min(70_000)).unwrap();
        let _ = disk.read_vec(0, len);
        assert!(disk.read_vec(disk.size(), 1).is_err());
    }
    found.disks.len()
}
