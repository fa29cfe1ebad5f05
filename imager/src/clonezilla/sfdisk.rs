//! The dump of a partition table, as `sfdisk --dump` writes it: what Clonezilla itself restores from.
//!
//! ```text
//! label: gpt                                     # partition table of /dev/sda
//! label-id: 5DA1…                                unit: sectors
//! device: /dev/sda
//! unit: sectors
//! first-lba: 34
//! sector-size: 512
//!
//! /dev/sda1 : start=        2048, size=     1048576, type=C12A…, uuid=…, name="EFI", attrs="GUID:63"
//! /dev/sda5 : start=          63, size=      208782, Id=83, bootable
//! ```
//!
//! The header on the right, and `Id=`, are those of util-linux before 2.26. Must not know: files, disks.
//!
//! Source: sfdisk(8), "DUMPING TO A FILE", and libfdisk's `script.c`.

#![forbid(unsafe_code)]

/// More partitions than any table has room for.
const PARTITIONS_MAX: usize = 1024;

/// A partition table in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dump {
    /// `gpt`, `dos`; absent in old dumps, which knew only `dos`.
    pub(super) label: Option<String>,
    /// The disk's GUID, or `0x` and its signature.
    pub(super) label_id: Option<String>,
    pub(super) sector_size: Option<u32>,
    pub(super) first_lba: Option<u64>,
    pub(super) last_lba: Option<u64>,
    pub(super) partitions: Vec<Line>,
}

/// A partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// `/dev/sda1`.
    pub(super) node: String,
    /// In sectors of the disk.
    pub(super) start: u64,
    pub(super) size: u64,
    /// A GUID, or one or two hex digits.
    pub(super) kind: String,
    pub(super) uuid: Option<String>,
    pub(super) name: Option<String>,
    pub(super) attributes: Option<String>,
    pub(super) is_bootable: bool,
}

impl Line {
    /// The digits at its end.
    pub(super) fn number(&self) -> Option<u32> {
        let digits = self.node.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        self.node.get(digits..)?.parse().ok()
    }

    /// Its MBR type.
    pub(super) fn mbr_type(&self) -> Option<u8> {
        u8::from_str_radix(self.kind.trim_start_matches("0x"), 16).ok()
    }

    /// Nothing but the room for logical ones.
    pub(super) fn is_extended(&self) -> bool {
        matches!(self.mbr_type(), Some(0x05 | 0x0F | 0x85))
    }
}

impl Dump {
    /// Parses a dump. Lines that say nothing are passed over.
    ///
    /// # Errors
    /// The line's number and what is wrong with it, in words.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut dump = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |what: &str| format!("line {}: {what}", number + 1);
            if let Some(rest) = line.strip_prefix("/dev/") {
                let (node, fields) = rest
                    .split_once(" :")
                    .or_else(|| rest.split_once(':'))
                    .ok_or_else(|| wrong("a partition without a colon"))?;
                let partition = partition(&format!("/dev/{}", node.trim()), fields)
                    .ok_or_else(|| wrong("a partition without start and size"))?;
                // Old dumps list the empty places of an MBR, too.
                if partition.size == 0 {
                    continue;
                }
                if dump.partitions.len() == PARTITIONS_MAX {
                    return Err(wrong("there are too many partitions"));
                }
                dump.partitions.push(partition);
                continue;
            }
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            let integer = || value.parse().map_err(|_| wrong(&format!("{value:?} is no number")));
            match key.trim() {
                "label" => dump.label = Some(value.to_lowercase()),
                "label-id" => dump.label_id = Some(value.to_owned()),
                "first-lba" => dump.first_lba = Some(integer()?),
                "last-lba" => dump.last_lba = Some(integer()?),
                "sector-size" => {
                    let size = integer()?;
                    dump.sector_size = Some(
                        u32::try_from(size)
                            .ok()
                            .filter(|size| size.is_power_of_two() && (512..=65_536).contains(size))
                            .ok_or_else(|| wrong("that is no size of a sector"))?,
                    );
                }
                "unit" if value != "sectors" => return Err(wrong("its unit is not sectors")),
                _ => {}
            }
        }
        Ok(dump)
    }

    /// Whether it is of a GPT.
    pub(super) fn is_gpt(&self) -> bool {
        self.label.as_deref() == Some("gpt")
    }
}

fn partition(node: &str, fields: &str) -> Option<Line> {
    let mut line = Line { node: node.to_owned(), ..Line::default() };
    let (mut start, mut size) = (None, None);
    for field in fields_of(fields) {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        let value = value.trim().trim_matches('"').to_owned();
        match key.trim() {
            "start" => start = value.parse().ok(),
            "size" => size = value.parse().ok(),
            "type" | "Id" => line.kind = value,
            "uuid" => line.uuid = Some(value),
            "name" => line.name = Some(unescape(&value)),
            "attrs" => line.attributes = Some(value),
            "bootable" => line.is_bootable = true,
            _ => {}
        }
    }
    line.start = start?;
    line.size = size?;
    Some(line)
}

/// What stands between commas that are not within quotes.
fn fields_of(text: &str) -> Vec<&str> {
    let mut is_quoted = false;
    text.split(|c| {
        is_quoted ^= c == '"';
        c == ',' && !is_quoted
    })
    .collect()
}

/// libfdisk writes what is not plain as `\xHH`, of UTF-8.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        match after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                rest = after;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_of_today() {
        let dump = Dump::parse(
            "label: gpt\nlabel-id: 5DA1B2C3-0000-4000-8000-000000000001\ndevice: /dev/nvme0n1\nunit: sectors\nfirst-lba: 34\n\
             last-lba: 41942\nsector-size: 4096\n\n\
             /dev/nvme0n1p1 : start=        2048, size=        4096, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, \
             uuid=AAAA, name=\"a, \\xc3\\xa4=b\", attrs=\"LegacyBIOSBootable GUID:62,63\"\n\
             /dev/nvme0n1p12 : start=8192, size=1, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n",
        )
        .unwrap();
        assert!(dump.is_gpt());
        assert_eq!((dump.sector_size, dump.first_lba, dump.last_lba), (Some(4096), Some(34), Some(41942)));
        let [first, second] = dump.partitions.as_slice() else { panic!("{dump:?}") };
        assert_eq!((first.number(), first.start, first.size), (Some(1), 2048, 4096));
        assert_eq!(first.name.as_deref(), Some("a, ä=b"));
        assert_eq!(first.attributes.as_deref(), Some("LegacyBIOSBootable GUID:62,63"));
        assert_eq!((second.number(), second.uuid.as_deref()), (Some(12), None));
    }

    #[test]
    fn a_dump_of_yesterday() {
        let dump = Dump::parse(
            "# partition table of /dev/sda\nunit: sectors\n\n\
             /dev/sda1 : start=       63, size=   208782, Id=83, bootable\n\
             /dev/sda2 : start=   208845, size= 16563015, Id= f\n\
             /dev/sda3 : start=        0, size=        0, Id= 0\n\
             /dev/sda5 : start=   208908, size=  1000000, Id=82\n",
        )
        .unwrap();
        assert!(!dump.is_gpt());
        let kinds: Vec<_> =
            dump.partitions.iter().map(|p| (p.number(), p.mbr_type(), p.is_bootable, p.is_extended())).collect();
        assert_eq!(
            kinds,
            [
                (Some(1), Some(0x83), true, false),
                (Some(2), Some(0x0F), false, true),
                (Some(5), Some(0x82), false, false)
            ]
        );
    }

    #[test]
    fn what_is_no_dump_is_an_error_or_nothing() {
        assert_eq!(Dump::parse("").unwrap(), Dump::default());
        assert!(Dump::parse("/dev/sda1 : start=x, size=2").unwrap_err().contains("line 1"));
        assert!(Dump::parse("\nsector-size: 511").unwrap_err().contains("line 2"));
        assert!(Dump::parse("unit: cylinders").is_err());
        assert_eq!(unescape("\\x4\\xzz\\x"), "\\x4\\xzz\\x");
    }
}
