//! Sizes and durations as people read and write them.

#![forbid(unsafe_code)]

use std::time::Duration;

/// A size with a binary unit and three significant digits: "3.42 GiB".
#[must_use]
pub fn size(bytes: u64) -> String {
    let mut divisor = 1u64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        // 999.5 of a unit would print as 1000 of it.
        if bytes / divisor < 1000 {
            break;
        }
        divisor = divisor.saturating_mul(1024);
        unit = larger;
    }
    let hundredths = u128::from(bytes) * 100 / u128::from(divisor);
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    match whole {
        _ if divisor == 1 => format!("{bytes} B"),
        0..10 => format!("{whole}.{rest:02} {unit}"),
        10..100 => format!("{whole}.{} {unit}", rest / 10),
        _ => format!("{whole} {unit}"),
    }
}

/// Parses "350", "350M", "350MiB", "4k", "1.5 GiB"; units are binary, letters in either case.
///
/// # Errors
/// A message that says what is accepted.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is not a size; give a number of bytes, or one with K, M, G or T (powers of 1,024)");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let thousandths: u64 = format!("{fraction:0<3}").get(..3).and_then(|f| f.parse().ok()).ok_or_else(wrong)?;
    whole.checked_mul(1 << shift).and_then(|w| w.checked_add((thousandths << shift) / 1000)).ok_or_else(wrong)
}

/// "7 s", "3 min 20 s", "2 h 5 min".
#[must_use]
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{}.{} s", seconds, time.subsec_millis() / 100),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.97 KiB"),
            (1536, "1.50 KiB"),
            (8 << 30, "8.00 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn sizes_parse() {
        for (text, bytes) in [("0", 0), ("4k", 4096), ("350MiB", 350 << 20), ("1.5 GiB", 3 << 29), ("2T", 2 << 40)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "-1", "1x", "99999999999999T", "1.2.3"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
