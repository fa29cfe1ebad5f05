//! A volume as Clonezilla keeps it: finding its file, and unpacking that.
//!
//! | file | what it is |
//! |---|---|
//! | `sda1.ext4-ptcl-img.zst` | partclone |
//! | `sda2.dd-img` | every byte, compressed without its name saying so |
//! | `sda3.ntfs-img` | ntfsclone, compressed likewise |
//!
//! Each may be split. Must not know: disks, partition tables.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::compression::{self, Compression};
use super::ntfsclone;
use super::partclone::{Image, ImageError, Sum, Tail};
use super::pieces::{self, Pieces};
use super::scratch::{Scratch, StoreError, Stored, Storing};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Blocks that a plain copy is divided into.
const PLAIN_BLOCK_BYTES: u32 = 4096;
const PLAIN_READ_BYTES: usize = 1 << 20;
/// What may follow a plain copy: `dd` fills its last block with zeros when it was told to go on after errors.
const PADDING_MAX: u64 = 64 << 20;

/// How a file holds a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Partclone,
    Plain,
    Ntfsclone,
}

/// A file that holds a volume.
#[derive(Clone, Debug)]
pub(super) struct VolumeFile {
    /// `sda1`, `vg-root`.
    device: String,
    form: Form,
    pieces: Pieces,
}

/// What was unpacked.
#[derive(Clone, Debug, Serialize)]
pub struct VolumeReport {
    /// What Clonezilla calls it: `sda1`, `vg-root`.
    pub device: String,
    /// What it was stored by: partclone, dd, ntfsclone; or what was made anew: swap.
    pub stored_by: String,
    /// What partclone calls the file system.
    pub file_system: Option<String>,
    /// How it was compressed.
    pub compression: String,
    /// The checksum that everything was checked with, if there was one.
    pub checksum: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that were stored.
    pub used: u64,
    /// What should be known about it.
    pub remarks: Vec<String>,
}

impl VolumeReport {
    /// Of a volume that was made anew.
    pub(super) fn made(device: &str, what: &str, size: u64, remark: &str) -> Self {
        Self {
            device: device.to_owned(),
            stored_by: what.to_owned(),
            file_system: None,
            compression: Compression::None.name().to_owned(),
            checksum: None,
            size,
            used: 0,
            remarks: vec![remark.to_owned()],
        }
    }
}

impl VolumeFile {
    /// The file of `device` in `directory`, whose files have these `names`; none when there is none.
    ///
    /// # Errors
    /// [`Error::Usage`] for a file of a kind that cannot be imported, and for several; [`Error::Damaged`] when a piece
    /// is missing; [`Error::Io`].
    pub(super) fn find(directory: &Path, names: &BTreeSet<String>, device: &str) -> Result<Option<Self>> {
        let mut found: Vec<(Form, String)> = Vec::new();
        for name in names {
            let Some(rest) = name.strip_prefix(device).and_then(|rest| rest.strip_prefix('.')) else { continue };
            let Some((form, len)) = form_of(rest) else {
                if is_partimage(rest) {
                    return Err(Error::Usage(format!(
                        "{} was written by partimage, which Clonezilla has not used since 2010; it cannot be imported",
                        directory.join(name).display()
                    )));
                }
                continue;
            };
            let base = format!("{device}.{}", rest.get(..len).unwrap_or_default());
            if !found.contains(&(form, base.clone())) {
                found.push((form, base));
            }
        }
        let mut found = found.into_iter();
        let Some((form, base)) = found.next() else { return Ok(None) };
        if let Some((_, other)) = found.next() {
            return Err(Error::Usage(format!(
                "{} has both {base} and {other} of {device}; keep the one that counts",
                directory.display()
            )));
        }
        let Some(pieces) = Pieces::find(directory, names, &base)? else { return Ok(None) };
        Ok(Some(Self { device: device.to_owned(), form, pieces }))
    }

    /// Bytes of its files.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.pieces.bytes()
    }

    /// How many bytes unpacking it will take, if it says so at its beginning. `len` is the size of the volume.
    ///
    /// # Errors
    /// As [`VolumeFile::unpack`].
    pub(super) fn bytes_needed(&self, len: u64) -> Result<Option<u64>> {
        let opened = Opened::new(self)?;
        match self.form {
            Form::Plain => Ok(None),
            Form::Partclone => {
                let place = opened.place();
                let image = Image::open(opened.reader, len).map_err(|error| place.error(error))?;
                Ok(Some(image.used().count().saturating_mul(image.header().block_bytes.into())))
            }
            Form::Ntfsclone => {
                let place = opened.place();
                let image = ntfsclone::Image::open(opened.reader, len).map_err(|error| place.error(error))?;
                Ok(Some(image.used_bytes()))
            }
        }
    }

    /// Unpacks it into `scratch`, as a volume of `len` bytes.
    ///
    /// # Errors
    /// [`Error::Damaged`] with file and position, [`Error::Usage`] for what cannot be imported, [`Error::Io`],
    /// [`Error::Interrupted`].
    pub(super) fn unpack(
        &self,
        len: u64,
        scratch: &mut Scratch,
        progress: &Progress,
    ) -> Result<(Arc<Stored>, VolumeReport)> {
        let opened = Opened::new(self)?;
        let place = opened.place();
        let mut report = VolumeReport {
            device: self.device.clone(),
            stored_by: String::new(),
            file_system: None,
            compression: opened.compression.name().to_owned(),
            checksum: None,
            size: len,
            used: 0,
            remarks: Vec::new(),
        };
        let stored = match self.form {
            Form::Partclone => unpack_partclone(opened, &place, len, scratch, &mut report, progress)?,
            Form::Plain => unpack_plain(opened, &place, len, scratch, &mut report, progress)?,
            Form::Ntfsclone => unpack_ntfsclone(opened, &place, len, scratch, &mut report, progress)?,
        };
        Ok((Arc::new(stored), report))
    }
}

/// What a name says behind the device, and how much of it is not the suffix of a piece.
fn form_of(rest: &str) -> Option<(Form, usize)> {
    const COMPRESSIONS: [&str; 10] = ["gz", "zst", "lz4", "xz", "bz2", "lzma", "lzip", "lzo", "lrz", "uncomp"];
    let (form, at) = match rest.find("-ptcl-img") {
        Some(at) if !rest.get(..at)?.contains('.') => (Form::Partclone, at + "-ptcl-img".len()),
        _ if rest.starts_with("dd-img") => (Form::Plain, "dd-img".len()),
        _ if rest.starts_with("ntfs-img") => (Form::Ntfsclone, "ntfs-img".len()),
        _ => return None,
    };
    let mut words = rest.get(at..)?.split('.');
    if !words.next()?.is_empty() {
        return None;
    }
    let mut len = at;
    let mut word = words.next();
    if let (Form::Partclone, Some(compression)) = (form, word)
        && COMPRESSIONS.contains(&compression)
    {
        len += 1 + compression.len();
        word = words.next();
    }
    // `.info` and `.torrent` are something else, and so is whatever follows a suffix.
    let is_whole = match word {
        None => true,
        Some(suffix) => pieces::is_suffix(suffix) && suffix.len() < 4 && words.next().is_none(),
    };
    is_whole.then_some((form, len))
}

/// `.000`, `.001` …
fn is_partimage(rest: &str) -> bool {
    rest.len() == 3 && rest.bytes().all(|byte| byte.is_ascii_digit())
}

/// A volume's stream, decompressed.
struct Opened<'a> {
    file: &'a VolumeFile,
    reader: Box<dyn Read + Send>,
    compression: Compression,
    read: Arc<AtomicU64>,
}

/// Where in its files a stream was when something was found wrong.
struct Place<'a> {
    file: &'a VolumeFile,
    compression: Compression,
    read: Arc<AtomicU64>,
}

impl<'a> Opened<'a> {
    fn new(file: &'a VolumeFile) -> Result<Self> {
        let read = Arc::new(AtomicU64::new(0));
        let stream = file.pieces.open(Arc::clone(&read));
        let (compression, reader) = compression::open(stream).map_err(Error::io("read", file.pieces.path()))?;
        let reader = reader.ok_or_else(|| {
            Error::Usage(format!(
                "{} is compressed with {}, which cannot be read here; Clonezilla's ocs-cvtimg-comp makes another of it",
                file.pieces.path().display(),
                compression.name()
            ))
        })?;
        Ok(Self { file, reader, compression, read })
    }

    fn place(&self) -> Place<'a> {
        Place { file: self.file, compression: self.compression, read: Arc::clone(&self.read) }
    }
}

impl Place<'_> {
    fn error(&self, error: ImageError) -> Error {
        match error {
            ImageError::Read(error) => self.read_error(error),
            ImageError::Damaged { offset, what } => self.damaged(offset, &what),
            ImageError::Unsupported(what) => Error::Usage(format!("{}: {what}", self.file.pieces.path().display())),
        }
    }

    /// What the system says is no damage; what a decompressor says is.
    fn read_error(&self, error: io::Error) -> Error {
        let (path, offset) = self.file.pieces.place(self.read.load(Ordering::Relaxed));
        if error.raw_os_error().is_some() {
            return Error::io(format!("read near byte {offset} of"), path)(error);
        }
        let name = self.compression.name();
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return self.cut_short(&format!("the {name} stream is cut short"));
        }
        Error::damaged(
            path.display().to_string(),
            offset,
            format!("the {name} stream, here or shortly before: {error}"),
        )
    }

    /// `offset` is that of the decompressed stream.
    fn damaged(&self, offset: u64, what: &str) -> Error {
        if what.contains("it ends in") {
            return self.cut_short(what);
        }
        if self.compression == Compression::None {
            let (path, offset) = self.file.pieces.place(offset);
            return Error::damaged(path.display().to_string(), offset, what);
        }
        let (path, near) = self.file.pieces.place(self.read.load(Ordering::Relaxed));
        let what = format!("{what} (byte {offset} of the decompressed stream; the file's is approximate)");
        Error::damaged(path.display().to_string(), near, what)
    }

    fn cut_short(&self, what: &str) -> Error {
        let (path, offset) = self.file.pieces.place(self.file.pieces.bytes());
        let next = self.file.pieces.next().map_or(String::new(), |next| format!("; is {next} missing?"));
        Error::damaged(path.display().to_string(), offset, format!("{what}{next}"))
    }

    fn store_error(&self, error: StoreError, len: u64) -> Error {
        match error {
            StoreError::Other(error) => error,
            StoreError::Behind(end) => Error::Usage(format!(
                "{} holds a volume that reaches to byte {end}, but its partition has {len} bytes",
                self.file.pieces.path().display()
            )),
        }
    }

    /// Counts what was read of the files since the last time.
    fn count(&self, counted: &mut u64, progress: &Progress) -> Result<()> {
        let read = self.read.load(Ordering::Relaxed);
        Progress::add(&progress.done, read.saturating_sub(*counted));
        *counted = read;
        progress.check()
    }
}

const LEFTOVERS: &str = "there are bytes behind its end, which belong to nothing and were ignored";

fn unpack_partclone(
    opened: Opened<'_>,
    place: &Place<'_>,
    len: u64,
    scratch: &mut Scratch,
    report: &mut VolumeReport,
    progress: &Progress,
) -> Result<Stored> {
    let mut image = Image::open(opened.reader, len).map_err(|error| place.error(error))?;
    let header = image.header().clone();
    let mut storing = Storing::new(scratch, header.block_bytes, len);
    let (mut buf, mut counted) = (Vec::new(), 0);
    while let Some(first) = image.next_blocks(&mut buf).map_err(|error| place.error(error))? {
        storing.blocks(first, &buf).map_err(|error| place.store_error(error, len))?;
        report.used += buf.len() as u64;
        place.count(&mut counted, progress)?;
    }
    if image.tail().map_err(|error| place.error(error))? == Tail::Leftovers {
        report.remarks.push(LEFTOVERS.to_owned());
    }
    place.count(&mut counted, progress)?;
    report.stored_by = "partclone".to_owned();
    report.file_system = Some(header.file_system);
    report.checksum = match header.sum {
        Sum::None => None,
        Sum::Crc32 => Some("CRC32"),
        Sum::Crc32OfFirstByte => Some("CRC32 of the first byte of each block"),
        Sum::Xxh64 => Some("XXH64"),
        Sum::Xxh128 => Some("XXH3-128"),
    }
    .map(str::to_owned);
    storing.finish()
}

fn unpack_plain(
    mut opened: Opened<'_>,
    place: &Place<'_>,
    len: u64,
    scratch: &mut Scratch,
    report: &mut VolumeReport,
    progress: &Progress,
) -> Result<Stored> {
    let mut storing = Storing::new(scratch, PLAIN_BLOCK_BYTES, len);
    let (mut buf, mut counted, mut at) = (Vec::with_capacity(PLAIN_READ_BYTES), 0, 0);
    loop {
        buf.clear();
        let read = opened.reader.by_ref().take(PLAIN_READ_BYTES as u64).read_to_end(&mut buf);
        let read = read.map_err(|error| place.read_error(error))? as u64;
        place.count(&mut counted, progress)?;
        if read == 0 {
            break;
        }
        storing.blocks(at / u64::from(PLAIN_BLOCK_BYTES), &buf).map_err(|error| place.store_error(error, len))?;
        at += read;
        if at > len.saturating_add(PADDING_MAX) {
            return Err(place.store_error(StoreError::Behind(at), len));
        }
    }
    if at < len {
        return Err(place.cut_short(&format!("it ends after {at} bytes of a volume of {len}")));
    }
    report.stored_by = "dd".to_owned();
    report.used = len;
    storing.finish()
}

fn unpack_ntfsclone(
    opened: Opened<'_>,
    place: &Place<'_>,
    len: u64,
    scratch: &mut Scratch,
    report: &mut VolumeReport,
    progress: &Progress,
) -> Result<Stored> {
    let mut image = ntfsclone::Image::open(opened.reader, len).map_err(|error| place.error(error))?;
    let mut storing = Storing::new(scratch, image.cluster_bytes(), len);
    let (mut buf, mut counted) = (Vec::new(), 0);
    while let Some(first) = image.next_cluster(&mut buf).map_err(|error| place.error(error))? {
        storing.blocks(first, &buf).map_err(|error| place.store_error(error, len))?;
        report.used += buf.len() as u64;
        place.count(&mut counted, progress)?;
    }
    if image.tail().map_err(|error| place.error(error))? == Tail::Leftovers {
        report.remarks.push(LEFTOVERS.to_owned());
    }
    place.count(&mut counted, progress)?;
    report.stored_by = "ntfsclone".to_owned();
    report.file_system = Some("NTFS".to_owned());
    storing.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_form() {
        let form = |rest: &'static str| form_of(rest).map(|(form, len)| (form, &rest[..len]));
        for (rest, expected) in [
            ("ext4-ptcl-img.gz", Some((Form::Partclone, "ext4-ptcl-img.gz"))),
            ("ext4-ptcl-img.zst.aa", Some((Form::Partclone, "ext4-ptcl-img.zst"))),
            ("hfs+-ptcl-img.uncomp", Some((Form::Partclone, "hfs+-ptcl-img.uncomp"))),
            ("vfat-ptcl-img", Some((Form::Partclone, "vfat-ptcl-img"))),
            ("dd-img.aaa", Some((Form::Plain, "dd-img"))),
            ("dd-img", Some((Form::Plain, "dd-img"))),
            ("ntfs-img.ab", Some((Form::Ntfsclone, "ntfs-img"))),
            ("dd-img.info", None),
            ("dd-imgs", None),
            ("ext4-ptcl-img.gz.torrent", None),
            ("ext4-ptcl-img.gz.aa.bak", None),
            ("files-md5sum.info.gz", None),
            ("x.ext4-ptcl-img.gz", None),
            ("000", None),
        ] {
            assert_eq!(form(rest), expected, "{rest}");
        }
        assert!(is_partimage("000") && !is_partimage("aa") && !is_partimage("0000"));
    }
}
