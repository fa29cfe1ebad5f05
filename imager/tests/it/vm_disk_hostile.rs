//! Disk files that are cut off, damaged or made to harm: a clear error, or bytes that are right; never a panic, never
//! memory or time without bound.

use std::io;
use std::path::Path;
use std::sync::Arc;

use imager::read_at::{ReadAt, check_range};
use imager::vm_disk::{Contents, Disk, DiskError, Format, How, Neighbours, open, read};

use crate::support::{content, noise, run, sparse_file, write_at};
use crate::vm_disk::{convert, index};
use crate::volume::{Random, Scratch};

/// The first bytes of a file, some of them changed.
#[derive(Clone)]
struct Changed {
    file: Arc<Vec<u8>>,
    len: u64,
    patches: Vec<(u64, Vec<u8>)>,
}

impl ReadAt for Changed {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.len)?;
        self.file.read_at(offset, buf)?;
        for (at, bytes) in &self.patches {
            for (n, byte) in bytes.iter().enumerate() {
                if let Some(place) = (at + n as u64).checked_sub(offset).and_then(|place| buf.get_mut(index(place))) {
                    *place = *byte;
                }
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.len
    }
}

impl Contents for Changed {}

/// No other file is there.
struct Nobody;

impl Neighbours for Nobody {
    fn file(&self, name: &[u8]) -> Result<Box<dyn Contents>, DiskError> {
        Err(DiskError::unsupported(format!("{} bytes of a name", name.len())))
    }

    fn disk(&self, name: &[u8], _: Option<&[u8]>) -> Result<Box<dyn Contents>, DiskError> {
        self.file(name)
    }
}

/// A small file of each format, and what its disk holds.
fn samples(dir: &Scratch) -> Vec<(&'static str, Format, Changed, Vec<u8>)> {
    let raw = sparse_file(&dir.path("disk.raw"), 5 << 18);
    write_at(&raw, 0, &noise(9000, 1));
    write_at(&raw, 1 << 20, &b"text ".repeat(8000));
    write_at(&raw, (5 << 18) - 5000, &noise(5000, 2));
    let shapes: [(&str, Format, &str, &[&str], &str); 11] = [
        ("qcow2", Format::Qcow2, "qcow2", &[], "cluster_size=4k"),
        ("qcow2 v2", Format::Qcow2, "qcow2", &[], "compat=0.10,cluster_size=512"),
        ("qcow2 deflate", Format::Qcow2, "qcow2", &["-c"], "cluster_size=4k"),
        ("qcow2 zstd", Format::Qcow2, "qcow2", &["-c"], "compression_type=zstd,cluster_size=4k"),
        ("qcow2 subclusters", Format::Qcow2, "qcow2", &[], "extended_l2=on,cluster_size=16k"),
        ("vmdk", Format::Vmdk, "vmdk", &[], ""),
        ("vmdk stream", Format::Vmdk, "vmdk", &[], "subformat=streamOptimized"),
        ("vhdx", Format::Vhdx, "vhdx", &[], "block_size=1M"),
        ("vhd", Format::Vhd, "vpc", &[], "force_size=on"),
        ("vhd fixed", Format::Vhd, "vpc", &[], "subformat=fixed,force_size=on"),
        ("vdi", Format::Vdi, "vdi", &[], ""),
    ];
    let sample = |(name, format, qemu_format, flags, options): (_, _, &str, &[&str], &str)| {
        let file = Arc::new(content(&convert(&raw, &dir.path("file"), qemu_format, flags, options)));
        let file = Changed { len: file.size(), file, patches: Vec::new() };
        let disk = read_all(&file, format).unwrap().1;
        assert!(disk.starts_with(&content(&raw)), "{name}");
        (name, format, file, disk)
    };
    shapes.into_iter().map(sample).collect()
}

/// Everything that is on the disk; the error of opening it, or of the first read.
fn read_all(file: &Changed, format: Format) -> Result<(Disk, Vec<u8>), DiskError> {
    let disk = read(Box::new(file.clone()), format, &Nobody)?;
    let size = disk.contents.size();
    let data = disk.contents.data_extents()?;
    assert!(data.iter().all(|extent| extent.end() <= size));
    // Another size is what a header can say without a lie that shows.
    let bytes = disk.contents.read_vec(0, index(size.min(2 << 20)))?;
    Ok((disk, bytes))
}

#[test]
fn a_file_that_is_cut_off_is_refused_or_reads_right() {
    let dir = Scratch::new();
    for (name, format, file, disk) in samples(&dir) {
        let len = file.len;
        let near = |at: u64| [at.saturating_sub(1), at, at + 1];
        let steps = (0..len).step_by(usize::try_from(len / 50).unwrap().max(512)).flat_map(near);
        let mut refused = 0;
        for cut in steps.chain((0..600).step_by(7)).chain((len - 1100..len).step_by(37)).filter(|&cut| cut < len) {
            let cut_off = Changed { len: cut, ..file.clone() };
            match read_all(&cut_off, format) {
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
                // What is missing is said, and is no more than the end of the last block.
                Ok((found, bytes)) if found.notes.iter().any(|note| note.contains("before its last block does")) => {
                    let wrong = bytes.iter().zip(&disk).filter(|(a, b)| a != b && **a != 0).count();
                    assert_eq!((bytes.len(), wrong), (disk.len(), 0), "{name} at {cut}");
                }
                Ok((_, bytes)) => assert!(bytes == disk, "{name} at {cut}"),
            }
        }
        assert!(refused > 50, "{name}: {refused}");
    }
}

#[test]
fn changed_bytes_do_no_harm() {
    let dir = Scratch::new();
    for (name, format, file, _) in samples(&dir) {
        let mut random = Random::new(5);
        // Headers and tables lie where there is something, mostly in front.
        let there: Vec<u64> = (0..file.len).filter(|&at| file.file[usize::try_from(at).unwrap()] != 0).collect();
        let front = there.len().min(1500) as u64;
        let mut failed = 0;
        for number in 0..400 {
            let at =
                if number % 3 < 2 { there[index(random.below(front))] } else { random.below(file.len.min(300_000)) };
            let at = if number % 16 == 0 { file.len - 1 - random.below(512) } else { at };
            let patch = match number % 4 {
                0 => vec![file.file[usize::try_from(at).unwrap()] ^ (1 << random.below(8))],
                1 => vec![0xFF; 1 + index(random.below(8))],
                2 => vec![0; 1 + index(random.below(8))],
                _ => noise(1 + index(random.below(8)), number),
            };
            let changed = Changed { patches: vec![(at, patch)], ..file.clone() };
            failed += usize::from(read_all(&changed, format).is_err());
        }
        assert!(failed > 0, "{name}: {failed} of 400 were noticed");
    }
}

/// A header that says what it should not.
fn refused(dir: &Scratch, file: &Path, patches: &[(u64, &[u8])], words: &str) {
    let path = dir.path(&format!("hostile-{}", file.file_name().unwrap().to_str().unwrap()));
    std::fs::copy(file, &path).unwrap();
    for (at, bytes) in patches {
        write_at(&path, *at, bytes);
    }
    let error = open(&path, &How::default()).err().unwrap_or_else(|| panic!("not refused: {words}")).to_string();
    assert!(error.contains(words), "{error}\nwanted: {words}");
}

#[test]
fn headers_that_lie_are_refused_in_words() {
    let dir = Scratch::new();
    let raw = sparse_file(&dir.path("disk.raw"), 3 << 20);
    write_at(&raw, 4096, &noise(30_000, 1));
    let make = |format: &str, ending: &str, flags: &[&str], options: &str| {
        convert(&raw, &dir.path(&format!("disk.{ending}")), format, flags, options)
    };
    let qcow2 = make("qcow2", "qcow2", &[], "cluster_size=4k");
    let be64 = u64::to_be_bytes;
    refused(&dir, &qcow2, &[(20, &[0, 0, 0, 60])], "clusters of 2^60 bytes");
    refused(&dir, &qcow2, &[(20, &[0, 0, 0, 8])], "clusters of 2^8 bytes");
    refused(&dir, &qcow2, &[(24, &be64(u64::MAX))], "a disk of 18446744073709551615 bytes");
    refused(&dir, &qcow2, &[(24, &be64(1 << 50))], "for a disk that needs");
    refused(&dir, &qcow2, &[(36, &[0xFF; 4])], "a table of 4294967295 entries");
    refused(&dir, &qcow2, &[(40, &be64(1 << 60))], "its first table is said to be at");
    refused(&dir, &qcow2, &[(32, &[0, 0, 0, 2])], "it is encrypted");
    refused(&dir, &qcow2, &[(72, &be64(2))], "marked as corrupt");
    refused(&dir, &qcow2, &[(72, &be64(1 << 40))], "features that are not known here (bits 0x10000000000)");
    refused(&dir, &qcow2, &[(4, &[0, 0, 0, 1])], "version 1");
    refused(&dir, &qcow2, &[(4, &[0, 0, 0, 9])], "newer than this program");
    refused(
        &dir,
        &qcow2,
        &[(8, &be64(1 << 40)), (16, &[0, 0, 0, 9])],
        "the name of the file below is not in the header",
    );
    // A table where none can be, and one for two places.
    let header = content(&qcow2);
    let l1 = u64::from_be_bytes(header[40..48].try_into().unwrap());
    refused(&dir, &qcow2, &[(l1, &be64((l1 + 512) | 1 << 63))], "which is no multiple of a cluster");
    let entry = header[usize::try_from(l1).unwrap()..][..8].to_vec();
    refused(&dir, &qcow2, &[(l1 + 8, &entry)], "a table is there twice");
    // A compressed cluster behind all ends.
    let l2 = u64::from_be_bytes(entry.try_into().unwrap()) & 0x00FF_FFFF_FFFF_FE00;
    refused(&dir, &qcow2, &[(l2, &be64(1 << 62 | 1 << 50))], "it is cut off");

    let vmdk = make("vmdk", "vmdk", &[], "");
    let le64 = u64::to_le_bytes;
    refused(&dir, &vmdk, &[(12, &le64(u64::MAX))], "sectors");
    refused(&dir, &vmdk, &[(12, &le64(1 << 49))], "its directory reaches behind the file's end");
    refused(&dir, &vmdk, &[(20, &le64(3))], "grains of 3 sectors");
    refused(&dir, &vmdk, &[(20, &le64(1 << 40))], "grains of");
    refused(&dir, &vmdk, &[(44, &[0; 4])], "tables of 0 entries");
    refused(&dir, &vmdk, &[(44, &[0xFF; 4])], "tables of 4294967295 entries");
    refused(&dir, &vmdk, &[(73, b"\r\n")], "transfer as text");
    refused(&dir, &vmdk, &[(56, &le64(u64::MAX))], "in its footer: it is cut off");
    let text = content(&vmdk);
    let parent = text.windows(18).position(|window| window == b"parentCID=ffffffff").unwrap() as u64;
    refused(&dir, &vmdk, &[(parent, b"parentCID=12345678")], "consolidate the snapshots");

    let vdi = make("vdi", "vdi", &[], "");
    refused(&dir, &vdi, &[(0x4C, &[4, 0, 0, 0])], "VBoxManage clonemedium");
    refused(&dir, &vdi, &[(0x170, &le64(u64::MAX))], "a table of");
    refused(&dir, &vdi, &[(0x178, &[0; 4])], "blocks of 0 bytes");
    refused(&dir, &vdi, &[(0x180, &[0xFF; 4])], "its table reaches behind the file's end");
    refused(&dir, &vdi, &[(0x154, &[0xFF; 4])], "its table reaches behind the file's end");
    refused(&dir, &vdi, &[(0x184, &[0; 4])], "of a file that has 0");

    let vhdx = make("vhdx", "vhdx", &[], "block_size=1M");
    refused(&dir, &vhdx, &[(64 << 10, &[0; 4096]), (128 << 10, &[0; 4096])], "both of its headers are damaged");
    refused(&dir, &vhdx, &[(192 << 10, &[0; 16]), (256 << 10, &[0; 16])], "both of its region tables are damaged");
    let vhd = make("vpc", "vhd", &[], "");
    refused(&dir, &vhd, &[(512 + 32, &[0; 4])], "its checksum is wrong");
    let size = content(&vhd).size();
    refused(&dir, &vhd, &[(size - 512 + 60, &[0, 0, 0, 9]), (60, &[0, 0, 0, 9])], "there is no copy");
}

#[test]
fn a_disk_that_is_nearly_all_holes_is_opened_at_once() {
    let dir = Scratch::new();
    let file = dir.path("disk.qcow2");
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", file.to_str().unwrap(), "1P"]);
    let disk = open(&file, &How::default()).unwrap().source;
    assert_eq!((disk.size(), disk.data_extents().total()), (1 << 50, 0));
    let mut bytes = [1; 4096];
    disk.read_at((1 << 50) - 4096, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 4096]);
}

#[test]
fn formats_that_are_not_read_say_so() {
    let dir = Scratch::new();
    for (format, words) in [("qed", "QED file"), ("parallels", "Parallels file"), ("qcow", "version 1")] {
        let file = dir.path(format);
        run("qemu-img", ["create", "-q", "-f", format, file.to_str().unwrap(), "3M"]);
        let error = open(&file, &How::default()).err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(open(&file, &How::raw()).unwrap().format, Format::Raw);
    }
}
