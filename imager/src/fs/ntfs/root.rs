//! The root directory: finding files by name without a descent through the whole tree.
//!
//! Layout: linux-ntfs documentation, "$INDEX_ROOT", "$INDEX_ALLOCATION", "Index record". Every block of
//! the directory is looked through, because the order of names follows a table of capital letters that
//! is not worth reading for three of them. Must not know: what the files are for.

use crate::fs::FsError;
use crate::fs::ntfs::mft::{Content, Mft, UNNAMED};
use crate::fs::ntfs::record::{Kind, Record, Reference, undo_fixups};
use crate::fs::ntfs::volume::utf16;
use crate::read_at::field;

const ROOT_FILE: u64 = 5;
/// `$I30`: the index by file name.
pub(super) const BY_NAME: &[u8] = b"$\0I\x003\x000\0";
/// A system's root directory has one or a few blocks.
const DIRECTORY_BYTES_MAX: u64 = 64 << 20;

/// The first records of the files in the root directory that have one of `names`, in any case, with the
/// place of each in `names`.
///
/// Blocks of the directory that are not in use are looked through, too, and names in them may be old: a
/// file counts only when its own record says that it has the name, in the root directory.
pub(super) fn find(mft: &Mft<'_>, names: &[&str]) -> Result<Vec<(usize, Record)>, FsError> {
    let root = mft.system_file(ROOT_FILE)?;
    let corrupt = |what: &str| FsError::corrupt(root.position, what.to_owned());
    let index_root = mft.content(&root, Kind::INDEX_ROOT, BY_NAME)?;
    let index_root = index_root.ok_or_else(|| corrupt("the root directory has no index"))?;
    let index_root = index_root.read_all(mft.volume, u64::from(mft.boot.record_size), root.position)?;
    let mut candidates = Vec::new();
    let mut collect = |node: &[u8]| {
        each_entry(node, |reference, key| {
            if let Some(which) = name_among(key, names) {
                candidates.push((which, reference));
            }
        })
        .ok_or_else(|| corrupt("a broken directory entry"))
    };
    collect(index_root.get(0x10..).unwrap_or_default())?;

    let block_size = field::le32(&index_root, 8).unwrap_or_default();
    if let Some(blocks) = mft.content(&root, Kind::INDEX_ALLOCATION, BY_NAME)? {
        if !block_size.is_power_of_two() || !(512..=64 << 10).contains(&block_size) {
            return Err(corrupt("directory blocks of a size that cannot be"));
        }
        if blocks.size() > DIRECTORY_BYTES_MAX {
            return Ok(Vec::new());
        }
        let mut block = vec![0; usize::try_from(block_size).unwrap_or_default()];
        let count = blocks.size() / u64::from(block_size);
        for number in 0..count {
            blocks.read_at(mft.volume, number * u64::from(block_size), &mut block)?;
            if block.starts_with(b"INDX") {
                undo_fixups(&mut block, root.position)?;
                collect(block.get(0x18..).unwrap_or_default())?;
            }
        }
    }

    let mut found: Vec<(usize, Record)> = Vec::new();
    for (which, reference) in candidates {
        let record = match mft.record(reference.number) {
            Ok(record) => record,
            Err(FsError::Io(error)) => return Err(error.into()),
            Err(_) => continue,
        };
        let is_new = found.iter().all(|(_, known)| known.number != record.number);
        if is_new && record.is_meant_by(reference) && record.is_base() && has_name_in_root(mft, &record, which, names)?
        {
            found.push((which, record));
        }
    }
    Ok(found)
}

/// Calls `visit` with reference and key of every entry of a node, `node` beginning with its header.
/// `None` when an entry leaves the node.
pub(super) fn each_entry(node: &[u8], mut visit: impl FnMut(Reference, &[u8])) -> Option<()> {
    const LAST: u16 = 2;
    let entries_offset = usize::try_from(field::le32(node, 0)?).ok()?;
    let index_length = usize::try_from(field::le32(node, 4)?).ok()?;
    let mut entries = node.get(entries_offset..index_length)?;
    loop {
        let length = usize::from(field::le16(entries, 8)?);
        let key_length = usize::from(field::le16(entries, 0x0A)?);
        let flags = field::le16(entries, 0x0C)?;
        if flags & LAST != 0 {
            return Some(());
        }
        let entry = entries.get(..length).filter(|entry| entry.len() >= 0x10)?;
        visit(Reference::from_raw(field::le64(entry, 0)?), entry.get(0x10..0x10 + key_length)?);
        entries = entries.get(length..)?;
    }
}

/// Which of `names` the `$FILE_NAME` value is.
fn name_among(file_name: &[u8], names: &[&str]) -> Option<usize> {
    let length = 2 * usize::from(*file_name.get(0x40)?);
    let name = utf16(file_name.get(0x42..0x42 + length)?);
    names.iter().position(|wanted| name.eq_ignore_ascii_case(wanted))
}

fn has_name_in_root(mft: &Mft<'_>, record: &Record, which: usize, names: &[&str]) -> Result<bool, FsError> {
    let is_it = |content: &Content| match content {
        Content::Resident(value) => {
            let parent = field::le64(value, 0).map(Reference::from_raw);
            parent.is_some_and(|parent| parent.number == ROOT_FILE) && name_among(value, names) == Some(which)
        }
        Content::Stream(_) => false,
    };
    Ok(mft.contents(record, Kind::FILE_NAME, UNNAMED)?.iter().any(is_it))
}
