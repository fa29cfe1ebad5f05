//! What must be true of every disk file: what may differ from zero lies within the disk, and the rest is zeros.

use imager::extent::Extent;
use imager::vm_disk::{Contents, Disk, DiskError, Format, Neighbours, detect, read};

use super::mend::mend_vhdx;
use super::volume::PatchedVolume;

/// The first byte of an input of VHDX whose checksums are to be made right: what lies behind them is reached.
const MENDED: u8 = 0xFE;

/// The bytes of every file that a disk file names: its own.
struct Same<'a> {
    data: &'a [u8],
    mend: Mend,
    depth: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mend {
    Checksums,
    Nothing,
}

impl Same<'_> {
    fn bytes(&self) -> PatchedVolume<'static> {
        let mut file = PatchedVolume::decode(self.data).into_owned();
        if self.mend == Mend::Checksums {
            mend_vhdx(&mut file);
        }
        file
    }
}

impl Neighbours for Same<'_> {
    fn file(&self, _: &[u8]) -> Result<Box<dyn Contents>, DiskError> {
        Ok(Box::new(self.bytes()))
    }

    fn disk(&self, _: &[u8], format: Option<&[u8]>) -> Result<Box<dyn Contents>, DiskError> {
        if self.depth == 0 {
            return Ok(Box::new(vec![0x5A; 100_000]));
        }
        let stated = format.and_then(|name| String::from_utf8_lossy(name).parse().ok());
        let below = Same { depth: self.depth - 1, ..*self };
        Ok(open(&below, stated)?.contents)
    }
}

fn open(files: &Same<'_>, stated: Option<Format>) -> Result<Disk, DiskError> {
    let file = files.bytes();
    let format = stated.map_or_else(|| detect(&file), Ok)?;
    read(Box::new(file), format, files)
}

/// Reads `data` as a disk file; the first byte chooses its format, or that the content does.
pub(crate) fn disk_in(data: &[u8]) -> Option<Disk> {
    let (choice, data) = data.split_first()?;
    let stated = Format::ALL.get(usize::from(*choice)).copied();
    let mend = if *choice == MENDED { Mend::Checksums } else { Mend::Nothing };
    open(&Same { data, mend, depth: 2 }, stated).ok()
}

/// Reads `data` as [`disk_in`] does, and looks at what comes of it.
pub(crate) fn run(data: &[u8]) {
    let Some(disk) = disk_in(data) else { return };
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
