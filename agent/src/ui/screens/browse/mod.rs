//! The files of an image: its partitions, their directories, and copies of what is tagged.
//!
//! Must not know: how file systems lie on a disk, how the copy is done.

mod draw;
mod tags;

use std::path::PathBuf;
use std::sync::Arc;

use imager::files::{NodeId, Part, parts};
use imager::units::size;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use self::tags::{Tag, Tags, shortened};
use super::chooser::{Chooser, Chosen, New, Outcome};
use super::moved;
use crate::job::{Job, Kind, Request, Step as JobStep};
use crate::ui::facts::{Image, Looked};
use crate::ui::field::Field;
use crate::ui::files::{File, Files, Led, Listing, Wanted};
use crate::ui::page::{Page, plain};
use crate::ui::state::{Answer, Effect, Effects, Key, KeyHint, Move, Screen, Ticket, World};

/// Directories in each other that can be gone into. More are no tree but damage.
const DEPTH_MAX: usize = 500;
/// Letters of an image's name in that of a copy.
const NAME_CHARS_MAX: usize = 40;

/// The screen.
#[derive(Clone, Debug)]
pub(crate) struct Browse {
    repository: Chosen,
    image: Image,
    parts: Vec<Part>,
    /// What is tagged on each of them.
    tags: Vec<Tags>,
    /// The part that is gone to, or open.
    part: usize,
    opening: Option<Ticket>,
    inside: Option<Inside>,
    /// A part of a name is being typed.
    finding: Option<Field>,
    copying: Option<Copying>,
    problem: Option<String>,
}

/// A file system that is open, and where in it the user is.
#[derive(Clone, Debug)]
struct Inside {
    files: Files,
    /// The directories from the root on.
    way: Vec<Level>,
    listing: Option<Arc<Listing>>,
    waiting: Ticket,
    cursor: usize,
    /// What the names that are shown have in them; nothing for all.
    part: String,
    /// What the cursor is to be at once the directory is read.
    mark: Option<NodeId>,
    /// A link is being followed.
    following: Option<Ticket>,
}

/// A directory that was gone into.
#[derive(Clone, Debug)]
struct Level {
    node: NodeId,
    /// Its path, escaped.
    shown: String,
    /// Its path as an argument; none where no argument leads to it.
    argument: Option<String>,
    /// Where the cursor was in the directory above.
    cursor_above: usize,
    /// Which names were shown there.
    part_above: String,
}

/// A copy that is being prepared.
#[derive(Clone, Debug)]
struct Copying {
    what: Tags,
    step: Step,
}

#[derive(Clone, Debug)]
enum Step {
    /// The place is being chosen.
    Place(Box<Chooser>),
    /// The name of the new directory is sought.
    Naming(Looked, Ticket),
    /// All is known; nothing has happened yet.
    Ready(Looked, PathBuf),
}

impl Inside {
    fn directory(&self) -> NodeId {
        self.way.last().map_or(self.files.root(), |level| level.node)
    }

    /// The path of the directory as an argument and for people; empty at the root.
    fn path(&self) -> (Option<&str>, &str) {
        self.way.last().map_or((Some(""), ""), |level| (level.argument.as_deref(), &level.shown))
    }

    fn entries(&self) -> &[File] {
        self.listing.as_ref().map_or(&[], |listing| &listing.entries)
    }

    fn entry(&self) -> Option<&File> {
        self.entries().get(self.cursor)
    }

    fn list(&mut self, effects: &mut Effects) {
        let (files, directory, part) = (self.files.clone(), self.directory(), self.part.clone());
        self.listing = None;
        self.following = None;
        self.waiting = effects.ask(|ticket| Effect::ListFiles(ticket, files, directory, part));
    }

    /// Shows the names with this in them, or all.
    fn find(&mut self, part: String, effects: &mut Effects) {
        self.mark = self.entry().map(|file| file.node);
        (self.part, self.cursor) = (part, 0);
        self.list(effects);
    }

    /// Into a directory below.
    fn push(&mut self, node: NodeId, name: &str, argument: Option<&str>) {
        let (above, shown) = self.path();
        let argument = above.zip(argument).map(|(above, name)| format!("{above}/{name}"));
        let shown = format!("{shown}/{name}");
        let (cursor_above, part_above) = (self.cursor, std::mem::take(&mut self.part));
        self.way.push(Level { node, shown, argument, cursor_above, part_above });
        self.cursor = 0;
    }

    /// To where a link leads.
    fn go(&mut self, led: &Led, effects: &mut Effects) {
        self.way.truncate(led.kept);
        self.part.clear();
        self.cursor = 0;
        for through in &led.through {
            self.push(through.node, &through.name, through.argument.as_deref());
        }
        self.mark = led.file;
        self.list(effects);
    }

    fn enter(&mut self, effects: &mut Effects) -> Move {
        let Some(file) = self.entry() else { return Move::Stay };
        if file.is_link() {
            let link = file.node;
            let (files, way) = (self.files.clone(), self.way.iter().map(|level| level.node).collect());
            self.following = Some(effects.ask(|ticket| Effect::FollowLink(ticket, files, way, link)));
            return Move::Stay;
        }
        if !file.is_directory() {
            return Move::Tell(draw::details(file));
        }
        if self.way.len() >= DEPTH_MAX {
            return Move::Tell(format!(
                "{} lies more than {DEPTH_MAX} directories deep; here one goes no deeper. Copy the directory with all in it \
                 (c).",
                shortened(&file.name)
            ));
        }
        let file = file.clone();
        self.push(file.node, &file.name, file.argument.as_deref());
        self.list(effects);
        Move::Stay
    }

    /// To the directory above; false from the root.
    fn leave(&mut self, effects: &mut Effects) -> bool {
        let Some(level) = self.way.pop() else { return false };
        (self.cursor, self.part, self.mark) = (level.cursor_above, level.part_above, Some(level.node));
        self.list(effects);
        true
    }
}

impl Browse {
    /// Begins with the partitions of an image.
    pub(super) fn new(repository: Chosen, image: Image) -> Self {
        let parts = parts(&image.manifest);
        let part = parts.iter().position(Part::has_files).unwrap_or(0);
        let tags = vec![Tags::default(); parts.len()];
        let (opening, inside, finding, copying, problem) = (None, None, None, None, None);
        Self { repository, image, parts, tags, part, opening, inside, finding, copying, problem }
    }

    fn part_name(&self) -> String {
        self.parts.get(self.part).map(|part| part.name(&self.image.manifest)).unwrap_or_default()
    }

    fn key_in_parts(&mut self, key: Key, effects: &mut Effects) -> Move {
        if key != Key::Enter {
            self.part = moved(self.part, self.parts.len(), key);
            return Move::Stay;
        }
        let Some(part) = self.parts.get(self.part) else { return Move::Back };
        if !part.has_files() {
            return Move::Tell(
                "The files of this partition cannot be read from the image: it has none, or a file system that is not \
                 understood. Restore the disk to get at them."
                    .to_owned(),
            );
        }
        self.problem = None;
        let wanted = Wanted {
            repository: self.repository.path.clone(),
            password: self.repository.password.clone(),
            image: self.image.id.clone(),
            disk: part.disk,
            partition: part.partition,
        };
        self.opening = Some(effects.ask(|ticket| Effect::OpenFiles(ticket, wanted)));
        Move::Stay
    }

    fn key_in_directory(&mut self, key: Key, effects: &mut Effects) -> Move {
        let Some((inside, tags)) = self.inside.as_mut().zip(self.tags.get_mut(self.part)) else { return Move::Stay };
        self.problem = None;
        inside.following = None;
        match key {
            Key::Enter | Key::Right => return inside.enter(effects),
            Key::Backspace | Key::Left => {
                if !inside.leave(effects) {
                    self.inside = None;
                }
            }
            Key::Char(' ') => {
                let Some(file) = inside.entry() else { return Move::Stay };
                match Tag::of(file, inside.path()) {
                    Ok((path, _)) if tags.remove(&path) => {}
                    Ok((path, tag)) => {
                        if let Err(why) = tags.add(path, tag) {
                            return Move::Tell(why);
                        }
                    }
                    Err(why) => return Move::Tell(why),
                }
                inside.cursor = (inside.cursor + 1).min(inside.entries().len().saturating_sub(1));
            }
            Key::Char('n') => tags.clear(),
            Key::Char('/') => self.finding = Some(Field::with(&inside.part)),
            Key::Char('c') => {
                let what = if tags.is_empty() {
                    let Some(file) = inside.entry() else {
                        return Move::Tell("There is nothing to copy here. Go to a file or a directory first.".into());
                    };
                    match Tag::of(file, inside.path()) {
                        Ok((path, tag)) => Tags::one(path, tag),
                        Err(why) => return Move::Tell(why),
                    }
                } else {
                    tags.clone()
                };
                let chooser = Chooser::new(New::Irrelevant, effects);
                self.copying = Some(Copying { what, step: Step::Place(Box::new(chooser)) });
            }
            _ => inside.cursor = moved(inside.cursor, inside.entries().len(), key),
        }
        Move::Stay
    }

    fn key_in_finding(&mut self, key: Key, effects: &mut Effects) {
        let (Some(field), Some(inside)) = (&mut self.finding, &mut self.inside) else { return };
        if key != Key::Enter {
            return field.key(key);
        }
        let part = field.text();
        self.finding = None;
        inside.find(part, effects);
    }

    fn key_in_copying(&mut self, key: Key, effects: &mut Effects) -> Move {
        match self.copying.as_mut().map(|copying| &mut copying.step) {
            Some(Step::Place(chooser)) => {
                let outcome = chooser.key(key, effects);
                self.outcome(outcome, effects);
            }
            Some(Step::Ready(..)) if key == Key::Enter => {
                if let Some(job) = self.job() {
                    effects.push(Effect::Send(Request::Start(job)));
                }
                // The job comes to the front by itself; below it, more can be copied.
                self.copying = None;
            }
            _ => {}
        }
        Move::Stay
    }

    fn outcome(&mut self, outcome: Outcome, effects: &mut Effects) {
        match outcome {
            // A repository is never offered here.
            Outcome::Going | Outcome::Chosen(_) => {}
            Outcome::Left => self.copying = None,
            Outcome::Place(looked) => {
                self.problem = None;
                let (root, name) = (looked.root.clone(), self.copy_name());
                if let Some(copying) = &mut self.copying {
                    let ticket = effects.ask(|ticket| Effect::NameCopy(ticket, root, name));
                    copying.step = Step::Naming(looked, ticket);
                }
            }
        }
    }

    /// The image's name and date, as every file system takes them.
    fn copy_name(&self) -> String {
        let name = self.image.manifest.name.clone().unwrap_or_else(|| format!("image-{}", self.image.short_id()));
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
        let name: String = name.chars().map(plain).take(NAME_CHARS_MAX).collect();
        let name = name.trim_matches(['.', '-']);
        let name = if name.is_empty() { "image" } else { name };
        format!("{name}-{}", self.image.manifest.created.strftime("%Y-%m-%d"))
    }

    fn job(&self) -> Option<Job> {
        let Some(Copying { what, step: Step::Ready(looked, target) }) = &self.copying else { return None };
        let (id, part) = (&self.image.id, self.part_name());
        let mut arguments = self.repository.arguments();
        arguments.extend(["cp", "-r", "--make-directory", "--"].map(str::to_owned));
        arguments.extend(what.paths().map(|path| format!("{id}:{part}{path}")));
        arguments.push(target.display().to_string());
        let says = format!("copy {} of {part} of {}", what.words(), self.image.name());
        Some(Job {
            title: format!("Copy files of {} to {}", self.image.name(), target.display()),
            kind: Kind::Copy,
            steps: vec![JobStep { says, arguments }],
            password: self.repository.password.clone(),
            report: Some(looked.root.clone()),
            then: None,
        })
    }
}

impl Screen for Browse {
    fn title(&self, _world: &World) -> String {
        let image = self.image.name();
        match (&self.copying, &self.inside) {
            (Some(Copying { step: Step::Place(chooser), .. }), _) => format!("copy files: {}", chooser.title()),
            (Some(_), _) => "copy files: is this right?".to_owned(),
            (None, Some(inside)) => {
                let path = Some(inside.path().1).filter(|path| !path.is_empty()).unwrap_or("/");
                format!("{image}, {}: {path}", self.part_name())
            }
            (None, None) => format!("{image}: which partition"),
        }
    }

    fn keys(&self, _world: &World) -> Vec<KeyHint> {
        match (&self.copying, &self.inside) {
            (Some(Copying { step: Step::Place(chooser), .. }), _) => chooser.keys(),
            (Some(Copying { step: Step::Ready(..), .. }), _) => vec![("Enter", "start the copy")],
            (Some(_), _) => Vec::new(),
            (None, Some(_)) if self.finding.is_some() => vec![("Enter", "show names with this in them")],
            (None, Some(_)) => vec![
                ("Enter", "open"),
                ("Bksp", "up"),
                ("Space", "tag"),
                ("c", "copy"),
                ("/", "find"),
                ("n", "tag none"),
            ],
            (None, None) if self.opening.is_some() => Vec::new(),
            (None, None) => vec![("Enter", "its files"), ("↑↓", "choose")],
        }
    }

    fn help(&self) -> &'static str {
        "Files of an image\n\
        The files as they were when the image was taken. Nothing can be changed in the image; copies go to a disk or a \
        stick.\n\n\
        Enter: into a directory; of a link, to where it leads; of a file, all that is known\n\
        Backspace: to the directory above, as Esc\n\
        /: only the names with some text in them; Esc shows all again\n\
        Space: tag or untag; tags stay while you go elsewhere\n\
        c: copy what is tagged; with no tags, what is marked\n\
        n: take all tags off\n\n\
        Copies\n\
        They go into a new directory that is called as the image and its date. Directories are copied with all in them, \
        with owners, modes and times where the place can keep them: FAT and exFAT cannot. Links are copied as links.\n\n\
        Names\n\
        Letters that a terminal might obey are shown as \\x1b and the like. Times are in UTC. Where a partition's files \
        cannot be read, restoring the disk is the way to them."
    }

    fn is_moving(&self) -> bool {
        let is_listing =
            self.inside.as_ref().is_some_and(|inside| inside.listing.is_none() || inside.following.is_some());
        match self.copying.as_ref().map(|copying| &copying.step) {
            Some(Step::Place(chooser)) => chooser.is_moving(),
            Some(Step::Naming(..)) => true,
            Some(Step::Ready(..)) => false,
            None => self.opening.is_some() || is_listing,
        }
    }

    fn is_typing(&self) -> bool {
        match &self.copying {
            Some(Copying { step: Step::Place(chooser), .. }) => chooser.is_typing(),
            Some(_) => false,
            None => self.finding.is_some(),
        }
    }

    fn key(&mut self, key: Key, world: &World, effects: &mut Effects) -> Move {
        match (&self.copying, &self.inside, self.opening) {
            (Some(_), ..) if key == Key::Backspace && !self.is_typing() => self.back(world, effects),
            (Some(_), ..) => self.key_in_copying(key, effects),
            (None, ..) if self.finding.is_some() => {
                self.key_in_finding(key, effects);
                Move::Stay
            }
            (None, Some(_), _) => self.key_in_directory(key, effects),
            (None, None, _) if key == Key::Backspace => self.back(world, effects),
            (None, None, Some(_)) => Move::Stay,
            (None, None, None) => self.key_in_parts(key, effects),
        }
    }

    fn back(&mut self, _world: &World, effects: &mut Effects) -> Move {
        self.problem = None;
        match self.copying.as_mut().map(|copying| &mut copying.step) {
            Some(Step::Place(chooser)) => {
                let outcome = chooser.back();
                self.outcome(outcome, effects);
                return Move::Stay;
            }
            Some(step) => {
                *step = Step::Place(Box::new(Chooser::new(New::Irrelevant, effects)));
                return Move::Stay;
            }
            None => {}
        }
        if self.finding.take().is_some() {
            return Move::Stay;
        }
        if let Some(inside) = &mut self.inside {
            if !inside.part.is_empty() {
                inside.find(String::new(), effects);
                return Move::Stay;
            }
            if !inside.leave(effects) {
                self.inside = None;
            }
            return Move::Stay;
        }
        if self.opening.take().is_some() { Move::Stay } else { Move::Back }
    }

    fn answer(&mut self, answer: &Answer, _world: &World, effects: &mut Effects) {
        match answer {
            Answer::FilesOpened(ticket, opened) if self.opening == Some(*ticket) => {
                self.opening = None;
                match opened {
                    Ok(files) => {
                        let mut inside = Inside {
                            files: files.clone(),
                            way: Vec::new(),
                            listing: None,
                            waiting: 0,
                            cursor: 0,
                            part: String::new(),
                            mark: None,
                            following: None,
                        };
                        inside.list(effects);
                        self.inside = Some(inside);
                    }
                    Err(why) => self.problem = Some(plain(why)),
                }
            }
            Answer::Listed(ticket, listing) => {
                if let Some(inside) = self.inside.as_mut().filter(|inside| inside.waiting == *ticket) {
                    let marked = inside.mark.take();
                    let marked = marked.and_then(|mark| listing.entries.iter().position(|file| file.node == mark));
                    inside.cursor = marked.unwrap_or(inside.cursor).min(listing.entries.len().saturating_sub(1));
                    inside.listing = Some(Arc::clone(listing));
                }
            }
            Answer::Followed(ticket, led) => {
                let is_meant = |inside: &&mut Inside| inside.following == Some(*ticket);
                let Some(inside) = self.inside.as_mut().filter(is_meant) else { return };
                inside.following = None;
                match led {
                    Ok(led) if led.kept + led.through.len() > DEPTH_MAX => {
                        self.problem = Some(format!("It leads more than {DEPTH_MAX} directories deep."));
                    }
                    Ok(led) => inside.go(led, effects),
                    Err(why) => {
                        let name = inside.entry().map(|file| shortened(&file.name)).unwrap_or_default();
                        self.problem = Some(plain(&format!("The link {name} cannot be followed. {why}")));
                    }
                }
            }
            Answer::CopyNamed(ticket, named) => {
                if let Some(Copying { step, .. }) = &mut self.copying
                    && let Step::Naming(looked, wanted) = step
                    && wanted == ticket
                {
                    *step = match named {
                        Ok(path) => Step::Ready(looked.clone(), path.clone()),
                        Err(why) => {
                            self.problem = Some(plain(why));
                            Step::Place(Box::new(Chooser::new(New::Irrelevant, effects)))
                        }
                    };
                }
            }
            _ => {
                if let Some(Copying { step: Step::Place(chooser), .. }) = &mut self.copying {
                    let outcome = chooser.answer(answer, effects);
                    if matches!(outcome, Outcome::Place(_)) {
                        self.outcome(outcome, effects);
                    }
                }
            }
        }
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let mut page = Page::new(world.theme, area.width);
        draw::draw(self, &mut page, world, usize::from(area.height));
        page.draw(0, area, buffer);
    }
}

/// "35.0 GiB free"; nothing where nobody knows.
fn free_words(looked: &Looked) -> String {
    looked.free.map_or_else(String::new, |free| format!(", {} free", size(free)))
}
