//! A machine, its disks, a repository, jobs: as the effects would report them.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use imager::disk::health::{Health, Verdict};
use imager::disk::identity::{Identity, of_new_file};
use imager::files::{Case, Description, Entry, FileSystem, Kind as FileKind, NodeId, Ownership, Stat, Xattr};
use imager::fs::FsError;
use imager::machine::{Firmware, Machine, Nic};
use imager::repo::manifest::Manifest;
use serde_json::{Value, json};

use crate::job::{Counts, Kind, Map, State, Status};
use crate::places;
use crate::ui::facts::{Card, Content, Disk, Hold, Image, Looked, Opened, Part, Picture, Place};
use crate::ui::files::{Facts, File, Files, Led, Listing, Through};

pub(super) const GIB: u64 = 1 << 30;

pub(super) fn machine() -> Machine {
    Machine {
        vendor: Some("Dell Inc.".into()),
        product: Some("PowerEdge R640".into()),
        serial: Some("7JK2LQ2".into()),
        uuid: Some("4c4c4544-004a-4b10-8032-b7c04f4c5132".into()),
        firmware: Firmware::Uefi,
        secure_boot: Some(true),
        memory: 64 * GIB,
        cpus: 16,
        cpu_model: Some("Intel(R) Xeon(R) Silver 4110 CPU @ 2.10GHz".into()),
        hostname: Some("web1".into()),
        nics: vec![Nic { name: "eno1".into(), mac: "52:54:00:12:34:56".into() }],
    }
}

pub(super) fn cards() -> Vec<Card> {
    vec![
        Card {
            name: "eno1".into(),
            mac: "52:54:00:12:34:56".into(),
            link: Some(true),
            addresses: vec!["10.0.2.15".into()],
        },
        Card { name: "eno2".into(), mac: "52:54:00:12:34:57".into(), link: Some(false), addresses: Vec::new() },
    ]
}

pub(super) fn part(number: u32, start: u64, len: u64, kind: &str, label: Option<&str>, used: u64) -> Part {
    Part {
        number: Some(number),
        start,
        len,
        kind: kind.into(),
        label: label.map(str::to_owned),
        type_name: "Linux file system".into(),
        used,
        notes: Vec::new(),
    }
}

fn identity(path: &str, model: Option<&str>, serial: Option<&str>, transport: &str, size: u64) -> Identity {
    let file = of_new_file(path.into(), size);
    Identity {
        model: model.map(str::to_owned),
        serial: serial.map(str::to_owned),
        transport: Some(transport.into()),
        ..file
    }
}

fn healthy() -> Health {
    Health { verdict: Verdict::Healthy, remarks: Vec::new(), worn_percent: None, temperature: Some(31) }
}

fn disk(identity: Identity, parts: Vec<Part>, wanted: u64) -> Disk {
    let picture = Picture { size: identity.size, table: "GPT", parts, wanted, warnings: Vec::new() };
    let health = Some(healthy());
    Disk {
        identity,
        content: Content::Known(picture),
        health,
        writers: Vec::new(),
        users: Vec::new(),
        hold: Hold::Others,
    }
}

/// The system's disk, a Windows disk with a hibernated system, an empty one, and a stick.
pub(super) fn disks() -> Vec<Disk> {
    let system = disk(
        identity("/dev/nvme0n1", Some("Samsung SSD 980 PRO 1TB"), Some("S5GXNX0T123456"), "nvme", 932 * GIB),
        vec![
            part(1, 1 << 20, 512 << 20, "vfat", Some("EFI"), 9 << 20),
            part(2, 513 << 20, 100 * GIB, "ext4", Some("root"), 31 * GIB),
            part(3, (513 << 20) + 100 * GIB, 800 * GIB, "xfs", Some("srv"), 212 * GIB),
        ],
        243 * GIB + (74 << 20),
    );
    let mut windows = part(3, 145 << 20, 465 * GIB, "ntfs", Some("Windows"), 465 * GIB);
    windows.notes = vec!["hibernated: hiberfil.sys holds a system that sleeps".into()];
    let windows = disk(
        identity("/dev/sda", Some("WDC WD5000AAKX-08U6AA0"), Some("WD-WCC2E3XR9L2A"), "sata", 466 * GIB),
        vec![
            part(1, 1 << 20, 128 << 20, "vfat", Some("SYSTEM"), 31 << 20),
            Part {
                kind: "unknown".into(),
                type_name: "Microsoft reserved".into(),
                ..part(2, 129 << 20, 16 << 20, "", None, 16 << 20)
            },
            windows,
        ],
        465 * GIB,
    );
    let empty = disk(
        identity("/dev/sdb", Some("ST2000NM0008-2F3100"), Some("ZDH0A1B2"), "sas", 1863 * GIB),
        Vec::new(),
        65 << 20,
    );
    let mut stick = disk(
        identity("/dev/sdc", Some("SanDisk Ultra"), Some("4C530001230523"), "usb", 58 * GIB),
        vec![part(1, 1 << 20, 57 * GIB, "exfat", Some("BACKUP"), 22 * GIB)],
        57 * GIB,
    );
    stick.identity.removable = true;
    stick.health = Some(Health { verdict: Verdict::Unknown, remarks: vec!["a stick".into()], ..healthy() });
    vec![system, windows, empty, stick]
}

/// One that cannot be read, one without a serial number, one that is in use, one that is being read.
pub(super) fn awkward_disks() -> Vec<Disk> {
    let mut all = disks();
    if let [a, b, c, d] = all.as_mut_slice() {
        a.writers = vec!["/dev/nvme0n1p2 is mounted for writing at /".into()];
        a.users = vec!["/dev/nvme0n1p2 is mounted at /".into()];
        b.content = Content::Failed("cannot read at byte 0 of /dev/sda: Input/output error".into());
        let remarks = vec!["it expects to fail soon".into(), "24 sectors cannot be read".into()];
        b.health = Some(Health { verdict: Verdict::Failing, remarks, ..healthy() });
        c.health = Some(Health { verdict: Verdict::Suspect, worn_percent: Some(97), ..healthy() });
        d.health = None;
        c.identity.serial = None;
        c.identity.model = None;
        d.content = Content::Reading;
    }
    all
}

pub(super) fn places() -> Vec<Place> {
    let stick = places::Place {
        device: "/dev/sdc1".into(),
        label: Some("BACKUP".into()),
        uuid: Some("1234-ABCD".into()),
        filesystem: "exfat".into(),
        size: 57 * GIB,
        model: Some("SanDisk Ultra".into()),
        serial: Some("4C530001230523".into()),
        mounted: None,
    };
    let root = places::Place {
        device: "/dev/nvme0n1p2".into(),
        label: Some("root".into()),
        uuid: None,
        filesystem: "ext4".into(),
        size: 100 * GIB,
        model: Some("Samsung SSD 980 PRO 1TB".into()),
        serial: Some("S5GXNX0T123456".into()),
        mounted: None,
    };
    vec![Place::Device(stick), Place::Device(root)]
}

/// What is on the stick, or on the system's disk.
pub(super) fn looked(place: &Place) -> Looked {
    let device = match place {
        Place::Device(place) => place.device.display().to_string(),
        Place::Directory(path) => path.display().to_string(),
    };
    let (disk, repositories): (&str, Vec<PathBuf>) = if device == "/dev/sdc1" {
        ("/dev/sdc", vec!["/run/lifeboat/places/sdc1/lifeboat".into(), "/run/lifeboat/places/sdc1/locked".into()])
    } else {
        ("/dev/nvme0n1", Vec::new())
    };
    let root = PathBuf::from("/run/lifeboat/places").join(device.trim_start_matches("/dev/"));
    Looked { root, free: Some(35 * GIB), repositories, disks: [disk.into()].into() }
}

fn disk_in_image(path: &str, model: &str, serial: &str, size: u64, used: u64) -> Value {
    let partition = |number: u32, start: u64, len: u64, name: &str| {
        json!({
            "number": number, "start": start, "len": len, "role": "primary", "type_id": "x", "type_name": name,
            "id": null, "name": null, "attributes": 0, "bootable": false
        })
    };
    let volume = |number: u32, start: u64, len: u64, kind: &str, label: &str, used: u64| {
        json!({
            "partition": number, "start": start, "len": len, "kind": kind, "label": label, "block_size": 4096,
            "used": used
        })
    };
    let first = 512u64 << 20;
    json!({
        "identity": {
            "path": path, "model": model, "serial": serial, "transport": "nvme", "size": size, "logical_sector": 512,
            "physical_sector": 512, "removable": false, "read_only": false
        },
        "size": size, "sector_size": 512, "all_sectors": false, "unreadable": [],
        "table": {
            "kind": "gpt", "sector_size": 512, "disk_id": null, "warnings": [], "structures": [],
            "partitions": [
                partition(1, 1 << 20, first, "EFI system"),
                partition(2, first + (1 << 20), size - first - (2 << 20), "Linux file system")
            ]
        },
        "volumes": [
            volume(1, 1 << 20, first, "vfat", "EFI", 9 << 20),
            volume(2, first + (1 << 20), size - first - (2 << 20), "ext4", "root", used)
        ],
        "regions": []
    })
}

fn image(id: &str, name: Option<&str>, machine: (&str, &str), created: &str, disks: &[Value], stored: u64) -> Image {
    let read: u64 = disks.iter().map(|disk| disk["volumes"][1]["used"].as_u64().unwrap()).sum();
    let manifest = json!({
        "version": 1, "name": name, "tool": "imager 0.1.0", "created": created, "finished": created,
        "machine_id": machine.0,
        "machine": {
            "vendor": "Dell Inc.", "product": "PowerEdge R640", "serial": machine.1, "firmware": "uefi", "memory": 0,
            "cpus": 1, "hostname": name, "nics": []
        },
        "disks": disks,
        "stats": { "read": read, "zero": 0, "known": 0, "new": stored * 2, "stored": stored, "chunks": 0, "new_chunks": 0 },
    });
    let manifest = Manifest::from_json("images/test", manifest.to_string().as_bytes()).unwrap();
    Image { id: id.into(), manifest: Arc::new(manifest) }
}

/// This machine twice, and another with two disks.
pub(super) fn opened() -> Opened {
    let own = disk_in_image("/dev/nvme0n1", "Samsung SSD 980 PRO 1TB", "S5GXNX0T123456", 466 * GIB, 31 * GIB);
    let other = disk_in_image("/dev/sda", "WDC WD5000AAKX", "WD-WCC2E3000001", 466 * GIB, 12 * GIB);
    let second = disk_in_image("/dev/sdb", "WDC WD5000AAKX", "WD-WCC2E3000002", 466 * GIB, 77 * GIB);
    let this = ("uuid this", "7JK2LQ2");
    let images = vec![
        image(
            "1fc551ae00112233445566778899aabb",
            Some("web1"),
            this,
            "2026-10-02T03:04:05Z",
            std::slice::from_ref(&own),
            13 * GIB,
        ),
        image(
            "90aa11be00112233445566778899aabb",
            Some("db7"),
            ("uuid other", "9XX2LQ2"),
            "2026-11-20T22:10:00Z",
            &[other, second],
            51 * GIB,
        ),
        image("77c2d0ff00112233445566778899aabb", None, this, "2026-11-01T12:00:00Z", &[own], 200 << 20),
    ];
    Opened { images, damaged: 0 }
}

/// A file system that holds nothing: directories come from [`listing`].
struct Empty(Description);

impl FileSystem for Empty {
    fn description(&self) -> &Description {
        &self.0
    }

    fn root(&self) -> NodeId {
        NodeId(2)
    }

    fn stat(&self, _: NodeId) -> Result<Stat, FsError> {
        Err(FsError::unsupported("nothing is here"))
    }

    fn list(&self, _: NodeId, _: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), FsError> {
        Ok(())
    }

    fn open(&self, _: NodeId) -> Result<Box<dyn imager::files::File>, FsError> {
        Err(FsError::unsupported("nothing is here"))
    }

    fn read_link(&self, _: NodeId) -> Result<Vec<u8>, FsError> {
        Err(FsError::unsupported("nothing is here"))
    }

    fn xattrs(&self, _: NodeId) -> Result<Vec<Xattr>, FsError> {
        Ok(Vec::new())
    }
}

pub(super) fn files() -> Files {
    Files::new(Arc::new(Empty(Description {
        kind: "ext4".into(),
        label: Some("root".into()),
        block_size: 4096,
        size: GIB,
        case: Case::Differs,
        ownership: Ownership::Unix,
        warnings: Vec::new(),
    })))
}

/// Where the links of [`listing`] lead: `/bin` to `/usr/bin`, what is in there to a file and out of the partition.
pub(super) fn led(link: NodeId) -> Result<Led, String> {
    let through =
        |node: u64, name: &str| Through { name: name.into(), argument: Some(name.into()), node: NodeId(node) };
    match link.0 {
        20 => Ok(Led { kept: 0, through: vec![through(40, "usr"), through(41, "bin")], file: None }),
        43 => Ok(Led { kept: 0, through: vec![through(12, "etc")], file: Some(NodeId(30)) }),
        _ => Err("It leads out of this partition: look on the others.".into()),
    }
}

/// The names with `part` in them. A root with a few of everything, `/etc` with a file that the root has too, `/var` with
/// more than is shown, and `/usr/bin` with links.
pub(super) fn listing(node: NodeId, part: &str) -> Listing {
    let file = |node: u64, name: &[u8], kind: FileKind, size: u64, mode: &str| {
        let name = imager::files::screen::escaped(name);
        let target = match node {
            20 => "usr/bin",
            43 => "../../etc/fstab",
            _ => "../../../alternatives/awk",
        };
        let facts = Facts {
            kind,
            size,
            mode: format!("{}{mode}", kind.letter()),
            owner: Some((0, 33)),
            modified: "2026-09-30 17:05".into(),
            target: (kind == FileKind::Symlink).then(|| target.to_owned()),
        };
        File { argument: Some(name.clone()), name, node: NodeId(node), facts: Ok(facts) }
    };
    let entries = match node.0 {
        2 => vec![
            file(20, b"bin", FileKind::Symlink, 7, "rwxrwxrwx"),
            file(12, b"etc", FileKind::Directory, 4096, "rwxr-xr-x"),
            file(21, b"evil\x1b[2Jname", FileKind::File, 0, "rw-r--r--"),
            file(22, b"fstab", FileKind::File, 1234, "rw-r--r--"),
            File {
                facts: Err("corrupt at byte 4096: an inode that is none".into()),
                ..file(23, b"lost", FileKind::File, 0, "")
            },
            File { argument: None, ..file(24, b"slash/name", FileKind::File, 5, "rw-------") },
            file(13, b"var", FileKind::Directory, 4096, "rwxr-xr-x"),
        ],
        12 => vec![file(30, b"fstab", FileKind::File, 999, "rw-r--r--")],
        40 => vec![file(41, b"bin", FileKind::Directory, 4096, "rwxr-xr-x")],
        41 => vec![
            file(42, b"awk", FileKind::Symlink, 21, "rwxrwxrwx"),
            file(43, b"table", FileKind::Symlink, 10, "rwxrwxrwx"),
        ],
        13 => (0..100)
            .map(|number| {
                file(100 + number, format!("log.{number:03}").as_bytes(), FileKind::File, number << 20, "rw-r-----")
            })
            .collect(),
        _ => Vec::new(),
    };
    let (count, problem) = match node.0 {
        13 => (100_000, None),
        12 => (1, Some("corrupt at byte 8192: a directory block that is none".into())),
        _ => (entries.len(), None),
    };
    let mut entries = entries;
    entries.retain(|file| file.name.contains(part));
    let matching = if part.is_empty() { count } else { entries.len() };
    Listing { entries, count, matching, is_endless: false, problem }
}

/// A capture reads in the order of the disk, a restore writes in that of the repository.
fn maps(kind: Kind) -> Vec<Map> {
    let cells = |digit: &dyn Fn(usize) -> usize| (0..1024).map(|cell| digit(cell).to_string()).collect();
    let map = |disk: &str, cells| Map { disk: disk.into(), cells };
    match kind {
        Kind::Capture => vec![
            map("/dev/nvme0n1", cells(&|cell| if cell < 300 { 9 } else { 0 })),
            map("/dev/sda", cells(&|cell| if cell < 100 { 9 } else { cell % 97 / 40 * usize::from(cell < 500) })),
        ],
        Kind::Restore => vec![map("/dev/sdb", cells(&|cell| cell * 7 % 23 / 3 * usize::from(cell / 64 % 3 == 1)))],
        Kind::Verify | Kind::Clone | Kind::Copy => Vec::new(),
    }
}

pub(super) fn status(kind: Kind, state: State) -> Status {
    let (title, says) = match kind {
        Kind::Capture => ("Back up 2 disks to /run/lifeboat/places/sdc1/lifeboat", "back up /dev/nvme0n1, /dev/sda"),
        Kind::Restore => ("Restore web1 to ST2000NM0008-2F3100 (sdb)", "write web1 to ST2000NM0008-2F3100 (sdb)"),
        Kind::Verify => ("Verify web1", "verify web1"),
        Kind::Copy => (
            "Copy files of web1 to /run/lifeboat/places/sdc1/web1-2026-10-02",
            "copy 1 file (1.21 KiB), 1 directory with all in it of p2 of web1",
        ),
        Kind::Clone => (
            "Clone WDC WD5000AAKX-08U6AA0 (sda) onto ST2000NM0008-2F3100 (sdb)",
            "copy WDC WD5000AAKX-08U6AA0 (sda) onto ST2000NM0008-2F3100 (sdb)",
        ),
    };
    let rates = (0..90u64).map(|second| (150 + (second * 37 % 60)) << 20).collect();
    Status {
        number: 1,
        title: title.into(),
        kind,
        steps: vec!["make the repository".into(), says.into()],
        step: 1,
        state,
        seconds: 194,
        progress: Some(Counts {
            phase: "copying".into(),
            done: 31 * GIB,
            total: 74 * GIB,
            bytes_per_second: 168 << 20,
            seconds_left: Some(262),
            zero: 2 * GIB,
            known: 9 * GIB,
            new: 20 * GIB,
            stored: 8 * GIB,
            level: 3,
            map: maps(kind),
        }),
        rates,
        messages: vec![
            "warning: /dev/sda: 4 KiB at byte 5368709120 cannot be read, partition 3 (ntfs, \"Windows\")".into(),
        ],
        results: vec![json!({ "type": "repository", "id": "00", "encrypted": true })],
        report: None,
    }
}

pub(super) fn ended(kind: Kind, exit_code: u8, error: Option<&str>) -> Status {
    let mut status = status(kind, State::Ended { exit_code: Some(exit_code), error: error.map(str::to_owned) });
    if exit_code == 0 {
        status.messages.clear();
    }
    let result = match kind {
        Kind::Capture => json!({
            "type": "captured", "image": "1fc551ae00112233", "name": "web1", "seconds": 194.0, "unreadable": 0,
            "stats": { "read": 74 * GIB, "zero": 2 * GIB, "known": 9 * GIB, "new": 63 * GIB, "stored": 28 * GIB }
        }),
        Kind::Restore => json!({
            "type": "restored", "result": {
                "written": 31 * GIB, "unchanged": 0, "read": 13 * GIB, "lost": 0, "unreadable": 0, "read_back": true,
                "warnings": ["the kernel does not read the new partition table of /dev/sdb"]
            }
        }),
        Kind::Clone => json!({
            "type": "copied", "seconds": 194.0, "unreadable": 0, "result": {
                "read": 465 * GIB, "unreadable": [], "read_back": true,
                "warnings": ["both disks have the same identifiers now"]
            }
        }),
        Kind::Copy => json!({
            "type": "copied_files", "from": "p2", "files": 1204, "directories": 77, "symlinks": 12, "hard_links": 0,
            "specials": 0, "already_there": 0, "bytes": 3 * GIB, "failed": if exit_code == 0 { 0 } else { 1 },
            "failures": if exit_code == 0 { json!([]) } else { json!([{
                "path": "/srv/old.db", "reason": "corrupt at byte 4096: an extent that leads nowhere"
            }]) },
            "not_kept": [{
                "what": "owners", "count": 1204, "example": "/etc/fstab", "reason": "Operation not permitted"
            }]
        }),
        Kind::Verify => json!({
            "type": "verified", "sound": false, "report": {
                "images": 3, "packs": 120, "bytes_read": 64 * GIB, "hurt": [{
                    "image": "1fc551ae", "machine": "web1", "disk": "Samsung SSD 980 PRO", "place": "partition 2 (ext4)"
                }]
            }
        }),
    };
    if exit_code == 0 || matches!(kind, Kind::Verify | Kind::Copy) {
        status.results.push(result);
        status.report = Some("/run/lifeboat/places/sdc1/report-2026-11-22.txt".into());
    }
    status
}
