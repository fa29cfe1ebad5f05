//! Seeds for the fuzz targets of what others say and write: NBD's clients, exported machines, the texts of imports.

use std::fs;

use imager::clonezilla::texts::{KeptTable, lay};
use imager::extent::ExtentSet;
use imager::read_at::ReadAt;
use ring::digest;

use crate::fuzz_replay::{appliance, corpus, encode, import_text, nbd, volume};

/// A seed: of which target, its name and its bytes.
type Seed = (&'static str, &'static str, Vec<u8>);

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    [b"IHAVEOPT", &number.to_be_bytes()[..], &len.to_be_bytes(), data].concat()
}

fn string(text: &str) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

fn request(flags: u16, command: u16, offset: u64, len: u32) -> Vec<u8> {
    let head = [&0x2560_9513u32.to_be_bytes()[..], &flags.to_be_bytes(), &command.to_be_bytes(), &[9; 8]].concat();
    [head, offset.to_be_bytes().to_vec(), len.to_be_bytes().to_vec()].concat()
}

/// Clients: what they say before they have chosen an export, and what they ask for then.
fn clients() -> Vec<Seed> {
    let hello = 3u32.to_be_bytes().to_vec();
    let (read, leave, flush, trim, cache, zeroes, status) = (0, 2, 3, 4, 5, 6, 7);
    let context = [string("disk0p1"), 1u32.to_be_bytes().to_vec(), string("base:allocation")].concat();
    let go = |name: &str| option(7, &[string(name), vec![0, 1, 0, 3]].concat());
    let full = [
        hello.clone(),
        option(3, b""),
        option(8, b""),
        option(9, &[string(""), vec![0; 4]].concat()),
        option(10, &context),
        option(6, &[string("disk0"), vec![0; 2]].concat()),
        option(0x1234, &[0; 70_000]),
        go("disk0p1"),
        request(0, status, 0, 3 << 20),
        request(1 << 3, status, 4096, 512),
        request(0, read, 0, 3 << 20),
        request(1 << 2, read, 512, 2 << 20),
        request(0, read, 2 << 20, 512),
        [request(0, 1, 0, 10), vec![1; 10]].concat(),
        request(0, cache, 0, 4096),
        request(0, trim, 0, 4096),
        request(0, zeroes, u64::MAX, u32::MAX),
        request(0, flush, 0, 0),
        request(0, leave, 0, 0),
    ];
    // The old way, where an answer is one run of bytes.
    let plain = [
        1u32.to_be_bytes().to_vec(),
        option(1, b""),
        request(0, read, 100, 1000),
        request(0, read, 1 << 20, 2 << 20),
        request(0, status, 0, 512),
        request(0, read, 0, 64 << 20),
    ];
    let aborted = [hello, go("nothing"), option(7, b"short"), go(""), request(0, 77, 0, 0)];
    vec![("nbd", "structured", full.concat()), ("nbd", "simple", plain.concat()), ("nbd", "refused", aborted.concat())]
}

const GPT_DUMP: &str = "label: gpt\nlabel-id: 5DA1B2C3-0000-4000-8000-000000000001\ndevice: /dev/sda\nunit: sectors\n\
    first-lba: 34\nlast-lba: 204766\nsector-size: 512\n\n\
    /dev/sda1 : start=        2048, size=        4096, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, \
    uuid=5DA1B2C3-0000-4000-8000-000000000002, name=\"a, \\xc3\\xa4=b\", attrs=\"LegacyBIOSBootable GUID:62,63\"\n\
    /dev/sda12 : start=8192, size=1, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid=5DA1B2C3-0000-4000-8000-000000000003\n";

const MBR_DUMP: &str = "# partition table of /dev/sda\nunit: sectors\n\n\
    /dev/sda1 : start=     2048, size=    20480, Id=83, bootable\n\
    /dev/sda2 : start=    22528, size=   100000, Id= f\n\
    /dev/sda3 : start=        0, size=        0, Id= 0\n\
    /dev/sda5 : start=    24576, size=    10000, Id=82\n/dev/sda6 : start=    40960, size=    10000, Id=83\n";

const GROUP: &str = r#"vg
contents = "Text Format Volume Group"
creation_host = "web-1"	# of yesterday
creation_time = 1682936430
vg {
 id = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg"
 extent_size = 8192
 physical_volumes {
  pv0 { id = "qdlt6U-M4bo-xExy-XG9Q-U7pg-bOXN-n54i5Y" device = "/dev/sda2" dev_size = 2097152 pe_start = 2048 }
  pv1 { id = "Adlt6U-M4bo-xExy-XG9Q-U7pg-bOXN-n54i5Y" device = "/dev/sdb" dev_size = 2097152 pe_start = 2048 }
 }
 logical_volumes {
  root {
   segment1 { start_extent = 0 extent_count = 10 type = "striped" stripe_count = 1 stripes = [ "pv1", 3 ] }
   segment2 { start_extent = 10 extent_count = 5 type = "striped" stripe_count = 1 stripes = [ "pv0", 0 ] }
  }
 }
}
"#;

const FACTS: &str = "This image was saved by Clonezilla at 2023-05-01 10:20:30 +03.\n\
    KNAME NAME    SIZE TYPE FSTYPE MOUNTPOINT MODEL\nsda   sda      20G disk                   QEMU_HARDDISK\n\
    Model: ATA Samsung SSD 860 (scsi)\nDisk /dev/sda: 976773168s\nSector size (logical/physical): 512B/4096B\n\
    For the drive: /dev/sda\nSerial Number:    S3Z1NB0K\nLU WWN Device Id: 5 002538 e40a1b2c3\n\
    User Capacity:    500,107,862,016 bytes [500 GB]\nSystem Information\n\tManufacturer: Acme Inc.\n\
    \tUUID: 12345678-9ABC-DEF0-1234-56789ABCDEF0\nProcessor Information\n\tThread Count: 8\nMemory Device\n\tSize: 8 GB\n";

/// A partition table that was kept: see the target.
fn table(sectors: u32, kept: u8, parts: &[&[u8]], dump: &str) -> Vec<u8> {
    let mut seed = [&[0][..], &sectors.to_le_bytes(), &[kept]].concat();
    for part in parts {
        seed.extend(u16::try_from(part.len()).unwrap().to_le_bytes());
        seed.extend(*part);
    }
    [seed, dump.as_bytes().to_vec()].concat()
}

fn texts() -> Vec<Seed> {
    const SECTORS: u32 = 204_800;
    let whole = |dump: &str, len: usize| {
        let kept = KeptTable { dump: Some(dump), ..KeptTable::default() };
        lay(&kept, u64::from(SECTORS) * 512, 512).unwrap().0.read_vec(0, len).unwrap()
    };
    let (gpt, mbr) = (whole(GPT_DUMP, 34 * 512), whole(MBR_DUMP, 512));
    let gpt_of_the_dump = table(SECTORS, 0b11, &[&gpt[..512], &gpt[..]], GPT_DUMP);
    let other_gpt =
        table(SECTORS, 0b111, &[&gpt[..512], &gpt[..], &b"boot loader"[..]], &GPT_DUMP.replace("8192", "9000"));
    let ebr = [vec![0x90; 446], vec![0; 64], vec![0x55, 0xAA]].concat();
    let uri = format!("nbd+unix:///{}/disk3?socket=/run/a%20b.sock", "ab".repeat(16));
    let sidecar = format!(
        r#"{{"read_me":"x","clone":"{0}","image":"{0}","repository":"/r","repository_id":"{0}","socket":"/s","files":[{{"disk":0,"path":"/vm.qcow2"}}],"created":"2024-05-01T10:20:30Z"}}"#,
        "cd".repeat(16)
    );
    let text = |choice: u8, text: &str| [&[choice], text.as_bytes()].concat();
    let swap = "UUID=\"92d422f0-3a17-4e69-93f0-f8fd1091e5eb\"\nLABEL=\"SWAP-sda3\"\n";
    let swap = [&[3][..], &(10u32 * 4096).to_le_bytes(), swap.as_bytes()].concat();
    vec![
        ("import_text", "gpt", gpt_of_the_dump),
        ("import_text", "gpt-other", other_gpt),
        ("import_text", "gpt-alone", table(SECTORS, 0b1_0010, &[&gpt[..]], "")),
        ("import_text", "mbr", table(SECTORS, 0b1001, &[&mbr[..], &ebr[..]], MBR_DUMP)),
        ("import_text", "facts", text(1, FACTS)),
        ("import_text", "lvm", text(2, GROUP)),
        ("import_text", "swap", swap),
        ("import_text", "uri", text(4, &uri)),
        ("import_text", "sidecar", text(5, &sidecar)),
    ]
}

fn machines() -> Vec<Seed> {
    let seed = fs::read(corpus("vm_disk").join("vmdk-stream")).unwrap();
    let disk = volume::PatchedVolume::decode(&seed[1..]);
    let disk = disk.read_vec(0, usize::try_from(disk.size()).unwrap()).unwrap();
    let descriptor = r#"<?xml version="1.0"?><Envelope xmlns:ovf="x"><References><File ovf:href="b.raw" ovf:id="f2"/>
<File ovf:href='a.vmdk' ovf:id='f1' ovf:size="1"/></References><!-- <Disk ovf:fileRef="no"/> -->
<DiskSection><Disk ovf:diskId="d1" ovf:fileRef="f1"/><Disk ovf:diskId="empty"/><Disk ovf:fileRef="f2"/></DiskSection>
<VirtualSystem ovf:id="a &amp; b"></VirtualSystem></Envelope>"#;
    let sum = |algorithm, bytes: &[u8]| -> String {
        digest::digest(algorithm, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let manifest = format!(
        "SHA256(vm.ovf)= {}\nSHA1(b.raw)= {}\r\nSHA512 (a.vmdk) = {}\nMD5(vm.nvram)= 00\n",
        sum(&digest::SHA256, descriptor.as_bytes()),
        sum(&digest::SHA1_FOR_LEGACY_USE_ONLY, &[0x5A; 3000]),
        sum(&digest::SHA512, &disk)
    );
    let parts = |manifest: &str| {
        let len = |text: &str| u16::try_from(text.len()).unwrap().to_le_bytes();
        let texts = [&len(descriptor), descriptor.as_bytes(), &len(manifest), manifest.as_bytes()].concat();
        [&[1][..], &texts, &seed[1..]].concat()
    };
    let mut archive = Vec::new();
    for (name, bytes) in [("vm.ovf", descriptor.as_bytes()), ("a.vmdk", &disk[..]), ("b.raw", &[0x5A; 3000][..])] {
        appliance::append(&mut archive, name, bytes);
    }
    archive.resize(archive.len() + 1024, 0);
    let whole = encode(&archive, &ExtentSet::whole(archive.size()));
    vec![
        ("appliance", "with-manifest", parts(&manifest)),
        ("appliance", "without-manifest", parts("")),
        ("appliance", "archive", [&[0][..], &whole].concat()),
    ]
}

fn seeds() -> Vec<Seed> {
    [clients(), texts(), machines()].concat()
}

#[test]
#[ignore = "writes the corpus"]
fn make_seeds_of_words() {
    for (target, name, seed) in seeds() {
        fs::create_dir_all(corpus(target)).unwrap();
        fs::write(corpus(target).join(name), seed).unwrap();
    }
}

/// The seeds are what they are named after: a client gets answers, texts and machines are understood.
#[test]
fn seeds_of_words_are_understood() {
    for (target, name, seed) in seeds() {
        let is_understood = match target {
            "nbd" => nbd::converse_with(&seed).is_some_and(|heard| heard > 0),
            "appliance" => appliance::disks(&seed) == 2,
            _ => import_text::look(&seed),
        };
        assert!(is_understood, "{target} {name}");
        assert!(fs::read(corpus(target).join(name)).unwrap() == seed, "{target} {name} is not in the corpus");
    }
}
