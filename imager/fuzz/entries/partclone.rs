//! What must be true of every image of partclone and of ntfsclone: what it gives fits into what it says.

use imager::clonezilla::{ntfsclone, partclone};

/// Room that there is for a volume: whatever an image claims, it costs no more than this.
const BYTES_MAX: u64 = 64 << 20;

/// Reads `data` as either; the first byte chooses.
pub(crate) fn run(data: &[u8]) {
    match data.split_first() {
        Some((0, data)) => read_partclone(data),
        Some((_, data)) => read_ntfsclone(data),
        None => {}
    }
}

fn read_partclone(data: &[u8]) {
    let Ok(mut image) = partclone::Image::open(data, BYTES_MAX) else { return };
    let block = u64::from(image.header().block_bytes);
    assert!(block > 0 && image.used().len() == image.header().blocks);
    assert!((image.header().blocks - 1).saturating_mul(block) <= BYTES_MAX, "more than there is room for");
    let (mut buf, mut at, mut found) = (Vec::new(), 0, 0);
    loop {
        match image.next_blocks(&mut buf) {
            Ok(Some(first)) => {
                let len = buf.len() as u64;
                assert!(first >= at && len > 0 && len.is_multiple_of(block), "blocks out of order");
                assert!(
                    (first..first + len / block).all(|number| image.used().get(number)),
                    "a block that is not in use"
                );
                at = first + len / block;
                found += len / block;
            }
            Ok(None) => break,
            Err(_) => return,
        }
    }
    assert_eq!(found, image.used().count(), "blocks are missing");
    assert!(image.offset() <= data.len() as u64);
    let _ = image.tail();
}

fn read_ntfsclone(data: &[u8]) {
    let Ok(mut image) = ntfsclone::Image::open(data, BYTES_MAX) else { return };
    let cluster = u64::from(image.cluster_bytes());
    let (mut buf, mut at) = (Vec::new(), 0);
    while let Ok(Some(number)) = image.next_cluster(&mut buf) {
        assert!(number >= at && buf.len() as u64 <= cluster, "clusters out of order");
        assert!(number * cluster <= BYTES_MAX, "more than there is room for");
        at = number + 1;
    }
    assert!(image.used_bytes() <= BYTES_MAX);
    let _ = image.tail();
}
