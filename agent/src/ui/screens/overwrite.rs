//! What every screen shows that leads to a disk being overwritten: which disks there are and why some cannot be it, what
//! is lost, and the words that allow it.
//!
//! Must not know: where the data come from.

use imager::units::size;

use crate::ui::disk_map::{self, Detail};
use crate::ui::facts::{Content, Disk, names};
use crate::ui::field::Field;
use crate::ui::page::{Here, Page, count, plain};
use crate::ui::state::World;
use crate::ui::theme::Role;

/// Why nothing can be written to a disk, whatever it is that comes; and what can be done about it.
pub(super) fn obstacle(disk: &Disk, bytes: u64) -> Option<String> {
    if let Some(user) = disk.users.first() {
        Some(format!("it is in use: {}; end that first (in the shell, say), then press F5", plain(user)))
    } else if disk.identity.read_only {
        Some("it cannot be written; look for a switch on it".to_owned())
    } else if disk.identity.size < bytes {
        Some(format!("it is too small: {} are needed; choose a disk at least as large", size(bytes)))
    } else {
        None
    }
}

/// The disks, to be chosen from; with the reason under those that `obstacle` has one for.
pub(super) fn draw_choices(
    page: &mut Page,
    world: &World,
    cursor: usize,
    height: usize,
    obstacle: &dyn Fn(&Disk) -> Option<String>,
) {
    let disks = world.disks();
    if disks.is_empty() {
        page.say(Role::Warning, "There is no disk here. One that is plugged in appears by itself; F5 looks again.");
    }
    let bars = disks.len() * 4 + 6 <= height;
    for (place, disk) in disks.iter().enumerate() {
        let from = page.len();
        if bars {
            page.gap();
        }
        let obstacle = obstacle(disk);
        let role = if obstacle.is_some() { Role::Dim } else { Role::Text };
        page.choice_in(role, Here::at(cursor, place), &disk_map::title(disk, page.width().saturating_sub(2)));
        match obstacle {
            Some(obstacle) => page.say_after(Role::Dim, "    cannot be: ", &obstacle),
            None if bars => disk_map::content(page, world.theme, &disk.content, Detail::Bar, 2),
            None => {}
        }
        disk_map::trouble(page, disk, 4);
        if cursor == place {
            page.keep_in_sight(from);
        }
    }
}

/// What is lost when a disk is overwritten.
pub(super) fn loss(disk: &Disk) -> String {
    let Content::Known(now) = &disk.content else { return "What is on it is not known.".to_owned() };
    let used: u64 = now.parts.iter().map(|part| part.used).fold(0, u64::saturating_add);
    match now.parts.iter().filter(|part| part.number.is_some()).count() {
        0 if now.parts.iter().all(|part| part.kind == "unknown") => {
            "No partitions; what else is on it is not known.".to_owned()
        }
        0 => format!("{} in use.", size(used)),
        parts => format!("{}, {} in use.", count(parts, "partition"), size(used)),
    }
}

/// The field for a disk's serial number, or its path, and whether that is it.
pub(super) fn draw_serial(page: &mut Page, world: &World, disk: &Disk, typed: &Field, here: Here) {
    let what = if disk.identity.serial.is_some() { "Type its serial number" } else { "Type its path" };
    typed.draw(page, world.theme, here, what, 24);
    let is_named = names(&typed.text(), disk);
    let hint = match (is_named, &disk.identity.serial) {
        (true, _) => "that is it",
        (false, Some(_)) => "all of it, or its last four characters or more",
        (false, None) => "it has no serial number",
    };
    page.say_after(if is_named { Role::Good } else { Role::Dim }, &" ".repeat(27), hint);
}

/// What to say when what was typed does not name the disk; none for one that is gone.
pub(super) fn not_named(disk: Option<&Disk>) -> String {
    let Some(disk) = disk else {
        return "That disk is gone. Go back (Esc) and choose another one, or plug it in again.".to_owned();
    };
    match &disk.identity.serial {
        Some(_) => format!(
            "That is not the serial number of {}. Type it as it is shown, or its last four characters or more. \
            Nothing is overwritten without it.",
            disk.words()
        ),
        None => format!(
            "This disk has no serial number: type its path, {}, instead. Nothing is overwritten without it.",
            disk.identity.path.display()
        ),
    }
}
