//! Keys and seals. A seal makes any change to the sealed bytes, or to where they stand, visible.
//!
//! Encrypted repositories seal with AES-256-GCM; unencrypted ones put a keyed BLAKE3 tag in the same
//! place, so that both have one layout. Every pack has a key of its own, derived by HKDF-SHA-256 from the
//! repository's master secret, so that its nonces may be a plain counter; all small objects of one kind share
//! one, with random nonces. Must not know: what is sealed.

#![forbid(unsafe_code)]

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Bytes that a seal adds.
pub const TAG_LEN: usize = 16;

/// How a repository seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Suite {
    /// Readable by anyone; damage is found, intent is not hidden.
    Blake3,
    /// Encrypted and authenticated.
    Aes256Gcm,
}

/// The seal does not fit the bytes.
#[derive(Debug)]
pub struct SealBroken;

/// The secret everything is derived from. In an unencrypted repository it is public, in its config.
pub struct MasterSecret {
    suite: Suite,
    bytes: Zeroizing<[u8; 32]>,
    salt: [u8; 16],
}

impl MasterSecret {
    /// `salt` is the repository's id.
    #[must_use]
    pub fn new(suite: Suite, bytes: [u8; 32], salt: [u8; 16]) -> Self {
        Self { suite, bytes: Zeroizing::new(bytes), salt }
    }

    /// The secret itself, to be put into a key slot.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// HKDF-SHA-256(salt = repository id, secret, info = purpose ‖ context), 32 bytes.
    #[must_use]
    pub fn derive(&self, purpose: &str, context: &[u8]) -> [u8; 32] {
        hkdf(&self.salt, self.bytes.as_slice(), &[purpose.as_bytes(), context])
    }

    /// The key that seals one object or pack.
    #[must_use]
    pub fn sealing_key(&self, purpose: &str, context: &[u8]) -> SealingKey {
        SealingKey::new(self.suite, &self.derive(purpose, context))
    }
}

struct Len32;

impl KeyType for Len32 {
    fn len(&self) -> usize {
        32
    }
}

/// HKDF-SHA-256 to 32 bytes.
#[must_use]
pub fn hkdf(salt: &[u8], secret: &[u8], info: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    // ring fails only when more than 255 blocks are asked for.
    let filled = Salt::new(HKDF_SHA256, salt).extract(secret).expand(info, Len32).and_then(|okm| okm.fill(&mut out));
    assert!(filled.is_ok(), "HKDF gives 32 bytes");
    out
}

/// Fills a buffer with random bytes.
///
/// # Errors
/// When the system has no randomness to give.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Internal("the system gives no random bytes".into()))?;
    Ok(bytes)
}

/// A nonce made of a counter, for a key that seals several things.
#[must_use]
pub fn counter_nonce(counter: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&counter.to_le_bytes());
    nonce
}

/// A key for one object or pack.
pub enum SealingKey {
    /// Tags only.
    Blake3([u8; 32]),
    /// AES-256-GCM.
    Aes256Gcm(Box<LessSafeKey>),
}

impl SealingKey {
    /// A key of the suite's kind.
    #[must_use]
    pub fn new(suite: Suite, key: &[u8; 32]) -> Self {
        match suite {
            Suite::Blake3 => Self::Blake3(*key),
            Suite::Aes256Gcm => match UnboundKey::new(&AES_256_GCM, key) {
                Ok(key) => Self::Aes256Gcm(Box::new(LessSafeKey::new(key))),
                Err(_) => unreachable!("AES-256 takes every key of 32 bytes"),
            },
        }
    }

    /// Whether sealing hides the data.
    #[must_use]
    pub fn encrypts(&self) -> bool {
        matches!(self, Self::Aes256Gcm(_))
    }

    /// Seals all of `data` in place and appends the tag.
    ///
    /// # Errors
    /// [`Error::Internal`], for more than 64 GiB.
    pub fn seal(&self, nonce: [u8; 12], aad: &[u8], data: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Blake3(key) => data.extend_from_slice(&tag(key, nonce, aad, data)),
            Self::Aes256Gcm(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.seal_in_place_append_tag(nonce, Aad::from(aad), data)
                    .map_err(|_| Error::Internal("too much data for one seal".into()))?;
            }
        }
        Ok(())
    }

    /// Checks the seal of `sealed` (data, then tag), opens it in place, and returns the data.
    ///
    /// # Errors
    /// [`SealBroken`] when a single bit of data, tag, nonce or `aad` is not what was sealed.
    pub fn open<'a>(&self, nonce: [u8; 12], aad: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], SealBroken> {
        let data_len = sealed.len().checked_sub(TAG_LEN).ok_or(SealBroken)?;
        match self {
            Self::Blake3(key) => {
                let (data, found) = sealed.split_at_mut(data_len);
                if tag(key, nonce, aad, data) == *found { Ok(data) } else { Err(SealBroken) }
            }
            Self::Aes256Gcm(key) => {
                key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), sealed).map_err(|_| SealBroken)
            }
        }
    }
}

/// BLAKE3 keyed, of nonce ‖ length of aad (8 bytes, little endian) ‖ aad ‖ data; the first 16 bytes.
fn tag(key: &[u8; 32], nonce: [u8; 12], aad: &[u8], data: &[u8]) -> [u8; TAG_LEN] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&nonce).update(&(aad.len() as u64).to_le_bytes()).update(aad).update(data);
    let mut tag = [0; TAG_LEN];
    tag.copy_from_slice(&hasher.finalize().as_bytes()[..TAG_LEN]);
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_breaks_the_seal() {
        for suite in [Suite::Blake3, Suite::Aes256Gcm] {
            let key = MasterSecret::new(suite, [7; 32], [1; 16]).sealing_key("test", b"x");
            let mut sealed = b"forty-two bytes of data that are precious!".to_vec();
            key.seal(counter_nonce(3), b"where", &mut sealed).unwrap();
            for bit in 0..sealed.len() * 8 {
                let mut damaged = sealed.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(key.open(counter_nonce(3), b"where", &mut damaged).is_err(), "{suite:?}, bit {bit}");
            }
            assert!(key.open(counter_nonce(4), b"where", &mut sealed.clone()).is_err());
            assert!(key.open(counter_nonce(3), b"there", &mut sealed.clone()).is_err());
            let opened = key.open(counter_nonce(3), b"where", &mut sealed).unwrap();
            assert_eq!(opened, b"forty-two bytes of data that are precious!");
        }
    }

    #[test]
    fn encryption_hides_and_a_tag_does_not() {
        let mut data = b"plain".to_vec();
        MasterSecret::new(Suite::Blake3, [7; 32], [1; 16]).sealing_key("t", b"").seal([0; 12], b"", &mut data).unwrap();
        assert!(data.starts_with(b"plain"));
        let mut data = b"plain".to_vec();
        MasterSecret::new(Suite::Aes256Gcm, [7; 32], [1; 16])
            .sealing_key("t", b"")
            .seal([0; 12], b"", &mut data)
            .unwrap();
        assert!(!data.starts_with(b"plain"));
    }
}
