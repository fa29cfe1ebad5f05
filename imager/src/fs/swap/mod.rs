//! Linux swap: the header page is kept, what was paged out is not.
//!
//! A hibernation image in it is data, and then all of it is in use. So is all of a volume whose header
//! holds anything that mkswap does not write, or on which another format's magic lies further on: the
//! swap signature may be a leftover.
//!
//! Source: the kernel's `include/linux/swap.h` and `kernel/power/swap.c`; libblkid for the signatures.
//! Must not know: the volume's place on a disk, other file systems' structures.

#![forbid(unsafe_code)]

use std::io;

use crate::extent::{Extent, ExtentSet};
use crate::fs::{FileSystem, FsError, Note, Reader};
use crate::read_at::ReadAt;
use crate::read_at::field::{be32, le32};

/// Page sizes of the machines that Linux runs on. The signature ends with the first page.
const PAGE_SIZES: [u32; 5] = [4096, 8192, 16384, 32768, 65536];
const PAGE_SIZE_MAX: usize = 65536;
const SIGNATURE_LEN: usize = 10;

/// Suspend code keeps its own fields before the signature, and leaves them there when it has resumed.
const SUSPEND_FIELDS_LEN: usize = 128;

/// What stands in the place of the swap signature while a system is hibernated, and who puts it there.
const HIBERNATED: [(&[u8], &str); 4] = [
    (b"S1SUSPEND", "the kernel's hibernation image"),
    (b"S2SUSPEND", "the kernel's hibernation image"),
    (b"ULSUSPEND", "uswsusp's hibernation image"),
    (b"LINHIB0001", "a hibernation image"),
];
const TUX_ON_ICE: &[u8] = b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c";

/// Formats that leave the first page alone when they are made: behind one of these the swap signature is
/// a leftover.
const LATER_FORMATS: [(usize, &[u8], &str); 8] = [
    (4096, b"\xfc\x4e\x2b\xa9", "a RAID member"),
    (4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "a bcache device"),
    (32768, b"JFS1", "JFS"),
    (32769, b"CD001", "ISO 9660"),
    (65536, b"ReIsEr4", "Reiser4"),
    (65536, b"\x01\x16\x19\x70", "GFS2"),
    (65536 + 52, b"ReIsEr", "ReiserFS"),
    (65536 + 64, b"_BHRfS_M", "btrfs"),
];
/// Up to the last of them.
const START_LEN_MAX: u64 = 65536 + 128;

/// The reader for Linux swap.
pub(super) struct Swap;

impl Reader for Swap {
    fn probe(&self, volume: &dyn ReadAt) -> io::Result<bool> {
        let start = start_of(volume)?;
        Ok(start.starts_with(TUX_ON_ICE) || SwapHeader::find(&start).is_some())
    }

    fn read(&self, volume: &dyn ReadAt) -> Result<FileSystem, FsError> {
        let start = start_of(volume)?;
        let mut found = FileSystem {
            kind: "swap".to_owned(),
            label: None,
            uuid: None,
            block_size: PAGE_SIZES[0],
            size: volume.size(),
            grid_origin: 0,
            used: ExtentSet::whole(volume.size()),
            notes: Vec::new(),
            spare_files: Vec::new(),
        };
        if start.starts_with(TUX_ON_ICE) {
            found.notes.push(Note::Hibernated { detail: "a TuxOnIce image in the swap space".to_owned() });
            return Ok(found);
        }
        let header = SwapHeader::find(&start).ok_or_else(|| FsError::corrupt(0, "no swap signature"))?;
        found.block_size = header.page_size;
        found.label = header.label.clone();
        found.uuid = header.uuid.clone();
        match header.content {
            Content::Hibernated(image) => {
                found.notes.push(Note::Hibernated { detail: format!("{image} in the swap space") });
            }
            Content::Paging { size } => {
                if let Some((_, _, name)) = LATER_FORMATS.iter().find(|(at, magic, _)| has(&start, *at, magic)) {
                    return Err(FsError::unsupported(format!("a swap signature in front of what looks like {name}")));
                }
                found.size = size;
                found.used = ExtentSet::from_iter([Extent::new(0, header.page_size.into())]);
            }
            Content::Strange(what) => return Err(FsError::unsupported(what)),
        }
        Ok(found)
    }

    fn name(&self) -> &'static str {
        "swap"
    }
}

fn start_of(volume: &dyn ReadAt) -> io::Result<Vec<u8>> {
    let len = usize::try_from(volume.size().min(START_LEN_MAX)).map_err(io::Error::other)?;
    volume.read_vec(0, len)
}

fn has(bytes: &[u8], at: usize, magic: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

/// The first page of a swap space: a partition, or a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fs) struct SwapHeader {
    /// Bytes in a page, and so in the header.
    pub(in crate::fs) page_size: u32,
    /// Volume label.
    pub(in crate::fs) label: Option<String>,
    /// UUID.
    pub(in crate::fs) uuid: Option<String>,
    /// What follows the header.
    pub(in crate::fs) content: Content,
}

/// What a swap space holds behind its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fs) enum Content {
    /// Nothing that outlives the running system.
    Paging {
        /// Bytes that the swap space claims, header included.
        size: u64,
    },
    /// A hibernated system; whose.
    Hibernated(&'static str),
    /// No telling.
    Strange(&'static str),
}

impl SwapHeader {
    /// Understands the first bytes of a swap space (up to 64 KiB); `None` when they have no signature.
    pub(in crate::fs) fn find(start: &[u8]) -> Option<Self> {
        let pages = PAGE_SIZES.into_iter().filter_map(|size| {
            let page = start.get(..usize::try_from(size).ok()?.min(PAGE_SIZE_MAX))?;
            Some((size, page, page.get(page.len() - SIGNATURE_LEN..)?))
        });
        for (page_size, page, signature) in pages {
            let hibernated = HIBERNATED.iter().find(|(magic, _)| signature.starts_with(magic));
            let content = match signature {
                b"SWAPSPACE2" => content(page, page_size),
                b"SWAP-SPACE" => Content::Strange("swap of version 0"),
                _ => match hibernated {
                    Some((_, image)) => Content::Hibernated(image),
                    None => continue,
                },
            };
            let (uuid, label) = (page.get(1036..1052)?, page.get(1052..1068)?);
            let uuid: [u8; 16] = uuid.try_into().ok()?;
            let label = String::from_utf8_lossy(label.split(|&byte| byte == 0).next()?).trim_end().to_owned();
            return Some(Self {
                page_size,
                label: (!label.is_empty()).then_some(label),
                uuid: (uuid != [0; 16]).then(|| uuid::Uuid::from_bytes(uuid).to_string()),
                content,
            });
        }
        None
    }
}

/// Checks that a page with the swap signature holds what mkswap writes and nothing else: 1024 bytes for a
/// boot loader, version, last page, number of bad pages, UUID, label, zeros, the bad pages from byte 1536.
fn content(page: &[u8], page_size: u32) -> Content {
    // In the byte order of the machine that made it.
    let number: fn(&[u8], usize) -> Option<u32> = match (le32(page, 1024), be32(page, 1024)) {
        (Some(1), _) => le32,
        (_, Some(1)) => be32,
        _ => return Content::Strange("a swap signature on something of another version"),
    };
    let (Some(last_page), Some(bad_pages)) = (number(page, 1028), number(page, 1032)) else {
        return Content::Strange("a swap header cut short");
    };
    let bad_pages_end = usize::try_from(bad_pages).ok().and_then(|count| count.checked_mul(4)?.checked_add(1536));
    let suspend_fields = page.len() - SIGNATURE_LEN - SUSPEND_FIELDS_LEN;
    let blank = |range| page.get(range).is_some_and(|bytes: &[u8]| bytes.iter().all(|&byte| byte == 0));
    if last_page == 0 {
        Content::Strange("a swap space without pages")
    } else if !blank(0..1024) {
        Content::Strange("a swap signature, and something else in the first 1024 bytes")
    } else if !blank(1068..1536) || !bad_pages_end.is_some_and(|end| blank(end..suspend_fields)) {
        Content::Strange("a swap signature, and something else in the rest of its page")
    } else {
        Content::Paging { size: (u64::from(last_page) + 1) * u64::from(page_size) }
    }
}
