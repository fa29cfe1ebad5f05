//! The descriptor of a VMDK: lines of text. Must not know: files.

use crate::vm_disk::error::DiskError;

/// A descriptor has a line for each 2 GiB at worst.
pub(in crate::vm_disk) const BYTES_MAX: u64 = 1 << 20;
const EXTENTS_MAX: usize = 40_000;
const NO_PARENT: &str = "ffffffff";

/// What a descriptor says.
#[derive(Debug)]
pub(super) struct Descriptor {
    pub create_type: String,
    pub extents: Vec<ExtentLine>,
    /// It holds only what differs from this one.
    pub parent: Option<String>,
}

/// A line about an extent: `RW 4192256 SPARSE "disk-s001.vmdk"`.
#[derive(Debug)]
pub(super) struct ExtentLine {
    /// RW, RDONLY or NOACCESS.
    pub access: String,
    pub sectors: u64,
    /// FLAT, SPARSE, ZERO, VMFS, VMFSSPARSE …
    pub kind: String,
    pub name: Vec<u8>,
    /// Where it begins in its file, in sectors.
    pub offset: u64,
}

/// Whether a file that begins so is a descriptor.
pub(in crate::vm_disk) fn is_descriptor(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut lines = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    lines.next().is_some_and(|line| line.to_ascii_lowercase().starts_with(b"# disk descriptorfile"))
}

impl Descriptor {
    /// Reads the text, which ends at its first zero byte.
    ///
    /// # Errors
    /// [`DiskError::Damaged`] when it is none.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, DiskError> {
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        if !is_descriptor(text) {
            return Err(DiskError::damaged(0, "its descriptor does not begin as it should"));
        }
        let mut this = Self { create_type: String::new(), extents: Vec::new(), parent: None };
        let (mut parent_id, mut parent) = (NO_PARENT.to_owned(), None);
        let mut at = 0;
        for line in text.split(|&byte| byte == b'\n') {
            let place = at;
            at += line.len() as u64 + 1;
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            if ["RW ", "RDONLY ", "NOACCESS "].iter().any(|word| line.starts_with(word.as_bytes())) {
                let extent = ExtentLine::parse(line).ok_or_else(|| {
                    DiskError::damaged(place, format!("a line of its descriptor makes no sense: {}", shown(line)))
                })?;
                this.extents.push(extent);
                if this.extents.len() > EXTENTS_MAX {
                    return Err(DiskError::damaged(place, "its descriptor has too many extents"));
                }
                continue;
            }
            let Some(equals) = line.iter().position(|&byte| byte == b'=') else { continue };
            let (key, value) = line.split_at(equals);
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            let value = String::from_utf8_lossy(unquoted(value)).into_owned();
            match key.trim_ascii().to_ascii_lowercase().as_slice() {
                b"createtype" => this.create_type = value,
                b"parentcid" => parent_id = value.to_ascii_lowercase(),
                b"parentfilenamehint" => parent = Some(value),
                _ => {}
            }
        }
        if this.extents.is_empty() {
            return Err(DiskError::damaged(0, "its descriptor has no extent"));
        }
        if parent_id != NO_PARENT {
            this.parent = Some(parent.unwrap_or_else(|| "its parent".to_owned()));
        }
        Ok(this)
    }
}

impl ExtentLine {
    fn parse(line: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(line);
        let mut words = text.split_ascii_whitespace();
        let (access, sectors, kind) = (words.next()?.to_owned(), words.next()?.parse().ok()?, words.next()?.to_owned());
        // The name is in quotation marks, may have blanks, and need not be UTF-8.
        let (name, rest) = match line.iter().position(|&byte| byte == b'"') {
            Some(open) => {
                let close = line.iter().rposition(|&byte| byte == b'"').filter(|&close| close > open)?;
                (line.get(open + 1..close)?.to_vec(), line.get(close + 1..)?)
            }
            None => (Vec::new(), &b""[..]),
        };
        let rest = String::from_utf8_lossy(rest);
        let offset = rest.split_ascii_whitespace().next().map_or(Some(0), |word| word.parse().ok())?;
        Some(Self { access, sectors, kind: kind.to_ascii_uppercase(), name, offset })
    }
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

/// A line for people: a hostile one is long, or not text.
fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(line.get(..80).unwrap_or(line)).into_owned()
}
