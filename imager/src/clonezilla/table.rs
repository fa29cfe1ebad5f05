//! A disk's partition table, put together from what Clonezilla keeps of it.
//!
//! The dump of `sfdisk` is what Clonezilla itself restores from, so it says what there is; the sectors that were kept
//! add the boot code and what the dump does not tell, as long as they say the same. Kept are the MBR, the first 34
//! sectors of a GPT, the first EBR and the space in front of the first partition; EBRs behind the first and the backup
//! of a GPT are made anew. (The file `-gpt-2nd` lacks the first of its sectors and is not used.) Must not know: files,
//! volumes.
//!
//! Sources: UEFI specification 2.10, section 5.3; sfdisk(8).

#![forbid(unsafe_code)]

use uuid::Uuid;

use super::disk::Assembled;
use super::sfdisk::{Dump, Line};
use crate::extent::Extent;
use crate::read_at::{ReadAt, field};
use crate::table::{self, Ids, Partition, PartitionTable, Role, TableKind};

const MBR_BYTES: usize = 512;
/// Boot code and the disk's signature end here, and four entries begin.
const ENTRIES_AT: usize = 446;
const ENTRY_BYTES: usize = 16;
const SIGNATURE_AT: usize = 440;
const TYPE_EXTENDED: u8 = 0x05;
const TYPE_PROTECTIVE: u8 = 0xEE;
const GPT_ENTRIES: usize = 128;
const GPT_ENTRY_BYTES: usize = 128;

/// What was kept of a disk's table.
#[derive(Default)]
pub(super) struct Kept {
    /// The first sector.
    pub(super) mbr: Option<Vec<u8>>,
    /// The first sectors of a GPT disk, from the first on.
    pub(super) gpt: Option<Vec<u8>>,
    /// What follows the first sector, up to the first partition.
    pub(super) hidden: Option<Vec<u8>>,
    /// The first sector of the extended partition.
    pub(super) ebr: Option<Vec<u8>>,
    /// The dump.
    pub(super) dump: Option<Dump>,
}

/// Puts the table onto `disk`, which is empty. Gives the partitions, and what should be known about them.
///
/// # Errors
/// In words, what cannot be done.
pub(super) fn lay(
    disk: &mut Assembled,
    kept: &Kept,
    sector_size: u32,
) -> Result<(PartitionTable, Vec<String>), String> {
    let mut remarks = Vec::new();
    let dump = kept.dump.clone().unwrap_or_default();
    match dump.label.as_deref() {
        None | Some("gpt" | "dos") => {}
        Some(other) => return Err(format!("its partition table is of the kind {other:?}, which cannot be imported")),
    }
    put_start(disk, kept, &dump, sector_size);
    let is_gpt = dump.is_gpt() || (dump.label.is_none() && kept.gpt.is_some());
    let found = if is_gpt {
        lay_gpt(disk, &dump, sector_size, &mut remarks)?
    } else {
        lay_mbr(disk, kept, &dump, sector_size)?
    };
    Ok((found, remarks))
}

fn read(disk: &Assembled, sector_size: u32) -> Result<PartitionTable, String> {
    table::read(disk, Some(sector_size)).map_err(|error| error.to_string())
}

/// What was kept as it is: boot loaders live there.
fn put_start(disk: &mut Assembled, kept: &Kept, dump: &Dump, sector_size: u32) {
    if let Some(hidden) = &kept.hidden {
        // A later table may begin its first partition earlier.
        let first = dump.partitions.iter().map(|line| line.start.saturating_mul(sector_size.into())).min();
        let room = first.unwrap_or(u64::MAX).saturating_sub(MBR_BYTES as u64);
        let len = usize::try_from(room).unwrap_or(usize::MAX).min(hidden.len());
        disk.put_bytes(MBR_BYTES as u64, hidden.get(..len).unwrap_or_default());
    }
    if let Some(gpt) = &kept.gpt {
        // The first 34 sectors of 512 bytes are less than a whole GPT where sectors have 4,096; the rest of it is zeros.
        disk.put_bytes(0, gpt);
    }
    if let Some(mbr) = &kept.mbr {
        disk.put_bytes(0, mbr.get(..MBR_BYTES.min(mbr.len())).unwrap_or_default());
    }
}

/// What a table says, as far as a dump says it, too: number, first byte, length.
type Place = (u32, u64, u64);

fn places_of(table: &PartitionTable) -> Vec<Place> {
    let mut places: Vec<_> = table.partitions.iter().map(|p| (p.number, p.start, p.len)).collect();
    places.sort_unstable();
    places
}

fn places_in(dump: &Dump, sector_size: u32) -> Result<Vec<Place>, String> {
    let place = |line: &Line| {
        let number = line.number().ok_or_else(|| format!("{} has no number", line.node))?;
        let bytes = |sectors: u64| sectors.checked_mul(sector_size.into());
        match (bytes(line.start), bytes(line.size)) {
            (Some(start), Some(len)) => Ok((number, start, len)),
            _ => Err(format!("{} lies behind the end of any disk", line.node)),
        }
    };
    let mut places = dump.partitions.iter().map(place).collect::<Result<Vec<_>, String>>()?;
    places.sort_unstable();
    Ok(places)
}

fn lay_gpt(
    disk: &mut Assembled,
    dump: &Dump,
    sector_size: u32,
    remarks: &mut Vec<String>,
) -> Result<PartitionTable, String> {
    let mut found = read(disk, sector_size)?;
    let is_kept = matches!(found.kind, TableKind::Gpt | TableKind::HybridMbr);
    if dump.is_gpt() {
        let wanted = places_in(dump, sector_size)?;
        if !is_kept || places_of(&found) != wanted {
            if is_kept {
                remarks.push("the partition table is that of the file -pt.sf; that of -gpt-1st is another".to_owned());
            }
            build_gpt(disk, dump, sector_size)?;
            found = read(disk, sector_size)?;
            if places_of(&found) != wanted {
                return Err("the file -pt.sf has partitions that a GPT cannot have".to_owned());
            }
        }
    } else if !is_kept {
        return Err(
            "the file -gpt-1st holds no partition table that is whole, and the file -pt.sf tells of none".to_owned()
        );
    }
    let patches = table::adapt(disk, &found, disk.size(), Ids::Keep).map_err(|error| error.to_string())?;
    for patch in patches {
        disk.put_bytes(patch.offset, &patch.bytes);
    }
    read(disk, sector_size)
}

fn guid(text: Option<&str>) -> Result<[u8; 16], String> {
    let Some(text) = text else { return Ok(Uuid::new_v4().to_bytes_le()) };
    Uuid::try_parse(text).map(|uuid| uuid.to_bytes_le()).map_err(|_| format!("{text:?} in the file -pt.sf is no GUID"))
}

/// Writes a primary GPT from the dump alone.
fn build_gpt(disk: &mut Assembled, dump: &Dump, sector_size: u32) -> Result<(), String> {
    let sector = usize::try_from(sector_size).map_err(|error| error.to_string())?;
    let entry_sectors = (GPT_ENTRIES * GPT_ENTRY_BYTES).div_ceil(sector) as u64;
    let last_lba = (disk.size() / u64::from(sector_size)).saturating_sub(1);
    let mut entries = vec![0; GPT_ENTRIES * GPT_ENTRY_BYTES];
    for line in &dump.partitions {
        let index = line.number().and_then(|number| usize::try_from(number).ok()?.checked_sub(1));
        let entry = index.and_then(|index| entries.chunks_exact_mut(GPT_ENTRY_BYTES).nth(index));
        let entry = entry.ok_or_else(|| format!("a GPT has no room for {}", line.node))?;
        put(entry, 0, &guid(Some(&line.kind))?);
        put(entry, 16, &guid(line.uuid.as_deref())?);
        put(entry, 32, &line.start.to_le_bytes());
        put(entry, 40, &line.start.saturating_add(line.size).saturating_sub(1).to_le_bytes());
        put(entry, 48, &attributes(line.attributes.as_deref().unwrap_or_default()).to_le_bytes());
        for (at, unit) in (56..).step_by(2).zip(line.name.as_deref().unwrap_or_default().encode_utf16().take(36)) {
            put(entry, at, &unit.to_le_bytes());
        }
    }
    let mut header = vec![0; sector];
    put(&mut header, 0, b"EFI PART");
    put(&mut header, 8, &0x0001_0000u32.to_le_bytes());
    put(&mut header, 12, &92u32.to_le_bytes());
    put(&mut header, 24, &1u64.to_le_bytes());
    put(&mut header, 32, &last_lba.to_le_bytes());
    put(&mut header, 40, &dump.first_lba.unwrap_or(2 + entry_sectors).to_le_bytes());
    let room_end = last_lba.saturating_sub(entry_sectors + 1);
    put(&mut header, 48, &dump.last_lba.unwrap_or(room_end).min(room_end).to_le_bytes());
    put(&mut header, 56, &guid(dump.label_id.as_deref())?);
    put(&mut header, 72, &2u64.to_le_bytes());
    put(&mut header, 80, &u32::try_from(GPT_ENTRIES).unwrap_or(u32::MAX).to_le_bytes());
    put(&mut header, 84, &u32::try_from(GPT_ENTRY_BYTES).unwrap_or(u32::MAX).to_le_bytes());
    table::seal(&mut header, &entries);
    let mut mbr = first_sector(disk)?;
    let is_protective = (0..4).any(|number| mbr.get(ENTRIES_AT + number * ENTRY_BYTES + 4) == Some(&TYPE_PROTECTIVE));
    if !is_protective || mbr.get(510..) != Some(&[0x55, 0xAA]) {
        put(&mut mbr, ENTRIES_AT, &[0; 4 * ENTRY_BYTES]);
        put(&mut mbr, ENTRIES_AT, &entry(TYPE_PROTECTIVE, false, 1, u32::try_from(last_lba).unwrap_or(u32::MAX)));
        put(&mut mbr, 510, &[0x55, 0xAA]);
    }
    disk.put_bytes(0, &mbr);
    disk.put_bytes(u64::from(sector_size), &header);
    disk.put_bytes(2 * u64::from(sector_size), &entries);
    Ok(())
}

/// sfdisk(8), "attrs": names, and numbers behind "GUID:".
fn attributes(words: &str) -> u64 {
    let mut bits = 0;
    let mut set = |bit: u32| bits |= 1u64.checked_shl(bit).unwrap_or(0);
    for word in words.split([' ', ',']) {
        match word {
            "RequiredPartition" => set(0),
            "NoBlockIOProtocol" => set(1),
            "LegacyBIOSBootable" => set(2),
            number => number.trim_start_matches("GUID:").parse().into_iter().for_each(&mut set),
        }
    }
    bits
}

fn first_sector(disk: &Assembled) -> Result<Vec<u8>, String> {
    disk.read_vec(0, MBR_BYTES).map_err(|error| error.to_string())
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(field) = bytes.get_mut(at..at + value.len()) {
        field.copy_from_slice(value);
    }
}

/// An entry of an MBR or EBR; heads and cylinders say "too large", as today's tools write.
fn entry(kind: u8, is_bootable: bool, start: u32, size: u32) -> [u8; ENTRY_BYTES] {
    let [s0, s1, s2, s3] = start.to_le_bytes();
    let [n0, n1, n2, n3] = size.to_le_bytes();
    let active = if is_bootable { 0x80 } else { 0 };
    [active, 0xFE, 0xFF, 0xFF, kind, 0xFE, 0xFF, 0xFF, s0, s1, s2, s3, n0, n1, n2, n3]
}

/// 32 bits of sectors.
fn sectors(line: &Line, value: u64) -> Result<u32, String> {
    u32::try_from(value).map_err(|_| format!("{} lies where an MBR cannot reach", line.node))
}

fn lay_mbr(disk: &mut Assembled, kept: &Kept, dump: &Dump, sector_size: u32) -> Result<PartitionTable, String> {
    if dump.partitions.is_empty() {
        // A disk without partitions, or nothing but its first sector.
        return read(disk, sector_size);
    }
    let mut mbr = first_sector(disk)?;
    let mut is_changed = kept.mbr.is_none();
    for (number, at) in (1..=4).zip((ENTRIES_AT..).step_by(ENTRY_BYTES)) {
        let line = dump.partitions.iter().find(|line| line.number() == Some(number));
        let found = mbr.get(at..at + ENTRY_BYTES).unwrap_or_default();
        let is_same = match line {
            None => field::le32(found, 12) == Some(0),
            Some(line) => {
                found.get(4).copied() == line.mbr_type()
                    && field::le32(found, 8).map(u64::from) == Some(line.start)
                    && field::le32(found, 12).map(u64::from) == Some(line.size)
            }
        };
        if is_same {
            continue;
        }
        is_changed = true;
        let new = match line {
            None => [0; ENTRY_BYTES],
            Some(line) => {
                let kind = line.mbr_type().ok_or_else(|| format!("{} has no type", line.node))?;
                entry(kind, line.is_bootable, sectors(line, line.start)?, sectors(line, line.size)?)
            }
        };
        put(&mut mbr, at, &new);
    }
    if is_changed {
        let id = dump.label_id.as_deref().and_then(|id| u32::from_str_radix(id.trim_start_matches("0x"), 16).ok());
        if let Some(id) = id {
            put(&mut mbr, SIGNATURE_AT, &id.to_le_bytes());
        }
        put(&mut mbr, 510, &[0x55, 0xAA]);
    }
    disk.put_bytes(0, &mbr);
    lay_logical(disk, kept, dump, sector_size)?;
    let found = read(disk, sector_size)?;
    if places_of(&found) != places_in(dump, sector_size)? {
        return Err("the file -pt.sf has partitions that an MBR cannot have".to_owned());
    }
    Ok(found)
}

/// Writes the chain of boot records in the extended partition.
fn lay_logical(disk: &mut Assembled, kept: &Kept, dump: &Dump, sector_size: u32) -> Result<(), String> {
    let mut logical: Vec<&Line> =
        dump.partitions.iter().filter(|line| line.number().is_some_and(|number| number > 4)).collect();
    logical.sort_by_key(|line| line.number());
    let Some(extended) =
        dump.partitions.iter().find(|line| line.is_extended() && line.number().is_some_and(|number| number <= 4))
    else {
        return match logical.first() {
            None => Ok(()),
            Some(line) => Err(format!("{} is in no extended partition", line.node)),
        };
    };
    let whole = Extent::new(extended.start, extended.size);
    // What was in the first record before its entries: some boot loaders live there.
    let code = kept
        .ebr
        .as_deref()
        .filter(|ebr| ebr.get(510..512) == Some(&[0x55, 0xAA]))
        .and_then(|ebr| ebr.get(..ENTRIES_AT));
    let mut records: Vec<u64> = Vec::new();
    for line in &logical {
        let place = match records.is_empty() {
            true => Some(whole.start),
            false => free_sector(line, &logical, whole, &records),
        };
        records.push(place.ok_or_else(|| format!("there is no room for the boot record of {}", line.node))?);
    }
    if logical.is_empty() {
        records.push(whole.start);
    }
    for (number, record) in records.iter().enumerate() {
        let mut bytes = vec![0; MBR_BYTES];
        if let (0, Some(code)) = (number, code) {
            put(&mut bytes, 0, code);
        }
        if let Some(line) = logical.get(number) {
            let kind = line.mbr_type().ok_or_else(|| format!("{} has no type", line.node))?;
            let start = line
                .start
                .checked_sub(*record)
                .ok_or_else(|| format!("{} begins before its boot record", line.node))?;
            put(
                &mut bytes,
                ENTRIES_AT,
                &entry(kind, line.is_bootable, sectors(line, start)?, sectors(line, line.size)?),
            );
        }
        if let (Some(next), Some(line)) = (records.get(number + 1), logical.get(number + 1)) {
            let start =
                next.checked_sub(whole.start).ok_or_else(|| format!("{} is not in {}", line.node, extended.node))?;
            let end = line.start.saturating_add(line.size);
            let size = sectors(line, end.saturating_sub(*next))?;
            put(&mut bytes, ENTRIES_AT + ENTRY_BYTES, &entry(TYPE_EXTENDED, false, sectors(line, start)?, size));
        }
        put(&mut bytes, 510, &[0x55, 0xAA]);
        disk.put_bytes(record.saturating_mul(sector_size.into()), &bytes);
    }
    Ok(())
}

/// A sector before `line` that nothing else lies in: as far before it as the first record is before the first logical
/// partition, which is how tools lay them out, or else the last one that is free.
fn free_sector(line: &Line, logical: &[&Line], whole: Extent, records: &[u64]) -> Option<u64> {
    let is_free = |sector: u64| {
        sector >= whole.start
            && !records.contains(&sector)
            && logical.iter().all(|other| !(other.start..other.start.saturating_add(other.size)).contains(&sector))
    };
    let usual = logical.first()?.start.saturating_sub(whole.start);
    let before = (1..=2048).map(|back| line.start.checked_sub(back));
    let mut candidates = std::iter::once(line.start.checked_sub(usual)).chain(before).flatten();
    candidates.find(|sector| is_free(*sector))
}

/// The number of partitions that hold something of their own.
pub(super) fn holders(table: &PartitionTable) -> impl Iterator<Item = &Partition> {
    table.partitions.iter().filter(|partition| partition.role != Role::Extended)
}
