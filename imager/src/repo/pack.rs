//! Packs: immutable objects of frames with a directory at their end.
//!
//! ```text
//!  0   8  magic "LBPACK1\n"
//!  8  16  pack id, random; also the object's name
//! 24   8  zero
//! 32   …  frames, back to back: each a zstd frame (or raw bytes), sealed with nonce = frame number
//!  D   …  directory: a zstd frame, sealed with nonce = 0xFFFFFFFF
//! end−32   8  D, the directory's offset
//!     −24  4  the directory's stored length, tag included
//!     −20  4  the directory's length before compression
//!     −16  4  number of frames
//!     −12  4  zero
//!      −8  8  magic "LBPACKED"
//! ```
//!
//! All integers are little endian. The header is the additional data of every frame's seal; header and
//! footer are those of the directory's. The directory before compression:
//!
//! ```text
//!  0  16  session that wrote the pack
//! then per frame:
//!  0   4  stored length, tag included      4  4  length before compression
//!  8   1  codec: 0 raw, 1 zstd             9  1  content: 0 data, 1 block map
//! 10   2  number of chunks
//! 12   …  per chunk 36 bytes: id (32), length (4); the chunks stand back to back in the frame
//! ```
//!
//! Must not know: what chunks mean, how a store works.

#![forbid(unsafe_code)]

use std::ops::Range;

use bytes::Bytes;

use super::config::Hex;
use super::frame::{Part, coded_len_max, decompress_all};
use super::seal::{MasterSecret, SealingKey, TAG_LEN, counter_nonce, random};
use crate::error::{Error, Result};
use crate::read_at::field;

/// Names a chunk: the keyed BLAKE3 hash of its content.
pub type ChunkId = Hex<32>;
/// Names a pack.
pub type PackId = Hex<16>;
/// Names a session.
pub type SessionId = Hex<16>;

/// Bytes before the first frame.
pub const HEADER_LEN: usize = 32;
/// Bytes behind the directory.
pub const FOOTER_LEN: usize = 32;
/// No frame is larger before compression, no chunk either: 64 MiB.
pub const FRAME_MAX: u32 = 64 << 20;
/// No directory is larger before compression: 256 MiB.
pub(super) const DIRECTORY_MAX: u32 = 256 << 20;
pub(super) const HEAD_MAGIC: &[u8; 8] = b"LBPACK1\n";
pub(super) const FOOT_MAGIC: &[u8; 8] = b"LBPACKED";
pub(super) const DIRECTORY_NONCE: u32 = u32::MAX;

/// The object name of a pack: 256 folders, so that none grows too large for a file system.
#[must_use]
pub fn object_name(id: PackId) -> String {
    format!("packs/{:02x}/{id}", id.0[0])
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Blocks of disks.
    Data,
    /// Nodes of block maps.
    Map,
}

/// How a frame is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    Raw,
    /// One zstd frame.
    Zstd,
}

/// A chunk in a frame's directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Its id.
    pub id: ChunkId,
    /// Bytes before compression.
    pub len: u32,
}

impl FrameEntry {
    /// Bytes before compression, as a length in memory.
    #[must_use]
    pub fn raw_len_in_memory(&self) -> usize {
        usize::try_from(self.raw_len).unwrap_or(usize::MAX)
    }
}

/// A frame in a pack's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// Bytes in the pack, tag included.
    pub stored_len: u32,
    /// Bytes before compression: the sum of its chunks.
    pub raw_len: u32,
    /// How it is compressed.
    pub codec: Codec,
    /// What it holds.
    pub content: Content,
    /// Its chunks, back to back.
    pub chunks: Vec<ChunkEntry>,
}

impl FrameEntry {
    /// Whether its lengths fit together. No frame grows by being compressed: it is stored raw instead.
    fn is_sound(&self) -> bool {
        let sum = self.chunks.iter().try_fold(0u32, |sum, chunk| sum.checked_add(chunk.len));
        let stored = usize::try_from(self.stored_len).unwrap_or(usize::MAX).saturating_sub(TAG_LEN);
        let raw = usize::try_from(self.raw_len).unwrap_or(usize::MAX);
        sum == Some(self.raw_len)
            && (1..=FRAME_MAX).contains(&self.raw_len)
            && u16::try_from(self.chunks.len()).is_ok()
            && self.chunks.iter().all(|chunk| chunk.len > 0)
            && match self.codec {
                Codec::Raw => stored == raw,
                Codec::Zstd => (1..raw).contains(&stored),
            }
    }
}

/// What is in a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// The session that wrote it.
    pub session: SessionId,
    /// Its frames, in order.
    pub frames: Vec<FrameEntry>,
}

impl Directory {
    /// As the format has it, before compression.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let chunks: usize = self.frames.iter().map(|f| f.chunks.len()).sum();
        let mut out = Vec::with_capacity(16 + self.frames.len() * 12 + chunks * 36);
        out.extend_from_slice(&self.session.0);
        for frame in &self.frames {
            out.extend_from_slice(&frame.stored_len.to_le_bytes());
            out.extend_from_slice(&frame.raw_len.to_le_bytes());
            out.push(u8::from(frame.codec == Codec::Zstd));
            out.push(u8::from(frame.content == Content::Map));
            // PackBuilder closes a frame before it has this many chunks.
            out.extend_from_slice(&u16::try_from(frame.chunks.len()).unwrap_or(u16::MAX).to_le_bytes());
            for chunk in &frame.chunks {
                out.extend_from_slice(&chunk.id.0);
                out.extend_from_slice(&chunk.len.to_le_bytes());
            }
        }
        out
    }

    /// Parses and checks what [`Directory::to_bytes`] made. `None` when it is not that.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (session, mut rest) = bytes.split_at_checked(16)?;
        let session = Hex(session.try_into().ok()?);
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let (head, tail) = rest.split_at_checked(12)?;
            let (stored_len, raw_len) = (field::le32(head, 0)?, field::le32(head, 4)?);
            let codec = match head.get(8)? {
                0 => Codec::Raw,
                1 => Codec::Zstd,
                _ => return None,
            };
            let content = match head.get(9)? {
                0 => Content::Data,
                1 => Content::Map,
                _ => return None,
            };
            let count = usize::from(field::le16(head, 10)?);
            let (table, tail) = tail.split_at_checked(count.checked_mul(36)?)?;
            let mut chunks = Vec::with_capacity(count);
            for entry in table.chunks_exact(36) {
                chunks.push(ChunkEntry { id: Hex(entry.get(..32)?.try_into().ok()?), len: field::le32(entry, 32)? });
            }
            let frame = FrameEntry { stored_len, raw_len, codec, content, chunks };
            if !frame.is_sound() {
                return None;
            }
            frames.push(frame);
            rest = tail;
        }
        Some(Self { session, frames })
    }

    /// Where the last frame ends in the pack, and the directory begins.
    #[must_use]
    pub fn frames_end(&self) -> u64 {
        let stored = self.frames.iter().map(|frame| u64::from(frame.stored_len));
        stored.fold(HEADER_LEN as u64, u64::saturating_add)
    }

    /// Where each frame begins in the pack.
    pub fn frame_offsets(&self) -> impl Iterator<Item = u64> + '_ {
        self.frames.iter().scan(HEADER_LEN as u64, |at, frame| {
            let here = *at;
            *at = at.saturating_add(frame.stored_len.into());
            Some(here)
        })
    }
}

fn header(id: PackId) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(HEAD_MAGIC);
    header[8..24].copy_from_slice(&id.0);
    header
}

fn pack_key(secret: &MasterSecret, id: PackId) -> SealingKey {
    secret.sealing_key("pack", &id.0)
}

/// A frame's bytes before compression and the chunks they are made of.
pub struct RawFrame {
    /// What it holds.
    pub content: Content,
    /// The chunks' bytes, back to back.
    pub data: Vec<u8>,
    /// The chunks.
    pub chunks: Vec<ChunkEntry>,
}

/// A frame, compressed or not, before it is sealed into a pack.
pub struct CodedFrame {
    /// What it holds.
    pub content: Content,
    /// How `data` is compressed.
    pub codec: Codec,
    /// Bytes before compression.
    pub raw_len: u32,
    /// The bytes to seal.
    pub data: Vec<u8>,
    /// The chunks.
    pub chunks: Vec<ChunkEntry>,
}

/// A pack in the making. Frames are sealed as they come and never copied again.
pub struct PackBuilder {
    id: PackId,
    key: SealingKey,
    header: [u8; HEADER_LEN],
    parts: Vec<Bytes>,
    size: u64,
    directory: Directory,
}

/// A finished pack.
pub struct Pack {
    /// Its id.
    pub id: PackId,
    /// The object, in pieces.
    pub parts: Vec<Bytes>,
    /// Its size in bytes.
    pub size: u64,
    /// What is in it.
    pub directory: Directory,
}

impl PackBuilder {
    /// An empty pack with a new random id.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new(secret: &MasterSecret, session: SessionId) -> Result<Self> {
        let id = Hex(random()?);
        let header = header(id);
        Ok(Self {
            id,
            key: pack_key(secret, id),
            header,
            parts: vec![Bytes::copy_from_slice(&header)],
            size: HEADER_LEN as u64,
            directory: Directory { session, frames: Vec::new() },
        })
    }

    /// Bytes so far, without directory and footer.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// True while it has no frame.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.directory.frames.is_empty()
    }

    /// Seals a frame and appends it. A frame has at most 65,535 chunks, none of them empty.
    ///
    /// # Errors
    /// [`Error::Internal`] for a frame beyond the format's bounds.
    pub fn push(&mut self, frame: CodedFrame) -> Result<()> {
        let internal = |what: &str| Error::Internal(what.to_owned());
        let number = u32::try_from(self.directory.frames.len()).ok().filter(|&number| number < DIRECTORY_NONCE);
        let number = number.ok_or_else(|| internal("too many frames"))?;
        let CodedFrame { content, codec, raw_len, mut data, chunks } = frame;
        let stored_len = u32::try_from(data.len() + TAG_LEN).map_err(|_| internal("a frame over 4 GiB"))?;
        let entry = FrameEntry { stored_len, raw_len, codec, content, chunks };
        if !entry.is_sound() {
            return Err(internal("a frame beyond the format's bounds"));
        }
        self.key.seal(counter_nonce(number), &self.header, &mut data)?;
        self.size += u64::from(stored_len);
        self.parts.push(data.into());
        self.directory.frames.push(entry);
        Ok(())
    }

    /// Seals the directory and closes the pack.
    ///
    /// # Errors
    /// [`Error::Internal`] for a directory beyond the format's bounds.
    pub fn finish(mut self) -> Result<Pack> {
        let internal = |what: &str| Error::Internal(what.to_owned());
        let raw = self.directory.to_bytes();
        let raw_len = u32::try_from(raw.len()).ok().filter(|&len| len <= DIRECTORY_MAX);
        let raw_len = raw_len.ok_or_else(|| internal("a directory beyond the format's bounds"))?;
        let mut sealed = zstd::bulk::compress(&raw, 3).map_err(|error| internal(&error.to_string()))?;
        let stored_len = u32::try_from(sealed.len() + TAG_LEN).map_err(|_| internal("a directory over 4 GiB"))?;
        let frames = u32::try_from(self.directory.frames.len()).map_err(|_| internal("too many frames"))?;
        let footer = Footer { offset: self.size, stored_len, raw_len, frames }.to_bytes();
        self.key.seal(counter_nonce(DIRECTORY_NONCE), &[self.header, footer].concat(), &mut sealed)?;
        self.size += sealed.len() as u64 + FOOTER_LEN as u64;
        self.parts.push(sealed.into());
        self.parts.push(Bytes::copy_from_slice(&footer));
        Ok(Pack { id: self.id, parts: self.parts, size: self.size, directory: self.directory })
    }
}

struct Footer {
    offset: u64,
    stored_len: u32,
    raw_len: u32,
    frames: u32,
}

impl Footer {
    fn to_bytes(&self) -> [u8; FOOTER_LEN] {
        let mut footer = [0; FOOTER_LEN];
        footer[..8].copy_from_slice(&self.offset.to_le_bytes());
        footer[8..12].copy_from_slice(&self.stored_len.to_le_bytes());
        footer[12..16].copy_from_slice(&self.raw_len.to_le_bytes());
        footer[16..20].copy_from_slice(&self.frames.to_le_bytes());
        footer[24..].copy_from_slice(FOOT_MAGIC);
        footer
    }

    fn from_bytes(footer: &[u8]) -> Option<Self> {
        if footer.get(24..) != Some(FOOT_MAGIC) || footer.get(20..24) != Some(&[0; 4]) {
            return None;
        }
        Some(Self {
            offset: field::le64(footer, 0)?,
            stored_len: field::le32(footer, 8)?,
            raw_len: field::le32(footer, 12)?,
            frames: field::le32(footer, 16)?,
        })
    }
}

/// How it is made sure that a frame is what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// By its seal. Whether its chunks are what their ids say is the caller's to check all the same.
    Seal,
    /// By the ids of the chunks in it: the caller uses none before it has checked its id. A frame that is not encrypted is
    /// then decompressed without a look at its seal, which says less than an id, and nothing more.
    Ids,
}

/// How much more of a frame is read at once than part of it is thought to need.
const PART_BYTES: u64 = 32 << 10;

/// Opens the frames and the directory of one pack.
pub struct PackReader {
    id: PackId,
    key: SealingKey,
    header: [u8; HEADER_LEN],
}

impl PackReader {
    /// A reader for the pack `id`.
    #[must_use]
    pub fn new(secret: &MasterSecret, id: PackId) -> Self {
        Self { id, key: pack_key(secret, id), header: header(id) }
    }

    fn damaged(&self, offset: u64, what: &str) -> Error {
        Error::damaged(object_name(self.id), offset, what)
    }

    /// Checks the 32 bytes that a pack begins with.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn check_header(&self, bytes: &[u8]) -> Result<()> {
        if bytes == self.header { Ok(()) } else { Err(self.damaged(0, "its header is not what was written")) }
    }

    /// Opens the directory. `read` gets a range of the pack, `size` is the whole object's.
    ///
    /// # Errors
    /// [`Error::Damaged`] when anything but the frames themselves is not what was written; what `read` says.
    pub fn directory(&self, size: u64, read: impl Fn(Range<u64>) -> Result<Bytes>) -> Result<Directory> {
        let footer_at = size.checked_sub(FOOTER_LEN as u64).filter(|&at| at >= HEADER_LEN as u64);
        let footer_at = footer_at.ok_or_else(|| self.damaged(0, "too short for a pack"))?;
        // One read for nearly every directory: about 1 KiB for each MiB of frames.
        let tail_at = footer_at.saturating_sub(64 << 10).max(HEADER_LEN as u64);
        let tail = read(tail_at..size)?;
        let footer_start = usize::try_from(footer_at - tail_at).unwrap_or(usize::MAX);
        let footer_bytes = tail.get(footer_start..).ok_or_else(|| self.damaged(footer_at, "cut short"))?;
        let footer = Footer::from_bytes(footer_bytes).ok_or_else(|| self.damaged(footer_at, "no footer of a pack"))?;
        let fits = footer.offset.checked_add(footer.stored_len.into()) == Some(footer_at)
            && footer.offset >= HEADER_LEN as u64
            && footer.raw_len <= DIRECTORY_MAX
            && u64::from(footer.stored_len) <= coded_len_max(footer.raw_len.into()) + TAG_LEN as u64;
        if !fits {
            return Err(self.damaged(footer_at, "the footer does not fit the pack"));
        }
        let sealed = if footer.offset >= tail_at {
            let start = usize::try_from(footer.offset - tail_at).unwrap_or(usize::MAX);
            tail.get(start..footer_start).map(<[u8]>::to_vec)
        } else {
            Some(read(footer.offset..footer_at)?.to_vec())
        };
        let mut sealed = sealed.ok_or_else(|| self.damaged(footer.offset, "cut short"))?;
        let aad = [self.header.as_slice(), footer_bytes].concat();
        let broken = |_| self.damaged(footer.offset, "the seal of its directory is broken");
        let data = self.key.open(counter_nonce(DIRECTORY_NONCE), &aad, &mut sealed).map_err(broken)?;
        let raw = decompress_all(data, footer.raw_len.into());
        let raw = raw.map_err(|error| self.damaged(footer.offset, &format!("its directory: {error}")))?;
        let directory = Directory::from_bytes(&raw);
        let directory = directory.ok_or_else(|| self.damaged(footer.offset, "its directory cannot be read"))?;
        let frames = directory.frames.len() as u64;
        if directory.frames_end() != footer.offset || frames != u64::from(footer.frames) {
            return Err(self.damaged(footer.offset, "its directory does not fit its frames"));
        }
        Ok(directory)
    }

    /// A frame before compression, in `out`, which has its length.
    ///
    /// # Errors
    /// [`Error::Damaged`], at the frame's offset.
    pub fn frame(
        &self,
        check: Check,
        number: u32,
        offset: u64,
        entry: &FrameEntry,
        sealed: &mut [u8],
        out: &mut [u8],
    ) -> Result<()> {
        let data = self.data(check, number, offset, sealed)?;
        let len = match entry.codec {
            Codec::Raw if data.len() == out.len() => {
                out.copy_from_slice(data);
                out.len()
            }
            Codec::Raw => data.len(),
            Codec::Zstd => {
                super::frame::decompress(data, out).map_err(|error| self.damaged(offset, &error.to_string()))?
            }
        };
        if len == out.len() && u64::from(entry.raw_len) == len as u64 {
            Ok(())
        } else {
            Err(self.damaged(offset, "a frame has another length"))
        }
    }

    /// As [`PackReader::frame`], in the memory of `room`, if that is enough. What is in `sealed` afterwards means nothing.
    ///
    /// # Errors
    /// As there.
    pub fn frame_in(
        &self,
        room: Vec<u8>,
        check: Check,
        number: u32,
        offset: u64,
        entry: &FrameEntry,
        sealed: &mut Vec<u8>,
    ) -> Result<Vec<u8>> {
        let data = self.data(check, number, offset, sealed)?;
        match entry.codec {
            Codec::Raw if data.len() == entry.raw_len_in_memory() => {
                // It is in its place already: what remains is the room.
                let len = data.len();
                sealed.truncate(len);
                Ok(std::mem::replace(sealed, room))
            }
            Codec::Raw => Err(self.damaged(offset, "a frame has another length")),
            Codec::Zstd => super::frame::decompress_all_into(room, data, entry.raw_len.into())
                .map_err(|error| self.damaged(offset, &error.to_string())),
        }
    }

    /// The bytes `range` of a frame before compression, whose ids the caller checks ([`Check::Ids`]). `read` gets a range
    /// of the pack. Where nothing is encrypted, no more is read than is needed, or little more.
    ///
    /// # Errors
    /// As [`PackReader::frame`]; what `read` says.
    pub fn part(
        &self,
        number: u32,
        offset: u64,
        entry: &FrameEntry,
        range: Range<usize>,
        read: impl Fn(Range<u64>) -> Result<Bytes>,
    ) -> Result<Vec<u8>> {
        let whole = entry.raw_len_in_memory();
        if range.end > whole || range.start > range.end {
            return Err(self.damaged(offset, "a chunk reaches behind its frame"));
        }
        let cut_short = || self.damaged(offset, "the pack is cut short");
        let not_coded = |error: std::io::Error| self.damaged(offset, &error.to_string());
        let end = offset.saturating_add(entry.stored_len.into());
        if self.key.encrypts() {
            let mut sealed = read(offset..end)?.to_vec();
            let data = self.data(Check::Ids, number, offset, &mut sealed)?;
            if entry.codec == Codec::Raw {
                return data.get(range).map(<[u8]>::to_vec).ok_or_else(cut_short);
            }
            let mut part = Part::new(range).map_err(not_coded)?;
            return if part.feed(data).map_err(not_coded)? { Ok(part.into_bytes()) } else { Err(cut_short()) };
        }
        let end = end.saturating_sub(TAG_LEN as u64);
        let (start, len) = (offset + range.start as u64, range.len());
        if entry.codec == Codec::Raw {
            let bytes = read(start..start + len as u64)?;
            return if bytes.len() == len { Ok(bytes.to_vec()) } else { Err(cut_short()) };
        }
        // Mostly a frame is about as compressible everywhere.
        let share = u128::from(end - offset) * range.end as u128 / whole.max(1) as u128;
        let first = u64::try_from(share).unwrap_or(u64::MAX).saturating_add(PART_BYTES);
        let mut part = Part::new(range).map_err(not_coded)?;
        let mut at = offset;
        while at < end {
            let until = end.min(if at == offset { at.saturating_add(first) } else { at + PART_BYTES });
            let bytes = read(at..until)?;
            if part.feed(&bytes).map_err(not_coded)? {
                return Ok(part.into_bytes());
            }
            if bytes.len() as u64 != until - at {
                break;
            }
            at = until;
        }
        Err(cut_short())
    }

    /// A frame's bytes as they were before sealing.
    fn data<'s>(&self, check: Check, number: u32, offset: u64, sealed: &'s mut [u8]) -> Result<&'s [u8]> {
        let broken = |_| self.damaged(offset, "the seal of a frame is broken");
        if check == Check::Ids && !self.key.encrypts() {
            let len = sealed.len().checked_sub(TAG_LEN).ok_or_else(|| self.damaged(offset, "the pack is cut short"))?;
            return Ok(sealed.get(..len).unwrap_or_default());
        }
        self.key.open(counter_nonce(number), &self.header, sealed).map(|data| &*data).map_err(broken)
    }

    /// Opens a frame's seal and returns it as it was before sealing, to be put into another pack.
    ///
    /// # Errors
    /// [`Error::Damaged`], at the frame's offset.
    pub fn coded_frame(&self, number: u32, offset: u64, entry: &FrameEntry, mut sealed: Vec<u8>) -> Result<CodedFrame> {
        let broken = |_| self.damaged(offset, "the seal of a frame is broken");
        let len = self.key.open(counter_nonce(number), &self.header, &mut sealed).map_err(broken)?.len();
        sealed.truncate(len);
        let FrameEntry { raw_len, codec, content, ref chunks, .. } = *entry;
        Ok(CodedFrame { content, codec, raw_len, data: sealed, chunks: chunks.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::frame;
    use crate::repo::seal::Suite;
    use proptest::prelude::*;

    fn entry(stored_len: u32, raw_len: u32, codec: Codec, lens: &[u32]) -> FrameEntry {
        let chunks = lens.iter().map(|&len| ChunkEntry { id: Hex([7; 32]), len }).collect();
        FrameEntry { stored_len, raw_len, codec, content: Content::Data, chunks }
    }

    #[test]
    fn frames_whose_lengths_do_not_fit_are_refused() {
        let parses = |entry: FrameEntry| {
            let directory = Directory { session: Hex([1; 16]), frames: vec![entry] };
            Directory::from_bytes(&directory.to_bytes()).is_some()
        };
        assert!(parses(entry(116, 8192, Codec::Zstd, &[4096, 4096])));
        assert!(parses(entry(8208, 8192, Codec::Raw, &[8192])));
        let wrong = [
            ("no data", entry(16, 8192, Codec::Zstd, &[8192])),
            ("no tag", entry(15, 8192, Codec::Zstd, &[8192])),
            ("grown by compression", entry(8208, 8192, Codec::Zstd, &[8192])),
            ("4 GiB for nothing", entry(u32::MAX, 8192, Codec::Zstd, &[8192])),
            ("a short raw frame", entry(8207, 8192, Codec::Raw, &[8192])),
            ("a long raw frame", entry(8209, 8192, Codec::Raw, &[8192])),
            ("another sum", entry(116, 8192, Codec::Zstd, &[4096])),
            ("a sum that wraps", entry(116, 1, Codec::Zstd, &[u32::MAX, 2])),
            ("an empty chunk", entry(116, 8192, Codec::Zstd, &[8192, 0])),
            ("no chunks", entry(16, 0, Codec::Raw, &[])),
            ("too large", entry(116, FRAME_MAX + 1, Codec::Zstd, &[FRAME_MAX + 1])),
        ];
        for (what, entry) in wrong {
            assert!(!parses(entry), "{what}");
        }
    }

    #[test]
    fn a_frame_that_no_reader_would_take_is_not_written() {
        let secret = MasterSecret::new(Suite::Blake3, [3; 32], [4; 16]);
        let push = |lens: Vec<u32>, raw_len: u32, data: Vec<u8>| {
            let chunks = lens.into_iter().map(|len| ChunkEntry { id: Hex([7; 32]), len }).collect();
            let frame = CodedFrame { content: Content::Data, codec: Codec::Raw, raw_len, data, chunks };
            PackBuilder::new(&secret, Hex([5; 16])).unwrap().push(frame)
        };
        push(vec![1; 65_535], 65_535, vec![1; 65_535]).unwrap();
        assert!(push(vec![1; 65_536], 65_536, vec![1; 65_536]).is_err(), "chunks that 16 bits do not count");
        assert!(push(vec![], 0, vec![]).is_err(), "empty");
        assert!(push(vec![3, 0], 3, vec![1; 3]).is_err(), "an empty chunk");
        assert!(push(vec![3], 4, vec![1; 4]).is_err(), "more than its chunks");
    }

    #[test]
    fn a_footer_that_claims_too_much_is_refused_before_anything_is_read() {
        let reader = PackReader::new(&MasterSecret::new(Suite::Blake3, [3; 32], [4; 16]), Hex([5; 16]));
        let size = 3u64 << 30;
        for (stored_len, raw_len) in [(0xBFFF_FFC0u32, 4096u32), (4096, u32::MAX)] {
            let offset = size - FOOTER_LEN as u64 - u64::from(stored_len);
            let footer = Footer { offset, stored_len, raw_len, frames: 1 }.to_bytes();
            let found = reader.directory(size, |range| {
                assert!(range.end - range.start <= (64 << 10) + FOOTER_LEN as u64, "{range:?} is read");
                let mut tail = vec![0; usize::try_from(range.end - range.start).unwrap()];
                let at = tail.len() - FOOTER_LEN;
                tail[at..].copy_from_slice(&footer);
                Ok(tail.into())
            });
            assert!(matches!(found, Err(Error::Damaged { .. })));
        }
    }

    fn small_pack(secret: &MasterSecret) -> Pack {
        let mut builder = PackBuilder::new(secret, Hex([5; 16])).unwrap();
        for i in 0..3u8 {
            let data = vec![i; 8192];
            let chunks =
                vec![ChunkEntry { id: Hex([i; 32]), len: 4096 }, ChunkEntry { id: Hex([i + 9; 32]), len: 4096 }];
            builder
                .push(frame::compress(RawFrame { content: Content::Data, data, chunks }, 3, &mut drop).unwrap())
                .unwrap();
        }
        builder.finish().unwrap()
    }

    fn read_back(secret: &MasterSecret, id: PackId, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let reader = PackReader::new(secret, id);
        reader.check_header(bytes.get(..HEADER_LEN).unwrap_or_default())?;
        let get = |range: std::ops::Range<u64>| {
            let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
            Ok(Bytes::copy_from_slice(&bytes[start..end]))
        };
        let directory = reader.directory(bytes.len() as u64, get)?;
        let offsets: Vec<u64> = directory.frame_offsets().collect();
        let mut frames = Vec::new();
        for (number, (entry, offset)) in (0..).zip(directory.frames.iter().zip(offsets)) {
            let start = usize::try_from(offset).unwrap();
            let mut sealed = bytes[start..start + usize::try_from(entry.stored_len).unwrap()].to_vec();
            let mut out = vec![0; usize::try_from(entry.raw_len).unwrap()];
            reader.frame(Check::Seal, number, offset, entry, &mut sealed, &mut out)?;
            frames.push(out);
        }
        Ok(frames)
    }

    #[test]
    fn a_part_is_read_without_the_rest_where_nothing_is_encrypted() {
        let data: Vec<u8> = (0..100_000u32).flat_map(|n| (n / 5).wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let noise: Vec<u8> = random::<4096>().unwrap().repeat(2);
        for suite in [Suite::Blake3, Suite::Aes256Gcm] {
            let secret = MasterSecret::new(suite, [3; 32], [4; 16]);
            let mut builder = PackBuilder::new(&secret, Hex([5; 16])).unwrap();
            for (data, codec) in [(&data, Codec::Zstd), (&noise, Codec::Raw)] {
                let chunks = vec![ChunkEntry { id: Hex([1; 32]), len: u32::try_from(data.len()).unwrap() }];
                let raw_len = u32::try_from(data.len()).unwrap();
                let coded = match codec {
                    Codec::Raw => data.clone(),
                    Codec::Zstd => zstd::bulk::compress(data, 3).unwrap(),
                };
                builder.push(CodedFrame { content: Content::Data, codec, raw_len, data: coded, chunks }).unwrap();
            }
            let pack = builder.finish().unwrap();
            let bytes = pack.parts.concat();
            let reader = PackReader::new(&secret, pack.id);
            let offsets: Vec<u64> = pack.directory.frame_offsets().collect();
            for (number, (entry, data)) in (0..).zip(pack.directory.frames.iter().zip([&data, &noise])) {
                let offset = offsets[number as usize];
                let part = |range: Range<usize>, bytes: &[u8]| {
                    let most = std::cell::Cell::new(0);
                    let read = |range: Range<u64>| {
                        most.set(range.end.max(most.get()));
                        let end = usize::try_from(range.end).unwrap().min(bytes.len());
                        Ok(Bytes::copy_from_slice(&bytes[usize::try_from(range.start).unwrap().min(end)..end]))
                    };
                    reader.part(number, offset, entry, range, read).map(|part| (part, most.get() - offset))
                };
                for range in [0..data.len(), 0..1, 4096..8192, data.len() - 1..data.len(), 77..77] {
                    let (found, read) = part(range.clone(), &bytes).unwrap();
                    assert!(found == data[range.clone()], "{suite:?} {range:?}");
                    let whole = u64::from(entry.stored_len);
                    assert_eq!(suite == Suite::Aes256Gcm, read == whole, "{suite:?} {range:?} {read} of {whole}");
                }
                assert!(matches!(part(1..data.len() + 1, &bytes), Err(Error::Damaged { .. })));
                assert!(matches!(part(8191..8192, &bytes[..bytes.len().min(40)]), Err(Error::Damaged { .. })));
                // A seal that is broken says nothing where ids are checked; encrypted data are not used without it.
                let mut broken = bytes.clone();
                broken[usize::try_from(offset).unwrap() + entry.stored_len as usize - 1] ^= 1;
                assert_eq!(part(0..9, &broken).is_ok(), suite == Suite::Blake3);
            }
        }
    }

    #[test]
    fn a_pack_reads_back_and_every_flipped_bit_is_noticed() {
        for suite in [Suite::Blake3, Suite::Aes256Gcm] {
            let secret = MasterSecret::new(suite, [3; 32], [4; 16]);
            let pack = small_pack(&secret);
            let bytes = pack.parts.concat();
            assert_eq!(bytes.len() as u64, pack.size);
            assert_eq!(read_back(&secret, pack.id, &bytes).unwrap()[2], vec![2; 8192]);
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(read_back(&secret, pack.id, &damaged).is_err(), "{suite:?}, bit {bit}");
            }
            for len in 0..bytes.len() {
                assert!(read_back(&secret, pack.id, &bytes[..len]).is_err(), "length {len}");
            }
            assert!(read_back(&secret, Hex([1; 16]), &bytes).is_err(), "another pack's name");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_directory_or_none(bytes: Vec<u8>) {
            if let Some(directory) = Directory::from_bytes(&bytes) {
                prop_assert_eq!(directory.to_bytes(), bytes);
            }
        }

        #[test]
        fn a_changed_directory_is_a_directory_or_none(at in 0usize..200, value: u8, len in 0usize..200) {
            let frames = vec![entry(116, 8192, Codec::Zstd, &[4096, 4096]), entry(112, 96, Codec::Raw, &[96])];
            let mut bytes = Directory { session: Hex([1; 16]), frames }.to_bytes();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(len);
            if let Some(directory) = Directory::from_bytes(&bytes) {
                prop_assert!(directory.frames.iter().all(FrameEntry::is_sound));
                prop_assert_eq!(directory.to_bytes(), bytes);
            }
        }

        #[test]
        fn any_bytes_are_a_footer_or_none(bytes: Vec<u8>) {
            if let Some(footer) = Footer::from_bytes(&bytes) {
                prop_assert_eq!(footer.to_bytes().to_vec(), bytes);
            }
        }

        #[test]
        fn a_changed_footer_opens_no_pack(at in 0usize..FOOTER_LEN, value: u8) {
            let secret = MasterSecret::new(Suite::Blake3, [3; 32], [4; 16]);
            let pack = small_pack(&secret);
            let mut bytes = pack.parts.concat();
            let at = bytes.len() - FOOTER_LEN + at;
            let before = std::mem::replace(&mut bytes[at], value);
            prop_assert_eq!(read_back(&secret, pack.id, &bytes).is_ok(), before == value);
        }
    }
}
