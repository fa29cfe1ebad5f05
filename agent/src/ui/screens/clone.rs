//! Clone: one disk onto another, without a repository; what will be erased, and the words that allow it.

use std::path::PathBuf;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::{moved, overwrite, release};
use crate::job::{Job, Kind, Request, Step as JobStep};
use crate::ui::disk_map::{self, Detail};
use crate::ui::facts::{Content, Disk, Picture, names};
use crate::ui::field::Field;
use crate::ui::page::{Here, Page, plain};
use crate::ui::state::{Effect, Effects, Key, KeyHint, Move, Screen, World};
use crate::ui::theme::Role;

/// Where the preparation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Which disk is read.
    Source,
    /// Which disk is overwritten.
    Target,
    /// The last look.
    Confirm,
}

/// Something to go to on the last screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Serial,
    ReadBack,
    NewIds,
    Start,
}

const ITEMS: [Item; 4] = [Item::Serial, Item::ReadBack, Item::NewIds, Item::Start];

/// The screen.
#[derive(Clone, Debug)]
pub(crate) struct Clone {
    step: Step,
    source: Option<PathBuf>,
    target: Option<PathBuf>,
    typed: Field,
    read_back: bool,
    new_ids: bool,
    cursor: usize,
}

impl Clone {
    /// Begins with the choice of the disk to read.
    pub(crate) fn new() -> Self {
        Self {
            step: Step::Source,
            source: None,
            target: None,
            typed: Field::default(),
            read_back: true,
            new_ids: false,
            cursor: 0,
        }
    }

    fn go(&mut self, step: Step) {
        self.step = step;
        self.cursor = 0;
    }

    fn disk<'w>(path: Option<&PathBuf>, world: &'w World) -> Option<&'w Disk> {
        world.disks().iter().find(|disk| Some(&disk.identity.path) == path)
    }

    /// Why this disk cannot be what is chosen now; and what can be done about it.
    fn obstacle(&self, disk: &Disk, world: &World) -> Option<String> {
        if self.step == Step::Source {
            let writer = disk.writers.first();
            return writer.map(|writer| format!("{}, so that the clone would mix old and new", plain(writer)));
        }
        let source = Self::disk(self.source.as_ref(), world);
        if self.source.as_ref() == Some(&disk.identity.path) {
            Some("it is the one that is read; choose another disk".to_owned())
        } else if let Some(obstacle) = overwrite::obstacle(disk, source.map_or(0, |source| source.identity.size)) {
            Some(obstacle)
        } else if source.is_some_and(|source| source.identity.logical_sector != disk.identity.logical_sector) {
            Some("its sectors have another size, so that the partition table would not fit".to_owned())
        } else {
            None
        }
    }

    fn choose(&mut self, key: Key, world: &World) -> Move {
        let disks = world.disks();
        let (Key::Enter, Some(disk)) = (key, disks.get(self.cursor)) else {
            self.cursor = moved(self.cursor, disks.len(), key);
            return Move::Stay;
        };
        let obstacle = self.obstacle(disk, world);
        if let (Some(_), Some(question)) = (&obstacle, release(disk)) {
            return Move::Ask(Box::new(question));
        }
        if let Some(obstacle) = obstacle {
            return Move::Tell(format!("{} cannot be chosen: {obstacle}.", disk.words()));
        }
        let path = Some(disk.identity.path.clone());
        if self.step == Step::Source {
            self.source = path;
            self.go(Step::Target);
        } else {
            self.target = path;
            self.typed = Field::default();
            self.go(Step::Confirm);
        }
        Move::Stay
    }

    fn item(&self) -> Option<Item> {
        ITEMS.get(self.cursor).copied().filter(|_| self.step == Step::Confirm)
    }

    fn is_named(&self, world: &World) -> bool {
        Self::disk(self.target.as_ref(), world).is_some_and(|disk| names(&self.typed.text(), disk))
    }

    fn not_named(&self, world: &World) -> String {
        overwrite::not_named(Self::disk(self.target.as_ref(), world))
    }

    fn confirm(&mut self, key: Key, world: &World, effects: &mut Effects) -> Move {
        match (self.item(), key) {
            (Some(Item::Start), Key::Enter) => return self.start(world, effects),
            (Some(Item::ReadBack), Key::Char(' ') | Key::Enter) => self.read_back = !self.read_back,
            (Some(Item::NewIds), Key::Char(' ') | Key::Enter) => self.new_ids = !self.new_ids,
            (Some(Item::Serial), Key::Enter) if !self.is_named(world) => return Move::Tell(self.not_named(world)),
            (_, Key::Up | Key::Down | Key::Tab | Key::BackTab | Key::PageUp | Key::PageDown) => {
                self.cursor = moved(self.cursor, ITEMS.len(), key);
            }
            (Some(Item::Serial), Key::Enter) => self.cursor = moved(self.cursor, ITEMS.len(), Key::Down),
            (Some(Item::Serial), _) => {
                self.typed.key(key);
            }
            _ => {}
        }
        Move::Stay
    }

    fn start(&self, world: &World, effects: &mut Effects) -> Move {
        if !self.is_named(world) {
            return Move::Tell(self.not_named(world));
        }
        let (Some(source), Some(target)) =
            (Self::disk(self.source.as_ref(), world), Self::disk(self.target.as_ref(), world))
        else {
            return Move::Tell(
                "The disk that is to be read is gone. Plug it in again, or choose another (Esc).".into(),
            );
        };
        // Things may have changed since it was chosen.
        if let Some(why) = self.obstacle(target, world) {
            return Move::Tell(format!("{} cannot be the target any more: {why}.", target.words()));
        }
        effects.push(Effect::Send(Request::Start(self.job(source, target))));
        Move::Home
    }

    fn job(&self, source: &Disk, target: &Disk) -> Job {
        let path = |disk: &Disk| disk.identity.path.display().to_string();
        let mut arguments = vec!["copy".to_owned(), path(source), "--to".to_owned(), path(target)];
        arguments.push(format!("--confirm={}", target.password()));
        arguments.extend(self.read_back.then(|| "--verify".to_owned()));
        arguments.extend(self.new_ids.then(|| "--new-ids".to_owned()));
        let named = |disk: &Disk| format!("{} ({})", disk.model(), disk.name());
        let what = format!("{} onto {}", named(source), named(target));
        Job {
            title: format!("Clone {what}"),
            kind: Kind::Clone,
            steps: vec![JobStep { says: format!("copy {what}"), arguments }],
            password: None,
            report: None,
            then: None,
        }
    }
}

impl Screen for Clone {
    fn title(&self, _world: &World) -> String {
        match self.step {
            Step::Source => "clone: which disk to read",
            Step::Target => "clone: which disk to overwrite",
            Step::Confirm => "clone: what will be erased",
        }
        .to_owned()
    }

    fn keys(&self, _world: &World) -> Vec<KeyHint> {
        match self.item() {
            None => vec![("Enter", "take it"), ("↑↓", "choose")],
            Some(Item::Start) => vec![("Enter", "ERASE AND CLONE"), ("↑↓", "elsewhere")],
            Some(Item::Serial) => vec![("Enter", "next"), ("↑↓", "elsewhere")],
            Some(_) => vec![("Space", "yes or no"), ("↑↓", "elsewhere")],
        }
    }

    fn help(&self) -> &'static str {
        "Clone\n\
        Copies one disk of this machine onto another that is at least as large, without a repository between them. Only \
        what is in use is read; the partition table is fitted to the larger disk.\n\n\
        Nothing is overwritten before you have typed the serial number of the disk that is to be overwritten, or its last \
        four characters or more. A disk that has none is named by its path.\n\n\
        Read back: after writing, both disks are read once more and compared.\n\
        New identifiers: for a clone that will live beside the original, in the same machine. Boot entries and lines in \
        /etc/fstab that name the old ones must then be changed. A disk that replaces the original keeps them."
    }

    fn is_typing(&self) -> bool {
        self.item() == Some(Item::Serial)
    }

    fn key(&mut self, key: Key, world: &World, effects: &mut Effects) -> Move {
        match self.step {
            Step::Source | Step::Target => self.choose(key, world),
            Step::Confirm => self.confirm(key, world, effects),
        }
    }

    fn back(&mut self, _world: &World, _effects: &mut Effects) -> Move {
        match self.step {
            Step::Source => return Move::Back,
            Step::Target => self.go(Step::Source),
            Step::Confirm => self.go(Step::Target),
        }
        Move::Stay
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let mut page = Page::new(world.theme, area.width);
        match self.step {
            Step::Source | Step::Target => self.draw_disks(&mut page, world, usize::from(area.height)),
            Step::Confirm => self.draw_confirm(&mut page, world),
        }
        page.draw(0, area, buffer);
    }
}

impl Clone {
    fn draw_disks(&self, page: &mut Page, world: &World, height: usize) {
        match Self::disk(self.source.as_ref(), world).filter(|_| self.step == Step::Target) {
            None => page.say(Role::Heading, "Which disk is to be cloned? It is read, and not changed."),
            Some(source) => {
                page.say(Role::Text, &source.words());
                disk_map::content(page, world.theme, &source.content, Detail::Bar, 0);
                page.gap();
                page.say(Role::Heading, "is to be written to:");
            }
        }
        overwrite::draw_choices(page, world, self.cursor, height, &|disk| self.obstacle(disk, world));
    }

    fn draw_confirm(&self, page: &mut Page, world: &World) {
        let (Some(source), Some(target)) =
            (Self::disk(self.source.as_ref(), world), Self::disk(self.target.as_ref(), world))
        else {
            page.say(
                Role::Danger,
                "A disk that was chosen is gone. Esc leads back; plug it in again or choose another.",
            );
            return;
        };
        page.say(Role::Danger, &format!("EVERYTHING ON THIS DISK WILL BE LOST: {}", target.words()));
        disk_map::trouble(page, target, 0);
        page.say(Role::Dim, "Now:");
        disk_map::content(page, world.theme, &target.content, Detail::Bar, 0);
        page.say(Role::Danger, &overwrite::loss(target));
        page.say(Role::Dim, &format!("Afterwards, as {}:", source.words()));
        if let Content::Known(picture) = &source.content {
            let after = Picture { size: target.identity.size, ..picture.clone() };
            disk_map::picture(page, world.theme, &after, Detail::Bar, 0);
        }
        let here = |of: Item| if self.item() == Some(of) { Here::Yes } else { Here::No };
        overwrite::draw_serial(page, world, target, &self.typed, here(Item::Serial));
        let is_named = self.is_named(world);
        let tick = |on: bool| if on { "[x]" } else { "[ ]" };
        page.choice(here(Item::ReadBack), &format!("{} read both back afterwards and compare", tick(self.read_back)));
        page.choice(
            here(Item::NewIds),
            &format!("{} new identifiers, to live beside the original", tick(self.new_ids)),
        );
        page.gap();
        let role = if is_named { Role::Danger } else { Role::Dim };
        let text = if is_named { "ERASE AND CLONE" } else { "Erase and clone (not before the above is typed)" };
        page.choice_in(role, here(Item::Start), text);
    }
}
