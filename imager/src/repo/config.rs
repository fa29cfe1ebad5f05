//! The two kinds of objects that are read before there is a key: the repository's `config` and its key
//! slots. Each is one line of JSON and one line with the BLAKE3 hash of the first, so that damage can be
//! told from a wrong password.

#![forbid(unsafe_code)]

use argon2::{Algorithm, Argon2, Params, Version};
use bytes::Bytes;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::seal::{MasterSecret, SealingKey, Suite, random};
use crate::error::{Error, Result};

/// The format that this program writes, and the highest that it reads.
pub const FORMAT_VERSION: u64 = 1;
/// The config object's name.
pub const CONFIG: &str = "config";
/// The folder of the key slots.
pub const KEYS: &str = "keys";

/// What a repository was made with. Never changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Format version; see [`FORMAT_VERSION`].
    pub version: u64,
    /// Random id, 16 bytes in hexadecimal.
    pub id: Hex<16>,
    /// When it was made.
    pub created: Timestamp,
    /// How it seals.
    pub seal: Suite,
    /// The master secret of an unencrypted repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_secret: Option<Hex<32>>,
    /// How it cuts chunks.
    pub chunks: ChunkSizes,
    /// How much of the disks is compressed together.
    #[serde(default, skip_serializing_if = "FrameSize::is_default")]
    pub frames: FrameSize,
}

/// Size of a frame of data before compression, in bytes, at which it is closed. Smaller ones take more room, and less
/// is decompressed for who reads here and there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FrameSize(u32);

impl Default for FrameSize {
    /// A reference disk takes 0.6 % less room than with 1 MiB, and as much as one long stream of zstd; larger frames gain
    /// little, and cost whoever reads here and there.
    fn default() -> Self {
        Self(1280 << 10)
    }
}

impl FrameSize {
    /// A multiple of 64 KiB, up to 4 MiB.
    ///
    /// # Errors
    /// [`Error::Usage`] for any other size.
    pub fn new(bytes: u64) -> Result<Self> {
        match u32::try_from(bytes) {
            Ok(size) if size.is_multiple_of(64 << 10) && (64 << 10..=4 << 20).contains(&size) => Ok(Self(size)),
            _ => Err(Error::Usage(format!("the frame size {bytes} is not a multiple of 64 KiB up to 4 MiB"))),
        }
    }

    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn is_sane(self) -> bool {
        Self::new(self.0.into()).is_ok()
    }
}

/// Sizes of chunks in bytes: powers of two, multiples of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkSizes {
    /// No cut before this size.
    pub min: u32,
    /// The average that the cuts aim at, in content that is random.
    pub average: u32,
    /// A cut at this size at the latest.
    pub max: u32,
}

impl ChunkSizes {
    /// A quarter of the average, the average, four times the average.
    ///
    /// # Errors
    /// [`Error::Usage`] when `average` is not a power of two from 16 KiB to 4 MiB.
    pub fn around(average: u64) -> Result<Self> {
        match u32::try_from(average) {
            Ok(average) if average.is_power_of_two() && (16 << 10..=4 << 20).contains(&average) => {
                Ok(Self { min: average / 4, average, max: average * 4 })
            }
            _ => Err(Error::Usage(format!(
                "the average chunk size {average} is not a power of two from 16 KiB to 4 MiB"
            ))),
        }
    }

    fn is_sane(self) -> bool {
        Self::around(self.average.into()).is_ok_and(|expected| expected == self)
    }
}

/// Bytes that are hexadecimal in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<const N: usize> std::fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> std::str::FromStr for Hex<N> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not {N} bytes in lower-case hexadecimal");
        let digits = text.as_bytes();
        if digits.len() != 2 * N {
            return Err(wrong());
        }
        let mut bytes = [0; N];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            for &digit in pair {
                let value = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return Err(wrong()),
                };
                *byte = *byte << 4 | value;
            }
        }
        Ok(Self(bytes))
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One password's way to the master secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeySlot {
    /// Format version.
    pub version: u64,
    /// What the user calls it.
    pub label: String,
    /// When it was added.
    pub created: Timestamp,
    /// Argon2id memory in KiB.
    pub memory_kib: u32,
    /// Argon2id passes.
    pub passes: u32,
    /// Argon2id lanes.
    pub lanes: u32,
    /// Argon2id salt.
    pub salt: Hex<16>,
    /// Nonce of the seal.
    pub nonce: Hex<12>,
    /// The master secret, sealed with AES-256-GCM under the key that Argon2id gives; the BLAKE3 hash of
    /// the config's JSON line is the additional data, so that a swapped config is noticed.
    pub sealed_secret: Hex<48>,
}

/// 4 GiB, sixteen passes: more than any sane slot, little enough not to hang on a hostile one.
pub(super) const MEMORY_KIB_MAX: u32 = 4 << 20;
pub(super) const PASSES_MAX: u32 = 16;

impl KeySlot {
    /// A slot for `password` with today's cost: 64 MiB, three passes.
    ///
    /// # Errors
    /// When the system gives no randomness or no memory.
    pub fn seal(password: &[u8], label: &str, secret: &MasterSecret, config_line: &[u8]) -> Result<Self> {
        let mut slot = Self {
            version: FORMAT_VERSION,
            label: label.to_owned(),
            created: Timestamp::now(),
            memory_kib: 64 << 10,
            passes: 3,
            lanes: 1,
            salt: Hex(random()?),
            nonce: Hex(random()?),
            sealed_secret: Hex([0; 48]),
        };
        let mut sealed = secret.expose().to_vec();
        slot.key(password)?.seal(slot.nonce.0, blake3::hash(config_line).as_bytes(), &mut sealed)?;
        slot.sealed_secret.0.copy_from_slice(&sealed);
        Ok(slot)
    }

    /// The master secret, if this is the slot's password.
    ///
    /// # Errors
    /// When the slot's parameters are not sane or there is no memory for them.
    pub fn open(&self, password: &[u8], config_line: &[u8]) -> Result<Option<Zeroizing<[u8; 32]>>> {
        let mut sealed = Zeroizing::new(self.sealed_secret.0);
        let aad = blake3::hash(config_line);
        let opened = self.key(password)?.open(self.nonce.0, aad.as_bytes(), sealed.as_mut_slice());
        Ok(opened.ok().and_then(|secret| <[u8; 32]>::try_from(&*secret).ok()).map(Zeroizing::new))
    }

    fn key(&self, password: &[u8]) -> Result<SealingKey> {
        let failed = |what: String| Error::damaged(KEYS, 0, format!("key slot {:?}: {what}", self.label));
        if self.memory_kib > MEMORY_KIB_MAX || self.passes > PASSES_MAX {
            return Err(failed(format!("{} KiB and {} passes are more than is sane", self.memory_kib, self.passes)));
        }
        let params =
            Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).map_err(|e| failed(e.to_string()))?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password, &self.salt.0, key.as_mut_slice())
            .map_err(|e| failed(e.to_string()))?;
        Ok(SealingKey::new(Suite::Aes256Gcm, &key))
    }
}

/// Something with a version, as a line of JSON and a line with its hash.
pub fn to_lines<T: Serialize>(value: &T) -> Result<Bytes> {
    let json = serde_json::to_string(value).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(format!("{json}\n{}\n", blake3::hash(json.as_bytes())).into())
}

/// The reverse of [`to_lines`]; also returns the JSON line.
///
/// # Errors
/// [`Error::Damaged`] when the hash does not fit, [`Error::NewerFormat`] for a version from the future.
pub fn from_lines<T: DeserializeOwned>(object: &str, bytes: &[u8]) -> Result<(T, Vec<u8>)> {
    let damaged = |what: &str| Error::damaged(object, 0, what);
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("not text"))?;
    let (json, rest) = text.split_once('\n').ok_or_else(|| damaged("no line end"))?;
    if rest != format!("{}\n", blake3::hash(json.as_bytes())) {
        return Err(damaged("the checksum in its second line does not fit"));
    }
    Ok((from_json(object, json.as_bytes())?, json.as_bytes().to_vec()))
}

/// Parses JSON that has a version, which is looked at first: what else a newer one has, nobody knows.
///
/// # Errors
/// [`Error::Damaged`], [`Error::NewerFormat`] for a version from the future.
pub fn from_json<T: DeserializeOwned>(object: &str, json: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    let damaged = |error: serde_json::Error| Error::damaged(object, 0, error.to_string());
    let Versioned { version } = serde_json::from_slice(json).map_err(damaged)?;
    if version > FORMAT_VERSION {
        return Err(Error::NewerFormat { object: object.to_owned(), found: version, known: FORMAT_VERSION });
    }
    serde_json::from_slice(json).map_err(damaged)
}

impl Config {
    /// Parses and checks the `config` object; also returns its JSON line.
    ///
    /// # Errors
    /// As [`from_lines`]; sizes that are not sane are damage.
    pub fn from_bytes(bytes: &[u8]) -> Result<(Self, Vec<u8>)> {
        let (config, line): (Self, _) = from_lines(CONFIG, bytes)?;
        if !config.chunks.is_sane() || !config.frames.is_sane() {
            return Err(Error::damaged(CONFIG, 0, "the sizes of chunks or frames are not sane"));
        }
        if (config.seal == Suite::Blake3) != config.public_secret.is_some() {
            return Err(Error::damaged(CONFIG, 0, "the way of sealing and the public secret do not fit together"));
        }
        Ok((config, line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config() -> Bytes {
        let chunks = ChunkSizes::around(64 << 10).unwrap();
        let (id, public_secret) = (Hex([1; 16]), Some(Hex([2; 32])));
        let (version, created, seal) = (FORMAT_VERSION, Timestamp::UNIX_EPOCH, Suite::Blake3);
        let frames = FrameSize::new(128 << 10).unwrap();
        to_lines(&Config { version, id, created, seal, public_secret, chunks, frames }).unwrap()
    }

    /// A line of JSON with the checksum that belongs to it.
    fn lines(json: &str) -> String {
        format!("{json}\n{}\n", blake3::hash(json.as_bytes()))
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed() {
        let object = config().to_vec();
        assert!(Config::from_bytes(&object).is_ok());
        for bit in 0..object.len() * 8 {
            let mut damaged = object.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Config::from_bytes(&damaged).is_err(), "bit {bit}");
        }
        for len in 0..object.len() {
            assert!(Config::from_bytes(&object[..len]).is_err(), "length {len}");
        }
        assert!(Config::from_bytes(&[object.as_slice(), b"\n"].concat()).is_err());
    }

    #[test]
    fn a_newer_version_is_not_damage() {
        let newer = lines(r#"{"version":2,"seal":"something new"}"#);
        assert!(matches!(Config::from_bytes(newer.as_bytes()), Err(Error::NewerFormat { found: 2, .. })));
    }

    #[test]
    fn a_config_that_contradicts_itself_is_damage() {
        let text = String::from_utf8(config().to_vec()).unwrap();
        let json = text.lines().next().unwrap();
        assert!(Config::from_bytes(lines(json).as_bytes()).is_ok());
        for (what, with) in [
            (r#""blake3""#, r#""aes256-gcm""#),
            (r#""public_secret":"#, r#""other":"#),
            ("16384", "0"),
            ("65536", "65537"),
            ("65536", "4294967295"),
            ("131072", "0"),
            ("131072", "131073"),
            ("131072", "67108864"),
            (r#""id":"01"#, r#""id":"0"#),
            (r#""id":"01"#, r#""id":"0G"#),
        ] {
            assert!(json.contains(what), "{what}");
            let changed = lines(&json.replace(what, with));
            assert!(matches!(Config::from_bytes(changed.as_bytes()), Err(Error::Damaged { .. })), "{with}");
        }
    }

    #[test]
    fn a_config_without_a_frame_size_has_the_usual_one() {
        let text = String::from_utf8(config().to_vec()).unwrap();
        let json = text.lines().next().unwrap().replace(r#","frames":131072"#, "");
        let (config, _) = Config::from_bytes(lines(&json).as_bytes()).unwrap();
        assert_eq!(config.frames, FrameSize::default());
        assert_eq!(to_lines(&config).unwrap(), lines(&json));
    }

    #[test]
    fn a_key_slot_that_costs_too_much_is_refused() {
        let secret = MasterSecret::new(Suite::Aes256Gcm, [7; 32], [1; 16]);
        let slot = KeySlot::seal(b"password", "", &secret, b"config").unwrap();
        assert_eq!(*slot.open(b"password", b"config").unwrap().unwrap(), [7; 32]);
        assert!(slot.open(b"passwort", b"config").unwrap().is_none());
        assert!(slot.open(b"password", b"another config").unwrap().is_none());
        for (memory_kib, passes, lanes) in [
            (u32::MAX, 1, 1),
            (MEMORY_KIB_MAX + 1, 1, 1),
            (8, u32::MAX, 1),
            (8, 0, 1),
            (0, 1, 1),
            (8, 1, 0),
            (8, 1, 2),
            (8, 1, u32::MAX),
        ] {
            let hostile = KeySlot { memory_kib, passes, lanes, ..slot.clone() };
            let opened = hostile.open(b"password", b"config");
            assert!(matches!(opened, Err(Error::Damaged { .. })), "{memory_kib} {passes} {lanes}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_config_or_an_error(bytes: Vec<u8>, json: String) {
            prop_assert!(Config::from_bytes(&bytes).is_err());
            prop_assert!(Config::from_bytes(lines(&json).as_bytes()).is_err());
            prop_assert!(from_lines::<KeySlot>("keys/0", lines(&json).as_bytes()).is_err());
        }

        #[test]
        fn changed_json_is_a_config_or_an_error(at in 0usize..260, what in "[-0-9a-z\"{}\\[\\],:.]") {
            let text = String::from_utf8(config().to_vec()).unwrap();
            let mut json = text.lines().next().unwrap().to_owned();
            if at < json.len() {
                json.replace_range(at..=at, &what);
            }
            if let Ok((config, line)) = Config::from_bytes(lines(&json).as_bytes()) {
                prop_assert!(config.chunks.is_sane() && config.frames.is_sane());
                prop_assert_eq!(line, json.into_bytes());
            }
        }
    }
}
