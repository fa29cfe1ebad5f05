//! Proving that what is stored is good, and saying what is hurt where it is not.
//!
//! Three depths: everything is there; the seals of all directories hold; every byte reads back with its
//! hash. Damage is reported by machine, disk, partition and extents. Must not know: terminals.

mod image;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use serde::Serialize;

use self::image::Image;
use crate::bulk::{FrameSink, FrameTask, TaskChunk, UsedPack, checked_chunk, read_frames};
use crate::capture::{Verify, short};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::memory::Budget;
use crate::parallel::in_parallel;
use crate::progress::{Phase, Progress, lock};
use crate::repo::Repository;
use crate::repo::index::IndexedPack;
use crate::repo::manifest::{ImageId, Manifest, image_id};
use crate::repo::object::Kind;
use crate::repo::pack::{FrameEntry, HEADER_LEN, PackId, SessionId, object_name};

/// What a verification found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Objects that are not what was written, one line each.
    pub damaged_objects: Vec<String>,
    /// Objects that cannot be read and that nothing needs, one line each: what an interrupted job left, an
    /// index that the packs replace, files of others.
    pub leftovers: Vec<String>,
    /// What that hurts.
    pub hurt: Vec<Hurt>,
    /// Chunks that no pack has, though an image names them.
    pub missing_chunks: u64,
    /// Chunks that are there and cannot be read.
    pub damaged_chunks: u64,
    /// Images that were looked at.
    pub images: u64,
    /// Packs that were looked at.
    pub packs: u64,
    /// Bytes of data that were read back.
    pub bytes_read: u64,
}

/// A part of an image that cannot be restored.
#[derive(Debug, Serialize)]
pub struct Hurt {
    /// The image.
    pub image: Option<String>,
    /// Its machine.
    pub machine: String,
    /// The disk, by model and serial.
    pub disk: String,
    /// The partition, in words.
    pub place: String,
    /// Which bytes of the disk.
    pub extents: Vec<Extent>,
}

impl Report {
    /// Nothing is missing and nothing is damaged. Leftovers are no damage.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damaged_objects.is_empty() && self.hurt.is_empty() && self.missing_chunks == 0 && self.damaged_chunks == 0
    }

    /// Whether something is there and damaged, as opposed to missing.
    #[must_use]
    pub fn has_damage(&self) -> bool {
        self.damaged_chunks > 0 || !self.damaged_objects.is_empty()
    }

    /// One line.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut parts = Vec::new();
        let mut count = |number: u64, what: &str| {
            if number > 0 {
                parts.push(format!("{number} {what}"));
            }
        };
        count(self.damaged_objects.len() as u64, "objects are damaged");
        count(self.missing_chunks, "chunks are missing");
        count(self.damaged_chunks, "chunks are damaged");
        if parts.is_empty() { "everything is sound".to_owned() } else { parts.join(", ") }
    }

    fn object(&mut self, error: &Error) {
        self.damaged_objects.push(error.to_string());
    }

    fn leftover(&mut self, error: &Error) {
        self.leftovers.push(error.to_string());
    }
}

/// Verifies one image.
///
/// # Errors
/// What the store says, [`Error::Interrupted`]. Damage is in the report.
pub fn verify_image(
    repository: &Arc<Repository>,
    id: ImageId,
    manifest: &Manifest,
    depth: Verify,
    memory: Budget,
    progress: &Progress,
) -> Result<Report> {
    let mut report = verify_manifest(repository, manifest, depth, None, memory, progress)?;
    report.hurt.iter_mut().for_each(|hurt| hurt.image = Some(id.to_string()));
    Ok(report)
}

/// Verifies everything that is in the repository, whether an image needs it or not.
///
/// # Errors
/// What the store says, [`Error::Interrupted`]. Damage is in the report.
pub fn verify_repository(
    repository: &Arc<Repository>,
    depth: Verify,
    memory: Budget,
    progress: &Progress,
) -> Result<Report> {
    progress.begin(Phase::Planning, 0);
    let mut report = Report::default();
    for error in repository.check_plain_objects()? {
        report.object(&error);
    }
    for kind in [Kind::Session, Kind::Doomed, Kind::Proof] {
        for object in repository.store().list(kind.folder())? {
            match repository.read_object(kind, &object.name) {
                Ok(_) | Err(Error::Missing { .. }) => {}
                Err(error @ Error::Damaged { .. }) => report.leftover(&error),
                Err(error) => return Err(error),
            }
        }
    }
    // An image that has lost its name is no image any more, and the next prune takes what only it needs.
    for object in repository.store().list(Kind::Image.folder())? {
        if image_id(&object.name).is_none() {
            report.damaged_objects.push(format!("{} is no object of a repository", object.name));
        }
    }
    let (images, damaged) = repository.images()?;
    damaged.iter().for_each(|(_, error)| report.object(error));
    let clones = repository.clones()?;
    clones.unreadable.iter().for_each(|(_, error)| report.object(error));
    // What a linked clone needs of an image that is gone is looked at like an image.
    let of_clones = clones.found.into_iter().map(|(_, clone)| (clone.image, clone.manifest));
    let forgotten: Vec<(ImageId, Manifest)> =
        of_clones.filter(|(image, _)| !images.iter().any(|(id, _)| id == image)).collect();
    for (id, _) in repository.unfinished_images()? {
        report.leftovers.push(format!("image {id} was never finished"));
    }
    // What was read badly here is bad for every image.
    let bad = verify_packs(repository, depth, memory, progress, &mut report)?;
    for (id, manifest) in images.iter().chain(&forgotten) {
        progress.check()?;
        let image = Image { repository, manifest, excluded: &bad.packs, memory, progress };
        let mut missing = HashSet::new();
        let broken = image.for_each_plan(&mut report, &mut |plan| {
            missing.extend(plan.missing.iter().map(|want| want.chunk));
            Ok(())
        })?;
        report.missing_chunks += missing.len() as u64;
        let mut found = image.hurts(&broken, [&missing, &bad.chunks])?;
        found.iter_mut().for_each(|hurt| hurt.image = Some(id.to_string()));
        report.hurt.append(&mut found);
        report.images += 1;
    }
    // Nobody knows what such a pack holds. If no image misses anything, it is half of a pack that an
    // interrupted job was about to write.
    let needed = report.missing_chunks > 0 || !damaged.is_empty();
    for error in &bad.unreadable {
        if needed { report.object(error) } else { report.leftover(error) }
    }
    Ok(report)
}

/// Packs and chunks that cannot be used.
#[derive(Default)]
struct Bad {
    packs: HashSet<PackId>,
    chunks: HashSet<u128>,
    /// Packs that no index names and that do not say themselves what is in them.
    unreadable: Vec<Error>,
}

/// Looks at every pack of the repository, and at every frame when the data are wanted.
fn verify_packs(
    repository: &Arc<Repository>,
    depth: Verify,
    memory: Budget,
    progress: &Progress,
    report: &mut Report,
) -> Result<Bad> {
    let mut bad = Bad::default();
    let (mut packs, mut total) = (Vec::new(), 0);
    let inventory = repository.for_each_pack(&mut |pack| {
        packs.push((pack.id, pack.size));
        total += pack.directory.frames.iter().map(|frame| u64::from(frame.raw_len)).sum::<u64>();
        Ok(())
    })?;
    report.packs = packs.len() as u64;
    for name in &inventory.strangers {
        report.leftovers.push(format!("{name} is no object of a repository"));
    }
    inventory.damaged_index.iter().for_each(|(_, error)| report.leftover(error));
    bad.packs.extend(inventory.damaged.iter().map(|(id, _)| *id));
    bad.unreadable.extend(inventory.damaged.into_iter().map(|(_, error)| error));
    if depth != Verify::Presence {
        check_seals(repository, &packs, progress, report, &mut bad)?;
    }
    if depth == Verify::Data {
        progress.begin(Phase::Verifying, total);
        let mut batch = Batch::default();
        repository.for_each_pack(&mut |pack| {
            batch.add(pack);
            if batch.names.len() < memory.planned_chunks_max() {
                return Ok(());
            }
            std::mem::take(&mut batch).read(repository, memory, progress, report, &mut bad)
        })?;
        batch.read(repository, memory, progress, report, &mut bad)?;
    }
    Ok(bad)
}

/// Frames that are read in one go, with all of their chunks.
#[derive(Default)]
struct Batch {
    tasks: Vec<FrameTask>,
    names: Vec<u128>,
}

impl Batch {
    fn add(&mut self, pack: &IndexedPack) {
        let frames = pack.directory.frames.iter().zip(pack.directory.frame_offsets());
        for (number, (entry, offset)) in (0..).zip(frames) {
            let mut at = 0;
            let mut chunks = Vec::with_capacity(entry.chunks.len());
            for chunk in &entry.chunks {
                let name = self.names.len();
                chunks.push(TaskChunk { at, len: chunk.len, wants: name..name + 1 });
                self.names.push(short(chunk.id));
                at += chunk.len;
            }
            let entry = FrameEntry { chunks: Vec::new(), ..*entry };
            self.tasks.push(FrameTask { pack: pack.id, number, offset, entry, chunks });
        }
    }

    fn read(
        self,
        repository: &Arc<Repository>,
        memory: Budget,
        progress: &Progress,
        report: &mut Report,
        bad: &mut Bad,
    ) -> Result<()> {
        let name_of = |chunk: &TaskChunk| self.names.get(chunk.wants.start).copied();
        let sink = Checker { repository, progress, name_of: &name_of, found: Mutex::default() };
        read_frames(repository, &self.tasks, memory, progress, &sink)?;
        sink.into_report(report, bad);
        Ok(())
    }
}

/// Opens the directory of every pack and checks its header.
fn check_seals(
    repository: &Repository,
    packs: &[(PackId, u64)],
    progress: &Progress,
    report: &mut Report,
    bad: &mut Bad,
) -> Result<()> {
    let broken = in_parallel(packs.len(), progress, &|number, broken: &mut Vec<(PackId, Error)>| {
        let Some(&(id, size)) = packs.get(number) else { return Ok(()) };
        let header = repository.store().get_range(&object_name(id), 0..HEADER_LEN as u64);
        let checked = header
            .and_then(|header| repository.pack_reader(id).check_header(&header))
            .and_then(|()| repository.pack_directory(id, size).map(drop));
        match checked {
            Err(error @ (Error::Damaged { .. } | Error::Missing { .. })) => broken.push((id, error)),
            other => other?,
        }
        Ok(())
    })?;
    for (id, error) in broken {
        report.object(&error);
        bad.packs.insert(id);
    }
    Ok(())
}

/// Checks the chunks of frames against their names.
struct Checker<'a> {
    repository: &'a Repository,
    progress: &'a Progress,
    name_of: &'a (dyn Fn(&TaskChunk) -> Option<u128> + Sync),
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    bytes_read: u64,
    bad_chunks: HashSet<u128>,
    objects: Vec<String>,
}

impl Checker<'_> {
    fn into_report(self, report: &mut Report, bad: &mut Bad) {
        let found = self.found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        report.bytes_read += found.bytes_read;
        report.damaged_chunks += found.bad_chunks.len() as u64;
        report.damaged_objects.extend(found.objects);
        bad.chunks.extend(found.bad_chunks);
    }

    fn hurt(&self, chunks: impl Iterator<Item = u128>, error: &Error) {
        let mut found = lock(&self.found);
        found.bad_chunks.extend(chunks);
        found.objects.push(error.to_string());
    }
}

impl FrameSink for Checker<'_> {
    fn frame(&self, task: &FrameTask, data: &[u8]) -> Result<()> {
        Progress::add(&self.progress.done, data.len() as u64);
        lock(&self.found).bytes_read += data.len() as u64;
        for chunk in &task.chunks {
            let Some(name) = (self.name_of)(chunk) else { continue };
            if let Err(error) = checked_chunk(self.repository, task, data, chunk, name) {
                self.hurt([name].into_iter(), &error);
            }
        }
        Ok(())
    }

    fn failed(&self, task: &FrameTask, error: Error) -> Result<()> {
        Progress::add(&self.progress.done, task.entry.raw_len.into());
        self.hurt(task.chunks.iter().filter_map(|chunk| (self.name_of)(chunk)), &error);
        Ok(())
    }
}

/// Verifies what a manifest names. A capture does so before it writes the manifest, as `session`: packs that
/// are doomed by a prune which does not wait for that session count as missing.
///
/// # Errors
/// What the store says, [`Error::Interrupted`]. Damage is in the report.
pub fn verify_manifest(
    repository: &Arc<Repository>,
    manifest: &Manifest,
    depth: Verify,
    session: Option<SessionId>,
    memory: Budget,
    progress: &Progress,
) -> Result<Report> {
    progress.begin(Phase::Verifying, 0);
    let mut report = Report { images: 1, ..Report::default() };
    let doomed = session.map_or_else(|| Ok(HashSet::new()), |session| repository.doomed_packs_for(session))?;
    let image = Image { repository, manifest, excluded: &doomed, memory, progress };
    let (mut missing, mut bad, mut looked_at) = (HashSet::new(), Bad::default(), HashSet::new());
    let mut of_plans = Report::default();
    let broken = image.for_each_plan(&mut report, &mut |plan| {
        missing.extend(plan.missing.iter().map(|want| want.chunk));
        let new: Vec<&UsedPack> = plan.packs.iter().filter(|pack| looked_at.insert(pack.id)).collect();
        if depth != Verify::Presence {
            // Other packs than those of this session were there before, and are `imager verify`'s business.
            let ours = new.iter().filter(|pack| session.is_none_or(|session| pack.session == session));
            let packs: Vec<(PackId, u64)> = ours.map(|pack| (pack.id, pack.size)).collect();
            check_seals(repository, &packs, progress, &mut of_plans, &mut bad)?;
        }
        if depth == Verify::Data {
            progress.begin(Phase::Verifying, plan.raw_bytes());
            let name_of = |chunk: &TaskChunk| plan.wants_of(chunk).first().map(|want| want.chunk);
            let sink = Checker { repository, progress, name_of: &name_of, found: Mutex::default() };
            read_frames(repository, &plan.tasks, memory, progress, &sink)?;
            sink.into_report(&mut of_plans, &mut bad);
        }
        for task in plan.tasks.iter().filter(|task| bad.packs.contains(&task.pack)) {
            bad.chunks.extend(task.chunks.iter().flat_map(|chunk| plan.wants_of(chunk)).map(|want| want.chunk));
        }
        Ok(())
    })?;
    report.packs = looked_at.len() as u64;
    report.missing_chunks += missing.len() as u64;
    report.damaged_chunks += of_plans.damaged_chunks;
    report.damaged_objects.append(&mut of_plans.damaged_objects);
    report.bytes_read = of_plans.bytes_read;
    report.hurt.extend(image.hurts(&broken, [&missing, &bad.chunks])?);
    Ok(report)
}
