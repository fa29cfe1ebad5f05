//! Samples, their medians, and the table of them.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::measure::Cost;
use crate::table::{Table, bytes};

/// One measurement.
pub(crate) struct Sample {
    pub(crate) subject: &'static str,
    pub(crate) tool: &'static str,
    pub(crate) reference: &'static str,
    pub(crate) rep: u32,
    pub(crate) cost: Cost,
    /// What the result grew by.
    pub(crate) bytes: u64,
    /// What `sync` took afterwards: what the tool had left in memory.
    pub(crate) sync_s: f64,
}

/// All samples, each written down as it comes.
pub(crate) struct Report {
    file: File,
    samples: Vec<Sample>,
}

impl Report {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let mut file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(file, "subject\ttool\trep\twall_s\tprocessor_s\tpeak_bytes\tread_bytes\tgrown_bytes\tsync_s")?;
        Ok(Self { file, samples: Vec::new() })
    }

    pub(crate) fn add(&mut self, sample: Sample) -> Result<()> {
        let Sample { subject, tool, rep, cost, bytes, sync_s, .. } = &sample;
        let Cost { wall_s, processor_s, memory_peak_bytes, read_bytes, .. } = cost;
        writeln!(
            self.file,
            "{subject}\t{tool}\t{rep}\t{wall_s:.3}\t{processor_s:.3}\t{memory_peak_bytes}\t{read_bytes}\t{bytes}\t{sync_s:.3}"
        )?;
        self.samples.push(sample);
        Ok(())
    }

    /// Medians, one row for each tool; "× imager" is its wall time over that of the subject's reference.
    pub(crate) fn markdown(&self) -> String {
        let heading = ["subject", "tool", "wall", "× imager", "from – to", "processor", "peak memory", "bytes", "sync"];
        let mut table = Table::new(2, heading);
        let mut done = Vec::new();
        for sample in &self.samples {
            let key = (sample.subject, sample.tool);
            if done.contains(&key) {
                continue;
            }
            done.push(key);
            let wall = self.walls(key);
            let ratio = match self.walls((sample.subject, sample.reference)).median() {
                Some(reference) => format!("{:.2}", wall.median().unwrap_or(0.0) / reference),
                None => String::new(),
            };
            let of = |value: fn(&Sample) -> f64| self.figures(key, value).median().unwrap_or(0.0);
            let largest = |value: fn(&Sample) -> u64| self.samples_of(key).map(value).max().unwrap_or(0);
            table.row([
                sample.subject.to_owned(),
                sample.tool.to_owned(),
                format!("{:.2} s", wall.median().unwrap_or(0.0)),
                ratio,
                format!("{:.2} – {:.2}", wall.first(), wall.last()),
                format!("{:.1} s", of(|sample| sample.cost.processor_s)),
                bytes(largest(|sample| sample.cost.memory_peak_bytes)),
                format!("{:.1} MiB", mib(largest(|sample| sample.bytes))),
                format!("{:.1} s", of(|sample| sample.sync_s)),
            ]);
        }
        table.markdown()
    }

    fn samples_of(&self, key: (&'static str, &'static str)) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| (sample.subject, sample.tool) == key)
    }

    fn figures(&self, key: (&'static str, &'static str), value: fn(&Sample) -> f64) -> Figures {
        let mut figures: Vec<f64> = self.samples_of(key).map(value).collect();
        figures.sort_by(f64::total_cmp);
        Figures(figures)
    }

    fn walls(&self, key: (&'static str, &'static str)) -> Figures {
        self.figures(key, |sample| sample.cost.wall_s)
    }
}

/// Sorted.
struct Figures(Vec<f64>);

impl Figures {
    fn median(&self) -> Option<f64> {
        let middle = self.0.len() / 2;
        let upper = self.0.get(middle)?;
        if self.0.len() % 2 == 1 { Some(*upper) } else { Some((self.0.get(middle - 1)? + upper) / 2.0) }
    }

    fn first(&self) -> f64 {
        self.0.first().copied().unwrap_or(0.0)
    }

    fn last(&self) -> f64 {
        self.0.last().copied().unwrap_or(0.0)
    }
}

/// Exact enough for a table: repositories are compared by less than a mebibyte.
fn mib(bytes: u64) -> f64 {
    let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
    f64::from(kib) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(Figures(vec![1.0, 2.0, 4.0, 9.0]).median(), Some(3.0));
        assert_eq!(Figures(vec![1.0, 2.0, 9.0]).median(), Some(2.0));
        assert_eq!(Figures(vec![]).median(), None);
    }
}
