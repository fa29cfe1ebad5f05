//! eMMC: what the kernel has read from it. Sources: the kernel's `Documentation/driver-api/mmc/mmc-dev-attrs.rst`; JESD84-B51,
//! 7.4.24 to 7.4.26 (life time in steps of ten percent; pre-EOL).

use super::{Health, Verdict};

/// `read` gives the text of an attribute of the device. Cards have none.
pub(super) fn health(read: &dyn Fn(&str) -> Option<String>) -> Health {
    let numbers = |name: &str| -> Vec<u16> {
        let text = read(name).unwrap_or_default();
        let number = |word: &str| u16::from_str_radix(word.trim_start_matches("0x"), 16).ok();
        text.split_whitespace().filter_map(number).collect()
    };
    let (life, spare) = (numbers("life_time"), numbers("pre_eol_info").first().copied());
    // 1: up to ten percent, 11: more than all of it; for two kinds of memory.
    let worn = life.into_iter().filter(|step| (1..=11).contains(step)).max();
    if worn.is_none() && !matches!(spare, Some(1..=3)) {
        return Health::unknown("a card does not say");
    }
    let mut health = Health::healthy();
    match spare {
        Some(2) => health.note(Verdict::Suspect, "most of its spare blocks are used up"),
        Some(3) => health.note(Verdict::Failing, "its spare blocks are used up"),
        _ => {}
    }
    if let Some(step) = worn {
        health.wear((step - 1) * 10);
    }
    health
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn life_time_and_spare_blocks() {
        let words = |life: Option<&str>, spare: Option<&str>| {
            let read = |name: &str| if name == "life_time" { life } else { spare }.map(str::to_owned);
            health(&read).words()
        };
        assert_eq!(words(Some("0x01 0x01\n"), Some("0x01\n")), "healthy");
        assert_eq!(words(Some("0x02 0x04\n"), Some("0x01\n")), "healthy, worn 30 %");
        assert_eq!(
            words(Some("0x0b 0x01\n"), Some("0x02\n")),
            "not well: most of its spare blocks are used up, worn 100 %"
        );
        assert_eq!(words(Some("0x00 0x00\n"), Some("0x03\n")), "failing: its spare blocks are used up");
        assert_eq!(words(None, None), "health unknown");
        assert_eq!(words(Some("nonsense"), Some("0x00")), "health unknown");
    }
}
