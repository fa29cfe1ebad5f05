//! What the screens show: machines, disks, places, images, as plain data.
//!
//! Must not know: screens, where the facts come from.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use imager::disk::health::Health;
use imager::disk::identity::Identity;
use imager::fs::Note;
use imager::layout::Layout;
use imager::repo::manifest::{DiskImage, Manifest};
use imager::table::{PartitionTable, Role, TableKind};
use imager::units::size;

use super::page::plain;

/// A disk of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Who it is.
    pub identity: Identity,
    /// What is on it.
    pub content: Content,
    /// How well it is, once it was asked.
    pub health: Option<Health>,
    /// What writes to it, so that an image would mix old and new: "/dev/sda1 is mounted for writing at /".
    pub writers: Vec<String>,
    /// What uses it, so that it cannot be overwritten.
    pub users: Vec<String>,
    /// Whether that can be ended here.
    pub hold: Hold,
}

/// Who holds a disk that is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Nobody, or somebody else.
    #[default]
    Others,
    /// Nobody but this program, which mounted it as a place for repositories.
    Ours,
}

/// What is known of a disk's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// It is being read.
    Reading,
    /// It cannot be read.
    Failed(String),
    /// It was read.
    Known(Picture),
}

/// A disk's content, for drawing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    /// Size of the disk in bytes.
    pub size: u64,
    /// GPT, MBR …
    pub table: &'static str,
    /// Its partitions, or what is on the bare disk; by place.
    pub parts: Vec<Part>,
    /// Bytes that an image reads.
    pub wanted: u64,
    /// What is odd.
    pub warnings: Vec<String>,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Its number; none for the bare disk.
    pub number: Option<u32>,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// The file system.
    pub kind: String,
    /// Its label, or the partition's name.
    pub label: Option<String>,
    /// The type of the partition.
    pub type_name: String,
    /// Bytes in use.
    pub used: u64,
    /// What should be known.
    pub notes: Vec<String>,
}

impl Disk {
    /// "Samsung SSD 980", or what there is in place of a model.
    pub(crate) fn model(&self) -> String {
        model_of(&self.identity)
    }

    /// "serial S4EV", "no serial number".
    pub(crate) fn serial(&self) -> String {
        serial_of(&self.identity)
    }

    /// "sda".
    pub(crate) fn name(&self) -> String {
        self.identity.path.file_name().map(|name| plain(&name.to_string_lossy())).unwrap_or_default()
    }

    /// Model, serial, size: all that tells it from others.
    pub(crate) fn words(&self) -> String {
        format!("{}, {}, {} ({})", self.model(), self.serial(), size(self.identity.size), self.name())
    }

    /// "failing: 3 sectors cannot be read; back up now, ..."; nothing for a disk that is well or does not say.
    pub(crate) fn trouble(&self) -> Option<String> {
        let health = self.health.as_ref().filter(|health| health.is_bad())?;
        let advice = health.advice().map(|advice| format!("; {advice}")).unwrap_or_default();
        Some(plain(&format!("{}{advice}", health.words())))
    }

    /// What has to be typed before it is overwritten.
    pub(crate) fn password(&self) -> String {
        self.identity.serial.clone().unwrap_or_else(|| self.identity.path.display().to_string())
    }

    /// Part of the machine, rather than plugged into it.
    pub(crate) fn is_built_in(&self) -> bool {
        let transport = self.identity.transport.as_deref();
        !self.identity.removable && !matches!(transport, Some("usb" | "loop" | "iscsi" | "nbd"))
    }
}

/// The model of a disk, or what there is in its place.
pub(crate) fn model_of(identity: &Identity) -> String {
    let transport = identity.transport.as_deref().unwrap_or("unknown");
    identity.model.as_deref().map_or_else(|| format!("{transport} disk"), plain)
}

/// The serial number of a disk, in words.
pub(crate) fn serial_of(identity: &Identity) -> String {
    identity
        .serial
        .as_deref()
        .map_or_else(|| "no serial number".to_owned(), |serial| format!("serial {}", plain(serial)))
}

/// Whether `typed` names the disk: its serial number, or the last four characters of it or more; its path, if it has
/// none.
pub(crate) fn names(typed: &str, disk: &Disk) -> bool {
    let typed = typed.trim();
    let Some(serial) = disk.identity.serial.as_deref() else {
        return !typed.is_empty() && disk.identity.path.to_str() == Some(typed);
    };
    let serial = serial.trim();
    typed == serial || (typed.chars().count() >= 4 && serial.ends_with(typed))
}

/// What was found on a partition, or on the bare disk.
struct Found<'a> {
    number: Option<u32>,
    start: u64,
    len: u64,
    kind: &'a str,
    label: Option<&'a str>,
    used: u64,
    notes: &'a [Note],
}

impl Picture {
    /// Of a disk that was read just now.
    pub(crate) fn of_layout(layout: &Layout) -> Self {
        let volumes = layout.volumes.iter().map(|volume| Found {
            number: volume.partition,
            start: volume.place.start,
            len: volume.place.len,
            kind: &volume.file_system.kind,
            label: volume.file_system.label.as_deref(),
            used: volume.file_system.used.total(),
            notes: &volume.file_system.notes,
        });
        Self::new(layout.size, &layout.table, volumes, layout.wanted_bytes(), &layout.warnings)
    }

    /// Of a disk in an image.
    pub(crate) fn of_image(disk: &DiskImage) -> Self {
        let volumes = disk.volumes.iter().map(|volume| Found {
            number: volume.partition,
            start: volume.start,
            len: volume.len,
            kind: &volume.kind,
            label: volume.label.as_deref(),
            used: volume.used,
            notes: &volume.notes,
        });
        let used = disk.volumes.iter().map(|volume| volume.used).fold(0, u64::saturating_add);
        Self::new(disk.size, &disk.table, volumes, used, &disk.warnings)
    }

    fn new<'a>(
        size: u64,
        table: &PartitionTable,
        volumes: impl Iterator<Item = Found<'a>>,
        wanted: u64,
        warnings: &[String],
    ) -> Self {
        let parts = volumes.map(|Found { number, start, len, kind, label, used, notes }| {
            let entry = table.partitions.iter().find(|partition| Some(partition.number) == number);
            let label = label.or(entry.and_then(|entry| entry.name.as_deref())).filter(|label| !label.is_empty());
            Part {
                number,
                start,
                len,
                kind: plain(kind),
                label: label.map(plain),
                type_name: entry.map_or_else(|| "unknown content".to_owned(), |entry| plain(&entry.type_name)),
                used: used.min(len),
                notes: notes.iter().map(|note| plain(&note_words(note))).collect(),
            }
        });
        let mut parts: Vec<Part> = parts.collect();
        parts.sort_by_key(|part| part.start);
        let extended = table.partitions.iter().any(|partition| partition.role == Role::Extended);
        let table = match (table.kind, extended) {
            (TableKind::Gpt, _) => "GPT",
            (TableKind::Mbr, false) => "MBR",
            (TableKind::Mbr, true) => "MBR with logical partitions",
            (TableKind::HybridMbr, _) => "GPT with hybrid MBR",
            (TableKind::None, _) => "no partition table",
        };
        Self { size, table, parts, wanted, warnings: warnings.iter().map(|text| plain(text)).collect() }
    }
}

/// A remark in words.
fn note_words(note: &Note) -> String {
    match note {
        Note::Dirty { detail } => format!("not cleanly unmounted: {detail}"),
        Note::Hibernated { detail } => format!("hibernated: {detail}"),
        Note::ReadWhole { reason } => format!("every block is read: {reason}"),
        Note::Remark { detail } => detail.clone(),
        Note::Unknown { kind, .. } => format!("{kind}, which a newer program noted"),
    }
}

/// Where a repository can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A partition or stick, to be mounted.
    Device(crate::places::Place),
    /// A directory that is there.
    Directory(PathBuf),
}

/// What was found in a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Looked {
    /// The directory.
    pub root: PathBuf,
    /// Bytes that can still be written.
    pub free: Option<u64>,
    /// Repositories in it.
    pub repositories: Vec<PathBuf>,
    /// The disks that the directory lies on.
    pub disks: BTreeSet<PathBuf>,
}

/// An image in a repository.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// Its id.
    pub id: String,
    /// All about it.
    pub manifest: Arc<Manifest>,
}

impl Image {
    /// "web1", "image 1fc551ae".
    pub(crate) fn name(&self) -> String {
        self.manifest.name.as_deref().map_or_else(|| format!("image {}", self.short_id()), plain)
    }

    /// Enough of the id to tell images apart.
    pub(crate) fn short_id(&self) -> String {
        self.id.chars().take(8).collect()
    }

    /// When it was taken, to the minute. In UTC: a boot medium knows no other time.
    pub(crate) fn when(&self) -> String {
        self.manifest.created.strftime("%Y-%m-%d %H:%M").to_string()
    }

    /// Bytes in use on its disks.
    pub(crate) fn used(&self) -> u64 {
        self.manifest.stats.read
    }
}

/// A repository that was opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Opened {
    /// Its images, oldest first.
    pub images: Vec<Image>,
    /// Images that cannot be read.
    pub damaged: usize,
}

/// What was in the way of opening a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OpenProblem {
    /// It is encrypted.
    PasswordNeeded,
    /// It is encrypted, and not with this password.
    WrongPassword,
    /// Anything else, with what to do.
    Other(String),
}

/// A network card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Card {
    /// The interface's name.
    pub name: String,
    /// Its own address.
    pub mac: String,
    /// A cable is in it, and something at the other end.
    pub link: Option<bool>,
    /// Its IP addresses.
    pub addresses: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(serial: Option<&str>) -> Disk {
        let identity = imager::disk::identity::of_new_file("/dev/sda".into(), 1 << 30);
        let identity = Identity { serial: serial.map(str::to_owned), ..identity };
        Disk {
            identity,
            content: Content::Reading,
            health: None,
            writers: Vec::new(),
            users: Vec::new(),
            hold: Hold::Others,
        }
    }

    #[test]
    fn a_disk_is_named_by_enough_of_its_serial_number() {
        let with = disk(Some("WD-1234567"));
        for (typed, fits) in [
            ("WD-1234567", true),
            (" WD-1234567 ", true),
            ("4567", true),
            ("567", false),
            ("", false),
            ("WD-1", false),
            ("/dev/sda", false),
            ("wd-1234567", false),
        ] {
            assert_eq!(names(typed, &with), fits, "{typed}");
        }
        assert!(names("X1", &disk(Some("X1"))) && !names("1", &disk(Some("X1"))));
        assert!(names("/dev/sda", &disk(None)) && !names("", &disk(None)) && !names("/dev/sdb", &disk(None)));
    }
}
