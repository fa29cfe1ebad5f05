//! How the files of an image look.
//!
//! Must not know: keys.

use imager::files::screen::escaped;
use imager::units::size;

use super::tags::shortened;
use super::{Browse, Copying, Inside, Step, free_words};
use crate::ui::files::{File, LISTED_MAX, Listing};
use crate::ui::page::{Here, Page, count, cut, fit, fit_right, plain};
use crate::ui::screens::working;
use crate::ui::state::World;
use crate::ui::theme::Role;

/// Draws the part that the user is at.
pub(super) fn draw(browse: &Browse, page: &mut Page, world: &World, height: usize) {
    if let Some(problem) = &browse.problem {
        page.say(Role::Danger, problem);
        page.gap();
    }
    match (&browse.copying, &browse.inside) {
        (Some(copying), _) => draw_copying(browse, copying, page, world, height),
        (None, Some(inside)) => draw_directory(browse, inside, page, world, height),
        (None, None) if browse.opening.is_some() => page.say(Role::Dim, &working(world, "Its files are being opened")),
        (None, None) => draw_parts(browse, page),
    }
}

fn draw_parts(browse: &Browse, page: &mut Page) {
    let manifest = &browse.image.manifest;
    page.say(
        Role::Text,
        &format!("{}, taken {} UTC. The files of which partition?", browse.image.name(), browse.image.when()),
    );
    page.gap();
    let mut disk = None;
    for (number, (part, tags)) in browse.parts.iter().zip(&browse.tags).enumerate() {
        if manifest.disks.len() > 1 && disk != Some(part.disk) {
            disk = Some(part.disk);
            page.heading(&format!("Disk {}", part.disk));
        }
        let captured = part.captured.as_ref();
        let kind = captured.map_or("unknown", |captured| captured.kind.as_str());
        let label = captured.and_then(|captured| captured.label.as_deref()).filter(|label| !label.is_empty());
        let label = label.map(|label| format!("\"{}\"", escaped(label.as_bytes()))).unwrap_or_default();
        let used = captured.map(|captured| format!("{} in use", size(captured.used))).unwrap_or_default();
        let (role, remark) = match (part.has_files(), tags.len()) {
            (false, _) => (Role::Dim, "its files cannot be read here".to_owned()),
            (true, 0) => (Role::Text, used),
            (true, tagged) => (Role::Text, format!("{used}, {tagged} tagged")),
        };
        let (name, kind, bytes) = (part.name(manifest), plain(kind), fit_right(&size(part.place.len), 9));
        let text = format!("{} {} {bytes}  {} {remark}", fit(&name, 10), fit(&kind, 8), fit(&label, 16));
        page.choice_in(role, Here::at(browse.part, number), &text);
    }
    if !browse.parts.iter().any(imager::files::Part::has_files) {
        page.gap();
        page.say(
            Role::Warning,
            "No partition of this image has files that can be read here. Restore it to get at them; Esc leads back.",
        );
    }
}

fn draw_directory(browse: &Browse, inside: &Inside, page: &mut Page, world: &World, height: usize) {
    let tags = browse.tags.get(browse.part).filter(|tags| !tags.is_empty());
    let Some(listing) = &inside.listing else {
        page.say(Role::Dim, &working(world, "The directory is being read"));
        return;
    };
    let here = |number: usize| if browse.finding.is_some() { Here::No } else { Here::at(inside.cursor, number) };
    if let Some(field) = &browse.finding {
        field.draw(page, world.theme, Here::Yes, "Part of the name", 17);
        page.gap();
    }
    let tagged = match tags {
        None => "nothing tagged".to_owned(),
        Some(tags) => format!("{} tagged: {}", tags.len(), tags.words()),
    };
    if inside.following.is_some() {
        page.cut(Role::Dim, &working(world, "The link is being followed"));
    } else {
        page.cut(Role::Dim, &format!("{}; {tagged}", count_words(listing, &inside.part)));
    }
    if let Some(limit) = limit_words(listing) {
        page.say(Role::Warning, &limit);
    }
    if let Some(problem) = &listing.problem {
        let text = format!("Not all of this directory can be read: {problem}. An older image may have it whole.");
        page.say(Role::Danger, &plain(&text));
    }
    page.gap();
    if listing.entries.is_empty() && !inside.part.is_empty() {
        page.say(Role::Text, "No name here has that in it. Esc shows all names, / looks for another part.");
        return;
    }
    if listing.entries.is_empty() {
        page.say(Role::Text, "There is nothing in this directory. Backspace leads up.");
        return;
    }
    // Only what is in sight is made: a directory may have thousands of names.
    let rows = height.saturating_sub(page.len() + FOOTER_ROWS).max(1);
    let last = listing.entries.len().saturating_sub(rows);
    let top = inside.cursor.saturating_sub(rows / 2).min(last);
    let above = inside.path().0;
    for (number, file) in listing.entries.iter().enumerate().skip(top).take(rows) {
        let path = above.zip(file.argument.as_deref()).map(|(above, name)| format!("{above}/{name}"));
        let is_tagged = path.is_some_and(|path| tags.is_some_and(|tags| tags.has(&path)));
        let role = if file.facts.is_err() { Role::Danger } else { Role::Text };
        page.choice_in(role, here(number), &line_of(file, is_tagged));
    }
    if let Some(file) = inside.entry().filter(|_| height > FOOTER_ROWS + 3) {
        page.gap();
        page.cut(Role::Dim, &in_full(file));
    }
}

/// Below the names: a free line, and the marked name in full.
const FOOTER_ROWS: usize = 2;

/// "12 names", "more than 1000000 names", "3 of 12 names with "log" in them".
fn count_words(listing: &Listing, part: &str) -> String {
    let names = count(listing.count, "name");
    let names = if listing.is_endless { format!("more than {names}") } else { names };
    if part.is_empty() { names } else { format!("{} of {names} with \"{}\" in them", listing.matching, plain(part)) }
}

fn limit_words(listing: &Listing) -> Option<String> {
    (listing.matching > listing.entries.len()).then(|| {
        format!(
            "Only the first {LISTED_MAX} of them are shown. To see others, press / and type a part of their names. To copy \
             all, go up, tag the directory, press c."
        )
    })
}

/// A name in one line: tag, mode, size, time, name.
fn line_of(file: &File, is_tagged: bool) -> String {
    let mark = if is_tagged { "[x]" } else { "[ ]" };
    match &file.facts {
        Ok(facts) => {
            let bytes = if file.is_directory() { String::new() } else { size(facts.size) };
            let slash = if file.is_directory() { "/" } else { "" };
            let arrow = facts.target.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
            let (mode, bytes, when) = (fit(&facts.mode, 10), fit_right(&bytes, 9), fit(&facts.modified, 16));
            format!("{mark} {mode} {bytes}  {when}  {}{slash}{arrow}", file.name)
        }
        Err(_) => format!("{mark} {}  {}", fit("damaged", 38), file.name),
    }
}

/// What the line has no room for.
fn in_full(file: &File) -> String {
    match &file.facts {
        Ok(facts) => {
            let owner = facts.owner.map(|(user, group)| format!(", owner {user}, group {group}")).unwrap_or_default();
            format!("{}: {}{owner}", cut(&file.name, 200), facts.kind.word())
        }
        Err(why) => plain(&format!("{}: {why}", cut(&file.name, 100))),
    }
}

/// All that is known of a file, for a notice.
pub(super) fn details(file: &File) -> String {
    let name = shortened(&file.name);
    match &file.facts {
        Err(why) => plain(&format!("{name} is damaged in the image: {why}. Another image may have it whole.")),
        Ok(facts) => {
            let owner = facts.owner.map(|(user, group)| format!(", owner {user}, group {group}")).unwrap_or_default();
            format!(
                "{name}\n{}, {} ({} bytes), {}{owner}\nLast written {} UTC.\n\nSpace tags it, c copies it.",
                facts.kind.word(),
                size(facts.size),
                facts.size,
                facts.mode,
                facts.modified.trim()
            )
        }
    }
}

fn draw_copying(browse: &Browse, copying: &Copying, page: &mut Page, world: &World, height: usize) {
    let what = &copying.what;
    match &copying.step {
        Step::Place(chooser) => {
            page.cut(Role::Dim, &format!("To be copied: {}", what.words()));
            chooser.draw(page, world);
        }
        Step::Naming(..) => page.say(Role::Dim, &working(world, "A name for the copy is being looked for")),
        Step::Ready(looked, target) => {
            let (name, when) = (browse.image.name(), browse.image.when());
            let rows = [
                ("From", format!("{name}, taken {when} UTC, {}", browse.part_name())),
                ("What", what.words()),
                ("To", format!("{}, a new directory{}", target.display(), free_words(looked))),
            ];
            for (name, value) in rows {
                page.say_after(Role::Text, &fit(name, 8), &plain(&value));
            }
            if looked.free.is_some_and(|free| free < what.bytes()) {
                page.say(
                    Role::Danger,
                    "That place is too small for these files. Free space there, or go back (Esc) and choose another.",
                );
            } else if what.all().any(|tag| tag.is_directory) {
                page.say(
                    Role::Dim,
                    "How much is in the directories is found out first. When the place is full, the copy ends and says so.",
                );
            }
            page.gap();
            page.choice(Here::Yes, "Start the copy");
            page.gap();
            let rows = height.saturating_sub(page.len() + 1).max(1);
            for tag in what.all().take(rows) {
                let slash = if tag.is_directory { "/" } else { "" };
                page.cut(Role::Text, &format!("  {}{slash}", tag.shown));
            }
            if what.len() > rows {
                page.say(Role::Dim, &format!("  and {} more", what.len() - rows));
            }
        }
    }
}
