//! The storage seam: objects that can be listed, read in parts, put whole and deleted.
//!
//! The `object_store` crate does the work for local directories, and for object stores
//! when their features are turned on. Must not know: what is in the objects.
//!
//! A put is all or nothing, and durable when it returns: a local directory's file is flushed, renamed
//! into place and its directory flushed. A delete is durable when its folder's deletes were flushed.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_executor::block_on;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use nix::libc;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::error::{Error, Result};

/// Objects that are read whole are no larger than this. Whoever has access to the store may have put there
/// whatever does not fit into memory.
pub const WHOLE_BYTES_MAX: u64 = 290 << 20;

/// What the repository needs of its store. Names are `/`-separated and relative to the repository.
pub trait Store: Send + Sync {
    /// All objects whose name starts with the folder `folder` (without a trailing slash).
    ///
    /// # Errors
    /// [`Error::Store`]. A folder that is not there is empty.
    fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>>;

    /// A whole object, of at most [`WHOLE_BYTES_MAX`].
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Store`]; [`Error::Damaged`] for one that is larger.
    fn get(&self, name: &str) -> Result<Bytes>;

    /// A whole object, of at most `most` bytes.
    ///
    /// # Errors
    /// As [`Store::get`].
    fn get_at_most(&self, name: &str, most: u64) -> Result<Bytes> {
        let bytes = self.get(name)?;
        if bytes.len() as u64 > most { Err(too_large(name, most)) } else { Ok(bytes) }
    }

    /// Part of an object. A range that reaches past the object's end gives fewer bytes.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Store`].
    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes>;

    /// As [`Store::get_range`], in the memory that `room` has where that can be: what the system gives anew, it has to
    /// clear first.
    ///
    /// # Errors
    /// As there.
    fn get_range_in(&self, room: Vec<u8>, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        drop(room);
        self.get_range(name, range).map(Vec::from)
    }

    /// Writes a whole object, replacing one of the same name; durable when it returns.
    ///
    /// # Errors
    /// [`Error::Store`]; nothing is then visible under the name that was not before.
    fn put(&self, name: &str, parts: Vec<Bytes>) -> Result<()>;

    /// As [`Store::put`], but never replaces: `false` when the name is taken. Where a store cannot tell, as on
    /// FAT, two that write the same name at the same moment may both hear `true`.
    ///
    /// # Errors
    /// [`Error::Store`].
    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<bool>;

    /// Deletes an object; one that is not there is fine. It may be there again after a loss of power, until
    /// [`Store::flush_deletes`].
    ///
    /// # Errors
    /// [`Error::Store`].
    fn delete(&self, name: &str) -> Result<()>;

    /// After it, what was deleted from the folder `folder` stays deleted, whatever loses power.
    ///
    /// # Errors
    /// [`Error::Store`].
    fn flush_deletes(&self, folder: &str) -> Result<()> {
        let _ = folder;
        Ok(())
    }

    /// Removes what puts left that were cut off before their object became visible, if it was last written
    /// before `time`; gives its size in bytes.
    ///
    /// # Errors
    /// [`Error::Store`].
    fn remove_debris(&self, time: Timestamp) -> Result<u64> {
        let _ = time;
        Ok(0)
    }

    /// Where the store is, for messages.
    fn location(&self) -> String;

    /// The local directory behind it, if it is one: to keep it from being overwritten.
    fn local_directory(&self) -> Option<PathBuf> {
        None
    }
}

fn too_large(name: &str, most: u64) -> Error {
    Error::damaged(name, most, "larger than such an object is")
}

/// An object in a listing.
#[derive(Clone, Debug)]
pub struct ObjectInfo {
    /// Name, relative to the repository.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// When it was last written, by the store's clock.
    pub modified: Timestamp,
}

impl ObjectInfo {
    /// The last part of the name.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }
}

/// A store that the `object_store` crate speaks to.
///
/// Outside of a runtime the crate works on local files in the thread that asks, which saves two switches of threads for
/// every read. Stores on a network will have to bring their runtime along.
pub struct CrateStore {
    inner: Arc<dyn ObjectStore>,
    location: String,
    local: Option<PathBuf>,
}

impl CrateStore {
    /// A local directory: a disk, a stick, NFS, SMB. It must exist.
    ///
    /// # Errors
    /// [`Error::Io`] when it is not a directory that can be entered.
    pub fn local(directory: impl Into<PathBuf>) -> Result<Self> {
        let directory = directory.into();
        let directory = directory.canonicalize().map_err(Error::io("open", &directory))?;
        let inner = LocalFileSystem::new_with_prefix(&directory)
            .map_err(|error| store_error("open", &directory.display().to_string(), &error))?
            .with_fsync(true);
        let location = directory.display().to_string();
        Ok(Self { inner: Arc::new(inner), location, local: Some(directory) })
    }

    fn put_with(&self, name: &str, parts: Vec<Bytes>, mode: PutMode) -> object_store::Result<()> {
        let options = PutOptions { mode, ..PutOptions::default() };
        let payload: PutPayload = parts.into_iter().collect();
        block_on(self.inner.put_opts(&ObjectPath::from(name), payload, options)).map(drop)
    }
}

/// The last link of the crate's chain of causes says what happened.
fn cause_of(error: &object_store::Error) -> &(dyn std::error::Error + 'static) {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause
}

/// Whether the system says that it cannot do this, here, for anybody.
fn is_unsupported(error: &object_store::Error) -> bool {
    let code = cause_of(error).downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
    matches!(code, Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS))
}

/// As much of `range` as the file has. The crate would clear the memory first, however little of it is then filled.
fn read_part(room: Vec<u8>, path: &Path, range: Range<u64>) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let end = range.end.min(file.metadata()?.len());
    let len = usize::try_from(end.saturating_sub(range.start)).map_err(std::io::Error::other)?;
    let mut bytes = room;
    bytes.clear();
    if bytes.capacity() < len {
        bytes = Vec::new();
        bytes.try_reserve_exact(len)?;
    }
    file.seek(SeekFrom::Start(range.start))?;
    file.take(len as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The crate writes `name#1`, and then renames it.
fn is_debris(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

fn remove_debris(directory: &Path, time: SystemTime, depth: u32) -> std::io::Result<u64> {
    let mut freed = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        // Whatever is gone meanwhile is gone.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() && depth > 0 {
            freed += remove_debris(&entry.path(), time, depth - 1)?;
        } else if metadata.is_file()
            && is_debris(&entry.file_name().to_string_lossy())
            && metadata.modified()? < time
            && std::fs::remove_file(entry.path()).is_ok()
        {
            freed += metadata.len();
        }
    }
    Ok(freed)
}

fn store_error(operation: &'static str, object: &str, error: &object_store::Error) -> Error {
    match error {
        object_store::Error::NotFound { .. } => Error::Missing { object: object.to_owned() },
        _ => {
            let cause = cause_of(error);
            let detail = cause.downcast_ref::<std::io::Error>().map_or_else(|| cause.to_string(), crate::error::words);
            Error::Store { operation, object: object.to_owned(), detail }
        }
    }
}

fn info(meta: ObjectMeta) -> ObjectInfo {
    let nanoseconds = i32::try_from(meta.last_modified.timestamp_subsec_nanos()).unwrap_or(0);
    let modified = Timestamp::new(meta.last_modified.timestamp(), nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH);
    ObjectInfo { name: meta.location.to_string(), size: meta.size, modified }
}

impl Store for CrateStore {
    fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>> {
        let prefix = ObjectPath::from(folder);
        let listing = self.inner.list(Some(&prefix)).map_ok(info).try_collect::<Vec<_>>();
        let mut found = block_on(listing).map_err(|error| store_error("list", folder, &error))?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        self.get_at_most(name, WHOLE_BYTES_MAX)
    }

    fn get_at_most(&self, name: &str, most: u64) -> Result<Bytes> {
        let path = ObjectPath::from(name);
        let got = block_on(async {
            let found = self.inner.get(&path).await?;
            if found.meta.size > most { Ok(None) } else { found.bytes().await.map(Some) }
        });
        got.map_err(|error| store_error("read", name, &error))?.ok_or_else(|| too_large(name, most))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        if self.local.is_some() {
            return self.get_range_in(Vec::new(), name, range).map(Bytes::from);
        }
        block_on(self.inner.get_range(&ObjectPath::from(name), range))
            .map_err(|error| store_error("read", name, &error))
    }

    fn get_range_in(&self, room: Vec<u8>, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let Some(directory) = &self.local else { return self.get_range(name, range).map(Vec::from) };
        // The crate's names of files, which lead nowhere else.
        let path = directory.join(ObjectPath::from(name).as_ref());
        read_part(room, &path, range).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::Missing { object: name.to_owned() },
            _ => Error::Store { operation: "read", object: name.to_owned(), detail: crate::error::words(&error) },
        })
    }

    fn put(&self, name: &str, parts: Vec<Bytes>) -> Result<()> {
        self.put_with(name, parts, PutMode::Overwrite).map_err(|error| store_error("write", name, &error))
    }

    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<bool> {
        match self.put_with(name, parts.clone(), PutMode::Create) {
            Ok(()) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            // It takes a hard link, which exFAT, FAT and some network shares do not have.
            Err(error) if self.local.is_some() && is_unsupported(&error) => match self.get(name) {
                Ok(_) => Ok(false),
                Err(Error::Missing { .. }) => self.put(name, parts).map(|()| true),
                Err(error) => Err(error),
            },
            Err(error) => Err(store_error("write", name, &error)),
        }
    }

    fn delete(&self, name: &str) -> Result<()> {
        match block_on(self.inner.delete(&ObjectPath::from(name))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(store_error("delete", name, &error)),
        }
    }

    fn flush_deletes(&self, folder: &str) -> Result<()> {
        let Some(directory) = self.local.as_ref().map(|directory| directory.join(folder)) else { return Ok(()) };
        match std::fs::File::open(&directory).and_then(|directory| directory.sync_all()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            // Network shares that flush no directories have told their server at once.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS)) => {
                Ok(())
            }
            Err(error) => {
                let object = folder.to_owned();
                Err(Error::Store { operation: "flush", object, detail: crate::error::words(&error) })
            }
        }
    }

    fn remove_debris(&self, time: Timestamp) -> Result<u64> {
        let Some(directory) = &self.local else { return Ok(0) };
        let failed = |error: std::io::Error| Error::Store {
            operation: "list",
            object: directory.display().to_string(),
            detail: error.to_string(),
        };
        remove_debris(directory, time.into(), 3).map_err(failed)
    }

    fn location(&self) -> String {
        self.location.clone()
    }

    fn local_directory(&self) -> Option<PathBuf> {
        self.local.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_too_large_for_memory_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = CrateStore::local(dir.path()).unwrap();
        std::fs::File::create(dir.path().join("config")).unwrap().set_len(1 << 40).unwrap();
        assert!(matches!(store.get("config"), Err(Error::Damaged { .. })));
        assert_eq!(store.get_range("config", 5..9).unwrap(), [0; 4].as_slice());
    }

    #[test]
    fn deletes_of_a_folder_are_flushed_and_of_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = CrateStore::local(dir.path()).unwrap();
        store.put("images/a", vec!["one".into()]).unwrap();
        store.delete("images/a").unwrap();
        store.flush_deletes("images").unwrap();
        store.flush_deletes("packs").unwrap();
        std::fs::write(dir.path().join("index"), b"").unwrap();
        assert!(matches!(store.flush_deletes("index/a"), Err(Error::Store { operation: "flush", .. })));
    }

    #[test]
    fn a_name_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = CrateStore::local(dir.path()).unwrap();
        assert!(store.put_new("keys/a", vec!["one".into()]).unwrap());
        assert!(!store.put_new("keys/a", vec!["two".into()]).unwrap());
        assert_eq!(store.get("keys/a").unwrap(), "one");
    }

    use std::time::Duration;

    #[test]
    fn only_old_debris_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let store = CrateStore::local(directory.path()).unwrap();
        store.put("packs/ab/abcd", vec![Bytes::from_static(b"kept")]).unwrap();
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let file = |name: &str, time: SystemTime| {
            let path = directory.path().join("packs/ab").join(name);
            std::fs::write(&path, b"four").unwrap();
            std::fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
        };
        file("abcd", hour_ago);
        file("cut#1", hour_ago);
        file("cut#12", hour_ago);
        file("being written#1", SystemTime::now());
        file("somebody's #tag", hour_ago);
        let freed = store.remove_debris(Timestamp::now() - jiff::SignedDuration::from_mins(30)).unwrap();
        assert_eq!(freed, 8);
        let mut left: Vec<_> = std::fs::read_dir(directory.path().join("packs/ab"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["abcd", "being written#1", "somebody's #tag"]);
    }
}
