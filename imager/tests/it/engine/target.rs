//! A target in memory that can fail, and that remembers everything that was done to it.

use std::io;
use std::sync::Mutex;

use imager::disk::identity::Identity;
use imager::disk::target::Target;
use imager::extent::Extent;
use imager::read_at::ReadAt;

/// Something that was done to a target.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    /// Bytes were written.
    Bytes(u64, Vec<u8>),
    /// Zeros were.
    Zeros(Extent),
    /// Whatever came before is on the medium.
    Flush,
}

/// A way for a target to fail. Writes, zeros and flushes are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetFault {
    /// It does not.
    None,
    /// One call fails.
    Once(usize),
    /// From one call on nothing works.
    Dead(usize),
}

/// A disk in memory.
pub(crate) struct MemTarget {
    identity: Identity,
    is_blank: bool,
    fault: TargetFault,
    state: Mutex<State>,
}

struct State {
    bytes: Vec<u8>,
    writes: Vec<Write>,
    calls: usize,
    struck: bool,
}

impl MemTarget {
    /// Like a file that was made just now.
    pub(crate) fn blank(size: usize) -> Self {
        Self { is_blank: true, ..Self::holding(vec![0; size], TargetFault::None) }
    }

    /// A disk that holds something.
    pub(crate) fn holding(bytes: Vec<u8>, fault: TargetFault) -> Self {
        let identity = super::identity(bytes.len() as u64);
        let state = State { bytes, writes: Vec::new(), calls: 0, struck: false };
        Self { identity, is_blank: false, fault, state: Mutex::new(state) }
    }

    /// What it holds.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state.lock().unwrap().bytes.clone()
    }

    /// What was done to it, in order.
    pub(crate) fn writes(&self) -> Vec<Write> {
        self.state.lock().unwrap().writes.clone()
    }

    /// Whether it came to the fault.
    pub(crate) fn has_struck(&self) -> bool {
        self.state.lock().unwrap().struck
    }

    fn call(&self, write: Write) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let number = state.calls;
        state.calls += 1;
        let fails = match self.fault {
            TargetFault::None => false,
            TargetFault::Once(nth) => number == nth,
            TargetFault::Dead(nth) => number >= nth,
        };
        if fails {
            state.struck = true;
            return Err(io::Error::other("a fault made on purpose"));
        }
        apply(&mut state.bytes, &write);
        state.writes.push(write);
        Ok(())
    }
}

/// Does to `bytes` what was done to a target.
pub(crate) fn apply(bytes: &mut [u8], write: &Write) {
    let range = |start: u64, len: usize| usize::try_from(start).unwrap()..usize::try_from(start).unwrap() + len;
    match write {
        Write::Bytes(at, written) => bytes[range(*at, written.len())].copy_from_slice(written),
        Write::Zeros(extent) => bytes[range(extent.start, usize::try_from(extent.len).unwrap())].fill(0),
        Write::Flush => {}
    }
}

impl ReadAt for MemTarget {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.state.lock().unwrap().bytes.read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.identity.size
    }
}

impl Target for MemTarget {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.call(Write::Bytes(offset, bytes.to_vec()))
    }

    fn zero(&self, extent: Extent) -> io::Result<()> {
        self.call(Write::Zeros(extent))
    }

    fn discard(&self, _extent: Extent) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.call(Write::Flush)
    }

    fn is_blank(&self) -> bool {
        self.is_blank
    }
}
