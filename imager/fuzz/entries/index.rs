//! What must be true of every object of the index, and of whatever is in a sealed object.

use imager::Error;
use imager::repo::index::packs_from_payload;
use imager::repo::object::{self, Kind};
use imager::repo::seal::{MasterSecret, Suite};

use super::bytes_of::take;

const NAME: &str = "index/00000000000000000000000000000000";

/// A payload; with a first byte of 0xFF, the eight bytes of a length and what claims to have it before compression.
pub(crate) fn run(data: &[u8]) {
    match data.split_first() {
        Some((0xFF, body)) => sealed(body),
        _ => payload(data),
    }
}

fn payload(data: &[u8]) {
    let Some(packs) = packs_from_payload(data) else { return };
    let mut again = Vec::new();
    for pack in &packs {
        assert!(pack.directory.frames_end() < pack.size, "frames behind the end of their pack");
        pack.append_to(&mut again);
    }
    assert_eq!(again, data);
}

fn sealed(mut body: &[u8]) {
    let Some(claimed) = take::<8>(&mut body) else { return };
    let secret = MasterSecret::new(Suite::Blake3, [3; 32], [4; 16]);
    let header = [&b"LBOAT-1\nINDX"[..], &[0; 12], &claimed].concat();
    let mut sealed = body.to_vec();
    let additional = [&header, NAME.as_bytes()].concat();
    secret.sealing_key("object", b"INDX").seal([0; 12], &additional, &mut sealed).unwrap();
    match object::open(&secret, Kind::Index, NAME, &[header, sealed].concat()) {
        Ok(opened) => assert_eq!(opened.len() as u64, u64::from_le_bytes(claimed)),
        Err(error) => assert!(matches!(error, Error::Damaged { .. }), "{error}"),
    }
    assert!(object::open(&secret, Kind::Index, NAME, body).is_err(), "nobody sealed it");
}
