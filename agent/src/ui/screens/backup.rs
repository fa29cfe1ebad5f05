//! Back up: which disks, where to, under which name; then a summary, and go.

use std::collections::BTreeSet;
use std::path::PathBuf;

use imager::units::size;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::chooser::{Chooser, Chosen, New, Outcome};
use super::{moved, release};
use crate::job::{Job, Kind, Request, Step as JobStep};
use crate::ui::disk_map::{self, Detail};
use crate::ui::facts::{Content, Disk};
use crate::ui::field::Field;
use crate::ui::page::{Here, Page, count, fit, fit_right, plain};
use crate::ui::state::{Answer, Effect, Effects, Key, KeyHint, Move, Screen, World};
use crate::ui::theme::Role;

/// Where the preparation is.
#[derive(Clone, Debug)]
enum Step {
    Disks,
    Repository,
    Name,
    Summary,
}

/// The screen.
#[derive(Clone, Debug)]
pub(crate) struct Backup {
    step: Step,
    marked: BTreeSet<PathBuf>,
    cursor: usize,
    chooser: Option<Chooser>,
    chosen: Option<Chosen>,
    name: Field,
    note: Field,
}

impl Backup {
    /// Begins with all disks marked that are part of this machine.
    pub(crate) fn new(world: &World, _effects: &mut Effects) -> Self {
        let built_in = world.disks().iter().filter(|disk| disk.is_built_in() && disk.writers.is_empty());
        let marked = built_in.map(|disk| disk.identity.path.clone()).collect();
        let name = world.machine.as_ref().and_then(|machine| {
            // On its own medium the host name is the medium's.
            let hostname = machine.hostname.clone().filter(|name| name != "lifeboat" && name != "localhost");
            hostname.or_else(|| machine.serial.clone()).or_else(|| machine.product.clone())
        });
        Self {
            step: Step::Disks,
            marked,
            cursor: 0,
            chooser: None,
            chosen: None,
            name: Field::with(name.as_deref().unwrap_or_default()),
            note: Field::default(),
        }
    }

    fn key_in_disks(&mut self, key: Key, world: &World, effects: &mut Effects) -> Move {
        let disks = world.disks();
        match key {
            Key::Char(' ') => {
                let Some(disk) = disks.get(self.cursor) else { return Move::Stay };
                if let (Some(_), Some(question)) = (disk.writers.first(), release(disk)) {
                    return Move::Ask(Box::new(question));
                }
                if let Some(writer) = disk.writers.first() {
                    return Move::Tell(refusal(disk, writer));
                }
                let path = &disk.identity.path;
                if !self.marked.remove(path) {
                    self.marked.insert(path.clone());
                }
            }
            Key::Char('a') => {
                let usable = disks.iter().filter(|disk| disk.writers.is_empty());
                let all: BTreeSet<PathBuf> = usable.map(|disk| disk.identity.path.clone()).collect();
                self.marked = if self.marked == all { BTreeSet::new() } else { all };
            }
            Key::Enter => {
                // Gone, or in use, since they were marked.
                let usable: BTreeSet<PathBuf> = world
                    .disks_at(&self.marked)
                    .filter(|disk| disk.writers.is_empty())
                    .map(|disk| disk.identity.path.clone())
                    .collect();
                self.marked = usable;
                if self.marked.is_empty() {
                    return Move::Tell(
                        "No disk is marked. Go to a disk with the arrow keys and mark it with the space bar.".into(),
                    );
                }
                let words = |disk: &Disk| (disk.identity.path.clone(), disk.words());
                let avoid = world.disks_at(&self.marked).map(words).collect();
                self.chooser = Some(Chooser::new(New::Offered, effects).avoiding(avoid));
                self.step = Step::Repository;
            }
            _ => self.cursor = moved(self.cursor, disks.len(), key),
        }
        Move::Stay
    }

    fn outcome(&mut self, outcome: Outcome) -> Move {
        match outcome {
            // Who wants a repository never gets a place alone.
            Outcome::Going | Outcome::Place(_) => {}
            Outcome::Left => {
                self.step = Step::Disks;
                self.cursor = 0;
            }
            Outcome::Chosen(chosen) => {
                self.chosen = Some(*chosen);
                self.cursor = 0;
                self.step = Step::Name;
            }
        }
        Move::Stay
    }

    fn key_in_name(&mut self, key: Key) -> Move {
        match key {
            Key::Enter if self.cursor == 1 => {
                if self.name.text().trim() == "latest" {
                    self.cursor = 0;
                    return Move::Tell(
                        "\"latest\" always means the newest image. Choose another name, or none.".into(),
                    );
                }
                self.step = Step::Summary;
                self.cursor = 0;
            }
            Key::Enter => self.cursor = 1,
            Key::Up | Key::Down | Key::Tab | Key::BackTab => self.cursor = moved(self.cursor, 2, key),
            _ if self.cursor == 0 => self.name.key(key),
            _ => self.note.key(key),
        }
        Move::Stay
    }

    fn job(&self, world: &World) -> Option<Job> {
        let chosen = self.chosen.as_ref()?;
        let paths: Vec<String> =
            world.disks_at(&self.marked).map(|disk| disk.identity.path.display().to_string()).collect();
        let mut steps = Vec::new();
        if chosen.is_new {
            let mut arguments = vec!["init".to_owned(), chosen.path.display().to_string()];
            if chosen.password.is_none() {
                arguments.push("--no-password".to_owned());
            }
            steps.push(JobStep { says: "make the repository".to_owned(), arguments });
        }
        let mut arguments = chosen.arguments();
        arguments.push("capture".to_owned());
        arguments.extend(paths.iter().cloned());
        for (option, field) in [("--name", &self.name), ("--note", &self.note)] {
            let text = field.text();
            if !text.trim().is_empty() {
                arguments.push(format!("{option}={}", text.trim()));
            }
        }
        steps.push(JobStep { says: format!("back up {}", paths.join(", ")), arguments });
        Some(Job {
            title: format!("Back up {} to {}", count(paths.len(), "disk"), chosen.path.display()),
            kind: Kind::Capture,
            steps,
            password: chosen.password.clone(),
            report: chosen.report(),
            then: None,
        })
    }
}

fn refusal(disk: &Disk, writer: &str) -> String {
    format!(
        "{} cannot be backed up now: {}. An image of it would mix old and new. Unmount it (from the shell, say), then \
        press F5 and try again.",
        disk.words(),
        plain(writer)
    )
}

impl Screen for Backup {
    fn title(&self, _world: &World) -> String {
        match (&self.step, &self.chooser) {
            (Step::Disks, _) => "back up: which disks".to_owned(),
            (Step::Repository, Some(chooser)) => format!("back up: {}", chooser.title()),
            (Step::Repository, None) => "back up".to_owned(),
            (Step::Name, _) => "back up: a name".to_owned(),
            (Step::Summary, _) => "back up: is this right?".to_owned(),
        }
    }

    fn keys(&self, _world: &World) -> Vec<KeyHint> {
        match (&self.step, &self.chooser) {
            (Step::Disks, _) => vec![("Enter", "go on"), ("Space", "mark"), ("a", "all or none"), ("↑↓", "choose")],
            (Step::Repository, Some(chooser)) => chooser.keys(),
            (Step::Repository, None) => Vec::new(),
            (Step::Name, _) => vec![("Enter", "next"), ("↑↓", "other field")],
            (Step::Summary, _) => vec![("Enter", "start the backup")],
        }
    }

    fn help(&self) -> &'static str {
        "Back up\n\
        Four steps: which disks, where to, a name, a last look. Nothing happens before the last Enter, and a backup \
        never writes to the disks that it reads.\n\n\
        Which disks\n\
        All disks of a machine belong into one image, so that it can be brought back as a whole. Those in the machine are \
        marked; sticks and USB disks are not.\n\n\
        Where to\n\
        To a partition or stick with a file system, or to any directory. A repository holds images of any number of \
        machines; what they have in common is stored once, so one for all is better than one for each.\n\n\
        What is read\n\
        Of file systems that are understood only what is in use, of others everything. What the repository has already \
        is not stored again: a second backup of the same machine adds little."
    }

    fn is_moving(&self) -> bool {
        matches!(self.step, Step::Repository) && self.chooser.as_ref().is_some_and(Chooser::is_moving)
    }

    fn is_typing(&self) -> bool {
        match self.step {
            Step::Name => true,
            Step::Repository => self.chooser.as_ref().is_some_and(Chooser::is_typing),
            Step::Disks | Step::Summary => false,
        }
    }

    fn key(&mut self, key: Key, world: &World, effects: &mut Effects) -> Move {
        match self.step {
            Step::Disks => self.key_in_disks(key, world, effects),
            Step::Repository => {
                let outcome = self.chooser.as_mut().map_or(Outcome::Left, |chooser| chooser.key(key, effects));
                self.outcome(outcome)
            }
            Step::Name => self.key_in_name(key),
            Step::Summary if key == Key::Enter => match self.job(world) {
                Some(job) => {
                    effects.push(Effect::Send(Request::Start(job)));
                    Move::Home
                }
                None => Move::Home,
            },
            Step::Summary => {
                self.cursor = moved(self.cursor, 100, key);
                Move::Stay
            }
        }
    }

    fn back(&mut self, _world: &World, _effects: &mut Effects) -> Move {
        self.cursor = 0;
        match self.step {
            Step::Disks => return Move::Back,
            Step::Repository => {
                let outcome = self.chooser.as_mut().map_or(Outcome::Left, Chooser::back);
                return self.outcome(outcome);
            }
            Step::Name => self.step = if self.chooser.is_some() { Step::Repository } else { Step::Disks },
            Step::Summary => self.step = Step::Name,
        }
        Move::Stay
    }

    fn answer(&mut self, answer: &Answer, world: &World, effects: &mut Effects) {
        let outcome = self.chooser.as_mut().map(|chooser| chooser.answer(answer, effects));
        if let Some(outcome @ Outcome::Chosen(_)) = outcome {
            self.outcome(outcome);
        }
        self.cursor = self.cursor.min(world.disks().len().max(100));
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let mut page = Page::new(world.theme, area.width);
        let mut scroll = 0;
        match (&self.step, &self.chooser, &self.chosen) {
            (Step::Disks, ..) => self.draw_disks(&mut page, world, usize::from(area.height)),
            (Step::Repository, Some(chooser), _) => chooser.draw(&mut page, world),
            (Step::Name, _, Some(chosen)) => self.draw_name(&mut page, world, chosen),
            (Step::Summary, _, Some(chosen)) => {
                scroll = self.cursor;
                self.draw_summary(&mut page, world, chosen, usize::from(area.height));
            }
            _ => page.say(Role::Dim, "Esc leads back."),
        }
        page.draw(scroll, area, buffer);
    }
}

impl Backup {
    fn draw_disks(&self, page: &mut Page, world: &World, height: usize) {
        let disks = world.disks();
        if disks.is_empty() {
            page.say(
                Role::Warning,
                "There are no disks. One that is plugged in appears here by itself; F5 looks again.",
            );
            return;
        }
        let read: u64 = world.disks_at(&self.marked).filter_map(wanted).fold(0, u64::saturating_add);
        let text = format!("{} marked; about {} will be read.", count(self.marked.len(), "disk"), size(read));
        page.say(Role::Text, &text);
        // Bars where there is room for all of them.
        let bars = disks.len() * 4 < height;
        for (number, disk) in disks.iter().enumerate() {
            let from = page.len();
            if bars {
                page.gap();
            }
            let mark = if self.marked.contains(&disk.identity.path) { "[x]" } else { "[ ]" };
            let title = format!("{mark} {}", disk_map::title(disk, page.width().saturating_sub(6)));
            let role = if disk.writers.is_empty() { Role::Text } else { Role::Dim };
            page.choice_in(role, Here::at(self.cursor, number), &title);
            match disk.writers.first() {
                Some(writer) => page.say_after(Role::Dim, "      ", &format!("not now: {}", plain(writer))),
                None if bars => disk_map::content(page, world.theme, &disk.content, Detail::Bar, 6),
                None => {}
            }
            disk_map::trouble(page, disk, 6);
            if self.cursor == number {
                page.keep_in_sight(from);
            }
        }
    }

    fn draw_name(&self, page: &mut Page, world: &World, chosen: &Chosen) {
        page.say(Role::Dim, &chosen.words());
        page.gap();
        page.say(
            Role::Text,
            "How will you know this image again? Both may be empty; the machine and the date are kept in any case.",
        );
        page.gap();
        self.name.draw(page, world.theme, Here::at(self.cursor, 0), "Name", 6);
        self.note.draw(page, world.theme, Here::at(self.cursor, 1), "Note", 6);
        page.gap();
        page.say(Role::Dim, "Several images may have the same name: the name then means the newest.");
    }

    fn draw_summary(&self, page: &mut Page, world: &World, chosen: &Chosen, height: usize) {
        let disks: Vec<&Disk> = world.disks_at(&self.marked).collect();
        let read: u64 = disks.iter().filter_map(|disk| wanted(disk)).fold(0, u64::saturating_add);
        let rows = [
            ("From", format!("{}, about {} to read", count(disks.len(), "disk"), size(read))),
            ("To", chosen.words()),
            ("Writes", estimate(chosen, read)),
            ("Name", Some(self.name.text()).filter(|name| !name.is_empty()).unwrap_or_else(|| "(none)".to_owned())),
            ("Note", Some(self.note.text()).filter(|note| !note.is_empty()).unwrap_or_else(|| "(none)".to_owned())),
        ];
        for (name, value) in rows {
            page.say_after(Role::Text, &fit(name, 8), &plain(&value));
        }
        let free = chosen.free.unwrap_or(u64::MAX);
        if free < read {
            let (role, verdict) = if free < read / 2 {
                (Role::Danger, "is likely to be too small")
            } else {
                (Role::Warning, "may be too small")
            };
            let text = format!(
                "That place {verdict}: {} are free. When it is full, the backup ends without an image; what was stored is \
                kept for the next try.",
                size(free)
            );
            page.say(role, &text);
        }
        page.gap();
        page.choice(Here::Yes, "Start the backup");
        let detail = if height > disks.len() * 10 + 10 { Detail::Table } else { Detail::Bar };
        for disk in disks {
            page.gap();
            page.cut(Role::Heading, &disk_map::title(disk, page.width()));
            disk_map::content(page, world.theme, &disk.content, detail, 0);
            if let (Content::Known(picture), Detail::Bar) = (&disk.content, detail) {
                for part in &picture.parts {
                    for note in &part.notes {
                        let number =
                            part.number.map_or_else(|| "whole disk".to_owned(), |number| format!("partition {number}"));
                        page.say_after(Role::Warning, " ", &format!("{number}: {note}"));
                    }
                }
            }
            if let Some(bytes) = wanted(disk) {
                page.say(Role::Dim, &format!("{} of it will be read", fit_right(&size(bytes), 9)));
            }
        }
    }
}

/// Bytes that an image of the disk reads, once that is known; all of them, where it cannot be.
fn wanted(disk: &Disk) -> Option<u64> {
    match &disk.content {
        Content::Reading => None,
        Content::Failed(_) => Some(disk.identity.size),
        Content::Known(picture) => Some(picture.wanted),
    }
}

/// About how much is written, as far as anybody can say beforehand.
fn estimate(chosen: &Chosen, read: u64) -> String {
    // What compression makes of programs and documents, as a rule.
    let known = if chosen.images.is_empty() { "" } else { ", less what is stored there already" };
    let free = chosen.free.map_or_else(String::new, |free| format!("; {} are free", size(free)));
    format!("about {}, if it compresses as most disks do{known}{free}", size(read / 2))
}
