//! A proof as files: a text for people, the same as JSON, the picture of the screen.
//!
//! Must not know: how proofs are made or kept.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::repo::manifest::{ImageId, Manifest};
use crate::repo::proofs::ProofRecord;

/// What came of a proof, in a line: "login prompt on the serial console after 41 s".
#[must_use]
pub fn words(proof: &ProofRecord) -> String {
    format!("{} after {} s", proof.words, proof.seconds)
}

/// The text for people.
#[must_use]
pub fn text(id: ImageId, manifest: &Manifest, proof: &ProofRecord) -> String {
    let verdict = if proof.proved { "proved" } else { "NOT PROVED" };
    let mut text = format!(
        "{verdict}: {}\n\nimage    {id}\nmachine  {}\ntaken    {}\nstarted  {} as {}\n",
        words(proof),
        manifest.machine_words(),
        manifest.created,
        proof.when,
        proof.machine
    );
    for warning in &proof.warnings {
        text += &format!("warning  {warning}\n");
    }
    for (title, said) in [("The serial console", &proof.serial), ("The screen", &proof.screen)] {
        if !said.is_empty() {
            text += &format!("\n{title} showed last:\n\n");
            said.lines().for_each(|line| text += &format!("    {line}\n"));
        }
    }
    text
}

/// As JSON, without the picture.
#[must_use]
pub fn json(id: ImageId, proof: &ProofRecord) -> serde_json::Value {
    let mut value = serde_json::json!(ProofRecord { picture: String::new(), ..proof.clone() });
    if let Some(fields) = value.as_object_mut() {
        fields.remove("picture");
        fields.insert("image".to_owned(), id.to_string().into());
    }
    value
}

/// Writes `ID.txt`, `ID.json` and, if there is a picture, `ID.png` into a folder, which is made. Gives their paths.
///
/// # Errors
/// [`Error::Io`].
pub fn write(folder: &Path, id: ImageId, manifest: &Manifest, proof: &ProofRecord) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
    let mut json = serde_json::to_vec_pretty(&json(id, proof)).map_err(|error| Error::Internal(error.to_string()))?;
    json.push(b'\n');
    let mut files = vec![("txt", text(id, manifest, proof).into_bytes()), ("json", json)];
    files.extend(proof.picture_bytes().map(|picture| ("png", picture)));
    let mut written = Vec::new();
    for (ending, bytes) in files {
        let path = folder.join(format!("{id}.{ending}"));
        let part = folder.join(format!("{id}.{ending}.part"));
        // A report of before is there whole until this one is.
        std::fs::write(&part, bytes)
            .and_then(|()| std::fs::File::open(&part)?.sync_all())
            .and_then(|()| std::fs::rename(&part, &path))
            .map_err(Error::io("write", &path))?;
        written.push(path);
    }
    Ok(written)
}
