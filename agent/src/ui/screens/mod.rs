//! The screens, a file each.
//!
//! Must not know: the terminal, the machine, other consoles.

pub(super) mod backup;
mod browse;
pub(super) mod chooser;
pub(super) mod clone;
pub(super) mod home;
pub(super) mod images;
pub(super) mod log;
pub(super) mod network;
mod overwrite;
pub(super) mod progress;
pub(super) mod restore;
pub(super) mod result;
pub(super) mod verify;

use super::facts::{Disk, Hold};
use super::state::{Effect, Key, Question, World};

/// Moves a cursor over `count` things. Other keys leave it where it is.
pub(super) fn moved(cursor: usize, count: usize, key: Key) -> usize {
    let last = count.saturating_sub(1);
    match key {
        Key::Up | Key::BackTab if cursor == 0 => last,
        Key::Up | Key::BackTab => cursor.saturating_sub(1).min(last),
        Key::Down | Key::Tab if cursor >= last => 0,
        Key::Down | Key::Tab => cursor + 1,
        Key::PageUp => cursor.saturating_sub(5),
        Key::PageDown => cursor.saturating_add(5).min(last),
        Key::Home => 0,
        Key::End => last,
        _ => cursor.min(last),
    }
}

/// An offer to let go of a disk that is in use only because it was mounted as a place for repositories.
pub(super) fn release(disk: &Disk) -> Option<Question> {
    (disk.hold == Hold::Ours).then(|| Question {
        title: format!("Unmount {}?", disk.words()),
        text:
            "It is in use only because it was looked at as a place for repositories. Once it is unmounted, it can be \
            chosen here."
                .to_owned(),
        no: "Leave it",
        yes: "Unmount it".to_owned(),
        effect: Effect::Release(disk.identity.path.clone()),
    })
}

/// Something that moves while there is nothing else to see.
pub(super) fn working(world: &World, what: &str) -> String {
    let dots = usize::try_from(world.ticks % 3).unwrap_or(0) + 1;
    format!("{what} {}", ".".repeat(dots))
}
