//! Progress: how the job goes, on every console, and what can be done about it.

use imager::units::{duration, size};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Span;

use crate::job::{Counts, Kind, Map, Request, State, Status};
use crate::ui::disk_map::share;
use crate::ui::page::{Page, cut, fit, fit_right, plain, width_of};
use crate::ui::state::{Effect, Effects, Key, KeyHint, Move, Question, Screen, World};
use crate::ui::theme::{Role, Theme};

/// The screen. All that it shows is the world's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress;

impl Screen for Progress {
    fn title(&self, world: &World) -> String {
        world.job.as_ref().map_or_else(|| "nothing is being done".to_owned(), |job| plain(&job.title))
    }

    fn keys(&self, world: &World) -> Vec<KeyHint> {
        match world.job.as_ref().map(|job| &job.state) {
            Some(State::Running) => vec![("p", "pause"), ("c", "cancel")],
            Some(State::Paused) => vec![("p", "go on"), ("c", "cancel")],
            _ => Vec::new(),
        }
    }

    fn help(&self) -> &'static str {
        "What is being done\n\
        Every console of this machine shows this, and any of them may pause or cancel. Esc leaves this screen, and the \
        job goes on; F2 comes back.\n\n\
        p: pause, and go on\n\
        c: cancel, after a question. A cancelled backup keeps what it stored: the next one goes on from there. A \
        cancelled restore leaves a disk that does not start.\n\n\
        The map\n\
        Each disk from its first byte to its last, darker the more of a place was read or written. What is not in use stays \
        empty. A restore writes in the order in which things were stored, not in that of the disk.\n\n\
        The words\n\
        zeros: blocks of nothing but zeros, which are never stored\n\
        known: what the repository had already, from this machine or another\n\
        new: what it did not have; stored is what became of it by compression"
    }

    fn shows_job(&self) -> bool {
        true
    }

    fn key(&mut self, key: Key, world: &World, effects: &mut Effects) -> Move {
        let Some(job) = &world.job else { return Move::Back };
        match (key, &job.state) {
            (Key::Char('p' | ' '), State::Running) => effects.push(Effect::Send(Request::Pause)),
            (Key::Char('p' | ' '), State::Paused) => effects.push(Effect::Send(Request::Resume)),
            (Key::Char('c'), State::Running | State::Paused) => return Move::Ask(Box::new(cancelling(job))),
            _ => {}
        }
        Move::Stay
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let mut page = Page::new(world.theme, area.width);
        match &world.job {
            None => page.say(Role::Dim, "Nothing is being done. Esc leads home."),
            Some(job) => draw_job(&mut page, world.theme, job, usize::from(area.height)),
        }
        page.draw(0, area, buffer);
    }
}

fn cancelling(job: &Status) -> Question {
    let (text, yes) = match job.kind {
        Kind::Capture => (
            "What is stored so far is kept, but it is no image yet. A later backup of the same disks to the same \
            repository goes on from there.",
            "Cancel the backup",
        ),
        Kind::Restore => (
            "The target disk is overwritten in part by now and will not start. The same restore, with \"write only what \
            differs\", goes on from there.",
            "Cancel the restore",
        ),
        Kind::Clone => (
            "The target disk is overwritten in part by now and will not start. Cloning again begins anew.",
            "Cancel the cloning",
        ),
        Kind::Copy => (
            "What is copied so far stays in the new directory, every file of it whole; the rest is missing there.",
            "Cancel the copy",
        ),
        Kind::Verify => ("Nothing is lost. What was found so far is not kept.", "Stop verifying"),
    };
    Question {
        title: "Cancel this?".to_owned(),
        text: text.to_owned(),
        no: "Go on with it",
        yes: yes.to_owned(),
        effect: Effect::Send(Request::Cancel),
    }
}

/// "42 %, 3 min 20 s left".
pub(crate) fn in_a_word(job: &Status) -> String {
    let counts = job.progress.clone().unwrap_or_default();
    let percent = format!("{} %", percent(&counts));
    match (&job.state, counts.seconds_left) {
        (State::Paused, _) => format!("paused at {percent}"),
        (State::Cancelling, _) => "being cancelled".to_owned(),
        (_, Some(left)) => format!("{percent}, {} left", seconds(left)),
        _ if counts.total == 0 => counts.phase,
        _ => percent,
    }
}

fn percent(counts: &Counts) -> u64 {
    let percent = u128::from(counts.done) * 100 / u128::from(counts.total.max(1));
    u64::try_from(percent).unwrap_or(100).min(100)
}

/// A duration of whole seconds.
pub(crate) fn seconds(seconds: u64) -> String {
    if seconds < 10 { format!("{seconds} s") } else { duration(std::time::Duration::from_secs(seconds)) }
}

fn draw_job(page: &mut Page, theme: Theme, job: &Status, height: usize) {
    let counts = job.progress.clone().unwrap_or_default();
    let width = page.width();
    let (role, state) = match &job.state {
        State::Running => (Role::Good, "working".to_owned()),
        State::Paused => (Role::Warning, "PAUSED: press p to go on".to_owned()),
        State::Cancelling => (Role::Warning, "being cancelled; this takes a moment".to_owned()),
        State::Ended { .. } => (Role::Text, "ended".to_owned()),
    };
    let step = job.steps.get(job.step).map_or("", String::as_str);
    let number =
        if job.steps.len() > 1 { format!("Step {} of {}: ", job.step + 1, job.steps.len()) } else { String::new() };
    page.line(vec![
        theme.span(Role::Heading, format!("{number}{}", plain(step))),
        theme.span(role, format!("  {state}")),
    ]);
    page.gap();
    let rows = map_rows(width, height);
    if counts.map.is_empty() || counts.map.len() > MAPS_MAX {
        bar(page, theme, &counts, rows);
    } else {
        maps(page, theme, &counts.map, rows);
    }
    legend(page, theme, job.kind, &counts);
    page.gap();
    figures(page, theme, job, &counts);
    let rest = height.saturating_sub(page.len() + 1);
    let graph_rows = (rest / 2).clamp(2, 12);
    if rest >= 5 {
        page.gap();
        graph(page, theme, &job.rates, graph_rows);
    }
    let rest = height.saturating_sub(page.len() + 1);
    if rest >= 1 && !job.messages.is_empty() {
        page.gap();
        let skip = job.messages.len().saturating_sub(rest.max(1));
        for message in job.messages.iter().skip(skip) {
            page.line(vec![theme.span(Role::Warning, cut(&plain(message), width))]);
        }
    }
}

/// Rows of the map: a tenth of a large screen, two of a small one.
fn map_rows(width: usize, height: usize) -> usize {
    if width < 20 { 1 } else { (height / 8).clamp(2, 10) }
}

/// Of more disks than these, a screen has no room for the maps.
const MAPS_MAX: usize = 6;

/// Each disk from its first byte to its last, filling where the work has been.
fn maps(page: &mut Page, theme: Theme, maps: &[Map], rows: usize) {
    let rows = (rows / maps.len().max(1)).max(1);
    // One disk needs no name.
    let names: Vec<String> = maps.iter().map(|map| plain(map.disk.rsplit('/').next().unwrap_or_default())).collect();
    let lead = if maps.len() > 1 { names.iter().map(|name| width_of(name)).max().unwrap_or(0).min(12) + 1 } else { 0 };
    let width = page.width().saturating_sub(2 + lead).max(1);
    for (number, (map, name)) in maps.iter().zip(&names).enumerate() {
        let shades = shades(&map.cells, width * rows);
        for (row, line) in shades.chunks(width).enumerate() {
            let mut spans =
                vec![theme.span(Role::Text, fit(if row == 0 { name } else { "" }, lead)), theme.span(Role::Dim, "│")];
            for run in line.chunk_by(|a, b| a == b) {
                let role = if run.first() == Some(&'·') { Role::Dim } else { Role::Part(number) };
                spans.push(theme.span(role, run.iter().collect::<String>()));
            }
            spans.push(theme.span(Role::Dim, "│"));
            page.line(spans);
        }
    }
}

/// The cells as so many columns: the fuller, the darker; anything is more than nothing.
fn shades(cells: &str, columns: usize) -> Vec<char> {
    let cells = cells.as_bytes();
    let level = |cell: &u8| usize::from(cell.saturating_sub(b'0').min(9));
    let place = |column: usize| column.saturating_mul(cells.len()) / columns.max(1);
    let shade = |column: usize| {
        let (first, end) = (place(column), place(column + 1).max(place(column) + 1));
        let here = cells.get(first..end.min(cells.len())).unwrap_or_default();
        match here.iter().map(level).sum::<usize>().div_ceil(here.len().max(1)) {
            0 => '·',
            1..=3 => '░',
            4..=7 => '▒',
            _ => '█',
        }
    };
    (0..columns).map(shade).collect()
}

/// The work as a bar that fills up, where nobody knows where it is.
fn bar(page: &mut Page, theme: Theme, counts: &Counts, rows: usize) {
    let width = page.width().saturating_sub(2).max(1);
    let cells = width * rows;
    let filled = if counts.done == 0 { 0 } else { share(counts.done, counts.total, cells) };
    for row in 0..rows {
        let here = filled.saturating_sub(row * width).min(width);
        page.line(vec![
            theme.span(Role::Dim, "│"),
            theme.span(Role::Part(0), "█".repeat(here)),
            theme.span(Role::Dim, "·".repeat(width - here)),
            theme.span(Role::Dim, "│"),
        ]);
    }
}

/// What the handled bytes were, as a bar by itself.
fn legend(page: &mut Page, theme: Theme, kind: Kind, counts: &Counts) {
    let handled = counts.zero.saturating_add(counts.known).saturating_add(counts.new);
    if handled == 0 || kind == Kind::Verify {
        return;
    }
    let (known, new) = match kind {
        Kind::Capture => ("known", "new"),
        _ => ("unchanged", "written"),
    };
    let width = page.width().saturating_sub(2);
    let zero = share(counts.zero, handled, width);
    let old = share(counts.known, handled, width).min(width - zero);
    page.line(vec![
        Span::raw(" "),
        theme.span(Role::Dim, "░".repeat(zero)),
        theme.span(Role::Part(1), "▒".repeat(old)),
        theme.span(Role::Part(0), "█".repeat(width - zero - old)),
    ]);
    let mut spans = vec![Span::raw(" ")];
    for (role, mark, bytes, what) in [
        (Role::Dim, "░", counts.zero, "zeros"),
        (Role::Part(1), "▒", counts.known, known),
        (Role::Part(0), "█", counts.new, new),
    ] {
        spans.push(theme.span(role, mark));
        spans.push(theme.span(Role::Text, format!(" {} {what}   ", size(bytes))));
    }
    page.line(spans);
}

fn figures(page: &mut Page, theme: Theme, job: &Status, counts: &Counts) {
    let now = job.rates.last().copied().unwrap_or(counts.bytes_per_second);
    let left = match (&job.state, counts.seconds_left) {
        (State::Running, Some(left)) => seconds(left),
        (State::Running, None) => "not known yet".to_owned(),
        _ => "-".to_owned(),
    };
    let phase = match &*counts.phase {
        "planning" => "finding out what is to do",
        "copying" if job.kind == Kind::Capture => "reading and storing",
        "copying" => "writing",
        "verifying" => "checking",
        "finishing" => "making it last",
        "" => "beginning",
        other => other,
    };
    let dedup = if counts.new > 0 && job.kind == Kind::Capture {
        let handled = counts.zero.saturating_add(counts.known).saturating_add(counts.new);
        // Until the first pack is written nothing can be said.
        if counts.stored > 0 {
            format!("{} stored of {} read, level {}", size(counts.stored), size(handled), counts.level)
        } else {
            format!("nothing stored yet of {} read", size(handled))
        }
    } else if counts.stored > 0 {
        format!("{} read from the repository", size(counts.stored))
    } else {
        "-".to_owned()
    };
    let done = match counts.total {
        0 => "-".to_owned(),
        total => format!("{} of {}, {} %", size(counts.done), size(total), percent(counts)),
    };
    let rate = format!("{}/s, on average {}/s", size(now), size(counts.bytes_per_second));
    let rows = [
        ("Doing", phase.to_owned(), "Time", seconds(job.seconds)),
        ("Done", done, "Left", left),
        ("Rate", rate, "", String::new()),
        ("Stored", dedup, "", String::new()),
    ];
    let half = page.width().saturating_sub(28).clamp(20, 60);
    for (name, value, name2, value2) in rows {
        let wide = if name2.is_empty() { page.width().saturating_sub(9) } else { half };
        page.line(vec![
            theme.span(Role::Dim, fit(name, 8)),
            theme.span(Role::Text, fit(&plain(&value), wide)),
            theme.span(Role::Dim, fit(name2, if name2.is_empty() { 0 } else { 6 })),
            theme.span(Role::Text, value2),
        ]);
    }
}

/// The rate over time, the newest on the right; two levels for each row.
fn graph(page: &mut Page, theme: Theme, rates: &[u64], rows: usize) {
    let top = rates.iter().copied().max().unwrap_or(0);
    if top == 0 {
        return;
    }
    let label = format!("{}/s", size(top));
    let lead = label.len() + 1;
    let width = page.width().saturating_sub(lead + 1);
    // All samples where they fit, else the newest.
    let newest = rates.get(rates.len().saturating_sub(width)..).unwrap_or(rates);
    for row in 0..rows {
        let floor = (rows - 1 - row) * 2;
        let line: String = newest
            .iter()
            .map(|rate| match share(*rate, top, rows * 2).saturating_sub(floor) {
                0 => ' ',
                1 => '▄',
                _ => '█',
            })
            .collect();
        let lead = if row == 0 {
            fit_right(&label, lead - 1)
        } else if row + 1 == rows {
            fit_right("0", lead - 1)
        } else {
            " ".repeat(lead - 1)
        };
        page.line(vec![
            theme.span(Role::Dim, format!("{lead} ")),
            theme.span(Role::Dim, "│"),
            theme.span(Role::Good, line),
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_are_where_the_work_was() {
        let text = |cells: &str, columns| shades(cells, columns).into_iter().collect::<String>();
        assert_eq!(text("0019", 4), "··░█");
        assert_eq!(text("0019", 2), "·▒");
        assert_eq!(text("09", 6), "···███");
        assert_eq!(text("", 3), "···");
        assert_eq!(text("é", 2), "██", "nonsense is no reason to fail");
        assert_eq!(text("5", 0), "");
    }
}
