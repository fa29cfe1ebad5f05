//! Seeds for the fuzz targets of the repository's format, from the objects of a real one.

use std::fs;

use imager::bulk::map_reader;
use imager::repo::Repository;
use imager::repo::block_map::{Root, SPAN, height_for};
use imager::repo::index::IndexedPack;
use imager::repo::object::Kind;
use imager::repo::pack::{ChunkId, object_name};
use imager::repo::seal::Suite;
use imager::repo::session::{Session, Work};

use serde_json::json;

use crate::fuzz_replay::corpus;
use crate::golden;

fn write(target: &str, name: &str, bytes: &[u8]) {
    fs::create_dir_all(corpus(target)).unwrap();
    fs::write(corpus(target).join(name), bytes).unwrap();
}

/// A pack as the target takes it: its directory, and its frames before they were sealed, of those that are small.
fn pack_seed(repository: &Repository, pack: &IndexedPack) -> Option<Vec<u8>> {
    let mut directory = pack.directory.clone();
    let offsets: Vec<u64> = directory.frame_offsets().collect();
    let frames = (0..).zip(directory.frames.iter().zip(offsets));
    let small: Vec<_> = frames.filter(|(_, (frame, _))| frame.stored_len < 6000).take(3).collect();
    let mut data = Vec::new();
    for (number, (entry, offset)) in &small {
        let range = *offset..*offset + u64::from(entry.stored_len);
        let sealed = repository.store().get_range(&object_name(pack.id), range).unwrap().to_vec();
        let frame = repository.pack_reader(pack.id).coded_frame(*number, *offset, entry, sealed).unwrap();
        data.extend(frame.data);
    }
    let frames: Vec<_> = small.into_iter().map(|(_, (entry, _))| entry.clone()).collect();
    directory.frames = frames;
    let bytes = directory.to_bytes();
    let len = u16::try_from(bytes.len()).unwrap();
    (!data.is_empty()).then(|| [&len.to_le_bytes()[..], &bytes, &data].concat())
}

/// A block map as the target takes it: children first.
fn map_seed(repository: &Repository, root: Root, len: u64) -> Vec<u8> {
    let mut ids: Vec<ChunkId> = Vec::new();
    let (mut reader, _) = map_reader(repository, &std::collections::HashSet::new(), &mut |_| Ok(())).unwrap();
    let mut note = |tree: imager::repo::block_map::Subtree| {
        ids.push(tree.id);
        true
    };
    reader.walk_into(root, len, &mut note, |_| Ok(())).unwrap();
    assert_eq!(root.height, height_for(len));
    let mut seed = len.to_le_bytes().to_vec();
    for id in ids.iter().rev() {
        let node = reader.chunk(*id).unwrap();
        // A part of it is a whole leaf, too.
        let node = &node[..node.len().min(4000)];
        seed.extend(u16::try_from(node.len()).unwrap().to_le_bytes());
        seed.extend(node);
    }
    seed
}

/// A map with a node, which no region of so small a disk has.
fn tall_map_seed() -> Vec<u8> {
    let leaf = |start: u32, id: u8| [&start.to_le_bytes()[..], &4096u32.to_le_bytes(), &[id; 32]].concat();
    let child = |number: u32, node: u8| [&number.to_le_bytes()[..], &[node; 32]].concat();
    let nodes =
        [[leaf(0, 7), leaf(8192, 0xFF)].concat(), leaf(4096, 0), [child(0, 0), child(1, 1), child(5, 0)].concat()];
    let nodes = nodes.iter().flat_map(|node| [&u16::try_from(node.len()).unwrap().to_le_bytes()[..], node].concat());
    (6 * SPAN).to_le_bytes().into_iter().chain(nodes).collect()
}

#[test]
#[ignore = "writes the corpus"]
fn make_seeds() {
    write("block_map", "tall", &tall_map_seed());
    for (name, suite) in [("v1-plain", Suite::Blake3), ("v1-encrypted", Suite::Aes256Gcm)] {
        let dir = golden::copy(name);
        let repository = golden::open(dir.path(), suite);
        write("config", name, &fs::read(dir.path().join("config")).unwrap());
        for (number, key) in repository.store().list("keys").unwrap().iter().enumerate() {
            let slot = repository.store().get(&key.name).unwrap();
            write("config", &format!("slot-{number}"), &slot);
            let line = slot.split(|&byte| byte == b'\n').next().unwrap();
            let cheap = String::from_utf8(line.to_vec()).unwrap().replace("65536", "8");
            write("config", "cheap-slot", cheap.as_bytes());
        }
        if suite != Suite::Blake3 {
            continue;
        }
        for (number, (_, manifest)) in repository.images().unwrap().0.iter().enumerate() {
            write("manifest", &format!("image-{number}"), &serde_json::to_vec(manifest).unwrap());
            for region in &manifest.disks[0].regions {
                if let Some(root) = region.root.filter(|_| number == 0) {
                    let name = format!("region-{}", region.start >> 20);
                    write("block_map", &name, &map_seed(&repository, root, region.len));
                }
            }
        }
        let tomorrow = json!(repository.images().unwrap().0[0].1).to_string();
        let tomorrow = tomorrow.replace(r#""notes":["#, r#""notes":[{"kind":"of_tomorrow","detail":"all is well"},"#);
        write("manifest", "note-of-tomorrow", tomorrow.replace(",]", "]").as_bytes());
        let session = Session::start(&repository, Work::Capture, "golden").unwrap();
        let object = &repository.store().list("sessions").unwrap()[0].name;
        write("manifest", "session", &repository.read_object(Kind::Session, object).unwrap());
        session.end().unwrap();
        let id = "00112233445566778899aabbccddeeff";
        write("manifest", "doomed", format!(r#"{{"version":1,"packs":["{id}"],"waits_for":["{id}"]}}"#).as_bytes());
        for (number, object) in repository.store().list("index").unwrap().iter().enumerate() {
            let payload = repository.read_object(Kind::Index, &object.name).unwrap();
            if payload.len() < 8000 {
                write("index", &format!("index-{number}"), &payload);
                let body = zstd::bulk::compress(&payload, 3).unwrap();
                let sealed = [&[0xFF][..], &(payload.len() as u64).to_le_bytes(), &body].concat();
                write("index", &format!("sealed-{number}"), &sealed);
            }
        }
        let mut number = 0;
        let visited = repository.for_each_pack(&mut |pack| {
            if let Some(seed) = pack_seed(&repository, pack) {
                write("pack", &format!("pack-{number}"), &seed);
                number += 1;
            }
            Ok(())
        });
        visited.unwrap();
    }
}
