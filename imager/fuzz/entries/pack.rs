//! What must be true of every pack, also of one that somebody sealed who means harm.

use imager::Error;
use imager::repo::config::Hex;
use imager::repo::pack::{Check, Directory, FOOTER_LEN, HEADER_LEN, PackReader};
use imager::repo::seal::{MasterSecret, SealingKey, Suite, TAG_LEN, counter_nonce};

use super::bytes_of::take;

/// Frames that are larger are not worth the time.
const RAW_MAX: u32 = 1 << 20;
/// Nor are packs.
const STORED_MAX: u64 = 4 << 20;

/// Two bytes say how long the directory is; behind it are the frames as they are before they are sealed.
pub(crate) fn run(mut data: &[u8]) {
    let (secret, id) = (MasterSecret::new(Suite::Blake3, [3; 32], [4; 16]), Hex([5; 16]));
    let reader = PackReader::new(&secret, id);
    let whole = data;
    let _ = reader.check_header(whole.get(..HEADER_LEN).unwrap_or(whole));
    assert!(reader.directory(whole.len() as u64, |range| Ok(part(whole, range))).is_err(), "nobody sealed it");

    let directory_len = take::<2>(&mut data).map_or(0, u16::from_le_bytes);
    let (raw, mut frames) = data.split_at(data.len().min(directory_len.into()));
    let directory = Directory::from_bytes(raw);
    if let Some(directory) = &directory {
        assert_eq!(directory.to_bytes(), raw);
        assert!(directory.frame_offsets().all(|offset| offset < directory.frames_end()));
        if directory.frames_end() > STORED_MAX {
            return;
        }
    }
    // A pack with this directory, whatever it is, and with as many frames as it claims.
    let key = secret.sealing_key("pack", &id.0);
    let mut pack = [&b"LBPACK1\n"[..], &id.0, &[0; 8]].concat();
    let header = pack.clone();
    for (number, entry) in (0..).zip(directory.iter().flat_map(|directory| &directory.frames)) {
        let len = usize::try_from(entry.stored_len).unwrap() - TAG_LEN;
        let (frame, rest) = frames.split_at(frames.len().min(len));
        frames = rest;
        let mut frame = frame.to_vec();
        frame.resize(len, 0);
        key.seal(counter_nonce(number), &header, &mut frame).unwrap();
        pack.extend(frame);
    }
    let frame_count = directory.as_ref().map_or(0, |directory| directory.frames.len());
    close(&key, &header, &mut pack, raw, u32::try_from(frame_count).unwrap());

    let found = reader.directory(pack.len() as u64, |range| Ok(part(&pack, range)));
    let Some(directory) = directory else {
        assert!(matches!(found, Err(Error::Damaged { .. })));
        return;
    };
    assert_eq!(found.unwrap(), directory);
    for (number, (entry, offset)) in (0..).zip(directory.frames.iter().zip(directory.frame_offsets())) {
        if entry.raw_len > RAW_MAX {
            continue;
        }
        let end = offset + u64::from(entry.stored_len);
        let mut out = vec![0; entry.raw_len_in_memory()];
        let mut sealed = part(&pack, offset..end).to_vec();
        let some = out.len() / 3..out.len() / 2;
        let part_of_it = reader.part(number, offset, entry, some.clone(), |range| Ok(part(&pack, range)));
        match reader.frame(Check::Seal, number, offset, entry, &mut sealed, &mut out) {
            Ok(()) => assert!(part_of_it.unwrap() == out[some], "part of a frame is not what the frame has there"),
            Err(error) => assert!(matches!(error, Error::Damaged { offset: at, .. } if at == offset), "{error}"),
        }
        let mut sealed = part(&pack, offset..end).to_vec();
        assert!(
            reader.frame(Check::Seal, number + 1, offset, entry, &mut sealed, &mut out).is_err(),
            "another frame's seal"
        );
    }
}

/// Directory and footer.
fn close(key: &SealingKey, header: &[u8], pack: &mut Vec<u8>, raw: &[u8], frames: u32) {
    let mut sealed = zstd::bulk::compress(raw, 1).unwrap();
    let mut footer = [0; FOOTER_LEN];
    footer[..8].copy_from_slice(&(pack.len() as u64).to_le_bytes());
    footer[8..12].copy_from_slice(&u32::try_from(sealed.len() + TAG_LEN).unwrap().to_le_bytes());
    footer[12..16].copy_from_slice(&u32::try_from(raw.len()).unwrap().to_le_bytes());
    footer[16..20].copy_from_slice(&frames.to_le_bytes());
    footer[24..].copy_from_slice(b"LBPACKED");
    key.seal(counter_nonce(u32::MAX), &[header, &footer].concat(), &mut sealed).unwrap();
    pack.extend(sealed);
    pack.extend(footer);
}

fn part(bytes: &[u8], range: std::ops::Range<u64>) -> bytes::Bytes {
    let at = |place: u64| usize::try_from(place).unwrap().min(bytes.len());
    bytes::Bytes::copy_from_slice(&bytes[at(range.start)..at(range.end)])
}
