//! Putting what is needed of half-empty packs into new ones.
//!
//! Must not know: why a chunk is needed, what becomes of the old packs.

use super::Options;
use super::survey::Survey;
use crate::capture::short;
use crate::error::{Error, Result};
use crate::progress::{Phase, Progress};
use crate::repo::Repository;
use crate::repo::frame;
use crate::repo::index::IndexedPack;
use crate::repo::pack::{
    Check, ChunkEntry, CodedFrame, Content, FrameEntry, Pack, PackBuilder, PackId, RawFrame, SessionId, object_name,
};

/// Writes new packs, and puts them into `done` as they reach the store. A frame that is needed as a whole is
/// not even decompressed.
pub(super) fn rewrite(
    repository: &Repository,
    session: SessionId,
    survey: &Survey,
    options: &Options,
    progress: &Progress,
    done: &mut Vec<IndexedPack>,
) -> Result<()> {
    progress.begin(Phase::Copying, survey.rewrite_bytes);
    let mut writer = Rewriter {
        repository,
        session,
        options,
        data: PackBuilder::new(repository.secret(), session)?,
        map: PackBuilder::new(repository.secret(), session)?,
        done,
    };
    let mut taken = survey.kept.clone();
    for pack in &survey.rewrite {
        let reader = repository.pack_reader(pack.id);
        let frames = pack.directory.frames.iter().zip(pack.directory.frame_offsets());
        for (number, (entry, offset)) in (0..).zip(frames) {
            progress.check()?;
            let wanted: Vec<bool> = entry
                .chunks
                .iter()
                .map(|chunk| survey.needed.contains(&short(chunk.id)) && taken.insert(short(chunk.id)))
                .collect();
            if !wanted.contains(&true) {
                continue;
            }
            let range = offset..offset + u64::from(entry.stored_len);
            let sealed = repository.store().get_range(&object_name(pack.id), range)?.to_vec();
            let coded = if wanted.contains(&false) {
                let raw = needed_part(repository, pack.id, number, offset, entry, sealed, &wanted)?;
                frame::compress(raw, options.level, &mut drop).map_err(|error| Error::Internal(error.to_string()))?
            } else {
                reader.coded_frame(number, offset, entry, sealed)?
            };
            writer.push(coded)?;
            Progress::add(&progress.done, entry.stored_len.into());
        }
    }
    writer.finish()
}

fn needed_part(
    repository: &Repository,
    pack: PackId,
    number: u32,
    offset: u64,
    entry: &FrameEntry,
    mut sealed: Vec<u8>,
    wanted: &[bool],
) -> Result<RawFrame> {
    let mut raw = vec![0; entry.raw_len_in_memory()];
    repository.pack_reader(pack).frame(Check::Seal, number, offset, entry, &mut sealed, &mut raw)?;
    let (mut data, mut chunks) = (Vec::new(), Vec::<ChunkEntry>::new());
    let mut at = 0;
    for (chunk, wanted) in entry.chunks.iter().zip(wanted) {
        let len = usize::try_from(chunk.len).unwrap_or(usize::MAX);
        if *wanted {
            let bytes = raw.get(at..at + len).unwrap_or_default();
            if repository.chunk_id(entry.content, [bytes]) != chunk.id {
                return Err(Error::damaged(object_name(pack), offset, "a chunk is not what its id says"));
            }
            data.extend_from_slice(bytes);
            chunks.push(*chunk);
        }
        at += len;
    }
    Ok(RawFrame { content: entry.content, data, chunks })
}

struct Rewriter<'a> {
    repository: &'a Repository,
    session: SessionId,
    options: &'a Options,
    data: PackBuilder,
    map: PackBuilder,
    done: &'a mut Vec<IndexedPack>,
}

impl Rewriter<'_> {
    fn push(&mut self, frame: CodedFrame) -> Result<()> {
        let builder = if frame.content == Content::Data { &mut self.data } else { &mut self.map };
        builder.push(frame)?;
        if builder.size() >= self.options.pack_bytes {
            let full = std::mem::replace(builder, PackBuilder::new(self.repository.secret(), self.session)?);
            self.put(full)?;
        }
        Ok(())
    }

    fn put(&mut self, builder: PackBuilder) -> Result<()> {
        if !builder.is_empty() {
            let Pack { id, parts, size, directory } = builder.finish()?;
            self.repository.store().put(&object_name(id), parts)?;
            self.done.push(IndexedPack { id, size, directory });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        let empty = || PackBuilder::new(self.repository.secret(), self.session);
        let (data, map) = (std::mem::replace(&mut self.data, empty()?), std::mem::replace(&mut self.map, empty()?));
        self.put(data)?;
        self.put(map)
    }
}
