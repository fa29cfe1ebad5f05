//! The index: which packs there are and what is in them.
//!
//! An index object is the directories of many packs, one after another, so that a repository is known
//! without opening every pack. It is a cache: whatever no index object names is read from the pack itself.
//!
//! ```text
//! per pack:  0 16  pack id    16  8  size of the pack    24  4  length of its directory    28 …  directory
//! ```
//!
//! The directory is as the pack has it, before compression. Integers are little endian.
//! Must not know: images, sessions.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::Repository;
use super::config::Hex;
use super::object::Kind;
use super::pack::{Directory, FOOTER_LEN, PackId};
use super::seal::TAG_LEN;
use crate::error::{Error, Result};
use crate::read_at::field;

/// An index object is closed when it has this many bytes: bounded memory to read one.
pub const INDEX_OBJECT_BYTES: usize = 16 << 20;

/// A pack that an index names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedPack {
    /// Its id.
    pub id: PackId,
    /// The object's size in bytes.
    pub size: u64,
    /// What is in it.
    pub directory: Directory,
}

impl IndexedPack {
    /// Appends it to an index object's payload.
    pub fn append_to(&self, payload: &mut Vec<u8>) {
        let directory = self.directory.to_bytes();
        payload.extend_from_slice(&self.id.0);
        payload.extend_from_slice(&self.size.to_le_bytes());
        // A directory has at most 256 MiB, which PackBuilder sees to.
        payload.extend_from_slice(&u32::try_from(directory.len()).unwrap_or(u32::MAX).to_le_bytes());
        payload.extend_from_slice(&directory);
    }

    fn take_from(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = payload.split_at_checked(28)?;
        let (directory, rest) = rest.split_at_checked(usize::try_from(field::le32(head, 24)?).ok()?)?;
        let id = Hex(head.get(..16)?.try_into().ok()?);
        let directory = Directory::from_bytes(directory)?;
        let pack = Self { id, size: field::le64(head, 16)?, directory };
        pack.fits().then_some((pack, rest))
    }

    /// Whether the frames lie within the pack, with room for its directory and footer.
    fn fits(&self) -> bool {
        self.directory.frames_end().saturating_add((TAG_LEN + FOOTER_LEN) as u64) < self.size
    }
}

/// Parses an index object's payload. `None` when it is not one.
#[must_use]
pub fn packs_from_payload(mut payload: &[u8]) -> Option<Vec<IndexedPack>> {
    let mut packs = Vec::new();
    while !payload.is_empty() {
        let (pack, rest) = IndexedPack::take_from(payload)?;
        packs.push(pack);
        payload = rest;
    }
    Some(packs)
}

/// A pack object in the store's listing.
#[derive(Clone, Copy, Debug)]
pub struct StoredPack {
    /// Size in bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
}

/// What a look at the whole repository found, beside the packs that it visited.
#[derive(Default)]
pub struct Inventory {
    /// Every pack object that the store lists.
    pub stored: HashMap<PackId, StoredPack>,
    /// Packs that the index names and the store does not have.
    pub missing: HashSet<PackId>,
    /// Packs that cannot be used, and why.
    pub damaged: Vec<(PackId, Error)>,
    /// Objects in the packs' folder that are no packs.
    pub strangers: Vec<String>,
    /// Index objects that cannot be read, and why.
    pub damaged_index: Vec<(String, Error)>,
    /// The packs that each index object names.
    pub index_objects: Vec<(String, Vec<PackId>)>,
    /// Packs that were read because no index object names them.
    pub unindexed: Vec<IndexedPack>,
}

impl Repository {
    /// Visits every pack that is in the store, each once: first those that the index names, then the others.
    /// Only one index object is in memory at a time. A damaged index object costs time, nothing else.
    ///
    /// # Errors
    /// What the store says, and what `visit` says.
    pub fn for_each_pack(&self, visit: &mut dyn FnMut(&IndexedPack) -> Result<()>) -> Result<Inventory> {
        let mut found = Inventory::default();
        // The index is listed before the packs, so that a pack of a listed index object is listed, too,
        // unless it was deleted.
        let mut objects = self.store().list(Kind::Index.folder())?;
        for object in self.store().list("packs")? {
            match object.file_name().parse::<PackId>() {
                Ok(id) if super::pack::object_name(id) == object.name => {
                    found.stored.insert(id, StoredPack { size: object.size, modified: object.modified });
                }
                _ => found.strangers.push(object.name),
            }
        }
        objects.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| a.name.cmp(&b.name)));
        let mut seen = HashSet::new();
        for object in objects {
            let packs = match self.index_object(&object.name) {
                Ok(packs) => packs,
                // A prune put another in its place; its packs are read one by one if need be.
                Err(Error::Missing { .. }) => continue,
                Err(error @ Error::Damaged { .. }) => {
                    found.damaged_index.push((object.name, error));
                    continue;
                }
                Err(error) => return Err(error),
            };
            found.index_objects.push((object.name, packs.iter().map(|pack| pack.id).collect()));
            for pack in packs {
                match found.stored.get(&pack.id) {
                    Some(stored) if stored.size == pack.size => {
                        if seen.insert(pack.id) {
                            visit(&pack)?;
                        }
                    }
                    // Another size: the pack itself is asked below.
                    Some(_) => {}
                    None => {
                        found.missing.insert(pack.id);
                    }
                }
            }
        }
        let mut rest: Vec<(PackId, u64)> =
            found.stored.iter().filter(|(id, _)| !seen.contains(*id)).map(|(id, stored)| (*id, stored.size)).collect();
        rest.sort_unstable();
        for (id, size) in rest {
            match self.pack_directory(id, size) {
                Ok(directory) => {
                    let pack = IndexedPack { id, size, directory };
                    visit(&pack)?;
                    found.unindexed.push(pack);
                }
                Err(error @ Error::Damaged { .. }) => found.damaged.push((id, error)),
                Err(Error::Missing { .. }) => {
                    found.stored.remove(&id);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The packs that one index object names.
    ///
    /// # Errors
    /// [`Error::Damaged`] or what the store says.
    pub fn index_object(&self, name: &str) -> Result<Vec<IndexedPack>> {
        let payload = self.read_object(Kind::Index, name)?;
        packs_from_payload(&payload).ok_or_else(|| Error::damaged(name, 0, "it is not an index"))
    }

    /// The directory of a pack, from the pack itself.
    ///
    /// # Errors
    /// [`Error::Damaged`] or what the store says.
    pub fn pack_directory(&self, id: PackId, size: u64) -> Result<Directory> {
        let name = super::pack::object_name(id);
        self.pack_reader(id).directory(size, |range| self.store().get_range(&name, range))
    }

    /// Writes the packs into as many index objects as are needed, and returns their names.
    ///
    /// # Errors
    /// What the store says.
    pub fn write_index<'a>(&self, packs: impl IntoIterator<Item = &'a IndexedPack>) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut payload = Vec::new();
        for pack in packs {
            pack.append_to(&mut payload);
            if payload.len() >= INDEX_OBJECT_BYTES {
                names.push(self.write_object(Kind::Index, &payload)?);
                payload.clear();
            }
        }
        if !payload.is_empty() {
            names.push(self.write_object(Kind::Index, &payload)?);
        }
        Ok(names)
    }
}

/// Does something that reads an image; anew, twice at most, when a pack was gone, which is what a prune beside it
/// does to whoever has an old index.
///
/// # Errors
/// What `work` says the last time.
pub fn with_fresh_index<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..2 {
        match work() {
            Err(Error::Missing { .. }) => {}
            other => return other,
        }
    }
    work()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::pack::{ChunkEntry, Codec, Content, FrameEntry};
    use proptest::prelude::*;

    fn pack(id: u8, stored_len: u32, size: u64) -> IndexedPack {
        let chunks = vec![ChunkEntry { id: Hex([id; 32]), len: 8192 }];
        let frame = FrameEntry { stored_len, raw_len: 8192, codec: Codec::Zstd, content: Content::Data, chunks };
        IndexedPack { id: Hex([id; 16]), size, directory: Directory { session: Hex([3; 16]), frames: vec![frame] } }
    }

    fn payload(packs: &[IndexedPack]) -> Vec<u8> {
        let mut payload = Vec::new();
        packs.iter().for_each(|pack| pack.append_to(&mut payload));
        payload
    }

    #[test]
    fn packs_come_back() {
        let packs = [pack(1, 200, 500), pack(2, 300, 397)];
        assert_eq!(packs_from_payload(&payload(&packs)).unwrap(), packs);
        assert_eq!(packs_from_payload(&[]).unwrap(), []);
    }

    #[test]
    fn frames_behind_the_end_of_their_pack_are_refused() {
        // Header, one frame, an empty directory's tag, footer.
        let least = 32 + 200 + 16 + 32;
        assert!(packs_from_payload(&payload(&[pack(1, 200, least + 1)])).is_some());
        for size in [0, 232, least] {
            assert_eq!(packs_from_payload(&payload(&[pack(1, 200, size)])), None, "{size}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_index_or_none(bytes: Vec<u8>) {
            if let Some(packs) = packs_from_payload(&bytes) {
                prop_assert_eq!(payload(&packs), bytes);
            }
        }

        #[test]
        fn a_changed_index_is_an_index_or_none(at in 0usize..160, value: u8, len in 0usize..200) {
            let mut bytes = payload(&[pack(1, 200, 500), pack(2, 300, 500)]);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(len);
            if let Some(packs) = packs_from_payload(&bytes) {
                prop_assert!(packs.iter().all(IndexedPack::fits));
                prop_assert_eq!(payload(&packs), bytes);
            }
        }
    }
}
