//! What came of booting an image as a virtual machine, kept beside the image under the same name.
//!
//! Must not know: virtual machines.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Repository;
use super::config::{FORMAT_VERSION, from_json};
use super::manifest::ImageId;
use super::object::Kind;
use crate::error::{Error, Result};

/// What a boot showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofRecord {
    /// Format version.
    pub version: u64,
    /// When the machine was started.
    pub when: Timestamp,
    /// Whether the system came up.
    pub proved: bool,
    /// The sign of life, or the reason why not, in words.
    pub words: String,
    /// Seconds from the start of the machine to that.
    pub seconds: u64,
    /// The machine, in words: firmware, controller, memory, accelerator.
    pub machine: String,
    /// What should be known.
    pub warnings: Vec<String>,
    /// The last lines of the serial console.
    pub serial: String,
    /// The text on the screen, when it was in text mode.
    pub screen: String,
    /// The screen, as PNG, in hexadecimal digits; empty when there was none to be had.
    pub picture: String,
}

impl ProofRecord {
    /// A record of now that says nothing yet.
    #[must_use]
    pub fn begun() -> Self {
        Self {
            version: FORMAT_VERSION,
            when: Timestamp::now(),
            proved: false,
            words: String::new(),
            seconds: 0,
            machine: String::new(),
            warnings: Vec::new(),
            serial: String::new(),
            screen: String::new(),
            picture: String::new(),
        }
    }

    /// The picture's bytes; none when there is no picture.
    #[must_use]
    pub fn picture_bytes(&self) -> Option<Vec<u8>> {
        let digits = self.picture.as_bytes();
        if digits.is_empty() || !digits.len().is_multiple_of(2) {
            return None;
        }
        let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        digits.chunks_exact(2).map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?)).collect()
    }

    /// Keeps a picture.
    pub fn set_picture(&mut self, bytes: &[u8]) {
        self.picture = bytes
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .collect();
    }
}

impl Repository {
    /// Keeps what a boot of an image showed, in place of what an earlier one did.
    ///
    /// # Errors
    /// What the store says.
    pub fn write_proof(&self, image: ImageId, proof: &ProofRecord) -> Result<()> {
        let payload = serde_json::to_vec(proof).map_err(|error| Error::Internal(error.to_string()))?;
        self.replace_object(Kind::Proof, &object_name(image), &payload)
    }

    /// What the last boot of an image showed; none when there was none.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::NewerFormat`], what the store says.
    pub fn proof(&self, image: ImageId) -> Result<Option<ProofRecord>> {
        let name = object_name(image);
        match self.read_object(Kind::Proof, &name) {
            Ok(payload) => from_json(&name, &payload).map(Some),
            Err(Error::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All that can be read, by image.
    ///
    /// # Errors
    /// What the store says.
    pub fn proofs(&self) -> Result<HashMap<ImageId, ProofRecord>> {
        let mut proofs = HashMap::new();
        for object in self.store().list(Kind::Proof.folder())? {
            let Ok(image) = object.file_name().parse::<ImageId>() else { continue };
            match self.proof(image) {
                Ok(proof) => proofs.extend(proof.map(|proof| (image, proof))),
                // It can be made again; no image depends on it.
                Err(Error::Damaged { .. } | Error::NewerFormat { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(proofs)
    }

    /// Removes what is kept of an image that is gone.
    ///
    /// # Errors
    /// What the store says.
    pub(super) fn remove_proof(&self, image: ImageId) -> Result<()> {
        self.store().delete(&object_name(image))
    }

    /// Removes what was kept of images that are there no more, which `forget_image` does unless it is cut off.
    ///
    /// # Errors
    /// What the store says.
    pub fn remove_stale_proofs(&self) -> Result<()> {
        let proofs = self.store().list(Kind::Proof.folder())?;
        let images = self.image_ids()?;
        for object in proofs {
            match object.file_name().parse::<ImageId>() {
                Ok(image) if !images.contains(&image) => self.remove_proof(image)?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn object_name(image: ImageId) -> String {
    format!("{}/{image}", Kind::Proof.folder())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_comes_back_as_it_was() {
        let mut proof = ProofRecord::begun();
        assert_eq!(proof.picture_bytes(), None);
        let bytes: Vec<u8> = (0..=255).collect();
        proof.set_picture(&bytes);
        assert_eq!(proof.picture_bytes(), Some(bytes));
        for broken in ["0", "0g", "é0"] {
            assert_eq!(ProofRecord { picture: broken.to_owned(), ..proof.clone() }.picture_bytes(), None);
        }
    }
}
