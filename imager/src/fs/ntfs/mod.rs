//! NTFS. The allocation map is `$Bitmap`, believed as far as the volume vouches for it:
//!
//! - shut down by Windows: `$Bitmap` as it is;
//! - last written by another driver (which empties the journal), or flagged for a check: `$Bitmap`, and
//!   every cluster that any file record in use names;
//! - with work left in its journal, hibernated, or half mended: nothing. Clusters may be in use that only
//!   the journal or the hibernated memory knows, so the volume is read whole.
//!
//! Sources: linux-ntfs documentation, checked against volumes of mkntfs, ntfs-3g and Windows.

mod bitmap;
mod boot;
pub(super) mod files;
mod log;
mod mft;
mod record;
mod root;
mod spare;
mod stream;
mod volume;

use std::io;

use crate::extent::{Extent, ExtentSet};
use crate::fs::{FileSystem, FsError, Note, Reader};
use crate::read_at::ReadAt;
use log::Journal;
use mft::Mft;
use record::Body;
use volume::State;

/// The reader.
pub(super) struct Ntfs;

impl Reader for Ntfs {
    fn probe(&self, volume: &dyn ReadAt) -> io::Result<bool> {
        let enough = volume.size() >= boot::BOOT_SECTOR_BYTES as u64;
        Ok(enough && volume.read_vec(0, boot::BOOT_SECTOR_BYTES)?.get(3..11) == Some(boot::OEM_ID))
    }

    fn read(&self, volume: &dyn ReadAt) -> Result<FileSystem, FsError> {
        read(volume)
    }

    fn name(&self) -> &'static str {
        "ntfs"
    }
}

fn read(volume: &dyn ReadAt) -> Result<FileSystem, FsError> {
    let mft = Mft::open(volume)?;
    let information = volume::volume_information(&mft)?;
    let journal = log::journal(&mft)?;
    let mut found = FileSystem {
        kind: "ntfs".to_owned(),
        label: information.label,
        uuid: Some(format!("{:016X}", mft.boot.serial)),
        block_size: mft.boot.cluster_size,
        size: mft.boot.size,
        grid_origin: 0,
        used: ExtentSet::new(),
        notes: Vec::new(),
        spare_files: Vec::new(),
    };

    let mut doubt = None;
    match information.state {
        State::Good => {}
        State::Dirty => found.notes.push(Note::Dirty { detail: "$Volume asks for a check".to_owned() }),
        State::HalfMended => {
            let detail = "a check by Windows was interrupted".to_owned();
            doubt = Some(detail.clone());
            found.notes.push(Note::Dirty { detail });
        }
    }
    if let Journal::Unclean(detail) = &journal {
        found.notes.push(Note::Dirty { detail: detail.clone() });
        let cure = "after `shutdown /s /t 0` in Windows only what is in use is read";
        doubt = Some(format!("{detail}, so that $Bitmap may lack what is in use; {cure}"));
    }
    // On a volume in doubt its directory may be, too; then it is read whole in any case.
    let spare =
        spare::spare(&mft).or_else(|error| if doubt.is_some() { Ok(Default::default()) } else { Err(error) })?;
    if let Some(detail) = spare.hibernated {
        doubt.get_or_insert_with(|| format!("Windows is hibernated ({detail}), and knows better than $Bitmap"));
        found.notes.push(Note::Hibernated { detail });
    }

    if let Some(reason) = doubt {
        found.used = ExtentSet::whole(found.size);
        found.notes.push(Note::ReadWhole { reason });
        return Ok(found);
    }
    found.spare_files = spare.files;
    found.used = bitmap::used(&mft)?;
    if journal == Journal::Empty || information.state == State::Dirty {
        let unmarked = unmarked(&mft, &found.used)?;
        if !unmarked.is_empty() {
            let detail = format!("{} bytes of files are not marked in $Bitmap", unmarked.total());
            found.notes.push(Note::Dirty { detail });
            found.used = found.used.union(&unmarked);
        }
    }
    found.used = found.used.union(&always_used(&mft));
    Ok(found)
}

/// The bytes of files that are not in `used`. Reads the whole master file table.
fn unmarked(mft: &Mft<'_>, used: &ExtentSet) -> Result<ExtentSet, FsError> {
    const EXTENTS_AT_ONCE: usize = 1 << 20;
    let mut unmarked = ExtentSet::new();
    let mut unsorted: Vec<Extent> = Vec::new();
    mft.each_record_in_use(|record| {
        for attribute in record.attributes()? {
            let Body::NonResident(mapping) = &attribute.body else { continue };
            for run in stream::runs(mapping, mft.boot.clusters, attribute.position)? {
                let Some(lcn) = run.lcn else { continue };
                let extent =
                    Extent::between(mft.boot.position(lcn), mft.boot.position(lcn.saturating_add(run.clusters)));
                if !used.contains(extent) {
                    unsorted.push(extent);
                }
            }
        }
        if unsorted.len() >= EXTENTS_AT_ONCE {
            unsorted.sort_unstable();
            unmarked = unmarked.union(&unsorted.drain(..).collect());
        }
        Ok(())
    })?;
    unsorted.sort_unstable();
    Ok(unmarked.union(&unsorted.into_iter().collect()).minus(used))
}

/// What boots the volume, and its end, which is no whole cluster and has no bit.
fn always_used(mft: &Mft<'_>) -> ExtentSet {
    let boot_file = Extent::new(0, (8 << 10).min(mft.boot.size));
    let end = Extent::between(mft.boot.position(mft.boot.clusters), mft.boot.size);
    [boot_file, end].into_iter().collect()
}
