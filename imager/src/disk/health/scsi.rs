//! SCSI and SAS disks: LOG SENSE. Sources: SPC-4 (informational exceptions, page 2Fh), SBC-4 (solid state media, page 11h),
//! SPC-4 (read errors, page 03h; temperature, page 0Dh).

use super::ata::Send;
use super::{Health, Verdict};
use crate::disk::sys::Answered;
use crate::read_at::field;

const LOG_SENSE: u8 = 0x4D;
const READ_ERRORS: u8 = 0x03;
const TEMPERATURE: u8 = 0x0D;
const SOLID_STATE: u8 = 0x11;
const EXCEPTIONS: u8 = 0x2F;

/// All pages here are small.
const PAGE_BYTES: u16 = 252;

/// Asks a disk; a volume of a RAID controller mostly says nothing.
pub(super) fn ask(send: Send<'_>) -> Health {
    let page = |code: u8| {
        let answer = send(&log_sense(code), usize::from(PAGE_BYTES)).ok().filter(Answered::is_good)?;
        (answer.data.first()? & 0x3F == code).then_some(answer.data)
    };
    let Some(exceptions) = page(EXCEPTIONS) else {
        return Health::unknown("it keeps no log of its health, or its controller does not pass it on");
    };
    let [errors, temperature, solid_state] = [READ_ERRORS, TEMPERATURE, SOLID_STATE].map(page);
    health(&exceptions, errors.as_deref(), temperature.as_deref(), solid_state.as_deref())
}

fn log_sense(page: u8) -> [u8; 10] {
    /// Not the thresholds, but the values now.
    const CUMULATIVE: u8 = 1 << 6;
    let [high, low] = PAGE_BYTES.to_be_bytes();
    [LOG_SENSE, 0, CUMULATIVE | page, 0, 0, 0, 0, high, low, 0]
}

/// The value of one parameter of a log page.
fn parameter(page: &[u8], wanted: u16) -> Option<&[u8]> {
    let len = usize::from(field::be16(page, 2)?);
    let rest = page.get(4..)?;
    let mut rest = rest.get(..len).unwrap_or(rest);
    loop {
        let (code, len) = (field::be16(rest, 0)?, usize::from(*rest.get(3)?));
        let (value, tail) = rest.get(4..)?.split_at_checked(len)?;
        if code == wanted {
            return Some(value);
        }
        rest = tail;
    }
}

fn health(exceptions: &[u8], errors: Option<&[u8]>, temperature: Option<&[u8]>, solid_state: Option<&[u8]>) -> Health {
    let Some(&[asc, ascq, ref rest @ ..]) = parameter(exceptions, 0) else {
        return Health::unknown("its log of exceptions is empty");
    };
    let mut health = Health::healthy();
    match (asc, ascq) {
        // What it was told to say, to try out who listens.
        (0x5D, 0xFF) => {}
        (0x5D, _) => health.note(Verdict::Failing, format!("it expects to fail soon (5Dh/{ascq:02X}h)")),
        (0x0B, 0x01) => health.note(Verdict::Suspect, "it is too hot"),
        (0x0B, _) => health.note(Verdict::Suspect, format!("it warns of something (0Bh/{ascq:02X}h)")),
        _ => {}
    }
    // Parameter 6: errors that nothing could correct, in as many bytes as it likes.
    let uncorrected = errors.and_then(|page| parameter(page, 6)).map(|bytes| {
        bytes
            .iter()
            .fold(0u64, |sum, byte| sum.checked_mul(256).map_or(u64::MAX, |sum| sum.saturating_add((*byte).into())))
    });
    if let Some(count) = uncorrected.filter(|count| *count > 0) {
        health.note(
            Verdict::Suspect,
            format!("{count} read error{} could not be corrected", if count == 1 { "" } else { "s" }),
        );
    }
    let worn = solid_state.and_then(|page| parameter(page, 1)).and_then(|value| value.get(3));
    if let Some(percent) = worn {
        health.wear(u16::from(*percent));
    }
    // FFh and zero: not known.
    let known = |celsius: &&u8| !matches!(**celsius, 0 | 0xFF);
    let in_exceptions = rest.first().filter(known);
    let in_page = temperature.and_then(|page| parameter(page, 0)).and_then(|value| value.get(1)).filter(known);
    health.temperature = in_page.or(in_exceptions).map(|celsius| i16::from(*celsius));
    health
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(code: u8, parameters: &[(u16, &[u8])]) -> Vec<u8> {
        let mut page = vec![code, 0, 0, 0];
        for (number, value) in parameters {
            page.extend_from_slice(&number.to_be_bytes());
            page.extend_from_slice(&[3, u8::try_from(value.len()).unwrap()]);
            page.extend_from_slice(value);
        }
        let len = u16::try_from(page.len() - 4).unwrap();
        page[2..4].copy_from_slice(&len.to_be_bytes());
        page.resize(usize::from(PAGE_BYTES), 0xAA);
        page
    }

    fn answers(exceptions: &[u8], errors: &[u8], worn: u8) -> Health {
        let pages = [
            page(EXCEPTIONS, &[(0, exceptions)]),
            page(READ_ERRORS, &[(2, &[0, 0, 0, 9]), (6, errors)]),
            page(TEMPERATURE, &[(0, &[0, 31]), (1, &[0, 60])]),
            page(SOLID_STATE, &[(1, &[0, 0, 0, worn])]),
        ];
        ask(&|command, _| {
            let found = pages.iter().find(|page| page[0] == command[2] & 0x3F).unwrap();
            Ok(Answered { status: 0, data: found.clone(), sense: Vec::new() })
        })
    }

    #[test]
    fn what_the_pages_say() {
        let well = answers(&[0, 0, 30], &[0; 8], 0);
        assert_eq!((well.words().as_str(), well.temperature), ("healthy", Some(31)));
        assert_eq!(answers(&[0, 0, 30], &[0; 8], 87).words(), "healthy, worn 87 %");
        assert_eq!(answers(&[0x5D, 0x10, 30], &[0], 0).words(), "failing: it expects to fail soon (5Dh/10h)");
        assert_eq!(answers(&[0x5D, 0xFF, 30], &[0], 0).words(), "healthy", "only a trial");
        assert_eq!(
            answers(&[0x0B, 1, 30], &[1, 2], 0).words(),
            "not well: it is too hot, 258 read errors could not be corrected"
        );
        assert!(answers(&[0, 0], &[0xFF; 20], 0).words().contains("18446744073709551615"));
    }

    #[test]
    fn a_disk_that_keeps_no_log_says_nothing() {
        let refused = |_: &[u8], _: usize| Ok(Answered { status: 2, data: Vec::new(), sense: vec![0x70, 0, 5] });
        assert_eq!(ask(&refused).verdict, Verdict::Unknown);
        // Another page than was asked for, a page that ends too early.
        for data in [vec![0u8; 252], vec![0x2F, 0, 0, 4, 0, 0, 3, 200], vec![0x2F]] {
            let answer = move |_: &[u8], _: usize| Ok(Answered { status: 0, data: data.clone(), sense: Vec::new() });
            assert_eq!(ask(&answer).verdict, Verdict::Unknown);
        }
    }
}
