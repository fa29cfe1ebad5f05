//! `draw(state)`: the bars at the top and the bottom, the screen between them, and what lies in front of it.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Margin, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Widget};

use super::page::{Page, cut, fit, width_of, wrap};
use super::screens::progress;
use super::state::{Dialog, Keeper, KeyHint, Question, Screen, State, World};
use super::theme::{Role, Theme};
use crate::job;

/// Draws everything. Pure.
pub(crate) fn draw(state: &State, frame: &mut Frame<'_>) {
    let area = frame.area();
    draw_on(state, area, frame.buffer_mut());
}

fn draw_on(state: &State, area: Rect, buffer: &mut Buffer) {
    let (world, front) = (&state.world, state.front());
    let row = |y: u16| Rect { y: area.y.saturating_add(y), height: 1, ..area }.intersection(area);
    let last = area.height.saturating_sub(1);
    let body = if area.height >= 12 {
        // With a free line below the title and one above the keys.
        Rect { y: area.y + 2, height: area.height - 4, ..area }
    } else {
        Rect { y: area.y.saturating_add(1), height: area.height.saturating_sub(2), ..area }
    };
    let body = body.intersection(area);
    let body = if area.width >= 40 { body.inner(Margin::new(1, 0)) } else { body };
    front.draw(world, body, buffer);
    draw_title(front, world, row(0), buffer);
    if area.height > 1 {
        draw_keys(&hints(state), world.theme, row(last), buffer);
    }
    if area.height >= 12 {
        draw_job_line(front, world, row(last - 1), buffer);
    }
    if let Some(dialog) = &state.dialog {
        draw_dialog(dialog, world.theme, area, buffer);
    }
    world.theme.finish(buffer);
}

fn draw_title(front: &dyn Screen, world: &World, area: Rect, buffer: &mut Buffer) {
    let width = usize::from(area.width);
    let left = format!(" Lifeboat │ {}", front.title(world));
    let right = match world.keeper {
        Keeper::There if world.full.is_empty() => String::new(),
        // Jobs go on: images never lie in memory.
        Keeper::There => format!("no room in {}: delete files there in a shell ", world.full.join(", ")),
        Keeper::Sought => "starting ... ".to_owned(),
        Keeper::Lost => "lost touch with the running job, trying again ... ".to_owned(),
    };
    let left = fit(&left, width.saturating_sub(width_of(&right)));
    let line = Line::from(world.theme.span(Role::Bar, left + &right));
    buffer.set_line(area.x, area.y, &line, area.width);
}

/// The keys that work now.
fn hints(state: &State) -> Vec<KeyHint> {
    match &state.dialog {
        Some(Dialog::Question(..)) => vec![("←→", "choose"), ("Enter", "answer"), ("Esc", "no")],
        Some(Dialog::Notice(_)) => vec![("Enter", "go on")],
        Some(Dialog::Help(..)) => {
            vec![("↑↓", "read on"), ("Ctrl-T", "other colours"), ("Ctrl-L", "draw anew"), ("Esc", "back")]
        }
        None => {
            let front = state.front();
            let mut keys = front.keys(&state.world);
            if !state.screens.is_empty() {
                keys.push(("Esc", "back"));
            }
            keys.push(if front.is_typing() { ("F1", "help") } else { ("?", "help") });
            keys
        }
    }
}

fn draw_keys(hints: &[KeyHint], theme: Theme, area: Rect, buffer: &mut Buffer) {
    let width = usize::from(area.width);
    let columns = |(key, what): &KeyHint| width_of(key) + width_of(what) + 4;
    let mut hints = hints.to_vec();
    // The last two lead out and to help: those in front of them go first.
    while hints.iter().map(columns).sum::<usize>() > width && hints.len() > 2 {
        hints.remove(hints.len() - 3);
    }
    let mut spans = Vec::new();
    for (key, what) in hints {
        spans.push(theme.span(Role::BarKey, format!(" {key}")));
        spans.push(theme.span(Role::Bar, format!(" {what}  ")));
    }
    let used: usize = spans.iter().map(ratatui::text::Span::width).sum();
    spans.push(theme.span(Role::Bar, " ".repeat(width.saturating_sub(used))));
    buffer.set_line(area.x, area.y, &Line::from(spans), area.width);
}

/// The job, for those who look at something else.
fn draw_job_line(front: &dyn Screen, world: &World, area: Rect, buffer: &mut Buffer) {
    let Some(job) = world.job.as_ref().filter(|_| !front.shows_job()) else { return };
    let (role, text) = match &job.state {
        job::State::Ended { error: None, .. } => (Role::Good, format!("{}: done", job.title)),
        job::State::Ended { error: Some(error), .. } => (Role::Danger, format!("{}: {error}", job.title)),
        _ => (Role::Warning, format!("{}: {}", job.title, progress::in_a_word(job))),
    };
    let hint = "  F2 shows it";
    let width = usize::from(area.width).saturating_sub(2);
    let text = cut(&text, width.saturating_sub(width_of(hint))) + hint;
    buffer.set_line(area.x + 1, area.y, &Line::from(world.theme.span(role, text)), area.width.saturating_sub(2));
}

fn draw_dialog(dialog: &Dialog, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let room = area.inner(Margin::new(area.width / 20, 1));
    let width = room.width.min(if matches!(dialog, Dialog::Help(..)) { 90 } else { 68 });
    let inner = width.saturating_sub(4);
    let mut page = Page::new(theme, inner);
    let mut scrolled = 0;
    let (role, title) = match dialog {
        Dialog::Help(text, scroll) => {
            scrolled = *scroll;
            draw_help(&mut page, text);
            (Role::Heading, " Help ")
        }
        Dialog::Notice(text) => {
            page.say(Role::Text, text);
            page.gap();
            let button = "[ Go on ]";
            page.line(vec![theme.span(Role::Focus, button)]);
            (Role::Warning, " Please note ")
        }
        Dialog::Question(question, yes) => {
            draw_question(&mut page, theme, question, *yes);
            (Role::Warning, " Are you sure? ")
        }
    };
    let height = u16::try_from(page.len()).unwrap_or(u16::MAX).saturating_add(2).min(room.height);
    let place = Rect {
        x: room.x + room.width.saturating_sub(width) / 2,
        y: room.y + room.height.saturating_sub(height) / 2,
        width,
        height,
    };
    let place = place.intersection(buffer.area);
    Clear.render(place, buffer);
    let block = Block::bordered().border_style(theme.style(role)).title(title);
    let inside = block.inner(place);
    block.render(place, buffer);
    page.draw(scrolled, inside.inner(Margin::new(1, 0)), buffer);
}

fn draw_question(page: &mut Page, theme: Theme, question: &Question, yes: bool) {
    page.say(Role::Heading, &question.title);
    page.gap();
    page.say(Role::Text, &question.text);
    page.gap();
    let role = |marked: bool, other: Role| if marked { Role::Focus } else { other };
    let (from, no) = (page.len(), format!("[ {} ]", question.no));
    page.line(vec![
        theme.span(role(!yes, Role::Text), no),
        theme.span(Role::Text, "   "),
        theme.span(role(yes, Role::Danger), format!("[ {} ]", question.yes)),
    ]);
    page.keep_in_sight(from);
}

/// Paragraphs; a line `key: text` has its key stand out.
fn draw_help(page: &mut Page, text: &str) {
    const EVERYWHERE: &str = "These keys work everywhere\n\
        Esc: one step back; pressed often enough, home\n\
        ? or F1: this help\n\
        F2: the running job, or the result of the last\n\
        F5 or Ctrl-R: look for disks again\n\
        Ctrl-T: other characters and colours, if these look wrong\n\
        Ctrl-L: draw the screen anew, after other programs wrote on it";
    for block in text.split("\n\n").chain([EVERYWHERE]) {
        page.gap();
        for line in block.split('\n').map(str::trim) {
            match line.split_once(": ") {
                Some((key, what)) if width_of(key) <= 16 => {
                    page.say_after(Role::Text, &format!("  {}", fit(key, 17)), what);
                }
                _ if line.len() < 40 && !line.ends_with('.') => page.say(Role::Heading, line),
                _ => wrap(line, page.width()).iter().for_each(|line| page.say(Role::Text, line)),
            }
        }
    }
}
