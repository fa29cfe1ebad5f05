//! What file system is on a volume, and what it is called: from its first bytes alone, so that a list of all places is
//! there at once.
//!
//! Sources: the kernel's `Documentation/filesystems/ext4/super.rst`, `fs/xfs/libxfs/xfs_format.h`,
//! `include/uapi/linux/btrfs_tree.h`; Microsoft's exFAT and FAT specifications; ECMA-119 for CDs. Of NTFS, the boot
//! sector and the file record of `$Volume`. Must not know: devices.

#![forbid(unsafe_code)]

use imager::read_at::ReadAt;

/// A file system, by its own account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// As `mount -t` names it.
    pub(super) filesystem: &'static str,
    pub(super) label: Option<String>,
    /// As `blkid` prints it.
    pub(super) uuid: Option<String>,
}

/// Up to the end of what btrfs says of itself.
const HEAD_BYTES: u64 = 0x1_1000;

/// Of a root directory, so much is looked through for the label.
const DIRECTORY_BYTES: usize = 4096;

/// Looks what is there; none for anything unknown and anything that cannot be read.
pub(super) fn of(volume: &dyn ReadAt) -> Option<Found> {
    let len = usize::try_from(volume.size().min(HEAD_BYTES)).ok()?;
    let head = volume.read_vec(0, len).ok()?;
    btrfs(&head)
        .or_else(|| xfs(&head))
        .or_else(|| exfat(&head, volume))
        .or_else(|| ntfs(&head, volume))
        .or_else(|| fat(&head, volume))
        .or_else(|| ext(&head))
        .or_else(|| iso(&head))
}

fn btrfs(head: &[u8]) -> Option<Found> {
    let superblock = head.get(0x1_0000..)?;
    has(superblock, 0x40, b"_BHRfS_M").then(|| Found {
        filesystem: "btrfs",
        label: bytes(superblock, 0x12b, 256).and_then(text),
        uuid: bytes(superblock, 0x20, 16).map(uuid),
    })
}

fn xfs(head: &[u8]) -> Option<Found> {
    has(head, 0, b"XFSB").then(|| Found {
        filesystem: "xfs",
        label: bytes(head, 108, 12).and_then(text),
        uuid: bytes(head, 32, 16).map(uuid),
    })
}

fn ext(head: &[u8]) -> Option<Found> {
    const HAS_JOURNAL: u32 = 4;
    const EXTENTS: u32 = 0x40;
    let superblock = head.get(1024..)?;
    if !has(superblock, 0x38, &[0x53, 0xef]) {
        return None;
    }
    let (compat, incompat) = (le32(superblock, 0x5c)?, le32(superblock, 0x60)?);
    let filesystem = match (compat & HAS_JOURNAL, incompat & EXTENTS) {
        (_, EXTENTS) => "ext4",
        (HAS_JOURNAL, _) => "ext3",
        _ => "ext2",
    };
    Some(Found {
        filesystem,
        label: bytes(superblock, 0x78, 16).and_then(text),
        uuid: bytes(superblock, 0x68, 16).map(uuid),
    })
}

fn exfat(head: &[u8], volume: &dyn ReadAt) -> Option<Found> {
    if !has(head, 3, b"EXFAT   ") {
        return None;
    }
    let sector = 1u64.checked_shl(u32::from(*head.get(108)?))?;
    let cluster = sector.checked_shl(u32::from(*head.get(109)?))?;
    let root = u64::from(le32(head, 96)?).checked_sub(2)?.checked_mul(cluster)?;
    let at = u64::from(le32(head, 88)?).checked_mul(sector)?.checked_add(root)?;
    // Entry 83h: the number of characters, then up to eleven of them.
    let label = entries(volume, at).and_then(|directory| {
        let entry = directory.chunks_exact(32).find(|entry| entry.first() == Some(&0x83))?.to_vec();
        utf16(entry.get(2..)?.get(..usize::from(*entry.get(1)?).min(11) * 2)?)
    });
    Some(Found { filesystem: "exfat", label, uuid: le32(head, 100).map(serial) })
}

fn ntfs(head: &[u8], volume: &dyn ReadAt) -> Option<Found> {
    if !has(head, 3, b"NTFS    ") {
        return None;
    }
    let uuid = bytes(head, 72, 8).map(|serial| serial.iter().rev().map(|byte| format!("{byte:02X}")).collect());
    Some(Found { filesystem: "ntfs3", label: ntfs_label(head, volume), uuid })
}

/// Attribute 60h of file record 3.
fn ntfs_label(head: &[u8], volume: &dyn ReadAt) -> Option<String> {
    let sector = u64::from(le16(head, 11)?);
    let cluster = match *head.get(13)? {
        sectors @ 0..=0x80 => u64::from(sectors).checked_mul(sector)?,
        power => sector.checked_shl(u32::from(power.wrapping_neg()))?,
    };
    let record = match *head.get(64)? {
        clusters @ 0..0x80 => u64::from(clusters).checked_mul(cluster)?,
        power => 1u64.checked_shl(u32::from(power.wrapping_neg()))?,
    };
    let mft = u64::from_le_bytes(head.get(48..56)?.try_into().ok()?).checked_mul(cluster)?;
    let record = volume.read_vec(mft.checked_add(record.checked_mul(3)?)?, 512).ok()?;
    let mut at = usize::from(le16(&record, 20)?);
    loop {
        let attribute = record.get(at..)?;
        let (kind, len) = (le32(attribute, 0)?, usize::try_from(le32(attribute, 4)?).ok()?);
        if kind == 0x60 && attribute.get(8) == Some(&0) {
            let (value_len, value) = (usize::try_from(le32(attribute, 16)?).ok()?, usize::from(le16(attribute, 20)?));
            return utf16(attribute.get(value..)?.get(..value_len)?);
        }
        if kind == u32::MAX || len == 0 {
            return None;
        }
        at = at.checked_add(len)?;
    }
}

fn fat(head: &[u8], volume: &dyn ReadAt) -> Option<Found> {
    if !has(head, 510, &[0x55, 0xaa]) {
        return None;
    }
    let is_32 = has(head, 82, b"FAT32   ");
    if !is_32 && !has(head, 54, b"FAT12   ") && !has(head, 54, b"FAT16   ") {
        return None;
    }
    let sector = u64::from(le16(head, 11)?);
    let (reserved, tables) = (u64::from(le16(head, 14)?), u64::from(*head.get(16)?));
    let table = if is_32 { u64::from(le32(head, 36)?) } else { u64::from(le16(head, 22)?) };
    let mut directory = reserved.checked_add(tables.checked_mul(table)?)?;
    if is_32 {
        let cluster = u64::from(*head.get(13)?);
        directory = directory.checked_add(u64::from(le32(head, 44)?).checked_sub(2)?.checked_mul(cluster)?)?;
    }
    // The label in the directory is the one that is shown; the boot sector's may be older.
    let in_directory = entries(volume, directory.checked_mul(sector)?).and_then(|directory| {
        let is_label = |entry: &&[u8]| entry.get(11).is_some_and(|kind| kind & 0x1f == 0x08);
        let used = directory.chunks_exact(32).take_while(|entry| entry.first() != Some(&0));
        let label = used.filter(|entry| entry.first() != Some(&0xe5)).find(is_label)?.get(..11)?.to_vec();
        text(&label)
    });
    let (serial_at, label_at) = if is_32 { (67, 71) } else { (39, 43) };
    let in_sector = bytes(head, label_at, 11).and_then(text).filter(|label| label != "NO NAME");
    Some(Found { filesystem: "vfat", label: in_directory.or(in_sector), uuid: le32(head, serial_at).map(serial) })
}

fn iso(head: &[u8]) -> Option<Found> {
    let descriptor = head.get(0x8000..)?;
    has(descriptor, 1, b"CD001").then(|| Found {
        filesystem: "iso9660",
        label: bytes(descriptor, 40, 32).and_then(text),
        uuid: None,
    })
}

/// The beginning of a directory, as far as the volume goes.
fn entries(volume: &dyn ReadAt, at: u64) -> Option<Vec<u8>> {
    let len = usize::try_from(volume.size().checked_sub(at)?).unwrap_or(usize::MAX).min(DIRECTORY_BYTES);
    volume.read_vec(at, len).ok()
}

fn has(data: &[u8], at: usize, magic: &[u8]) -> bool {
    data.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

fn bytes(data: &[u8], at: usize, len: usize) -> Option<&[u8]> {
    data.get(at..)?.get(..len)
}

fn le16(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes(data, at, 2)?.try_into().ok()?))
}

fn le32(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes(data, at, 4)?.try_into().ok()?))
}

/// Up to the first zero byte, without padding; none when nothing is left.
fn text(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(bytes).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn utf16(bytes: &[u8]) -> Option<String> {
    let units = bytes.chunks_exact(2).map(|pair| pair.iter().rev().fold(0, |unit, &byte| unit << 8 | u16::from(byte)));
    let text: String = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    (!text.trim().is_empty()).then(|| text.trim().to_owned())
}

fn uuid(bytes: &[u8]) -> String {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let groups = [0..4, 4..6, 6..8, 8..10, 10..16].map(|range| hex.get(range).unwrap_or_default().concat());
    groups.join("-")
}

/// FAT's and exFAT's: `1BA7-0003`.
fn serial(number: u32) -> String {
    format!("{:04X}-{:04X}", number >> 16, number & 0xffff)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    /// Each file system as its own tool makes it; blkid has to find the same.
    #[test]
    fn file_systems_are_known_as_blkid_knows_them() {
        let folder = tempfile::tempdir_in(std::env::temp_dir()).unwrap();
        let mut seen = 0;
        for (filesystem, mib, tool) in [
            ("ext2", 8, &["mkfs.ext2", "-q", "-L", "Lager 1"][..]),
            ("ext3", 16, &["mkfs.ext3", "-q", "-L", "Lager 1"]),
            ("ext4", 16, &["mkfs.ext4", "-q", "-L", "Lager 1"]),
            ("ext4", 16, &["mkfs.ext4", "-q"]),
            ("xfs", 320, &["mkfs.xfs", "-q", "-L", "Lager1"]),
            ("btrfs", 128, &["mkfs.btrfs", "-q", "-L", "Lager 1"]),
            ("vfat", 16, &["mkfs.vfat", "-n", "LAGER 1"]),
            ("vfat", 64, &["mkfs.vfat", "-F", "32", "-n", "LAGER 1"]),
            ("vfat", 64, &["mkfs.vfat", "-F", "32"]),
            ("exfat", 16, &["mkfs.exfat", "-q", "-L", "Läger 1"]),
            ("exfat", 16, &["mkfs.exfat", "-q"]),
            ("ntfs3", 16, &["mkfs.ntfs", "-q", "-F", "-f", "-L", "Läger 1"]),
        ] {
            let image = folder.path().join("image");
            let _ = std::fs::remove_file(&image);
            File::create(&image).unwrap().set_len(mib << 20).unwrap();
            let made = Command::new("/usr/bin/env")
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .args(tool)
                .arg(&image)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if !made.is_ok_and(|status| status.success()) {
                // Not every machine has every tool.
                continue;
            }
            let blkid = |tag: &str| {
                let mut blkid = Command::new("/usr/bin/env");
                blkid.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(["blkid", "-p", "-o", "value", "-s", tag]);
                let said = blkid.arg(&image).output().unwrap().stdout;
                Some(String::from_utf8(said).unwrap().trim_end().to_owned()).filter(|value| !value.is_empty())
            };
            let found = of(&std::fs::read(&image).unwrap()).unwrap();
            assert_eq!((found.filesystem, found.label), (filesystem, blkid("LABEL")), "{tool:?}");
            assert_eq!(found.uuid, blkid("UUID"), "{tool:?}");
            seen += 1;
        }
        assert!(seen > 0, "no mkfs is installed");
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(of(&vec![0; 1 << 20]), None);
        assert_eq!(of(&Vec::new()), None);
        // Magic numbers and nothing but hostile values behind them.
        for (at, magic) in [(3, &b"EXFAT   "[..]), (3, b"NTFS    "), (82, b"FAT32   ")] {
            let mut volume = vec![0xff; 1 << 17];
            volume[at..at + 8].copy_from_slice(magic);
            (volume[510], volume[511]) = (0x55, 0xaa);
            assert!(of(&volume).is_none_or(|found| found.label.is_none_or(|label| label.len() < 256)));
        }
    }

    /// What makes a volume look like one of each kind.
    const MARKS: [(usize, &[u8]); 10] = [
        (0x1_0040, b"_BHRfS_M"),
        (0, b"XFSB"),
        (1024 + 0x38, &[0x53, 0xef]),
        (3, b"EXFAT   "),
        (3, b"NTFS    "),
        (82, b"FAT32   "),
        (54, b"FAT12   "),
        (54, b"FAT16   "),
        (0x8001, b"CD001"),
        (510, &[0x55, 0xaa]),
    ];

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_volume_is_looked_at(
            head in prop::collection::vec(any::<u8>(), 0..600),
            patches in prop::collection::vec((0..0x1_2000usize, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
            marks in prop::collection::vec(0..MARKS.len(), 0..3),
            len in 0..0x1_2000usize,
        ) {
            let mut volume = head;
            volume.resize(0x1_2000, 0);
            let marks = marks.iter().map(|&mark| (MARKS[mark].0, MARKS[mark].1));
            for (at, bytes) in patches.iter().map(|(at, bytes)| (*at, &**bytes)).chain(marks) {
                let end = volume.len().min(at + bytes.len());
                volume[at..end].copy_from_slice(&bytes[..end - at]);
            }
            let _ = of(&volume);
            volume.truncate(len);
            let _ = of(&volume);
        }
    }
}
