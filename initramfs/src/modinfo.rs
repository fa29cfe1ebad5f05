//! What a module says of itself, in its `.modinfo` section: `key=value` strings, each ended by a zero byte
//! (`include/linux/moduleparam.h`).
//!
//! Must not know: where modules are, what becomes of them.

use crate::elf::{Elf, Problem};

/// What a module says of itself, as far as it is needed to load it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModInfo {
    /// Its name, with `_` only.
    pub name: String,
    /// Modules whose symbols it uses.
    pub depends: Vec<String>,
    /// Patterns of the devices, file systems … that it is for.
    pub aliases: Vec<String>,
    /// As written: `pre: a b post: c`.
    pub softdeps: Vec<String>,
    /// Files below `/lib/firmware` that it may ask for; some are patterns with `*`.
    pub firmware: Vec<String>,
}

impl ModInfo {
    /// Reads it from a module's bytes, not compressed.
    ///
    /// # Errors
    /// When the bytes are no module.
    pub fn from_module(bytes: &[u8]) -> Result<Self, &'static str> {
        const MISSING: Problem = "not a kernel module: it has no .modinfo section";
        Ok(Self::from_section(Elf::from_bytes(bytes)?.section(".modinfo")?.ok_or(MISSING)?))
    }

    fn from_section(section: &[u8]) -> Self {
        let mut info = Self::default();
        for entry in section.split(|&byte| byte == 0) {
            let entry = String::from_utf8_lossy(entry);
            let Some((key, value)) = entry.split_once('=') else { continue };
            match key {
                "name" => info.name = canonical(value),
                "depends" => info.depends = value.split(',').filter(|name| !name.is_empty()).map(canonical).collect(),
                "alias" => info.aliases.push(value.to_owned()),
                "softdep" => info.softdeps.push(value.to_owned()),
                "firmware" => info.firmware.push(value.to_owned()),
                _ => {}
            }
        }
        info
    }

    /// The modules that a soft dependency names, whether before or after this one.
    pub fn soft(&self) -> impl Iterator<Item = String> {
        let words = self.softdeps.iter().flat_map(|softdep| softdep.split_ascii_whitespace());
        words.filter(|word| !word.ends_with(':')).map(canonical)
    }
}

/// A module's name as the kernel writes it: `-` and `_` are the same.
#[must_use]
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_needed_are_kept_and_others_are_not() {
        let section = b"alias=pci:v00001AF4d*\0alias=virtio-x\0license=GPL\0depends=a-b,c\0name=virtio_x\0\
                        softdep=pre: crc32c post: d-e\0firmware=x/y.bin\0\0\0nonsense\0";
        let info = ModInfo::from_section(section);
        assert_eq!(info.name, "virtio_x");
        assert_eq!(info.depends, ["a_b", "c"]);
        assert_eq!(info.aliases, ["pci:v00001AF4d*", "virtio-x"]);
        assert_eq!(info.firmware, ["x/y.bin"]);
        assert_eq!(info.soft().collect::<Vec<_>>(), ["crc32c", "d_e"]);
    }

    #[test]
    fn a_module_that_depends_on_nothing_says_so_with_nothing() {
        assert_eq!(ModInfo::from_section(b"depends=\0").depends, Vec::<String>::new());
    }

    #[test]
    fn other_bytes_are_no_module() {
        assert_eq!(ModInfo::from_module(b"#!/bin/sh"), Err("not an ELF file"));
    }
}
