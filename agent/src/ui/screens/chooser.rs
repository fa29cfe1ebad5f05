//! Choosing a repository: a place, a repository in it or a new one, its password. Part of the screens that need one.
//!
//! Must not know: what the repository is for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use imager::units::size;

use super::{moved, working};
use crate::ui::facts::{Image, Looked, OpenProblem, Opened, Place};
use crate::ui::field::Field;
use crate::ui::page::{Here, Page, count, fit, fit_right, plain};
use crate::ui::state::{Answer, Effect, Effects, Key, KeyHint, Move, Ticket, World};
use crate::ui::theme::Role;

/// What a new repository is called.
const NEW_NAME: &str = "lifeboat";

/// A repository that was chosen.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    /// Its directory.
    pub path: PathBuf,
    /// It must be made first.
    pub is_new: bool,
    /// Its password.
    pub password: Option<String>,
    /// Bytes that can still be written there.
    pub free: Option<u64>,
    /// The disks that it lies on.
    pub disks: BTreeSet<PathBuf>,
    /// Its images, oldest first.
    pub images: Vec<Image>,
    /// Images in it that cannot be read.
    pub damaged: usize,
}

/// Whether a repository that is not there yet will do, or a place without any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum New {
    /// It will.
    Offered,
    /// There must be images in it.
    Useless,
    /// Nor does one that is there matter: any place is taken, for files.
    Irrelevant,
}

/// Where the choice is.
#[derive(Clone, Debug)]
enum Step {
    /// Places are shown, or looked for.
    Places,
    /// The path of a directory is typed.
    Typing(Field),
    /// The place is being mounted and looked at.
    Looking(Ticket),
    /// Its repositories are shown.
    Repositories(Looked),
    /// The password of a new repository is typed twice.
    NewPassword(Looked, Box<[Field; 2]>),
    /// A repository is being opened.
    Opening(Looked, PathBuf, Option<String>, Ticket),
    /// Its password is typed.
    Password(Looked, PathBuf, Field),
}

/// The choice as far as it was made.
#[derive(Clone, Debug)]
pub(super) struct Chooser {
    new: New,
    step: Step,
    listing: Ticket,
    places: Option<Result<Vec<Place>, String>>,
    cursor: usize,
    problem: Option<String>,
    /// Disks that no repository may be chosen on, and what they are called.
    avoid: BTreeMap<PathBuf, String>,
}

/// What a key came to.
pub(super) enum Outcome {
    /// The choice goes on.
    Going,
    /// It is left.
    Left,
    /// It was made.
    Chosen(Box<Chosen>),
    /// A place for files was chosen.
    Place(Looked),
}

impl Outcome {
    /// Keeps what was chosen, and says where that leads.
    pub(super) fn settle(self, chosen: &mut Option<Chosen>) -> Move {
        match self {
            // Who wants a repository never gets a place alone.
            Self::Going | Self::Place(_) => Move::Stay,
            Self::Left => Move::Back,
            Self::Chosen(made) => {
                *chosen = Some(*made);
                Move::Stay
            }
        }
    }
}

impl Chooser {
    /// Begins by looking for places.
    pub(super) fn new(new: New, effects: &mut Effects) -> Self {
        let listing = effects.ask(Effect::ListPlaces);
        Self { new, step: Step::Places, listing, places: None, cursor: 0, problem: None, avoid: BTreeMap::new() }
    }

    /// Disks that are to be backed up are no place for the backup.
    pub(super) fn avoiding(self, avoid: BTreeMap<PathBuf, String>) -> Self {
        Self { avoid, ..self }
    }

    /// What is asked for, for the bar at the top.
    pub(super) fn title(&self) -> &'static str {
        match self.step {
            Step::Places | Step::Typing(_) | Step::Looking(_) if self.new != New::Useless => "where to",
            Step::Places | Step::Typing(_) | Step::Looking(_) => "where the repository is",
            Step::Repositories(_) => "which repository",
            Step::NewPassword(..) => "a password for the new repository",
            Step::Opening(..) | Step::Password(..) => "the repository's password",
        }
    }

    /// Letters are text.
    pub(super) fn is_typing(&self) -> bool {
        matches!(self.step, Step::Typing(_) | Step::NewPassword(..) | Step::Password(..))
    }

    /// There is nothing to do but wait.
    pub(super) fn is_moving(&self) -> bool {
        matches!(self.step, Step::Looking(_) | Step::Opening(..))
    }

    pub(super) fn keys(&self) -> Vec<KeyHint> {
        match self.step {
            Step::Places => vec![("↑↓", "choose"), ("Enter", "take it"), ("u", "look for sticks again")],
            Step::Repositories(_) => vec![("↑↓", "choose"), ("Enter", "take it")],
            Step::Typing(_) => vec![("Enter", "go on")],
            Step::NewPassword(..) => vec![("Enter", "next"), ("↑↓", "other field"), ("Ctrl-P", "show it")],
            Step::Password(..) => vec![("Enter", "open"), ("Ctrl-P", "show it")],
            Step::Looking(_) | Step::Opening(..) => Vec::new(),
        }
    }

    fn places(&self) -> &[Place] {
        match &self.places {
            Some(Ok(places)) => places,
            _ => &[],
        }
    }

    pub(super) fn key(&mut self, key: Key, effects: &mut Effects) -> Outcome {
        match &mut self.step {
            Step::Places => self.key_in_places(key, effects),
            Step::Typing(field) if key == Key::Enter => {
                let path = PathBuf::from(field.text().trim());
                self.look(Place::Directory(path), effects);
            }
            Step::Typing(field) => field.key(key),
            Step::Repositories(looked) => {
                let looked = looked.clone();
                return self.key_in_repositories(key, looked, effects);
            }
            Step::NewPassword(looked, fields) => {
                let looked = looked.clone();
                let [first, second] = &mut **fields;
                match key {
                    Key::Enter if self.cursor == 0 && !first.is_empty() => self.cursor = 1,
                    Key::Enter if *first != *second => {
                        self.problem =
                            Some("The two are not the same. Type the password again, in both fields.".into());
                        (*first, *second, self.cursor) = (Field::secret(), Field::secret(), 0);
                    }
                    Key::Enter => {
                        let password = Some(first.text()).filter(|password| !password.is_empty());
                        return Outcome::Chosen(Box::new(new_repository(looked, password)));
                    }
                    Key::Ctrl('p') => {
                        first.toggle();
                        second.toggle();
                    }
                    Key::Up | Key::Down | Key::Tab | Key::BackTab => self.cursor = moved(self.cursor, 2, key),
                    _ if self.cursor == 0 => first.key(key),
                    _ => second.key(key),
                }
            }
            Step::Password(looked, path, field) => match key {
                Key::Enter if !field.is_empty() => {
                    let (looked, path, password) = (looked.clone(), path.clone(), field.text());
                    self.open(looked, path, Some(password), effects);
                }
                Key::Ctrl('p') => field.toggle(),
                _ => field.key(key),
            },
            Step::Looking(_) | Step::Opening(..) => {}
        }
        Outcome::Going
    }

    fn key_in_places(&mut self, key: Key, effects: &mut Effects) {
        let count = self.places().len() + 1;
        match key {
            Key::Enter => match self.places().get(self.cursor).cloned() {
                Some(place) => self.look(place, effects),
                None => self.step = Step::Typing(Field::with("/")),
            },
            Key::Char('u') => {
                self.problem = None;
                self.listing = effects.ask(Effect::ListPlaces);
            }
            _ => self.cursor = moved(self.cursor, count, key),
        }
    }

    fn key_in_repositories(&mut self, key: Key, looked: Looked, effects: &mut Effects) -> Outcome {
        let count = looked.repositories.len() + usize::from(self.new == New::Offered);
        match key {
            Key::Enter => match looked.repositories.get(self.cursor).cloned() {
                Some(path) => self.open(looked, path, None, effects),
                None if self.new == New::Offered => {
                    self.cursor = 0;
                    self.problem = None;
                    self.step = Step::NewPassword(looked, Box::new([Field::secret(), Field::secret()]));
                }
                None => return self.back(),
            },
            _ => self.cursor = moved(self.cursor, count.max(1), key),
        }
        Outcome::Going
    }

    fn look(&mut self, place: Place, effects: &mut Effects) {
        self.problem = None;
        self.step = Step::Looking(effects.ask(|ticket| Effect::LookAt(ticket, place)));
    }

    fn open(&mut self, looked: Looked, path: PathBuf, password: Option<String>, effects: &mut Effects) {
        self.problem = None;
        let ticket = effects.ask(|ticket| Effect::Open(ticket, path.clone(), password.clone()));
        self.step = Step::Opening(looked, path, password, ticket);
    }

    /// A step back.
    pub(super) fn back(&mut self) -> Outcome {
        self.problem = None;
        self.cursor = 0;
        let step = std::mem::replace(&mut self.step, Step::Places);
        match step {
            Step::Places => return Outcome::Left,
            Step::Typing(_) | Step::Looking(_) | Step::Repositories(_) => {}
            Step::NewPassword(looked, _) | Step::Opening(looked, ..) | Step::Password(looked, ..) => {
                self.step = Step::Repositories(looked);
            }
        }
        Outcome::Going
    }

    pub(super) fn answer(&mut self, answer: &Answer, effects: &mut Effects) -> Outcome {
        match (answer, &self.step) {
            (Answer::Places(ticket, places), _) if *ticket == self.listing => {
                self.places = Some(places.clone());
                if matches!(self.step, Step::Places) {
                    self.cursor = self.cursor.min(self.places().len());
                }
            }
            // A disk that came or went may be a place.
            (Answer::Disks(_), Step::Places) => self.listing = effects.ask(Effect::ListPlaces),
            (Answer::LookedAt(ticket, found), Step::Looking(wanted)) if ticket == wanted => match found {
                Ok(looked) if looked.disks.iter().any(|disk| self.avoid.contains_key(disk)) => {
                    let disk = looked.disks.iter().find_map(|disk| self.avoid.get(disk)).cloned().unwrap_or_default();
                    self.problem = Some(format!(
                        "That place lies on {disk}, which is to be backed up itself: the backup would be on the disk that \
                        it is there to replace. Choose a place on another disk, or go back (Esc) and leave that disk out."
                    ));
                    self.step = Step::Places;
                }
                Ok(looked) if self.new == New::Irrelevant => {
                    let looked = looked.clone();
                    self.step = Step::Places;
                    return Outcome::Place(looked);
                }
                Ok(looked) => {
                    self.cursor = 0;
                    self.step = Step::Repositories(looked.clone());
                }
                Err(problem) => {
                    self.problem = Some(problem.clone());
                    self.step = Step::Places;
                }
            },
            (Answer::Opened(ticket, opened), Step::Opening(looked, path, password, wanted)) if ticket == wanted => {
                let (looked, path, password) = (looked.clone(), path.clone(), password.clone());
                return self.opened(opened, looked, path, password);
            }
            _ => {}
        }
        Outcome::Going
    }

    fn opened(
        &mut self,
        opened: &Result<Opened, OpenProblem>,
        looked: Looked,
        path: PathBuf,
        password: Option<String>,
    ) -> Outcome {
        match opened {
            Ok(Opened { images, damaged }) => {
                self.cursor = 0;
                let chosen = Chosen {
                    path,
                    is_new: false,
                    password,
                    free: looked.free,
                    disks: looked.disks.clone(),
                    images: images.clone(),
                    damaged: *damaged,
                };
                self.step = Step::Repositories(looked);
                return Outcome::Chosen(Box::new(chosen));
            }
            Err(OpenProblem::PasswordNeeded) => self.step = Step::Password(looked, path, Field::secret()),
            Err(OpenProblem::WrongPassword) => {
                self.problem = Some(
                    "That is not the password. Try again: is Caps Lock on, is the keyboard what you are used to? Ctrl-P \
                    shows what you type."
                        .into(),
                );
                self.step = Step::Password(looked, path, Field::secret());
            }
            Err(OpenProblem::Other(problem)) => {
                self.problem = Some(problem.clone());
                self.step = Step::Repositories(looked);
            }
        }
        Outcome::Going
    }

    pub(super) fn draw(&self, page: &mut Page, world: &World) {
        let theme = world.theme;
        if let Some(problem) = &self.problem {
            page.say(Role::Danger, &plain(problem));
            page.gap();
        }
        match &self.step {
            Step::Places => self.draw_places(page),
            Step::Typing(field) => {
                page.say(
                    Role::Text,
                    "The path of a directory on this system, such as one that you mounted from the shell.",
                );
                page.gap();
                field.draw(page, theme, Here::Yes, "Directory", 11);
            }
            Step::Looking(_) => page.say(Role::Dim, &working(world, "It is being mounted and looked at")),
            Step::Repositories(looked) => self.draw_repositories(page, looked),
            Step::NewPassword(looked, fields) => {
                let path = new_path(looked);
                page.say(Role::Text, &format!("A new repository will be made: {}", plain(&path.display().to_string())));
                page.gap();
                page.say(
                    Role::Text,
                    "With a password, nobody can read the images without it: not you either, so keep it where this \
                    machine is not. Leave both fields empty for no password.",
                );
                page.gap();
                let [first, second] = &**fields;
                first.draw(page, theme, Here::at(self.cursor, 0), "Password", 12);
                second.draw(page, theme, Here::at(self.cursor, 1), "The same", 12);
                page.gap();
                if first.is_empty() && second.is_empty() {
                    page.say(Role::Warning, "Without a password, whoever has the repository can read these disks.");
                }
            }
            Step::Opening(_, path, ..) => {
                page.say(
                    Role::Dim,
                    &working(world, &format!("{} is being opened", plain(&path.display().to_string()))),
                );
            }
            Step::Password(_, path, field) => {
                page.say(Role::Text, &format!("{} is encrypted.", plain(&path.display().to_string())));
                page.gap();
                field.draw(page, theme, Here::Yes, "Password", 10);
            }
        }
    }

    fn draw_places(&self, page: &mut Page) {
        let question = match self.new {
            New::Offered => "Where is the backup to go? What is chosen is mounted for you.",
            New::Irrelevant => "Where are the copies to go? What is chosen is mounted for you.",
            New::Useless => "Where is the repository? What is chosen is mounted for you.",
        };
        page.say(Role::Text, question);
        page.gap();
        match &self.places {
            None => page.say(Role::Dim, "Places are being looked for ..."),
            Some(Err(error)) => {
                page.say(Role::Danger, &format!("Places cannot be listed: {error}. Press u to try again."))
            }
            Some(Ok(places)) if places.is_empty() => page.say(
                Role::Warning,
                "No partition or stick with a file system was found. Plug one in: it appears by itself.",
            ),
            Some(Ok(_)) => {}
        }
        for (number, place) in self.places().iter().enumerate() {
            let text = place_words(place, page.width().saturating_sub(2));
            page.choice(Here::at(self.cursor, number), &text);
        }
        page.gap();
        page.choice(Here::at(self.cursor, self.places().len()), "Another directory ...");
    }

    fn draw_repositories(&self, page: &mut Page, looked: &Looked) {
        let root = plain(&looked.root.display().to_string());
        let free = looked.free.map_or_else(String::new, |free| format!(", {} free", size(free)));
        page.say(Role::Text, &format!("{root}{free}: {}.", count_repositories(looked.repositories.len())));
        page.gap();
        for (number, path) in looked.repositories.iter().enumerate() {
            page.choice(Here::at(self.cursor, number), &plain(&path.display().to_string()));
        }
        match (self.new, looked.repositories.is_empty()) {
            (New::Offered, _) => {
                let text = format!("A new repository: {}", plain(&new_path(looked).display().to_string()));
                page.gap();
                page.choice(Here::at(self.cursor, looked.repositories.len()), &text);
            }
            (New::Useless | New::Irrelevant, true) => {
                page.say(Role::Warning, "There is nothing to take from here.");
                page.gap();
                page.choice(Here::Yes, "Another place");
            }
            (New::Useless | New::Irrelevant, false) => {}
        }
    }
}

fn count_repositories(number: usize) -> String {
    match number {
        0 => "no repository in it".to_owned(),
        1 => "one repository in it".to_owned(),
        number => format!("{number} repositories in it"),
    }
}

/// A place in one line: device, file system, label, size, disk.
fn place_words(place: &Place, width: usize) -> String {
    match place {
        Place::Directory(path) => fit(&format!("{}  (a directory)", plain(&path.display().to_string())), width),
        Place::Device(place) => {
            let name = place.device.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let label = place.label.as_deref().filter(|label| !label.is_empty()).map(|label| format!("\"{label}\""));
            let disk =
                [place.model.as_deref(), place.serial.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(", ");
            let mounted = place.mounted.as_ref().map_or("", |_| "mounted, ");
            let label = label.unwrap_or_default();
            let (name, kind, size) = (fit(&name, 11), fit(&place.filesystem, 7), fit_right(&size(place.size), 9));
            plain(&format!("{name} {kind} {size}  {} {mounted}on {disk}", fit(&label, 16)))
        }
    }
}

/// Where a new repository goes. One that is there already is not disturbed.
fn new_path(looked: &Looked) -> PathBuf {
    let first = looked.root.join(NEW_NAME);
    let others = (2..1000).map(|number| looked.root.join(format!("{NEW_NAME}-{number}")));
    let mut free = std::iter::once(first.clone()).chain(others).filter(|path| !looked.repositories.contains(path));
    free.next().unwrap_or(first)
}

fn new_repository(looked: Looked, password: Option<String>) -> Chosen {
    let path = new_path(&looked);
    Chosen { path, is_new: true, password, free: looked.free, disks: looked.disks, images: Vec::new(), damaged: 0 }
}

impl Chosen {
    /// Where it is, and what is in it, in words.
    pub(super) fn words(&self) -> String {
        let path = plain(&self.path.display().to_string());
        let lock = if self.password.is_some() { "encrypted" } else { "not encrypted" };
        if self.is_new {
            format!("{path}, new, {lock}")
        } else {
            format!("{path}, {}, {lock}", count(self.images.len(), "image"))
        }
    }

    /// The directory beside it, where reports go.
    pub(super) fn report(&self) -> Option<PathBuf> {
        self.path.parent().map(Path::to_path_buf)
    }

    /// The beginning of the arguments of every step on it.
    pub(super) fn arguments(&self) -> Vec<String> {
        vec!["--repo".to_owned(), self.path.display().to_string()]
    }
}
