//! Disks as bars to scale: partitions side by side, each filled as far as it is in use.
//!
//! Must not know: screens.

use ratatui::text::Span;

use imager::disk::health::Verdict;
use imager::units::size;

use super::facts::{Content, Disk, Part, Picture};
use super::page::{Page, cut, fit, fit_right, plain, width_of};
use super::theme::{Role, Theme};

/// How much is said of each disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// A bar, and names below it.
    Bar,
    /// A bar, and a line for each partition.
    Table,
}

/// Part of a disk, with the columns that it gets.
struct Segment<'a> {
    part: Option<(usize, &'a Part)>,
    columns: usize,
}

/// What is on a disk, `indent` columns in.
pub(super) fn content(page: &mut Page, theme: Theme, content: &Content, detail: Detail, indent: usize) {
    let lead = " ".repeat(indent);
    match content {
        Content::Reading => page.say_after(Role::Dim, &lead, "being read ..."),
        Content::Failed(error) => {
            let text = format!("Cannot be read: {error}. Check its cable and plug; F5 tries again.");
            page.say_after(Role::Warning, &lead, &text);
        }
        Content::Known(known) => picture(page, theme, known, detail, indent),
    }
}

/// A disk's content, `indent` columns in.
pub(super) fn picture(page: &mut Page, theme: Theme, picture: &Picture, detail: Detail, indent: usize) {
    let width = page.width().saturating_sub(indent);
    let segments = segments(picture, width.saturating_sub(2));
    let mut bar = vec![Span::raw(" ".repeat(indent))];
    bar.extend(bar_of(&segments, theme));
    page.line(bar);
    match detail {
        Detail::Bar => {
            let mut names = vec![Span::raw(" ".repeat(indent + 1))];
            for segment in &segments {
                let (role, name) = segment.part.map_or((Role::Dim, String::new()), |(number, part)| {
                    (Role::Part(number), short_name(part, segment.columns))
                });
                names.push(theme.span(role, fit(&name, segment.columns)));
                names.push(Span::raw(" "));
            }
            if !picture.parts.is_empty() {
                page.line(names);
            }
        }
        Detail::Table => table(page, theme, picture, indent),
    }
}

/// A line for each partition.
fn table(page: &mut Page, theme: Theme, picture: &Picture, indent: usize) {
    for (number, part) in picture.parts.iter().enumerate() {
        let what = part.number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let kind = if part.kind == "unknown" { &part.type_name } else { &part.kind };
        let mut spans = vec![
            Span::raw(" ".repeat(indent + 1)),
            theme.span(Role::Part(number), fit_right(&what, 3)),
            theme.span(Role::Part(number), format!("  {}", fit(kind, 12))),
            Span::raw(format!(" {}", fit_right(&size(part.len), 9))),
            theme.span(Role::Dim, format!("  {} in use  ", fit_right(&size(part.used), 9))),
        ];
        if let Some(label) = &part.label {
            spans.push(Span::raw(cut(label, 24)));
        }
        page.line(spans);
        for note in &part.notes {
            page.say_after(Role::Warning, &" ".repeat(indent + 6), note);
        }
    }
    for warning in &picture.warnings {
        page.say_after(Role::Warning, &" ".repeat(indent + 1), warning);
    }
}

/// "2 ext4 root", or as much of it as says something in so many columns.
fn short_name(part: &Part, columns: usize) -> String {
    let number = part.number.map(|number| number.to_string()).unwrap_or_default();
    let kind = if part.kind == "unknown" { &part.type_name } else { &part.kind };
    let long = [Some(&*number), Some(kind), part.label.as_deref()];
    let words =
        |parts: &[Option<&str>]| parts.iter().flatten().copied().collect::<Vec<_>>().join(" ").trim().to_owned();
    let long = words(&long);
    if width_of(&long) <= columns {
        return long;
    }
    let short = words(&[Some(&number), Some(kind)]);
    if width_of(&short) <= columns { short } else { cut(&number, columns) }
}

fn bar_of(segments: &[Segment<'_>], theme: Theme) -> Vec<Span<'static>> {
    let mut spans = vec![theme.span(Role::Dim, "│")];
    for segment in segments {
        match segment.part {
            Some((number, part)) => {
                let filled = share(part.used, part.len, segment.columns);
                spans.push(theme.span(Role::Part(number), "█".repeat(filled)));
                spans.push(theme.span(Role::Part(number), "░".repeat(segment.columns - filled)));
            }
            None => spans.push(theme.span(Role::Dim, "·".repeat(segment.columns))),
        }
        spans.push(theme.span(Role::Dim, "│"));
    }
    spans
}

/// The columns of `columns` that `part` of `whole` fills; one at least for anything.
pub(super) fn share(part: u64, whole: u64, columns: usize) -> usize {
    let wide = u128::try_from(columns).unwrap_or(0) * u128::from(part);
    usize::try_from(wide.div_ceil(u128::from(whole.max(1)))).unwrap_or(columns).min(columns)
}

/// The disk from left to right, in `width` columns with one between neighbours.
fn segments(picture: &Picture, width: usize) -> Vec<Segment<'_>> {
    let mut runs: Vec<(u64, Option<(usize, &Part)>)> = Vec::new();
    let mut at = 0;
    for (number, part) in picture.parts.iter().enumerate() {
        if part.start > at {
            runs.push((part.start - at, None));
        }
        runs.push((part.len, Some((number, part))));
        at = part.start.saturating_add(part.len).max(at);
    }
    if picture.size > at {
        runs.push((picture.size - at, None));
    }
    // Small gaps are not worth a column.
    runs.retain(|(len, part)| part.is_some() || u128::from(*len) * 100 > u128::from(picture.size));
    // More than half of the columns are never spent on borders.
    runs.truncate(width.div_ceil(2));
    let lens: Vec<u64> = runs.iter().map(|(len, _)| *len).collect();
    let columns = shares(&lens, width.saturating_sub(runs.len().saturating_sub(1)));
    runs.into_iter().zip(columns).map(|((_, part), columns)| Segment { part, columns }).collect()
}

/// Shares out `room` columns in proportion to `lens`, three each at least where there is room.
fn shares(lens: &[u64], room: usize) -> Vec<usize> {
    let least = if lens.len() * 3 <= room { 3 } else { 1 };
    let mut columns = vec![least; lens.len()];
    for _ in lens.len() * least..room {
        // Where most bytes share one.
        let neediest = lens
            .iter()
            .zip(&mut columns)
            .max_by_key(|(len, columns)| **len / u64::try_from(**columns).unwrap_or(u64::MAX).max(1));
        let Some((_, columns)) = neediest else { break };
        *columns += 1;
    }
    columns
}

/// Who a disk is, in one line: model, serial, how it is attached, size, name. What tells it from others is cut last.
pub(super) fn title(disk: &Disk, width: usize) -> String {
    let identity = &disk.identity;
    let right = format!("{}  {}", size(identity.size), disk.name());
    let room = width.saturating_sub(width_of(&right) + 2);
    let serial = disk.serial();
    let transport = identity.transport.as_deref().filter(|_| identity.model.is_some());
    let long = transport.map(|transport| format!("{}, {serial}, {transport}", disk.model()));
    // What is wrong with it has a line of its own.
    let well = disk.health.as_ref().filter(|health| health.verdict == Verdict::Healthy);
    let longest = long.as_ref().zip(well).map(|(long, health)| format!("{long}, {}", plain(&health.words())));
    let left = match [longest, long].into_iter().flatten().find(|long| width_of(long) <= room) {
        Some(long) => long,
        None => {
            let model = cut(&disk.model(), room.saturating_sub(width_of(&serial) + 2).max(8));
            format!("{model}, {serial}")
        }
    };
    format!("{}  {right}", fit(&left, room))
}

/// What is wrong with a disk, `indent` columns in; nothing for one that is well.
pub(super) fn trouble(page: &mut Page, disk: &Disk, indent: usize) {
    if let Some(trouble) = disk.trouble() {
        let is_failing = disk.health.as_ref().is_some_and(|health| health.verdict == Verdict::Failing);
        let role = if is_failing { Role::Danger } else { Role::Warning };
        page.say_after(role, &" ".repeat(indent), &format!("This disk is {trouble}."));
    }
}

/// What else is known than the title of that width says: partition table, sectors, how well it is, who uses it.
pub(super) fn state_of(disk: &Disk, width: usize) -> String {
    let table = match &disk.content {
        Content::Known(picture) => Some(picture.table.to_owned()),
        Content::Reading | Content::Failed(_) => None,
    };
    let sectors = format!("sectors of {} bytes", disk.identity.logical_sector);
    let read_only = disk.identity.read_only.then(|| "read-only".to_owned());
    let user = disk.users.first().map(|user| format!("in use: {}", plain(user)));
    let health = disk.health.as_ref().filter(|health| !health.is_bad()).map(|health| plain(&health.words()));
    let health = health.filter(|words| !title(disk, width).contains(words.as_str()));
    let parts = [table, Some(sectors), read_only, health, user];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_fill_the_room_and_nobody_gets_none() {
        assert_eq!(shares(&[1, 1, 1], 10).iter().sum::<usize>(), 10);
        assert_eq!(shares(&[0, 1 << 40, 1], 20), [3, 14, 3]);
        assert_eq!(shares(&[5; 30], 10), [1; 30]);
        assert!(shares(&[], 10).is_empty());
    }

    #[test]
    fn a_little_is_more_than_nothing() {
        assert_eq!((share(0, 100, 10), share(1, 100, 10), share(50, 100, 10), share(100, 100, 10)), (0, 1, 5, 10));
        assert_eq!((share(7, 0, 10), share(u64::MAX, u64::MAX, 3)), (10, 3));
    }
}
