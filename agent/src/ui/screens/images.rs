//! Look at images: which there are, what is in one, and on to its files.

use imager::units::size;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::browse::Browse;
use super::chooser::{Chooser, Chosen, New, Outcome};
use super::moved;
use crate::ui::disk_map::{self, Detail};
use crate::ui::facts::{Image, Picture, model_of, serial_of};
use crate::ui::page::{Here, Page, count, fit, fit_right, plain};
use crate::ui::state::{Answer, Effects, Key, KeyHint, Move, Screen, World};
use crate::ui::theme::{Role, Theme};

/// The screen.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    chooser: Chooser,
    chosen: Option<Chosen>,
    cursor: usize,
    /// One image is shown, scrolled by so many lines.
    shown: Option<usize>,
}

impl Images {
    /// Begins with the choice of a repository.
    pub(crate) fn new(effects: &mut Effects) -> Self {
        Self { chooser: Chooser::new(New::Useless, effects), chosen: None, cursor: 0, shown: None }
    }

    fn outcome(&mut self, outcome: Outcome) -> Move {
        self.cursor = 0;
        outcome.settle(&mut self.chosen)
    }
}

impl Screen for Images {
    fn title(&self, world: &World) -> String {
        match (&self.chosen, self.shown) {
            (None, _) => format!("images: {}", self.chooser.title()),
            (Some(_), None) => "images".to_owned(),
            (Some(chosen), Some(_)) => in_order(&chosen.images, &world.machine_id)
                .get(self.cursor)
                .map_or_else(|| "image".to_owned(), |image| image.name()),
        }
    }

    fn keys(&self, _world: &World) -> Vec<KeyHint> {
        match (&self.chosen, self.shown) {
            (None, _) => self.chooser.keys(),
            (Some(_), None) => vec![("Enter", "look at it"), ("↑↓", "choose")],
            (Some(_), Some(_)) => vec![("Enter", "its files"), ("↑↓", "scroll"), ("←→", "other images")],
        }
    }

    fn help(&self) -> &'static str {
        "Images\n\
        An image is all of a machine's disks at one moment. Each is complete by itself: none needs another. The list has \
        the machines one after another, each with its newest image first. Nothing can be changed here.\n\n\
        Enter: look at an image, and from there at its files, to copy some of them\n\
        In use: what the image holds.\n\
        Added: what it added to the repository, after what was there already, and compressed.\n\n\
        Dates are in UTC."
    }

    fn is_moving(&self) -> bool {
        self.chosen.is_none() && self.chooser.is_moving()
    }

    fn is_typing(&self) -> bool {
        self.chosen.is_none() && self.chooser.is_typing()
    }

    fn key(&mut self, key: Key, world: &World, effects: &mut Effects) -> Move {
        let Some(chosen) = &self.chosen else {
            let outcome = self.chooser.key(key, effects);
            return self.outcome(outcome);
        };
        let images = chosen.images.len();
        match (&mut self.shown, key) {
            (None, Key::Enter) if images > 0 => self.shown = Some(0),
            (None, Key::Enter) => self.chosen = None,
            (None, _) => self.cursor = moved(self.cursor, images, key),
            (Some(_), Key::Enter) => {
                let image = in_order(&chosen.images, &world.machine_id).get(self.cursor).map(|image| (*image).clone());
                if let Some(image) = image {
                    return Move::Open(Box::new(Browse::new(chosen.clone(), image)));
                }
            }
            (Some(_), Key::Left | Key::Right) => {
                self.cursor = moved(self.cursor, images, if key == Key::Left { Key::Up } else { Key::Down });
                self.shown = Some(0);
            }
            (Some(0), Key::Up) => {}
            (Some(scroll), _) => *scroll = moved(*scroll, 1000, key),
        }
        Move::Stay
    }

    fn back(&mut self, _world: &World, _effects: &mut Effects) -> Move {
        if self.shown.take().is_some() || self.chosen.take().is_some() {
            return Move::Stay;
        }
        let outcome = self.chooser.back();
        self.outcome(outcome)
    }

    fn answer(&mut self, answer: &Answer, _world: &World, effects: &mut Effects) {
        if self.chosen.is_none()
            && let outcome @ Outcome::Chosen(_) = self.chooser.answer(answer, effects)
        {
            self.outcome(outcome);
        }
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let mut page = Page::new(world.theme, area.width);
        match (&self.chosen, self.shown) {
            (None, _) => self.chooser.draw(&mut page, world),
            (Some(chosen), None) => draw_list(&mut page, chosen, &world.machine_id, self.cursor),
            (Some(chosen), Some(_)) => {
                if let Some(image) = in_order(&chosen.images, &world.machine_id).get(self.cursor) {
                    draw_image(&mut page, world.theme, image);
                }
            }
        }
        page.draw(self.shown.unwrap_or(0), area, buffer);
    }
}

/// This machine's images first, then other machines', each machine's newest first.
pub(super) fn in_order<'a>(images: &'a [Image], machine_id: &str) -> Vec<&'a Image> {
    let newest_of = |id: &str| {
        let own = images.iter().filter(|image| image.manifest.machine_id == id);
        own.map(|image| image.manifest.created).max()
    };
    let mut sorted: Vec<_> = images
        .iter()
        .map(|image| {
            let id = image.manifest.machine_id.as_str();
            (id != machine_id, std::cmp::Reverse(newest_of(id)), id, std::cmp::Reverse(image.manifest.created), image)
        })
        .collect();
    sorted.sort_by(|a, b| (a.0, &a.1, a.2, &a.3).cmp(&(b.0, &b.1, b.2, &b.3)));
    sorted.into_iter().map(|(.., image)| image).collect()
}

/// The list, with a heading for each machine.
pub(super) fn draw_list(page: &mut Page, chosen: &Chosen, machine_id: &str, cursor: usize) {
    page.say(Role::Dim, &chosen.words());
    if chosen.damaged > 0 {
        let text = format!("{} more cannot be read: \"Verify\" says what is damaged.", count(chosen.damaged, "image"));
        page.say(Role::Danger, &text);
    }
    if chosen.images.is_empty() {
        page.gap();
        page.say(
            Role::Warning,
            "There are no images in it yet: \"Back up\" makes one. Enter chooses another repository.",
        );
        return;
    }
    let mut machine = None;
    for (number, image) in in_order(&chosen.images, machine_id).into_iter().enumerate() {
        let id = image.manifest.machine_id.as_str();
        let from = page.len();
        if machine != Some(id) {
            machine = Some(id);
            let own = if id == machine_id { " (this machine)" } else { "" };
            page.heading(&format!("{}{own}", plain(&image.manifest.machine_words())));
        }
        let text = line_of(image, page.width().saturating_sub(2));
        page.choice(Here::at(cursor, number), &text);
        if cursor == number {
            page.keep_in_sight(from);
        }
    }
}

/// An image in one line.
pub(super) fn line_of(image: &Image, width: usize) -> String {
    let manifest = &image.manifest;
    let tail = format!(
        "{}  {} in use, {} added",
        count(manifest.disks.len(), "disk"),
        fit_right(&size(image.used()), 9),
        fit_right(&size(manifest.stats.stored), 9)
    );
    let lead = format!("{}  ", image.when());
    let room = width.saturating_sub(lead.len() + tail.len() + 2).max(8);
    format!("{lead}{}  {tail}", fit(&image.name(), room))
}

/// All about one image.
fn draw_image(page: &mut Page, theme: Theme, image: &Image) {
    let manifest = &image.manifest;
    let mut row = |name: &str, value: &str| page.say_after(Role::Text, &fit(name, 9), &plain(value));
    row("Image", &image.id);
    row("Name", manifest.name.as_deref().unwrap_or("(none)"));
    if let Some(note) = &manifest.note {
        row("Note", note);
    }
    row("Taken", &format!("{} UTC, by {}", image.when(), manifest.tool));
    row("Machine", &manifest.machine_words());
    row(
        "Size",
        &format!(
            "{} in use, {} new then, stored as {}",
            size(manifest.stats.read),
            size(manifest.stats.new),
            size(manifest.stats.stored)
        ),
    );
    for (number, disk) in manifest.disks.iter().enumerate() {
        let identity = &disk.identity;
        page.heading(&format!("Disk {number}: {}, {}, {}", model_of(identity), serial_of(identity), size(disk.size)));
        disk_map::picture(page, theme, &Picture::of_image(disk), Detail::Table, 0);
        let lost: u64 = disk.unreadable.iter().map(|extent| extent.len).fold(0, u64::saturating_add);
        if lost > 0 {
            page.say(Role::Danger, &format!("{} could not be read and is zeros in the image:", size(lost)));
            for extent in disk.unreadable.iter().take(20) {
                page.say_after(
                    Role::Text,
                    "  ",
                    &format!(
                        "{} at byte {}, {}",
                        size(extent.len),
                        extent.start,
                        plain(&manifest.place(number, extent.start))
                    ),
                );
            }
            if disk.unreadable.len() > 20 {
                page.say_after(Role::Text, "  ", &format!("and {} more places", disk.unreadable.len() - 20));
            }
        }
    }
}
