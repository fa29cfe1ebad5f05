//! Disks as bars, and tables, as wide as the terminal.

use std::os::fd::AsFd;

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
pub(super) fn unicode() -> bool {
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty())
        .is_some_and(|value| value.to_ascii_uppercase().replace('-', "").contains("UTF8"))
}

/// Text from outside, such as a label, so that a terminal takes it for nothing but text.
pub(super) fn plain(text: &str) -> String {
    let unicode = unicode();
    text.chars().map(|c| if c.is_control() || !(unicode || c.is_ascii()) { '?' } else { c }).collect()
}

/// Columns of the terminal that standard output is, if it is one.
fn columns() -> Option<usize> {
    columns_of(std::io::stdout())
}

/// Columns of a terminal. What asks other programs, or `/dev/tty`, is too dear for what is asked ten times a second.
pub(super) fn columns_of(terminal: impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    (size.ws_col > 0).then(|| usize::from(size.ws_col))
}

/// The disk as a bar to scale: partitions side by side, each filled as far as it is in use.
pub(super) fn bar(drawing: &Drawing<'_>) -> String {
    let (full, free, gap) = if unicode() { ('█', '░', '·') } else { ('#', '-', '.') };
    // The last column stays empty: some terminals go to the next line behind it.
    let width = columns().unwrap_or(80).min(132).saturating_sub(1);
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
    let lens: Vec<u64> = cells.iter().map(|(len, _)| *len).collect();
    let mut bar = String::from("|");
    for ((_, volume), columns) in cells.iter().zip(shares(&lens, width.saturating_sub(cells.len() + 1))) {
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

/// Shares out `room` columns in proportion to `lens`, at least one each, and three where there is room.
fn shares(lens: &[u64], room: usize) -> Vec<usize> {
    let least = if lens.len() * 3 <= room { 3 } else { 1 };
    let mut columns = vec![least; lens.len()];
    // Each of the columns goes where the most bytes share one.
    for _ in lens.len() * least..room {
        let neediest = (0..lens.len()).max_by_key(|&n| {
            let (len, columns) = (lens.get(n).copied().unwrap_or(0), columns.get(n).copied().unwrap_or(1));
            len / u64::try_from(columns).unwrap_or(u64::MAX)
        });
        if let Some(columns) = neediest.and_then(|n| columns.get_mut(n)) {
            *columns += 1;
        }
    }
    columns
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
        notes.extend(volume.notes.iter().map(|note| format!("  {place}: {}\n", plain(&note_words(note)))));
    }
    table(&rows) + &notes.concat()
}

/// Texts in tables are not cut shorter.
const TEXT_WIDTH_MIN: usize = 8;

/// `text`, or as much of it as fits with a sign that there was more.
fn cut_to(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(2)).chain("..".chars()).collect()
}

/// A remark in words.
pub(super) fn note_words(note: &Note) -> String {
    match note {
        Note::Dirty { detail } => format!("not cleanly unmounted: {detail}"),
        Note::Hibernated { detail } => format!("hibernated: {detail}"),
        Note::ReadWhole { reason } => format!("read whole: {reason}"),
        Note::Remark { detail } => detail.clone(),
        Note::Unknown { kind, rest } => {
            let words = rest.values().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            std::iter::once(kind.replace('_', " ")).chain(words).collect::<Vec<_>>().join(": ")
        }
    }
}

/// Columns aligned; numbers and sizes to the right. The first row is the heading. On a terminal, texts are cut short
/// to fit.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| plain(cell))).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let all = |column: usize, is: &dyn Fn(&str) -> bool| rows.iter().skip(1).all(|row| is(&row[column]));
    let is_number = |cell: &str| {
        let number = cell.split(' ').next().unwrap_or_default();
        number.chars().all(|c| c.is_ascii_digit() || c == '.')
    };
    let right: [bool; N] = std::array::from_fn(|column| all(column, &is_number));
    let starts_with_digit = |cell: &str| cell.is_empty() || cell.starts_with(|c: char| c.is_ascii_digit());
    let rigid: [bool; N] = std::array::from_fn(|column| all(column, &starts_with_digit));
    let room = columns().unwrap_or(usize::MAX);
    while widths.iter().sum::<usize>() + 2 * N > room {
        let texts = widths.iter_mut().zip(&rigid).filter(|(width, rigid)| !**rigid && **width > TEXT_WIDTH_MIN);
        let Some((widest, _)) = texts.max_by_key(|(width, _)| **width) else { break };
        *widest -= 1;
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::from(" ");
        for ((cell, width), right) in row.iter().zip(widths).zip(&right) {
            if *right {
                line += &format!(" {cell:>width$} ");
            } else {
                line += &format!(" {:<width$} ", cut_to(cell, width));
            }
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shares_fill_the_room_and_nobody_gets_none() {
        assert_eq!(shares(&[1, 1, 1], 10), [3, 3, 4]);
        assert_eq!(shares(&[0, 1 << 40, 1], 20), [3, 14, 3]);
        assert_eq!(shares(&[5; 30], 40).iter().sum::<usize>(), 40);
        assert_eq!(shares(&[5; 30], 10), [1; 30]);
        assert!(shares(&[], 10).is_empty());
    }

    #[test]
    fn a_remark_of_tomorrow_is_shown_as_it_is() {
        let words = |json: serde_json::Value| note_words(&serde_json::from_value(json).unwrap());
        assert_eq!(words(json!({ "kind": "dirty", "detail": "work left" })), "not cleanly unmounted: work left");
        assert_eq!(words(json!({ "kind": "of_tomorrow", "detail": "so it is" })), "of tomorrow: so it is");
        assert_eq!(words(json!({ "kind": "counted", "files": 7 })), "counted: 7");
        assert_eq!(words(json!({ "kind": "bare" })), "bare");
    }

    #[test]
    fn texts_are_cut_to_their_column() {
        assert_eq!(cut_to("Linux file system", 17), "Linux file system");
        assert_eq!(cut_to("Linux file system", 10), "Linux fi..");
        assert_eq!(plain("a\x1b[2Jb\n"), "a?[2Jb?");
    }
}
