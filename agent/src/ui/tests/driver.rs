//! A user with a machine that answers at once.

use std::sync::Arc;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

use super::fixtures;
use crate::job::{Request, Status};
use crate::ui::draw::draw;
use crate::ui::facts::{Disk, OpenProblem, Opened};
use crate::ui::state::{Answer, Effect, Event, Key, State, Surroundings, Ticket};
use crate::ui::theme::{Glyphs, Palette, Theme};
use crate::ui::update::update;

pub(super) const PASSWORD: &str = "correct horse";

pub(super) struct Driver {
    pub state: State,
    pub disks: Vec<Disk>,
    /// What was sent to the keeper.
    pub sent: Vec<Request>,
    /// What was asked for, but for questions that are answered here.
    pub others: Vec<Effect>,
    /// Questions are left unanswered from now on.
    pub silent: bool,
    pub log: Vec<String>,
}

impl Driver {
    pub(super) fn with(disks: Vec<Disk>) -> Self {
        let theme = Theme { glyphs: Glyphs::Full, palette: Palette::Colour };
        let (state, wanted) = State::new(theme, Surroundings::Medium, "/run/lifeboat/log".into());
        let log = (0..60).map(|line| format!("[ {line:>4}.120000] lifeboat: line {line} of the log")).collect();
        let mut driver = Self { state, disks, sent: Vec::new(), others: Vec::new(), silent: false, log };
        driver.perform(wanted);
        driver.event(Event::Job(None));
        driver
    }

    pub(super) fn new() -> Self {
        Self::with(fixtures::disks())
    }

    pub(super) fn event(&mut self, event: Event) -> &mut Self {
        let wanted = update(&mut self.state, event);
        self.perform(wanted);
        self
    }

    pub(super) fn key(&mut self, key: Key) -> &mut Self {
        self.event(Event::Key(key))
    }

    pub(super) fn keys(&mut self, keys: &[Key]) -> &mut Self {
        for key in keys {
            self.key(*key);
        }
        self
    }

    pub(super) fn type_in(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            self.key(Key::Char(c));
        }
        self
    }

    pub(super) fn job(&mut self, status: Status) -> &mut Self {
        self.event(Event::Job(Some(Box::new(status))))
    }

    fn perform(&mut self, wanted: Vec<Effect>) {
        for effect in wanted {
            let is_question = matches!(
                effect,
                Effect::ListPlaces(_)
                    | Effect::LookAt(..)
                    | Effect::Open(..)
                    | Effect::OpenFiles(..)
                    | Effect::ListFiles(..)
                    | Effect::FollowLink(..)
                    | Effect::NameCopy(..)
            );
            if self.silent && is_question {
                self.others.push(effect);
                continue;
            }
            match effect {
                Effect::ReadMachine => {
                    self.answer(Answer::Machine(Box::new(fixtures::machine()), "uuid this".into()));
                    self.answer(Answer::Cards(fixtures::cards()));
                }
                Effect::ReadCards => ignore(self.answer(Answer::Cards(fixtures::cards()))),
                Effect::ReadDisks => ignore(self.answer(Answer::Disks(Ok(self.disks.clone())))),
                Effect::ListPlaces(ticket) => ignore(self.answer(Answer::Places(ticket, Ok(fixtures::places())))),
                Effect::LookAt(ticket, place) => {
                    ignore(self.answer(Answer::LookedAt(ticket, Ok(fixtures::looked(&place)))))
                }
                Effect::Open(ticket, path, password) => self.open(ticket, path.ends_with("locked"), password),
                Effect::OpenFiles(ticket, wanted) => {
                    let opened = if wanted.partition == Some(1) {
                        Err("It cannot be opened: no such chunk. Check the stick.".into())
                    } else {
                        Ok(fixtures::files())
                    };
                    ignore(self.answer(Answer::FilesOpened(ticket, opened)))
                }
                Effect::ListFiles(ticket, _, node, part) => {
                    ignore(self.answer(Answer::Listed(ticket, Arc::new(fixtures::listing(node, &part)))))
                }
                Effect::FollowLink(ticket, _, _, link) => {
                    ignore(self.answer(Answer::Followed(ticket, fixtures::led(link))))
                }
                Effect::NameCopy(ticket, root, name) => {
                    ignore(self.answer(Answer::CopyNamed(ticket, Ok(root.join(name)))))
                }
                Effect::ReadLog(ticket, _) => ignore(self.answer(Answer::Log(ticket, Ok(self.log.clone())))),
                Effect::SetUpNetwork(ticket, how) => {
                    let said = if how == "dhcp" { Err("no answer".into()) } else { Ok(format!("eno1 has {how}")) };
                    ignore(self.answer(Answer::Network(ticket, said)))
                }
                Effect::Send(request) => self.sent.push(request),
                other => self.others.push(other),
            }
        }
    }

    fn open(&mut self, ticket: Ticket, is_locked: bool, password: Option<String>) {
        let opened = match (is_locked, password.as_deref()) {
            (true, None) => Err(OpenProblem::PasswordNeeded),
            (true, Some(password)) if password != PASSWORD => Err(OpenProblem::WrongPassword),
            (true, _) => Ok(Opened::default()),
            (false, _) => Ok(fixtures::opened()),
        };
        self.answer(Answer::Opened(ticket, opened));
    }

    pub(super) fn answer(&mut self, answer: Answer) -> &mut Self {
        self.event(Event::Answer(answer))
    }

    pub(super) fn picture(&self, width: u16, height: u16) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(&self.state, frame)).unwrap();
        terminal.backend().buffer().clone()
    }

    /// The screen as text.
    pub(super) fn text(&self, width: u16, height: u16) -> String {
        text_of(&self.picture(width, height))
    }

    /// Nothing lies on top of Home.
    pub(super) fn is_home(&self) -> bool {
        self.state.screens.is_empty() && self.state.dialog.is_none()
    }

    pub(super) fn sees(&self, text: &str) -> bool {
        words_of(&self.text(132, 50)).contains(text)
    }
}

/// For the sake of a match.
fn ignore(_driver: &mut Driver) {}

/// Without frames and line ends.
fn words_of(text: &str) -> String {
    text.split(|c: char| c.is_whitespace() || c == '│').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

pub(super) fn text_of(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let rows = buffer.content.chunks(width).map(|row| {
        let text: String = row.iter().map(|cell| cell.symbol()).collect();
        format!("{}\n", text.trim_end())
    });
    rows.collect()
}
