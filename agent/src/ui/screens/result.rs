//! Result: what was done, how long it took, what to check, and where the report is.

use imager::units::size;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use serde_json::Value;

use super::moved;
use super::progress::seconds;
use crate::job::{Kind, Request, State, Status};
use crate::ui::page::{Page, plain};
use crate::ui::state::{Effect, Effects, Key, KeyHint, Move, Screen, World};
use crate::ui::theme::Role;

/// Files that were not copied and are named here.
const FAILURES_SHOWN: usize = 20;
/// Lines that can be scrolled at most.
const SCROLL_MAX: usize = 1000;

/// The screen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Results {
    scroll: usize,
}

impl Screen for Results {
    fn title(&self, world: &World) -> String {
        world.job.as_ref().map_or_else(|| "result".to_owned(), |job| format!("result: {}", plain(&job.title)))
    }

    fn keys(&self, _world: &World) -> Vec<KeyHint> {
        vec![("Enter", "done, go home"), ("↑↓", "scroll")]
    }

    fn help(&self) -> &'static str {
        "What came of it\n\
        Every console shows this result until one of them presses Enter. Esc leaves it for later: F2 comes back to it.\n\n\
        The report\n\
        The same is written beside the repository as text and as JSON, if there was a place for it."
    }

    fn shows_job(&self) -> bool {
        true
    }

    fn key(&mut self, key: Key, world: &World, effects: &mut Effects) -> Move {
        if key == Key::Enter {
            if world.job.is_some() {
                effects.push(Effect::Send(Request::Dismiss));
            }
            return Move::Home;
        }
        self.scroll = moved(self.scroll, SCROLL_MAX, if key == Key::Up && self.scroll == 0 { Key::Home } else { key });
        Move::Stay
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let mut page = Page::new(world.theme, area.width);
        match &world.job {
            None => page.say(Role::Dim, "There is no result. Esc leads home."),
            Some(job) => draw_result(&mut page, job),
        }
        page.draw(self.scroll, area, buffer);
    }
}

fn draw_result(page: &mut Page, job: &Status) {
    let (exit_code, error) = match &job.state {
        State::Ended { exit_code, error } => (*exit_code, error.as_deref()),
        _ => (None, Some("it has not ended yet")),
    };
    let time = seconds(job.seconds);
    match (exit_code, error) {
        (Some(0), None) => page.say(Role::Good, &format!("√ Done, in {time}.")),
        (Some(10), None | Some(_)) => {
            page.say(Role::Warning, &format!("Done in {time}, but some sectors of the source could not be read."));
        }
        (Some(4), _) if job.kind == Kind::Verify => {
            page.say(Role::Danger, &format!("DAMAGE WAS FOUND, after {time}."));
            page.say_after(Role::Text, "  ", &plain(error.unwrap_or_default()));
        }
        (Some(4), _) if job.kind == Kind::Copy && job.results.iter().any(is_copied_files) => {
            page.say(Role::Warning, &format!("Done in {time}, but not everything could be copied."));
        }
        (Some(130), _) => page.say(Role::Warning, &format!("Cancelled after {time}.")),
        (_, error) => {
            page.say(Role::Danger, &format!("It did not work. It ended after {time}:"));
            page.say_after(Role::Text, "  ", &plain(error.unwrap_or("nobody knows why; the log may tell")));
        }
    }
    page.heading("What was done");
    let ended_well = error.is_none();
    for (number, step) in job.steps.iter().enumerate() {
        let (mark, role) = match number.cmp(&job.step) {
            std::cmp::Ordering::Less => ("  √ ", Role::Text),
            std::cmp::Ordering::Equal if ended_well => ("  √ ", Role::Text),
            std::cmp::Ordering::Equal => ("  × ", Role::Danger),
            std::cmp::Ordering::Greater => ("  - not begun: ", Role::Dim),
        };
        page.say_after(role, mark, &plain(step));
    }
    for result in &job.results {
        for line in words_of(result) {
            page.say_after(Role::Text, "    ", &plain(&line));
        }
    }
    page.heading("What now");
    for advice in advice(job.kind, exit_code, ended_well) {
        page.say_after(Role::Text, "  • ", advice);
    }
    match &job.report {
        Some(path) => {
            page.say_after(Role::Text, "  • ", &format!("The report is {}.", plain(&path.display().to_string())))
        }
        None => page.say_after(Role::Dim, "  • ", "No report was written."),
    }
    if !job.messages.is_empty() {
        page.heading("What was said");
        for message in &job.messages {
            page.say_after(Role::Warning, "  ", &plain(message));
        }
    }
}

/// What a step's result says, a line each.
fn words_of(result: &Value) -> Vec<String> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0);
    let empty = Value::Null;
    match text(result, "type").as_deref() {
        Some("repository") => {
            let encrypted = result.get("encrypted").and_then(Value::as_bool) == Some(true);
            vec![format!("A new repository, {}.", if encrypted { "encrypted" } else { "not encrypted" })]
        }
        Some("captured") => {
            let stats = result.get("stats").unwrap_or(&empty);
            let mut lines = vec![
                format!(
                    "Image {}{}",
                    text(result, "image").unwrap_or_default().chars().take(8).collect::<String>(),
                    text(result, "name").map(|name| format!(", {name}")).unwrap_or_default()
                ),
                format!(
                    "{} read: {} zeros, {} known already, {} new; {} added to the repository.",
                    size(number(stats, "read")),
                    size(number(stats, "zero")),
                    size(number(stats, "known")),
                    size(number(stats, "new")),
                    size(number(stats, "stored")),
                ),
            ];
            let unreadable = number(result, "unreadable");
            if unreadable > 0 {
                lines.push(format!("{} could not be read and will be restored as zeros.", size(unreadable)));
            }
            lines
        }
        Some("restored") => {
            let result = result.get("result").unwrap_or(&empty);
            let mut lines = vec![format!(
                "{} written, {} unchanged, {} read from the repository.",
                size(number(result, "written")),
                size(number(result, "unchanged")),
                size(number(result, "read")),
            )];
            if result.get("read_back").and_then(Value::as_bool) == Some(true) {
                lines.push("Read back and found equal.".to_owned());
            }
            for (key, why) in
                [("unreadable", "the source could not be read there"), ("lost", "the repository is damaged")]
            {
                if number(result, key) > 0 {
                    lines.push(format!("{} are zeros because {why}.", size(number(result, key))));
                }
            }
            let warnings = result.get("warnings").and_then(Value::as_array).into_iter().flatten();
            lines.extend(warnings.filter_map(Value::as_str).map(str::to_owned));
            lines
        }
        Some("copied") => {
            let unreadable = number(result, "unreadable");
            let result = result.get("result").unwrap_or(&empty);
            let mut lines = vec![format!("{} copied.", size(number(result, "read")))];
            if result.get("read_back").and_then(Value::as_bool) == Some(true) {
                lines.push("Read back and found equal.".to_owned());
            }
            if unreadable > 0 {
                lines.push(format!("{} could not be read and are zeros on the clone.", size(unreadable)));
            }
            let warnings = result.get("warnings").and_then(Value::as_array).into_iter().flatten();
            lines.extend(warnings.filter_map(Value::as_str).map(str::to_owned));
            lines
        }
        Some("verified") => {
            let report = result.get("report").unwrap_or(&empty);
            let mut lines = vec![format!(
                "{} images, {} packs, {} of data read.",
                number(report, "images"),
                number(report, "packs"),
                size(number(report, "bytes_read"))
            )];
            if result.get("sound").and_then(Value::as_bool) == Some(true) {
                lines.push("No damage was found.".to_owned());
            }
            for hurt in report.get("hurt").and_then(Value::as_array).into_iter().flatten() {
                let part = |key: &str| text(hurt, key).unwrap_or_default();
                lines.push(format!(
                    "Damaged: image {}, {}, {}, {}.",
                    part("image"),
                    part("machine"),
                    part("disk"),
                    part("place")
                ));
            }
            lines
        }
        Some("copied_files") => copied_files(result),
        Some("error") => text(result, "message").into_iter().collect(),
        _ => Vec::new(),
    }
}

fn is_copied_files(result: &Value) -> bool {
    result.get("type").and_then(Value::as_str) == Some("copied_files")
}

/// What was copied, what was not, and what the place cannot keep.
fn copied_files(result: &Value) -> Vec<String> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0);
    let items = |key: &str| result.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut parts =
        vec![format!("{} ({})", amount(number(result, "files"), "file", "files"), size(number(result, "bytes")))];
    for (key, one, many) in [
        ("directories", "directory", "directories"),
        ("symlinks", "symbolic link", "symbolic links"),
        ("hard_links", "hard link", "hard links"),
        ("specials", "device or pipe", "devices and pipes"),
    ] {
        let count = number(result, key);
        if count > 0 {
            parts.push(amount(count, one, many));
        }
    }
    let mut lines = vec![format!("{} copied.", parts.join(", "))];
    let failed = number(result, "failed");
    if failed > 0 {
        lines.push(format!("{} NOT copied:", amount(failed, "file was", "files were")));
        let shown = items("failures").iter().take(FAILURES_SHOWN);
        lines.extend(shown.map(|failure| format!("{}: {}", text(failure, "path"), text(failure, "reason"))));
        if failed > FAILURES_SHOWN as u64 {
            lines.push(format!("and {} more, which the report has.", failed - FAILURES_SHOWN as u64));
        }
    }
    for lost in items("not_kept") {
        let reason = Some(text(lost, "reason")).filter(|reason| !reason.is_empty());
        let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        lines.push(format!(
            "Not kept: {}, of {}{reason}.",
            text(lost, "what"),
            amount(number(lost, "count"), "file", "files")
        ));
    }
    lines
}

fn amount(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn advice(kind: Kind, exit_code: Option<u8>, ended_well: bool) -> Vec<&'static str> {
    match (kind, exit_code, ended_well) {
        (Kind::Capture, Some(10), _) => vec![
            "The image is usable; what could not be read is zeros in it. \"Look at images\" says which partitions.",
            "Replace that disk soon, and back it up once more before.",
        ],
        (Kind::Capture, _, true) => vec![
            "The seals of what was stored were checked. \"Verify\" reads all of it back, if you have the time.",
            "Before you pull out the stick: power off, or wait for its light to go out.",
        ],
        (Kind::Capture, ..) => vec![
            "No image was made, but what was stored is kept: the same backup again goes on from there.",
            "If the place is full: free space there, or choose another place.",
        ],
        (Kind::Restore, _, true) => vec![
            "Start the machine without this medium, from the disk that was written.",
            "If it does not start: look in the firmware's setup for the boot order, and whether it starts by BIOS or UEFI, as the machine in the image did.",
        ],
        (Kind::Restore, Some(2 | 3 | 6 | 7 | 9), _) => {
            vec!["Nothing was written: it was refused before. What it says above is to be put right first."]
        }
        (Kind::Restore, ..) => vec![
            "The target is incomplete and will not start. Do not use it as it is.",
            "The same restore again with \"write only what differs\" goes on from there.",
            "If a disk or cable is at fault, the log (l at home) says so.",
        ],
        (Kind::Clone, Some(10), _) => vec!["What could not be read is zeros on the clone. Replace the original soon."],
        (Kind::Clone, _, true) => vec![
            "Unless the clone has new identifiers: take one of the two disks out before a system starts from either.",
            "If it does not start: look in the firmware's setup for the boot order.",
        ],
        (Kind::Clone, Some(2 | 6 | 9), _) => {
            vec!["Nothing was written: it was refused before. What it says above is to be put right first."]
        }
        (Kind::Clone, ..) => vec![
            "The target is incomplete and will not start. Do not use it as it is; cloning again begins anew.",
            "If a disk or cable is at fault, the log (l at home) says so.",
        ],
        (Kind::Copy, _, true) => vec!["Before you pull out a stick: power off, or wait for its light to go out."],
        (Kind::Copy, Some(4), _) => vec![
            "What was copied is whole. What was not is named above, with the reason; another image may have it.",
            "If the image is to blame, \"Verify\" says what is damaged.",
        ],
        (Kind::Copy, Some(2 | 3 | 7), _) => {
            vec!["Nothing was copied: it was refused before. What it says above is to be put right first."]
        }
        (Kind::Copy, ..) => vec![
            "What was copied is whole, but not everything is there. Copying again makes another new directory.",
            "If the place is full: free space there, or choose another place.",
        ],
        (Kind::Verify, _, true) => vec!["Nothing. What is stored is good."],
        (Kind::Verify, Some(4), _) => vec![
            "Take a new backup of the machines named above as soon as you can: it stores again what is damaged.",
            "Check the medium that the repository is on; copy it while it can be read.",
        ],
        (Kind::Verify, ..) => vec!["Verify again when the place of the repository is there."],
    }
}
