//! A machine as one file: an archive of its descriptor, checksums, and disks as streamOptimized VMDKs.
//!
//! ```text
//! NAME.ovf │ NAME.mf │ NAME-disk0.vmdk │ NAME-disk1.vmdk … as tar (ustar; GNU's sizes from 8 GiB on)
//! ```
//!
//! What comes first tells the sizes and checksums of what follows: a file gets it last, and a pipe after the disks
//! were compressed once before, to nowhere. Both get the same bytes. Source: DMTF DSP0243 1.1, sections 5.1 and 5.3;
//! POSIX.1-2008, pax, "ustar Interchange Format". Must not know: what is in a descriptor.

#![forbid(unsafe_code)]

use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use ring::digest::{Context, SHA256};

use super::streams;
use super::{How, Image, Options, Part};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::vm::hardware::Hardware;
use crate::vm::{Macs, ovf};

const BLOCK: usize = 512;

/// Length and SHA-256 of a member.
type Sum = (u64, [u8; 32]);

/// Writes a machine to `path`; its disks are those of `hardware`. Gives the archive's length and the bytes that are
/// zeros because the repository is damaged.
///
/// # Errors
/// As [`super::write_disk`].
pub fn write_ova(
    image: &Image,
    hardware: &Hardware,
    macs: Macs,
    options: &Options,
    path: &Path,
    progress: &Progress,
) -> Result<(u64, u64)> {
    let part = Part::new(path, options.replace)?;
    let archive = Archive::new(image, hardware, macs, options);
    let io = |error| Error::io("write", part.working_path())(error);
    let mut file = part.create()?;
    let (mut sums, mut lost) = (Vec::new(), 0);
    file.seek(SeekFrom::Start(archive.head(&[]).len() as u64)).map_err(io)?;
    for disk in archive.disks() {
        let at = file.stream_position().map_err(io)?;
        file.write_all(&[0; BLOCK]).map_err(io)?;
        let (sum, disk_lost) = archive.disk(disk, &mut file, part.working_path(), progress)?;
        lost += disk_lost;
        let end = file.stream_position().map_err(io)?;
        file.seek(SeekFrom::Start(at)).map_err(io)?;
        file.write_all(&archive.header(&archive.disk_name(disk), sum.0)).map_err(io)?;
        file.seek(SeekFrom::Start(end)).map_err(io)?;
        sums.push(sum);
    }
    file.write_all(&[0; 2 * BLOCK]).map_err(io)?;
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    file.write_all(&archive.head(&sums)).map_err(io)?;
    file.flush().map_err(io)?;
    drop(file);
    Ok((part.finish()?.0, lost))
}

/// Writes a machine into a pipe. Gives the bytes that are zeros because the repository is damaged.
///
/// # Errors
/// As [`super::write_disk`].
pub fn stream_ova(
    image: &Image,
    hardware: &Hardware,
    macs: Macs,
    options: &Options,
    out: &mut dyn Write,
    progress: &Progress,
) -> Result<u64> {
    let archive = Archive::new(image, hardware, macs, options);
    let name = Path::new("standard output");
    let io = |error| Error::io("write to", name)(error);
    let mut sums = Vec::new();
    for disk in archive.disks() {
        sums.push(archive.disk(disk, &mut io::sink(), name, progress)?.0);
    }
    out.write_all(&archive.head(&sums)).map_err(io)?;
    let mut lost = 0;
    for (disk, expected) in archive.disks().zip(&sums) {
        out.write_all(&archive.header(&archive.disk_name(disk), expected.0)).map_err(io)?;
        let (sum, disk_lost) = archive.disk(disk, out, name, progress)?;
        if sum != *expected {
            return Err(Error::DamageFound(format!(
                "disk {disk} was not the same when it was read again; the archive in the pipe is worthless"
            )));
        }
        lost += disk_lost;
    }
    out.write_all(&[0; 2 * BLOCK]).and_then(|()| out.flush()).map_err(io)?;
    Ok(lost)
}

struct Archive<'a> {
    image: &'a Image,
    hardware: &'a Hardware,
    macs: Macs,
    options: Options,
}

impl<'a> Archive<'a> {
    fn new(image: &'a Image, hardware: &'a Hardware, macs: Macs, options: &Options) -> Self {
        Self { image, hardware, macs, options: Options { how: How::Stream, ..*options } }
    }

    fn disks(&self) -> impl Iterator<Item = usize> {
        self.hardware.disks.iter().map(|disk| disk.number)
    }

    fn disk_name(&self, disk: usize) -> String {
        format!("{}-disk{disk}.vmdk", self.hardware.name)
    }

    /// Everything before the first disk, always of the same length.
    fn head(&self, sums: &[Sum]) -> Vec<u8> {
        let text = |len: &dyn Fn(usize) -> u64| {
            let name = |(index, number)| ovf::DiskFile { name: self.disk_name(number), len: len(index) };
            ovf::descriptor(self.hardware, &self.disks().enumerate().map(name).collect::<Vec<_>>(), self.macs)
                .into_bytes()
        };
        let mut descriptor = text(&|index| sums.get(index).map_or(0, |sum| sum.0));
        descriptor.resize(text(&|_| u64::MAX).len(), b'\n');
        let descriptor_name = format!("{}.ovf", self.hardware.name);
        let mut sum = [0; 32];
        sum.copy_from_slice(ring::digest::digest(&SHA256, &descriptor).as_ref());
        let mut manifest = line(&descriptor_name, &sum);
        for (index, disk) in self.disks().enumerate() {
            manifest += &line(&self.disk_name(disk), &sums.get(index).map_or([0; 32], |sum| sum.1));
        }
        let mut head = Vec::new();
        for (name, bytes) in
            [(descriptor_name, descriptor), (format!("{}.mf", self.hardware.name), manifest.into_bytes())]
        {
            head.extend_from_slice(&self.header(&name, bytes.len() as u64));
            head.extend_from_slice(&bytes);
            head.resize(head.len().next_multiple_of(BLOCK), 0);
        }
        head
    }

    /// A disk, padded to whole blocks.
    fn disk(&self, disk: usize, out: &mut dyn Write, place: &Path, progress: &Progress) -> Result<(Sum, u64)> {
        let label = self.image.label(disk, Path::new(&self.disk_name(disk)));
        let mut summing = Summing { out, len: 0, sum: Context::new(&SHA256) };
        let lost = streams::vmdk(self.image, disk, &self.options, &label, &mut summing, place, progress)?;
        let Summing { out, len, sum } = summing;
        // Its sectors are of the size of tar's blocks.
        let padding = usize::try_from(len.next_multiple_of(BLOCK as u64) - len).unwrap_or(0);
        out.write_all(&vec![0; padding]).map_err(Error::io("write to", place))?;
        let mut bytes = [0; 32];
        bytes.copy_from_slice(sum.finish().as_ref());
        Ok(((len, bytes), lost))
    }

    /// What comes before a member.
    fn header(&self, name: &str, len: u64) -> [u8; BLOCK] {
        let mut header = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(field) = header.get_mut(at..at + bytes.len()) {
                field.copy_from_slice(bytes);
            }
        };
        put(0, name.as_bytes().get(..name.len().min(100)).unwrap_or_default());
        put(100, b"0000644\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        if len < 1 << 33 {
            put(124, format!("{len:011o}\0").as_bytes());
        } else {
            // More than eleven octal digits can say: the first bit set, then the number itself.
            put(124, &[0x80]);
            put(128, &len.to_be_bytes());
        }
        let created = u64::try_from(self.image.manifest.created.as_second()).unwrap_or(0).min((1 << 33) - 1);
        put(136, format!("{created:011o}\0").as_bytes());
        put(148, b"        ");
        put(156, b"0");
        put(257, b"ustar\x0000");
        put(265, b"root");
        put(297, b"root");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        if let Some(field) = header.get_mut(148..156) {
            field.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        header
    }
}

fn line(name: &str, sum: &[u8; 32]) -> String {
    let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("SHA256({name})= {hex}\n")
}

/// Counts and sums what goes through.
struct Summing<'a> {
    out: &'a mut dyn Write,
    len: u64,
    sum: Context,
}

impl Write for Summing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.out.write(bytes)?;
        self.sum.update(bytes.get(..len).unwrap_or_default());
        self.len += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
