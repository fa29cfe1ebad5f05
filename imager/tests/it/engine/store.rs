//! Stores for tests: one in memory with a clock of its own, and one that does as a test says at every call.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use imager::repo::store::{ObjectInfo, Store};
use imager::{Error, Result};
use jiff::{SignedDuration, Timestamp};

/// Objects in memory. Time passes only when a test says so.
#[derive(Default)]
pub(crate) struct MemStore {
    objects: Mutex<BTreeMap<String, (Bytes, Timestamp)>>,
    now_seconds: AtomicI64,
}

impl MemStore {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { objects: Mutex::default(), now_seconds: AtomicI64::new(1_800_000_000) })
    }

    /// Another store with the same objects, at the same time.
    pub(crate) fn fork(&self) -> Arc<Self> {
        let objects = Mutex::new(self.objects.lock().unwrap().clone());
        Arc::new(Self { objects, now_seconds: AtomicI64::new(self.now_seconds.load(Ordering::Relaxed)) })
    }

    /// Lets time pass.
    pub(crate) fn advance(&self, time: SignedDuration) {
        self.now_seconds.fetch_add(time.as_secs(), Ordering::Relaxed);
    }

    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        self.list(folder).unwrap().into_iter().map(|object| object.name).collect()
    }

    /// Puts bytes in place of an object, as damage would.
    pub(crate) fn set(&self, name: &str, bytes: impl Into<Bytes>) {
        self.put(name, vec![bytes.into()]).unwrap();
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.now_seconds.load(Ordering::Relaxed)).unwrap()
    }
}

impl Store for MemStore {
    fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>> {
        let objects = self.objects.lock().unwrap();
        let prefix = format!("{folder}/");
        let found = objects.iter().filter(|(name, _)| folder.is_empty() || name.starts_with(&prefix));
        let info = |(name, (bytes, modified)): (&String, &(Bytes, Timestamp))| ObjectInfo {
            name: name.clone(),
            size: bytes.len() as u64,
            modified: *modified,
        };
        Ok(found.map(info).collect())
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        let objects = self.objects.lock().unwrap();
        let (bytes, _) = objects.get(name).ok_or_else(|| Error::Missing { object: name.to_owned() })?;
        Ok(bytes.clone())
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let bytes = self.get(name)?;
        let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        Ok(bytes.slice(clamp(range.start)..clamp(range.end)))
    }

    fn put(&self, name: &str, parts: Vec<Bytes>) -> Result<()> {
        self.objects.lock().unwrap().insert(name.to_owned(), (parts.concat().into(), self.now()));
        Ok(())
    }

    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<bool> {
        let mut objects = self.objects.lock().unwrap();
        let is_new = !objects.contains_key(name);
        if is_new {
            objects.insert(name.to_owned(), (parts.concat().into(), self.now()));
        }
        Ok(is_new)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.objects.lock().unwrap().remove(name);
        Ok(())
    }

    fn location(&self) -> String {
        "memory".into()
    }
}

/// A store that forgets deletes when it loses power, as long as they were not flushed.
pub(crate) struct PowerStore {
    inner: Arc<MemStore>,
    unflushed: Mutex<Vec<(String, Bytes)>>,
}

impl PowerStore {
    pub(crate) fn around(inner: Arc<MemStore>) -> Arc<Self> {
        Arc::new(Self { inner, unflushed: Mutex::default() })
    }

    /// What is there afterwards, if the deletes in `folder` were lost and no others.
    pub(crate) fn after_power_loss(&self, folder: &str) -> Arc<MemStore> {
        let after = self.inner.fork();
        for (name, bytes) in self.unflushed.lock().unwrap().iter() {
            if name.split('/').next() == Some(folder) {
                after.set(name, bytes.clone());
            }
        }
        after
    }
}

impl Store for PowerStore {
    fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>> {
        self.inner.list(folder)
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        self.inner.get(name)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.inner.get_range(name, range)
    }

    fn put(&self, name: &str, parts: Vec<Bytes>) -> Result<()> {
        self.inner.put(name, parts)
    }

    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<bool> {
        self.inner.put_new(name, parts)
    }

    fn delete(&self, name: &str) -> Result<()> {
        if let Ok(bytes) = self.inner.get(name) {
            self.unflushed.lock().unwrap().push((name.to_owned(), bytes));
        }
        self.inner.delete(name)
    }

    fn flush_deletes(&self, folder: &str) -> Result<()> {
        self.unflushed.lock().unwrap().retain(|(name, _)| name.split('/').next() != Some(folder));
        Ok(())
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}

/// What is asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    List,
    Get,
    Put,
    Delete,
    FlushDeletes,
}

/// A call of a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) op: Op,
    pub(crate) name: &'a str,
}

impl Call<'_> {
    pub(crate) fn is(&self, op: Op, folder: &str) -> bool {
        self.op == op && self.name.split('/').next() == Some(folder)
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes through.
    Go,
    /// It fails, and nothing has happened.
    Fail,
    /// A put leaves half of the object and fails, as on a store that is not atomic.
    Tear,
    /// It is done, and the answer is lost.
    FailAfterwards,
}

/// A store that asks a test what becomes of every call. The test may also do something else first.
pub(crate) struct StoreWith<F> {
    inner: Arc<dyn Store>,
    judge: F,
}

impl<F: Fn(Call<'_>) -> Verdict + Send + Sync + 'static> StoreWith<F> {
    pub(crate) fn around(inner: Arc<dyn Store>, judge: F) -> Arc<dyn Store> {
        Arc::new(Self { inner, judge })
    }

    fn ask<T>(&self, op: Op, name: &str, call: impl FnOnce() -> Result<T>) -> Result<T> {
        match (self.judge)(Call { op, name }) {
            Verdict::Go => call(),
            Verdict::Fail | Verdict::Tear => Err(failed(op, name)),
            Verdict::FailAfterwards => call().and(Err(failed(op, name))),
        }
    }
}

fn failed(op: Op, name: &str) -> Error {
    let operation = match op {
        Op::List => "list",
        Op::Get => "read",
        Op::Put => "write",
        Op::Delete => "delete",
        Op::FlushDeletes => "flush",
    };
    Error::Store { operation, object: name.to_owned(), detail: "a fault made on purpose".into() }
}

impl<F: Fn(Call<'_>) -> Verdict + Send + Sync + 'static> Store for StoreWith<F> {
    fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>> {
        self.ask(Op::List, folder, || self.inner.list(folder))
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        self.ask(Op::Get, name, || self.inner.get(name))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.ask(Op::Get, name, || self.inner.get_range(name, range))
    }

    fn put(&self, name: &str, parts: Vec<Bytes>) -> Result<()> {
        self.put_new_or_over(name, parts, |name, parts| self.inner.put(name, parts))
    }

    fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<bool> {
        self.put_new_or_over(name, parts, |name, parts| self.inner.put_new(name, parts))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.ask(Op::Delete, name, || self.inner.delete(name))
    }

    fn flush_deletes(&self, folder: &str) -> Result<()> {
        self.ask(Op::FlushDeletes, folder, || self.inner.flush_deletes(folder))
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}

impl<F: Fn(Call<'_>) -> Verdict + Send + Sync + 'static> StoreWith<F> {
    fn put_new_or_over<T>(
        &self,
        name: &str,
        parts: Vec<Bytes>,
        put: impl FnOnce(&str, Vec<Bytes>) -> Result<T>,
    ) -> Result<T> {
        match (self.judge)(Call { op: Op::Put, name }) {
            Verdict::Go => put(name, parts),
            Verdict::Fail => Err(failed(Op::Put, name)),
            Verdict::FailAfterwards => put(name, parts).and(Err(failed(Op::Put, name))),
            Verdict::Tear => {
                let whole = Bytes::from(parts.concat());
                put(name, vec![whole.slice(..whole.len() / 2)])?;
                Err(failed(Op::Put, name))
            }
        }
    }
}

/// A way for a store to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// One call fails.
    Once,
    /// One call is done, and its answer is lost.
    AnswerLost,
    /// From one call on nothing arrives any more: the process is dead, or the network is.
    Killed,
    /// One put leaves half of its object.
    Torn,
    /// One put leaves half of its object, and that was the end of the process.
    TornAndKilled,
    /// From one put on no put is taken.
    Full,
}

impl Fault {
    pub(crate) const ALL: [Self; 6] =
        [Self::Once, Self::AnswerLost, Self::Killed, Self::Torn, Self::TornAndKilled, Self::Full];

    /// Whether only puts are counted.
    fn is_of_puts(self) -> bool {
        matches!(self, Self::Torn | Self::TornAndKilled | Self::Full)
    }

    /// Whether the process does not live to see the end.
    pub(crate) fn kills(self) -> bool {
        matches!(self, Self::Killed | Self::TornAndKilled)
    }
}

/// Lets the call number `nth`, counted from 0, go wrong.
pub(crate) struct FaultStore {
    fault: Fault,
    nth: usize,
    count: AtomicUsize,
    struck: AtomicBool,
}

impl FaultStore {
    pub(crate) fn around(inner: Arc<dyn Store>, fault: Fault, nth: usize) -> (Arc<dyn Store>, Arc<Self>) {
        let state = Arc::new(Self { fault, nth, count: AtomicUsize::new(0), struck: AtomicBool::new(false) });
        let judge = Arc::clone(&state);
        (StoreWith::around(inner, move |call| judge.judge(call)), state)
    }

    /// Whether it came to the fault.
    pub(crate) fn has_struck(&self) -> bool {
        self.struck.load(Ordering::SeqCst)
    }

    fn judge(&self, call: Call<'_>) -> Verdict {
        let counts = !self.fault.is_of_puts() || call.op == Op::Put;
        let number = if counts { self.count.fetch_add(1, Ordering::SeqCst) } else { 0 };
        if counts && number == self.nth {
            self.struck.store(true, Ordering::SeqCst);
            return match self.fault {
                Fault::Torn | Fault::TornAndKilled => Verdict::Tear,
                Fault::AnswerLost => Verdict::FailAfterwards,
                Fault::Once | Fault::Killed | Fault::Full => Verdict::Fail,
            };
        }
        let is_over = self.has_struck() && (self.fault.kills() || self.fault == Fault::Full && counts);
        if is_over { Verdict::Fail } else { Verdict::Go }
    }
}
