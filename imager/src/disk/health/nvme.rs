//! NVMe: the log page "SMART / Health Information". Source: NVM Express Base Specification 1.4, 5.14.1.2.

use super::{Health, Verdict};
use crate::read_at::field;

/// The log page's number.
pub(super) const HEALTH_LOG: u8 = 2;
/// Its size.
pub(super) const HEALTH_BYTES: usize = 512;

/// What each bit of the first byte means.
const WARNINGS: [(Verdict, &str); 6] = [
    (Verdict::Failing, "its spare blocks are used up"),
    (Verdict::Suspect, "it is too hot or too cold"),
    (Verdict::Failing, "it has become unreliable"),
    (Verdict::Failing, "it can only be read any more"),
    (Verdict::Failing, "what saves its cache in a power cut has failed"),
    (Verdict::Suspect, "its persistent memory can only be read any more"),
];

/// What the log page says.
pub(super) fn health(log: &[u8]) -> Health {
    let (Some(&warnings), Some(&spare), Some(&worn)) = (log.first(), log.get(3), log.get(5)) else {
        return Health::unknown("its health log is too short");
    };
    // No disk without spare blocks has never worked, nor had a temperature: nothing was filled in.
    if log.iter().all(|byte| *byte == 0) {
        return Health::unknown("its health log is empty");
    }
    let mut health = Health::healthy();
    for (bit, (verdict, remark)) in WARNINGS.into_iter().enumerate() {
        if warnings >> bit & 1 == 1 {
            health.note(verdict, remark);
        }
    }
    // 128 bits; more than 64 of them are nobody's business.
    let errors = field::le64(log, 160).unwrap_or(0);
    if errors > 0 {
        let plural = if errors == 1 { "" } else { "s" };
        health.note(Verdict::Suspect, format!("{errors} error{plural} of its flash could not be corrected"));
    }
    let threshold = log.get(4).copied().unwrap_or(0);
    // No spare blocks and no number of them to be warned at: the disk, an emulated one maybe, does not tell.
    let tells = (spare, threshold) != (0, 0);
    if tells && spare < 100 && warnings & 1 == 0 {
        // Said by the warning when it is below.
        let verdict = if spare <= threshold { Verdict::Suspect } else { Verdict::Healthy };
        health.note(verdict, format!("{spare} % of its spare blocks are left"));
    }
    health.wear(u16::from(worn));
    let kelvin = field::le16(log, 1).filter(|kelvin| *kelvin > 0);
    health.temperature = kelvin.and_then(|kelvin| i16::try_from(i32::from(kelvin) - 273).ok());
    health
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(warnings: u8, spare: u8, worn: u8, errors: u64) -> Vec<u8> {
        let mut log = vec![0; HEALTH_BYTES];
        (log[0], log[3], log[4], log[5]) = (warnings, spare, 10, worn);
        log[1..3].copy_from_slice(&323u16.to_le_bytes());
        log[160..168].copy_from_slice(&errors.to_le_bytes());
        log
    }

    #[test]
    fn spare_blocks_that_are_not_told_of_are_no_reason_to_worry() {
        let mut log = log(0, 0, 0, 0);
        log[4] = 0;
        assert_eq!(health(&log).words(), "healthy");
    }

    #[test]
    fn what_the_log_says() {
        for (log, expected) in [
            (log(0, 100, 0, 0), "healthy"),
            (log(0, 100, 12, 0), "healthy, worn 12 %"),
            (log(0, 97, 12, 0), "healthy, 97 % of its spare blocks are left, worn 12 %"),
            (log(0, 100, 255, 0), "not well: worn 255 %"),
            (log(0, 10, 3, 0), "not well: 10 % of its spare blocks are left, worn 3 %"),
            (log(0, 100, 0, 1), "not well: 1 error of its flash could not be corrected"),
            (log(2, 100, 0, 0), "not well: it is too hot or too cold"),
            (log(1, 4, 99, 0), "failing: its spare blocks are used up, worn 99 %"),
            (
                log(12, 100, 0, 7),
                "failing: it has become unreliable, it can only be read any more, 7 errors of its flash could not be corrected",
            ),
        ] {
            let health = health(&log);
            assert_eq!((health.words().as_str(), health.temperature), (expected, Some(50)));
        }
    }

    #[test]
    fn what_is_no_log_says_nothing() {
        for log in [&[][..], &[0; 4], &[0; HEALTH_BYTES]] {
            assert_eq!(health(log).verdict, Verdict::Unknown);
        }
    }
}
