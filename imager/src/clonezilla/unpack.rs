//! From a directory to disks that can be captured.
//!
//! Everything that can be refused is, before anything is unpacked. Must not know: repositories, terminals.

#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use super::directory::{Directory, Disk, file_name, firmware_of};
use super::disk::Assembled;
use super::lvm::Group;
use super::scratch::{Scratch, Stored};
use super::swap::Swap;
use super::table;
use super::volume::{VolumeFile, VolumeReport};
use crate::capture::{Owner, is_zero};
use crate::disk::source::Source;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::machine::Firmware;
use crate::progress::{Phase, Progress};
use crate::read_at::{ReadAt, field};
use crate::units::size;

/// A directory's disks, to be captured.
pub struct Unpacked {
    /// The disks. Their scratch file is gone with the last of them.
    pub sources: Vec<Box<dyn Source>>,
    /// Whose they are.
    pub owner: Owner,
    /// What was unpacked.
    pub volumes: Vec<VolumeReport>,
    /// What should be known about it; in `owner`, too.
    pub warnings: Vec<String>,
}

/// What a partition, a disk or a logical volume is made from.
enum Content {
    File(VolumeFile),
    Swap(Swap),
    /// A physical volume: the group's number, and its own number in that.
    Physical(usize, usize),
    Nothing,
}

/// Something that lies on a disk.
struct Item {
    disk: usize,
    device: String,
    place: Extent,
    content: Content,
}

/// A volume group and what is in its logical volumes.
struct Volumes {
    group: Group,
    contents: Vec<Content>,
    /// Its physical volumes that were found on the disks.
    found: Vec<usize>,
}

/// What will be unpacked.
struct Plan<'a> {
    directory: &'a Directory,
    disks: Vec<Assembled>,
    items: Vec<Item>,
    groups: Vec<Volumes>,
    remarks: Vec<String>,
    is_uefi: bool,
}

impl Directory {
    /// Unpacks its volumes into a file without a name in the directory `scratch`, and puts the disks together.
    ///
    /// # Errors
    /// [`Error::Usage`] for what cannot be imported, and when there is not enough room; [`Error::Damaged`] with file
    /// and position; [`Error::Io`]; [`Error::Interrupted`]. Nothing is left behind.
    pub fn unpack(&self, scratch: &Path, progress: &Progress) -> Result<Unpacked> {
        progress.begin(Phase::Planning, 0);
        let mut plan = Plan::new(self)?;
        let mut scratch = Scratch::new(scratch)?;
        plan.check_room(&scratch)?;
        progress.begin(Phase::Copying, plan.stored_bytes());
        let mut reports = Vec::new();
        let groups = std::mem::take(&mut plan.groups);
        let mut logical: Vec<Vec<Made>> = Vec::new();
        for volumes in &groups {
            let mut made = Vec::new();
            for (volume, content) in volumes.group.logical.iter().zip(&volumes.contents) {
                let device = format!("{}-{}", volumes.group.name, volume.name);
                made.push(make(&device, content, volume.bytes, &mut scratch, &mut reports, progress)?);
            }
            logical.push(made);
        }
        for item in std::mem::take(&mut plan.items) {
            let disk = plan.disks.get_mut(item.disk).ok_or_else(|| Error::Internal("an item without a disk".into()))?;
            if let Content::Physical(group, number) = item.content {
                let (Some(volumes), Some(made)) = (groups.get(group), logical.get(group)) else { continue };
                put_physical(disk, &item, &volumes.group, number, made)
                    .map_err(|what| self.refuse_device(&item.device, &what))?;
                reports.push(VolumeReport::made(
                    &item.device,
                    "LVM",
                    item.place.len,
                    &format!("the physical volume was made anew from lvm_{}.conf", volumes.group.name),
                ));
                continue;
            }
            match make(&item.device, &item.content, item.place.len, &mut scratch, &mut reports, progress)? {
                Made::Stored(stored) => {
                    disk.put_volume(item.place.start, &stored, 0, item.place.len);
                    let report = reports.last_mut().filter(|report| report.stored_by == "partclone");
                    if let Some(report) = report
                        && let Some((at, sector)) = missing_boot_copy(&stored)
                    {
                        disk.put_bytes(item.place.start + at, &sector);
                        report
                            .remarks
                            .push("the copy of its boot sector, which partclone leaves out, was made anew".to_owned());
                    }
                }
                Made::Bytes(bytes) => disk.put_bytes(item.place.start, &bytes),
                Made::Nothing => {}
            }
        }
        let mut owner = self.owner(plan.is_uefi)?;
        let about = |report: &VolumeReport| {
            let device = report.device.clone();
            report.remarks.iter().map(move |remark| format!("{device}: {remark}")).collect::<Vec<_>>()
        };
        let mut warnings = plan.remarks;
        warnings.extend(reports.iter().flat_map(about));
        owner.remarks.clone_from(&warnings);
        let sources = plan.disks.into_iter().map(|disk| Box::new(disk) as Box<dyn Source>).collect();
        Ok(Unpacked { sources, owner, volumes: reports, warnings })
    }

    fn refuse_device(&self, device: &str, what: &str) -> Error {
        Error::Usage(format!("{}: {device}: {what}", self.path.display()))
    }
}

/// What came of a content.
enum Made {
    Stored(Arc<Stored>),
    Bytes(Vec<u8>),
    Nothing,
}

fn make(
    device: &str,
    content: &Content,
    len: u64,
    scratch: &mut Scratch,
    reports: &mut Vec<VolumeReport>,
    progress: &Progress,
) -> Result<Made> {
    match content {
        Content::File(file) => {
            let (stored, report) = file.unpack(len, scratch, progress)?;
            reports.push(report);
            Ok(Made::Stored(stored))
        }
        Content::Swap(swap) => {
            let header = swap.header(len);
            let remark = match (&header, swap.uuid) {
                (None, _) => "it is too small for a swap space and stays empty",
                (_, Some(_)) => "the swap space was made anew, with its UUID and label",
                (_, None) => "the swap space was made anew, with a new UUID, since the old one was not kept",
            };
            reports.push(VolumeReport::made(device, "swap", len, remark));
            Ok(header.map_or(Made::Nothing, Made::Bytes))
        }
        Content::Physical(..) | Content::Nothing => Ok(Made::Nothing),
    }
}

/// The copy of an NTFS' boot sector, in the sector behind its clusters, and where that is, when there is nothing.
///
/// partclone takes the clusters alone, and leaves on a target what is there.
fn missing_boot_copy(volume: &Stored) -> Option<(u64, Vec<u8>)> {
    let sector = volume.read_vec(0, 512).ok().filter(|sector| sector.get(3..11) == Some(b"NTFS    "))?;
    let sector_bytes = u64::from(field::le16(&sector, 11)?);
    if !sector_bytes.is_power_of_two() || !(512..=4096).contains(&sector_bytes) {
        return None;
    }
    let at = field::le64(&sector, 40)?.checked_mul(sector_bytes)?;
    let len = usize::try_from(sector_bytes).ok()?;
    // Behind the end, or something is there.
    let is_free = volume.read_vec(at, len).is_ok_and(|there| is_zero(&there));
    is_free.then(|| Some((at, volume.read_vec(0, len).ok()?))).flatten()
}

/// Writes what a physical volume begins with, and puts the logical volumes' runs that lie on it where they belong.
fn put_physical(disk: &mut Assembled, item: &Item, group: &Group, number: usize, made: &[Made]) -> Result<(), String> {
    disk.put_bytes(item.place.start, &group.begin(number, item.place.len)?);
    for (volume, made) in group.logical.iter().zip(made) {
        for segment in volume.segments.iter().filter(|segment| segment.physical == number) {
            let end = segment.start.checked_add(segment.place.len).filter(|end| *end <= item.place.len);
            if end.is_none() {
                return Err(format!("logical volume {} reaches behind its end", volume.name));
            }
            let start = item.place.start + segment.start;
            match made {
                Made::Stored(stored) => disk.put_volume(start, stored, segment.place.start, segment.place.len),
                Made::Bytes(bytes) => {
                    let from = usize::try_from(segment.place.start).unwrap_or(usize::MAX).min(bytes.len());
                    let len = usize::try_from(segment.place.len).unwrap_or(usize::MAX).min(bytes.len() - from);
                    disk.put_bytes(start, bytes.get(from..from + len).unwrap_or_default());
                }
                Made::Nothing => {}
            }
        }
    }
    Ok(())
}

impl<'a> Plan<'a> {
    fn new(directory: &'a Directory) -> Result<Self> {
        let mut plan = Self {
            directory,
            disks: Vec::new(),
            items: Vec::new(),
            groups: Vec::new(),
            remarks: directory.remarks.clone(),
            is_uefi: false,
        };
        for disk in &directory.disks {
            plan.add_disk(disk)?;
        }
        plan.check_groups()?;
        Ok(plan)
    }

    fn add_disk(&mut self, disk: &Disk) -> Result<()> {
        let mut assembled = Assembled::new(disk.identity.clone());
        let (table, remarks) = table::lay(&mut assembled, &disk.kept, disk.identity.logical_sector)
            .map_err(|what| self.directory.refuse_device(&disk.name, &what))?;
        self.remarks.extend(remarks.into_iter().map(|remark| format!("{}: {remark}", disk.name)));
        let types: Vec<&str> = table.partitions.iter().map(|partition| partition.type_id.as_str()).collect();
        self.is_uefi |= firmware_of(&types) == Firmware::Uefi;
        let number = self.disks.len();
        let whole = Extent::new(0, disk.identity.size);
        self.disks.push(assembled);
        let mut places: Vec<(String, Extent)> = Vec::new();
        for partition in table::holders(&table) {
            let line = disk
                .kept
                .dump
                .iter()
                .flat_map(|dump| &dump.partitions)
                .find(|line| line.number() == Some(partition.number));
            let node = line.map_or_else(|| partition_name(&disk.name, partition.number), |line| line.node.clone());
            places.push((file_name(&node), partition.extent().intersection(whole)));
        }
        if table.partitions.is_empty() {
            places.push((file_name(&disk.name), whole));
        }
        for (device, place) in places {
            let content = self.content(&device, !table.partitions.is_empty())?;
            self.items.push(Item { disk: number, device, place, content });
        }
        Ok(())
    }

    /// What `device` is made from.
    fn content(&mut self, device: &str, is_partition: bool) -> Result<Content> {
        let directory = self.directory;
        let is_listed = |list: &str, word: usize| -> Result<bool> {
            let text = directory.text(list)?.unwrap_or_default();
            Ok(text
                .lines()
                .any(|line| line.split_whitespace().nth(word).is_some_and(|found| file_name(found) == device)))
        };
        if is_listed("luks-dev.list", 0)? {
            return Err(directory.refuse_device(
                device,
                "it is a LUKS volume of which Clonezilla kept what was in it, decrypted. That cannot be encrypted again here. Restore the directory with Clonezilla, and capture the disk",
            ));
        }
        if let Some(file) = VolumeFile::find(&directory.path, &directory.names, device)? {
            return Ok(Content::File(file));
        }
        if let Some(swap) = self.swap(device)? {
            return Ok(Content::Swap(swap));
        }
        let list = directory.text("lvm_vg_dev.list")?.unwrap_or_default();
        for line in list.lines() {
            let mut words = line.split_whitespace();
            let (Some(group), Some(node), uuid) = (words.next(), words.next(), words.next()) else { continue };
            if file_name(node) == device {
                return self.physical(device, group, uuid.unwrap_or_default());
            }
        }
        if directory.saved.iter().any(|saved| file_name(saved) == device) {
            return Err(Error::damaged(
                directory.path.display().to_string(),
                0,
                format!(
                    "it says that {device} was saved, but there is no file of it, such as {device}.ext4-ptcl-img.gz or {device}.dd-img"
                ),
            ));
        }
        let what = if is_partition {
            "nothing of it was saved; it is empty here"
        } else {
            "it has no partitions, and nothing of it was saved"
        };
        self.remarks.push(format!("{device}: {what}"));
        Ok(Content::Nothing)
    }

    fn swap(&self, device: &str) -> Result<Option<Swap>> {
        Ok(self.directory.text(&format!("swappt-{device}.info"))?.map(|text| Swap::parse(&text)))
    }

    fn physical(&mut self, device: &str, group: &str, uuid: &str) -> Result<Content> {
        // `/NOT_FOUND` stands where a physical volume is in no group.
        if group.starts_with('/') {
            self.remarks.push(format!("{device}: it is a physical volume of LVM in no group; it is empty here"));
            return Ok(Content::Nothing);
        }
        let number = match self.groups.iter().position(|volumes| volumes.group.name == group) {
            Some(number) => number,
            None => {
                let volumes = self.group(group)?;
                self.groups.push(volumes);
                self.groups.len() - 1
            }
        };
        let volumes = self.groups.get_mut(number).ok_or_else(|| Error::Internal("a group that is not there".into()))?;
        let own = volumes.group.find(uuid).ok_or_else(|| {
            self.directory
                .refuse_device(device, &format!("lvm_{group}.conf does not describe the physical volume {uuid}"))
        })?;
        volumes.found.push(own);
        Ok(Content::Physical(number, own))
    }

    fn group(&mut self, name: &str) -> Result<Volumes> {
        let file = format!("lvm_{name}.conf");
        let path = self.directory.path.join(&file);
        let text = self.directory.text(&file)?.ok_or_else(|| {
            Error::damaged(
                path.display().to_string(),
                0,
                "the file is missing, and the volume group cannot be made without it",
            )
        })?;
        let group = Group::parse(name, &text).map_err(|what| Error::Usage(format!("{}: {what}", path.display())))?;
        let listed = self.directory.text("lvm_logv.list")?.unwrap_or_default();
        let mut contents = Vec::new();
        for volume in &group.logical {
            let device = format!("{name}-{}", volume.name);
            let content = if let Some(file) = VolumeFile::find(&self.directory.path, &self.directory.names, &device)? {
                Content::File(file)
            } else if let Some(swap) = self.swap(&device)? {
                Content::Swap(swap)
            } else if listed
                .lines()
                .any(|line| line.split_whitespace().next() == Some(&format!("/dev/{name}/{}", volume.name)))
            {
                return Err(Error::damaged(
                    self.directory.path.display().to_string(),
                    0,
                    format!("it says that the logical volume {device} was saved, but there is no file of it"),
                ));
            } else {
                self.remarks.push(format!("{device}: nothing of it was saved; it is empty here"));
                Content::Nothing
            };
            contents.push(content);
        }
        Ok(Volumes { group, contents, found: Vec::new() })
    }

    /// A group of which a disk is missing cannot be used.
    fn check_groups(&self) -> Result<()> {
        for Volumes { group, found, .. } in &self.groups {
            let is_missing = |number: &usize| !found.contains(number);
            if let Some(missing) =
                (0..group.physical.len()).find(is_missing).and_then(|number| group.physical.get(number))
            {
                return Err(self.directory.refuse_device(
                    &missing.device,
                    &format!(
                        "the volume group {} also lies there, and it is on none of the disks that are imported",
                        group.name
                    ),
                ));
            }
        }
        Ok(())
    }

    fn files(&self) -> impl Iterator<Item = (&VolumeFile, u64)> {
        let of_items = self.items.iter().map(|item| (&item.content, item.place.len));
        let of_groups = self.groups.iter().flat_map(|volumes| {
            volumes.contents.iter().zip(&volumes.group.logical).map(|(content, volume)| (content, volume.bytes))
        });
        of_items.chain(of_groups).filter_map(|(content, len)| match content {
            Content::File(file) => Some((file, len)),
            _ => None,
        })
    }

    fn stored_bytes(&self) -> u64 {
        self.files().map(|(file, _)| file.stored_bytes()).sum()
    }

    fn check_room(&self, scratch: &Scratch) -> Result<()> {
        let mut needed = 0u64;
        for (file, len) in self.files() {
            needed = needed.saturating_add(file.bytes_needed(len)?.unwrap_or(0));
        }
        match scratch.room() {
            Some(room) if needed > room => Err(Error::Usage(format!(
                "unpacking takes up to {}, and {} has room for {}; --scratch names another directory",
                size(needed),
                scratch.directory().display(),
                size(room)
            ))),
            _ => Ok(()),
        }
    }
}

/// How Linux names a partition.
fn partition_name(disk: &str, number: u32) -> String {
    let p = if disk.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    format!("{disk}{p}{number}")
}
