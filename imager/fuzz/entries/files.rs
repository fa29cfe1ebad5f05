//! What must be true of the files of every volume: they can be walked through and read to an end, whatever they claim.

use std::sync::Arc;

use imager::Error;
use imager::files::walk::{Event, Next, Order, walk};
use imager::files::{FileSystem, Kind, Stat, Volume, open_volume, screen};

use super::volume::PatchedVolume;

/// Files that are looked at.
const FILES_MAX: usize = 300;

/// Reads `data` as a volume, and all of its first files.
pub(crate) fn run(data: &[u8]) {
    look(Arc::new(PatchedVolume::decode(data).into_owned()));
}

/// Walks through a volume and reads a bounded amount; gives how many files could be read.
pub(crate) fn look(volume: Volume) -> usize {
    let Ok(files) = open_volume(volume) else { return 0 };
    let (mut seen, mut read) = (0, 0);
    let _ = walk(&*files, files.root(), Order::Name, &mut |event| {
        seen += 1;
        if seen > FILES_MAX {
            return Err(Error::Interrupted);
        }
        if let Event::Found { name, stat, .. } = event {
            assert!(!screen::escaped(name).chars().any(char::is_control));
            read += usize::from(look_at(&*files, stat));
            let _ = files.xattrs(stat.node);
        }
        Ok(Next::Continue)
    });
    read
}

fn look_at(files: &dyn FileSystem, stat: &Stat) -> bool {
    match stat.kind {
        Kind::Symlink => files.read_link(stat.node).is_ok(),
        Kind::File => {
            let Ok(file) = files.open(stat.node) else { return false };
            let mut buffer = vec![0; 64 << 10];
            for offset in [0, 1, file.size() / 2, file.size().saturating_sub(100), file.size(), u64::MAX] {
                let wanted = file.size().saturating_sub(offset).min(buffer.len() as u64);
                if let Ok(len) = file.read_at(offset, &mut buffer) {
                    assert_eq!(len as u64, wanted, "at {offset} of {}", file.size());
                }
            }
            let mut at = 0;
            for _ in 0..50 {
                let Some(data) = file.next_data(at) else { break };
                assert!(data.start >= at && !data.is_empty() && data.end() <= file.size(), "{data:?} after {at}");
                at = data.end();
            }
            file.read_at(0, &mut buffer).is_ok()
        }
        _ => false,
    }
}
