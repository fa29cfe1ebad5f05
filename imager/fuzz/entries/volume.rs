//! A volume, or a disk, that takes little room.

use std::borrow::Cow;
use std::io;

use imager::extent::Extent;
use imager::read_at::{ReadAt, check_range};
use imager::vm_disk::Contents;

/// Bytes in the largest volume.
const SIZE_MAX: u32 = 64 << 20;

/// Zeros, with patches over them.
///
/// The encoding, little endian: the volume's size in bytes (u32, modulo [`SIZE_MAX`] + 1); then patches, later ones
/// over earlier ones: where (u32), how many bytes (u16), the bytes. With the highest bit of the length set, one byte
/// follows, to be repeated 64 times the rest of the length. A last patch may be cut short.
pub(crate) struct PatchedVolume<'a> {
    size: u32,
    patches: Vec<(u64, Patch<'a>)>,
}

enum Patch<'a> {
    Bytes(Cow<'a, [u8]>),
    Fill(u8, u64),
}

impl<'a> PatchedVolume<'a> {
    /// Any bytes are a volume.
    pub(crate) fn decode(mut data: &'a [u8]) -> Self {
        let size = take::<4>(&mut data).map_or(0, u32::from_le_bytes) % (SIZE_MAX + 1);
        let mut patches = Vec::new();
        while let (Some(start), Some(len)) = (take::<4>(&mut data), take::<2>(&mut data)) {
            let (start, len) = (u32::from_le_bytes(start), u16::from_le_bytes(len));
            let patch = if len & 0x8000 == 0 {
                let (bytes, rest) = data.split_at(data.len().min(usize::from(len)));
                data = rest;
                Patch::Bytes(Cow::Borrowed(bytes))
            } else {
                Patch::Fill(take::<1>(&mut data).map_or(0, |[byte]| byte), u64::from(len & 0x7FFF) * 64)
            };
            patches.push((u64::from(start), patch));
        }
        Self { size, patches }
    }

    /// The same, to be kept by those who keep volumes.
    #[allow(dead_code, reason = "not every target keeps one")]
    pub(crate) fn into_owned(self) -> PatchedVolume<'static> {
        let owned = |patch| match patch {
            Patch::Bytes(bytes) => Patch::Bytes(Cow::Owned(bytes.into_owned())),
            Patch::Fill(byte, len) => Patch::Fill(byte, len),
        };
        let patches = self.patches.into_iter().map(|(start, patch)| (start, owned(patch))).collect();
        PatchedVolume { size: self.size, patches }
    }

    /// Puts bytes over what is there.
    #[allow(dead_code, reason = "not every target mends what it reads")]
    pub(crate) fn put(&mut self, start: u64, bytes: Vec<u8>) {
        self.patches.push((start, Patch::Bytes(Cow::Owned(bytes))));
    }
}

impl Contents for PatchedVolume<'static> {}

/// Where `part` is in a buffer that begins at `start`.
fn range(part: Extent, start: u64) -> std::ops::Range<usize> {
    let at = usize::try_from(part.start - start).unwrap();
    at..at + usize::try_from(part.len).unwrap()
}

fn take<const N: usize>(data: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = data.split_first_chunk()?;
    *data = rest;
    Some(*first)
}

impl ReadAt for PatchedVolume<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.size())?;
        buf.fill(0);
        let wanted = Extent::new(offset, buf.len() as u64);
        for (start, patch) in &self.patches {
            let len = match patch {
                Patch::Bytes(bytes) => bytes.len() as u64,
                Patch::Fill(_, len) => *len,
            };
            let part = Extent::new(*start, len).intersection(wanted);
            if part.is_empty() {
                continue;
            }
            let target = &mut buf[range(part, offset)];
            match patch {
                Patch::Bytes(bytes) => target.copy_from_slice(&bytes[range(part, *start)]),
                Patch::Fill(byte, _) => target.fill(*byte),
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        u64::from(self.size)
    }
}
