//! The archive that the kernel unpacks into its first root file system: cpio's "newc" form
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`), sorted, everything owned by root, every time the same.
//!
//! Must not know: what the files are for.

use std::collections::BTreeMap;

use crate::error::Error;

/// What is at one place of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A folder that everybody may read.
    Folder,
    /// A file that everybody may read.
    File(Vec<u8>),
    /// A file that everybody may run.
    Program(Vec<u8>),
    /// A symbolic link to this path.
    Link(String),
    /// A character device with these numbers, for root alone.
    CharacterDevice(u32, u32),
}

/// The archive's entries by their paths, which begin with no slash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// Puts an entry at an absolute path, with the folders above it.
    ///
    /// # Errors
    /// When something else is there already; the same twice is fine.
    pub fn add(&mut self, path: &str, entry: Entry) -> Result<(), Error> {
        let path = path.trim_matches('/');
        for (slash, _) in path.match_indices('/') {
            let above = path.get(..slash).unwrap_or_default();
            self.place(above, Entry::Folder)?;
        }
        self.place(path, entry)
    }

    fn place(&mut self, path: &str, entry: Entry) -> Result<(), Error> {
        match self.entries.get(path) {
            Some(there) if *there != entry => Err(Error::Twice(format!("/{path}"))),
            Some(_) => Ok(()),
            None => {
                self.entries.insert(path.to_owned(), entry);
                Ok(())
            }
        }
    }

    /// Every path with its entry, in the archive's order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// The archive's bytes, every file as of `time`, in seconds since 1970.
    ///
    /// # Errors
    /// When a file is too large for the form.
    pub fn to_bytes(&self, time: u32) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let mut number = 0_u32;
        for (path, entry) in &self.entries {
            number += 1;
            append(&mut bytes, path, entry, number, time)?;
        }
        append(&mut bytes, "TRAILER!!!", &Entry::File(Vec::new()), 0, 0)?;
        Ok(bytes)
    }
}

fn append(bytes: &mut Vec<u8>, path: &str, entry: &Entry, number: u32, time: u32) -> Result<(), Error> {
    let (mode, content): (u32, &[u8]) = match entry {
        Entry::Folder => (0o040_755, &[]),
        Entry::File(_) if number == 0 => (0, &[]),
        Entry::File(content) => (0o100_644, content),
        Entry::Program(content) => (0o100_755, content),
        Entry::Link(target) => (0o120_777, target.as_bytes()),
        Entry::CharacterDevice(..) => (0o020_600, &[]),
    };
    let (device_major, device_minor) = match entry {
        Entry::CharacterDevice(major, minor) => (*major, *minor),
        _ => (0, 0),
    };
    let too_large = || Error::TooLarge(path.to_owned());
    let content_size = u32::try_from(content.len()).map_err(|_| too_large())?;
    let name_size = u32::try_from(path.len() + 1).map_err(|_| too_large())?;
    let links = if matches!(entry, Entry::Folder) { 2 } else { 1 };
    const ROOT: u32 = 0;
    let fields = [number, mode, ROOT, ROOT, links, time, content_size, 0, 0, device_major, device_minor, name_size, 0];
    bytes.extend_from_slice(b"070701");
    for field in fields {
        bytes.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    bytes.extend_from_slice(path.as_bytes());
    bytes.push(0);
    pad(bytes);
    bytes.extend_from_slice(content);
    pad(bytes);
    Ok(())
}

/// Names and contents end at a multiple of four bytes.
fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_header_a_name_and_its_content() {
        let mut archive = Archive::default();
        archive.add("/init", Entry::Program(b"x".to_vec())).unwrap();
        let bytes = archive.to_bytes(0x5f00_0000).unwrap();
        let [magic, number, program, none, time] = ["070701", "00000001", "000081ED", "00000000", "5F000000"];
        let [one_link, one_byte, five_of_name] = ["00000001", "00000001", "00000005"];
        let fields =
            [magic, number, program, none, none, one_link, time, one_byte, none, none, none, none, five_of_name, none];
        let expected = fields.concat() + "init\0\0x\0\0\0";
        let expected = expected.as_bytes();
        assert_eq!(bytes.get(..expected.len()).unwrap(), expected);
        assert!(bytes.get(expected.len()..).unwrap().starts_with(b"07070100000000"));
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let mut archive = Archive::default();
        archive.add("/b/c/d", Entry::File(Vec::new())).unwrap();
        archive.add("/b-", Entry::Folder).unwrap();
        archive.add("/a", Entry::Link("b".into())).unwrap();
        let paths: Vec<&str> = archive.entries().map(|(path, _)| path).collect();
        assert_eq!(paths, ["a", "b", "b-", "b/c", "b/c/d"]);
    }

    #[test]
    fn two_things_cannot_be_at_one_place() {
        let mut archive = Archive::default();
        archive.add("/a", Entry::File(vec![1])).unwrap();
        archive.add("/a", Entry::File(vec![1])).unwrap();
        assert!(matches!(archive.add("/a", Entry::File(vec![2])), Err(Error::Twice(_))));
        assert!(matches!(archive.add("/a/b", Entry::Folder), Err(Error::Twice(_))));
    }
}
