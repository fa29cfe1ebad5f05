//! Restore: which image, which of its disks goes where; then what will be erased, and the words that allow it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use imager::repo::manifest::DiskImage;
use imager::units::size;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::chooser::{Chooser, Chosen, New, Outcome};
use super::{images, moved, overwrite, release};
use crate::job::{Job, Kind, Request, Step as JobStep};
use crate::ui::disk_map::{self, Detail};
use crate::ui::facts::{Disk, Image, Part, Picture, model_of, names, serial_of};
use crate::ui::field::Field;
use crate::ui::page::{Here, Page, count, plain};
use crate::ui::state::{Answer, Effect, Effects, Key, KeyHint, Move, Screen, World};
use crate::ui::theme::Role;

/// Where the preparation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Repository,
    Image,
    /// Where the disks of the image go.
    Disks,
    /// Where this one goes.
    Target(usize),
    /// The last look.
    Confirm,
}

/// The screen.
#[derive(Clone, Debug)]
pub(crate) struct Restore {
    step: Step,
    chooser: Chooser,
    chosen: Option<Chosen>,
    image: Option<Image>,
    /// Disks of the image, and where they go.
    targets: BTreeMap<usize, PathBuf>,
    /// What was typed for each.
    typed: BTreeMap<usize, Field>,
    read_back: bool,
    changed_only: bool,
    /// Partitions that stay as they are.
    left_out: BTreeSet<u32>,
    cursor: usize,
}

/// Something to go to on the last screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    /// The serial number of the nth disk's target.
    Serial(usize),
    /// A partition of the image.
    Part(u32),
    ReadBack,
    ChangedOnly,
    Start,
}

impl Restore {
    /// Begins with the choice of a repository.
    pub(crate) fn new(effects: &mut Effects) -> Self {
        Self {
            step: Step::Repository,
            chooser: Chooser::new(New::Useless, effects),
            chosen: None,
            image: None,
            targets: BTreeMap::new(),
            typed: BTreeMap::new(),
            read_back: true,
            changed_only: false,
            left_out: BTreeSet::new(),
            cursor: 0,
        }
    }

    fn outcome(&mut self, outcome: Outcome) -> Move {
        let next = outcome.settle(&mut self.chosen);
        if self.chosen.is_some() {
            self.go(Step::Image);
        }
        next
    }

    fn go(&mut self, step: Step) {
        self.step = step;
        self.cursor = 0;
    }

    fn disks(&self) -> &[DiskImage] {
        self.image.as_ref().map_or(&[], |image| &image.manifest.disks)
    }

    /// Begins to choose a target, with the disk marked that was captured, if it is here and free.
    fn choose_target(&mut self, number: usize, world: &World) {
        self.go(Step::Target(number));
        let same = |disk: &Disk| {
            let captured = self.disks().get(number).and_then(|image| image.identity.serial.as_ref());
            captured.is_some() && disk.identity.serial.as_ref() == captured && self.obstacle(number, disk).is_none()
        };
        self.cursor = world.disks().iter().position(same).unwrap_or(0);
    }

    /// Why this disk of the image cannot go there; and what can be done about it.
    fn obstacle(&self, number: usize, disk: &Disk) -> Option<String> {
        let image = self.disks().get(number)?;
        let path = &disk.identity.path;
        let holds_repository = self.chosen.as_ref().is_some_and(|chosen| chosen.disks.contains(path));
        let taken = self.targets.iter().any(|(other, target)| *other != number && target == path);
        if holds_repository {
            Some("it holds the repository; choose another disk, or bring the repository on another one".to_owned())
        } else if let Some(obstacle) = overwrite::obstacle(disk, image.size) {
            Some(obstacle)
        } else if taken {
            Some("another disk of the image goes there already; change that first".to_owned())
        } else {
            None
        }
    }

    fn key_in_image(&mut self, key: Key, world: &World) -> Move {
        let Some(chosen) = &self.chosen else { return Move::Back };
        let sorted = images::in_order(&chosen.images, &world.machine_id);
        match key {
            Key::Enter => match sorted.get(self.cursor) {
                Some(image) => {
                    self.image = Some((*image).clone());
                    self.targets.clear();
                    self.typed.clear();
                    if self.disks().len() == 1 { self.choose_target(0, world) } else { self.go(Step::Disks) }
                }
                None => self.go(Step::Repository),
            },
            _ => self.cursor = moved(self.cursor, sorted.len(), key),
        }
        Move::Stay
    }

    fn key_in_disks(&mut self, key: Key, world: &World) -> Move {
        let disks = self.disks().len();
        match key {
            Key::Enter if self.cursor < disks => self.choose_target(self.cursor, world),
            Key::Enter if self.targets.is_empty() => {
                return Move::Tell(
                    "No disk goes anywhere yet. Go to a disk of the image and press Enter to choose its target.".into(),
                );
            }
            Key::Enter => self.confirm(),
            _ => self.cursor = moved(self.cursor, disks + 1, key),
        }
        Move::Stay
    }

    fn key_in_target(&mut self, number: usize, key: Key, world: &World) -> Move {
        let disks = world.disks();
        match key {
            Key::Enter => {
                let Some(disk) = disks.get(self.cursor) else {
                    // The last line: this disk stays in the image.
                    self.targets.remove(&number);
                    self.after_target(number);
                    return Move::Stay;
                };
                let obstacle = self.obstacle(number, disk);
                if let (Some(_), Some(question)) = (&obstacle, release(disk)) {
                    return Move::Ask(Box::new(question));
                }
                if let Some(obstacle) = obstacle {
                    return Move::Tell(format!("{} cannot be the target: {obstacle}.", disk.words()));
                }
                self.targets.insert(number, disk.identity.path.clone());
                self.after_target(number);
            }
            _ => self.cursor = moved(self.cursor, disks.len() + 1, key),
        }
        Move::Stay
    }

    fn after_target(&mut self, number: usize) {
        match (self.disks().len(), self.targets.contains_key(&number)) {
            (1, true) => self.confirm(),
            (1, false) => self.go(Step::Image),
            _ => {
                self.go(Step::Disks);
                self.cursor = number.saturating_add(1);
            }
        }
    }

    fn confirm(&mut self) {
        self.typed = self.targets.keys().map(|number| (*number, Field::default())).collect();
        self.left_out.clear();
        self.go(Step::Confirm);
    }

    fn items(&self) -> Vec<Item> {
        let serials = self.targets.keys().map(|number| Item::Serial(*number));
        let parts = self.parts().into_iter().filter_map(|part| part.number).map(Item::Part);
        serials.chain(parts).chain([Item::ReadBack, Item::ChangedOnly, Item::Start]).collect()
    }

    /// Partitions that can be left out: those of one disk that goes to one target.
    fn parts(&self) -> Vec<Part> {
        let mut targets = self.targets.keys();
        let (Some(number), None) = (targets.next(), targets.next()) else { return Vec::new() };
        let Some(disk) = self.disks().get(*number) else { return Vec::new() };
        let parts = Picture::of_image(disk).parts.into_iter().filter(|part| part.number.is_some());
        let parts: Vec<Part> = parts.collect();
        if parts.len() > 1 { parts } else { Vec::new() }
    }

    fn toggle_part(&mut self, number: u32) {
        if !self.left_out.remove(&number) {
            self.left_out.insert(number);
        }
    }

    /// The numbers of the partitions that are restored, when it is not the whole disk.
    fn only(&self) -> Option<Vec<String>> {
        let chosen =
            self.parts().into_iter().filter_map(|part| part.number).filter(|number| !self.left_out.contains(number));
        (!self.left_out.is_empty()).then(|| chosen.map(|number| number.to_string()).collect())
    }

    fn item(&self) -> Option<Item> {
        self.items().get(self.cursor).copied()
    }

    fn target<'a>(&self, number: usize, world: &'a World) -> Option<&'a Disk> {
        let path = self.targets.get(&number)?;
        world.disks().iter().find(|disk| &disk.identity.path == path)
    }

    /// Whether what was typed for the nth disk names its target.
    fn is_named(&self, number: usize, world: &World) -> bool {
        let typed = self.typed.get(&number).map(Field::text).unwrap_or_default();
        self.target(number, world).is_some_and(|disk| names(&typed, disk))
    }

    fn key_in_confirm(&mut self, key: Key, world: &World, effects: &mut Effects) -> Move {
        let count = self.items().len();
        match (self.item(), key) {
            (Some(Item::Start), Key::Enter) => return self.start(world, effects),
            (Some(Item::ReadBack), Key::Char(' ') | Key::Enter) => self.read_back = !self.read_back,
            (Some(Item::Part(number)), Key::Char(' ') | Key::Enter) => self.toggle_part(number),
            (Some(Item::ChangedOnly), Key::Char(' ') | Key::Enter) => self.changed_only = !self.changed_only,
            (Some(Item::Serial(number)), Key::Enter) => {
                if !self.is_named(number, world) {
                    return Move::Tell(overwrite::not_named(self.target(number, world)));
                }
                self.cursor = moved(self.cursor, count, Key::Down);
            }
            (_, Key::Up | Key::Down | Key::Tab | Key::BackTab | Key::PageUp | Key::PageDown) => {
                self.cursor = moved(self.cursor, count, key);
            }
            (Some(Item::Serial(number)), _) => {
                if let Some(field) = self.typed.get_mut(&number) {
                    field.key(key);
                }
            }
            _ => {}
        }
        Move::Stay
    }

    fn start(&self, world: &World, effects: &mut Effects) -> Move {
        if self.only().is_some_and(|only| only.is_empty()) {
            return Move::Tell("No partition is marked. Go to one and mark it with the space bar.".to_owned());
        }
        for number in self.targets.keys().copied() {
            if !self.is_named(number, world) {
                return Move::Tell(overwrite::not_named(self.target(number, world)));
            }
            // Things may have changed since it was chosen.
            if let Some((disk, why)) =
                self.target(number, world).and_then(|disk| Some((disk, self.obstacle(number, disk)?)))
            {
                return Move::Tell(format!("{} cannot be the target any more: {why}.", disk.words()));
            }
        }
        if let Some(job) = self.job(world) {
            effects.push(Effect::Send(Request::Start(job)));
        }
        Move::Home
    }

    fn job(&self, world: &World) -> Option<Job> {
        let (chosen, image) = (self.chosen.as_ref()?, self.image.as_ref()?);
        let mut arguments = chosen.arguments();
        arguments.extend(["restore".to_owned(), image.id.clone()]);
        let mut names = Vec::new();
        for (number, path) in &self.targets {
            let disk = self.target(*number, world)?;
            arguments.extend(["--to".to_owned(), format!("disk{number}={}", path.display())]);
            arguments.push(format!("--confirm={}", disk.password()));
            names.push(format!("{} ({})", disk.model(), disk.name()));
        }
        let only = self.only().map(|only| only.join(","));
        arguments.extend(only.iter().map(|only| format!("--only={only}")));
        if self.read_back {
            arguments.push("--verify".to_owned());
        }
        if self.changed_only {
            arguments.push("--changed-only".to_owned());
        }
        let names = names.join(", ");
        let what = only.map_or_else(|| image.name(), |only| format!("partitions {only} of {}", image.name()));
        Some(Job {
            title: format!("Restore {what} to {names}"),
            kind: Kind::Restore,
            steps: vec![JobStep { says: format!("write {what}, taken {} UTC, to {names}", image.when()), arguments }],
            password: chosen.password.clone(),
            report: chosen.report(),
            then: None,
        })
    }
}

impl Screen for Restore {
    fn title(&self, _world: &World) -> String {
        match self.step {
            Step::Repository => format!("restore: {}", self.chooser.title()),
            Step::Image => "restore: which image".to_owned(),
            Step::Disks => "restore: which disks".to_owned(),
            Step::Target(number) if self.disks().len() > 1 => format!("restore: where disk {number} of the image goes"),
            Step::Target(_) => "restore: which disk to overwrite".to_owned(),
            Step::Confirm => "restore: what will be erased".to_owned(),
        }
    }

    fn keys(&self, _world: &World) -> Vec<KeyHint> {
        match (self.step, self.item()) {
            (Step::Repository, _) => self.chooser.keys(),
            (Step::Image | Step::Target(_), _) => vec![("Enter", "take it"), ("↑↓", "choose")],
            (Step::Disks, _) => vec![("Enter", "choose its target, or go on"), ("↑↓", "choose")],
            (Step::Confirm, Some(Item::Start)) => vec![("Enter", "ERASE AND RESTORE"), ("↑↓", "elsewhere")],
            (Step::Confirm, Some(Item::Serial(_))) => vec![("Enter", "next"), ("↑↓", "elsewhere")],
            (Step::Confirm, _) => vec![("Space", "yes or no"), ("↑↓", "elsewhere")],
        }
    }

    fn help(&self) -> &'static str {
        "Restore\n\
        Writes the disks of an image to disks of this machine. Everything on a target is lost. Nothing is written before \
        the very last step, and only after you typed the serial number of each disk that will be overwritten: it is on \
        the disk's label, too.\n\n\
        Which disk\n\
        A target must be at least as large as the disk in the image, must not be in use, and cannot be the disk that the \
        repository is on. If it cannot be chosen, Enter says why.\n\n\
        Read back: after writing, everything is read once more and compared. Takes about as long again.\n\
        Some partitions: unmark those that are to stay as they are, below the serial number.\n\
        Only what differs: the target is read first, and only what differs is written. Right for going back to an older \
        state of the same disk, and for going on with a restore that was cancelled.\n\n\
        If it ends early\n\
        A disk that was written in part does not look like a disk that starts: its first part is written last."
    }

    fn is_moving(&self) -> bool {
        self.step == Step::Repository && self.chooser.is_moving()
    }

    fn is_typing(&self) -> bool {
        match self.step {
            Step::Repository => self.chooser.is_typing(),
            Step::Confirm => matches!(self.item(), Some(Item::Serial(_))),
            _ => false,
        }
    }

    fn key(&mut self, key: Key, world: &World, effects: &mut Effects) -> Move {
        match self.step {
            Step::Repository => {
                let outcome = self.chooser.key(key, effects);
                self.outcome(outcome)
            }
            Step::Image => self.key_in_image(key, world),
            Step::Disks => self.key_in_disks(key, world),
            Step::Target(number) => self.key_in_target(number, key, world),
            Step::Confirm => self.key_in_confirm(key, world, effects),
        }
    }

    fn back(&mut self, _world: &World, _effects: &mut Effects) -> Move {
        let one = self.disks().len() == 1;
        match self.step {
            Step::Repository => {
                let outcome = self.chooser.back();
                return self.outcome(outcome);
            }
            Step::Image => {
                self.chosen = None;
                self.go(Step::Repository);
            }
            Step::Disks => self.go(Step::Image),
            Step::Target(_) if one => self.go(Step::Image),
            Step::Target(_) => self.go(Step::Disks),
            Step::Confirm => {
                self.typed.clear();
                self.go(if one { Step::Target(0) } else { Step::Disks });
            }
        }
        Move::Stay
    }

    fn answer(&mut self, answer: &Answer, _world: &World, effects: &mut Effects) {
        if self.step == Step::Repository
            && let outcome @ Outcome::Chosen(_) = self.chooser.answer(answer, effects)
        {
            self.outcome(outcome);
        }
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let mut page = Page::new(world.theme, area.width);
        match (self.step, &self.chosen) {
            (Step::Repository, _) | (_, None) => self.chooser.draw(&mut page, world),
            (Step::Image, Some(chosen)) => images::draw_list(&mut page, chosen, &world.machine_id, self.cursor),
            (Step::Disks, _) => self.draw_disks(&mut page, world),
            (Step::Target(number), _) => self.draw_targets(&mut page, world, number, usize::from(area.height)),
            (Step::Confirm, _) => self.draw_confirm(&mut page, world),
        }
        page.draw(0, area, buffer);
    }
}

/// A disk of the image in one line.
fn captured_words(number: usize, disk: &DiskImage) -> String {
    format!("Disk {number}: {}, {}, {}", model_of(&disk.identity), serial_of(&disk.identity), size(disk.size))
}

impl Restore {
    fn draw_disks(&self, page: &mut Page, world: &World) {
        page.say(Role::Text, "Which disks of the image go where? Those that go nowhere are left out.");
        for (number, disk) in self.disks().iter().enumerate() {
            page.gap();
            let from = page.len();
            page.choice(Here::at(self.cursor, number), &captured_words(number, disk));
            match self.target(number, world) {
                Some(target) => page.say_after(Role::Danger, "    → ", &format!("overwrites {}", target.words())),
                None => page.say_after(Role::Dim, "    → ", "is left out"),
            }
            if self.cursor == number {
                page.keep_in_sight(from);
            }
        }
        page.gap();
        let text = format!("Go on with {}", count(self.targets.len(), "disk"));
        page.choice(Here::at(self.cursor, self.disks().len()), &text);
    }

    fn draw_targets(&self, page: &mut Page, world: &World, number: usize, height: usize) {
        if let Some(disk) = self.disks().get(number) {
            page.say(Role::Text, &plain(&captured_words(number, disk)));
            disk_map::picture(page, world.theme, &Picture::of_image(disk), Detail::Bar, 0);
        }
        page.gap();
        page.say(Role::Heading, "is to be written to:");
        overwrite::draw_choices(page, world, self.cursor, height, &|disk| self.obstacle(number, disk));
        page.gap();
        let text =
            if self.disks().len() > 1 { "Leave this disk of the image out" } else { "None of these: another image" };
        page.choice(Here::at(self.cursor, world.disks().len()), text);
    }

    fn draw_confirm(&self, page: &mut Page, world: &World) {
        let item = self.item();
        if let Some(image) = &self.image {
            let machine = plain(&image.manifest.machine_words());
            page.say(Role::Text, &format!("{}, taken {} UTC, of {machine}.", image.name(), image.when()));
            let here = world.machine.as_ref().map(|machine| machine.firmware);
            if here.is_some_and(|firmware| firmware != image.manifest.machine.firmware) {
                page.say(
                    Role::Warning,
                    "That machine started by other firmware (BIOS or UEFI) than this one does: it may not start here \
                    until the firmware's setup is changed.",
                );
            }
        }
        for number in self.targets.keys().copied() {
            self.draw_loss(page, world, number);
        }
        page.gap();
        let tick = |on: bool| if on { "[x]" } else { "[ ]" };
        let here = |of: Item| if item == Some(of) { Here::Yes } else { Here::No };
        for part in self.parts() {
            let Some(number) = part.number else { continue };
            let mark = tick(!self.left_out.contains(&number));
            let label = part.label.unwrap_or_default();
            let text = format!("{mark} partition {number}: {}, {} {label}", part.kind, size(part.len));
            page.choice(here(Item::Part(number)), &text);
        }
        page.gap();
        page.choice(
            here(Item::ReadBack),
            &format!("{} read everything back afterwards and compare", tick(self.read_back)),
        );
        page.choice(here(Item::ChangedOnly), &format!("{} write only what differs", tick(self.changed_only)));
        page.gap();
        let ready = self.targets.keys().all(|number| self.is_named(*number, world));
        let role = if ready { Role::Danger } else { Role::Dim };
        let text = if ready { "ERASE AND RESTORE" } else { "Erase and restore (not before the above is typed)" };
        page.choice_in(role, here(Item::Start), text);
    }

    /// What is lost on one target, and the words that allow it.
    fn draw_loss(&self, page: &mut Page, world: &World, number: usize) {
        let theme = world.theme;
        let from = page.len();
        page.gap();
        let (Some(disk), Some(image)) = (self.target(number, world), self.disks().get(number)) else {
            page.say(
                Role::Danger,
                "The disk that was chosen is gone. Esc leads back; plug it in again or choose another.",
            );
            return;
        };
        match self.only() {
            None => page.say(Role::Danger, &format!("EVERYTHING ON THIS DISK WILL BE LOST: {}", disk.words())),
            Some(only) => {
                let text = format!("PARTITIONS {} OF THIS DISK WILL BE LOST: {}", only.join(", "), disk.words());
                page.say(Role::Danger, &text);
            }
        }
        disk_map::trouble(page, disk, 0);
        page.say(Role::Dim, "Now:");
        disk_map::content(page, theme, &disk.content, Detail::Bar, 0);
        if self.only().is_some() {
            page.say(
                Role::Text,
                "Its other partitions stay as they are. It must have the same partitions at the same places as the disk \
                in the image, or none at all: otherwise nothing is written.",
            );
        } else {
            page.say(Role::Danger, &overwrite::loss(disk));
            page.say(Role::Dim, &format!("Afterwards ({}):", captured_words(number, image)));
            let after = Picture { size: disk.identity.size, ..Picture::of_image(image) };
            disk_map::picture(page, theme, &after, Detail::Bar, 0);
        }
        let here = if self.item() == Some(Item::Serial(number)) { Here::Yes } else { Here::No };
        if let Some(field) = self.typed.get(&number) {
            overwrite::draw_serial(page, world, disk, field, here);
        }
        if here == Here::Yes {
            page.keep_in_sight(from);
        }
    }
}
