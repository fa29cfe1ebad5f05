//! Formats that are written from the first byte to the last, worked on by all cores.
//!
//! Must not know: single fields of formats.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::source::{Source, for_each_data_run};
use super::{Image, Options, Part};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::image_disk::stream::{PIECE, Piece, in_order};
use crate::progress::{Phase, Progress};
use crate::vm_disk::layout::Label;
use crate::vm_disk::qcow2::writer::{Cluster, Packed};
use crate::vm_disk::vmdk::writer::{GRAIN, Stream, packed_grain};

fn begin<'a>(image: &Image, number: usize, options: &Options, progress: &'a Progress) -> Result<Source<'a>> {
    progress.begin(Phase::Planning, 0);
    let source = Source::open(image, number, options, progress)?;
    let mut data = 0;
    for_each_data_run(image, number, &mut |run| data += run.len)?;
    progress.begin(Phase::Copying, data);
    Ok(source)
}

fn no_compression(error: std::io::Error) -> Error {
    Error::Internal(format!("cannot compress: {error}"))
}

/// The disk's bytes, every one of them. Gives what was lost.
pub(super) fn raw(
    image: &Image,
    number: usize,
    options: &Options,
    out: &mut dyn Write,
    name: &Path,
    progress: &Progress,
) -> Result<u64> {
    let source = begin(image, number, options, progress)?;
    let zeros = vec![0; 1 << 20];
    let mut write = |bytes: &[u8]| out.write_all(bytes).map_err(Error::io("write to", name));
    in_order(&source, 1, options.memory, progress, &|_, bytes| Ok(std::mem::take(bytes)), &mut |extent, piece| {
        if let Piece::Data(bytes) = piece {
            Progress::add(&progress.done, extent.len);
            return write(&bytes);
        }
        let mut left = extent.len;
        while left > 0 {
            progress.check()?;
            let len = left.min(zeros.len() as u64);
            write(zeros.get(..usize::try_from(len).unwrap_or(0)).unwrap_or_default())?;
            left -= len;
        }
        Ok(())
    })?;
    out.flush().map_err(Error::io("write to", name))?;
    Ok(source.lost())
}

/// A compressed VMDK. Gives what was lost.
pub(super) fn vmdk(
    image: &Image,
    number: usize,
    options: &Options,
    label: &Label,
    out: &mut dyn Write,
    name: &Path,
    progress: &Progress,
) -> Result<u64> {
    let source = begin(image, number, options, progress)?;
    let size = image.disk(number)?.size;
    let mut stream = Stream::new(out, size, label).map_err(Error::io("write to", name))?;
    in_order(
        &source,
        GRAIN,
        options.memory,
        progress,
        &|extent, bytes| numbered(extent, bytes, GRAIN, &packed_grain),
        &mut |extent, piece| {
            let Piece::Data(grains) = piece else { return Ok(()) };
            Progress::add(&progress.done, extent.len);
            grains
                .iter()
                .try_for_each(|(grain, packed)| stream.add(*grain, packed).map_err(Error::io("write to", name)))
        },
    )?;
    stream.finish().map_err(Error::io("write to", name))?;
    Ok(source.lost())
}

/// A qcow2 of compressed clusters. Gives what was lost.
pub(super) fn write_packed(
    image: &Image,
    number: usize,
    options: &Options,
    part: &Part,
    progress: &Progress,
) -> Result<u64> {
    let size = image.disk(number)?.size;
    let mut packed = Packed::new(size)?;
    let cluster = packed.cluster();
    if cluster > PIECE {
        return Err(Error::Usage(format!(
            "a disk of {} is too large for compressed clusters; leave out --compress",
            crate::units::size(size)
        )));
    }
    let source = begin(image, number, options, progress)?;
    let file =
        part.create()?.into_inner().map_err(|error| Error::io("create", part.working_path())(error.into_error()))?;
    let put = &mut |offset: u64, bytes: &[u8]| file.write_all_at(bytes, offset);
    in_order(
        &source,
        cluster,
        options.memory,
        progress,
        &|extent, bytes| numbered(extent, bytes, cluster, &|_, bytes| Cluster::of(bytes, cluster)),
        &mut |extent, piece| {
            let Piece::Data(clusters) = piece else { return Ok(()) };
            Progress::add(&progress.done, extent.len);
            clusters.iter().try_for_each(|(number, bytes)| {
                packed.add(*number, bytes, put).map_err(Error::io("write", part.working_path()))
            })
        },
    )?;
    progress.begin(Phase::Finishing, 0);
    let len = packed.finish(put).map_err(Error::io("write", part.working_path()))?;
    set_len(&file, len, part.working_path())?;
    Ok(source.lost())
}

fn set_len(file: &File, len: u64, path: &Path) -> Result<()> {
    file.set_len(len).map_err(Error::io("set the size of", path))
}

/// Makes something of a block, or nothing of zeros.
type Work<'w, T> = dyn Fn(u64, &[u8]) -> std::io::Result<Option<T>> + 'w;

/// What became of each block of a piece, with the block's number on the disk; without those of zeros.
fn numbered<T>(extent: Extent, bytes: &[u8], block: u64, work: &Work<T>) -> Result<Vec<(u64, T)>> {
    let mut done = Vec::new();
    for (number, bytes) in (extent.start / block..).zip(bytes.chunks(usize::try_from(block).unwrap_or(usize::MAX))) {
        if let Some(worked) = work(number, bytes).map_err(no_compression)? {
            done.push((number, worked));
        }
    }
    Ok(done)
}
