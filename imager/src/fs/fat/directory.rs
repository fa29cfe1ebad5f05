//! The root directory: the volume label, and the files that a system makes anew.
//!
//! Must not know: sub-directories, long names. Source: as for the boot sector.

use std::io;

use super::boot_sector::{BootSector, Root};
use super::table::{Chain, Chains};
use crate::fs::{SpareFile, SpareKind};
use crate::read_at::ReadAt;
use crate::read_at::field::{le16, le32};

const ENTRY_SIZE: usize = 32;
/// No system makes longer directories.
const DIRECTORY_SIZE_MAX: u32 = 65_536 * 32;
const ATTRIBUTE_VOLUME: u8 = 0x08;
const ATTRIBUTE_DIRECTORY: u8 = 0x10;
const ATTRIBUTES: u8 = 0x3f;
const ATTRIBUTES_LONG_NAME: u8 = 0x0f;
const DELETED: u8 = 0xe5;

/// Files whose content is worth nothing once the system has stopped, by their short names.
const SPARE_FILES: &[(&[u8; 11], &str, SpareKind)] = &[
    (b"PAGEFILESYS", "pagefile.sys", SpareKind::Paging),
    (b"SWAPFILESYS", "swapfile.sys", SpareKind::Paging),
    (b"386SPARTPAR", "386spart.par", SpareKind::Paging),
    (b"WIN386  SWP", "win386.swp", SpareKind::Paging),
    (b"HIBERFILSYS", "hiberfil.sys", SpareKind::Hibernation),
];

/// What the root directory has of interest.
#[derive(Debug, Default)]
pub(super) struct RootDirectory {
    /// The label, blanks at its end removed.
    pub(super) label: Option<String>,
    pub(super) spare_files: Vec<SpareFile>,
    /// `hiberfil.sys` holds a system that wants to be resumed.
    pub(super) is_hibernated: bool,
}

impl RootDirectory {
    /// Reads it; what does not make sense is passed over.
    pub(super) fn read(volume: &dyn ReadAt, boot: &BootSector) -> io::Result<Self> {
        let mut chains = Chains::new(volume, boot);
        let bytes = match boot.root {
            Root::Fixed { start, len } => volume.read_vec(start, usize::try_from(len).map_err(io::Error::other)?)?,
            Root::Cluster(first) => {
                let chain = chains.follow(first, (DIRECTORY_SIZE_MAX / boot.cluster_size).max(1))?;
                let mut bytes = Vec::new();
                for run in chain.iter().flat_map(|chain| &chain.runs) {
                    bytes.extend(volume.read_vec(run.start, usize::try_from(run.len).map_err(io::Error::other)?)?);
                }
                bytes
            }
        };
        let mut root = Self::default();
        for entry in bytes.chunks_exact(ENTRY_SIZE).take_while(|entry| entry.first() != Some(&0)) {
            root.add_entry(volume, boot, &mut chains, entry)?;
        }
        Ok(root)
    }

    fn add_entry(
        &mut self,
        volume: &dyn ReadAt,
        boot: &BootSector,
        chains: &mut Chains<'_>,
        entry: &[u8],
    ) -> io::Result<()> {
        let (Some(name), Some(&attributes)) = (entry.get(..11), entry.get(11)) else { return Ok(()) };
        let (Some(high), Some(low), Some(size)) = (le16(entry, 20), le16(entry, 26), le32(entry, 28)) else {
            return Ok(());
        };
        if name.first() == Some(&DELETED) || attributes & ATTRIBUTES == ATTRIBUTES_LONG_NAME {
            return Ok(());
        }
        match attributes & (ATTRIBUTE_VOLUME | ATTRIBUTE_DIRECTORY) {
            ATTRIBUTE_VOLUME if self.label.is_none() && high == 0 && low == 0 => self.label = label(name),
            0 => {
                let high = if matches!(boot.root, Root::Cluster(_)) { u32::from(high) << 16 } else { 0 };
                let spare = SPARE_FILES.iter().find(|(short, ..)| short.as_slice() == name);
                if let Some(&(_, path, kind)) = spare {
                    self.add_spare(volume, boot, chains, (path, kind), high | u32::from(low), size)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn add_spare(
        &mut self,
        volume: &dyn ReadAt,
        boot: &BootSector,
        chains: &mut Chains<'_>,
        (path, kind): (&str, SpareKind),
        first: u32,
        size: u32,
    ) -> io::Result<()> {
        let clusters = size.div_ceil(boot.cluster_size);
        let chain = chains.follow(first, clusters)?.filter(|chain| chain.clusters == clusters);
        let Some(Chain { mut runs, .. }) = chain else { return Ok(()) };
        if let (SpareKind::Hibernation, Some(run)) = (kind, runs.first()) {
            self.is_hibernated |= matches!(volume.read_vec(run.start, 4)?.as_slice(), b"hibr" | b"HIBR" | b"wake");
        }
        runs.sort_unstable();
        self.spare_files.push(SpareFile { kind, path: path.to_owned(), extents: runs.into_iter().collect() });
        Ok(())
    }
}

/// A label of eleven bytes as text; `None` for an empty one, and for what stands for none.
pub(super) fn label(bytes: &[u8]) -> Option<String> {
    let mut bytes = bytes.to_vec();
    // The first byte of an entry cannot be 0xe5, which means deleted.
    if let Some(first @ 0x05) = bytes.first_mut() {
        *first = DELETED;
    }
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_end_matches([' ', '\0']);
    (!text.is_empty() && text != "NO NAME").then(|| text.to_owned())
}
