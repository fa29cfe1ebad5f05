//! The master file table: records by number, and the values of their attributes, however scattered.
//!
//! Layout: linux-ntfs documentation, "$MFT", "$ATTRIBUTE_LIST". Must not know: what the files are for.

use std::sync::Arc;

use crate::fs::FsError;
use crate::fs::ntfs::boot::{BOOT_SECTOR_BYTES, BootSector};
use crate::fs::ntfs::record::{Attribute, Body, Encoding, InUse, Kind, Record, Reference};
use crate::fs::ntfs::stream::{Stream, runs};
use crate::read_at::{ReadAt, field};

/// The name of attributes that have none.
pub(super) const UNNAMED: &[u8] = &[];

/// An open volume.
pub(super) struct Mft<'a> {
    pub(super) volume: &'a dyn ReadAt,
    pub(super) boot: BootSector,
    /// The table itself, record after record.
    stream: Arc<Stream>,
}

/// The value of an attribute.
#[derive(Debug)]
pub(super) enum Content {
    /// As it lay in the record.
    Resident(Vec<u8>),
    /// In clusters of the volume.
    Stream(Stream),
}

/// Where one part of an attribute is described.
struct Part {
    reference: Reference,
    /// Which of the attributes of that record.
    instance: u16,
}

impl<'a> Mft<'a> {
    /// An attribute list may not be larger.
    const ATTRIBUTE_LIST_MAX: u64 = 256 << 10;
    const WALK_PIECE_BYTES: u64 = 1 << 20;

    /// Reads the boot sector and finds all of the table.
    pub(super) fn open(volume: &'a dyn ReadAt) -> Result<Self, FsError> {
        let boot = BootSector::from_bytes(&volume.read_vec(0, BOOT_SECTOR_BYTES)?)?;
        if boot.size > volume.size() {
            let what = format!("the file system claims {} bytes, the volume has {}", boot.size, volume.size());
            return Err(FsError::corrupt(0x28, what));
        }
        let position = boot.position(boot.mft_cluster);
        let base = Record::from_bytes(0, position, volume.read_vec(position, boot.record_bytes())?)?;

        // The records that describe the later parts of the table lie in its earlier parts.
        let found = base.attributes()?;
        let first = found.iter().find(|attribute| attribute.kind == Kind::DATA && attribute.name == UNNAMED);
        let first = first.map(|attribute| value_of(attribute, &boot)).transpose()?;
        let Some(Content::Stream(stream)) = first else {
            return Err(FsError::corrupt(position, "$MFT has no runs"));
        };
        let mut mft = Self { volume, boot, stream: Arc::new(stream) };
        for part in mft.parts(&base, Kind::DATA, UNNAMED)?.iter().skip(1) {
            match mft.part(&base, part, Kind::DATA, UNNAMED)? {
                // Nobody else has it yet, so that nothing is copied.
                Content::Stream(next) => Arc::make_mut(&mut mft.stream).append(next, position)?,
                Content::Resident(_) => return Err(FsError::corrupt(position, "a part of $MFT has no runs")),
            }
        }
        check_plain(&mft.stream, "$MFT", position)?;
        Ok(mft)
    }

    /// The same table, found before, on the same volume.
    pub(super) fn reopened(volume: &'a dyn ReadAt, boot: BootSector, stream: Arc<Stream>) -> Self {
        Self { volume, boot, stream }
    }

    /// The table, for [`Self::reopened`].
    pub(super) fn shared_stream(&self) -> Arc<Stream> {
        Arc::clone(&self.stream)
    }

    /// The first part of an attribute, which says how long the whole is.
    pub(super) fn first_content(&self, base: &Record, kind: Kind, name: &[u8]) -> Result<Option<Content>, FsError> {
        let parts = self.parts(base, kind, name)?;
        parts.first().map(|part| self.part(base, part, kind, name)).transpose()
    }

    /// The names of all attributes of one kind, each once.
    pub(super) fn names(&self, base: &Record, kind: Kind) -> Result<Vec<Vec<u8>>, FsError> {
        let attributes = base.attributes()?;
        let mut names: Vec<Vec<u8>> = match attributes.iter().find(|a| a.kind == Kind::ATTRIBUTE_LIST) {
            None => attributes.iter().filter(|a| a.kind == kind).map(|a| a.name.to_vec()).collect(),
            Some(list) => {
                let value = value_of(list, &self.boot)?;
                let entries = value.read_all(self.volume, Self::ATTRIBUTE_LIST_MAX, list.position)?;
                names_in_list(&entries, kind)
                    .ok_or_else(|| FsError::corrupt(list.position, "a broken attribute list"))?
            }
        };
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// The clusters of the table.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// A file of the system, by its fixed number.
    pub(super) fn system_file(&self, number: u64) -> Result<Record, FsError> {
        let record = self.record(number)?;
        if !record.is_base() || !record.is_in_use() {
            return Err(FsError::corrupt(record.position, format!("file record {number} belongs to no system file")));
        }
        Ok(record)
    }

    /// Any record.
    pub(super) fn record(&self, number: u64) -> Result<Record, FsError> {
        let size = u64::from(self.boot.record_size);
        let offset = number.checked_mul(size).filter(|&at| at <= self.stream.initialized_size.saturating_sub(size));
        let Some(offset) = offset else {
            return Err(FsError::corrupt(0, format!("file record {number} lies past the end of $MFT")));
        };
        let mut bytes = vec![0; self.boot.record_bytes()];
        self.stream.read_at(self.volume, offset, &mut bytes)?;
        Record::from_bytes(number, self.stream.position(offset), bytes)
    }

    /// Calls `visit` with every record that is in use, in ascending order. Reads the whole table, once.
    ///
    /// # Errors
    /// Those of `visit`; `Corrupt` for a record that may be in use and is damaged.
    pub(super) fn each_record_in_use(
        &self,
        mut visit: impl FnMut(&Record) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let size = u64::from(self.boot.record_size);
        let end = self.stream.initialized_size - self.stream.initialized_size % size;
        let mut buf = Vec::new();
        let mut start = 0;
        while start < end {
            let len = Self::WALK_PIECE_BYTES.min(end - start);
            buf.resize(usize::try_from(len).unwrap_or_default(), 0);
            self.stream.read_at(self.volume, start, &mut buf)?;
            let records = buf.chunks_exact(self.boot.record_bytes());
            for (offset, bytes) in (start..).step_by(self.boot.record_bytes()).zip(records) {
                let was_never_used = bytes.iter().all(|&byte| byte == 0);
                let is_free = bytes.starts_with(b"FILE") && InUse::of_raw(bytes) == InUse::No;
                if !was_never_used && !is_free {
                    visit(&Record::from_bytes(offset / size, self.stream.position(offset), bytes.to_vec())?)?;
                }
            }
            start += len;
        }
        Ok(())
    }

    /// The value of an attribute of the file that begins with `base`; `None` when it has no such one.
    pub(super) fn content(&self, base: &Record, kind: Kind, name: &[u8]) -> Result<Option<Content>, FsError> {
        let mut content = None;
        for next in self.contents(base, kind, name)? {
            match (&mut content, next) {
                (None, first) => content = Some(first),
                (Some(Content::Stream(stream)), Content::Stream(next)) => stream.append(next, base.position)?,
                (Some(_), _) => return Err(FsError::corrupt(base.position, "an attribute with two values")),
            }
        }
        Ok(content)
    }

    /// The values of all attributes of one kind and name, or the parts of the one value: a file has several
    /// names, but not several unnamed contents.
    pub(super) fn contents(&self, base: &Record, kind: Kind, name: &[u8]) -> Result<Vec<Content>, FsError> {
        self.parts(base, kind, name)?.iter().map(|part| self.part(base, part, kind, name)).collect()
    }

    /// Where the parts of an attribute are: in `base`, or where its attribute list says.
    fn parts(&self, base: &Record, kind: Kind, name: &[u8]) -> Result<Vec<Part>, FsError> {
        let attributes = base.attributes()?;
        let Some(list) = attributes.iter().find(|attribute| attribute.kind == Kind::ATTRIBUTE_LIST) else {
            let is_meant = |attribute: &&Attribute<'_>| attribute.kind == kind && attribute.name == name;
            let here = |attribute: &Attribute<'_>| Part { reference: base.reference(), instance: attribute.instance };
            return Ok(attributes.iter().filter(is_meant).map(here).collect());
        };
        let entries = value_of(list, &self.boot)?.read_all(self.volume, Self::ATTRIBUTE_LIST_MAX, list.position)?;
        parts_in_list(&entries, kind, name).ok_or_else(|| FsError::corrupt(list.position, "a broken attribute list"))
    }

    fn part(&self, base: &Record, part: &Part, kind: Kind, name: &[u8]) -> Result<Content, FsError> {
        let extension;
        let record = if part.reference.number == base.number {
            base
        } else {
            extension = self.record(part.reference.number)?;
            if !extension.is_meant_by(part.reference) || !extension.is_extension_of(base) {
                let what = format!("file record {} is not a part of file {}", extension.number, base.number);
                return Err(FsError::corrupt(extension.position, what));
            }
            &extension
        };
        let attributes = record.attributes()?;
        let meant = attributes.iter().find(|a| a.kind == kind && a.name == name && a.instance == part.instance);
        let meant =
            meant.ok_or_else(|| FsError::corrupt(record.position, "an attribute is not where the list says"))?;
        value_of(meant, &self.boot)
    }
}

/// The value that one attribute record describes.
fn value_of(attribute: &Attribute<'_>, boot: &BootSector) -> Result<Content, FsError> {
    match &attribute.body {
        Body::Resident(value) => Ok(Content::Resident(value.to_vec())),
        Body::NonResident(mapping) => {
            let runs = runs(mapping, boot.clusters, attribute.position)?;
            Ok(Content::Stream(Stream::new(mapping, runs, boot.cluster_size)))
        }
    }
}

/// The entries of an attribute list that are about one attribute; `None` when the list is broken.
fn parts_in_list(mut entries: &[u8], kind: Kind, name: &[u8]) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    while !entries.is_empty() {
        let length = usize::from(field::le16(entries, 4)?);
        let (entry, rest) = entries.split_at_checked(length)?;
        let instance = field::le16(entry, 0x18)?;
        let reference = Reference::from_raw(field::le64(entry, 0x10)?);
        let (&name_length, &name_offset) = (entry.get(6)?, entry.get(7)?);
        let name_start = usize::from(name_offset);
        let entry_name = entry.get(name_start..name_start + 2 * usize::from(name_length));
        if Kind(field::le32(entry, 0)?) == kind && (if name_length == 0 { UNNAMED } else { entry_name? }) == name {
            parts.push(Part { reference, instance });
        }
        entries = rest;
    }
    Some(parts)
}

/// The names of the attributes of one kind in an attribute list; `None` when it is broken.
fn names_in_list(mut entries: &[u8], kind: Kind) -> Option<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    while !entries.is_empty() {
        let length = usize::from(field::le16(entries, 4)?);
        let (entry, rest) = entries.split_at_checked(length.max(8))?;
        let (&name_length, &name_offset) = (entry.get(6)?, entry.get(7)?);
        let start = usize::from(name_offset);
        if Kind(field::le32(entry, 0)?) == kind {
            let name = entry.get(start..start + 2 * usize::from(name_length)).filter(|_| name_length > 0);
            names.push(name.unwrap_or(UNNAMED).to_vec());
        }
        entries = rest;
    }
    Some(names)
}

/// A system file lies in clusters as it is, all of it.
///
/// # Errors
/// `Corrupt` when it has holes or is compressed or encrypted.
pub(super) fn check_plain(stream: &Stream, name: &str, position: u64) -> Result<(), FsError> {
    if stream.has_holes() || stream.encoding != Encoding::Plain {
        return Err(FsError::corrupt(position, format!("{name} has holes, or is compressed or encrypted")));
    }
    Ok(())
}

impl Content {
    /// Bytes in the value.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Resident(value) => value.size(),
            Self::Stream(stream) => stream.data_size,
        }
    }

    /// Fills `buf` from byte `offset` of the value.
    pub(super) fn read_at(&self, volume: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> Result<(), FsError> {
        match self {
            Self::Resident(value) => Ok(value.read_at(offset, buf)?),
            Self::Stream(stream) => stream.read_at(volume, offset, buf),
        }
    }

    /// The whole value, when it has no more than `max` bytes. `position` is for messages.
    pub(super) fn read_all(&self, volume: &dyn ReadAt, max: u64, position: u64) -> Result<Vec<u8>, FsError> {
        let size = self.size();
        let len = usize::try_from(size).ok().filter(|_| size <= max);
        let len = len.ok_or_else(|| FsError::corrupt(position, format!("a value of {size} bytes")))?;
        let mut value = vec![0; len];
        self.read_at(volume, 0, &mut value)?;
        Ok(value)
    }
}
