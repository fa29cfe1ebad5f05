//! Formats whose places are known before the first byte of data: written as a restore writes a disk, in the order in
//! which the repository has the data.
//!
//! Must not know: single fields of formats.

use std::path::Path;
use std::sync::Arc;

use super::source::for_each_data_run;
use super::{How, Image, Options, Part};
use crate::disk::target::{Replace, Target};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::image_disk::Allocation;
use crate::image_disk::stream::{MappedDisk, in_order};
use crate::memory::Budget;
use crate::progress::{Phase, Progress};
use crate::repo::index::with_fresh_index;
use crate::restore::{self, ChangedOnly, DiskTarget, Plan, ReadBack, Unused, WhatToWrite};
use crate::table::{Ids, TableKind};
use crate::vm_disk::blocks::{Blocks, Marks};
use crate::vm_disk::layout::{DiskFile, Flat, Label, Layout};
use crate::vm_disk::{Format, qcow2, vdi, vhd, vhdx, vmdk};

/// Where a GPT may have to be mended, whatever was captured there.
const TABLE_BYTES: u64 = 1 << 20;

/// Writes a disk; gives what was lost, and whether it was read back.
pub(super) fn write(
    image: &Image,
    number: usize,
    format: Format,
    options: &Options,
    label: &Label,
    part: &Part,
    progress: &Progress,
) -> Result<(u64, bool)> {
    let disk = image.disk(number)?;
    progress.begin(Phase::Planning, 0);
    let layout = layout(format, options.how, disk.size, disk.sector_size, label, &mut |marks| {
        if matches!(disk.table.kind, TableKind::Gpt | TableKind::HybridMbr) {
            marks.insert(Extent::new(0, TABLE_BYTES));
            marks.insert(Extent::between(disk.size.saturating_sub(TABLE_BYTES), disk.size));
        }
        for_each_data_run(image, number, &mut |run| marks.insert(run))
    })?;
    let options = restore::Options {
        changed_only: ChangedOnly::No,
        unused: Unused::Leave,
        ids: Ids::Keep,
        read_back: options.read_back,
        damage: options.damage,
        memory: options.memory,
    };
    let target: Arc<dyn Target> = Arc::new(DiskFile::new(part.working_path(), disk.size, layout)?);
    let plan = with_fresh_index(|| {
        let targets = vec![DiskTarget { disk: number, target: target.clone(), what: WhatToWrite::All }];
        Plan::new(&image.repository, &image.manifest, targets, &options, progress)
    })?;
    let restored = restore::restore(&image.repository, plan, &options, progress)?;
    Ok((restored.lost, options.read_back == ReadBack::Yes))
}

/// Writes any disk that can be read and knows its runs, such as an image with changes on top, to `path`: plain files
/// of every format, complete or not at all, as [`super::write_disk`]. `sector_size` is in bytes.
///
/// # Errors
/// As [`super::write_disk`].
#[expect(clippy::too_many_arguments, reason = "it is what a file is made of")]
pub fn write_mapped(
    disk: &dyn MappedDisk,
    sector_size: u32,
    format: Format,
    label: &Label,
    replace: Replace,
    memory: Budget,
    path: &Path,
    progress: &Progress,
) -> Result<()> {
    const STEP: u64 = 1 << 30;
    let part = Part::new(path, replace)?;
    progress.begin(Phase::Planning, 0);
    let mut data = 0;
    let layout = layout(format, How::Plain, disk.size(), sector_size, label, &mut |marks| {
        let mut at = 0;
        while at < disk.size() {
            progress.check()?;
            let wanted = Extent::between(at, at.saturating_add(STEP).min(disk.size()));
            for (run, _) in disk.allocation(wanted)?.iter().filter(|(_, what)| *what == Allocation::Data) {
                marks.insert(*run);
                data += run.len;
            }
            at = wanted.end();
        }
        Ok(())
    })?;
    let file = DiskFile::new(part.working_path(), disk.size(), layout)?;
    file.begin()?;
    progress.begin(Phase::Copying, data);
    let write = |extent: Extent, bytes: &mut Vec<u8>| {
        let what = format!("write {} bytes at byte {} of", extent.len, extent.start);
        file.write_at(extent.start, bytes).map_err(Error::io(what, part.working_path()))?;
        Progress::add(&progress.done, extent.len);
        Ok(())
    };
    in_order(disk, 1, memory, progress, &write, &mut |_, _| Ok(()))?;
    file.flush().map_err(Error::io("flush", part.working_path()))?;
    part.finish()?;
    Ok(())
}

/// The layout of a disk; `mark` says which bytes there are.
fn layout(
    format: Format,
    how: How,
    size: u64,
    sector: u32,
    label: &Label,
    mark: &mut dyn FnMut(&mut Marks) -> Result<()>,
) -> Result<Box<dyn Layout>> {
    let mut blocks = |block_size: u64| -> Result<Blocks> {
        let mut marks = Marks::new(size, block_size)?;
        mark(&mut marks)?;
        Ok(marks.counted())
    };
    Ok(match format {
        Format::Raw => Box::new(Flat::new(size)),
        Format::Qcow2 => Box::new(qcow2::writer::Plain::new(size, blocks(qcow2::writer::cluster_size(size))?)?),
        Format::Vmdk => Box::new(vmdk::writer::Sparse::new(size, blocks(vmdk::writer::GRAIN)?, label)?),
        Format::Vhdx => {
            Box::new(vhdx::writer::Dynamic::new(size, sector, blocks(vhdx::writer::block_size(size))?, label)?)
        }
        Format::Vhd if how == How::Fixed => Box::new(vhd::writer::Fixed::new(size, label)?),
        Format::Vhd => Box::new(vhd::writer::Dynamic::new(size, blocks(vhd::writer::BLOCK)?, label)?),
        Format::Vdi => Box::new(vdi::writer::Dynamic::new(size, blocks(vdi::writer::BLOCK)?, label)?),
    })
}
