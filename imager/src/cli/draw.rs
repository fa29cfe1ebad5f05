//! Disks as bars, and tables.

use crate::fs::Note;
use crate::table::{PartitionTable, Role};
use crate::units::size;

/// What a drawing needs to know of a disk.
pub(super) struct Drawing<'a> {
    pub(super) size: u64,
    pub(super) table: &'a PartitionTable,
    pub(super) volumes: Vec<DrawnVolume<'a>>,
}

/// What it needs to know of a volume.
pub(super) struct DrawnVolume<'a> {
    pub(super) partition: Option<u32>,
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) kind: &'a str,
    pub(super) label: Option<&'a str>,
    pub(super) used: u64,
    pub(super) notes: &'a [Note],
}

/// Whether the terminal shows more than ASCII.
fn unicode() -> bool {
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty())
        .is_some_and(|value| value.to_ascii_uppercase().replace('-', "").contains("UTF8"))
}

/// Columns that a bar may have.
fn width() -> usize {
    crossterm::terminal::size().map_or(80, |(columns, _)| usize::from(columns)).clamp(60, 132) - 2
}

/// The disk as a bar to scale: partitions side by side, each filled as far as it is in use.
pub(super) fn bar(drawing: &Drawing<'_>) -> String {
    let (full, free, gap) = if unicode() { ('█', '░', '·') } else { ('#', '-', '.') };
    let width = width();
    let mut cells: Vec<(u64, Option<&DrawnVolume<'_>>)> = Vec::new();
    let mut at = 0;
    for volume in &drawing.volumes {
        if volume.start > at {
            cells.push((volume.start - at, None));
        }
        cells.push((volume.len, Some(volume)));
        at = volume.start.saturating_add(volume.len).max(at);
    }
    if drawing.size > at {
        cells.push((drawing.size - at, None));
    }
    // Small gaps are not worth a column; every volume gets three at least.
    cells.retain(|(len, volume)| volume.is_some() || u128::from(*len) * 100 > u128::from(drawing.size));
    let room = width.saturating_sub(cells.len() + 1).max(cells.len() * 3);
    let total: u128 = cells.iter().map(|(len, _)| u128::from(*len)).sum::<u128>().max(1);
    let mut bar = String::from("|");
    for (len, volume) in cells {
        let columns = usize::try_from(u128::from(len) * room as u128 / total).unwrap_or(room).max(3);
        match volume {
            Some(volume) => {
                let filled = u128::from(volume.used) * columns as u128;
                let filled =
                    usize::try_from(filled.div_ceil(u128::from(volume.len).max(1))).unwrap_or(columns).min(columns);
                bar.extend(std::iter::repeat_n(full, filled));
                bar.extend(std::iter::repeat_n(free, columns - filled));
            }
            None => bar.extend(std::iter::repeat_n(gap, columns)),
        }
        bar.push('|');
    }
    bar
}

/// The partitions of a disk, a line each, and what should be known about them.
pub(super) fn partitions(drawing: &Drawing<'_>) -> String {
    let mut rows = vec![[
        "No".into(),
        "Start".into(),
        "Size".into(),
        "Type".into(),
        "File system".into(),
        "Used".into(),
        "Free".into(),
        "Name".into(),
    ]];
    let mut notes = Vec::new();
    let row_of = |volume: &DrawnVolume<'_>| (size(volume.used), size(volume.len.saturating_sub(volume.used)));
    for partition in &drawing.table.partitions {
        let volume = drawing.volumes.iter().find(|volume| volume.partition == Some(partition.number));
        let (used, free) = volume.map_or_else(Default::default, row_of);
        let kind = match (volume, partition.role) {
            (_, Role::Extended) => "-".to_owned(),
            (Some(volume), _) => volume.kind.to_owned(),
            (None, _) => "?".to_owned(),
        };
        let name = volume.and_then(|volume| volume.label).or(partition.name.as_deref()).unwrap_or_default();
        rows.push([
            partition.number.to_string(),
            size(partition.start),
            size(partition.len),
            partition.type_name.clone(),
            kind,
            used,
            free,
            name.to_owned(),
        ]);
    }
    if drawing.table.partitions.is_empty() {
        for volume in &drawing.volumes {
            let (used, free) = row_of(volume);
            let name = volume.label.unwrap_or_default().to_owned();
            rows.push([
                "-".into(),
                size(volume.start),
                size(volume.len),
                "whole disk".into(),
                volume.kind.to_owned(),
                used,
                free,
                name,
            ]);
        }
    }
    for volume in &drawing.volumes {
        let place = volume.partition.map_or_else(|| "whole disk".to_owned(), |number| format!("partition {number}"));
        notes.extend(volume.notes.iter().map(|note| format!("  {place}: {}\n", note_words(note))));
    }
    table(&rows) + &notes.concat()
}

/// A remark in words.
pub(super) fn note_words(note: &Note) -> String {
    match note {
        Note::Dirty { detail } => format!("not cleanly unmounted: {detail}"),
        Note::Hibernated { detail } => format!("hibernated: {detail}"),
        Note::ReadWhole { reason } => format!("is read whole: {reason}"),
        Note::Remark { detail } => detail.clone(),
    }
}

/// Columns aligned; numbers and sizes to the right. The first row is the heading.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let is_number = |column: usize| {
        rows.iter()
            .skip(1)
            .filter_map(|row| row.get(column))
            .all(|cell| cell.is_empty() || cell.starts_with(|c: char| c.is_ascii_digit()))
    };
    let right: Vec<bool> = (0..N).map(is_number).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for ((cell, width), right) in row.iter().zip(widths).zip(&right) {
            if *right {
                line += &format!(" {cell:>width$} ");
            } else {
                line += &format!(" {cell:<width$} ");
            }
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}
