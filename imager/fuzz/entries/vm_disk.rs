//! What must be true of every disk file: what may differ from zero lies within the disk, and the rest is zeros.

use imager::extent::Extent;
use imager::read_at::ReadAt;
use imager::vm_disk::{Contents, DiskError, Format, Neighbours, detect, read};

use super::volume::PatchedVolume;

/// The bytes of every file that a disk file names: its own.
struct Same<'a> {
    data: &'a [u8],
    depth: u8,
}

/// A file in memory that shares nothing.
struct Owned(Vec<u8>);

impl ReadAt for Owned {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        PatchedVolume::decode(&self.0).read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        PatchedVolume::decode(&self.0).size()
    }
}

impl Contents for Owned {}

impl Neighbours for Same<'_> {
    fn file(&self, _: &[u8]) -> Result<Box<dyn Contents>, DiskError> {
        Ok(Box::new(Owned(self.data.to_vec())))
    }

    fn disk(&self, _: &[u8], format: Option<&[u8]>) -> Result<Box<dyn Contents>, DiskError> {
        if self.depth == 0 {
            return Ok(Box::new(vec![0x5A; 100_000]));
        }
        let stated = format.and_then(|name| String::from_utf8_lossy(name).parse().ok());
        let below = Same { data: self.data, depth: self.depth - 1 };
        Ok(open(&below, stated)?.contents)
    }
}

fn open(files: &Same<'_>, stated: Option<Format>) -> Result<imager::vm_disk::Disk, DiskError> {
    let file = Owned(files.data.to_vec());
    let format = stated.map_or_else(|| detect(&file), Ok)?;
    read(Box::new(file), format, files)
}

/// Reads `data` as a disk file; the first byte chooses its format, or that the content does.
pub(crate) fn run(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    let stated = Format::ALL.get(usize::from(*choice)).copied();
    let Ok(disk) = open(&Same { data, depth: 2 }, stated) else { return };
    let disk = disk.contents;
    let Ok(may_differ) = disk.data_extents() else { return };
    assert!(may_differ.iter().all(|extent| extent.end() <= disk.size()), "data behind the disk's end");
    let gaps = may_differ.complement(Extent::new(0, disk.size()));
    for (set, is_gap) in [(&may_differ, false), (&gaps, true)] {
        for extent in set.iter().take(20) {
            for start in [extent.start, extent.end().saturating_sub(5000).max(extent.start)] {
                let len = usize::try_from((extent.end() - start).min(70_000)).unwrap();
                let Ok(bytes) = disk.read_vec(start, len) else { continue };
                assert!(!is_gap || bytes.iter().all(|&byte| byte == 0), "{extent:?} is not zeros");
                assert!(disk.read_vec(start, len).unwrap() == bytes, "{extent:?} changes");
            }
        }
    }
    assert!(disk.read_vec(disk.size(), 1).is_err());
}
