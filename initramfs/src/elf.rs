//! The little of the ELF format that modules and programs need: sections by name, and which libraries are linked.
//!
//! The form is the System V ABI's, 64-bit and little-endian only. Never panics, whatever the bytes. Must not know: what
//! the sections mean.

/// What is wrong with a file that should be ELF.
pub(crate) type Problem = &'static str;

const CUT_SHORT: Problem = "not a whole ELF file: it ends too early";

/// A file's bytes that have a 64-bit little-endian ELF header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elf<'a> {
    bytes: &'a [u8],
}

/// Where a table of equal entries is.
struct Entries {
    offset: usize,
    size: usize,
    count: usize,
}

impl<'a> Elf<'a> {
    pub(crate) fn from_bytes(bytes: &'a [u8]) -> Result<Self, Problem> {
        const CLASS_64_DATA_LITTLE: &[u8] = &[2, 1];
        if !bytes.starts_with(b"\x7fELF") {
            return Err("not an ELF file");
        }
        if bytes.get(4..6) != Some(CLASS_64_DATA_LITTLE) {
            return Err("an ELF file for another kind of machine");
        }
        Ok(Self { bytes })
    }

    /// The content of the section with this name.
    pub(crate) fn section(&self, name: &str) -> Result<Option<&'a [u8]>, Problem> {
        let table = Entries { offset: self.word(40)?, size: self.half(58)?, count: self.half(60)? };
        let names = self.section_content(self.entry(&table, self.half(62)?)?)?;
        for index in 0..table.count {
            let header = self.entry(&table, index)?;
            let name_offset = usize::try_from(u32_at(header, 0)?).map_err(|_| CUT_SHORT)?;
            let rest = names.get(name_offset..).unwrap_or_default();
            if rest.split(|&byte| byte == 0).next() == Some(name.as_bytes()) {
                return self.section_content(header).map(Some);
            }
        }
        Ok(None)
    }

    /// Names of the libraries that the file is linked with, and of the loader that starts it.
    pub(crate) fn needed(&self) -> Result<Vec<String>, Problem> {
        const LOADER: u32 = 3;
        const NEEDED: u64 = 1;
        let mut needed = Vec::new();
        let table = Entries { offset: self.word(32)?, size: self.half(54)?, count: self.half(56)? };
        for index in 0..table.count {
            let header = self.entry(&table, index)?;
            if u32_at(header, 0)? == LOADER {
                let path = self.slice(usize_at(header, 8)?, usize_at(header, 32)?)?;
                needed.extend(text_at(path, 0));
            }
        }
        let (Some(entries), Some(names)) = (self.section(".dynamic")?, self.section(".dynstr")?) else {
            return Ok(needed);
        };
        for entry in entries.chunks_exact(16) {
            if u64_at(entry, 0)? == NEEDED {
                needed.push(text_at(names, usize_at(entry, 8)?).ok_or(CUT_SHORT)?);
            }
        }
        Ok(needed)
    }

    fn section_content(&self, header: &[u8]) -> Result<&'a [u8], Problem> {
        self.slice(usize_at(header, 24)?, usize_at(header, 32)?)
    }

    fn entry(&self, table: &Entries, index: usize) -> Result<&'a [u8], Problem> {
        let offset = index.checked_mul(table.size).and_then(|offset| offset.checked_add(table.offset));
        self.slice(offset.ok_or(CUT_SHORT)?, table.size)
    }

    fn slice(&self, offset: usize, len: usize) -> Result<&'a [u8], Problem> {
        let end = offset.checked_add(len).ok_or(CUT_SHORT)?;
        self.bytes.get(offset..end).ok_or(CUT_SHORT)
    }

    fn word(&self, offset: usize) -> Result<usize, Problem> {
        usize_at(self.bytes, offset)
    }

    fn half(&self, offset: usize) -> Result<usize, Problem> {
        array_at(self.bytes, offset).map(u16::from_le_bytes).map(usize::from)
    }
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N], Problem> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    field.copied().ok_or(CUT_SHORT)
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32, Problem> {
    array_at(bytes, offset).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Result<u64, Problem> {
    array_at(bytes, offset).map(u64::from_le_bytes)
}

fn usize_at(bytes: &[u8], offset: usize) -> Result<usize, Problem> {
    usize::try_from(u64_at(bytes, offset)?).map_err(|_| CUT_SHORT)
}

fn text_at(bytes: &[u8], offset: usize) -> Option<String> {
    let text = bytes.get(offset..)?.split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_program_is_linked_with_the_c_library() {
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        let elf = Elf::from_bytes(&bytes).unwrap();
        assert!(elf.section(".text").unwrap().is_some_and(|text| !text.is_empty()));
        assert_eq!(elf.section(".nothing").unwrap(), None);
        assert!(elf.needed().unwrap().contains(&"libc.so.6".to_owned()));
    }

    #[test]
    fn a_file_that_is_cut_short_or_flipped_never_panics() {
        let whole = std::fs::read("/proc/self/exe").unwrap();
        let mut head = whole.get(..4096).unwrap().to_vec();
        for len in 0..head.len() {
            let _ = Elf::from_bytes(head.get(..len).unwrap()).map(|elf| (elf.section(".modinfo"), elf.needed()));
        }
        for place in 0..64 {
            for value in [0, 1, 0x7f, 0xff] {
                let saved = std::mem::replace(head.get_mut(place).unwrap(), value);
                let _ = Elf::from_bytes(&head).map(|elf| (elf.section(".modinfo"), elf.needed()));
                *head.get_mut(place).unwrap() = saved;
            }
        }
    }
}
