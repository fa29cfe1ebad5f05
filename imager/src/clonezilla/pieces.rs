//! The file that holds a volume, or the pieces that it was split into, read as one stream.
//!
//! `split` names its pieces `.aa`, `.ab` … or, with longer suffixes, `.aaa`, `.aab` …; one that is missing is named.
//! Must not know: what the stream holds.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Files that together are one stream.
#[derive(Clone, Debug)]
pub(super) struct Pieces {
    files: Vec<(PathBuf, u64)>,
    /// What would come next if the last one were not the last.
    next: Option<String>,
}

impl Pieces {
    /// The file `base` of `directory`, or its pieces; none when there is neither. `names` is all that is there.
    ///
    /// # Errors
    /// [`Error::Damaged`] when a piece is missing, [`Error::Io`].
    pub(super) fn find(directory: &Path, names: &BTreeSet<String>, base: &str) -> Result<Option<Self>> {
        if names.contains(base) {
            return Ok(Some(Self { files: vec![sized(directory, base)?], next: None }));
        }
        let mut suffixes: Vec<&str> = names.iter().filter_map(|name| suffix_of(name, base)).collect();
        let Some(len) = suffixes.iter().map(|suffix| suffix.len()).min() else { return Ok(None) };
        suffixes.retain(|suffix| suffix.len() == len);
        let mut expected = "a".repeat(len);
        let mut files = Vec::new();
        for suffix in suffixes {
            if suffix != expected {
                return Err(missing(directory, base, &expected));
            }
            files.push(sized(directory, &format!("{base}.{suffix}"))?);
            expected = next_suffix(&expected).ok_or_else(|| Error::Usage(format!("{base} has too many pieces")))?;
        }
        Ok(Some(Self { files, next: Some(format!("{base}.{expected}")) }))
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, (_, len)| sum.saturating_add(*len))
    }

    /// The first.
    pub(super) fn path(&self) -> &Path {
        self.files.first().map_or(Path::new(""), |(path, _)| path)
    }

    /// What would be the next piece if there were one more.
    pub(super) fn next(&self) -> Option<&str> {
        self.next.as_deref()
    }

    /// The file that holds byte `offset` of the stream, and which byte of it that is.
    pub(super) fn place(&self, offset: u64) -> (&Path, u64) {
        let mut left = offset;
        for (path, len) in &self.files {
            if left < *len {
                return (path, left);
            }
            left -= len;
        }
        self.files.last().map_or((Path::new(""), 0), |(path, len)| (path, *len))
    }

    /// The stream. `read` counts its bytes.
    pub(super) fn open(&self, read: Arc<AtomicU64>) -> Stream {
        Stream { files: self.files.clone().into_iter(), open: None, read }
    }
}

fn sized(directory: &Path, name: &str) -> Result<(PathBuf, u64)> {
    let path = directory.join(name);
    let metadata = std::fs::metadata(&path).map_err(Error::io("look at", &path))?;
    if !metadata.is_file() {
        return Err(Error::Usage(format!("{} is not a file", path.display())));
    }
    Ok((path, metadata.len()))
}

fn missing(directory: &Path, base: &str, suffix: &str) -> Error {
    let path = directory.join(format!("{base}.{suffix}"));
    Error::damaged(path.display().to_string(), 0, "the file is missing, and there are pieces behind it")
}

fn suffix_of<'a>(name: &'a str, base: &str) -> Option<&'a str> {
    let suffix = name.strip_prefix(base)?.strip_prefix('.')?;
    is_suffix(suffix).then_some(suffix)
}

/// Whether `split` may have written this behind the last dot.
pub(super) fn is_suffix(text: &str) -> bool {
    (2..=6).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase())
}

fn next_suffix(suffix: &str) -> Option<String> {
    let mut letters = suffix.as_bytes().to_vec();
    for letter in letters.iter_mut().rev() {
        if *letter != b'z' {
            *letter += 1;
            return String::from_utf8(letters).ok();
        }
        *letter = b'a';
    }
    None
}

/// The bytes of the pieces, one behind the other.
pub(super) struct Stream {
    files: std::vec::IntoIter<(PathBuf, u64)>,
    open: Option<File>,
    read: Arc<AtomicU64>,
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(file) = &mut self.open {
                let read = file.read(buf)?;
                if read > 0 {
                    self.read.fetch_add(read as u64, Ordering::Relaxed);
                    return Ok(read);
                }
            }
            let Some((path, _)) = self.files.next() else { return Ok(0) };
            self.open = Some(File::open(path)?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str]) -> Result<Option<String>> {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(dir.path().join(name), format!("<{name}>")).unwrap();
        }
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let Some(pieces) = Pieces::find(dir.path(), &names, "sda1.img")? else { return Ok(None) };
        let mut text = String::new();
        let read = Arc::default();
        pieces.open(Arc::clone(&read)).read_to_string(&mut text).unwrap();
        assert_eq!(read.load(Ordering::Relaxed), pieces.bytes());
        Ok(Some(text))
    }

    #[test]
    fn pieces_are_joined_in_order_and_others_left_alone() {
        assert_eq!(found(&["sda1.img"]).unwrap().unwrap(), "<sda1.img>");
        assert_eq!(
            found(&["sda1.img.ab", "sda1.img.aa", "sda1.img.torrent2", "sda2.img.ac"]).unwrap().unwrap(),
            "<sda1.img.aa><sda1.img.ab>"
        );
        assert_eq!(found(&["sda1.img.aab", "sda1.img.aaa"]).unwrap().unwrap(), "<sda1.img.aaa><sda1.img.aab>");
        assert!(found(&["sda1.imgx", "sda10.img"]).unwrap().is_none());
    }

    #[test]
    fn a_missing_piece_is_named() {
        for (names, missing) in
            [(["sda1.img.aa", "sda1.img.ac"], "sda1.img.ab"), (["sda1.img.ab", "sda1.img.ac"], "sda1.img.aa")]
        {
            let error = found(&names).unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
        }
        assert_eq!(next_suffix("az").unwrap(), "ba");
        assert_eq!(next_suffix("zz"), None);
    }

    #[test]
    fn a_byte_is_in_one_of_the_files() {
        let pieces = Pieces { files: vec![("a".into(), 10), ("b".into(), 0), ("c".into(), 5)], next: None };
        let place = |offset| pieces.place(offset).0.to_str().map(|path| (path.to_owned(), pieces.place(offset).1));
        assert_eq!(place(9).unwrap(), ("a".to_owned(), 9));
        assert_eq!(place(10).unwrap(), ("c".to_owned(), 0));
        assert_eq!(place(15).unwrap(), ("c".to_owned(), 5));
    }
}
