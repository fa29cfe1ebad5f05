//! The file of UEFI variables that a virtual machine begins with, and boot entries in it.
//!
//! ```text
//! firmware volume header ─► variable store header ─► variable ─► variable ─► … ─► 0xFF up to the store's end
//! ```
//!
//! A physical machine's firmware knows its boot loaders from such variables, which are not on its disks. Here they are
//! written as that firmware would have: into the room that is left, the rest stays as it is. Whatever the bytes are, this
//! ends, and never with a panic. Must not know: files, images, where a boot loader is.
//!
//! Sources: edk2's `MdePkg/Include/Pi/PiFirmwareVolume.h`, `MdeModulePkg/Include/Guid/VariableFormat.h` and
//! `OvmfPkg/VarStore.fdf.inc`; UEFI specification 2.10, sections 3.1.3 (load options), 3.3 (global variables), 10.3.5
//! (media device paths).

#![forbid(unsafe_code)]

use uuid::{Uuid, uuid};

use crate::read_at::field::{le16, le32, le64};
use crate::table::{Partition, PartitionTable, TableKind};

/// `gEfiSystemNvDataFvGuid`: a firmware volume of variables.
const VOLUME_OF_VARIABLES: Uuid = uuid!("fff12b8d-7696-4c8b-a985-2747075b4f50");
/// `gEfiAuthenticatedVariableGuid`: a store of variables that may be signed.
const SIGNED_VARIABLES: Uuid = uuid!("aaf32c78-947b-439a-a180-2e144ec37792");
/// `EFI_GLOBAL_VARIABLE`: the namespace of boot entries.
const GLOBAL: Uuid = uuid!("8be4df61-93ca-11d2-aa0d-00e098032b8c");

/// Bytes of `EFI_FIRMWARE_VOLUME_HEADER` before its block map, and those that a header may have with it.
const VOLUME_HEADER_MIN: usize = 56;
const VOLUME_HEADER_MAX: usize = 4096;
/// Bytes of `VARIABLE_STORE_HEADER`.
const STORE_HEADER: usize = 28;
/// `VARIABLE_STORE_FORMATTED` and `VARIABLE_STORE_HEALTHY`.
const FORMATTED_AND_HEALTHY: [u8; 2] = [0x5A, 0xFE];
/// Bytes of `AUTHENTICATED_VARIABLE_HEADER`.
const VARIABLE_HEADER: usize = 60;
/// `VARIABLE_DATA`: what each variable begins with.
const START: u16 = 0x55AA;
/// `VAR_ADDED`: it is there. Flash loses bits only, so what is to be replaced (`VAR_IN_DELETED_TRANSITION`) has one less.
const ADDED: u8 = 0x3F;
const BEING_REPLACED: u8 = 0x3E;
/// Non-volatile, seen by boot loaders, seen by systems.
const ATTRIBUTES: u32 = 1 | 2 | 4;
/// `LOAD_OPTION_ACTIVE`: to be tried without being asked for.
const ACTIVE: u32 = 1;
/// UTF-16 units of a file's path, at most. Firmware refuses variables of more than a few KiB.
const PATH_UNITS_MAX: usize = 1024;

/// Why a file gets no boot entries.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VariablesError {
    /// It is something else.
    #[error("its file of variables is none that is known here: {0}")]
    Unknown(&'static str),
    /// It contradicts itself.
    #[error("its file of variables is damaged at byte {at}: {what}")]
    Corrupt {
        /// Where.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// There are some.
    #[error("its file of variables has boot entries already")]
    HasEntries,
    /// They do not fit.
    #[error("boot entries of {wanted} bytes do not fit into the {left} that are free in its file of variables")]
    Full {
        /// Bytes that they need.
        wanted: usize,
        /// Bytes that there are.
        left: usize,
    },
    /// More than variables can count or hold.
    #[error("there are too many boot entries, or one of them has too long a path")]
    TooLong,
}

/// What firmware starts: a file on a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootEntry {
    /// The partition.
    pub partition: PartitionPath,
    /// The file, as `\EFI\debian\grubx64.efi`. It is the entry's name, too.
    pub file: String,
}

/// A partition, as firmware finds it again on whatever controller its disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionPath {
    /// Its number, from 1.
    pub number: u32,
    /// First sector.
    pub start: u64,
    /// Number of sectors.
    pub sectors: u64,
    /// What tells it from others.
    pub signature: Signature,
}

/// What tells a partition from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// A partition's GUID in a GPT.
    Gpt(Uuid),
    /// The disk's signature in an MBR.
    Mbr(u32),
}

impl PartitionPath {
    /// Of a partition in a table; `None` when it has nothing that tells it from others.
    #[must_use]
    pub fn of(table: &PartitionTable, partition: &Partition) -> Option<Self> {
        let signature = match table.kind {
            TableKind::Gpt | TableKind::HybridMbr => Signature::Gpt(partition.id.as_deref()?.parse().ok()?),
            TableKind::Mbr => Signature::Mbr(u32::from_str_radix(table.disk_id.as_deref()?, 16).ok()?),
            TableKind::None => return None,
        };
        let sector = u64::from(table.sector_size);
        Some(Self {
            number: partition.number,
            start: partition.start.checked_div(sector)?,
            sectors: partition.len.checked_div(sector)?,
            signature,
        })
    }

    /// `HARDDRIVE_DEVICE_PATH`. Firmware takes it for the beginning of a path, and finds the disk itself.
    fn node(&self) -> Vec<u8> {
        const MEDIA_HARD_DRIVE: [u8; 2] = [4, 1];
        const LEN: u16 = 42;
        let mut signature = [0; 16];
        let (table, kind) = match self.signature {
            Signature::Mbr(id) => {
                id.to_le_bytes().iter().zip(&mut signature).for_each(|(from, to)| *to = *from);
                (1, 1)
            }
            Signature::Gpt(id) => {
                signature = id.to_bytes_le();
                (2, 2)
            }
        };
        let mut node = MEDIA_HARD_DRIVE.to_vec();
        node.extend(LEN.to_le_bytes());
        node.extend(self.number.to_le_bytes());
        node.extend(self.start.to_le_bytes());
        node.extend(self.sectors.to_le_bytes());
        node.extend(signature);
        node.extend([table, kind]);
        node
    }
}

impl BootEntry {
    /// `EFI_LOAD_OPTION`.
    fn load_option(&self) -> Result<Vec<u8>, VariablesError> {
        const MEDIA_FILE_PATH: [u8; 2] = [4, 4];
        const END: [u8; 4] = [0x7F, 0xFF, 4, 0];
        let file = utf16(&self.file);
        if file.len() > 2 * PATH_UNITS_MAX {
            return Err(VariablesError::TooLong);
        }
        let mut path = self.partition.node();
        path.extend(MEDIA_FILE_PATH);
        path.extend(u16::try_from(4 + file.len()).map_err(|_| VariablesError::TooLong)?.to_le_bytes());
        path.extend(&file);
        path.extend(END);
        let mut option = ACTIVE.to_le_bytes().to_vec();
        option.extend(u16::try_from(path.len()).map_err(|_| VariablesError::TooLong)?.to_le_bytes());
        option.extend(&file);
        option.append(&mut path);
        Ok(option)
    }
}

/// A copy of `file`, OVMF's variables, with these boot entries; the first is tried first.
///
/// # Errors
/// [`VariablesError`]: it cannot be understood, has boot entries, or is full.
pub fn with_boot_entries(file: &[u8], entries: &[BootEntry]) -> Result<Vec<u8>, VariablesError> {
    let store = Store::of(file)?;
    let mut records = Vec::new();
    let mut order = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        let number = u16::try_from(number).map_err(|_| VariablesError::TooLong)?;
        add_record(&mut records, &format!("Boot{number:04X}"), &entry.load_option()?)?;
        order.extend(number.to_le_bytes());
    }
    add_record(&mut records, "BootOrder", &order)?;
    let mut made = file.to_vec();
    let room = made.get_mut(store.free..store.end).unwrap_or_default();
    let full = VariablesError::Full { wanted: records.len(), left: room.len() };
    room.get_mut(..records.len()).ok_or(full)?.copy_from_slice(&records);
    Ok(made)
}

/// Adds a variable, and what keeps the next one at a multiple of four bytes.
fn add_record(records: &mut Vec<u8>, name: &str, data: &[u8]) -> Result<(), VariablesError> {
    let name = utf16(name);
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| VariablesError::TooLong);
    records.extend(START.to_le_bytes());
    // Its state, and a byte that means nothing.
    records.extend([ADDED, 0]);
    records.extend(ATTRIBUTES.to_le_bytes());
    // A count of changes, the time of the last, the key's number: for variables that are signed.
    records.extend([0; 8 + 16 + 4]);
    records.extend(size(&name)?.to_le_bytes());
    records.extend(size(data)?.to_le_bytes());
    records.extend(GLOBAL.to_bytes_le());
    records.extend(&name);
    records.extend(data);
    records.resize(records.len().next_multiple_of(4), 0xFF);
    Ok(())
}

/// With a zero at its end.
fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// Where a file's store of variables has room: from here to there.
#[derive(Debug)]
struct Store {
    free: usize,
    end: usize,
}

impl Store {
    fn of(file: &[u8]) -> Result<Self, VariablesError> {
        let is_guid = |at: usize, guid: Uuid| {
            at.checked_add(16).and_then(|end| file.get(at..end)).is_some_and(|bytes| bytes == guid.to_bytes_le())
        };
        if !is_guid(16, VOLUME_OF_VARIABLES) || file.get(40..44) != Some(&b"_FVH"[..]) {
            return Err(VariablesError::Unknown("not a firmware volume of variables"));
        }
        let corrupt = |at, what| VariablesError::Corrupt { at, what };
        let header = le16(file, 48).map_or(0, usize::from);
        if !(VOLUME_HEADER_MIN..=VOLUME_HEADER_MAX).contains(&header) || !header.is_multiple_of(4) {
            return Err(corrupt(48, "a header of an impossible length"));
        }
        let volume = le64(file, 32).and_then(|len| usize::try_from(len).ok()).unwrap_or(usize::MAX);
        let words = file.get(..header).ok_or(corrupt(48, "a header that is longer than the file"))?.chunks_exact(2);
        if words.fold(0, |sum: u16, word| sum.wrapping_add(le16(word, 0).unwrap_or(0))) != 0 {
            return Err(corrupt(50, "a wrong checksum of the header"));
        }
        if !is_guid(header, SIGNED_VARIABLES) {
            return Err(VariablesError::Unknown("not a store of variables that may be signed"));
        }
        let size = le32(file, header + 16).and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX);
        if file.get(header + 20..header + 22) != Some(&FORMATTED_AND_HEALTHY[..]) {
            return Err(corrupt(header + 20, "a store that is not formatted, or not healthy"));
        }
        let end = header.checked_add(size).filter(|end| *end <= volume.min(file.len()));
        let end = end.filter(|_| size >= STORE_HEADER).ok_or(corrupt(header + 16, "a store of an impossible size"))?;
        let free = end_of_variables(file, header + STORE_HEADER, end)?;
        let rest = file.get(free..end).unwrap_or_default();
        match rest.iter().position(|byte| *byte != 0xFF) {
            Some(offset) => Err(corrupt(free + offset, "something behind the last variable")),
            None => Ok(Self { free, end }),
        }
    }
}

/// Where the last variable of those between `at` and `end` ends.
fn end_of_variables(file: &[u8], mut at: usize, end: usize) -> Result<usize, VariablesError> {
    let file = file.get(..end).unwrap_or_default();
    while le16(file, at) == Some(START) {
        let corrupt = || VariablesError::Corrupt { at, what: "a variable that reaches behind the store's end" };
        let size = |field| le32(file, at + field).and_then(|size| usize::try_from(size).ok()).ok_or_else(corrupt);
        let (name_size, data_size) = (size(36)?, size(40)?);
        let name_at = at + VARIABLE_HEADER;
        let name_end = name_at.checked_add(name_size).ok_or_else(corrupt)?;
        let variable_end = name_end.checked_add(data_size).filter(|of| *of <= end).ok_or_else(corrupt)?;
        let is_there = file.get(at + 2).is_some_and(|state| matches!(*state, ADDED | BEING_REPLACED));
        let is_global = file.get(at + 44..name_at).is_some_and(|guid| guid == GLOBAL.to_bytes_le());
        if is_there && is_global && file.get(name_at..name_end).is_some_and(is_of_boot_entries) {
            return Err(VariablesError::HasEntries);
        }
        // Behind the last one there may be less than would align another.
        at = variable_end.next_multiple_of(4).min(end);
    }
    Ok(at)
}

/// `BootOrder` or `Boot0000`; not `BootCurrent`, which says nothing of what is to be started.
fn is_of_boot_entries(name: &[u8]) -> bool {
    let units: Vec<u16> = name.chunks_exact(2).filter_map(|unit| le16(unit, 0)).take_while(|unit| *unit != 0).collect();
    let name = String::from_utf16_lossy(&units);
    let rest = name.strip_prefix("Boot").unwrap_or_default();
    rest == "Order" || (rest.len() == 4 && rest.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Role;

    const HEADER: usize = 72;

    /// As OVMF has it, but smaller: `size` bytes of store, and then what is none of ours.
    fn empty(size: usize) -> Vec<u8> {
        let mut file = vec![0; 16];
        file.extend(VOLUME_OF_VARIABLES.to_bytes_le());
        file.extend((size as u64 + HEADER as u64 + 64).to_le_bytes());
        file.extend(b"_FVH");
        file.extend(0x4_FEFF_u32.to_le_bytes());
        file.extend(72_u16.to_le_bytes());
        file.extend([0, 0, 0, 0, 0, 2]);
        file.extend([0x84, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let sum = file.chunks(2).fold(0_u16, |sum, word| sum.wrapping_add(u16::from_le_bytes([word[0], word[1]])));
        file[50..52].copy_from_slice(&0_u16.wrapping_sub(sum).to_le_bytes());
        assert_eq!(file.len(), HEADER);
        file.extend(SIGNED_VARIABLES.to_bytes_le());
        file.extend(u32::try_from(size).unwrap().to_le_bytes());
        file.extend([0x5A, 0xFE, 0, 0, 0, 0, 0, 0]);
        file.resize(HEADER + size, 0xFF);
        file.resize(HEADER + size + 64, 0xAB);
        file
    }

    fn gpt(file: &str) -> BootEntry {
        let signature = Signature::Gpt(uuid!("00112233-4455-6677-8899-aabbccddeeff"));
        BootEntry {
            partition: PartitionPath { number: 2, start: 2048, sectors: 0x20000, signature },
            file: file.into(),
        }
    }

    #[test]
    fn an_entry_is_what_firmware_expects_byte_for_byte() {
        let made = with_boot_entries(&empty(1024), &[gpt("\\a.efi")]).unwrap();
        let wide = |text: &str| text.bytes().flat_map(|byte| [byte, 0]).collect::<Vec<u8>>();
        let global = [0x61, 0xDF, 0xE4, 0x8B, 0xCA, 0x93, 0xD2, 0x11, 0xAA, 0x0D, 0x00, 0xE0, 0x98, 0x03, 0x2B, 0x8C];
        let option: Vec<u8> = [
            &[1, 0, 0, 0, 64, 0][..],
            &wide("\\a.efi\0"),
            &[4, 1, 42, 0, 2, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0],
            &[0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF, 2, 2],
            &[4, 4, 18, 0],
            &wide("\\a.efi\0"),
            &[0x7F, 0xFF, 4, 0],
        ]
        .concat();
        let expected: Vec<u8> = [
            &[0xAA, 0x55, 0x3F, 0, 7, 0, 0, 0][..],
            &[0; 28],
            &[18, 0, 0, 0, 84, 0, 0, 0],
            &global,
            &wide("Boot0000\0"),
            &option,
            // What aligns the next.
            &[0xFF, 0xFF],
            &[0xAA, 0x55, 0x3F, 0, 7, 0, 0, 0],
            &[0; 28],
            &[20, 0, 0, 0, 2, 0, 0, 0],
            &global,
            &wide("BootOrder\0"),
            &[0, 0],
            &[0xFF, 0xFF],
        ]
        .concat();
        let at = HEADER + STORE_HEADER;
        assert_eq!(made[at..at + expected.len()], expected);
        let before = empty(1024);
        assert_eq!((&made[..at], &made[at + expected.len()..]), (&before[..at], &before[at + expected.len()..]));
    }

    #[test]
    fn partitions_are_told_apart_by_their_guid_or_the_disks_signature() {
        let partition = Partition {
            number: 5,
            start: 1 << 20,
            len: 64 << 20,
            role: Role::Primary,
            type_id: "0xef".into(),
            type_name: "EFI system".into(),
            id: Some("12345678-05".into()),
            name: None,
            attributes: 0,
            bootable: false,
        };
        let mut table = PartitionTable {
            kind: TableKind::Mbr,
            sector_size: 4096,
            disk_id: Some("12345678".into()),
            partitions: Vec::new(),
            structures: crate::extent::ExtentSet::new(),
            warnings: Vec::new(),
        };
        let path = PartitionPath::of(&table, &partition).unwrap();
        assert_eq!((path.number, path.start, path.sectors), (5, 256, 16384));
        let node = path.node();
        assert_eq!(
            (node.len(), &node[24..]),
            (42, &[0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1][..])
        );
        table.kind = TableKind::Gpt;
        assert_eq!(PartitionPath::of(&table, &partition), None, "no GUID");
        (table.kind, table.disk_id) = (TableKind::Mbr, None);
        assert_eq!(PartitionPath::of(&table, &partition), None, "no signature");
    }

    #[test]
    fn what_is_no_empty_store_is_refused() {
        let refused = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut file = empty(1024);
            change(&mut file);
            with_boot_entries(&file, &[gpt("\\a.efi")]).unwrap_err()
        };
        assert!(matches!(with_boot_entries(&[], &[]), Err(VariablesError::Unknown(_))));
        assert!(matches!(with_boot_entries(&[0xFF; 4096], &[]), Err(VariablesError::Unknown(_))));
        assert!(matches!(refused(&|file| file[40] = b'X'), VariablesError::Unknown(_)));
        assert!(matches!(refused(&|file| file[HEADER] ^= 1), VariablesError::Unknown(_)));
        assert!(matches!(refused(&|file| file[48] = 2), VariablesError::Corrupt { at: 48, .. }));
        assert!(matches!(refused(&|file| file[44] ^= 1), VariablesError::Corrupt { at: 50, .. }));
        assert!(matches!(refused(&|file| file[HEADER + 21] = 0xFC), VariablesError::Corrupt { at: 92, .. }));
        assert!(matches!(refused(&|file| file[HEADER + 19] = 0x7F), VariablesError::Corrupt { at: 88, .. }));
        assert!(matches!(refused(&|file| file.truncate(1000)), VariablesError::Corrupt { at: 88, .. }));
        assert!(matches!(refused(&|file| file[500] = 0), VariablesError::Corrupt { at: 500, .. }));
        let long = gpt(&"x".repeat(PATH_UNITS_MAX));
        assert_eq!(with_boot_entries(&empty(65536), &[long]), Err(VariablesError::TooLong));
    }

    #[test]
    fn entries_that_are_there_stay_and_other_variables_do_not_matter() {
        let made = with_boot_entries(&empty(1024), &[gpt("\\a.efi")]).unwrap();
        assert_eq!(with_boot_entries(&made, &[gpt("\\b.efi")]), Err(VariablesError::HasEntries));
        // A deleted one, and then one of another name.
        let mut other = made;
        let at = HEADER + STORE_HEADER;
        other[at + 2] &= 0xFD;
        let order = at + (VARIABLE_HEADER + 18 + 84_usize).next_multiple_of(4) + VARIABLE_HEADER;
        assert_eq!(&other[order..order + 2], b"B\0");
        other[order] = b'F';
        let more = with_boot_entries(&other, &[gpt("\\b.efi")]).unwrap();
        assert!(more.starts_with(&other[..order + 24]), "what was there is as it was");
        let mut cut = other;
        cut[order - VARIABLE_HEADER + 43] = 1;
        assert!(matches!(with_boot_entries(&cut, &[]), Err(VariablesError::Corrupt { .. })));
    }

    #[test]
    fn a_store_is_filled_to_its_last_byte_and_no_further() {
        let entries = [gpt("\\a.efi"), gpt("\\b.efi")];
        let wanted = 2 * 164 + (VARIABLE_HEADER + 20 + 4);
        assert!(with_boot_entries(&empty(STORE_HEADER + wanted), &entries).is_ok());
        for left in [0, 3, 63, wanted - 4] {
            let full = Err(VariablesError::Full { wanted, left });
            assert_eq!(with_boot_entries(&empty(STORE_HEADER + left), &entries), full);
        }
    }

    /// Each byte of what is read becomes something else: nothing panics, and what is made has the same size.
    fn mutate(file: &[u8], until: usize) {
        let mut file = file.to_vec();
        for at in 0..until.min(file.len()) {
            for change in [0x01, 0x80, 0xFF] {
                file[at] ^= change;
                if Store::of(&file).is_ok() {
                    let made = with_boot_entries(&file, &[gpt("\\a.efi")]);
                    assert!(made.is_ok_and(|made| made.len() == file.len()));
                }
                file[at] ^= change;
            }
        }
        for len in 0..until.min(file.len()) {
            assert!(Store::of(&file[..len]).is_err());
        }
    }

    #[test]
    fn damage_is_no_panic() {
        mutate(&empty(1024), 400);
        let full = with_boot_entries(&empty(1024), &[gpt("\\a.efi")]).unwrap();
        mutate(&full, 400);
    }

    #[test]
    fn the_files_of_ovmf_get_entries() {
        let read = |file: &str| std::fs::read(format!("/usr/share/OVMF/{file}")).ok();
        for file in ["OVMF_VARS_4M.fd", "OVMF_VARS.fd"] {
            let Some(bytes) = read(file) else { continue };
            let made = with_boot_entries(&bytes, &[gpt("\\EFI\\debian\\shimx64.efi")]);
            let made = made.unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(made.len(), bytes.len());
            assert_eq!(with_boot_entries(&made, &[]), Err(VariablesError::HasEntries));
            mutate(&bytes, 200);
            mutate(&made, 300);
        }
        // Firmware has run with this one, to take the keys in.
        if let Some(bytes) = read("OVMF_VARS_4M.ms.fd") {
            assert_eq!(with_boot_entries(&bytes, &[]), Err(VariablesError::HasEntries));
        }
    }
}
