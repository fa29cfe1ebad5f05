//! Decompression, chosen by what a stream begins with.
//!
//! Clonezilla itself asks `file` what a stream is, and not the name. Memory is bounded whatever a stream claims.
//! Must not know: files, what the stream holds.
//!
//! Sources: RFC 1952 (gzip), RFC 8878 (zstd), the LZ4 frame format 1.6.4, the .xz file format 1.2.1, the headers of
//! bzip2, lzip, lzop and lrzip.

#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, Cursor, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use lz4_flex::frame::FrameDecoder;

/// Memory that a dictionary may have: the largest that `xz -9` and `zstd --ultra` take, several times.
const MEMORY_MAX: u64 = 1 << 30;
const BUFFER_BYTES: usize = 256 << 10;
/// As much of a stream as is looked at.
const LOOK_BYTES: usize = 13;

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
    Lz4,
    Xz,
    Bzip2,
    Lzma,
    Lzip,
    Lzop,
    Lrzip,
}

impl Compression {
    /// What begins with `start` is compressed like this.
    fn of(start: &[u8]) -> Self {
        const KNOWN: [(&[u8], Compression); 8] = [
            (b"\x1f\x8b", Compression::Gzip),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"\x04\x22\x4d\x18", Compression::Lz4),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"BZh", Compression::Bzip2),
            (b"LZIP", Compression::Lzip),
            (b"\x89LZO\0\r\n\x1a\n", Compression::Lzop),
            (b"LRZI", Compression::Lrzip),
        ];
        if let Some((_, found)) = KNOWN.iter().find(|(magic, _)| start.starts_with(magic)) {
            return *found;
        }
        // pzstd begins with a frame that is skipped.
        if start.get(1..4) == Some(b"\x2a\x4d\x18") && start.first().is_some_and(|byte| byte >> 4 == 5) {
            return Self::Zstd;
        }
        // No magic: the properties that everybody uses, and "length unknown", as from a pipe.
        if start.starts_with(b"\x5d\0\0") && start.get(5..13) == Some([0xFF; 8].as_slice()) {
            return Self::Lzma;
        }
        Self::None
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Lzip => "lzip",
            Self::Lzop => "lzop",
            Self::Lrzip => "lrzip",
        }
    }
}

/// What a stream is compressed with, and its bytes as they were before. None when this program cannot decompress it.
pub(super) type Opened = (Compression, Option<Box<dyn Read + Send>>);

/// Looks at the beginning of `stream` and decompresses it.
///
/// # Errors
/// What the stream says when it is read.
pub(super) fn open(mut stream: impl Read + Send + 'static) -> io::Result<Opened> {
    let mut start = Vec::new();
    stream.by_ref().take(LOOK_BYTES as u64).read_to_end(&mut start)?;
    let compression = Compression::of(&start);
    let input = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(start).chain(stream));
    let memory = |error: liblzma::stream::Error| io::Error::other(error);
    let reader: Box<dyn Read + Send> = match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(MultiGzDecoder::new(input)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(input)?),
        Compression::Lz4 => Box::new(Lz4::new(input)),
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(MEMORY_MAX, CONCATENATED).map_err(memory)?;
            Box::new(XzDecoder::new_stream(input, stream))
        }
        Compression::Bzip2 => Box::new(MultiBzDecoder::new(input)),
        Compression::Lzma => {
            Box::new(XzDecoder::new_stream(input, Stream::new_lzma_decoder(MEMORY_MAX).map_err(memory)?))
        }
        Compression::Lzip => {
            let stream = Stream::new_lzip_decoder(MEMORY_MAX, CONCATENATED).map_err(memory)?;
            Box::new(XzDecoder::new_stream(input, stream))
        }
        Compression::Lzop | Compression::Lrzip => return Ok((compression, None)),
    };
    Ok((compression, Some(reader)))
}

/// LZ4 frames, one behind the other, and nothing else: the decoder itself takes a frame that is cut short between two
/// blocks for one that has ended.
struct Lz4<R: BufRead> {
    decoder: FrameDecoder<Watched<R>>,
}

/// Knows whether the end was run into. A frame's own end is a mark, behind which the decoder reads nothing.
struct Watched<R> {
    inner: R,
    at_end: bool,
}

impl<R: BufRead> Read for Watched<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        if read == 0 && !buf.is_empty() {
            self.at_end = true;
        }
        Ok(read)
    }
}

impl<R: BufRead> Lz4<R> {
    fn new(input: R) -> Self {
        Self { decoder: FrameDecoder::new(Watched { inner: input, at_end: false }) }
    }
}

impl<R: BufRead> Read for Lz4<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.decoder.read(buf)?;
            if read > 0 || buf.is_empty() {
                return Ok(read);
            }
            let watched = self.decoder.get_mut();
            if watched.at_end {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the lz4 frame is cut short"));
            }
            if watched.inner.fill_buf()?.is_empty() {
                return Ok(0);
            }
        }
    }
}
