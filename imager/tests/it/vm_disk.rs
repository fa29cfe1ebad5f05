//! Disk files of virtual machines, made by QEMU's tools in every shape that these know, hold what QEMU says they hold.

use std::fs;
use std::path::{Path, PathBuf};

use imager::extent::Extent;
use imager::vm_disk::{Follow, Format, How, Opened, open};

use crate::support::{content, noise, run, sh, sparse_file, write_at};
use crate::volume::{Random, Scratch};

const MIB: u64 = 1 << 20;
/// Neither a multiple of any block nor of 4 KiB.
const SIZE: u64 = 11 * MIB + 7 * 512;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn index(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

/// A disk of `size` bytes with noise, text, written zeros and holes, in runs that no block size fits.
fn raw_disk(dir: &Scratch, size: u64) -> PathBuf {
    let path = sparse_file(&dir.path("disk.raw"), size);
    write_at(&path, 0, &noise(70_000, 1));
    write_at(&path, MIB + 512, &b"all work and no play\n".repeat(30_000));
    write_at(&path, 3 * MIB, &vec![0; 1 << 20]);
    write_at(&path, 5 * MIB - 1536, &noise(3_000_000, 2));
    write_at(&path, size - 512, &noise(512, 3));
    path
}

pub(crate) fn opened(path: &Path) -> Opened {
    open(path, &How::default()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All of a disk, read in pieces of many sizes.
pub(crate) fn all_of(opened: &Opened) -> Vec<u8> {
    let disk = &opened.source;
    let mut bytes = vec![0xEE; usize::try_from(disk.size()).unwrap()];
    let mut random = Random::new(7);
    let mut at = 0;
    while at < bytes.len() {
        let len = (1 + index(random.below(200_000))).min(bytes.len() - at);
        disk.read_at(at as u64, &mut bytes[at..at + len]).unwrap();
        at += len;
    }
    bytes
}

/// What is in `path` is what QEMU says it is, whole and in parts, and zeros where no data are said to be.
fn check(path: &Path, format: Format) -> Opened {
    let disk = opened(path);
    assert_eq!(disk.format, format, "{}", path.display());
    let qemu_format = if format == Format::Vhd { "vpc" } else { format.name() };
    let expected_path = path.with_extension("expected");
    run("qemu-img", ["convert", "-f", qemu_format, "-O", "raw", text(path), text(&expected_path)]);
    let expected = content(&expected_path);
    fs::remove_file(&expected_path).unwrap();
    let bytes = all_of(&disk);
    assert_eq!(bytes.len(), expected.len(), "{}", path.display());
    let first_other = bytes.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!(first_other, None, "{}", path.display());
    let data = disk.source.data_extents();
    for gap in data.complement(Extent::new(0, disk.source.size())).iter() {
        let (start, end) = (usize::try_from(gap.start).unwrap(), usize::try_from(gap.end()).unwrap());
        assert!(bytes[start..end].iter().all(|&byte| byte == 0), "{}: {gap:?} is not zeros", path.display());
    }
    let mut random = Random::new(3);
    for _ in 0..300 {
        let at = index(random.below(bytes.len() as u64));
        let len = index(random.below(9000)).min(bytes.len() - at);
        let mut part = vec![0xEE; len];
        disk.source.read_at(at as u64, &mut part).unwrap();
        assert!(part == bytes[at..at + len], "{}: {len} bytes at {at}", path.display());
    }
    assert!(disk.source.read_at(disk.source.size(), &mut [0]).is_err());
    disk
}

/// Converts `raw` into a file of that format; `options` go to `-o`.
pub(crate) fn convert(raw: &Path, path: &Path, format: &str, flags: &[&str], options: &str) -> PathBuf {
    let mut args = vec!["convert", "-f", "raw", "-O", format];
    args.extend(flags);
    if !options.is_empty() {
        args.extend(["-o", options]);
    }
    args.extend([text(raw), text(path)]);
    run("qemu-img", args);
    path.to_owned()
}

#[test]
fn qcow2_in_every_shape() {
    let dir = Scratch::new();
    let raw = raw_disk(&dir, SIZE);
    let shapes: [(&[&str], &str); 17] = [
        (&[], ""),
        (&[], "compat=0.10"),
        (&[], "cluster_size=512"),
        (&[], "cluster_size=4k,compat=0.10"),
        (&[], "cluster_size=2M"),
        (&["-c"], ""),
        (&["-c"], "cluster_size=512"),
        (&["-c"], "cluster_size=2M,compat=0.10"),
        (&["-c"], "compression_type=zstd"),
        (&["-c"], "compression_type=zstd,cluster_size=2M"),
        (&["-c"], "compression_type=zstd,cluster_size=4k"),
        (&[], "extended_l2=on"),
        (&[], "extended_l2=on,cluster_size=16k"),
        (&["-c"], "extended_l2=on,cluster_size=128k"),
        (&[], "preallocation=metadata"),
        (&[], "preallocation=full,lazy_refcounts=on"),
        (&["-S", "0"], "preallocation=falloc"),
    ];
    for (flags, options) in shapes {
        let file = convert(&raw, &dir.path("disk.qcow2"), "qcow2", flags, options);
        let disk = check(&file, Format::Qcow2);
        assert_eq!(disk.notes, [""; 0], "{flags:?} {options}");
        // Holes of the disk are no data, unless all of it was written.
        let data = disk.source.data_extents().total();
        let all = flags.contains(&"-S") || options.contains("full");
        assert!(data < 7 * MIB + 512 * 1024 || options.contains("2M") || all, "{flags:?} {options}: {data}");
    }
}

#[test]
fn qcow2_that_was_written_to() {
    let dir = Scratch::new();
    for options in ["", "cluster_size=512", "extended_l2=on", "compat=0.10", "extended_l2=on,cluster_size=2M"] {
        let file = dir.path("disk.qcow2");
        let mut args = vec!["create", "-q", "-f", "qcow2"];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        run("qemu-img", [&args[..], &[text(&file), "20M"]].concat());
        let mut script = vec!["-c".to_owned(), "write -P 7 0 5M".to_owned()];
        let mut random = Random::new(11);
        let commands = ["write -P 9", "write -z", "discard", "write -P 17", "write -z -u"];
        for number in 0..60 {
            let (at, len) = (random.below(40_000) * 512, (1 + random.below(600)) * 512);
            let command = commands[number % commands.len()];
            script.extend(["-c".to_owned(), format!("{command} {at} {}", len.min(20 * MIB - at))]);
        }
        run("qemu-io", [vec!["-f".to_owned(), "qcow2".to_owned()], script, vec![text(&file).to_owned()]].concat());
        check(&file, Format::Qcow2);
    }
}

#[test]
fn a_data_file_beside_it_is_read() {
    let dir = Scratch::new();
    let raw = raw_disk(&dir, SIZE);
    for more in ["", ",data_file_raw=on"] {
        let options = format!("data_file={}{more}", text(&dir.path("data")));
        let disk = check(&convert(&raw, &dir.path("disk.qcow2"), "qcow2", &[], &options), Format::Qcow2);
        assert_eq!(disk.files.len(), 2);
    }
}

#[test]
fn what_an_overlay_does_not_have_is_below() {
    let dir = Scratch::new();
    let raw = raw_disk(&dir, SIZE);
    let base = convert(&raw, &dir.path("base.qcow2"), "qcow2", &["-c"], "");
    let names = ["one.qcow2", "two.qcow2", "three.qcow2"].map(|name| dir.path(name));
    let create = |backing: &str, format: &str, file: &Path, size: &str| {
        run("qemu-img", ["create", "-q", "-f", "qcow2", "-b", backing, "-F", format, text(file), size]);
    };
    // A relative name, a larger disk, an absolute name, a smaller disk.
    create("base.qcow2", "qcow2", &names[0], "13M");
    run("qemu-io", ["-f", "qcow2", "-c", "write -P 5 2M 300k", "-c", "write -z 5M 64k", text(&names[0])]);
    create(text(&names[0]), "qcow2", &names[1], "6M");
    run("qemu-io", ["-f", "qcow2", "-c", "write -P 6 100k 1k", text(&names[1])]);
    create("two.qcow2", "qcow2", &names[2], "40M");
    for file in [&base, &names[0], &names[1], &names[2]] {
        check(file, Format::Qcow2);
    }
    assert_eq!(
        opened(&names[2]).files,
        [names[2].clone(), dir.path("two.qcow2"), names[0].clone(), dir.path("base.qcow2")]
    );
    // Over a raw disk, with the same data as QEMU sees.
    create("disk.raw", "raw", &dir.path("over.qcow2"), "12M");
    run("qemu-io", ["-f", "qcow2", "-c", "write -P 6 100k 1k", text(&dir.path("over.qcow2"))]);
    let over = check(&dir.path("over.qcow2"), Format::Qcow2);
    assert!(over.source.data_extents().total() < 7 * MIB);
}

#[test]
fn only_the_current_state_is_read_and_that_is_said() {
    let dir = Scratch::new();
    let file = convert(&raw_disk(&dir, SIZE), &dir.path("disk.qcow2"), "qcow2", &[], "");
    run("qemu-img", ["snapshot", "-c", "before", text(&file)]);
    run("qemu-io", ["-f", "qcow2", "-c", "write -P 200 0 3M", text(&file)]);
    let disk = check(&file, Format::Qcow2);
    assert!(disk.notes[0].contains("1 internal snapshots"), "{:?}", disk.notes);
}

#[test]
fn vmdk_in_every_shape() {
    let dir = Scratch::new();
    let raw = raw_disk(&dir, SIZE);
    let shapes = [
        "",
        "subformat=monolithicSparse,zeroed_grain=on",
        "subformat=monolithicSparse,compat6=on",
        "subformat=monolithicFlat",
        "subformat=twoGbMaxExtentSparse",
        "subformat=twoGbMaxExtentFlat",
        "subformat=streamOptimized",
        "adapter_type=lsilogic,hwversion=14",
    ];
    for options in shapes {
        let disk = check(&convert(&raw, &dir.path("disk.vmdk"), "vmdk", &[], options), Format::Vmdk);
        assert_eq!(disk.notes, [""; 0], "{options}");
        assert!(disk.source.data_extents().total() < 7 * MIB, "{options}: {}", disk.source.data_extents().total());
    }
    run("qemu-io", ["-f", "vmdk", "-c", "write -z 64k 1M", "-c", "write -P 3 9M 100k", text(&dir.path("disk.vmdk"))]);
    check(&dir.path("disk.vmdk"), Format::Vmdk);
}

#[test]
fn a_vmdk_of_many_extents_is_one_disk() {
    let dir = Scratch::new();
    let size = 5 << 30;
    let raw = sparse_file(&dir.path("disk.raw"), size);
    let places = [0, (2 << 30) - 70_000, (4 << 30) - 1000, size - 100_000];
    for (seed, at) in (0..).zip(places) {
        write_at(&raw, at, &noise(100_000, seed));
    }
    for kind in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        convert(&raw, &dir.path("disk.vmdk"), "vmdk", &[], &format!("subformat={kind}"));
        let disk = opened(&dir.path("disk.vmdk"));
        assert_eq!((disk.source.size(), disk.files.len()), (size, 4));
        for (seed, at) in (0..).zip(places) {
            let mut bytes = vec![0; 100_000];
            disk.source.read_at(at, &mut bytes).unwrap();
            assert!(bytes == noise(100_000, seed), "{kind}: {at}");
        }
        assert!(disk.source.data_extents().total() < 2 * MIB, "{kind}");
        assert!(disk.words()[0].contains("5.00 GiB in the vmdk format, with "), "{:?}", disk.words());
        // One of its files is not the disk.
        let error = open(&dir.path("disk-s001.vmdk"), &How::default()).err().map(|error| error.to_string());
        assert!(kind.ends_with("Flat") || error.unwrap().contains("name the disk's descriptor"));
    }
}

/// A stream as VMware writes it: the header in front knows nothing, a footer at the end does.
fn with_footer(file: &Path) {
    let mut bytes = content(file);
    let mut footer = bytes[..512].to_vec();
    bytes[56..64].fill(0xFF);
    let mut marker = vec![0; 512];
    marker[0] = 1;
    marker[12] = 3;
    footer.truncate(512);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    fs::write(file, [bytes, marker, footer, vec![0; 512]].concat()).unwrap();
}

#[test]
fn a_stream_with_a_footer_is_read_and_without_it_refused() {
    let dir = Scratch::new();
    let file = convert(&raw_disk(&dir, SIZE), &dir.path("disk.vmdk"), "vmdk", &[], "subformat=streamOptimized");
    with_footer(&file);
    check(&file, Format::Vmdk);
    let bytes = content(&file);
    fs::write(&file, &bytes[..bytes.len() - 512]).unwrap();
    let error = open(&file, &How::default()).err().unwrap().to_string();
    assert!(error.contains("in its footer: it is cut off"), "{error}");
}

#[test]
fn vhdx_in_every_shape() {
    let dir = Scratch::new();
    let raw = raw_disk(&dir, SIZE);
    for options in ["", "subformat=fixed", "block_size=1M", "block_size=256M", "block_size=8M,log_size=2M"] {
        let disk = check(&convert(&raw, &dir.path("disk.vhdx"), "vhdx", &[], options), Format::Vhdx);
        assert_eq!((disk.notes.len(), disk.source.sector_size()), (0, Some(512)), "{options}: {:?}", disk.notes);
    }
    run("qemu-io", ["-f", "vhdx", "-c", "write -P 9 3M 1000k", text(&dir.path("disk.vhdx"))]);
    check(&dir.path("disk.vhdx"), Format::Vhdx);
}

#[test]
fn a_vhdx_has_more_blocks_than_one_bitmap() {
    let dir = Scratch::new();
    // With blocks of 1 MiB, every 4096th entry of its table is none of a block.
    let size = 9 << 30;
    let raw = sparse_file(&dir.path("disk.raw"), size);
    let places = [0, (4 << 30) - 50_000, (8 << 30) - 100_000, size - 100_000];
    for (seed, at) in (0..).zip(places) {
        write_at(&raw, at, &noise(100_000, seed));
    }
    convert(&raw, &dir.path("disk.vhdx"), "vhdx", &[], "block_size=1M");
    let disk = opened(&dir.path("disk.vhdx"));
    for (seed, at) in (0..).zip(places) {
        let mut bytes = vec![0; 100_000];
        disk.source.read_at(at, &mut bytes).unwrap();
        assert!(bytes == noise(100_000, seed), "{at}");
    }
    assert!(disk.source.data_extents().total() < 10 * MIB);
}

/// Where the table of blocks of a VHDX begins: what its table of regions says behind the GUID.
pub(crate) fn block_table(vhdx: &[u8]) -> u64 {
    let id = [0x66, 0x77, 0xC2, 0x2D, 0x23, 0xF6, 0x00, 0x42, 0x9D, 0x64, 0x11, 0x5E, 0x9B, 0xFD, 0x4A, 0x08];
    let regions = &vhdx[192 << 10..256 << 10];
    let at = regions.windows(16).position(|window| window == id).unwrap();
    u64::from_le_bytes(regions[at + 16..at + 24].try_into().unwrap())
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// Makes the log of a VHDX as it is when its writer dies before it has carried out any of it: the `entries` that QEMU
/// has left are one sequence, which begins `rotated` bytes into the log.
pub(crate) fn with_open_log(vhdx: &mut [u8], entries: usize, rotated: usize) {
    const LOG: usize = 1 << 20;
    let id = [7; 16];
    let seal = |part: &mut [u8]| {
        part[4..8].fill(0);
        let crc = crc32c(part).to_le_bytes();
        part[4..8].copy_from_slice(&crc);
    };
    for entry in 0..entries {
        let entry = &mut vhdx[LOG + entry * 8192..][..8192];
        assert!(entry.starts_with(b"loge"));
        entry[12..16].copy_from_slice(&u32::try_from(rotated).unwrap().to_le_bytes());
        entry[32..48].copy_from_slice(&id);
        seal(entry);
    }
    vhdx[LOG..LOG + (1 << 20)].rotate_right(rotated);
    for header in [64 << 10, 128 << 10] {
        let header = &mut vhdx[header..][..4096];
        header[48..64].copy_from_slice(&id);
        seal(header);
    }
}

#[test]
fn a_vhdx_that_was_not_closed_is_read_with_its_log() {
    let dir = Scratch::new();
    let file = dir.path("disk.vhdx");
    run("qemu-img", ["create", "-q", "-f", "vhdx", "-o", "block_size=1M", text(&file), "30M"]);
    run("qemu-io", ["-f", "vhdx", "-c", "write -P 2 10M 2M", "-c", "write -P 3 3M 100k", text(&file)]);
    let closed = content(&file);
    let expected = all_of(&opened(&file));
    assert_eq!((expected[10 << 20], expected[3 << 20]), (2, 3));
    // At the log's beginning, and around its end.
    for rotated in [0, (1 << 20) - 12288] {
        let mut bytes = closed.clone();
        with_open_log(&mut bytes, 3, rotated);
        // What the log says was not carried out: the entries of the table are still zeros.
        let table = block_table(&bytes);
        for block in [3, 10, 11] {
            let at = usize::try_from(table + block * 8).unwrap();
            assert_ne!(bytes[at..at + 8], [0; 8], "block {block} is in the table");
            bytes[at..at + 8].fill(0);
        }
        fs::write(&file, &bytes).unwrap();
        let disk = opened(&file);
        assert!(disk.notes[0].contains("what its log says was carried out in memory"), "{:?}", disk.notes);
        assert!(all_of(&disk) == expected, "{rotated}");
        assert!(content(&file) == bytes, "the file is as it was");
        // QEMU carries it out for good.
        sh(&format!("qemu-img check -q -r all {0} && qemu-img convert -f vhdx -O raw {0} {0}.raw", text(&file)));
        assert!(content(&dir.path("disk.vhdx.raw")) == expected, "{rotated}");
        // The last entry was not written whole: the state before it.
        bytes[(1 << 20) + (rotated + 16384 + 5000) % (1 << 20)] ^= 1;
        fs::write(&file, &bytes).unwrap();
        let before = all_of(&opened(&file));
        assert_eq!((before[10 << 20], before[3 << 20]), (2, 0));
        // A byte of the first: nobody knows what was carried out.
        bytes[(1 << 20) + (rotated + 5000) % (1 << 20)] ^= 1;
        fs::write(&file, &bytes).unwrap();
        let read = open(&file, &How::default()).map(|disk| all_of(&disk));
        assert!(read.is_err_and(|error| error.to_string().contains("its log has no run of entries that holds")));
    }
}

#[test]
fn vhd_in_every_shape() {
    let dir = Scratch::new();
    let raw = raw_disk(&dir, SIZE);
    for options in ["", "force_size=on", "subformat=fixed", "subformat=fixed,force_size=on"] {
        let disk = check(&convert(&raw, &dir.path("disk.vhd"), "vpc", &[], options), Format::Vhd);
        assert_eq!(disk.notes, [""; 0], "{options}");
        let mut start = all_of(&disk);
        start.truncate(usize::try_from(SIZE).unwrap());
        assert!(start == content(&raw), "{options}");
    }
    let file = convert(&raw, &dir.path("disk.vhd"), "vpc", &[], "");
    run("qemu-io", ["-f", "vpc", "-c", "write -P 9 8M 1000k", text(&file)]);
    let good = all_of(&check(&file, Format::Vhd));
    // The footer is gone, its copy in front is not; and the other way round.
    let size = fs::metadata(&file).unwrap().len();
    write_at(&file, size - 400, &[0xAA; 16]);
    let disk = opened(&file);
    assert!(disk.notes[0].contains("the copy at its beginning was taken"), "{:?}", disk.notes);
    assert!(all_of(&disk) == good);
    convert(&raw, &file, "vpc", &[], "");
    write_at(&file, 0, &[0xAA; 512]);
    assert_eq!(opened(&file).format, Format::Vhd);
}

#[test]
fn sectors_of_a_vhd_that_were_never_written_are_zeros() {
    let dir = Scratch::new();
    let file = convert(&raw_disk(&dir, SIZE), &dir.path("disk.vhd"), "vpc", &[], "");
    let bytes = content(&file);
    let table = usize::try_from(u64::from_be_bytes(bytes[512 + 16..512 + 24].try_into().unwrap())).unwrap();
    let block = u64::from(u32::from_be_bytes(bytes[table..table + 4].try_into().unwrap())) * 512;
    // The sectors 1 and 9 of the first block, in its bits from the left.
    write_at(&file, block, &[0b1011_1111, 0b1011_1111]);
    let read = all_of(&opened(&file));
    let disk = noise(70_000, 1);
    for sector in 0..20 {
        let range = sector * 512..(sector + 1) * 512;
        let expected = if matches!(sector, 1 | 9) { vec![0; 512] } else { disk[range.clone()].to_vec() };
        assert!(read[range] == expected, "sector {sector}");
    }
}

#[test]
fn vdi_in_every_shape() {
    let dir = Scratch::new();
    let raw = raw_disk(&dir, SIZE);
    for options in ["", "static=on"] {
        let disk = check(&convert(&raw, &dir.path("disk.vdi"), "vdi", &[], options), Format::Vdi);
        assert_eq!(disk.notes, [""; 0], "{options}");
    }
    run("qemu-io", ["-f", "vdi", "-c", "write -P 9 8M 1000k", text(&dir.path("disk.vdi"))]);
    check(&dir.path("disk.vdi"), Format::Vdi);
}

#[test]
fn names_lead_no_further_than_they_should() {
    let dir = Scratch::new();
    let raw = raw_disk(&dir, SIZE);
    fs::create_dir(dir.path("other")).unwrap();
    let secret = dir.path("other/secret.raw");
    fs::copy(&raw, &secret).unwrap();
    let over = dir.path("over.qcow2");
    let create = |backing: &Path, file: &Path| {
        run("qemu-img", ["create", "-q", "-f", "qcow2", "-b", text(backing), "-F", "raw", text(file)]);
    };
    let refused = |path: &Path, how: &How, words: &str| {
        let error = open(path, how).err().expect(words).to_string();
        assert!(error.contains(words), "{error}");
    };
    let how = How::default();
    create(&secret, &over);
    refused(&over, &how, "--follow-backing reads that, too");
    assert!(open(&over, &How { follow: Follow::Anywhere, ..how }).is_ok());
    // Through a link, too.
    std::os::unix::fs::symlink(&secret, dir.path("link.raw")).unwrap();
    create(&dir.path("link.raw"), &over);
    refused(&over, &how, "--follow-backing reads that, too");
    // A guest makes its raw disk look like an overlay of its neighbour's.
    create(&raw, &over);
    let disguised = dir.path("guest.img");
    fs::copy(&over, &disguised).unwrap();
    refused(&disguised, &how, "a virtual machine can write such content");
    assert!(open(&disguised, &How { format: Some(Format::Qcow2), ..how }).is_ok());
    assert_eq!(open(&disguised, &How::raw()).unwrap().source.size(), fs::metadata(&disguised).unwrap().len());
    // And so below another, whose header does not say what it is.
    let above = dir.path("above.qcow2");
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-b", text(&disguised), "-F", "qcow2", text(&above)]);
    assert!(open(&above, &how).is_ok());
    let header = content(&above);
    let extension = header.windows(4).position(|window| window == [0xE2, 0x79, 0x2A, 0xCA]).unwrap();
    write_at(&above, extension as u64, b"none");
    refused(&above, &how, "a virtual machine can write such content");
    // With a partition table it is asked for.
    write_at(&disguised, 510, &[0x55, 0xAA]);
    refused(&disguised, &how, "--format qcow2 or --format raw");
    // A descriptor that names what it should not.
    let descriptor = dir.path("disk.vmdk");
    convert(&raw, &descriptor, "vmdk", &[], "subformat=monolithicFlat");
    let words = fs::read_to_string(&descriptor).unwrap().replace("disk-flat.vmdk", text(&secret));
    fs::write(&descriptor, &words).unwrap();
    refused(&descriptor, &how, "--follow-backing reads that, too");
    // Itself.
    run("qemu-img", ["rebase", "-u", "-b", text(&over), "-F", "qcow2", text(&over)]);
    refused(&over, &how, "which needs it in turn");
    // What is no file: a linked clone.
    run("qemu-img", ["rebase", "-u", "-b", "nbd+unix:///disk0?socket=/none", "-F", "raw", text(&over)]);
    refused(&over, &how, "make it a full one");
    // What is not there.
    run("qemu-img", ["rebase", "-u", "-b", "gone.raw", "-F", "raw", text(&over)]);
    refused(&over, &how, "gone.raw");
}
