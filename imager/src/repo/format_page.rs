//! Keeps `FORMAT.md` and the code together: what the page says in figures and names is what the code has.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::block_map::{FANOUT, LEAF_RECORD, NODE_RECORD, Root, SPAN, UNREADABLE, ZERO, height_for};
use super::clones::{CloneFile, CloneRecord};
use super::config::{
    CONFIG, ChunkSizes, Config, FORMAT_VERSION, FrameSize, Hex, KEYS, KeySlot, MEMORY_KIB_MAX, PASSES_MAX,
};
use super::frame::coded_len_max;
use super::index::INDEX_OBJECT_BYTES;
use super::manifest::{DISK_BYTES_MAX, DiskImage, Manifest, Region, Stats, Volume};
use super::object::{self, Kind};
use super::pack::{self, DIRECTORY_MAX, DIRECTORY_NONCE, FRAME_MAX, PackId};
use super::proofs::ProofRecord;
use super::seal::{MasterSecret, Suite, TAG_LEN};
use super::session::{CAPTURE_STALE_AFTER, Doomed, HEARTBEAT, SessionRecord, Work};
use crate::disk::identity::Identity;
use crate::extent::Extent;
use crate::fs::Note;
use crate::machine::{Firmware, Machine, Nic};
use crate::table::{Partition, PartitionTable, Role, TableKind};

const PAGE: &str = include_str!("../../FORMAT.md");

#[track_caller]
fn page_has(text: &str) {
    assert!(PAGE.contains(text), "FORMAT.md does not have {text:?}");
}

fn text(magic: &[u8]) -> String {
    String::from_utf8(magic.to_vec()).unwrap().replace('\n', "\\n")
}

#[test]
fn names_and_magics() {
    page_has(&format!("# The repository format, version {FORMAT_VERSION}\n"));
    for kind in [Kind::Image, Kind::Index, Kind::Session, Kind::Doomed, Kind::Clone, Kind::Proof] {
        page_has(&format!("\n{}/", kind.folder()));
        page_has(&format!("`{}` in `{}`", text(kind.tag()), kind.folder()));
    }
    page_has(&format!("\n{CONFIG} "));
    page_has(&format!("\n{KEYS}/SSSSSSSS "));
    let id: PackId = Hex([0xab; 16]);
    let shape = pack::object_name(id).replace("ab", "PP");
    page_has(&format!("\n{shape} "));
    for magic in [object::MAGIC, pack::HEAD_MAGIC, pack::FOOT_MAGIC] {
        page_has(&format!("| 8 | magic `{}` |", text(magic)));
    }
    page_has(&format!("nonce {DIRECTORY_NONCE:#X}").replace("0X", "0x"));
}

#[test]
fn sizes_and_bounds() {
    let bounds = [
        ("frame before compression, and chunk", u64::from(FRAME_MAX), " bytes"),
        ("chunks in a frame", u64::from(u16::MAX), ""),
        ("directory before compression", u64::from(DIRECTORY_MAX), " bytes"),
        ("payload of an object in `images`", Kind::Image.payload_max(), " bytes"),
        ("payload of an object in `index`", Kind::Index.payload_max(), " bytes"),
        ("payload of an object in `sessions`", Kind::Session.payload_max(), " bytes"),
        ("payload of an object in `doomed`", Kind::Doomed.payload_max(), " bytes"),
        ("payload of an object in `clones`", Kind::Clone.payload_max(), " bytes"),
        ("payload of an object in `proofs`", Kind::Proof.payload_max(), " bytes"),
        ("index object: closed by its writer from", INDEX_OBJECT_BYTES as u64, " bytes"),
        ("all disks of an image together", DISK_BYTES_MAX, " bytes"),
        ("Argon2id memory", u64::from(MEMORY_KIB_MAX), " KiB"),
        ("Argon2id passes", u64::from(PASSES_MAX), ""),
    ];
    for (what, most, unit) in bounds {
        page_has(&format!("| {what} | {most}{unit} |"));
    }
    page_has("| anything compressed, of n bytes | n + n / 256 + 64 bytes |");
    assert_eq!(coded_len_max(2560), 2560 + 10 + 64);
    page_has(&format!("A seal adds a tag of {TAG_LEN} bytes"));
    page_has(&format!("leaf: records of {LEAF_RECORD} bytes               node: records of {NODE_RECORD} bytes"));
    page_has(&format!("| span | {} MiB of a region", SPAN >> 20));
    page_has(&format!("0 … {}", FANOUT - 1));
    assert_eq!((height_for(SPAN), height_for(SPAN + 1), height_for(SPAN * FANOUT + 1)), (0, 1, 2));
    assert_eq!((ZERO.0, UNREADABLE.0), ([0; 32], [0xFF; 32]));
    page_has(&format!("puts it anew every {} seconds", HEARTBEAT.as_secs()));
    page_has(&format!("until {} seconds have gone by", {
        let text = CAPTURE_STALE_AFTER.as_secs().to_string();
        format!("{},{}", &text[..1], &text[1..])
    }));
    let slot = KeySlot::seal(b"", "", &MasterSecret::new(Suite::Aes256Gcm, [0; 32], [0; 16]), b"").unwrap();
    page_has(&format!("This writer: {}, {}, {} |", slot.memory_kib, slot.passes, slot.lanes));
}

/// Every field of every JSON object is on the page, and every one that the page has is in some object.
#[test]
fn json_fields() {
    let values = [
        json!(config()),
        json!(slot()),
        json!(session()),
        json!(doomed()),
        json!(manifest()),
        json!(linked_clone()),
        json!(ProofRecord::begun()),
    ];
    let mut fields = Vec::new();
    values.iter().for_each(|value| collect_fields(value, &mut fields));
    for field in &fields {
        assert!(
            PAGE.contains(&format!("`{field}`")) || PAGE.contains(&format!("\"{field}\":")),
            "`{field}` is missing"
        );
    }
    let mut in_tables = Vec::new();
    let mut in_fields = false;
    for line in PAGE.lines() {
        in_fields = line.starts_with("| field |") || line.contains(" field |") || in_fields && line.starts_with('|');
        if let (true, Some(cell)) = (in_fields, line.split('|').nth(1)) {
            in_tables.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    assert!(in_tables.len() > 50, "{in_tables:?}");
    for field in in_tables {
        assert!(fields.contains(&field), "the page has `{field}`, which nothing has");
    }
}

/// Every word that stands for one of several things is on the page.
#[test]
fn json_words() {
    let words = [
        json!([Suite::Aes256Gcm, Suite::Blake3]),
        json!([TableKind::Gpt, TableKind::Mbr, TableKind::HybridMbr, TableKind::None]),
        json!([Role::Primary, Role::Extended, Role::Logical]),
        json!([Firmware::Bios, Firmware::Uefi]),
        json!([Work::Capture, Work::Prune]),
    ];
    for word in words.iter().flat_map(|words| words.as_array().unwrap()) {
        page_has(&format!("`{word}`"));
    }
    for note in notes() {
        page_has(&format!("`{}`", json!(note)["kind"].as_str().unwrap()));
    }
}

fn collect_fields(value: &Value, fields: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                fields.push(name.clone());
                collect_fields(value, fields);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect_fields(value, fields)),
        _ => {}
    }
}

fn config() -> Config {
    Config {
        version: FORMAT_VERSION,
        id: Hex([0; 16]),
        created: Timestamp::UNIX_EPOCH,
        seal: Suite::Blake3,
        public_secret: Some(Hex([0; 32])),
        chunks: ChunkSizes::around(64 << 10).unwrap(),
        frames: FrameSize::new(128 << 10).unwrap(),
    }
}

fn slot() -> KeySlot {
    KeySlot {
        version: FORMAT_VERSION,
        label: String::new(),
        created: Timestamp::UNIX_EPOCH,
        memory_kib: 0,
        passes: 0,
        lanes: 0,
        salt: Hex([0; 16]),
        nonce: Hex([0; 12]),
        sealed_secret: Hex([0; 48]),
    }
}

fn session() -> SessionRecord {
    SessionRecord {
        version: FORMAT_VERSION,
        work: Work::Capture,
        host: String::new(),
        started: Timestamp::UNIX_EPOCH,
        image: Some(Hex([0; 16])),
        process: crate::process::ProcessId::of_this(),
        interrupted: false,
    }
}

fn doomed() -> Doomed {
    Doomed { version: FORMAT_VERSION, packs: Vec::new(), waits_for: Vec::new() }
}

fn linked_clone() -> CloneRecord {
    CloneRecord {
        version: FORMAT_VERSION,
        image: Hex([0; 16]),
        host: String::new(),
        created: Timestamp::UNIX_EPOCH,
        files: vec![CloneFile { disk: 0, path: String::new() }],
        manifest: manifest(),
    }
}

fn notes() -> Vec<Note> {
    let detail = String::new;
    vec![
        Note::Dirty { detail: detail() },
        Note::Hibernated { detail: detail() },
        Note::ReadWhole { reason: detail() },
        Note::Remark { detail: detail() },
    ]
}

fn manifest() -> Manifest {
    let text = || Some(String::new());
    let identity = Identity {
        path: "/dev/sda".into(),
        model: None,
        serial: None,
        wwn: None,
        transport: None,
        size: 0,
        logical_sector: 512,
        physical_sector: 512,
        rotational: None,
        removable: false,
        read_only: false,
        partition_of: None,
    };
    let partition = Partition {
        number: 1,
        start: 0,
        len: 1,
        role: Role::Primary,
        type_id: String::new(),
        type_name: String::new(),
        id: None,
        name: None,
        attributes: 0,
        bootable: false,
    };
    let table = PartitionTable {
        kind: TableKind::Gpt,
        sector_size: 512,
        disk_id: None,
        partitions: vec![partition],
        structures: [Extent::new(0, 512)].into_iter().collect(),
        warnings: Vec::new(),
    };
    let volume = Volume {
        partition: None,
        start: 0,
        len: 0,
        kind: String::new(),
        label: text(),
        uuid: text(),
        block_size: 0,
        used: 0,
        notes: notes(),
        left_out: vec![String::new()],
    };
    let root = Some(Root { id: ZERO, height: 0 });
    let disk = DiskImage {
        identity,
        size: 0,
        sector_size: 512,
        all_sectors: false,
        table,
        volumes: vec![volume],
        regions: vec![Region { start: 0, len: 0, partition: None, root }],
        unreadable: vec![Extent::new(0, 0)],
        warnings: Vec::new(),
    };
    let machine = Machine {
        vendor: None,
        product: None,
        serial: None,
        uuid: None,
        firmware: Firmware::Bios,
        secure_boot: None,
        memory: 0,
        cpus: 0,
        cpu_model: None,
        hostname: None,
        nics: vec![Nic { name: String::new(), mac: String::new() }],
    };
    Manifest {
        version: FORMAT_VERSION,
        name: text(),
        note: text(),
        tool: String::new(),
        created: Timestamp::UNIX_EPOCH,
        finished: Timestamp::UNIX_EPOCH,
        machine,
        machine_id: String::new(),
        disks: vec![disk],
        stats: Stats::default(),
    }
}
