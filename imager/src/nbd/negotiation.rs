//! Before the transmission: the client says what it can, and chooses an export.
//!
//! Every length is bounded before anything is read. Must not know: how data are read.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};

use super::{Export, REQUEST_BYTES_MAX, read_array};

const NBD_MAGIC: &[u8; 8] = b"NBDMAGIC";
const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

const FLAG_FIXED_NEWSTYLE: u16 = 1;
const FLAG_NO_ZEROES: u16 = 2;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_LIST: u32 = 3;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const OPT_LIST_META_CONTEXT: u32 = 9;
const OPT_SET_META_CONTEXT: u32 = 10;

const REP_ACK: u32 = 1;
const REP_SERVER: u32 = 2;
const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;
const REP_ERR_UNSUP: u32 = 0x8000_0001;
const REP_ERR_INVALID: u32 = 0x8000_0003;
const REP_ERR_UNKNOWN: u32 = 0x8000_0006;
const REP_ERR_TOO_BIG: u32 = 0x8000_0009;

const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_DESCRIPTION: u16 = 2;
const INFO_BLOCK_SIZE: u16 = 3;

const HAS_FLAGS: u16 = 1 << 0;
const READ_ONLY: u16 = 1 << 1;
const SEND_FLUSH: u16 = 1 << 2;
const SEND_DF: u16 = 1 << 7;
const CAN_MULTI_CONN: u16 = 1 << 8;
const SEND_CACHE: u16 = 1 << 10;
const TRANSMISSION_FLAGS: u16 = HAS_FLAGS | READ_ONLY | SEND_FLUSH | SEND_DF | CAN_MULTI_CONN | SEND_CACHE;

/// No option that is understood has more data.
const OPTION_BYTES_MAX: u32 = 64 << 10;
/// Options that a client may send before it chooses an export.
const OPTIONS_MAX: usize = 1000;
const CONTEXT: &str = "base:allocation";
/// What the context is called in replies.
pub(super) const CONTEXT_ID: u32 = 1;

/// An export, and what the client can.
pub(super) struct Chosen {
    /// Number of the export.
    pub export: usize,
    pub structured: Structured,
    pub block_status: BlockStatus,
}

/// Whether replies have structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Structured {
    Yes,
    No,
}

/// Whether the client asked for the block status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockStatus {
    Asked,
    Not,
}

/// Exports by name. The empty name is the first one's, too.
pub(super) type Exports = [(String, std::sync::Arc<dyn Export>)];

/// Talks until an export is chosen; `None` when the client goes without.
///
/// # Errors
/// What the connection says, and a client that does not speak the protocol.
pub(super) fn negotiate(stream: &mut (impl Read + Write), exports: &Exports) -> io::Result<Option<Chosen>> {
    let mut greeting = Vec::from(NBD_MAGIC);
    greeting.extend_from_slice(OPTION_MAGIC);
    greeting.extend_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
    stream.write_all(&greeting)?;
    let flags = u32::from_be_bytes(read_array(stream)?);
    if flags & u32::from(FLAG_FIXED_NEWSTYLE) == 0 || flags > 3 {
        return Err(io::Error::other("the client does not speak the fixed newstyle protocol"));
    }
    let zeroes = flags & u32::from(FLAG_NO_ZEROES) == 0;
    let mut structured = Structured::No;
    // Of which export the block status was asked for.
    let mut status_of = None;
    for _ in 0..OPTIONS_MAX {
        if &read_array::<8>(stream)? != OPTION_MAGIC {
            return Err(io::Error::other("an option without its magic"));
        }
        let option = u32::from_be_bytes(read_array(stream)?);
        let len = u32::from_be_bytes(read_array(stream)?);
        if len > OPTION_BYTES_MAX {
            if option == OPT_EXPORT_NAME {
                return Err(io::Error::other("the name of an export is too long"));
            }
            io::copy(&mut stream.take(len.into()), &mut io::sink())?;
            reply(stream, option, REP_ERR_TOO_BIG, b"")?;
            continue;
        }
        let mut data = vec![0; usize::try_from(len).unwrap_or(0)];
        stream.read_exact(&mut data)?;
        let block_status = |export| if status_of == Some(export) { BlockStatus::Asked } else { BlockStatus::Not };
        match option {
            OPT_EXPORT_NAME => {
                let Some(export) = find(exports, &data) else {
                    return Err(io::Error::other("the client asks for an export that there is not"));
                };
                let mut bytes = Vec::from(size_of(exports, export).to_be_bytes());
                bytes.extend_from_slice(&TRANSMISSION_FLAGS.to_be_bytes());
                bytes.resize(bytes.len() + if zeroes { 124 } else { 0 }, 0);
                stream.write_all(&bytes)?;
                return Ok(Some(Chosen { export, structured, block_status: block_status(export) }));
            }
            OPT_ABORT => {
                // The client may be gone before it hears that.
                let _ = reply(stream, option, REP_ACK, b"");
                return Ok(None);
            }
            OPT_LIST if data.is_empty() => {
                for (name, _) in exports {
                    reply(stream, option, REP_SERVER, &string(name))?;
                }
                reply(stream, option, REP_ACK, b"")?;
            }
            OPT_INFO | OPT_GO => match info_request(&data).map(|name| find(exports, name)) {
                Some(Some(export)) => {
                    for information in informations(exports, export) {
                        reply(stream, option, REP_INFO, &information)?;
                    }
                    reply(stream, option, REP_ACK, b"")?;
                    if option == OPT_GO {
                        return Ok(Some(Chosen { export, structured, block_status: block_status(export) }));
                    }
                }
                Some(None) => reply(stream, option, REP_ERR_UNKNOWN, b"there is no such export")?,
                None => reply(stream, option, REP_ERR_INVALID, b"the request is malformed")?,
            },
            OPT_STRUCTURED_REPLY if data.is_empty() => {
                structured = Structured::Yes;
                reply(stream, option, REP_ACK, b"")?;
            }
            OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT => {
                let is_set = option == OPT_SET_META_CONTEXT;
                match context_request(&data) {
                    Some(_) if is_set && structured == Structured::No => {
                        reply(stream, option, REP_ERR_INVALID, b"structured replies come first")?;
                    }
                    Some((name, queries)) => match find(exports, name) {
                        Some(export) => {
                            let matches = |query: &&[u8]| {
                                *query == CONTEXT.as_bytes() || !is_set && *query == b"base:".as_slice()
                            };
                            let everything = queries.is_empty() && !is_set;
                            if is_set {
                                status_of = None;
                            }
                            if everything || queries.iter().any(matches) {
                                let id = if is_set { CONTEXT_ID } else { 0 };
                                let mut bytes = Vec::from(id.to_be_bytes());
                                bytes.extend_from_slice(CONTEXT.as_bytes());
                                reply(stream, option, REP_META_CONTEXT, &bytes)?;
                                if is_set {
                                    status_of = Some(export);
                                }
                            }
                            reply(stream, option, REP_ACK, b"")?;
                        }
                        None => reply(stream, option, REP_ERR_UNKNOWN, b"there is no such export")?,
                    },
                    None => reply(stream, option, REP_ERR_INVALID, b"the request is malformed")?,
                }
            }
            OPT_LIST | OPT_STRUCTURED_REPLY => {
                reply(stream, option, REP_ERR_INVALID, b"this option takes no data")?;
            }
            _ => reply(stream, option, REP_ERR_UNSUP, b"this server does not know the option")?,
        }
    }
    Err(io::Error::other("the client sends options without end"))
}

fn reply(stream: &mut impl Write, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::from(REPLY_MAGIC.to_be_bytes());
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(data);
    stream.write_all(&bytes)
}

fn find(exports: &Exports, name: &[u8]) -> Option<usize> {
    if name.is_empty() && !exports.is_empty() {
        return Some(0);
    }
    exports.iter().position(|(export, _)| export.as_bytes() == name)
}

fn size_of(exports: &Exports, export: usize) -> u64 {
    exports.get(export).map_or(0, |(_, export)| export.size())
}

/// A length and a text.
fn string(text: &str) -> Vec<u8> {
    let mut bytes = Vec::from(u32::try_from(text.len()).unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// Everything that there is to know of an export, asked for or not.
fn informations(exports: &Exports, export: usize) -> Vec<Vec<u8>> {
    let Some((name, disk)) = exports.get(export) else { return Vec::new() };
    let with = |kind: u16, data: &[u8]| [&kind.to_be_bytes()[..], data].concat();
    let mut about = Vec::from(disk.size().to_be_bytes());
    about.extend_from_slice(&TRANSMISSION_FLAGS.to_be_bytes());
    // Any byte may be asked for; blocks are cheapest.
    let sizes: Vec<u8> =
        [1, 4096.max(disk.sector_size()), REQUEST_BYTES_MAX].iter().flat_map(|n: &u32| n.to_be_bytes()).collect();
    vec![
        with(INFO_EXPORT, &about),
        with(INFO_NAME, name.as_bytes()),
        with(INFO_DESCRIPTION, disk.description().as_bytes()),
        with(INFO_BLOCK_SIZE, &sizes),
    ]
}

/// The name in the data of `INFO` and `GO`; which pieces of information the client wants does not matter.
fn info_request(data: &[u8]) -> Option<&[u8]> {
    let (name, rest) = take_string(data)?;
    let (count, rest) = rest.split_first_chunk::<2>()?;
    (rest.len() == 2 * usize::from(u16::from_be_bytes(*count))).then_some(name)
}

/// The name and the queries in the data of the options about metadata contexts.
fn context_request(data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let (name, rest) = take_string(data)?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let mut queries = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let (query, behind) = take_string(rest)?;
        queries.push(query);
        rest = behind;
    }
    rest.is_empty().then_some((name, queries))
}

fn take_string(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = data.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)
}
