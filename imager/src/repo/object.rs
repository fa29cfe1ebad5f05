//! Small sealed objects: manifests, indexes, sessions, lists of doomed packs, linked clones, proofs.
//!
//! ```text
//!  0  8  magic "LBOAT-1\n"
//!  8  4  kind: "IMGE", "INDX", "SESS", "DOOM", "CLON", "PROF"
//! 12 12  nonce, random
//! 24  8  length of the payload before compression, little endian
//! 32  …  the payload as one zstd frame, sealed; its tag of 16 bytes is the end of the object
//! ```
//!
//! The seal's additional data are the first 32 bytes and the object's name, so that an object that was
//! moved to another name does not open. Must not know: what the payload means.

#![forbid(unsafe_code)]

use bytes::Bytes;

use super::frame::{coded_len_max, decompress_all};
use super::seal::{MasterSecret, TAG_LEN, random};
use crate::error::{Error, Result};
use crate::read_at::field;

pub(super) const MAGIC: &[u8; 8] = b"LBOAT-1\n";
const HEADER_LEN: usize = 32;

/// What a sealed object holds; each kind has its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A manifest.
    Image,
    /// Directories of packs.
    Index,
    /// A running or interrupted capture, or a running prune.
    Session,
    /// Packs about to be deleted.
    Doomed,
    /// A linked clone, which needs its image.
    Clone,
    /// What a boot of an image showed.
    Proof,
}

impl Kind {
    /// The folder that objects of this kind live in.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Self::Image => "images",
            Self::Index => "index",
            Self::Session => "sessions",
            Self::Doomed => "doomed",
            Self::Clone => "clones",
            Self::Proof => "proofs",
        }
    }

    /// Bytes that a payload of this kind has before compression, at most. An object of an index is closed when it has
    /// 16 MiB, and its last pack's directory may have 256 MiB.
    pub(super) fn payload_max(self) -> u64 {
        match self {
            Self::Image => 64 << 20,
            // With an image's manifest in it.
            Self::Clone => 65 << 20,
            // With a picture in it.
            Self::Proof => 64 << 20,
            Self::Index => 288 << 20,
            Self::Session => 1 << 20,
            Self::Doomed => 256 << 20,
        }
    }

    /// Bytes that an object of this kind has, at most.
    pub(super) fn object_max(self) -> u64 {
        coded_len_max(self.payload_max()) + (HEADER_LEN + TAG_LEN) as u64
    }

    pub(super) fn tag(self) -> &'static [u8; 4] {
        match self {
            Self::Image => b"IMGE",
            Self::Index => b"INDX",
            Self::Session => b"SESS",
            Self::Doomed => b"DOOM",
            Self::Clone => b"CLON",
            Self::Proof => b"PROF",
        }
    }
}

/// Compresses and seals `payload` as the object `name`.
///
/// # Errors
/// When the system gives no randomness, or the payload is larger than its kind may be.
pub fn seal(secret: &MasterSecret, kind: Kind, name: &str, payload: &[u8]) -> Result<Bytes> {
    if payload.len() as u64 > kind.payload_max() {
        return Err(Error::Internal(format!("{name} would have {} bytes", payload.len())));
    }
    let nonce = random::<12>()?;
    let mut header = Vec::with_capacity(HEADER_LEN + name.len());
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(kind.tag());
    header.extend_from_slice(&nonce);
    header.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    let mut body = zstd::bulk::compress(payload, 3).map_err(|error| Error::Internal(error.to_string()))?;
    let aad = [header.as_slice(), name.as_bytes()].concat();
    secret.sealing_key("object", kind.tag()).seal(nonce, &aad, &mut body)?;
    header.extend_from_slice(&body);
    Ok(header.into())
}

/// Opens what [`seal`] made.
///
/// # Errors
/// [`Error::Damaged`], with the byte position.
pub fn open(secret: &MasterSecret, kind: Kind, name: &str, object: &[u8]) -> Result<Vec<u8>> {
    let damaged = |offset: usize, what: &str| Error::damaged(name, offset as u64, what);
    let (header, body) = object.split_at_checked(HEADER_LEN).ok_or_else(|| damaged(0, "too short for a header"))?;
    if !header.starts_with(MAGIC) {
        return Err(damaged(0, "not an object of a repository"));
    }
    if header.get(8..12) != Some(kind.tag()) {
        return Err(damaged(8, "an object of another kind"));
    }
    let nonce = header.get(12..24).and_then(|n| n.try_into().ok()).ok_or_else(|| damaged(12, "no nonce"))?;
    let payload_len = field::le64(header, 24).ok_or_else(|| damaged(24, "no length"))?;
    if payload_len > kind.payload_max() {
        let what = format!("its payload claims {payload_len} bytes, and may have {}", kind.payload_max());
        return Err(damaged(24, &what));
    }
    if body.len() < TAG_LEN {
        return Err(damaged(HEADER_LEN, "cut short"));
    }
    let mut body = body.to_vec();
    let aad = [header, name.as_bytes()].concat();
    let sealed = secret.sealing_key("object", kind.tag());
    let data = sealed.open(nonce, &aad, &mut body).map_err(|_| damaged(HEADER_LEN, "its seal is broken"))?;
    decompress_all(data, payload_len).map_err(|error| damaged(24, &format!("its payload: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::seal::Suite;
    use proptest::prelude::*;

    #[test]
    fn an_object_opens_under_its_own_name_and_kind_only() {
        let secret = MasterSecret::new(Suite::Aes256Gcm, [9; 32], [1; 16]);
        let object = seal(&secret, Kind::Image, "images/a", b"hello").unwrap();
        assert_eq!(open(&secret, Kind::Image, "images/a", &object).unwrap(), b"hello");
        assert!(open(&secret, Kind::Image, "images/b", &object).is_err());
        assert!(open(&secret, Kind::Index, "images/a", &object).is_err());
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed() {
        for suite in [Suite::Blake3, Suite::Aes256Gcm] {
            let secret = MasterSecret::new(suite, [9; 32], [1; 16]);
            let object = seal(&secret, Kind::Index, "index/a", b"hello").unwrap().to_vec();
            for bit in 0..object.len() * 8 {
                let mut damaged = object.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(open(&secret, Kind::Index, "index/a", &damaged).is_err(), "bit {bit}");
            }
            for len in 0..object.len() {
                assert!(open(&secret, Kind::Index, "index/a", &object[..len]).is_err(), "length {len}");
            }
        }
    }

    /// Seals a payload that claims to have `payload_len` bytes, which only somebody with the key can.
    fn forge(secret: &MasterSecret, kind: Kind, payload: &[u8], payload_len: u64) -> Vec<u8> {
        let mut header = [MAGIC.as_slice(), kind.tag(), &[0; 12], &payload_len.to_le_bytes()].concat();
        let mut body = zstd::bulk::compress(payload, 3).unwrap();
        let aad = [header.as_slice(), b"index/a"].concat();
        secret.sealing_key("object", kind.tag()).seal([0; 12], &aad, &mut body).unwrap();
        header.extend_from_slice(&body);
        header
    }

    #[test]
    fn a_forged_length_is_noticed() {
        let secret = MasterSecret::new(Suite::Aes256Gcm, [9; 32], [1; 16]);
        let open = |len| open(&secret, Kind::Index, "index/a", &forge(&secret, Kind::Index, b"hello", len));
        assert_eq!(open(5).unwrap(), b"hello");
        let most = Kind::Index.payload_max();
        for len in [0, 4, 6, most, most + 1, u64::MAX] {
            assert!(matches!(open(len), Err(Error::Damaged { offset: 24, .. })), "{len}");
        }
    }

    #[test]
    fn a_payload_is_no_larger_than_its_kind_may_be() {
        let secret = MasterSecret::new(Suite::Blake3, [9; 32], [1; 16]);
        for kind in [Kind::Image, Kind::Session] {
            let most = usize::try_from(kind.payload_max()).unwrap();
            for (len, is_sound) in [(most, true), (most + 1, false)] {
                let object = forge(&secret, kind, &vec![0; len], len as u64);
                match open(&secret, kind, "index/a", &object) {
                    Ok(payload) => assert!(is_sound && payload.len() == len, "{kind:?} {len}"),
                    Err(Error::Damaged { offset: 24, what, .. }) => {
                        assert!(!is_sound && what.contains(&format!("claims {len} bytes")), "{kind:?}: {what}");
                    }
                    Err(error) => panic!("{kind:?}: {error}"),
                }
            }
            assert!(seal(&secret, kind, "index/a", &vec![0; most + 1]).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_behind_a_header_are_an_error(bytes: Vec<u8>, with_magic: bool) {
            let secret = MasterSecret::new(Suite::Blake3, [9; 32], [1; 16]);
            let head: &[u8] = if with_magic { b"LBOAT-1\nINDX" } else { b"" };
            prop_assert!(super::open(&secret, Kind::Index, "index/a", &[head, &bytes].concat()).is_err());
        }
    }
}
