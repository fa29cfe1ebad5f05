//! Which images a retention policy keeps.
//!
//! Works on one machine's images at a time: a policy that counts over several machines would let a busy
//! machine push out a quiet one's only image. Must not know: repositories.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// How many images to keep. All zero means that the policy says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest ones.
    pub last: usize,
    /// The newest of each of so many days that have one.
    pub daily: usize,
    /// The newest of each of so many ISO weeks that have one.
    pub weekly: usize,
    /// The newest of each of so many months that have one.
    pub monthly: usize,
}

impl Policy {
    /// True when no rule is given.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Of `images` (machine, id, when), gives those that no rule keeps.
    #[must_use]
    pub fn forgets<M: Hash + Eq + Clone, I: Hash + Eq + Copy>(
        self,
        images: &[(M, I, Timestamp)],
        zone: &TimeZone,
    ) -> Vec<I> {
        let mut machines: HashMap<M, Vec<(Timestamp, I)>> = HashMap::new();
        for (machine, id, when) in images {
            machines.entry(machine.clone()).or_default().push((*when, *id));
        }
        let mut kept = HashSet::new();
        for images in machines.values_mut() {
            images.sort_by_key(|(when, _)| std::cmp::Reverse(*when));
            kept.extend(images.iter().take(self.last).map(|(_, id)| *id));
            let date = |when: Timestamp| when.to_zoned(zone.clone()).date();
            newest_of_each(
                images,
                self.daily,
                |when| i64::from(date(when).year()) * 1000 + i64::from(date(when).day_of_year()),
                &mut kept,
            );
            newest_of_each(
                images,
                self.weekly,
                |when| {
                    let week = date(when).iso_week_date();
                    i64::from(week.year()) * 100 + i64::from(week.week())
                },
                &mut kept,
            );
            newest_of_each(
                images,
                self.monthly,
                |when| i64::from(date(when).year()) * 100 + i64::from(date(when).month()),
                &mut kept,
            );
        }
        images.iter().map(|(_, id, _)| *id).filter(|id| !kept.contains(id)).collect()
    }
}

/// `images` are newest first.
fn newest_of_each<I: Hash + Eq + Copy>(
    images: &[(Timestamp, I)],
    periods: usize,
    period: impl Fn(Timestamp) -> i64,
    kept: &mut HashSet<I>,
) {
    let mut seen = HashSet::new();
    for (when, id) in images {
        if seen.len() == periods {
            break;
        }
        if seen.insert(period(*when)) {
            kept.insert(*id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(times: &[&str]) -> Vec<(&'static str, usize, Timestamp)> {
        times.iter().enumerate().map(|(i, time)| ("m", i, time.parse().unwrap())).collect()
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_periods() {
        let all =
            images(&["2026-01-05T10:00:00Z", "2026-02-10T10:00:00Z", "2026-02-10T22:00:00Z", "2026-02-11T01:00:00Z"]);
        let forgets = |policy: Policy| policy.forgets(&all, &TimeZone::UTC);
        assert_eq!(forgets(Policy { last: 1, ..Policy::default() }), [0, 1, 2]);
        assert_eq!(forgets(Policy { daily: 2, ..Policy::default() }), [0, 1]);
        assert_eq!(forgets(Policy { weekly: 2, ..Policy::default() }), [1, 2]);
        assert_eq!(forgets(Policy { monthly: 9, ..Policy::default() }), [1, 2]);
        assert_eq!(forgets(Policy { last: 2, monthly: 2, ..Policy::default() }), [1]);
    }

    #[test]
    fn machines_do_not_push_each_other_out() {
        let mut all = images(&["2026-01-05T10:00:00Z", "2026-02-10T10:00:00Z"]);
        all.push(("quiet", 7, "2020-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!(Policy { last: 1, ..Policy::default() }.forgets(&all, &TimeZone::UTC), [0]);
    }
}
