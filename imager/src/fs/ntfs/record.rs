//! Records of the master file table, and the attributes in them.
//!
//! Layout: linux-ntfs documentation, "FILE record", "Attributes", "Fixup". Must not know: where a
//! record came from, or what its attributes mean.

use crate::fs::FsError;
use crate::read_at::field;

/// Type code of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind(pub(super) u32);

impl Kind {
    pub(super) const STANDARD_INFORMATION: Self = Self(0x10);
    pub(super) const ATTRIBUTE_LIST: Self = Self(0x20);
    pub(super) const FILE_NAME: Self = Self(0x30);
    pub(super) const VOLUME_NAME: Self = Self(0x60);
    pub(super) const VOLUME_INFORMATION: Self = Self(0x70);
    pub(super) const DATA: Self = Self(0x80);
    pub(super) const INDEX_ROOT: Self = Self(0x90);
    pub(super) const INDEX_ALLOCATION: Self = Self(0xA0);
    pub(super) const BITMAP: Self = Self(0xB0);
    pub(super) const REPARSE_POINT: Self = Self(0xC0);
    const END: Self = Self(0xFFFF_FFFF);
}

/// Which record, and which use of it: records are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) number: u64,
    pub(super) sequence: u16,
}

impl Reference {
    /// 48 bits of record number, 16 of sequence number.
    pub(super) fn from_raw(raw: u64) -> Self {
        let [.., low, high] = raw.to_le_bytes();
        Self { number: raw & 0xFFFF_FFFF_FFFF, sequence: u16::from_le_bytes([low, high]) }
    }
}

/// One record, with its fixups undone.
#[derive(Debug)]
pub(super) struct Record {
    /// Its number in the master file table.
    pub(super) number: u64,
    /// Its place in the volume, for messages.
    pub(super) position: u64,
    sequence: u16,
    is_in_use: InUse,
    base: Reference,
    attributes_offset: usize,
    bytes: Vec<u8>,
}

/// Whether a record belongs to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InUse {
    Yes,
    No,
}

impl InUse {
    /// Looks at a raw record; good enough before its fixups are undone, which lie elsewhere.
    pub(super) fn of_raw(bytes: &[u8]) -> Self {
        if field::le16(bytes, 0x16).is_some_and(|flags| flags & 1 != 0) { Self::Yes } else { Self::No }
    }
}

impl Record {
    /// Takes a record as it lies on the disk.
    pub(super) fn from_bytes(number: u64, position: u64, mut bytes: Vec<u8>) -> Result<Self, FsError> {
        if bytes.get(..4) != Some(b"FILE") {
            return Err(FsError::corrupt(position, format!("file record {number} has no FILE signature")));
        }
        undo_fixups(&mut bytes, position)?;
        let sequence = field::le16(&bytes, 0x10).unwrap_or_default();
        let attributes_offset = usize::from(field::le16(&bytes, 0x14).unwrap_or_default());
        let bytes_in_use = field::le32(&bytes, 0x18).unwrap_or_default();
        let base = Reference::from_raw(field::le64(&bytes, 0x20).unwrap_or_default());
        let is_in_use = InUse::of_raw(&bytes);
        match usize::try_from(bytes_in_use) {
            Ok(len) if len <= bytes.len() => bytes.truncate(len),
            _ => return Err(FsError::corrupt(position + 0x18, "a file record uses more bytes than it has")),
        }
        Ok(Self { number, position, sequence, is_in_use, base, attributes_offset, bytes })
    }

    /// True when this is the use of the record that `reference` means.
    pub(super) fn is_meant_by(&self, reference: Reference) -> bool {
        self.is_in_use() && self.reference() == reference
    }

    /// What others say when they mean this record.
    pub(super) fn reference(&self) -> Reference {
        Reference { number: self.number, sequence: self.sequence }
    }

    /// True for a directory.
    pub(super) fn is_directory(&self) -> bool {
        field::le16(&self.bytes, 0x16).is_some_and(|flags| flags & 2 != 0)
    }

    /// True when it belongs to a file.
    pub(super) fn is_in_use(&self) -> bool {
        self.is_in_use == InUse::Yes
    }

    /// True for a file's first record.
    pub(super) fn is_base(&self) -> bool {
        self.base.number == 0 && self.base.sequence == 0
    }

    /// True when this record holds what did not fit into `base`.
    pub(super) fn is_extension_of(&self, base: &Self) -> bool {
        base.is_meant_by(self.base)
    }

    /// All attributes, in the order of the record.
    pub(super) fn attributes(&self) -> Result<Vec<Attribute<'_>>, FsError> {
        let mut attributes = Vec::new();
        let mut at = self.attributes_offset;
        loop {
            let position = self.position.saturating_add(at as u64);
            let rest = self.bytes.get(at..).unwrap_or_default();
            let Some(kind) = field::le32(rest, 0) else {
                return Err(FsError::corrupt(position, "a file record without an end"));
            };
            if Kind(kind) == Kind::END {
                return Ok(attributes);
            }
            let len = usize::try_from(field::le32(rest, 4).unwrap_or_default()).unwrap_or(usize::MAX);
            let Some(bytes) = rest.get(..len).filter(|_| len >= 24 && len.is_multiple_of(8)) else {
                return Err(FsError::corrupt(position, format!("an attribute of {len} bytes")));
            };
            attributes.push(Attribute::from_bytes(Kind(kind), position, bytes)?);
            at += len;
        }
    }
}

/// One attribute of a record.
#[derive(Debug)]
pub(super) struct Attribute<'a> {
    pub(super) kind: Kind,
    /// UTF-16LE; most have none.
    pub(super) name: &'a [u8],
    /// Tells attributes of one record apart.
    pub(super) instance: u16,
    /// Its place in the volume, for messages.
    pub(super) position: u64,
    pub(super) body: Body<'a>,
}

/// Where the value of an attribute is.
#[derive(Debug)]
pub(super) enum Body<'a> {
    /// Here.
    Resident(&'a [u8]),
    /// In clusters of the volume.
    NonResident(Mapping<'a>),
}

/// One part of the way from an attribute's virtual clusters to those of the volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping<'a> {
    /// First virtual cluster of this part.
    pub(super) first_vcn: u64,
    /// Virtual clusters in this part.
    pub(super) clusters: u64,
    /// Bytes in the value. Only the first part of an attribute says this and the next two.
    pub(super) data_size: u64,
    /// Bytes that were ever written; the others read as zero.
    pub(super) initialized_size: u64,
    /// Compressed or encrypted: the clusters do not hold the value as it is.
    pub(super) encoding: Encoding,
    /// The runs, encoded.
    pub(super) pairs: &'a [u8],
}

/// Whether the clusters of an attribute hold its value as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    /// By LZNT1, in units of two to this power of clusters.
    Compressed(u8),
    /// Encrypted, or in a way that nobody knows.
    Other,
}

impl<'a> Attribute<'a> {
    fn from_bytes(kind: Kind, position: u64, bytes: &'a [u8]) -> Result<Self, FsError> {
        let corrupt = |what: &str| FsError::corrupt(position, format!("attribute {:#x} {what}", kind.0));
        let word = |at| field::le64(bytes, at).ok_or_else(|| corrupt("is cut short"));
        let part = |at: usize, len: usize| at.checked_add(len).and_then(|end| bytes.get(at..end));

        let name_length = bytes.get(9).copied().map_or(0, usize::from) * 2;
        let name_offset = usize::from(field::le16(bytes, 0x0A).unwrap_or_default());
        let name = if name_length == 0 { Some(&[][..]) } else { part(name_offset, name_length) };
        let name = name.ok_or_else(|| corrupt("has a name past its end"))?;
        let flags = field::le16(bytes, 0x0C).unwrap_or_default();
        let instance = field::le16(bytes, 0x0E).unwrap_or_default();

        let body = if bytes.get(8) == Some(&0) {
            let value_length = usize::try_from(field::le32(bytes, 0x10).unwrap_or_default()).unwrap_or(usize::MAX);
            let value_offset = usize::from(field::le16(bytes, 0x14).unwrap_or_default());
            Body::Resident(part(value_offset, value_length).ok_or_else(|| corrupt("has a value past its end"))?)
        } else {
            let (lowest_vcn, highest_vcn) = (word(0x10)?, word(0x18)?);
            let mapping_pairs_offset = usize::from(field::le16(bytes, 0x20).unwrap_or_default());
            // An attribute without clusters ends at -1.
            let end_vcn = highest_vcn.wrapping_add(1);
            Body::NonResident(Mapping {
                first_vcn: lowest_vcn,
                clusters: end_vcn.checked_sub(lowest_vcn).ok_or_else(|| corrupt("ends before it begins"))?,
                data_size: word(0x30)?,
                initialized_size: word(0x38)?,
                // 0x00FF compression, 0x4000 encryption. 0x8000, sparse, is plain.
                encoding: match flags & 0x40FF {
                    0 => Encoding::Plain,
                    1 => Encoding::Compressed(bytes.get(0x22).copied().unwrap_or(0)),
                    _ => Encoding::Other,
                },
                pairs: bytes.get(mapping_pairs_offset..).ok_or_else(|| corrupt("has runs past its end"))?,
            })
        };
        Ok(Self { kind, name, instance, position, body })
    }

    /// The value, when it lies in the record.
    pub(super) fn resident(&self) -> Option<&'a [u8]> {
        match self.body {
            Body::Resident(value) => Some(value),
            Body::NonResident(_) => None,
        }
    }
}

/// Puts back what the update sequence took: the last two bytes of every 512 hold a number that shows
/// whether the whole structure was written, whatever the size of a sector.
///
/// # Errors
/// When the structure is torn, or its update sequence does not fit it. `position` is its place in the
/// volume.
pub(super) fn undo_fixups(bytes: &mut [u8], position: u64) -> Result<(), FsError> {
    const STRIDE: usize = 512;
    let usa_offset = usize::from(field::le16(bytes, 4).unwrap_or_default());
    let usa_count = usize::from(field::le16(bytes, 6).unwrap_or_default());
    let usa = usa_offset.checked_add(2 * usa_count).and_then(|end| bytes.get(usa_offset..end)).map(<[u8]>::to_vec);
    let fits = bytes.len().is_multiple_of(STRIDE) && usa_count == bytes.len() / STRIDE + 1;
    let Some((number, saved)) = usa.as_deref().filter(|_| fits).and_then(<[u8]>::split_first_chunk::<2>) else {
        return Err(FsError::corrupt(position, "an update sequence that does not fit its structure"));
    };
    for (stride, original) in bytes.chunks_exact_mut(STRIDE).zip(saved.chunks_exact(2)) {
        match stride.last_chunk_mut::<2>() {
            Some(end) if end == number => end.copy_from_slice(original),
            _ => return Err(FsError::corrupt(position, "a structure that was not written to its end")),
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A resident attribute.
    pub(in crate::fs::ntfs) fn resident(kind: Kind, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 24];
        bytes[..4].copy_from_slice(&kind.0.to_le_bytes());
        bytes[0x10..0x14].copy_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
        bytes[0x14..0x16].copy_from_slice(&24u16.to_le_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let len = u32::try_from(bytes.len()).unwrap();
        bytes[4..8].copy_from_slice(&len.to_le_bytes());
        bytes
    }

    /// A record of 1 KiB as it lies on the disk.
    fn record(attributes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        bytes[..4].copy_from_slice(b"FILE");
        bytes[4..6].copy_from_slice(&0x30u16.to_le_bytes());
        bytes[6..8].copy_from_slice(&3u16.to_le_bytes());
        bytes[0x10..0x12].copy_from_slice(&7u16.to_le_bytes());
        bytes[0x14..0x16].copy_from_slice(&0x38u16.to_le_bytes());
        bytes[0x16] = 1;
        let end = 0x38 + attributes.len();
        bytes[0x18..0x1C].copy_from_slice(&u32::try_from(end + 8).unwrap().to_le_bytes());
        bytes[0x38..end].copy_from_slice(attributes);
        bytes[end..end + 4].copy_from_slice(&[0xFF; 4]);
        // The update sequence: number 0x2211, then what belongs at the ends of the two strides.
        let saved: [u8; 4] = [bytes[510], bytes[511], bytes[1022], bytes[1023]];
        bytes[0x30..0x32].copy_from_slice(&[0x11, 0x22]);
        bytes[0x32..0x36].copy_from_slice(&saved);
        bytes[510..512].copy_from_slice(&[0x11, 0x22]);
        bytes[1022..1024].copy_from_slice(&[0x11, 0x22]);
        bytes
    }

    fn corrupt_at<T: std::fmt::Debug>(result: Result<T, FsError>) -> u64 {
        match result {
            Err(FsError::Corrupt { offset, .. }) => offset,
            other => panic!("{other:?} is not Corrupt"),
        }
    }

    #[test]
    fn a_value_across_a_stride_is_whole_again() {
        let value: Vec<u8> = (0..=255).cycle().take(700).collect();
        let record = Record::from_bytes(3, 4096, record(&resident(Kind::DATA, &value))).unwrap();
        let attributes = record.attributes().unwrap();
        assert_eq!(attributes.len(), 1);
        assert_eq!(attributes[0].resident(), Some(&value[..]));
        assert!(record.is_meant_by(Reference { number: 3, sequence: 7 }));
        assert!(!record.is_meant_by(Reference { number: 3, sequence: 8 }));
        assert!(record.is_base());
    }

    #[test]
    fn a_torn_record_is_corrupt() {
        let whole = record(&[]);
        for at in [510, 1023, 0x30] {
            let mut torn = whole.clone();
            torn[at] ^= 1;
            assert_eq!(corrupt_at(Record::from_bytes(0, 4096, torn)), 4096);
        }
    }

    #[test]
    fn an_update_sequence_that_does_not_fit_is_corrupt() {
        for (at, value) in [(4, 0xFFFFu16), (4, 1020), (6, 0), (6, 2), (6, 4), (6, 0xFFFF)] {
            let mut bytes = record(&[]);
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
            assert_eq!(corrupt_at(Record::from_bytes(0, 4096, bytes)), 4096, "{value} at {at}");
        }
        assert_eq!(corrupt_at(Record::from_bytes(0, 4096, b"FILE".to_vec())), 4096);
        assert_eq!(corrupt_at(Record::from_bytes(0, 4096, b"BAAD".to_vec())), 4096);
    }

    #[test]
    fn attributes_that_leave_their_record_are_corrupt() {
        let good = resident(Kind::VOLUME_NAME, b"abcdefgh");
        let first = 8192 + 0x38;
        for (at, value) in
            [(4, 0u32), (4, 16), (4, 25), (4, 1024), (4, u32::MAX), (0x10, 9), (0x10, u32::MAX), (0x14, 0xFFFF)]
        {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let record = Record::from_bytes(0, 8192, record(&bytes)).unwrap();
            assert_eq!(corrupt_at(record.attributes()), first, "{value} at {at}");
        }
        let mut endless = record(&good);
        endless[0x18..0x1C].copy_from_slice(&(0x38u32 + 32).to_le_bytes());
        let endless = Record::from_bytes(0, 8192, endless).unwrap();
        assert_eq!(corrupt_at(endless.attributes()), first + 32);
        let mut long = record(&good);
        long[0x18..0x1C].copy_from_slice(&1025u32.to_le_bytes());
        assert_eq!(corrupt_at(Record::from_bytes(0, 8192, long)), 8192 + 0x18);
    }
}
