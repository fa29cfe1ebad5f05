//! The Network Block Device protocol, the server's side, for disks that are read and never written.
//!
//! Fixed newstyle negotiation, structured replies, block status (`base:allocation`), several connections at once.
//! Source: "The NBD protocol", doc/proto.md of the NetworkBlockDevice project. Must not know: images.

mod negotiation;
mod server;
mod transmission;

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;

pub use self::server::{Listen, Server};

use crate::error::Result;
use crate::extent::Extent;
use crate::image_disk::Allocation;

/// Bytes of a disk, which are sent from where they are.
#[derive(Clone, Debug)]
pub enum Part {
    /// These.
    Bytes(Bytes),
    /// So many zeros.
    Zeros(u64),
}

/// A disk that clients may read.
pub trait Export: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Size of a sector in bytes.
    fn sector_size(&self) -> u32;

    /// What it is, for people.
    fn description(&self) -> String;

    /// What is at `place`, in parts that have its length together.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being read.
    fn read(&self, place: Extent) -> Result<Vec<Part>>;

    /// A client will want `place`: a hint.
    fn fetch(&self, place: Extent) {
        let _ = place;
    }

    /// What the bytes of `wanted` are, ascending, without gaps.
    ///
    /// # Errors
    /// As [`Export::read`].
    fn allocation(&self, wanted: Extent) -> Result<Vec<(Extent, Allocation)>>;
}

/// Bytes that one request may ask for: what clients expect every server to take.
const REQUEST_BYTES_MAX: u32 = 32 << 20;

/// Serves one client, over whatever connects it, until it leaves or its stream ends. `replies` is the same connection as
/// `stream`, for the threads that answer; `chosen` is called once the client has chosen an export.
///
/// # Errors
/// What the connection says, and a client that does not speak the protocol.
pub fn converse<S: Read + Write + Send>(
    stream: &mut S,
    replies: impl Write + Send,
    exports: &[(String, Arc<dyn Export>)],
    chosen: impl FnOnce(&mut S) -> io::Result<()>,
) -> io::Result<()> {
    let Some(choice) = negotiation::negotiate(stream, exports)? else { return Ok(()) };
    let Some((_, export)) = exports.get(choice.export) else { return Ok(()) };
    chosen(stream)?;
    transmission::serve(stream, replies, export, &choice)
}

/// Reads exactly `N` bytes.
fn read_array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    use super::*;
    use crate::error::Error;

    /// A disk of as many bytes.
    struct Plain(u64);

    impl Export for Plain {
        fn size(&self) -> u64 {
            self.0
        }

        fn sector_size(&self) -> u32 {
            512
        }

        fn description(&self) -> String {
            "plain".to_owned()
        }

        fn read(&self, place: Extent) -> Result<Vec<Part>> {
            Ok(vec![Part::Zeros(1), Part::Bytes(vec![7; usize::try_from(place.len - 1).unwrap()].into())])
        }

        fn allocation(&self, wanted: Extent) -> Result<Vec<(Extent, Allocation)>> {
            Ok(vec![(wanted, Allocation::Data)])
        }
    }

    /// A client whose words are all there, and which listens to nothing before its first request.
    struct Client<'a>(&'a [u8]);

    impl Read for Client<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0.read(buf)
        }
    }

    impl Write for Client<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<u8>>>);

    impl Write for Heard {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            crate::progress::lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn option(number: u32, data: &[u8]) -> Vec<u8> {
        let len = u32::try_from(data.len()).unwrap();
        [b"IHAVEOPT", &number.to_be_bytes()[..], &len.to_be_bytes(), data].concat()
    }

    fn read_request(flags: u16, len: u32) -> Vec<u8> {
        let head = [&0x2560_9513u32.to_be_bytes()[..], &flags.to_be_bytes(), &[0; 2], &[9; 8], &[0; 8]].concat();
        [head, len.to_be_bytes().to_vec()].concat()
    }

    /// What a client hears that asks for so many bytes.
    fn answer(flags: u16, len: u32) -> Vec<u8> {
        answers(Plain(8 << 20), &read_request(flags, len))
    }

    /// What a client hears that asks for this.
    fn answers(export: impl Export + 'static, requests: &[u8]) -> Vec<u8> {
        let words = [&3u32.to_be_bytes()[..], &option(8, b""), &option(7, &[0; 6]), requests].concat();
        let heard = Heard::default();
        let exports: Vec<(String, Arc<dyn Export>)> = vec![("plain".to_owned(), Arc::new(export))];
        let ended = converse(&mut Client(&words), heard.clone(), &exports, |_| Ok(()));
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "it hangs up without a word");
        let heard = crate::progress::lock(&heard.0);
        heard.clone()
    }

    /// A disk whose reads wait for each other.
    #[derive(Default)]
    struct Meeting {
        come: Mutex<u32>,
        another: Condvar,
    }

    impl Export for Meeting {
        fn size(&self) -> u64 {
            8 << 20
        }

        fn sector_size(&self) -> u32 {
            512
        }

        fn description(&self) -> String {
            "meeting".to_owned()
        }

        fn read(&self, place: Extent) -> Result<Vec<Part>> {
            let mut come = crate::progress::lock(&self.come);
            *come += 1;
            self.another.notify_all();
            let wait = self.another.wait_timeout_while(come, Duration::from_secs(20), |come| *come < 2);
            let is_alone = wait.unwrap().1.timed_out();
            if is_alone { Err(Error::Internal("alone".into())) } else { Ok(vec![Part::Zeros(place.len)]) }
        }

        fn allocation(&self, wanted: Extent) -> Result<Vec<(Extent, Allocation)>> {
            Ok(vec![(wanted, Allocation::Data)])
        }
    }

    #[test]
    fn requests_of_one_client_are_answered_at_the_same_time() {
        let two = [read_request(0, 4096), read_request(0, 4096)].concat();
        assert_eq!(answers(Meeting::default(), &two).len(), 2 * (28 + 4096));
    }

    #[test]
    fn an_answer_that_must_be_whole_is_not_in_pieces() {
        const IN_ONE_PIECE: u16 = 1 << 2;
        const ERROR: [u8; 2] = [0x80, 1];
        assert_eq!(answer(0, 2 << 20).len(), 2 * (28 + (1 << 20)));
        assert_eq!(answer(IN_ONE_PIECE, 1 << 20).len(), 28 + (1 << 20));
        let refused = answer(IN_ONE_PIECE, 2 << 20);
        assert_eq!((refused.get(6..8), refused.get(20..24)), (Some(&ERROR[..]), Some(&75u32.to_be_bytes()[..])));
    }
}
