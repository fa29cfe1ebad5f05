//! What the user interface knows, what happens to it, and what it asks for.
//!
//! Plain data: nothing here touches the machine.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use imager::disk::health::Health;
use imager::disk::identity::Identity;
use imager::files::NodeId;
use imager::machine::Machine;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::facts::{Card, Disk, Looked, OpenProblem, Opened, Place};
use super::files::{Files, Led, Listing, Wanted};
use super::screens::home::Home;
use super::theme::Theme;
use crate::job::{Power, Request, Status};

/// A key that was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A character.
    Char(char),
    /// With Ctrl held.
    Ctrl(char),
    /// A function key.
    Function(u8),
    /// Enter.
    Enter,
    /// Escape.
    Esc,
    /// Backspace.
    Backspace,
    /// Delete.
    Delete,
    /// Tab.
    Tab,
    /// Tab with Shift held.
    BackTab,
    /// An arrow.
    Up,
    /// An arrow.
    Down,
    /// An arrow.
    Left,
    /// An arrow.
    Right,
    /// To the beginning.
    Home,
    /// To the end.
    End,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A key was pressed.
    Key(Key),
    /// Time went by.
    Tick,
    /// The terminal has another size, or must be drawn anew.
    Resize,
    /// How the job goes; none when there is none.
    Job(Option<Box<Status>>),
    /// The keeper of the job is gone; a new one is sought.
    KeeperLost,
    /// The terminal is gone.
    Hangup,
    /// A disk or a stick came or went.
    DisksChanged,
    /// Something that was asked for cannot be had: why, and what to do.
    Refused(String),
    /// An effect has come to something.
    Answer(Answer),
}

/// Tells the answers to different questions apart.
pub(crate) type Ticket = u64;

/// What an effect has come to.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// This machine, and its id.
    Machine(Box<Machine>, String),
    /// Its disks; what is on them comes later.
    Disks(Result<Vec<Disk>, String>),
    /// What is on one.
    Disk(Box<Disk>),
    /// How well one is.
    Health(Box<(Identity, Health)>),
    /// Its network cards.
    Cards(Vec<Card>),
    /// Where repositories can be.
    Places(Ticket, Result<Vec<Place>, String>),
    /// What is in a place.
    LookedAt(Ticket, Result<Looked, String>),
    /// A repository.
    Opened(Ticket, Result<Opened, OpenProblem>),
    /// The files of an image, or why they cannot be had and what to do.
    FilesOpened(Ticket, Result<Files, String>),
    /// A directory of an image.
    Listed(Ticket, Arc<Listing>),
    /// Where a symbolic link leads, or why nobody can go there.
    Followed(Ticket, Result<Led, String>),
    /// Where a copy of files goes, or why it cannot and what to do.
    CopyNamed(Ticket, Result<PathBuf, String>),
    /// The newest lines of the log.
    Log(Ticket, Result<Vec<String>, String>),
    /// Something was not done: why, and what to do.
    Failed(String),
    /// Where in memory there is no room for files any more.
    Full(Vec<String>),
    /// What came of setting up the network.
    Network(Ticket, Result<String, String>),
}

/// Something that the state machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Answered by [`Answer::Machine`] and [`Answer::Cards`].
    ReadMachine,
    /// Answered by [`Answer::Disks`] and many of [`Answer::Disk`] and [`Answer::Health`].
    ReadDisks,
    /// Answered by [`Answer::Cards`].
    ReadCards,
    /// Answered by [`Answer::Places`].
    ListPlaces(Ticket),
    /// Mounts it, if need be. Answered by [`Answer::LookedAt`].
    LookAt(Ticket, Place),
    /// Answered by [`Answer::Opened`].
    Open(Ticket, PathBuf, Option<String>),
    /// Answered by [`Answer::FilesOpened`].
    OpenFiles(Ticket, Wanted),
    /// The names with a text in them. Answered by [`Answer::Listed`], unless another directory is asked for meanwhile.
    ListFiles(Ticket, Files, NodeId, String),
    /// Where a symbolic link leads that lies in the last of these directories. Answered by [`Answer::Followed`].
    FollowLink(Ticket, Files, Vec<NodeId>, NodeId),
    /// A name for a new directory in a directory. Answered by [`Answer::CopyNamed`].
    NameCopy(Ticket, PathBuf, String),
    /// Answered by [`Answer::Log`].
    ReadLog(Ticket, PathBuf),
    /// Sets up the network: `dhcp`, or `IP/PREFIX,GATEWAY,DNS`. Answered by [`Answer::Network`].
    SetUpNetwork(Ticket, String),
    /// Unmounts what was mounted of a disk as a place for repositories. Answered by [`Answer::Disks`] or
    /// [`Answer::Failed`].
    Release(PathBuf),
    /// To the keeper of the job.
    Send(Request),
    /// Lends the terminal to a shell.
    Shell,
    /// Draws everything anew, also what should be there already.
    Redraw,
    /// Ends this user interface.
    Quit,
}

/// Effects as they are asked for.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    wanted: Vec<Effect>,
    tickets: Ticket,
}

impl Effects {
    /// Asks for an effect.
    pub(super) fn push(&mut self, effect: Effect) {
        self.wanted.push(effect);
    }

    /// Asks for an effect that is answered to the holder of the ticket.
    pub(super) fn ask(&mut self, effect: impl FnOnce(Ticket) -> Effect) -> Ticket {
        self.tickets += 1;
        self.wanted.push(effect(self.tickets));
        self.tickets
    }

    /// What was asked for since the last call.
    pub(super) fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.wanted)
    }
}

/// Where this program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surroundings {
    /// On its own medium: the machine is ours.
    Medium,
    /// On somebody's machine: it is left as it was.
    Guest,
}

/// What all screens share.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// How things look.
    pub theme: Theme,
    /// Where this runs.
    pub surroundings: Surroundings,
    /// This machine, once it is known.
    pub machine: Option<Machine>,
    /// Its id in images.
    pub machine_id: String,
    /// Its disks, once they are known; or why they cannot be.
    pub disks: Option<Result<Vec<Disk>, String>>,
    /// Its network cards.
    pub cards: Vec<Card>,
    /// How the job goes.
    pub job: Option<Status>,
    /// Whether there is somebody to run jobs.
    pub keeper: Keeper,
    /// The log to show.
    pub log: PathBuf,
    /// Where there is no room left in memory.
    pub full: Vec<String>,
    /// Ticks since the beginning, for what moves.
    pub ticks: u64,
}

/// Who runs jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// Nobody was heard of yet.
    Sought,
    /// Somebody is there.
    There,
    /// It was there, and is started anew.
    Lost,
}

impl World {
    /// The disks, as far as they are known.
    pub(super) fn disks(&self) -> &[Disk] {
        match &self.disks {
            Some(Ok(disks)) => disks,
            _ => &[],
        }
    }

    /// The disks at these places.
    pub(super) fn disks_at<'a>(&'a self, paths: &'a BTreeSet<PathBuf>) -> impl Iterator<Item = &'a Disk> {
        self.disks().iter().filter(|disk| paths.contains(&disk.identity.path))
    }

    /// A job that has not ended.
    pub(super) fn running(&self) -> Option<&Status> {
        self.job.as_ref().filter(|job| !matches!(job.state, crate::job::State::Ended { .. }))
    }
}

/// Where a key leads.
pub(super) enum Move {
    /// The screen stays.
    Stay,
    /// Back to the one before.
    Back,
    /// Home.
    Home,
    /// On to another.
    Open(Box<dyn Screen>),
    /// A question first.
    Ask(Box<Question>),
    /// Something that must be read.
    Tell(String),
}

/// A question that has a harmless answer, which is the one that is marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// What is asked.
    pub title: String,
    /// What it means.
    pub text: String,
    /// "Go on", "Keep it".
    pub no: &'static str,
    /// "Cancel the job".
    pub yes: String,
    /// What follows from yes.
    pub effect: Effect,
}

/// A key and what it does, for the bar at the bottom.
pub(super) type KeyHint = (&'static str, &'static str);

/// One screen.
pub(super) trait Screen {
    /// What it is for, in the bar at the top.
    fn title(&self, world: &World) -> String;

    /// What the keys do, the most useful first; Esc and `?` are added.
    fn keys(&self, world: &World) -> Vec<KeyHint>;

    /// What `?` shows: paragraphs.
    fn help(&self) -> &'static str;

    /// Letters are text here, `?` too.
    fn is_typing(&self) -> bool {
        false
    }

    /// This screen shows the job, or its result.
    fn shows_job(&self) -> bool {
        false
    }

    /// A key that is none of those which mean the same everywhere.
    fn key(&mut self, key: Key, world: &World, effects: &mut Effects) -> Move;

    /// Esc: a step back within the screen, or out of it.
    fn back(&mut self, _world: &World, _effects: &mut Effects) -> Move {
        Move::Back
    }

    /// An answer, to this screen or another.
    fn answer(&mut self, _answer: &Answer, _world: &World, _effects: &mut Effects) {}

    /// Time is seen to go by, because there is nothing else to see.
    fn is_moving(&self) -> bool {
        false
    }

    /// Draws it.
    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer);
}

/// Something in front of the screens.
pub(super) enum Dialog {
    /// A question, and whether yes is marked.
    Question(Box<Question>, bool),
    /// Something to be read.
    Notice(String),
    /// Help, scrolled by so many lines.
    Help(&'static str, usize),
}

/// All of it.
pub(crate) struct State {
    pub(super) world: World,
    pub(super) home: Home,
    /// What lies on top of Home.
    pub(super) screens: Vec<Box<dyn Screen>>,
    pub(super) dialog: Option<Dialog>,
    pub(super) effects: Effects,
    /// The job that was last shown by itself.
    pub(super) shown_job: Option<u64>,
}

impl State {
    /// At the beginning; with what is wanted at once.
    pub(crate) fn new(theme: Theme, surroundings: Surroundings, log: PathBuf) -> (Self, Vec<Effect>) {
        let world = World {
            theme,
            surroundings,
            machine: None,
            machine_id: String::new(),
            disks: None,
            cards: Vec::new(),
            job: None,
            keeper: Keeper::Sought,
            log,
            full: Vec::new(),
            ticks: 0,
        };
        let (home, screens, effects) = (Home::default(), Vec::new(), Effects::default());
        let state = Self { world, home, screens, dialog: None, effects, shown_job: None };
        (state, vec![Effect::ReadMachine, Effect::ReadDisks])
    }

    /// Time is seen to go by.
    pub(crate) fn is_moving(&self) -> bool {
        self.front().is_moving()
    }

    /// Where this runs.
    pub(super) fn surroundings(&self) -> Surroundings {
        self.world.surroundings
    }

    /// The screen in front.
    pub(super) fn front(&self) -> &dyn Screen {
        self.screens.last().map_or(&self.home, |screen| &**screen)
    }
}

/// A request to end the machine.
pub(super) fn power(power: Power) -> Effect {
    Effect::Send(Request::Power(power))
}
