//! The repository: a store of sealed objects that holds images of any number of machines.
//!
//! `FORMAT.md` describes every byte. Must not know: disks, file systems, how images come to be.

pub mod block_map;
pub mod clones;
pub mod config;
#[cfg(test)]
mod format_page;
pub mod frame;
pub mod index;
pub mod manifest;
pub mod object;
pub mod pack;
pub mod proofs;
pub mod reader;
pub mod seal;
pub mod session;
pub mod store;

use std::sync::Arc;

use zeroize::Zeroizing;

use self::config::{CONFIG, ChunkSizes, Config, FORMAT_VERSION, FrameSize, Hex, KEYS, KeySlot, from_lines, to_lines};
use self::object::Kind;
use self::pack::{ChunkId, Content, PackId, PackReader};
use self::seal::{MasterSecret, Suite, random};
use self::store::Store;
use crate::error::{Error, Result};

/// An open repository.
pub struct Repository {
    store: Arc<dyn Store>,
    config: Config,
    config_line: Vec<u8>,
    secret: MasterSecret,
    data_key: [u8; 32],
    map_key: [u8; 32],
}

/// How a new repository is locked.
pub enum Lock {
    /// Encrypted, with a first password.
    Password(Zeroizing<Vec<u8>>),
    /// Not encrypted.
    None,
}

impl Repository {
    /// Makes a repository in an empty store.
    ///
    /// # Errors
    /// [`Error::RepositoryExists`], or what the store says. The config is written last: killed before, there
    /// is no repository, and the next one does not mind what is left.
    pub fn create(store: Arc<dyn Store>, lock: &Lock, chunks: ChunkSizes, frames: FrameSize) -> Result<Self> {
        match store.get(CONFIG) {
            Err(Error::Missing { .. }) => {}
            Ok(config) if is_unfinished(&*store, &config)? => store.delete(CONFIG)?,
            Ok(_) => return Err(Error::RepositoryExists(store.location())),
            Err(error) => return Err(error),
        }
        // Without a config they open nothing.
        let stale_keys = store.list(KEYS)?;
        let bytes = random::<32>()?;
        let (seal, public_secret) = match lock {
            Lock::Password(_) => (Suite::Aes256Gcm, None),
            Lock::None => (Suite::Blake3, Some(Hex(bytes))),
        };
        let created = jiff::Timestamp::now();
        let (version, id) = (FORMAT_VERSION, Hex(random()?));
        let config = Config { version, id, created, seal, public_secret, chunks, frames };
        let object = to_lines(&config)?;
        let (config, config_line) = Config::from_bytes(&object)?;
        let secret = MasterSecret::new(seal, bytes, config.id.0);
        let repository = Self::assemble(store, config, config_line, secret);
        let key = match lock {
            Lock::Password(password) => Some(repository.add_key(password, "first")?),
            Lock::None => None,
        };
        let store = &repository.store;
        if !store.put_new(CONFIG, vec![object])? {
            let _ = key.map_or(Ok(()), |id| store.delete(&format!("{KEYS}/{id}")));
            return Err(Error::RepositoryExists(store.location()));
        }
        // One that stays costs a moment at every opening, no more.
        stale_keys.iter().for_each(|key| drop(store.delete(&key.name)));
        Ok(repository)
    }

    /// Opens a repository. `password` is asked for only when it is encrypted.
    ///
    /// # Errors
    /// [`Error::NoRepository`], [`Error::NewerFormat`], [`Error::WrongPassword`], damage, or what the store says.
    pub fn open(store: Arc<dyn Store>, password: impl FnOnce() -> Result<Zeroizing<Vec<u8>>>) -> Result<Self> {
        let object = match store.get(CONFIG) {
            Err(Error::Missing { .. }) => return Err(Error::NoRepository(store.location())),
            other => other?,
        };
        let (config, config_line) = Config::from_bytes(&object)?;
        let secret = match config.public_secret {
            Some(secret) => secret.0,
            None => *unlock(&*store, &password()?, &config_line)?,
        };
        let secret = MasterSecret::new(config.seal, secret, config.id.0);
        Ok(Self::assemble(store, config, config_line, secret))
    }

    fn assemble(store: Arc<dyn Store>, config: Config, config_line: Vec<u8>, secret: MasterSecret) -> Self {
        let (data_key, map_key) = (secret.derive("chunk", b""), secret.derive("map", b""));
        Self { store, config, config_line, secret, data_key, map_key }
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// What it was made with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What everything is sealed with.
    #[must_use]
    pub fn secret(&self) -> &MasterSecret {
        &self.secret
    }

    /// The id of a chunk whose bytes come in `parts`. Data and nodes of block maps are named with keys of their
    /// own: otherwise a file with the bytes of a node would be taken for the node, and could keep it from being
    /// stored.
    #[must_use]
    pub fn chunk_id<'a>(&self, content: Content, parts: impl IntoIterator<Item = &'a [u8]>) -> ChunkId {
        let key = match content {
            Content::Data => &self.data_key,
            Content::Map => &self.map_key,
        };
        let mut hasher = blake3::Hasher::new_keyed(key);
        for part in parts {
            hasher.update(part);
        }
        Hex(*hasher.finalize().as_bytes())
    }

    /// A reader for the pack `id`.
    #[must_use]
    pub fn pack_reader(&self, id: PackId) -> PackReader {
        PackReader::new(&self.secret, id)
    }

    /// Reads and opens a small object.
    ///
    /// # Errors
    /// [`Error::Damaged`], or what the store says.
    pub fn read_object(&self, kind: Kind, name: &str) -> Result<Vec<u8>> {
        object::open(&self.secret, kind, name, &self.store.get_at_most(name, kind.object_max())?)
    }

    /// Seals and writes a small object under a new random name, which it returns.
    ///
    /// # Errors
    /// What the store says.
    pub fn write_object(&self, kind: Kind, payload: &[u8]) -> Result<String> {
        let name = format!("{}/{}", kind.folder(), Hex::<16>(random()?));
        self.replace_object(kind, &name, payload)?;
        Ok(name)
    }

    /// Seals and writes a small object under a name of its own.
    ///
    /// # Errors
    /// What the store says.
    pub fn replace_object(&self, kind: Kind, name: &str, payload: &[u8]) -> Result<()> {
        self.store.put(name, vec![object::seal(&self.secret, kind, name, payload)?])
    }

    /// Adds a password; returns the new slot's id.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unencrypted repository; what the store says.
    pub fn add_key(&self, password: &[u8], label: &str) -> Result<String> {
        self.must_be_encrypted()?;
        let slot = KeySlot::seal(password, label, &self.secret, &self.config_line)?;
        let id = Hex::<4>(random()?).to_string();
        let name = format!("{KEYS}/{id}");
        match self.store.put_new(&name, vec![to_lines(&slot)?]) {
            Ok(true) => Ok(id),
            Ok(false) => Err(Error::Busy(format!("the key slot {id} exists already; try again"))),
            Err(error) => {
                // Nobody knows what is under that name now, and a password that was refused must not open.
                let _ = self.store.delete(&name);
                Err(error)
            }
        }
    }

    /// All key slots with their ids; damage in place of those that cannot be read.
    ///
    /// # Errors
    /// What the store says.
    pub fn keys(&self) -> Result<Vec<(String, Result<KeySlot>)>> {
        key_slots(&*self.store)
    }

    /// Removes a password. The last one stays.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is no such slot or it is the last; what the store says.
    pub fn remove_key(&self, id: &str) -> Result<()> {
        self.must_be_encrypted()?;
        let keys = key_slots(&*self.store)?;
        if !keys.iter().any(|(found, _)| found == id) {
            return Err(Error::Usage(format!("there is no key slot {id}; `imager key list` lists them")));
        }
        if !keys.iter().any(|(found, slot)| found != id && slot.is_ok()) {
            return Err(Error::Usage("the last key slot stays: without it nothing could be read".into()));
        }
        self.store.delete(&format!("{KEYS}/{id}"))?;
        // A password that was taken away must not be back after a loss of power.
        self.store.flush_deletes(KEYS)
    }

    fn must_be_encrypted(&self) -> Result<()> {
        match self.config.seal {
            Suite::Aes256Gcm => Ok(()),
            Suite::Blake3 => Err(Error::Usage("the repository is not encrypted and has no keys".into())),
        }
    }

    /// Checks the config and every key slot against its checksum.
    ///
    /// # Errors
    /// What the store says; damage is in the result.
    pub fn check_plain_objects(&self) -> Result<Vec<Error>> {
        let slots = key_slots(&*self.store)?;
        let mut damaged = Vec::new();
        if self.config.seal == Suite::Aes256Gcm && !slots.iter().any(|(_, slot)| slot.is_ok()) {
            damaged.push(Error::Missing { object: "every key slot that could be opened".to_owned() });
        }
        for (id, slot) in slots {
            match slot {
                Ok(_) => {}
                Err(Error::Damaged { object, offset, what }) => damaged.push(Error::damaged(
                    object,
                    offset,
                    format!("{what}; other passwords still open, and `imager key remove {id}` takes it away"),
                )),
                Err(error) => damaged.push(error),
            }
        }
        if let Err(error) = Config::from_bytes(&self.store.get(CONFIG)?) {
            damaged.push(error);
        }
        Ok(damaged)
    }
}

/// Half of a config is what is left of the making of a repository that was cut off, if there is nothing else.
fn is_unfinished(store: &dyn Store, config: &[u8]) -> Result<bool> {
    if !matches!(Config::from_bytes(config), Err(Error::Damaged { .. })) {
        return Ok(false);
    }
    for folder in ["images", "packs", "index", "sessions"] {
        if !store.list(folder)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn key_slots(store: &dyn Store) -> Result<Vec<(String, Result<KeySlot>)>> {
    let mut slots = Vec::new();
    for object in store.list(KEYS)? {
        let slot = match store.get(&object.name) {
            Ok(bytes) => from_lines(&object.name, &bytes).map(|(slot, _)| slot),
            // Removed meanwhile.
            Err(Error::Missing { .. }) => continue,
            Err(error) => return Err(error),
        };
        slots.push((object.file_name().to_owned(), slot));
    }
    Ok(slots)
}

fn unlock(store: &dyn Store, password: &[u8], config_line: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
    let mut damaged = None;
    for (_, slot) in key_slots(store)? {
        match slot.and_then(|slot: KeySlot| slot.open(password, config_line)) {
            Ok(Some(secret)) => return Ok(secret),
            Ok(None) => {}
            Err(error) => damaged = Some(error),
        }
    }
    // A damaged slot might be the one that this password opens.
    Err(damaged.unwrap_or(Error::WrongPassword))
}
