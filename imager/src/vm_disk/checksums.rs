//! The manifest of an exported virtual machine: checksums of its files, a line each.
//!
//! ```text
//! SHA256(web1.ovf)= 3d1f…
//! SHA1 (web1-disk1.vmdk) = 9c0e…
//! ```
//!
//! What is imported is read once for it, from its beginning to its end. Other files, which may be in it too, do not
//! matter. Must not know: archives, what the files are.
//!
//! Source: DMTF DSP0243 1.1, section 5.1; blanks are where VirtualBox writes them.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use ring::digest::{self, Algorithm, Context};

use super::neighbours::open_file;
use crate::error::{Error, Result};
use crate::progress::{Phase, Progress};
use crate::read_at::ReadAt;

/// What is read and summed in one piece.
const PIECE_BYTES: usize = 1 << 20;

/// How sums are called, and how they are made.
static ALGORITHMS: [(&str, &Algorithm); 4] = [
    ("SHA1", &digest::SHA1_FOR_LEGACY_USE_ONLY),
    ("SHA256", &digest::SHA256),
    ("SHA384", &digest::SHA384),
    ("SHA512", &digest::SHA512),
];

/// A line.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    algorithm: String,
    file: String,
    /// In hexadecimal digits.
    sum: String,
}

/// A manifest.
#[derive(Debug)]
pub(super) struct Checksums {
    path: PathBuf,
    lines: Vec<Line>,
}

impl Checksums {
    /// Reads the text of the manifest at `path`. Lines of other shapes are passed over.
    pub(super) fn parse(path: &Path, text: &str) -> Self {
        Self { path: path.to_owned(), lines: text.lines().filter_map(line).collect() }
    }

    /// Reads each of these files, by its name, and compares. Gives what could not be checked.
    ///
    /// # Errors
    /// [`Error::Damaged`] for the first that differs; [`Error::Io`]; [`Error::Interrupted`].
    pub(super) fn check<F: ReadAt>(&self, files: &[(String, F)], progress: &Progress) -> Result<Vec<String>> {
        let is_named = |name: &str| self.lines.iter().any(|line| line.file == name);
        let named = files.iter().filter(|(name, _)| is_named(name));
        progress.begin(Phase::Verifying, named.fold(0, |sum, (_, file)| file.size().saturating_add(sum)));
        files.iter().filter_map(|(name, file)| self.check_one(name, file, progress).transpose()).collect()
    }

    /// The same for files that lie beside the manifest.
    ///
    /// # Errors
    /// As [`Checksums::check`].
    pub(super) fn check_files(&self, paths: &[PathBuf], progress: &Progress) -> Result<Vec<String>> {
        let mut files = Vec::new();
        for path in paths {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            files.push((name, open_file(path)?.0));
        }
        self.check(&files, progress)
    }

    fn check_one(&self, name: &str, file: &dyn ReadAt, progress: &Progress) -> Result<Option<String>> {
        let manifest = self.path.display();
        let place = self.path.with_file_name(name);
        let mut lines = self.lines.iter().filter(|line| line.file == name).peekable();
        let Some(first) = lines.peek() else {
            return Ok(Some(format!("{manifest} has no checksum of {name}, so that it was not checked")));
        };
        let unknown = format!(
            "the checksum of {name} in {manifest} is of a kind that is not known here, {}, so that it was not checked",
            first.algorithm
        );
        let known = lines.find_map(|line| Some((line, algorithm(&line.algorithm)?)));
        let Some((line, algorithm)) = known else { return Ok(Some(unknown)) };
        let found = sum(file, algorithm, progress, &place)?;
        if found.eq_ignore_ascii_case(&line.sum) {
            return Ok(None);
        }
        Err(Error::damaged(
            place.display().to_string(),
            0,
            format!(
                "its {} is {found}, but {manifest} says {}: it was damaged or changed after the export. Copy it here again, or export the machine again; if it was changed on purpose, import it without that manifest (an archive has to be unpacked for that, with `tar -xf`)",
                line.algorithm, line.sum
            ),
        ))
    }
}

fn algorithm(name: &str) -> Option<&'static Algorithm> {
    let plain = name.replace('-', "");
    ALGORITHMS.iter().find(|(known, _)| plain.eq_ignore_ascii_case(known)).map(|(_, algorithm)| *algorithm)
}

/// `SHA256(a (1).vmdk)= 3d1f…`. A name may have brackets and equals signs; a sum has none.
fn line(text: &str) -> Option<Line> {
    let (algorithm, rest) = text.split_once('(')?;
    let (file, sum) = rest.rsplit_once(')')?;
    let sum = sum.trim().strip_prefix('=')?.trim();
    let is_sum = !sum.is_empty() && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_sum.then(|| Line { algorithm: algorithm.trim().to_owned(), file: file.trim().to_owned(), sum: sum.to_owned() })
}

/// The sum of all of a file, in hexadecimal digits.
fn sum(file: &dyn ReadAt, algorithm: &'static Algorithm, progress: &Progress, path: &Path) -> Result<String> {
    let mut context = Context::new(algorithm);
    let mut at = 0;
    while at < file.size() {
        progress.check()?;
        let len = usize::try_from(file.size() - at).unwrap_or(usize::MAX).min(PIECE_BYTES);
        context.update(&file.read_vec(at, len).map_err(Error::io("read", path))?);
        at += len as u64;
        Progress::add(&progress.done, len as u64);
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn checked(manifest: &str, name: &str, bytes: &[u8]) -> Result<Vec<String>> {
        let files = [(name.to_owned(), bytes.to_vec())];
        Checksums::parse(Path::new("/x/vm.mf"), manifest).check(&files, &Progress::new())
    }

    #[test]
    fn sums_are_checked_however_the_line_is_written() {
        // What sha1sum, sha256sum, sha384sum and sha512sum say of "abc".
        for manifest in [
            "SHA1(a (1)=.vmdk)= a9993e364706816aba3e25717850c26c9cd0d89d\r\n",
            "junk\nSHA256 (a (1)=.vmdk) = BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD\n",
            "sha-384(a (1)=.vmdk)=cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
            "MD5(a (1)=.vmdk)= 00\nSHA512(a (1)=.vmdk)= ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f\n",
        ] {
            assert_eq!(checked(manifest, "a (1)=.vmdk", b"abc").unwrap(), [""; 0], "{manifest}");
            let error = checked(manifest, "a (1)=.vmdk", b"abd").unwrap_err().to_string();
            assert!(error.starts_with("/x/a (1)=.vmdk is damaged") && error.contains("/x/vm.mf says"), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_checked_is_said() {
        let sum = "SHA1(b)= a9993e364706816aba3e25717850c26c9cd0d89d\n";
        assert_eq!(checked(sum, "a", b"abc").unwrap(), ["/x/vm.mf has no checksum of a, so that it was not checked"]);
        let remarks = checked("MD5(a)= 900150983cd24fb0d6963f7d28e17f72", "a", b"abc").unwrap();
        assert!(remarks.len() == 1 && remarks[0].contains("not known here, MD5"), "{remarks:?}");
        // Longer than a piece.
        let zeros = "SHA1(a)= 5f9b53f8b8e8ff7e0ce8bc7b2eb3fd8ce5e6ad5d";
        assert!(checked(zeros, "a", &vec![0; PIECE_BYTES + 1]).unwrap_err().to_string().contains("its SHA1 is"));
    }

    #[test]
    fn stopping_stops() {
        let progress = Progress::new();
        progress.stop();
        let sums = Checksums::parse(Path::new("vm.mf"), "SHA1(a)= 00");
        assert!(matches!(sums.check(&[("a".to_owned(), vec![1])], &progress), Err(Error::Interrupted)));
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart(text in "[A-Z0-9a-f()= \r\nä-]{0,80}") {
            let _ = Checksums::parse(Path::new("vm.mf"), &text);
        }
    }
}
