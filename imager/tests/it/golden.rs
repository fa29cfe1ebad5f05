//! Repositories that earlier versions of this program wrote: every later one reads them, writes beside what is in
//! them, and finds again what they have. They are never made anew; a new version of the format gets new ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imager::capture::{self, Captured, Level, Verify};
use imager::fs::Note;
use imager::machine::{Firmware, Machine, Nic};
use imager::progress::Progress;
use imager::repo::config::{ChunkSizes, FrameSize};
use imager::repo::manifest::ImageId;
use imager::repo::seal::Suite;
use imager::repo::store::CrateStore;
use imager::repo::{Lock, Repository};
use zeroize::Zeroizing;

use crate::engine::{TestDisk, capture_options, prune, restored, verify};
use crate::support::sh;

const PASSWORD: &[u8] = b"golden";
/// The folders, and how each is sealed.
const GOLDEN: [(&str, Suite); 2] = [("v1-plain", Suite::Blake3), ("v1-encrypted", Suite::Aes256Gcm)];

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub(crate) fn open(directory: &Path, suite: Suite) -> Arc<Repository> {
    let store = Arc::new(CrateStore::local(directory).unwrap());
    let password = || {
        assert_eq!(suite, Suite::Aes256Gcm, "asked for a password");
        Ok(Zeroizing::new(PASSWORD.to_vec()))
    };
    Arc::new(Repository::open(store, password).unwrap())
}

/// What the images are, as was written down when they were made: their ids, and the hashes of what they restore.
fn expected(name: &str) -> Vec<(ImageId, String)> {
    let lines = fs::read_to_string(golden(&format!("{name}.txt"))).unwrap();
    let line = |line: &str| {
        let (id, hash) = line.split_once(' ').unwrap();
        (id.parse().unwrap(), hash.to_owned())
    };
    lines.lines().map(line).collect()
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_string()
}

/// A copy of a golden repository, since those that are tested are written to.
pub(crate) fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    sh(&format!("cp -r {}/. {}", golden(name).display(), dir.path().display()));
    dir
}

#[test]
fn every_golden_repository_is_read_for_ever() {
    for (name, suite) in GOLDEN {
        let dir = copy(name);
        let repository = open(dir.path(), suite);
        assert_eq!((repository.config().version, repository.config().seal), (1, suite), "{name}");
        let report = verify(&repository).unwrap();
        assert!(report.is_sound() && report.leftovers.is_empty(), "{name}: {report:?}");
        assert_eq!(report.images, 2);
        for (id, expected) in expected(name) {
            assert_eq!(hash(&restored(&repository, id).unwrap()), expected, "{name}: {id}");
        }
        let (images, damaged) = repository.images().unwrap();
        assert!(damaged.is_empty());
        let (_, manifest) = &images[1];
        assert_eq!(manifest.machine_words(), "golden, Example Machine, serial M-1");
        let kinds: Vec<&str> = manifest.disks[0].volumes.iter().map(|volume| volume.kind.as_str()).collect();
        assert_eq!(kinds, ["ext4", "vfat", "ntfs"], "{name}");
        let notes: Vec<&Note> = manifest.disks[0].volumes.iter().flat_map(|volume| &volume.notes).collect();
        assert!(!notes.iter().any(|note| matches!(note, Note::Unknown { .. })), "{name}: {notes:?}");
    }
}

#[test]
fn what_a_golden_repository_has_is_found_again_and_pruned() {
    for (name, suite) in GOLDEN {
        let dir = copy(name);
        let repository = open(dir.path(), suite);
        let [(first, _), (second, hash_of_second)] = &expected(name)[..] else { panic!() };
        let disk = TestDisk::new(restored(&repository, *second).unwrap());
        let captured = capture_disk(&repository, &disk);
        assert_eq!(captured.manifest.stats.new_chunks, 0, "{name}: it cuts as it did");
        repository.forget_image(*first).unwrap();
        repository.forget_image(*second).unwrap();
        prune(&repository).unwrap();
        assert!(verify(&repository).unwrap().is_sound());
        assert_eq!(&hash(&restored(&repository, captured.id).unwrap()), hash_of_second, "{name}");
    }
}

fn capture_disk(repository: &Arc<Repository>, disk: &TestDisk) -> Captured {
    let options = capture::Options {
        name: Some("golden".into()),
        note: Some("kept for ever".into()),
        level: Level::Fixed(19),
        pack_bytes: 4 << 20,
        verify: Verify::Data,
        ..capture_options()
    };
    capture::capture(repository, &[disk.source()], &options, &Arc::new(Progress::new())).unwrap()
}

/// A GPT disk with ext4, FAT and NTFS on two days. Text, since what looks random does not pack.
fn days() -> [TestDisk; 2] {
    let dir = tempfile::tempdir().unwrap();
    [1, 2].map(|day| {
        sh(&format!(
            "cd {root}; mkdir -p files/below; seq 1 9000 >files/numbers; seq 1 3 $((day = {day}, day * 9000)) >files/below/day
             for ((i = 0; i < day * 40; i++)); do echo \"file $i\" >files/below/$i; done
             rm -f disk ext fat ntfs; truncate -s 16M disk; truncate -s 8M ext; truncate -s 2M fat; truncate -s 3M ntfs
             printf 'label: gpt\\nlabel-id: 5E1F0000-0000-4000-8000-000000000001\\nstart=2048,size=16384,name=root\\n\
             start=18432,size=4096,type=uefi\\nstart=22528,size=6144,type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\\n' \
             | sfdisk -q disk
             mkfs.ext4 -q -d files -L root -U 5e1f0000-0000-4000-8000-000000000002 \
             -E hash_seed=5e1f0000-0000-4000-8000-000000000003 ext
             mkfs.fat -i 5E1F0004 -n EFI fat >/dev/null; mcopy -i fat files/numbers files/below/day ::/
             mkntfs -F -Q -q -L windows ntfs; ntfscp -q ntfs files/numbers numbers; ntfscp -q ntfs files/below/day day
             dd if=ext of=disk bs=1M seek=1 conv=notrunc status=none
             dd if=fat of=disk bs=1M seek=9 conv=notrunc status=none
             dd if=ntfs of=disk bs=1M seek=11 conv=notrunc status=none",
            root = dir.path().display()
        ));
        TestDisk::new(fs::read(dir.path().join("disk")).unwrap())
    })
}

/// A machine that is nobody's.
fn machine() -> Machine {
    Machine {
        vendor: Some("Example".into()),
        product: Some("Machine".into()),
        serial: Some("M-1".into()),
        uuid: Some("5e1f0000-0000-4000-8000-000000000005".into()),
        firmware: Firmware::Uefi,
        secure_boot: Some(true),
        memory: 8 << 30,
        cpus: 4,
        cpu_model: Some("Example CPU".into()),
        hostname: Some("golden".into()),
        nics: vec![Nic { name: "eth0".into(), mac: "02:00:00:00:00:01".into() }],
    }
}

#[test]
#[ignore = "made what is in tests/golden, and overwrites nothing"]
fn make_golden() {
    let days = days();
    for (name, suite) in GOLDEN {
        let directory = golden(name);
        fs::create_dir_all(golden("")).unwrap();
        fs::create_dir(&directory).unwrap();
        let lock = match suite {
            Suite::Blake3 => Lock::None,
            Suite::Aes256Gcm => Lock::Password(Zeroizing::new(PASSWORD.to_vec())),
        };
        let store = Arc::new(CrateStore::local(&directory).unwrap());
        let chunks = ChunkSizes::around(64 << 10).unwrap();
        let repository = Arc::new(Repository::create(store, &lock, chunks, FrameSize::default()).unwrap());
        let mut lines = String::new();
        for disk in &days {
            let Captured { id, mut manifest, .. } = capture_disk(&repository, disk);
            manifest.machine = machine();
            manifest.machine_id = "5e1f0000-0000-4000-8000-000000000005".into();
            repository.write_manifest(id, &manifest).unwrap();
            lines += &format!("{id} {}\n", hash(&disk.restored));
        }
        fs::write(golden(&format!("{name}.txt")), lines).unwrap();
    }
}
