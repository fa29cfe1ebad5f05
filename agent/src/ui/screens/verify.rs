//! Verify: which repository, all of it or one image, how thoroughly.

use imager::units::size;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::chooser::{Chooser, Chosen, New, Outcome};
use super::images;
use super::moved;
use crate::job::{Job, Kind, Request, Step as JobStep};
use crate::ui::page::{Here, Page, plain};
use crate::ui::state::{Answer, Effect, Effects, Key, KeyHint, Move, Screen, World};
use crate::ui::theme::Role;

/// The screen.
#[derive(Clone, Debug)]
pub(crate) struct Verify {
    chooser: Chooser,
    chosen: Option<Chosen>,
    cursor: usize,
    /// Read all data, not only the seals.
    all_data: bool,
}

impl Verify {
    /// Begins with the choice of a repository.
    pub(crate) fn new(effects: &mut Effects) -> Self {
        Self { chooser: Chooser::new(New::Useless, effects), chosen: None, cursor: 0, all_data: true }
    }

    fn outcome(&mut self, outcome: Outcome) -> Move {
        self.cursor = 0;
        outcome.settle(&mut self.chosen)
    }

    fn job(&self, chosen: &Chosen) -> Job {
        let mut arguments = chosen.arguments();
        arguments.push("verify".to_owned());
        // The first line means all of it.
        let image = self.cursor.checked_sub(1).and_then(|number| chosen.images.iter().rev().nth(number));
        arguments.extend(image.map(|image| image.id.clone()));
        if self.all_data {
            arguments.push("--read-data".to_owned());
        }
        let what = image.map_or_else(|| chosen.path.display().to_string(), |image| image.name());
        Job {
            title: format!("Verify {what}"),
            kind: Kind::Verify,
            steps: vec![JobStep { says: format!("verify {what}"), arguments }],
            password: chosen.password.clone(),
            report: chosen.report(),
            then: None,
        }
    }
}

impl Screen for Verify {
    fn title(&self, _world: &World) -> String {
        match self.chosen {
            None => format!("verify: {}", self.chooser.title()),
            Some(_) => "verify: what, and how thoroughly".to_owned(),
        }
    }

    fn keys(&self, _world: &World) -> Vec<KeyHint> {
        match self.chosen {
            None => self.chooser.keys(),
            Some(_) => vec![("Enter", "verify"), ("↑↓", "choose"), ("d", "how thoroughly")],
        }
    }

    fn help(&self) -> &'static str {
        "Verify\n\
        Proves that what is stored is good, without writing anything. Damage is reported with the machine, disk and \
        partition that it hurts.\n\n\
        All data: everything is read and checked against its hash. Takes as long as reading the repository does.\n\
        Seals only: everything is there and nothing was exchanged, but the data itself is not read. Takes seconds."
    }

    fn is_moving(&self) -> bool {
        self.chosen.is_none() && self.chooser.is_moving()
    }

    fn is_typing(&self) -> bool {
        self.chosen.is_none() && self.chooser.is_typing()
    }

    fn key(&mut self, key: Key, _world: &World, effects: &mut Effects) -> Move {
        let Some(chosen) = &self.chosen else {
            let outcome = self.chooser.key(key, effects);
            return self.outcome(outcome);
        };
        match key {
            Key::Enter => {
                effects.push(Effect::Send(Request::Start(self.job(chosen))));
                return Move::Home;
            }
            Key::Char('d' | ' ') => self.all_data = !self.all_data,
            _ => self.cursor = moved(self.cursor, chosen.images.len() + 1, key),
        }
        Move::Stay
    }

    fn back(&mut self, _world: &World, _effects: &mut Effects) -> Move {
        if self.chosen.take().is_some() {
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
        match &self.chosen {
            None => self.chooser.draw(&mut page, world),
            Some(chosen) => {
                page.say(Role::Dim, &chosen.words());
                page.gap();
                let mark = |on: bool| if on { "(•)" } else { "( )" };
                let (all, seals) = (mark(self.all_data), mark(!self.all_data));
                page.say_after(
                    Role::Text,
                    &format!("d {all} "),
                    "all data: everything is read and checked; takes as long as reading it",
                );
                page.say_after(
                    Role::Text,
                    &format!("  {seals} "),
                    "seals only: takes seconds, but the data itself is not read",
                );
                page.gap();
                page.choice(Here::at(self.cursor, 0), "The whole repository");
                page.gap();
                for (number, image) in chosen.images.iter().rev().enumerate() {
                    let text = images::line_of(image, page.width().saturating_sub(2));
                    page.choice(Here::at(self.cursor, number + 1), &text);
                }
                if chosen.images.is_empty() {
                    let free = chosen.free.map_or_else(String::new, |free| format!(" {} are free there.", size(free)));
                    page.say(Role::Dim, &plain(&format!("There are no images in it yet.{free}")));
                }
            }
        }
        page.draw(0, area, buffer);
    }
}
