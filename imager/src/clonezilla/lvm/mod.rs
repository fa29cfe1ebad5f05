//! LVM: a volume group as `vgcfgbackup` describes it, and its physical volumes made anew from that.
//!
//! Clonezilla keeps what is in the logical volumes, and of the group itself the description alone; restoring, it has
//! LVM make the group again with the same UUIDs. Here the physical volumes' labels and metadata are written as LVM
//! writes them, and the logical volumes put where their extents are. Only linear volumes are understood. Must not know:
//! files, disks.
//!
//! Source: lvm2's `lib/format_text/layout.h`, `lib/label/label.h`, `lib/misc/crc.c`.

#![forbid(unsafe_code)]

mod text;

use crc::{CRC_32_JAMCRC, Crc, Table};

use self::text::{Section, Value};
use crate::extent::Extent;

static CRC32: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_JAMCRC);
/// Where LVM begins its sums.
const CRC_BEGIN: u32 = 0xF597_A6CF;

const SECTOR: u64 = 512;
const LABEL_AT: usize = 512;
const AREA_AT: usize = 4096;
const AREA_HEADER_BYTES: usize = 512;
const AREA_MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";
const UUID_BYTES: usize = 32;
/// Extents, and bytes, of a forged description are not added up to more than this.
const BYTES_MAX: u64 = 1 << 60;

/// A volume group.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) physical: Vec<Physical>,
    pub(super) logical: Vec<Logical>,
    /// What a physical volume keeps of it: the description, as LVM writes it there.
    metadata: Vec<u8>,
}

/// One of its physical volumes.
#[derive(Clone, Debug)]
pub(super) struct Physical {
    /// Without dashes.
    uuid: String,
    /// Where it was: `/dev/sda2`.
    pub(super) device: String,
    bytes: u64,
    data_start: u64,
}

/// One of its logical volumes.
#[derive(Clone, Debug)]
pub(super) struct Logical {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) segments: Vec<Segment>,
}

/// A run of a logical volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Which bytes of the logical volume.
    pub(super) place: Extent,
    /// Which physical volume they are on, by its number in the group, and where, in bytes of it.
    pub(super) physical: usize,
    pub(super) start: u64,
}

impl Group {
    /// Parses the description of group `name`.
    ///
    /// # Errors
    /// In words.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let whole = Section::parse(text).map_err(|(at, what)| format!("byte {at}: {what}"))?;
        let group = whole.section(name).ok_or_else(|| format!("it does not describe the volume group {name}"))?;
        let extent_bytes = group
            .number("extent_size")
            .and_then(|sectors| sectors.checked_mul(SECTOR))
            .filter(|bytes| (1..=BYTES_MAX).contains(bytes))
            .ok_or("it does not say how large an extent is")?;
        let physical: Vec<(&str, Physical)> = sections(group, "physical_volumes")
            .map(|(key, section)| {
                physical(section)
                    .map(|found| (key, found))
                    .ok_or_else(|| format!("physical volume {key} is not described in full"))
            })
            .collect::<Result<_, String>>()?;
        let keys: Vec<&str> = physical.iter().map(|(key, _)| *key).collect();
        let logical = sections(group, "logical_volumes")
            .map(|(name, section)| logical(name, section, &keys, &physical, extent_bytes))
            .collect::<Result<_, String>>()?;
        let body = text.get(group.place.clone()).unwrap_or_default();
        let metadata = metadata(body, &whole);
        let physical = physical.into_iter().map(|(_, physical)| physical).collect();
        Ok(Self { name: name.to_owned(), physical, logical, metadata })
    }

    /// The number of the physical volume with this UUID, however it is written.
    pub(super) fn find(&self, uuid: &str) -> Option<usize> {
        let uuid = uuid.replace('-', "");
        self.physical.iter().position(|physical| physical.uuid == uuid)
    }

    /// What physical volume `number`, on a partition of `len` bytes, begins with.
    ///
    /// # Errors
    /// In words.
    pub(super) fn begin(&self, number: usize, len: u64) -> Result<Vec<u8>, String> {
        let physical = self.physical.get(number).ok_or("there is no such physical volume")?;
        if physical.bytes > len {
            return Err(format!("{} has {} bytes, but its partition only {len}", physical.device, physical.bytes));
        }
        let area_bytes = physical.data_start.saturating_sub(AREA_AT as u64);
        // The area is written round and round, and a new text must not touch the old one.
        if (self.metadata.len() + AREA_HEADER_BYTES) as u64 > area_bytes {
            return Err(format!("{} has no room for the description of {}", physical.device, self.name));
        }
        let mut bytes = vec![0; AREA_AT + AREA_HEADER_BYTES + self.metadata.len()];
        put(&mut bytes, LABEL_AT, &label(physical, area_bytes));
        put(&mut bytes, AREA_AT, &area_header(&self.metadata, area_bytes));
        put(&mut bytes, AREA_AT + AREA_HEADER_BYTES, &self.metadata);
        Ok(bytes)
    }
}

fn sections<'a>(group: &'a Section, name: &str) -> impl Iterator<Item = (&'a str, &'a Section)> {
    group
        .section(name)
        .into_iter()
        .flat_map(|section| &section.sections)
        .map(|(name, section)| (name.as_str(), section))
}

fn physical(section: &Section) -> Option<Physical> {
    let uuid = section.text("id")?.replace('-', "");
    if uuid.len() != UUID_BYTES || !uuid.is_ascii() {
        return None;
    }
    let bytes = |name| section.number(name)?.checked_mul(SECTOR).filter(|bytes| *bytes <= BYTES_MAX);
    Some(Physical {
        uuid,
        device: section.text("device").unwrap_or("a physical volume").to_owned(),
        bytes: bytes("dev_size")?,
        data_start: bytes("pe_start")?,
    })
}

fn logical(
    name: &str,
    section: &Section,
    keys: &[&str],
    physical: &[(&str, Physical)],
    extent_bytes: u64,
) -> Result<Logical, String> {
    let mut segments = Vec::new();
    for (key, segment) in section.sections.iter().filter(|(key, _)| key.starts_with("segment")) {
        let wrong = |what: &str| format!("{key} of logical volume {name} {what}");
        let kind = segment.text("type").unwrap_or("unknown");
        let stripes = segment.list("stripes").unwrap_or_default();
        let [Value::Text(pv), Value::Number(first)] = stripes else {
            let kind = if kind == "striped" { "striped over several disks" } else { kind };
            return Err(wrong(&format!("is {kind}; only linear volumes can be imported")));
        };
        if kind != "striped" {
            return Err(wrong(&format!("is {kind}; only linear volumes can be imported")));
        }
        let number = keys
            .iter()
            .position(|key| key == pv)
            .ok_or_else(|| wrong("lies on a physical volume that is not described"))?;
        let data_start = physical.get(number).map_or(0, |(_, physical)| physical.data_start);
        let bytes = |extents: u64| extents.checked_mul(extent_bytes).filter(|bytes| *bytes <= BYTES_MAX);
        let place = || {
            let start = bytes(segment.number("start_extent")?)?;
            let len = bytes(segment.number("extent_count")?)?;
            Some(Segment {
                place: Extent::new(start, len),
                physical: number,
                start: data_start.checked_add(bytes(*first)?)?,
            })
        };
        segments.push(place().ok_or_else(|| wrong("is not described in full"))?);
    }
    let bytes = segments.iter().map(|segment| segment.place.end()).max().unwrap_or(0);
    Ok(Logical { name: name.to_owned(), bytes, segments })
}

/// LVM finds a group's name at the beginning of the text, so that what stands before the group in a backup stands behind
/// it here.
fn metadata(body: &str, whole: &Section) -> Vec<u8> {
    let host = whole.text("creation_host").unwrap_or_default().replace(['"', '\\', '\n'], "");
    let time = whole.number("creation_time").unwrap_or(0);
    let text = format!(
        "{body}\n# From the backup of a volume group\n\ncontents = \"Text Format Volume Group\"\nversion = 1\n\n\
         description = \"\"\n\ncreation_host = \"{host}\"\ncreation_time = {time}\n\n\0"
    );
    text.into_bytes()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(field) = bytes.get_mut(at..at + value.len()) {
        field.copy_from_slice(value);
    }
}

fn sum(bytes: &[u8]) -> [u8; 4] {
    let mut digest = CRC32.digest_with_initial(CRC_BEGIN.reverse_bits());
    digest.update(bytes);
    digest.finalize().to_le_bytes()
}

/// The sector that says what this is, and where its data and its metadata are.
fn label(physical: &Physical, area_bytes: u64) -> Vec<u8> {
    let mut sector = vec![0; 512];
    put(&mut sector, 0, b"LABELONE");
    put(&mut sector, 8, &1u64.to_le_bytes());
    put(&mut sector, 20, &32u32.to_le_bytes());
    put(&mut sector, 24, b"LVM2 001");
    put(&mut sector, 32, physical.uuid.as_bytes());
    put(&mut sector, 64, &physical.bytes.to_le_bytes());
    // Data areas, up to one of zeros; a length of 0 is all the rest.
    put(&mut sector, 72, &physical.data_start.to_le_bytes());
    // Metadata areas, likewise.
    put(&mut sector, 104, &(AREA_AT as u64).to_le_bytes());
    put(&mut sector, 112, &area_bytes.to_le_bytes());
    // The extension: version 2, in use by a group; no boot loader areas.
    put(&mut sector, 136, &2u32.to_le_bytes());
    put(&mut sector, 140, &1u32.to_le_bytes());
    let crc = sum(sector.get(20..).unwrap_or_default());
    put(&mut sector, 16, &crc);
    sector
}

fn area_header(metadata: &[u8], area_bytes: u64) -> Vec<u8> {
    let mut header = vec![0; AREA_HEADER_BYTES];
    put(&mut header, 4, AREA_MAGIC);
    put(&mut header, 20, &1u32.to_le_bytes());
    put(&mut header, 24, &(AREA_AT as u64).to_le_bytes());
    put(&mut header, 32, &area_bytes.to_le_bytes());
    put(&mut header, 40, &(AREA_HEADER_BYTES as u64).to_le_bytes());
    put(&mut header, 48, &(metadata.len() as u64).to_le_bytes());
    put(&mut header, 56, &sum(metadata));
    let crc = sum(header.get(4..).unwrap_or_default());
    put(&mut header, 0, &crc);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = r#"
        contents = "Text Format Volume Group"
        creation_host = "web-1"
        creation_time = 1682936430
        vg {
            id = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg"
            extent_size = 8192
            physical_volumes {
                pv0 { id = "qdlt6U-M4bo-xExy-XG9Q-U7pg-bOXN-n54i5Y" device = "/dev/sda2" dev_size = 2097152 pe_start = 2048 pe_count = 255 }
                pv1 { id = "Adlt6U-M4bo-xExy-XG9Q-U7pg-bOXN-n54i5Y" device = "/dev/sdb" dev_size = 2097152 pe_start = 2048 pe_count = 255 }
            }
            logical_volumes {
                root {
                    segment_count = 2
                    segment1 { start_extent = 0 extent_count = 10 type = "striped" stripe_count = 1 stripes = [ "pv1", 3 ] }
                    segment2 { start_extent = 10 extent_count = 5 type = "striped" stripe_count = 1 stripes = [ "pv0", 0 ] }
                }
            }
        }"#;

    #[test]
    fn extents_are_bytes_of_physical_volumes() {
        let group = Group::parse("vg", GROUP).unwrap();
        assert_eq!(group.find("Adlt6U-M4bo-xExy-XG9Q-U7pg-bOXN-n54i5Y"), Some(1));
        let root = &group.logical[0];
        let mib = 1u64 << 20;
        assert_eq!(root.bytes, 60 * mib);
        assert_eq!(
            root.segments,
            [
                Segment { place: Extent::new(0, 40 * mib), physical: 1, start: 13 * mib },
                Segment { place: Extent::new(40 * mib, 20 * mib), physical: 0, start: mib },
            ]
        );
        let begin = group.begin(0, 1 << 30).unwrap();
        assert_eq!(&begin[512..520], b"LABELONE");
        assert!(begin[4608..].starts_with(b"vg {") && begin.ends_with(b"\0"));
        assert!(group.begin(0, (1 << 30) - 1).is_err());
    }

    #[test]
    fn what_is_not_linear_is_named() {
        let error = |text: &str| Group::parse("vg", text).err().unwrap();
        assert!(
            error(&GROUP.replacen("type = \"striped\"", "type = \"thin-pool\"", 1))
                .contains("segment1 of logical volume root is thin-pool")
        );
        assert!(error(&GROUP.replace("[ \"pv1\", 3 ]", "[ \"pv1\", 3, \"pv0\", 9 ]")).contains("several disks"));
        assert!(error(&GROUP.replace("\"pv1\", 3", "\"pv7\", 3")).contains("not described"));
        assert!(error(&GROUP.replace("extent_size = 8192", "extent_size = 36028797018963968")).contains("extent"));
        assert!(
            error(&GROUP.replace("extent_count = 5", "extent_count = 36028797018963968"))
                .contains("not described in full")
        );
        assert!(Group::parse("other", GROUP).is_err());
    }
}
