//! Comparing a target with what the image has for it: to write only what differs, and to read back.

use crate::bulk::Want;
use crate::capture::{is_zero, short};
use crate::disk::source::AlignedBuf;
use crate::disk::target::Target;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::parallel::in_parallel;
use crate::progress::Progress;
use crate::repo::Repository;
use crate::repo::pack::Content;

/// Bytes of one read, at most, unless a single chunk is larger.
const READ_BYTES: u64 = 1 << 20;

/// Gives those of `wants` whose chunk the target does not have in its place. `wants` are sorted by place, all
/// on this target, whose first byte has the place `base`.
pub(super) fn differing(
    repository: &Repository,
    target: &dyn Target,
    base: u64,
    wants: &[Want],
    progress: &Progress,
) -> Result<Vec<Want>> {
    let groups = neighbours(wants);
    in_parallel(groups.len(), progress, &|group, kept: &mut Vec<Want>| {
        let wants = groups.get(group).copied().unwrap_or_default();
        let (Some(first), Some(last)) = (wants.first(), wants.last()) else { return Ok(()) };
        let start = (first.place - base) / 4096 * 4096;
        let end = (last.place - base + u64::from(last.len)).next_multiple_of(4096).min(target.size());
        let len = usize::try_from(end - start).unwrap_or(usize::MAX);
        let mut buf = AlignedBuf::new(len);
        let read = target.read_at(start, buf.as_mut_slice());
        read.map_err(Error::io(format!("read {len} bytes at byte {start} of"), &target.identity().path))?;
        for want in wants {
            let at = usize::try_from(want.place - base - start).unwrap_or(usize::MAX);
            let range = at..at.saturating_add(usize::try_from(want.len).unwrap_or(usize::MAX));
            let id = |bytes| short(repository.chunk_id(Content::Data, [bytes]));
            let same = buf.as_slice().get(range).is_some_and(|bytes| id(bytes) == want.chunk);
            if !same {
                kept.push(*want);
            }
            Progress::add(&progress.done, want.len.into());
            progress.cover(&target.identity().path, Extent::new(want.place - base, want.len.into()));
        }
        Ok(())
    })
}

/// Gives those parts of `zeros` that are not zero on the target.
pub(super) fn not_zero(target: &dyn Target, zeros: &ExtentSet, progress: &Progress) -> Result<ExtentSet> {
    let pieces: Vec<Extent> = zeros
        .iter()
        .flat_map(|e| {
            (0..e.len.div_ceil(READ_BYTES)).map(move |n| {
                let start = e.start + n * READ_BYTES;
                Extent::between(start, e.end().min(start + READ_BYTES))
            })
        })
        .collect();
    let found = in_parallel(pieces.len(), progress, &|piece, kept: &mut Vec<Extent>| {
        let Some(&extent) = pieces.get(piece) else { return Ok(()) };
        let start = extent.start / 4096 * 4096;
        let end = extent.end().next_multiple_of(4096).min(target.size());
        let mut buf = AlignedBuf::new(usize::try_from(end - start).unwrap_or(0));
        let read = target.read_at(start, buf.as_mut_slice());
        read.map_err(Error::io(format!("read {} bytes at byte {start} of", end - start), &target.identity().path))?;
        let at = usize::try_from(extent.start - start).unwrap_or(0);
        let range = at..at + usize::try_from(extent.len).unwrap_or(0);
        if !buf.as_slice().get(range).is_some_and(is_zero) {
            kept.push(extent);
        }
        Progress::add(&progress.done, extent.len);
        progress.cover(&target.identity().path, extent);
        Ok(())
    })?;
    Ok(found.into_iter().collect())
}

/// Runs of wants that are read in one go.
fn neighbours(wants: &[Want]) -> Vec<&[Want]> {
    let mut groups = Vec::new();
    let (mut first, mut end) = (0, 0);
    for (index, want) in wants.iter().enumerate() {
        let start = wants.get(first).map_or(0, |want| want.place);
        let joins = want.place == end && want.place + u64::from(want.len) - start <= READ_BYTES;
        if !joins && index > first {
            groups.extend(wants.get(first..index));
            first = index;
        }
        end = want.place + u64::from(want.len);
    }
    groups.extend(wants.get(first..).filter(|rest| !rest.is_empty()));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_grouped_and_none_is_lost() {
        let want = |place: u64, len: u32| Want { chunk: 0, place, len };
        let wants =
            [want(0, 4096), want(4096, 4096), want(12288, 4096), want(16384, 2 << 20), want((2 << 20) + 16384, 512)];
        let groups = neighbours(&wants);
        let sizes: Vec<usize> = groups.iter().map(|group| group.len()).collect();
        assert_eq!(sizes, [2, 1, 1, 1]);
        assert_eq!(groups.concat(), wants);
        assert!(neighbours(&[]).is_empty());
    }
}
