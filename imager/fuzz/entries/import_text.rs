//! What must be true of every text that an import or a linked clone comes across: what is understood of it fits together.

use std::fmt::Debug;

use imager::clone::{Backing, Sidecar};
use imager::clonezilla::texts::{KeptTable, facts, lay, swap_header, volume_group};
use imager::extent::Extent;
use imager::read_at::ReadAt;
use imager::table;

use super::bytes_of::take;

/// Bytes of the largest disk, and of the largest physical volume.
const SIZE_MAX: u64 = 1 << 40;

/// Reads `data` as one of them; the first byte chooses.
pub(crate) fn run(data: &[u8]) {
    look(data);
}

/// The same; gives whether it was understood.
pub(crate) fn look(data: &[u8]) -> bool {
    let Some((choice, data)) = data.split_first() else { return false };
    let text = String::from_utf8_lossy(data);
    match choice {
        0 => partition_table(data),
        1 => facts(&text, "sda").contains("Some(").then_some(()),
        2 => group(&text),
        3 => swap(data),
        4 => backing(&text),
        _ => sidecar(data),
    }
    .is_some()
}

/// Four bytes of the disk's size in sectors; a byte, whose bits say what was kept, and how large sectors are; what was
/// kept, each behind its length in two bytes; then the dump.
fn partition_table(mut data: &[u8]) -> Option<()> {
    let sectors = u32::from_le_bytes(take(&mut data)?);
    let [kept] = take(&mut data)?;
    let mut part = |bit: u8| -> Option<&[u8]> {
        if kept & (1 << bit) == 0 {
            return None;
        }
        let len = take::<2>(&mut data).map_or(0, u16::from_le_bytes);
        let (part, rest) = data.split_at(data.len().min(len.into()));
        data = rest;
        Some(part)
    };
    let (mbr, gpt, hidden, ebr) = (part(0), part(1), part(2), part(3));
    let dump = String::from_utf8_lossy(data);
    let dump = (kept & (1 << 4) == 0).then_some(&*dump);
    let sector_size = if kept & (1 << 5) == 0 { 512 } else { 4096 };
    let size = (u64::from(sectors) * u64::from(sector_size)).min(SIZE_MAX);
    let (disk, laid) = lay(&KeptTable { dump, mbr, gpt, hidden, ebr }, size, sector_size).ok()?;
    assert_eq!(disk.size(), size);
    let read = table::read(&disk, Some(sector_size)).unwrap();
    same(&read, &laid)
}

fn group(text: &str) -> Option<()> {
    let (name, text) = text.split_once('\n').unwrap_or(("vg", text));
    let group = volume_group(name, text, SIZE_MAX).ok()?;
    for (bytes, runs) in group.logical {
        assert!(bytes == runs.iter().map(|(place, ..)| place.end()).max().unwrap_or(0));
        for (place, number, start) in runs {
            assert!(number < group.physical && start.checked_add(place.len).is_some(), "{place:?} at {start}");
            assert!(Extent::new(start, place.len).len == place.len);
        }
    }
    for begin in group.beginnings.into_iter().flatten() {
        assert!(begin.len() <= 2 * text.len() + (16 << 10) && begin[512..].starts_with(b"LABELONE"));
    }
    Some(())
}

fn swap(mut data: &[u8]) -> Option<()> {
    let len = u32::from_le_bytes(take(&mut data)?);
    let page = swap_header(&String::from_utf8_lossy(data), len.into())?;
    let found = imager::fs::inspect(&[page, vec![0; 10 * 4096]].concat());
    // One that is larger than what there is of it is cut off, which is said.
    assert!(found.kind == "swap" || len > 11 * 4096, "{found:?}");
    Some(())
}

fn backing(uri: &str) -> Option<()> {
    let backing = Backing::from_uri(uri)?;
    same(&Backing::from_uri(&backing.uri()).unwrap(), &backing)
}

fn sidecar(data: &[u8]) -> Option<()> {
    let sidecar: Sidecar = serde_json::from_slice(data).ok()?;
    let json = serde_json::to_vec(&sidecar).unwrap();
    same(&serde_json::from_slice(&json).unwrap(), &sidecar)
}

fn same<T: PartialEq + Debug>(one: &T, other: &T) -> Option<()> {
    assert!(one == other, "{one:?} is not {other:?}");
    Some(())
}
