//! Names in UTF-16, as bytes.
//!
//! Must not know: who has such names.

/// UTF-8; a surrogate without its half becomes the three bytes that WTF-8 has for it, so that no two names are one.
pub(super) fn to_bytes(units: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for decoded in char::decode_utf16(units) {
        match decoded {
            Ok(character) => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(lone) => {
                let unit = u32::from(lone.unpaired_surrogate());
                let low = |bits: u32| u8::try_from(bits & 0x3f).unwrap_or(0) | 0x80;
                bytes.extend_from_slice(&[0xed, low(unit >> 6), low(unit)]);
            }
        }
    }
    bytes
}

/// The same of bytes in little-endian order; a half unit at the end is left out.
pub(super) fn le_to_bytes(bytes: &[u8]) -> Vec<u8> {
    let (units, _) = bytes.as_chunks::<2>();
    to_bytes(units.iter().map(|&unit| u16::from_le_bytes(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lone_surrogates_have_bytes_of_their_own() {
        assert_eq!(to_bytes("aü☃😀".encode_utf16()), "aü☃😀".as_bytes());
        assert_eq!(to_bytes([0xd800]), b"\xed\xa0\x80");
        assert_eq!(to_bytes([0xdfff, 0x61]), b"\xed\xbf\xbfa");
    }
}
