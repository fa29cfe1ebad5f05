//! A fresh swap space: Clonezilla keeps its UUID and label, and nothing else.
//!
//! Must not know: files, disks. Source: the kernel's `include/linux/swap.h` (`union swap_header`), mkswap(8).

#![forbid(unsafe_code)]

use uuid::Uuid;

/// The header fills one page, and swap spaces of other pages are from other machines than PCs.
const PAGE_BYTES: u64 = 4096;
/// What mkswap refuses.
const PAGES_MIN: u64 = 10;
const LABEL_BYTES: usize = 16;

/// What is known of a swap space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Swap {
    pub(super) uuid: Option<Uuid>,
    pub(super) label: String,
}

impl Swap {
    /// Parses `swappt-<partition>.info`: shell assignments of UUID and LABEL.
    pub(super) fn parse(text: &str) -> Self {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
            Some(line.trim().trim_matches('"').to_owned())
        };
        Self {
            uuid: value("UUID").and_then(|uuid| Uuid::try_parse(&uuid).ok()),
            label: value("LABEL").unwrap_or_default(),
        }
    }

    /// The first page of a swap space of `len` bytes; none when it is too small for one.
    pub(super) fn header(&self, len: u64) -> Option<Vec<u8>> {
        let pages = (len / PAGE_BYTES).min(u32::MAX.into());
        if pages < PAGES_MIN {
            return None;
        }
        let mut page = vec![0; usize::try_from(PAGE_BYTES).ok()?];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(field) = page.get_mut(at..at + bytes.len()) {
                field.copy_from_slice(bytes);
            }
        };
        put(1024, &1u32.to_le_bytes());
        put(1028, &u32::try_from(pages - 1).ok()?.to_le_bytes());
        put(1036, self.uuid.unwrap_or_else(Uuid::new_v4).as_bytes());
        let label = self.label.as_bytes();
        put(1052, label.get(..label.len().min(LABEL_BYTES)).unwrap_or_default());
        put(4086, b"SWAPSPACE2");
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_in_the_header() {
        let swap = Swap::parse("UUID=\"92d422f0-3a17-4e69-93f0-f8fd1091e5eb\"\nLABEL=\"SWAP-sda3\"\n");
        let page = swap.header(1 << 20).unwrap();
        let found = crate::fs::inspect(&[page, vec![0; (1 << 20) - 4096]].concat());
        assert_eq!((found.kind.as_str(), found.label.as_deref()), ("swap", Some("SWAP-sda3")));
        assert_eq!(found.uuid.as_deref(), Some("92d422f0-3a17-4e69-93f0-f8fd1091e5eb"));
        assert_eq!(Swap::parse("UUID=\"\"\nLABEL=\"\"\n"), Swap::default());
        assert_eq!(swap.header(9 * 4096), None);
    }
}
