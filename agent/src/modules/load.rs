//! Loading modules, several at once, each once, what it needs first.
//!
//! Must not know: hardware, the format of the index.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use nix::errno::Errno;
use nix::kmod::ModuleInitFlags;

use super::index::Index;
use crate::log::say;

/// Loads modules of one kernel.
pub(super) struct Loader {
    index: Index,
    blacklist: BTreeSet<String>,
    modules: Mutex<BTreeMap<String, State>>,
    changed: Condvar,
    /// Asked for and not yet done.
    pending: AtomicUsize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Loading,
    Loaded,
    Failed,
}

impl Loader {
    /// What is on the blacklist is not loaded for any hardware, only by its name.
    pub(super) fn new(index: Index, blacklist: &[String]) -> Self {
        Self {
            index,
            blacklist: blacklist.iter().map(|name| name.replace('-', "_")).collect(),
            modules: Mutex::default(),
            changed: Condvar::new(),
            pending: AtomicUsize::new(0),
        }
    }

    /// Something was asked for.
    pub(super) fn wants_one(&self) {
        self.pending.fetch_add(1, Ordering::SeqCst);
    }

    /// It was done.
    pub(super) fn done_one(&self) {
        self.pending.fetch_sub(1, Ordering::SeqCst);
    }

    /// Everything that was asked for is done.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.load(Ordering::SeqCst) == 0
    }

    /// How many modules were loaded.
    pub(super) fn count(&self) -> usize {
        let modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        modules.values().filter(|&&state| state == State::Loaded).count()
    }

    /// Loads all modules for an alias or a name; true when there are some and all are there now.
    pub(super) fn load_for(&self, alias: &str) -> bool {
        let names = self.index.find(alias);
        let is_name = |name: &String| *name == alias.replace('-', "_");
        let wanted: Vec<&String> =
            names.iter().filter(|name| is_name(name) || !self.blacklist.contains(*name)).collect();
        // One that fails keeps no other from being loaded.
        !wanted.is_empty() && wanted.into_iter().filter(|name| !self.load(name, &mut Vec::new())).count() == 0
    }

    /// `above` are those for whose sake this one is loaded: soft dependencies may go in circles.
    fn load(&self, name: &str, above: &mut Vec<String>) -> bool {
        if self.index.is_builtin(name) || above.iter().any(|other| other == name) {
            return true;
        }
        if let Some(state) = self.state(name)
            && state != State::Loading
        {
            return state == State::Loaded;
        }
        above.push(name.to_owned());
        let soft = self.index.soft(name);
        self.load_soft(&soft.before, above);
        let mut is_loaded = true;
        for needed in self.index.needs(name) {
            is_loaded &= self.load(&needed, above);
        }
        is_loaded = is_loaded && self.load_alone(name);
        self.load_soft(&soft.after, above);
        above.pop();
        is_loaded
    }

    fn load_soft(&self, aliases: &[String], above: &mut Vec<String>) {
        for name in aliases.iter().flat_map(|alias| self.index.find(alias)) {
            self.load(&name, above);
        }
    }

    fn state(&self, name: &str) -> Option<State> {
        self.modules.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    /// While this waits, it holds nothing that another waits for.
    fn load_alone(&self, name: &str) -> bool {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match modules.get(name) {
                None => break,
                Some(State::Loading) => modules = self.changed.wait(modules).unwrap_or_else(PoisonError::into_inner),
                Some(state) => return *state == State::Loaded,
            }
        }
        modules.insert(name.to_owned(), State::Loading);
        drop(modules);
        let state = match self.index.file(name).map(|file| insert(&file)) {
            Some(Ok(())) => State::Loaded,
            // The hardware it is for is not there after all: of no interest.
            Some(Err(Errno::ENODEV)) => State::Failed,
            Some(Err(error)) => {
                say(&format!("module {name}: {}", error.desc()));
                State::Failed
            }
            None => State::Failed,
        };
        self.modules.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), state);
        self.changed.notify_all();
        state == State::Loaded
    }
}

/// The kernel decompresses the module itself: `MODULE_INIT_COMPRESSED_FILE` of `linux/module.h`.
const COMPRESSED_FILE: ModuleInitFlags = ModuleInitFlags::from_bits_retain(4);

fn insert(path: &std::path::Path) -> nix::Result<()> {
    let is_plain = path.extension().is_some_and(|extension| extension == "ko");
    let flags = if is_plain { ModuleInitFlags::empty() } else { COMPRESSED_FILE };
    let file = File::open(path).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO)))?;
    match nix::kmod::finit_module(&file, c"", flags) {
        Err(Errno::EEXIST) => Ok(()),
        other => other,
    }
}
