//! `$LogFile`: does the journal hold work that the volume does not show yet?
//!
//! Windows writes metadata late, `$Bitmap` among it, and after a crash brings it up to date from the
//! journal. Until then clusters can be in use that neither `$Bitmap` nor any file record names, so an
//! allocation map of such a volume would lose data. Only the two restart pages are read; they say
//! whether the volume was shut down.
//!
//! Layout: linux-ntfs documentation, "$LogFile". Must not know: what the journal's records say.

use crate::fs::FsError;
use crate::fs::ntfs::mft::{Mft, UNNAMED};
use crate::fs::ntfs::record::{Kind, undo_fixups};
use crate::read_at::field;

const LOG_FILE: u64 = 2;
const PAGE_SIZE_MAX: u32 = 64 << 10;

/// What the journal says about the volume.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Journal {
    /// Windows shut the volume down: everything in the journal is on the volume, too.
    Clean,
    /// There is none. Drivers other than Windows's empty it, and give no sign of how they ended.
    Empty,
    /// There may be work left. The reason is a fragment.
    Unclean(String),
}

/// Reads the restart pages.
///
/// # Errors
/// When the file itself cannot be read; whatever is wrong in it makes it [`Journal::Unclean`].
pub(super) fn journal(mft: &Mft<'_>) -> Result<Journal, FsError> {
    let file = mft.system_file(LOG_FILE)?;
    let content = mft.content(&file, Kind::DATA, UNNAMED)?;
    let content = content.ok_or_else(|| FsError::corrupt(file.position, "$LogFile has no content"))?;
    // Both pages, whatever size they have.
    let size = content.size().min(2 * u64::from(PAGE_SIZE_MAX));
    let mut head = vec![0; usize::try_from(size).unwrap_or_default()];
    content.read_at(mft.volume, 0, &mut head)?;
    Ok(judge(&head))
}

fn judge(head: &[u8]) -> Journal {
    if head.len() >= 8192 && head.iter().all(|&byte| byte == 0xFF) {
        return Journal::Empty;
    }
    let page_size =
        field::le32(head, 0x10).filter(|size| size.is_power_of_two() && (512..=PAGE_SIZE_MAX).contains(size));
    let Some(page_size) = page_size.and_then(|size| usize::try_from(size).ok()) else {
        return Journal::Unclean("$LogFile has no restart page".to_owned());
    };
    // A clean shutdown leaves two that agree; anything else is a shutdown that was not clean.
    let (first, rest) = head.split_at_checked(page_size).unwrap_or_default();
    let second = rest.get(..page_size).unwrap_or_default();
    match [first, second].into_iter().find_map(|page| why_unclean(page.to_vec())) {
        Some(reason) => Journal::Unclean(reason.to_owned()),
        None => Journal::Clean,
    }
}

/// Why a restart page does not vouch for a clean volume; `None` when it does.
fn why_unclean(mut page: Vec<u8>) -> Option<&'static str> {
    const NO_CLIENT: u16 = 0xFFFF;
    const VOLUME_IS_CLEAN: u16 = 0x0002;
    if page.get(..4) != Some(b"RSTR") || undo_fixups(&mut page, 0).is_err() {
        return Some("$LogFile has a damaged restart page");
    }
    // Windows goes back from 2.0 to 1.1 when it shuts a volume down.
    let (minor_version, major_version) = (field::le16(&page, 0x1A), field::le16(&page, 0x1C));
    if (major_version, minor_version) != (Some(1), Some(1)) {
        return Some("Windows still had it mounted (Fast Startup, hibernation or a crash)");
    }
    let area = field::le16(&page, 0x18).and_then(|offset| page.get(usize::from(offset)..)).unwrap_or_default();
    let client_in_use = field::le16(area, 0x0C);
    let flags = field::le16(area, 0x0E).unwrap_or_default();
    let is_clean = flags & VOLUME_IS_CLEAN != 0 || client_in_use == Some(NO_CLIENT);
    (!is_clean).then_some("its journal, $LogFile, has work left")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two restart pages of 4 KiB as Windows 10 leaves them, and the beginning of a log page.
    fn restart_pages() -> Vec<u8> {
        let mut page = vec![0; 4096];
        page[..8].copy_from_slice(b"RSTR\x1E\0\x09\0");
        page[0x10..0x20].copy_from_slice(b"\0\x10\0\0\0\x10\0\0\x30\0\x01\0\x01\0\x1D\0");
        for stride in page.chunks_exact_mut(512) {
            stride[510] = 0x1D;
        }
        page[0x30..0x40].copy_from_slice(b"\x15\x44\x50\0\0\0\0\0\x01\0\xFF\xFF\0\0\x02\0");
        let mut pages = page.repeat(2);
        pages.extend(b"RCRD");
        pages
    }

    fn patched(at: usize, patch: &[u8]) -> Journal {
        let mut pages = restart_pages();
        pages[at..at + patch.len()].copy_from_slice(patch);
        judge(&pages)
    }

    fn is_unclean(journal: &Journal, word: &str) -> bool {
        matches!(journal, Journal::Unclean(reason) if reason.contains(word))
    }

    #[test]
    fn two_clean_pages_are_clean() {
        assert_eq!(judge(&restart_pages()), Journal::Clean);
    }

    #[test]
    fn one_page_in_use_is_unclean() {
        for page in [0, 4096] {
            assert!(is_unclean(&patched(page + 0x3E, &[0, 0]), "work left"));
        }
    }

    #[test]
    fn no_client_is_clean_without_the_flag() {
        let mut pages = restart_pages();
        for page in [0, 4096] {
            pages[page + 0x3C..page + 0x40].copy_from_slice(&[0xFF, 0xFF, 0, 0]);
        }
        assert_eq!(judge(&pages), Journal::Clean);
    }

    #[test]
    fn the_version_of_fast_startup_is_unclean() {
        assert!(is_unclean(&patched(4096 + 0x1A, &[0, 0, 2, 0]), "Fast Startup"));
    }

    #[test]
    fn damaged_pages_are_unclean() {
        for (at, patch) in
            [(0, &b"CHKD"[..]), (4096, b"RCRD"), (510, &[0]), (0x1C, &[0xFF]), (8190, &[0]), (0x18, &[0xFF; 2])]
        {
            assert!(matches!(patched(at, patch), Journal::Unclean(_)), "{patch:?} at {at}");
        }
        for size in [0u32, 1, 4095, 8192, 128 << 10, u32::MAX] {
            assert!(matches!(patched(0x10, &size.to_le_bytes()), Journal::Unclean(_)), "page size {size}");
        }
        assert!(matches!(judge(&restart_pages()[..5000]), Journal::Unclean(_)));
        assert!(matches!(judge(&[0; 65536]), Journal::Unclean(_)));
        assert!(matches!(judge(&[]), Journal::Unclean(_)));
    }

    #[test]
    fn a_wiped_journal_is_empty_but_not_when_anything_is_in_it() {
        assert_eq!(judge(&[0xFF; 65536]), Journal::Empty);
        let mut one = [0xFF; 65536];
        one[60000] = 0;
        assert!(matches!(judge(&one), Journal::Unclean(_)));
    }
}
