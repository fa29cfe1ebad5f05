//! Opening repositories and asking for passwords.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::Global;
use crate::clone::Sidecar;
use crate::error::{Error, Result};
use crate::repo::Repository;
use crate::repo::config::{CONFIG, Config};
use crate::repo::seal::Suite;
use crate::repo::store::{CrateStore, Store};

/// The store that `location` names.
pub(super) fn store(location: &str) -> Result<Arc<dyn Store>> {
    let path = Path::new(location);
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(Arc::new(CrateStore::local(path)?)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("open the repository", path)(error)),
        _ => Err(Error::NoRepository(location.to_owned())),
    }
}

/// Opens the repository of the arguments.
pub(super) fn repository(global: &Global) -> Result<Arc<Repository>> {
    let location = global
        .repo
        .as_deref()
        .ok_or_else(|| Error::Usage("which repository? Give it with --repo or in IMAGER_REPO".into()))?;
    at(global, location)
}

fn at(global: &Global, location: &str) -> Result<Arc<Repository>> {
    let repository = Repository::open(store(location)?, || password(global, "Password of the repository: "))?;
    // Whoever can write to the store can put an unencrypted repository in an encrypted one's place, to be given
    // what must not be read by all.
    if repository.config().seal == Suite::Blake3 && is_password_given(global) {
        return Err(Error::Usage(format!(
            "a password was given, but the repository {location} is not encrypted: everybody who gets at it can read it, and forge it. If it is meant to be like that, give no password"
        )));
    }
    Ok(Arc::new(repository))
}

/// Opens the repository that a linked clone belongs to: that of the arguments, or where the text beside the clone says.
///
/// # Errors
/// As [`repository`].
pub(super) fn of_clone(global: &Global, file: &Path) -> Result<Arc<Repository>> {
    let Some(sidecar) = Sidecar::read(file) else { return repository(global) };
    let is_it = |location: &str| {
        let found = store(location).and_then(|store| store.get(CONFIG));
        found.and_then(|config| Config::from_bytes(&config)).is_ok_and(|(config, _)| config.id == sidecar.repository_id)
    };
    match &global.repo {
        Some(given) if is_it(given) => repository(global),
        _ if is_it(&sidecar.repository) => at(global, &sidecar.repository),
        _ => Err(Error::NoRepository(format!(
            "{} belongs to the repository {}, which was at {} and is not there now (give it with --repo): that place",
            file.display(),
            sidecar.repository_id,
            sidecar.repository
        ))),
    }
}

fn is_password_given(global: &Global) -> bool {
    global.password_file.is_some() || std::env::var_os("IMAGER_PASSWORD").is_some()
}

/// The password, from a file, the environment or the terminal.
pub(super) fn password(global: &Global, prompt: &str) -> Result<Zeroizing<Vec<u8>>> {
    if let Some(path) = &global.password_file {
        return from_file(path);
    }
    if let Some(password) = from_environment() {
        return Ok(password);
    }
    if !io::stdin().is_terminal() {
        return Err(Error::PasswordNeeded);
    }
    let typed = rpassword::prompt_password(prompt).map_err(Error::io("read the password from", "the terminal"))?;
    Ok(Zeroizing::new(typed.into_bytes()))
}

/// The password in the environment, where scripts may keep it. An empty variable is none.
pub(super) fn from_environment() -> Option<Zeroizing<Vec<u8>>> {
    let password = std::env::var_os("IMAGER_PASSWORD").filter(|password| !password.is_empty())?;
    Some(Zeroizing::new(password.into_encoded_bytes()))
}

/// A new password, from a file or typed twice on a terminal; `otherwise` says how else to give it.
pub(super) fn new_password(file: Option<&Path>, prompt: &str, otherwise: &str) -> Result<Zeroizing<Vec<u8>>> {
    if let Some(path) = file {
        return from_file(path);
    }
    if !io::stdin().is_terminal() {
        return Err(Error::Usage(otherwise.to_owned()));
    }
    let read =
        |prompt: &str| rpassword::prompt_password(prompt).map_err(Error::io("read the password from", "the terminal"));
    let (first, second) = (Zeroizing::new(read(prompt)?), Zeroizing::new(read("The same again: ")?));
    if *first != *second {
        return Err(Error::Usage("the two passwords differ".into()));
    }
    not_empty(Zeroizing::new(first.as_bytes().to_vec()))
}

/// The first line of a file.
fn from_file(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let bytes = Zeroizing::new(std::fs::read(path).map_err(Error::io("read the password from", path))?);
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    not_empty(Zeroizing::new(line.strip_suffix(b"\r").unwrap_or(line).to_vec()))
}

fn not_empty(password: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>> {
    if password.is_empty() { Err(Error::Usage("the password is empty".into())) } else { Ok(password) }
}
