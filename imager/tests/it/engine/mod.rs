//! What the tests of the engine share: a small disk with real file systems, a repository and a target in
//! memory, stores and targets that fail on purpose, and the everyday actions.

mod disk;
mod store;
mod target;

use std::io::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use imager::capture::{self, Captured, Level, Verify};
use imager::disk::identity::Identity;
use imager::disk::source::Source;
use imager::layout::{self, Wanted};
use imager::memory::Budget;
use imager::progress::Progress;
use imager::prune::{self, DryRun, Pruned};
use imager::read_at::ReadAt;
use imager::repo::config::{ChunkSizes, FrameSize};
use imager::repo::index::with_fresh_index;
use imager::repo::manifest::ImageId;
use imager::repo::pack::{ChunkId, Content};
use imager::repo::store::Store;
use imager::repo::{Lock, Repository};
use imager::restore::{self, ChangedOnly, DiskTarget, OnDamage, Plan, ReadBack, Restored, Unused, WhatToWrite};
use imager::table::Ids;
use imager::verify::{Report, verify_repository};
use imager::{Error, Result};
use jiff::SignedDuration;

pub(crate) use self::disk::{Content as DiskContent, FaultDisk};
pub(crate) use self::store::{Fault, FaultStore, MemStore, Op, PowerStore, StoreWith, Verdict};
pub(crate) use self::target::{MemTarget, TargetFault, Write, apply};
use crate::support::sh;
use crate::volume::{Random, Scratch};

/// Runs `work`; ends the whole test process when it takes longer than any machine should need.
pub(crate) fn within<T>(limit: Duration, what: &str, work: impl FnOnce() -> T) -> T {
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let what = what.to_owned();
    let watchdog = std::thread::spawn(move || {
        if wait.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = writeln!(std::io::stderr(), "{what}: not done after {limit:?}, so it hangs");
            std::process::abort();
        }
    });
    let result = work();
    drop(done);
    watchdog.join().unwrap();
    result
}

/// A disk in memory.
pub(crate) struct TestDisk {
    /// What is on it.
    pub(crate) bytes: Arc<Vec<u8>>,
    /// What a restore of its image gives: zeros where nothing is in use.
    pub(crate) restored: Vec<u8>,
}

impl TestDisk {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let restored = captured_bytes(&bytes);
        Self { bytes: Arc::new(bytes), restored }
    }

    pub(crate) fn source(&self) -> Box<dyn Source> {
        Box::new(MemDisk { identity: identity(self.bytes.len() as u64), bytes: Arc::clone(&self.bytes) })
    }
}

/// What a disk is with zeros wherever an image says nothing.
fn captured_bytes(disk: &[u8]) -> Vec<u8> {
    let layout = layout::read(&disk.to_vec(), Some(512), &Wanted::default()).unwrap();
    let mut restored = vec![0; disk.len()];
    for region in &layout.regions {
        for extent in region.wanted.iter() {
            let start = usize::try_from(region.place.start + extent.start).unwrap();
            let range = start..start + usize::try_from(extent.len).unwrap();
            restored[range.clone()].copy_from_slice(&disk[range]);
        }
    }
    restored
}

/// The same small disk on three days: a GPT with ext4 and FAT on it, filled by their own tools.
pub(crate) fn disks() -> &'static [TestDisk; 3] {
    static DISKS: OnceLock<[TestDisk; 3]> = OnceLock::new();
    DISKS.get_or_init(|| {
        let scratch = Scratch::new();
        let (files, disk) = (scratch.path("files"), scratch.path("disk"));
        std::fs::create_dir_all(files.join("below")).unwrap();
        let mut random = Random::new(42);
        let mut put = |name: &str, len: usize| std::fs::write(files.join(name), random.bytes(len)).unwrap();
        [0, 1, 2].map(|day| {
            if day == 0 {
                put("stays", 2600 << 10);
                put("below/goes", 300 << 10);
                put("below/small", 5000);
                std::fs::write(files.join("text"), "packs well\n".repeat(9000)).unwrap();
            } else {
                put("below/goes", 280 << 10);
                put(&format!("below/day {day}"), 200 << 10);
            }
            sh(&format!(
                "cd {root}; rm -f disk ext fat; truncate -s 9M disk; truncate -s 5M ext; truncate -s 2M fat
                 printf 'label: gpt\\nlabel-id: 5E1F0000-0000-4000-8000-000000000001\\nstart=2048,size=10240\\n\
                 start=12288,size=4096,type=uefi\\n' | sfdisk -q disk
                 mkfs.ext4 -q -d files -U 5e1f0000-0000-4000-8000-000000000002 \
                 -E hash_seed=5e1f0000-0000-4000-8000-000000000003 ext
                 mkfs.fat -i 5E1F0004 fat >/dev/null; mcopy -i fat files/below/* ::/
                 dd if=ext of=disk bs=1M seek=1 conv=notrunc status=none
                 dd if=fat of=disk bs=1M seek=6 conv=notrunc status=none",
                root = scratch.root().display()
            ));
            TestDisk::new(std::fs::read(&disk).unwrap())
        })
    })
}

pub(crate) fn identity(size: u64) -> Identity {
    Identity {
        path: "/dev/test".into(),
        model: Some("Test disk".into()),
        serial: Some("T-1".into()),
        wwn: None,
        transport: Some("virtio".into()),
        size,
        logical_sector: 512,
        physical_sector: 512,
        rotational: Some(false),
        removable: false,
        read_only: false,
        partition_of: None,
    }
}

struct MemDisk {
    identity: Identity,
    bytes: Arc<Vec<u8>>,
}

impl ReadAt for MemDisk {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.bytes.read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.identity.size
    }
}

impl Source for MemDisk {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn sector_size(&self) -> Option<u32> {
        Some(512)
    }
}

/// As little as any job accepts.
pub(crate) fn memory() -> Budget {
    Budget::new(0)
}

/// An unencrypted repository with small chunks.
pub(crate) fn init(store: Arc<dyn Store>) -> Arc<Repository> {
    Arc::new(
        Repository::create(store, &Lock::None, ChunkSizes::around(16 << 10).unwrap(), FrameSize::default()).unwrap(),
    )
}

/// Opens an unencrypted repository.
pub(crate) fn open(store: Arc<dyn Store>) -> Arc<Repository> {
    Arc::new(Repository::open(store, || panic!("asked for a password")).unwrap())
}

/// Every frame of data gets its own pack.
pub(crate) fn capture_options() -> capture::Options {
    capture::Options {
        name: None,
        note: None,
        wanted: Wanted::default(),
        level: Level::Fixed(1),
        memory: memory(),
        pack_bytes: 1,
        verify: Verify::Seals,
        live: Vec::new(),
        owner: None,
    }
}

pub(crate) fn capture(repository: &Arc<Repository>, disk: &TestDisk) -> Result<Captured> {
    capture_sources(repository, &[disk.source()])
}

pub(crate) fn capture_sources(repository: &Arc<Repository>, sources: &[Box<dyn Source>]) -> Result<Captured> {
    capture::capture(repository, sources, &capture_options(), &Arc::new(Progress::new()))
}

/// Reads everything back.
pub(crate) fn verify(repository: &Arc<Repository>) -> Result<Report> {
    with_fresh_index(|| verify_repository(repository, Verify::Data, memory(), &Progress::new()))
}

pub(crate) fn restore_options() -> restore::Options {
    restore::Options {
        changed_only: ChangedOnly::No,
        unused: Unused::Leave,
        ids: Ids::Keep,
        read_back: ReadBack::No,
        damage: OnDamage::Stop,
        memory: memory(),
    }
}

/// Restores the only disk of an image.
pub(crate) fn restore_with(
    repository: &Arc<Repository>,
    image: ImageId,
    target: &Arc<MemTarget>,
    options: &restore::Options,
) -> Result<Restored> {
    let progress = Progress::new();
    let manifest = repository.manifest(image)?;
    let plan = with_fresh_index(|| {
        let target = Arc::clone(target);
        let target = DiskTarget { disk: 0, target, what: WhatToWrite::All };
        Plan::new(repository, &manifest, vec![target], options, &progress)
    })?;
    restore::restore(repository, plan, options, &progress)
}

/// Restores to a new target and says what it then holds.
pub(crate) fn restored(repository: &Arc<Repository>, image: ImageId) -> Result<Vec<u8>> {
    let size = repository.manifest(image)?.disks[0].size;
    let target = Arc::new(MemTarget::blank(usize::try_from(size).unwrap()));
    restore_with(repository, image, &target, &restore_options())?;
    Ok(target.bytes())
}

/// The image gives back the disk, bit for bit.
pub(crate) fn assert_restores(repository: &Arc<Repository>, image: ImageId, disk: &TestDisk) {
    let bytes = restored(repository, image).unwrap();
    assert_same(&bytes, &disk.restored);
}

pub(crate) fn assert_same(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len());
    if found != expected {
        let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
        panic!("byte {} differs", differs.unwrap());
    }
}

/// Rewrites whatever has any waste, and keeps nothing of interrupted captures.
pub(crate) fn prune_options() -> prune::Options {
    prune::Options {
        waste_percent: 0,
        keep_unfinished: SignedDuration::ZERO,
        dry_run: DryRun::No,
        pack_bytes: 1,
        level: 1,
    }
}

pub(crate) fn prune(repository: &Arc<Repository>) -> Result<Pruned> {
    prune::prune(repository, &prune_options(), &Progress::new())
}

/// Every chunk that the repository has, with its length and how often it has it.
pub(crate) fn chunks(repository: &Repository, content: Content) -> std::collections::BTreeMap<ChunkId, (u64, usize)> {
    let mut chunks = std::collections::BTreeMap::new();
    let visited = repository.for_each_pack(&mut |pack| {
        for frame in pack.directory.frames.iter().filter(|frame| frame.content == content) {
            for chunk in &frame.chunks {
                chunks.entry(chunk.id).or_insert((u64::from(chunk.len), 0)).1 += 1;
            }
        }
        Ok(())
    });
    visited.unwrap();
    chunks
}

/// Bytes of all different chunks of data.
pub(crate) fn data_bytes(repository: &Repository) -> u64 {
    chunks(repository, Content::Data).values().map(|(len, _)| len).sum()
}

/// Whether it is the store that failed.
pub(crate) fn is_store_error(error: &Error) -> bool {
    matches!(error, Error::Store { .. })
}
