//! The transmission: requests come in, replies go out, in whatever order they are ready.
//!
//! A few threads take turns at reading requests, and answer what they read. Must not know: connections, names of exports.

#![forbid(unsafe_code)]

use std::io::{self, BufReader, IoSlice, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use super::negotiation::{BlockStatus, CONTEXT_ID, Chosen, Structured};
use super::{Export, Part, REQUEST_BYTES_MAX, read_array};
use crate::extent::Extent;
use crate::image_disk::Allocation;
use crate::progress::lock;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;

const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_DISC: u16 = 2;
const CMD_FLUSH: u16 = 3;
const CMD_TRIM: u16 = 4;
const CMD_CACHE: u16 = 5;
const CMD_WRITE_ZEROES: u16 = 6;
const CMD_BLOCK_STATUS: u16 = 7;

/// The answer must come in one piece.
const REQUEST_WHOLE: u16 = 1 << 2;
const REQUEST_ONE: u16 = 1 << 3;

const CHUNK_DONE: u16 = 1;
const CHUNK_MORE: u16 = 0;
const CHUNK_NONE: u16 = 0;
const CHUNK_OFFSET_DATA: u16 = 1;
const CHUNK_BLOCK_STATUS: u16 = 5;
const CHUNK_ERROR: u16 = 0x8001;

const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const EOVERFLOW: u32 = 75;

const STATE_HOLE: u32 = 1;
const STATE_ZERO: u32 = 2;

/// Requests of one connection that are answered at the same time.
const WORKERS: usize = 4;
/// Bytes that are read and sent in one piece, whatever a client asks for at once: what it costs stays bounded.
const PIECE_BYTES: u64 = 1 << 20;
/// Descriptors in one block status; a client asks again for the rest.
const DESCRIPTORS_MAX: usize = 4096;
/// Bytes of one block status: what describing them costs is bounded, too.
const STATUS_BYTES_MAX: u64 = 1 << 30;

/// A request's header.
const REQUEST_LEN: usize = 28;

struct Request {
    flags: u16,
    command: u16,
    cookie: u64,
    offset: u64,
    len: u32,
}

/// Answers requests until the client leaves.
///
/// # Errors
/// What the connection says, and a client that does not speak the protocol.
pub(super) fn serve<R: Read + Send>(
    requests: &mut R,
    replies: impl Write + Send,
    export: &Arc<dyn Export>,
    chosen: &Chosen,
) -> io::Result<()> {
    let answers = Answers { replies: Mutex::new(replies), export, chosen };
    let stream = BufReader::with_capacity(REQUEST_LEN * 4 * WORKERS, requests);
    let requests = Mutex::new(Requests { stream, ended: None });
    // Not locked any more while it is answered.
    let next = || lock(&requests).next();
    let work = || {
        while let Some(request) = next() {
            // A connection that is gone is noticed by the one who reads from it.
            if answers.answer(&request).is_err() {
                break;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..WORKERS {
            // With fewer it is slower, and all the same.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    let ended = requests.into_inner().unwrap_or_else(PoisonError::into_inner).ended;
    ended.unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into()))
}

/// What a client asks for. Whoever is free takes the next request, and answers it without waking anybody for it.
struct Requests<R> {
    stream: R,
    ended: Option<io::Result<()>>,
}

impl<R: Read> Requests<R> {
    /// The next request; nothing once there will be none.
    fn next(&mut self) -> Option<Request> {
        if self.ended.is_some() {
            return None;
        }
        match self.read() {
            Ok(request) if request.command == CMD_DISC => self.ended = Some(Ok(())),
            Ok(request) => return Some(request),
            Err(error) => self.ended = Some(Err(error)),
        }
        None
    }

    fn read(&mut self) -> io::Result<Request> {
        let request = next_request(&mut self.stream)?;
        if request.command == CMD_WRITE {
            // Its data must be read to find the next request.
            let skipped = io::copy(&mut self.stream.by_ref().take(request.len.into()), &mut io::sink())?;
            if skipped < u64::from(request.len) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(request)
    }
}

fn next_request(requests: &mut impl Read) -> io::Result<Request> {
    let bytes: [u8; REQUEST_LEN] = read_array(requests)?;
    let (magic, rest) = bytes.split_at(4);
    if magic != REQUEST_MAGIC.to_be_bytes() {
        return Err(io::Error::other("a request without its magic"));
    }
    let (mut rest, mut numbers) = (rest, [0u64; 5]);
    for (number, len) in numbers.iter_mut().zip([2, 2, 8, 8, 4]) {
        let (field, behind) = rest.split_at(len);
        *number = field.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        rest = behind;
    }
    let [flags, command, cookie, offset, len] = numbers;
    let short = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    Ok(Request { flags: short(flags), command: short(command), cookie, offset, len })
}

struct Answers<'a, W> {
    replies: Mutex<W>,
    export: &'a Arc<dyn Export>,
    chosen: &'a Chosen,
}

impl<W: Write> Answers<'_, W> {
    fn answer(&self, request: &Request) -> io::Result<()> {
        let place = Extent::new(request.offset, request.len.into());
        let is_within = request.offset.checked_add(request.len.into()).is_some_and(|end| end <= self.export.size());
        match request.command {
            CMD_READ | CMD_CACHE | CMD_BLOCK_STATUS if !is_within || request.len == 0 => {
                self.error(request, EINVAL, "it reaches behind the end of the disk, or asks for nothing")
            }
            CMD_READ if request.len > REQUEST_BYTES_MAX => self.error(request, EOVERFLOW, "more than 32 MiB at once"),
            CMD_READ if self.is_to_be_whole(request) && place.len > PIECE_BYTES => {
                self.error(request, EOVERFLOW, "more than 1 MiB at once and in one piece")
            }
            CMD_READ if self.chosen.structured == Structured::Yes => self.read_structured(request, place),
            CMD_READ => self.read_simple(request, place),
            CMD_CACHE => {
                self.export.fetch(place);
                self.done(request)
            }
            CMD_FLUSH => self.done(request),
            CMD_BLOCK_STATUS if self.chosen.block_status == BlockStatus::Not => {
                self.error(request, EINVAL, "no metadata context was negotiated")
            }
            CMD_BLOCK_STATUS => self.block_status(request, place),
            CMD_WRITE | CMD_TRIM | CMD_WRITE_ZEROES => self.error(request, EPERM, "images are never written"),
            _ => self.error(request, EINVAL, "this server does not know the command"),
        }
    }

    /// Only replies with structure come in pieces.
    fn is_to_be_whole(&self, request: &Request) -> bool {
        request.flags & REQUEST_WHOLE != 0 && self.chosen.structured == Structured::Yes
    }

    /// Pieces that each say where they belong.
    fn read_structured(&self, request: &Request, place: Extent) -> io::Result<()> {
        for piece in pieces(place) {
            let flags = if piece.end() == place.end() { CHUNK_DONE } else { CHUNK_MORE };
            let len = u32::try_from(piece.len).unwrap_or(0);
            let mut header = Vec::with_capacity(28);
            chunk_header(&mut header, request, flags, CHUNK_OFFSET_DATA, len.saturating_add(8));
            header.extend_from_slice(&piece.start.to_be_bytes());
            match self.export.read(piece) {
                Ok(parts) => send(&mut *lock(&self.replies), &header, &parts)?,
                Err(error) => return self.error(request, EIO, &error.to_string()),
            }
        }
        Ok(())
    }

    /// One run of bytes behind its header. Once that is sent there is no way to say that something is wrong but to
    /// hang up.
    fn read_simple(&self, request: &Request, place: Extent) -> io::Result<()> {
        let mut replies = None;
        for piece in pieces(place) {
            let mut header = Vec::new();
            if replies.is_none() {
                simple_header(&mut header, request, 0);
            }
            match self.export.read(piece) {
                Ok(parts) => send(&mut **replies.get_or_insert_with(|| lock(&self.replies)), &header, &parts)?,
                Err(error) if replies.is_none() => return self.error(request, EIO, &error.to_string()),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(())
    }

    fn block_status(&self, request: &Request, place: Extent) -> io::Result<()> {
        let place = Extent::new(place.start, place.len.min(STATUS_BYTES_MAX));
        let runs = match self.export.allocation(place) {
            Ok(runs) => runs,
            Err(error) => return self.error(request, EIO, &error.to_string()),
        };
        let count = if request.flags & REQUEST_ONE == 0 { DESCRIPTORS_MAX } else { 1 };
        let mut payload = Vec::from(CONTEXT_ID.to_be_bytes());
        for (extent, what) in runs.into_iter().take(count) {
            let state = match what {
                Allocation::Data => 0,
                Allocation::Zero => STATE_ZERO,
                Allocation::Unused => STATE_ZERO | STATE_HOLE,
            };
            payload.extend_from_slice(&u32::try_from(extent.len).unwrap_or(u32::MAX).to_be_bytes());
            payload.extend_from_slice(&state.to_be_bytes());
        }
        self.chunk(request, CHUNK_BLOCK_STATUS, &payload)
    }

    fn done(&self, request: &Request) -> io::Result<()> {
        if self.chosen.structured == Structured::Yes {
            return self.chunk(request, CHUNK_NONE, b"");
        }
        let mut message = Vec::new();
        simple_header(&mut message, request, 0);
        lock(&self.replies).write_all(&message)
    }

    fn error(&self, request: &Request, number: u32, why: &str) -> io::Result<()> {
        if self.chosen.structured == Structured::Yes {
            let why = why.as_bytes().get(..why.len().min(1000)).unwrap_or_default();
            let mut payload = Vec::from(number.to_be_bytes());
            payload.extend_from_slice(&u16::try_from(why.len()).unwrap_or(0).to_be_bytes());
            payload.extend_from_slice(why);
            return self.chunk(request, CHUNK_ERROR, &payload);
        }
        let mut message = Vec::new();
        simple_header(&mut message, request, number);
        lock(&self.replies).write_all(&message)
    }

    /// The only chunk of a reply.
    fn chunk(&self, request: &Request, kind: u16, payload: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(20 + payload.len());
        chunk_header(&mut message, request, CHUNK_DONE, kind, u32::try_from(payload.len()).unwrap_or(0));
        message.extend_from_slice(payload);
        lock(&self.replies).write_all(&message)
    }
}

/// Sends a header and what it announces in one go, from where it is.
fn send(replies: &mut impl Write, header: &[u8], parts: &[Part]) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut slices = vec![IoSlice::new(header)];
    for part in parts {
        match part {
            Part::Bytes(bytes) => slices.push(IoSlice::new(bytes)),
            Part::Zeros(len) => {
                let mut left = usize::try_from(*len).unwrap_or(usize::MAX);
                while left > 0 {
                    let zeros = ZEROS.get(..left).unwrap_or(&ZEROS);
                    slices.push(IoSlice::new(zeros));
                    left -= zeros.len();
                }
            }
        }
    }
    let mut slices = &mut *slices;
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match replies.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => IoSlice::advance_slices(&mut slices, sent),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn pieces(place: Extent) -> impl Iterator<Item = Extent> {
    let starts = (0..place.len.div_ceil(PIECE_BYTES)).map(move |number| place.start + number * PIECE_BYTES);
    starts.map(move |start| Extent::between(start, place.end().min(start + PIECE_BYTES)))
}

fn simple_header(message: &mut Vec<u8>, request: &Request, error: u32) {
    message.extend_from_slice(&SIMPLE_MAGIC.to_be_bytes());
    message.extend_from_slice(&error.to_be_bytes());
    message.extend_from_slice(&request.cookie.to_be_bytes());
}

fn chunk_header(message: &mut Vec<u8>, request: &Request, flags: u16, kind: u16, len: u32) {
    message.extend_from_slice(&STRUCTURED_MAGIC.to_be_bytes());
    message.extend_from_slice(&flags.to_be_bytes());
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&request.cookie.to_be_bytes());
    message.extend_from_slice(&len.to_be_bytes());
}
