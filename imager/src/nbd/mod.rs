//! The Network Block Device protocol, the server's side, for disks that are read and never written.
//!
//! Fixed newstyle negotiation, structured replies, block status (`base:allocation`), several connections at once.
//! Source: "The NBD protocol", doc/proto.md of the NetworkBlockDevice project. Must not know: images.

mod negotiation;
mod server;
mod transmission;

use std::io::{self, Read};

pub use self::server::{Listen, Server};

use crate::error::Result;
use crate::extent::Extent;
use crate::image_disk::Allocation;

/// A disk that clients may read.
pub trait Export: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Size of a sector in bytes.
    fn sector_size(&self) -> u32;

    /// What it is, for people.
    fn description(&self) -> String;

    /// Fills `buf` with what is at `offset`.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being read.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// A reader that goes forward has just read `done`.
    fn read_ahead(&self, done: Extent) {
        let _ = done;
    }

    /// What the bytes of `wanted` are, ascending, without gaps.
    ///
    /// # Errors
    /// As [`Export::read`].
    fn allocation(&self, wanted: Extent) -> Result<Vec<(Extent, Allocation)>>;
}

/// Bytes that one request may ask for: what clients expect every server to take.
const REQUEST_BYTES_MAX: u32 = 32 << 20;

/// Reads exactly `N` bytes.
fn read_array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}
