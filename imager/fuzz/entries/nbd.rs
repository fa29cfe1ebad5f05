//! What must be true of every client: it reads what lies on the disk and nothing else, costs a bounded amount, and the
//! server is done when the client is.

use std::io::{self, Read, Write};
use std::sync::Arc;

use imager::Error;
use imager::extent::Extent;
use imager::image_disk::Allocation;
use imager::nbd::{Export, Part, converse};

/// Bytes of the disk: several pieces of an answer, and an end that is no block's.
const SIZE: u64 = (3 << 20) + 512;
/// Where it cannot be read.
const UNREADABLE: Extent = Extent { start: 2 << 20, len: 4096 };
/// What an answer may hold in memory at once.
const PIECE_BYTES_MAX: u64 = 1 << 20;
/// Bytes that the client listens to; then it is gone, and goes on asking.
const HEARD_MAX: usize = 16 << 20;

struct Disk;

impl Export for Disk {
    fn size(&self) -> u64 {
        SIZE
    }

    fn sector_size(&self) -> u32 {
        512
    }

    fn description(&self) -> String {
        "a disk".to_owned()
    }

    fn read(&self, place: Extent) -> imager::Result<Vec<Part>> {
        assert!(place.end() <= SIZE && place.len <= PIECE_BYTES_MAX && !place.is_empty(), "{place:?}");
        if !place.intersection(UNREADABLE).is_empty() {
            return Err(Error::damaged("disk", place.start, "it cannot be read"));
        }
        // Nothing, everything, and what lies between.
        let zeros = place.len.min(place.start % 5000);
        let sevens = vec![7; usize::try_from(place.len - zeros).unwrap()];
        Ok(vec![Part::Zeros(zeros), Part::Bytes(sevens.into())])
    }

    fn fetch(&self, place: Extent) {
        assert!(place.end() <= SIZE && !place.is_empty(), "{place:?}");
    }

    fn allocation(&self, wanted: Extent) -> imager::Result<Vec<(Extent, Allocation)>> {
        assert!(wanted.end() <= SIZE && !wanted.is_empty(), "{wanted:?}");
        if !wanted.intersection(UNREADABLE).is_empty() {
            return Err(Error::damaged("disk", wanted.start, "nobody knows what is there"));
        }
        let kinds = [Allocation::Data, Allocation::Zero, Allocation::Unused];
        let runs = (wanted.start..wanted.end()).step_by(300).zip(kinds.into_iter().cycle());
        Ok(runs.map(|(start, kind)| (Extent::between(start, wanted.end().min(start + 300)), kind)).collect())
    }
}

struct Client<'a>(&'a [u8]);

impl Read for Client<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

/// While options are negotiated, what is said back is bounded by what came.
impl Write for Client<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(bytes.len() <= 1 << 20, "an answer of {} bytes to an option", bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Heard(usize);

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        if self.0 > HEARD_MAX { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes `data` as all that a client ever says.
pub(crate) fn run(data: &[u8]) {
    converse_with(data);
}

/// The same; gives how many bytes of answers the client got once it had chosen an export, if it did.
pub(crate) fn converse_with(data: &[u8]) -> Option<usize> {
    let exports: Vec<(String, Arc<dyn Export>)> =
        ["disk0", "disk0p1"].map(|name| (name.to_owned(), Arc::new(Disk) as Arc<dyn Export>)).into();
    let (mut heard, mut has_chosen) = (Heard(0), false);
    let ended = converse(&mut Client(data), &mut heard, &exports, |_| {
        has_chosen = true;
        Ok(())
    });
    // A client that goes without having chosen anything says so.
    assert!(has_chosen || ended.is_err() || data.windows(8).any(|words| words == b"IHAVEOPT"), "it ends well");
    assert!(has_chosen || heard.0 == 0, "an answer before there is an export");
    has_chosen.then_some(heard.0)
}
