//! Journals of every format, written here block by block and replayed by e2fsck: our map before must be
//! dumpe2fs's map after.

use std::fs;
use std::path::Path;

use crc::{CRC_32_ISCSI, CRC_32_MPEG_2, Crc};
use imager::fs::{Note, inspect};
use tempfile::TempDir;

use crate::fs_ext::used_by_dumpe2fs;
use crate::support::{output, run, sparse_file};
use crate::volume::Random;

const BLOCK: usize = 1024;
const MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];
const JOURNAL_BLOCKS: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksums {
    None,
    V1,
    V2,
    V3,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    checksums: Checksums,
    bits64: bool,
}

/// All there are.
pub(crate) const FORMATS: [Format; 8] = {
    const fn format(checksums: Checksums, bits64: bool) -> Format {
        Format { checksums, bits64 }
    }
    [
        format(Checksums::None, false),
        format(Checksums::None, true),
        format(Checksums::V1, false),
        format(Checksums::V1, true),
        format(Checksums::V2, false),
        format(Checksums::V2, true),
        format(Checksums::V3, false),
        format(Checksums::V3, true),
    ]
};

/// The kernel's CRC-32C: not inverted at the end.
pub(crate) fn crc32c(parts: &[&[u8]]) -> u32 {
    let crc = Crc::<u32>::new(&CRC_32_ISCSI);
    let mut digest = crc.digest();
    parts.iter().for_each(|part| digest.update(part));
    !digest.finalize()
}

/// Writes transactions into the journal of a file system in memory.
struct Log<'a> {
    image: &'a mut [u8],
    journal: usize,
    format: Format,
    uuid: [u8; 16],
    sequence: u32,
    position: usize,
}

impl<'a> Log<'a> {
    /// Starts the log five blocks before the journal's end, so that it wraps.
    fn new(image: &'a mut [u8], journal: usize, format: Format) -> Self {
        let uuid = *b"the journal's id";
        let log = Self { image, journal, format, uuid, sequence: 7, position: JOURNAL_BLOCKS - 5 };
        let incompat = 1
            | if format.bits64 { 2 } else { 0 }
            | match format.checksums {
                Checksums::V2 => 8,
                Checksums::V3 => 16,
                _ => 0,
            };
        let fields = [
            (0x18, log.sequence),
            (0x1c, u32::try_from(log.position).unwrap()),
            (0x24, u32::from(format.checksums == Checksums::V1)),
            (0x28, incompat),
        ];
        let mut superblock = log.image[journal * BLOCK..][..BLOCK].to_vec();
        fields.iter().for_each(|(at, value)| superblock[*at..at + 4].copy_from_slice(&value.to_be_bytes()));
        superblock[0x30..0x40].copy_from_slice(&uuid);
        superblock[0x50] = if log.has_block_checksums() { 4 } else { 0 };
        superblock[0xfc..0x100].fill(0);
        if log.has_block_checksums() {
            let crc = crc32c(&[&superblock]);
            superblock[0xfc..0x100].copy_from_slice(&crc.to_be_bytes());
        }
        log.image[journal * BLOCK..][..BLOCK].copy_from_slice(&superblock);
        // INCOMPAT_RECOVER in the file system's superblock.
        log.image[BLOCK + 0x60] |= 4;
        log
    }

    fn has_block_checksums(&self) -> bool {
        matches!(self.format.checksums, Checksums::V2 | Checksums::V3)
    }

    fn push(&mut self, block: &[u8]) {
        self.image[(self.journal + self.position) * BLOCK..][..BLOCK].copy_from_slice(block);
        self.position = if self.position + 1 == JOURNAL_BLOCKS { 1 } else { self.position + 1 };
    }

    fn header(&self, kind: u32) -> Vec<u8> {
        [MAGIC, kind.to_be_bytes(), self.sequence.to_be_bytes()].concat()
    }

    /// Fills up to a block, with its checksum at `at`.
    fn seal(&self, mut block: Vec<u8>, at: usize) -> Vec<u8> {
        block.resize(BLOCK, 0);
        if self.has_block_checksums() {
            let crc = self.crc(&[&block]);
            block[at..at + 4].copy_from_slice(&crc.to_be_bytes());
        }
        block
    }

    /// CRC-32C with the journal's UUID before it.
    fn crc(&self, parts: &[&[u8]]) -> u32 {
        crc32c(&[&[self.uuid.as_slice()], parts].concat())
    }

    fn tag(&self, target: u64, logged: &[u8], flags: u16) -> Vec<u8> {
        let (low, high) = (u32::try_from(target & 0xffff_ffff).unwrap(), u32::try_from(target >> 32).unwrap());
        let crc = self.crc(&[&self.sequence.to_be_bytes(), logged]);
        let mut tag = low.to_be_bytes().to_vec();
        match self.format.checksums {
            Checksums::V3 => {
                tag.extend(u32::from(flags).to_be_bytes());
                tag.extend(high.to_be_bytes());
                tag.extend(crc.to_be_bytes());
            }
            Checksums::None | Checksums::V1 | Checksums::V2 => {
                let crc = if self.format.checksums == Checksums::V2 { crc & 0xffff } else { 0 };
                tag.extend(u16::try_from(crc).unwrap().to_be_bytes());
                tag.extend(flags.to_be_bytes());
                if self.format.bits64 {
                    tag.extend(high.to_be_bytes());
                }
                if self.format.checksums == Checksums::V2 {
                    tag.extend([0, 0]);
                }
            }
        }
        tag
    }

    /// Logs blocks of the file system as they shall be; returns the descriptor and logged blocks.
    fn blocks(&mut self, blocks: &[(u64, &[u8])]) -> Vec<u8> {
        let mut descriptor = self.header(1);
        let mut logged = Vec::new();
        for (index, (target, content)) in blocks.iter().enumerate() {
            let mut content = content.to_vec();
            let mut flags = if index == 0 { 0 } else { 2 };
            if content.starts_with(&MAGIC) {
                content[..4].fill(0);
                flags |= 1;
            }
            if index + 1 == blocks.len() {
                flags |= 8;
            }
            descriptor.extend(self.tag(*target, &content, flags));
            if index == 0 {
                descriptor.extend(self.uuid);
            }
            logged.push(content);
        }
        let descriptor = self.seal(descriptor, BLOCK - 4);
        self.push(&descriptor);
        logged.iter().for_each(|content| self.push(content));
        [descriptor, logged.concat()].concat()
    }

    fn revoke(&mut self, targets: &[u64]) {
        let mut block = self.header(5);
        let record_len = if self.format.bits64 { 8 } else { 4 };
        block.extend(u32::try_from(16 + targets.len() * record_len).unwrap().to_be_bytes());
        for target in targets {
            block.extend(&target.to_be_bytes()[8 - record_len..]);
        }
        let block = self.seal(block, BLOCK - 4);
        self.push(&block);
    }

    /// Ends the transaction; `logged` is what [`Log::blocks`] returned.
    fn commit(&mut self, logged: &[u8]) {
        let mut block = self.header(2);
        if self.format.checksums == Checksums::V1 {
            block.extend([1, 4, 0, 0]);
            block.extend(Crc::<u32>::new(&CRC_32_MPEG_2).checksum(logged).to_be_bytes());
        }
        let block = self.seal(block, 16);
        self.push(&block);
        self.sequence += 1;
    }
}

/// A file system of sixteen groups, without checksums of its own: what is logged can be made up here.
pub(crate) struct Base {
    image: Vec<u8>,
    /// First block of the journal.
    journal: usize,
    /// Groups of which nothing is in use: what the journal says about them is all there is.
    empty: Vec<usize>,
}

/// Where the only block of the descriptor table is.
const TABLE_BLOCK: u64 = 2;

impl Base {
    pub(crate) fn new(scratch: &Path) -> Self {
        let file = sparse_file(&scratch.join("base"), 16 << 20);
        let options = "^metadata_csum,^uninit_bg,^64bit,^resize_inode";
        run("mkfs.ext4", ["-q", "-b", "1024", "-g", "1024", "-J", "size=1", "-O", options, file.to_str().unwrap()]);
        let bmap = |block: usize| {
            let answer = run("debugfs", ["-R", &format!("bmap <8> {block}"), file.to_str().unwrap()]);
            answer.trim().parse::<usize>().unwrap()
        };
        assert_eq!(bmap(JOURNAL_BLOCKS - 1), bmap(0) + JOURNAL_BLOCKS - 1, "the journal is in one piece");
        let mut base = Self { image: fs::read(&file).unwrap(), journal: bmap(0), empty: Vec::new() };
        base.empty = (0..16).filter(|group| base.free(*group) == 1024).collect();
        base
    }

    fn table(&self) -> &[u8] {
        &self.image[2 * BLOCK..3 * BLOCK]
    }

    /// Where the block bitmap of a group is.
    fn bitmap(&self, group: usize) -> u64 {
        u32::from_le_bytes(self.table()[32 * group..][..4].try_into().unwrap()).into()
    }

    fn free(&self, group: usize) -> u16 {
        u16::from_le_bytes(self.table()[32 * group + 12..][..2].try_into().unwrap())
    }

    /// The descriptor table with another count for one group.
    fn table_with(&self, group: usize, free: u16) -> Vec<u8> {
        let mut table = self.table().to_vec();
        table[32 * group + 12..][..2].copy_from_slice(&free.to_le_bytes());
        table
    }

    /// Cut off with a log that has versions that are superseded, revoked, escaped and not committed.
    pub(crate) fn cut_off(&self, format: Format) -> Vec<u8> {
        let [superseded, revoked, unfinished] = self.empty[..3] else { panic!("no empty groups: {:?}", self.empty) };
        let all_taken = vec![0xff; BLOCK];
        let taken = u16::try_from(MAGIC.iter().map(|byte| byte.count_ones()).sum::<u32>()).unwrap();
        let mut image = self.image.clone();
        let mut log = Log::new(&mut image, self.journal, format);

        let logged =
            log.blocks(&[(self.bitmap(superseded), &all_taken), (TABLE_BLOCK, &self.table_with(superseded, 0))]);
        log.commit(&logged);

        let logged = log.blocks(&[(self.bitmap(revoked), &all_taken)]);
        log.commit(&logged);

        log.revoke(&[self.bitmap(revoked), 5555]);
        let newest = self.table_with(superseded, 1024 - taken);
        let logged = log.blocks(&[(TABLE_BLOCK, &newest), (self.bitmap(superseded), &escaped_bitmap())]);
        log.commit(&logged);

        log.blocks(&[(self.bitmap(unfinished), &all_taken)]);
        image
    }
}

/// A bitmap that starts like a block of the journal, of a group of 1024 blocks.
fn escaped_bitmap() -> Vec<u8> {
    let mut bitmap = MAGIC.to_vec();
    bitmap.resize(128, 0);
    bitmap.resize(BLOCK, 0xff);
    bitmap
}

/// Has e2fsck replay the journal of `image`, in `file`; false when it would not.
fn replay(image: &[u8], file: &Path) -> bool {
    fs::write(file, image).unwrap();
    let check = output("e2fsck", ["-y", "-E", "journal_only", file.to_str().unwrap()]);
    check.status.code().is_some_and(|code| code < 2)
}

#[test]
fn journals_of_every_format_are_replayed_as_e2fsck_does() {
    let scratch = TempDir::new().unwrap();
    let base = Base::new(scratch.path());
    let file = scratch.path().join("replayed");
    for format in FORMATS {
        let image = base.cut_off(format);
        let found = inspect(&image);
        assert!(matches!(found.notes[..], [Note::Dirty { .. }]), "{format:?}: {:?}", found.notes);
        assert!(replay(&image, &file), "{format:?}");
        let bitmap = usize::try_from(base.bitmap(base.empty[0])).unwrap() * BLOCK;
        assert!(
            fs::read(&file).unwrap()[bitmap..].starts_with(&escaped_bitmap()),
            "{format:?}: e2fsck did not replay it"
        );
        assert_eq!(found.used, used_by_dumpe2fs(&file, &found), "{format:?}");
    }
}

#[test]
fn no_damage_to_a_journal_makes_the_map_smaller_than_e2fsck_would() {
    let scratch = TempDir::new().unwrap();
    let base = Base::new(scratch.path());
    let file = scratch.path().join("replayed");
    let mut random = Random::new(5);
    let (mut whole, mut replayed) = (0, 0);
    for round in 0..160 {
        let mut image = base.cut_off(FORMATS[round % FORMATS.len()]);
        // The first block of the journal, and the fourteen of the log, five of which are at its end.
        let blocks: Vec<usize> = (0..11).chain(JOURNAL_BLOCKS - 5..JOURNAL_BLOCKS).collect();
        let block = blocks[usize::try_from(random.below(blocks.len() as u64)).unwrap()];
        let area = [16, 64, 1024][usize::try_from(random.below(3)).unwrap()];
        let at = (base.journal + block) * BLOCK + usize::try_from(random.below(area)).unwrap();
        image[at] ^= 1 << random.below(8);
        let found = inspect(&image);
        whole += u32::from(found.notes.iter().any(|note| matches!(note, Note::ReadWhole { .. })));
        if replay(&image, &file) {
            replayed += 1;
            let missing = used_by_dumpe2fs(&file, &found).minus(&found.used);
            assert!(missing.is_empty(), "round {round}, byte {at}: {missing:?}");
        }
    }
    println!("{whole} read whole, {replayed} replayed by e2fsck");
    assert!(whole > 20 && replayed > 20, "{whole} read whole, {replayed} replayed by e2fsck");
}

#[test]
fn a_resize_in_the_journal_is_read_whole() {
    let scratch = TempDir::new().unwrap();
    let base = Base::new(scratch.path());
    let mut image = base.image.clone();
    let mut log = Log::new(&mut image, base.journal, FORMATS[7]);
    let mut superblock = log.image[BLOCK..2 * BLOCK].to_vec();
    let inodes = u32::from_le_bytes(superblock[0..4].try_into().unwrap()) / 16 * 15;
    superblock[0..4].copy_from_slice(&inodes.to_le_bytes());
    superblock[4..8].copy_from_slice(&(15u32 << 10).to_le_bytes());
    let logged = log.blocks(&[(1, &superblock)]);
    log.commit(&logged);
    let found = inspect(&image);
    assert!(
        matches!(&found.notes[..], [Note::Dirty { .. }, Note::ReadWhole { reason }] if reason.contains("resizes")),
        "{:?}",
        found.notes
    );
}
