//! ATA disks: SMART, through SCSI's ATA PASS-THROUGH (16), which SATA controllers, SAS controllers and USB bridges know.
//!
//! Sources: ACS-3 (SMART READ DATA, SMART RETURN STATUS, the device statistics log), SAT-4 (pass-through and the sense data
//! it comes back with). What the attributes mean is each maker's own affair; those used here mean the same with all.

use std::io;

use super::{Health, Verdict};
use crate::disk::sys::Answered;
use crate::read_at::field;

const SECTOR: usize = 512;

/// SMART: the features register says what is wanted, and these two registers that it is meant.
const SMART: u8 = 0xB0;
const READ_DATA: u8 = 0xD0;
const RETURN_STATUS: u8 = 0xDA;
const SIGNATURE: (u8, u8) = (0x4F, 0xC2);
const SIGNATURE_FAILING: (u8, u8) = (0xF4, 0x2C);
const READ_LOG_EXT: u8 = 0x2F;
const DEVICE_STATISTICS: u8 = 0x04;
/// "Solid State Device Statistics".
const STATISTICS_PAGE: u8 = 7;

/// Sectors that were replaced by spare ones.
const REALLOCATED: u8 = 5;
/// Sectors that could not be read and will be replaced when they are written.
const PENDING: u8 = 197;
/// Sectors that the disk's own tests could not read.
const UNCORRECTABLE: u8 = 198;
const TEMPERATURE: u8 = 194;

/// A few sectors that were replaced mean little; many mean that more will follow.
const REALLOCATED_MANY: u64 = 50;

/// Sends a command and reads so many bytes.
pub(super) type Send<'a> = &'a dyn Fn(&[u8], usize) -> io::Result<Answered>;

/// Asks a disk, or what stands between.
pub(super) fn ask(rotational: Option<bool>, send: Send<'_>) -> Health {
    let status = send(&smart(RETURN_STATUS), 0).ok().and_then(|answer| threshold(&answer.sense));
    let data = send(&smart(READ_DATA), SECTOR).ok().filter(Answered::is_good).map(|answer| answer.data);
    let statistics = (rotational != Some(true) && (status.is_some() || data.is_some()))
        .then(|| send(&read_statistics(), SECTOR).ok().filter(Answered::is_good).map(|answer| answer.data));
    health(status, data.as_deref(), statistics.flatten().as_deref())
}

/// What the disk itself concludes from its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Threshold {
    Fine,
    Exceeded,
}

fn smart(feature: u8) -> [u8; 16] {
    const NO_DATA: u8 = 3 << 1;
    const DATA_IN: u8 = 4 << 1;
    /// The registers come back in the sense data.
    const CHECK: u8 = 0x20;
    /// From the disk, in blocks, as many as the count register says.
    const BLOCKS_IN: u8 = 0x0E;
    let (protocol, flags, count) = if feature == RETURN_STATUS { (NO_DATA, CHECK, 0) } else { (DATA_IN, BLOCKS_IN, 1) };
    let (mid, high) = SIGNATURE;
    [0x85, protocol, flags, 0, feature, 0, count, 0, 0, 0, mid, 0, high, 0, SMART, 0]
}

fn read_statistics() -> [u8; 16] {
    const DATA_IN_48_BIT: u8 = 4 << 1 | 1;
    [0x85, DATA_IN_48_BIT, 0x0E, 0, 0, 0, 1, 0, DEVICE_STATISTICS, 0, STATISTICS_PAGE, 0, 0, 0, READ_LOG_EXT, 0]
}

/// The registers after SMART RETURN STATUS: as a descriptor of type 09h, or in the fields of fixed sense data.
fn threshold(sense: &[u8]) -> Option<Threshold> {
    let registers = match sense.first()? & 0x7F {
        0x72 => {
            let mut rest = sense.get(8..)?;
            loop {
                let (kind, len) = (*rest.first()?, usize::from(*rest.get(1)?));
                if kind == 0x09 && len >= 12 {
                    break (*rest.get(9)?, *rest.get(11)?);
                }
                rest = rest.get(len.checked_add(2)?..)?;
            }
        }
        // "ATA pass-through information available": anything else is an error's sense data.
        0x70 if sense.get(12..14)? == [0x00, 0x1D] => (*sense.get(10)?, *sense.get(11)?),
        _ => return None,
    };
    match registers {
        SIGNATURE => Some(Threshold::Fine),
        SIGNATURE_FAILING => Some(Threshold::Exceeded),
        _ => None,
    }
}

/// One attribute's raw value, of which the lower four bytes are a count with all makers.
fn attribute(data: &[u8], id: u8) -> Option<u64> {
    const FIRST: usize = 2;
    const COUNT: usize = 30;
    const BYTES: usize = 12;
    let table = data.get(FIRST..)?.chunks_exact(BYTES).take(COUNT);
    let entry = table.into_iter().find(|entry| entry.first() == Some(&id))?;
    field::le32(entry, 5).map(u64::from)
}

/// The percentage used, where the page says that it has one and that it holds.
fn worn(statistics: &[u8]) -> Option<u16> {
    const SUPPORTED_AND_VALID: u64 = 0xC000_0000_0000_0000;
    let is_page = statistics.get(2) == Some(&STATISTICS_PAGE);
    let value = field::le64(statistics, 8).filter(|_| is_page)?;
    let is_valid = value & SUPPORTED_AND_VALID == SUPPORTED_AND_VALID;
    is_valid.then(|| u16::from(value.to_le_bytes()[0]))
}

fn is_intact(data: &[u8]) -> bool {
    data.len() == SECTOR && data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

fn health(status: Option<Threshold>, data: Option<&[u8]>, statistics: Option<&[u8]>) -> Health {
    // Nothing but zeros or ones is what some bridges make of it.
    let data = data.filter(|data| is_intact(data) && data.iter().any(|byte| Some(byte) != data.first()));
    if status.is_none() && data.is_none() {
        return Health::unknown(
            "it has no SMART, or it is switched off, or what it is attached to does not pass it on",
        );
    }
    let mut health = Health::healthy();
    if status == Some(Threshold::Exceeded) {
        health.note(Verdict::Failing, "it expects to fail soon");
    }
    if let Some(data) = data {
        let count = |id| attribute(data, id).unwrap_or(0);
        // Many disks count the same sectors in both.
        let unreadable = count(PENDING).max(count(UNCORRECTABLE));
        if unreadable > 0 {
            health.note(Verdict::Suspect, sectors(unreadable, "cannot be read"));
        }
        // Some makers keep another count in the upper half.
        let replaced = count(REALLOCATED) & 0xFFFF;
        if replaced > 0 {
            let verdict = if replaced >= REALLOCATED_MANY { Verdict::Suspect } else { Verdict::Healthy };
            health.note(verdict, sectors(replaced, "replaced by spare ones"));
        }
        // Minimum and maximum may stand in the bytes above.
        let celsius = attribute(data, TEMPERATURE).map(|raw| i16::from(raw.to_le_bytes()[0].cast_signed()));
        health.temperature = celsius.filter(|celsius| *celsius != 0);
    }
    if let Some(percent) = statistics.and_then(worn) {
        health.wear(percent);
    }
    health
}

fn sectors(count: u64, what: &str) -> String {
    format!("{count} sector{} {what}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(attributes: &[(u8, u64)]) -> Vec<u8> {
        let mut data = vec![0u8; SECTOR];
        data[0] = 0x10;
        for (entry, (id, raw)) in data[2..].chunks_exact_mut(12).zip(attributes) {
            entry[0] = *id;
            entry[5..11].copy_from_slice(&raw.to_le_bytes()[..6]);
        }
        data[511] = data.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
        data
    }

    fn descriptor(mid: u8, high: u8) -> Vec<u8> {
        let mut sense = vec![0x72, 1, 0, 0x1D, 0, 0, 0, 14, 0x09, 0x0C, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50];
        (sense[17], sense[19]) = (mid, high);
        sense
    }

    fn fixed(mid: u8, high: u8) -> Vec<u8> {
        let mut sense = vec![0x70, 0, 1, 0, 0x50, 0, 0, 10, 0, 0, mid, high, 0, 0x1D, 0, 0, 0, 0];
        sense.resize(32, 0);
        sense
    }

    #[test]
    fn the_registers_are_found_in_both_kinds_of_sense_data() {
        for sense in [descriptor, fixed] {
            assert_eq!(threshold(&sense(0x4F, 0xC2)), Some(Threshold::Fine));
            assert_eq!(threshold(&sense(0xF4, 0x2C)), Some(Threshold::Exceeded));
            assert_eq!(threshold(&sense(0, 0)), None);
        }
        // "Invalid command operation code", and nothing at all.
        assert_eq!(threshold(&[0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0x4F, 0xC2, 0x20, 0, 0, 0, 0, 0]), None);
        assert_eq!(threshold(&[]), None);
        assert_eq!(threshold(&[0x72; 64]), None);
    }

    #[test]
    fn what_the_attributes_say() {
        let fine = data(&[(5, 0), (9, 12_345), (194, 0x0014_0028_0029), (197, 0)]);
        let well = health(Some(Threshold::Fine), Some(&fine), None);
        assert_eq!((well.words().as_str(), well.temperature), ("healthy", Some(41)));
        let few = health(Some(Threshold::Fine), Some(&data(&[(5, 0x0012_0003)])), None);
        assert_eq!(few.words(), "healthy, 3 sectors replaced by spare ones");
        let bad = health(Some(Threshold::Fine), Some(&data(&[(5, 812), (197, 1), (198, 1)])), None);
        assert_eq!(bad.words(), "not well: 1 sector cannot be read, 812 sectors replaced by spare ones");
        let failing = health(Some(Threshold::Exceeded), Some(&data(&[(197, 24)])), None);
        assert_eq!(failing.words(), "failing: it expects to fail soon, 24 sectors cannot be read");
    }

    #[test]
    fn a_solid_state_disk_says_how_worn_it_is() {
        let mut page = vec![0u8; SECTOR];
        page[2] = 7;
        page[8..16].copy_from_slice(&0xC000_0000_0000_0057u64.to_le_bytes());
        let health_of = |page: &[u8]| health(Some(Threshold::Fine), None, Some(page)).words();
        assert_eq!(health_of(&page), "healthy, worn 87 %");
        page[8] = 101;
        assert_eq!(health_of(&page), "not well: worn 101 %");
        page[15] = 0x80;
        assert_eq!(health_of(&page), "healthy", "the figure does not hold");
    }

    #[test]
    fn a_bridge_that_answers_nonsense_says_nothing() {
        let refuse = |_: &[u8], _: usize| Err(io::Error::other("no"));
        assert_eq!(ask(None, &refuse).verdict, Verdict::Unknown);
        // Zeros, or noise, instead of data.
        for byte in [0, 0xFF] {
            let answer =
                move |_: &[u8], len: usize| Ok(Answered { status: 0, data: vec![byte; len], sense: Vec::new() });
            assert_eq!(ask(None, &answer).verdict, Verdict::Unknown, "{byte}");
        }
    }

    #[test]
    fn nothing_but_reading_is_asked_for() {
        let sent = std::cell::RefCell::new(Vec::new());
        let answer = |command: &[u8], len: usize| {
            sent.borrow_mut().push((command[14], command[4]));
            let sense = if len == 0 { descriptor(0x4F, 0xC2) } else { Vec::new() };
            Ok(Answered { status: 0, data: vec![0; len], sense })
        };
        assert_eq!(ask(Some(false), &answer).verdict, Verdict::Healthy);
        assert_eq!(*sent.borrow(), [(0xB0, 0xDA), (0xB0, 0xD0), (0x2F, 0)]);
    }
}
