//! The kernel's modules as its package has them, and those of them that a list asks for with all that they need.
//!
//! Modules are never changed: their signature is part of the file. Compressed ones stay so, which the kernel can
//! load (`finit_module(2)` with `MODULE_INIT_COMPRESSED_FILE`) and which takes a quarter of the memory.
//!
//! Must not know: the archive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::list::{Effect, ModuleEntry, ModuleList, Names};
use crate::modinfo::{ModInfo, canonical};

/// A kernel's folder of modules: `/lib/modules/VERSION` of its package.
#[derive(Debug)]
pub struct Tree {
    folder: PathBuf,
    /// Every module's path below the folder, by its name.
    paths: BTreeMap<String, String>,
    /// Where a module stands in the order that the kernel's makers gave them: of two that fit a device, the first wins.
    order: BTreeMap<String, usize>,
    /// Names of what is built into the kernel.
    built_in: BTreeSet<String>,
}

/// A module that goes on the medium.
#[derive(Clone, Debug)]
pub struct Module {
    /// Below the kernel's folder: `kernel/drivers/block/loop.ko.xz`.
    pub path: String,
    /// The file as its package has it.
    pub content: Vec<u8>,
    /// What it says of itself.
    pub info: ModInfo,
}

impl Tree {
    /// Lists what is there.
    ///
    /// # Errors
    /// When the folder cannot be read, or is no kernel's.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let lines = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(Error::file(&path))
        };
        let order = lines("modules.order")?.lines().enumerate().map(|(index, path)| (name_of(path), index)).collect();
        let built_in = lines("modules.builtin")?.lines().map(name_of).collect();
        let mut paths = BTreeMap::new();
        let mut folders = vec!["kernel".to_owned()];
        while let Some(below) = folders.pop() {
            let path = folder.join(&below);
            for entry in fs::read_dir(&path).map_err(Error::file(&path))? {
                let entry = entry.map_err(Error::file(&path))?;
                let name = format!("{below}/{}", entry.file_name().to_string_lossy());
                if entry.file_type().map_err(Error::file(&path))?.is_dir() {
                    folders.push(name);
                } else if name.ends_with(".ko") || name.ends_with(".ko.xz") {
                    paths.insert(name_of(&name), name);
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), paths, order, built_in })
    }

    /// The folder that was opened.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The modules that a list asks for and all that they depend on, in the order of `modules.order`.
    ///
    /// What a module merely prefers to have loaded with it (`softdep`) comes along when the kernel has it.
    ///
    /// # Errors
    /// When an entry names nothing, a module is damaged, or needs one that is not there. `list_name` stands in complaints.
    pub fn select(&self, list_name: &str, list: &ModuleList) -> Result<Vec<Module>, Error> {
        let mut wanted = BTreeSet::new();
        for entry in &list.entries {
            let named = self.named(&entry.names);
            match entry.effect {
                Effect::Exclude => wanted.retain(|name| !named.contains(name)),
                Effect::Include if named.is_empty() && !self.is_built_in(&entry.names) => {
                    return Err(nothing(list_name, entry));
                }
                Effect::Include | Effect::IncludeIfThere => wanted.extend(named),
            }
        }
        self.with_dependencies(wanted.into_iter().collect())
    }

    fn named(&self, names: &Names) -> Vec<String> {
        let matches = |name: &str, path: &str| match names {
            Names::Module(module) => name == module,
            Names::Path(wanted) => stem(path).strip_prefix("kernel/") == Some(wanted),
            Names::Folder(folder) => path.strip_prefix("kernel/").is_some_and(|path| path.starts_with(folder.as_str())),
        };
        let found = self.paths.iter().filter(|(name, path)| matches(name, path));
        found.map(|(name, _)| name.clone()).collect()
    }

    fn is_built_in(&self, names: &Names) -> bool {
        matches!(names, Names::Module(module) if self.built_in.contains(module))
    }

    fn with_dependencies(&self, mut wanted: Vec<String>) -> Result<Vec<Module>, Error> {
        let mut modules: BTreeMap<String, Module> = BTreeMap::new();
        while let Some(name) = wanted.pop() {
            if modules.contains_key(&name) {
                continue;
            }
            let Some(path) = self.paths.get(&name) else { continue };
            let module = self.read(path)?;
            for needed in &module.info.depends {
                if !self.paths.contains_key(needed) && !self.built_in.contains(needed) {
                    return Err(Error::Module { module: name, needed: needed.clone() });
                }
            }
            wanted.extend(module.info.depends.iter().cloned().chain(module.info.soft()));
            modules.insert(name, module);
        }
        let place = |name: &str| self.order.get(name).copied().unwrap_or(usize::MAX);
        let mut ordered: Vec<(String, Module)> = modules.into_iter().collect();
        ordered.sort_by_cached_key(|(name, _)| (place(name), name.clone()));
        Ok(ordered.into_iter().map(|(_, module)| module).collect())
    }

    fn read(&self, path: &str) -> Result<Module, Error> {
        let file = self.folder.join(path);
        let content = fs::read(&file).map_err(Error::file(&file))?;
        let info = if path.ends_with(".xz") {
            let mut plain = Vec::new();
            let read = liblzma::read::XzDecoder::new(content.as_slice()).take(PLAIN_BYTES_MAX).read_to_end(&mut plain);
            read.map_err(Error::file(&file))?;
            ModInfo::from_module(&plain)
        } else {
            ModInfo::from_module(&content)
        };
        let mut info = info.map_err(|problem| Error::Elf { path: file, problem })?;
        // Old kernels' modules do not say their names.
        info.name = name_of(path);
        Ok(Module { path: path.to_owned(), content, info })
    }
}

/// More than any module has.
const PLAIN_BYTES_MAX: u64 = 256 << 20;

fn nothing(list: &str, entry: &ModuleEntry) -> Error {
    let (Names::Module(name) | Names::Path(name) | Names::Folder(name)) = &entry.names;
    let problem = format!("this kernel has no {name}; a `?` before it says that it may be missing");
    Error::Line { list: list.to_owned(), line: entry.line, problem }
}

fn stem(path: &str) -> &str {
    path.strip_suffix(".xz").unwrap_or(path).trim_end_matches(".ko")
}

fn name_of(path: &str) -> String {
    canonical(stem(path).rsplit('/').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modules_name_comes_from_its_file() {
        assert_eq!(name_of("kernel/drivers/usb/storage/usb-storage.ko.xz"), "usb_storage");
        assert_eq!(name_of("kernel/fs/ext4/ext4.ko"), "ext4");
    }
}
