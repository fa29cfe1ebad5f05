//! Home: this machine, its disks, and what can be done.

use imager::machine::{Firmware, Machine};
use imager::units::size;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};

use super::backup::Backup;
use super::clone::Clone as CloneDisk;
use super::images::Images;
use super::log::Log;
use super::moved;
use super::network::Network;
use super::restore::Restore;
use super::verify::Verify;
use crate::job::Power;
use crate::ui::disk_map::{self, Detail};
use crate::ui::facts::Disk;
use crate::ui::page::{Here, Page, count, cut, plain, width_of};
use crate::ui::state::{Effect, Effects, Keeper, Key, KeyHint, Move, Question, Screen, Surroundings, World, power};
use crate::ui::theme::Role;

/// Columns of the menu.
const MENU_COLUMNS: u16 = 23;

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Backup,
    Restore,
    Clone,
    Verify,
    Images,
    Network,
    Log,
    Shell,
    Reboot,
    PowerOff,
    Leave,
}

const ON_THE_MEDIUM: [Action; 10] = [
    Action::Backup,
    Action::Restore,
    Action::Clone,
    Action::Images,
    Action::Verify,
    Action::Network,
    Action::Log,
    Action::Shell,
    Action::Reboot,
    Action::PowerOff,
];
/// The machine is somebody's: it is not for us to turn off.
const AS_A_GUEST: [Action; 9] = [
    Action::Backup,
    Action::Restore,
    Action::Clone,
    Action::Images,
    Action::Verify,
    Action::Network,
    Action::Log,
    Action::Shell,
    Action::Leave,
];

fn actions(world: &World) -> &'static [Action] {
    if world.surroundings == Surroundings::Medium { &ON_THE_MEDIUM } else { &AS_A_GUEST }
}

impl Action {
    /// Its letter, its name, and what it does.
    fn words(self) -> (char, &'static str, &'static str) {
        match self {
            Self::Backup => ('b', "Back up", "Store disks of this machine as an image in a repository."),
            Self::Restore => ('r', "Restore", "Write an image from a repository to disks of this machine."),
            Self::Clone => ('c', "Clone a disk", "Copy one disk of this machine onto another."),
            Self::Images => ('i', "Look at images", "What is in a repository: machines, dates, disks."),
            Self::Verify => ('v', "Verify", "Prove that what is stored can be read back."),
            Self::Network => ('n', "Network", "Addresses of this machine, and asking for one."),
            Self::Log => ('l', "Log", "What this program and the kernel said."),
            Self::Shell => ('s', "Shell", "A command line, for those who know what to type. `exit` comes back."),
            Self::Reboot => ('t', "Restart", "Start this machine again."),
            Self::PowerOff => ('o', "Power off", "Turn this machine off."),
            Self::Leave => ('q', "Leave", "End this program."),
        }
    }
}

/// The screen that everything begins with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Home {
    cursor: usize,
    /// The first disk that is shown.
    first: usize,
}

/// Disks may have gone.
pub(crate) fn keep_in_range(home: &mut Home, world: &World) {
    home.first = home.first.min(world.disks().len().saturating_sub(1));
}

impl Screen for Home {
    fn title(&self, world: &World) -> String {
        match world.surroundings {
            Surroundings::Medium => "this machine".to_owned(),
            Surroundings::Guest => "this machine, as a guest on its system".to_owned(),
        }
    }

    fn keys(&self, world: &World) -> Vec<KeyHint> {
        let mut keys = vec![("↑↓", "choose"), ("Enter", "go")];
        if world.disks().len() > 1 {
            keys.push(("PgDn PgUp", "more disks"));
        }
        keys.push(("F5", "look again"));
        keys
    }

    fn help(&self) -> &'static str {
        "Home\n\
        On the left is what can be done: choose with the arrow keys and Enter, or press the letter in front. On the \
        right are the disks of this machine.\n\n\
        How to read a disk\n\
        Each disk is a bar from its first byte to its last. Its partitions stand side by side, to scale, each filled as \
        far as it is in use; dots are space in no partition. A disk or stick that is plugged in appears by itself.\n\n\
        How well a disk is\n\
        Its own account, where it gives one: SMART, or what stands in its place. A disk that is failing or worn out says so \
        below its name, with what to do. Back such a disk up first. Healthy only means that it knows of nothing.\n\n\
        What happens to this machine\n\
        Nothing, until you say so. Backing up only reads its disks. Restoring overwrites a disk, after you typed that \
        disk's serial number.\n\n\
        b: back up\n\
        r: restore\n\
        i: look at images\n\
        v: verify\n\
        PgDn PgUp: other disks, when they do not all fit"
    }

    fn key(&mut self, key: Key, world: &World, _effects: &mut Effects) -> Move {
        let actions = actions(world);
        match key {
            Key::PageDown => self.first = (self.first + 1).min(world.disks().len().saturating_sub(1)),
            Key::PageUp => self.first = self.first.saturating_sub(1),
            Key::Enter => {
                let action = actions.get(self.cursor).copied();
                return action.map_or(Move::Stay, |action| start(action, world, _effects));
            }
            Key::Char(c) => {
                if let Some(found) = actions.iter().position(|action| action.words().0 == c) {
                    self.cursor = found;
                    return actions.get(found).map_or(Move::Stay, |action| start(*action, world, _effects));
                }
            }
            _ => self.cursor = moved(self.cursor, actions.len(), key),
        }
        Move::Stay
    }

    fn back(&mut self, _world: &World, _effects: &mut Effects) -> Move {
        Move::Stay
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let [top, bottom, last] =
            Layout::vertical([Constraint::Length(3), Constraint::Fill(1), Constraint::Length(1)]).areas(area);
        let mut page = Page::new(world.theme, top.width);
        machine(&mut page, world);
        page.draw(0, top, buffer);
        let [left, right] = Layout::horizontal([Constraint::Length(MENU_COLUMNS), Constraint::Fill(1)]).areas(bottom);
        self.draw_menu(world, left, buffer);
        self.draw_disks(world, right, buffer);
        // What the marked entry does, at the very bottom.
        let description = actions(world).get(self.cursor).map_or("", |action| action.words().2);
        let mut page = Page::new(world.theme, last.width);
        page.line(vec![world.theme.span(Role::Dim, cut(&format!("  {description}"), usize::from(last.width)))]);
        page.draw(0, last, buffer);
    }
}

/// Begins what the user chose.
fn start(action: Action, world: &World, effects: &mut Effects) -> Move {
    let needs_keeper = matches!(action, Action::Backup | Action::Restore | Action::Clone | Action::Verify);
    if needs_keeper && world.keeper != Keeper::There {
        return Move::Tell(
            "What does the work is not there yet, or was just started anew. It should be there in a few seconds: try \
            again then. If this stays, the log (press l) says why."
                .to_owned(),
        );
    }
    if let (true, Some(job)) = (needs_keeper, world.running()) {
        return Move::Tell(format!(
            "Something is being done already: {}. One thing is done at a time. Wait for its end, or press F2 to see it \
            and to cancel it there.",
            job.title
        ));
    }
    match action {
        Action::Backup => Move::Open(Box::new(Backup::new(world, effects))),
        Action::Restore => Move::Open(Box::new(Restore::new(effects))),
        Action::Clone => Move::Open(Box::new(CloneDisk::new())),
        Action::Verify => Move::Open(Box::new(Verify::new(effects))),
        Action::Images => Move::Open(Box::new(Images::new(effects))),
        Action::Network => {
            effects.push(Effect::ReadCards);
            Move::Open(Box::new(Network::default()))
        }
        Action::Log => Move::Open(Box::new(Log::new(world, effects))),
        Action::Shell => {
            effects.push(Effect::Shell);
            Move::Stay
        }
        Action::Reboot => Move::Ask(Box::new(Question {
            title: "Restart this machine?".to_owned(),
            text:
                "Everything is written out first. It starts from this medium again, unless you pull it out as soon as \
                the screen goes dark."
                    .to_owned(),
            no: "Stay",
            yes: "Restart".to_owned(),
            effect: power(Power::Reboot),
        })),
        Action::PowerOff => Move::Ask(Box::new(Question {
            title: "Turn this machine off?".to_owned(),
            text: "Everything is written out first. The last line on the screen says when the stick can be pulled out."
                .to_owned(),
            no: "Stay",
            yes: "Power off".to_owned(),
            effect: power(Power::Off),
        })),
        Action::Leave => {
            effects.push(Effect::Quit);
            Move::Stay
        }
    }
}

/// Two lines about the machine.
fn machine(page: &mut Page, world: &World) {
    let theme = world.theme;
    let Some(machine) = &world.machine else {
        page.say(Role::Dim, "This machine is being looked at ...");
        return;
    };
    let (model, rest) = (model_words(machine), machine_words(machine));
    let room = page.width().saturating_sub(width_of(&model) + 2);
    page.line(vec![theme.span(Role::Heading, model), theme.span(Role::Text, format!("  {}", cut(&rest, room)))]);
    let addresses: Vec<String> = world
        .cards
        .iter()
        .map(|card| match (card.addresses.first(), card.link) {
            (Some(address), _) => format!("{} {address}", card.name),
            (None, Some(false)) => format!("{} no cable", card.name),
            (None, _) => format!("{} no address", card.name),
        })
        .collect();
    let network = if addresses.is_empty() { "no network card".to_owned() } else { addresses.join(", ") };
    let cpus = match (&machine.cpu_model, page.width() >= 110) {
        (Some(model), true) => format!("{} x {}", machine.cpus, plain(model)),
        _ => count(usize::try_from(machine.cpus).unwrap_or(0), "CPU"),
    };
    let text = format!("{} of memory, {cpus}; network: {}", size(machine.memory), plain(&network));
    page.cut(Role::Dim, &text);
}

/// "QEMU Standard PC".
fn model_words(machine: &Machine) -> String {
    let parts = [&machine.vendor, &machine.product].into_iter().flatten().map(|part| plain(part));
    let words = parts.collect::<Vec<_>>().join(" ");
    if words.is_empty() { "A machine that does not say what it is".to_owned() } else { words }
}

/// "serial 17, UEFI with Secure Boot".
fn machine_words(machine: &Machine) -> String {
    let firmware = match (machine.firmware, machine.secure_boot) {
        (Firmware::Bios, _) => "BIOS".to_owned(),
        (Firmware::Uefi, Some(true)) => "UEFI with Secure Boot".to_owned(),
        (Firmware::Uefi, _) => "UEFI".to_owned(),
    };
    let serial = machine.serial.as_deref().map(|serial| format!("serial {}", plain(serial)));
    [serial, Some(firmware)].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

impl Home {
    fn draw_menu(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let actions = actions(world);
        let mut page = Page::new(world.theme, area.width.saturating_sub(2));
        for (number, action) in actions.iter().enumerate() {
            let (letter, name, _) = action.words();
            let spread = usize::from(area.height) > actions.len() * 2 + 4;
            // What works on disks, what helps, what ends.
            let begins_group = matches!(action, Action::Network | Action::Reboot | Action::Leave);
            if begins_group && usize::from(area.height) > actions.len() + 4 || spread && number > 0 {
                page.gap();
            }
            page.choice(Here::at(self.cursor, number), &format!("{letter}  {name}"));
        }
        page.draw(0, area, buffer);
    }

    fn draw_disks(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let theme = world.theme;
        let mut page = Page::new(theme, area.width);
        match &world.disks {
            None => page.say(Role::Dim, "Disks are being looked for ..."),
            Some(Err(error)) => page.say(
                Role::Warning,
                &format!("Disks cannot be listed: {error}. F5 tries again; the log (l) may say more."),
            ),
            Some(Ok(disks)) if disks.is_empty() => page.say(
                Role::Warning,
                "No disk was found. If there should be one: is it switched on in the firmware's setup, is a RAID \
                controller's volume set up, is its cable in? A disk that appears is shown here at once.",
            ),
            Some(Ok(disks)) => self.disks(&mut page, world, disks, usize::from(area.height)),
        }
        page.draw(0, area, buffer);
    }

    /// As much of each disk as there is room for.
    fn disks(&self, page: &mut Page, world: &World, disks: &[Disk], height: usize) {
        let height = height.saturating_sub(1);
        let lines = |detail: Detail| -> usize {
            let mut trial = Page::new(world.theme, u16::try_from(page.width()).unwrap_or(u16::MAX));
            disks.iter().for_each(|disk| one(&mut trial, world, disk, detail));
            trial.len()
        };
        let detail = if lines(Detail::Table) <= height { Detail::Table } else { Detail::Bar };
        let total = lines(detail);
        let mut shown = 0;
        let first = if total <= height { 0 } else { self.first };
        for disk in disks.iter().skip(first) {
            let before = page.len();
            let mut trial = Page::new(world.theme, u16::try_from(page.width()).unwrap_or(u16::MAX));
            one(&mut trial, world, disk, detail);
            if before + trial.len() > height && shown > 0 {
                break;
            }
            one(page, world, disk, detail);
            shown += 1;
        }
        let hidden = disks.len().saturating_sub(first + shown);
        if hidden + first > 0 {
            let text =
                format!("disks {} to {} of {}; PgDn and PgUp show the others", first + 1, first + shown, disks.len());
            page.gap();
            page.cut(Role::Dim, &text);
        }
    }
}

/// One disk.
fn one(page: &mut Page, world: &World, disk: &Disk, detail: Detail) {
    page.gap();
    page.cut(Role::Heading, &disk_map::title(disk, page.width()));
    disk_map::trouble(page, disk, 0);
    disk_map::content(page, world.theme, &disk.content, detail, 0);
    if detail == Detail::Table {
        page.say_after(Role::Dim, "      ", &disk_map::state_of(disk, page.width()));
    }
}
