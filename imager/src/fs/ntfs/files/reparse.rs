//! Reparse points: links, and files whose content lies elsewhere or in another form.
//!
//! Source: [MS-FSCC] 2.1.2. Must not know: where they come from.

use crate::files::Kind;
use crate::fs::wide;
use crate::read_at::field::{le16, le32};

const TAG_MOUNT_POINT: u32 = 0xA000_0003;
const TAG_SYMLINK: u32 = 0xA000_000C;
const TAG_LX_SYMLINK: u32 = 0xA000_001D;
const TAG_AF_UNIX: u32 = 0x8000_0023;
const TAG_LX_FIFO: u32 = 0x8000_0024;
const TAG_DEDUP: u32 = 0x8000_0013;
const TAG_WOF: u32 = 0x8000_0017;
/// The fourth digit from the right counts the kinds of cloud files.
const TAG_CLOUD: u32 = 0x9000_001A;
const TAG_CLOUD_MASK: u32 = 0xFFFF_0FFF;
/// Offline, recall on open, recall on data access: the content is not here.
const FLAGS_ELSEWHERE: u32 = 0x1000 | 0x4_0000 | 0x40_0000;

/// What a reparse point makes of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reparse {
    /// A link to this target.
    Link(Vec<u8>),
    /// A pipe or a socket of Linux programs.
    Special(Kind),
    /// Compressed by the Windows overlay filter.
    Wof,
    /// Deduplicated by Windows Server.
    Dedup,
    /// Something else; the file holds what it holds.
    Other(u32),
}

impl Reparse {
    /// Takes the value of the attribute.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let tag = le32(bytes, 0).unwrap_or(0);
        let data = bytes.get(8..).unwrap_or_default();
        match tag {
            TAG_MOUNT_POINT => names(data, 8).map_or(Self::Other(tag), Self::Link),
            TAG_SYMLINK => names(data, 12).map_or(Self::Other(tag), Self::Link),
            TAG_LX_SYMLINK => data.get(4..).map_or(Self::Other(tag), |target| Self::Link(target.to_vec())),
            TAG_AF_UNIX => Self::Special(Kind::Socket),
            TAG_LX_FIFO => Self::Special(Kind::Fifo),
            TAG_WOF => Self::Wof,
            TAG_DEDUP => Self::Dedup,
            _ => Self::Other(tag),
        }
    }

    /// Why the file cannot be read, which has these flags.
    pub(super) fn hindrance(&self, flags: u32) -> Option<String> {
        match self {
            Self::Wof => Some("compressed by Windows (CompactOS or compact /exe), which is not read here; Windows reads it from a restored disk, or `imager mount` and ntfs-3g with its plugin".to_owned()),
            Self::Dedup => Some("deduplicated by Windows Server: its content is in the volume's chunk store, and only a Windows Server with that feature reads it".to_owned()),
            Self::Other(tag) if tag & TAG_CLOUD_MASK == TAG_CLOUD && flags & FLAGS_ELSEWHERE != 0 => {
                Some("a placeholder: its content is in the cloud, not on the volume".to_owned())
            }
            Self::Other(tag) if flags & FLAGS_ELSEWHERE != 0 => {
                Some(format!("its content is kept elsewhere (reparse point {tag:#010x})"))
            }
            Self::Other(_) | Self::Link(_) | Self::Special(_) => None,
        }
    }
}

/// The target of a link: the name that is meant for people, or the other without its prefix.
fn names(data: &[u8], buffer_at: usize) -> Option<Vec<u8>> {
    let buffer = data.get(buffer_at..)?;
    let name = |at: usize| -> Option<&[u8]> {
        let (start, len) = (usize::from(le16(data, at)?), usize::from(le16(data, at + 2)?));
        buffer.get(start..start + len)
    };
    let printed = name(4).filter(|name| !name.is_empty());
    let target = match printed {
        Some(printed) => wide::le_to_bytes(printed),
        None => {
            let target = wide::le_to_bytes(name(0)?);
            target.strip_prefix(br"\??\").unwrap_or(&target).to_vec()
        }
    };
    Some(target.into_iter().map(|byte| if byte == b'\\' { b'/' } else { byte }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_where_their_names_say() {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let (substitute, print) = (utf16(r"\??\C:\Users"), utf16(r"..\a b\ü"));
        let (first, second) = (u16::try_from(substitute.len()).unwrap(), u16::try_from(print.len()).unwrap());
        let mut bytes = TAG_SYMLINK.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        for field in [0, first, first, second, 1, 0] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend([substitute, print].concat());
        assert_eq!(Reparse::from_bytes(&bytes), Reparse::Link("../a b/ü".into()));
        bytes[14..16].fill(0);
        assert_eq!(Reparse::from_bytes(&bytes), Reparse::Link(b"C:/Users".to_vec()));
        for len in 0..bytes.len() {
            let _ = Reparse::from_bytes(&bytes[..len]);
        }
        assert!(Reparse::from_bytes(&TAG_WOF.to_le_bytes()).hindrance(0).is_some());
        assert!(Reparse::Other(0x9000_601A).hindrance(0x40_0000).unwrap().contains("cloud"));
        assert_eq!(Reparse::Other(0x9000_601A).hindrance(0x20), None);
    }
}
