//! Programs with the libraries that they are linked with, out of unpacked packages.
//!
//! Must not know: where packages come from.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cpio::{Archive, Entry};
use crate::elf::Elf;
use crate::error::Error;
use crate::list::ProgramEntry;

/// Where Debian's packages have libraries.
const LIBRARY_FOLDERS: &[&str] = &["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64"];

/// Where the archive has them: a folder that the loader searches.
const LIBRARIES: &str = "/lib/x86_64-linux-gnu";

/// A link to a link to a link … ends somewhere.
const LINKS_MAX: usize = 16;

/// Adds a program, its libraries and its links. `packages` are the folders into which its packages are unpacked.
///
/// # Errors
/// When the program or a library is in none of them.
pub fn add(archive: &mut Archive, program: &ProgramEntry, packages: &[PathBuf]) -> Result<(), Error> {
    let missing = |library: &str| Error::Library { program: program.path.clone().into(), library: library.to_owned() };
    let file = find(packages, &program.path).ok_or_else(|| missing("its own package"))?;
    let content = read(&file)?;
    let mut wanted = needed(&file, &content)?;
    archive.add(&program.path, Entry::Program(content))?;
    let mut added = BTreeSet::new();
    while let Some(library) = wanted.pop() {
        if !added.insert(library.clone()) {
            continue;
        }
        let file = find_library(packages, &library).ok_or_else(|| missing(&library))?;
        let content = read(&file)?;
        wanted.extend(needed(&file, &content)?);
        // The loader is asked for by its whole path.
        let place = if library.starts_with('/') { library } else { format!("{LIBRARIES}/{library}") };
        archive.add(&place, Entry::Program(content))?;
    }
    for link in &program.links {
        archive.add(link, Entry::Link(program.path.clone()))?;
    }
    Ok(())
}

fn needed(file: &Path, content: &[u8]) -> Result<Vec<String>, Error> {
    let needed = Elf::from_bytes(content).and_then(|elf| elf.needed());
    // The loader is linked into libraries under its name alone; the program has named its path.
    let needed = needed.map_err(|problem| Error::Elf { path: file.to_owned(), problem })?;
    Ok(needed.into_iter().filter(|name| name.starts_with('/') || !name.starts_with("ld-linux")).collect())
}

fn find_library(packages: &[PathBuf], library: &str) -> Option<PathBuf> {
    if library.starts_with('/') {
        return find(packages, library);
    }
    LIBRARY_FOLDERS.iter().find_map(|folder| find(packages, &format!("/{folder}/{library}")))
}

/// The file at an absolute path of the packages together. Links stay within them.
fn find(packages: &[PathBuf], path: &str) -> Option<PathBuf> {
    let mut path = PathBuf::from(path);
    for _ in 0..LINKS_MAX {
        let inside = |package: &PathBuf| package.join(path.strip_prefix("/").unwrap_or(&path));
        let there = packages.iter().map(inside).find(|file| file.symlink_metadata().is_ok());
        // A package may still have in `/lib` what others have in `/usr/lib`, and the other way round.
        let there = there.or_else(|| {
            let other = match path.strip_prefix("/usr") {
                Ok(rest) => rest.to_owned(),
                Err(_) => Path::new("usr").join(path.strip_prefix("/").unwrap_or(&path)),
            };
            packages.iter().map(|package| package.join(&other)).find(|file| file.symlink_metadata().is_ok())
        })?;
        match fs::read_link(&there) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("/")).join(target),
            Err(_) => return Some(there),
        }
    }
    None
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    fs::read(file).map_err(Error::file(file))
}
