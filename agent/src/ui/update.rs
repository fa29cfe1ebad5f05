//! `update(state, event) → effects`: everything that can happen, and what follows from it.

use super::facts::{Content, Disk};
use super::screens::{home, progress, result};
use super::state::{Answer, Dialog, Effect, Event, Keeper, Key, Move, Screen, State};
use crate::job;

/// Takes in what happened. Pure: what must be done is in the effects.
pub(crate) fn update(state: &mut State, event: Event) -> Vec<Effect> {
    match event {
        Event::Key(key) => on_key(state, key),
        Event::Tick => state.world.ticks = state.world.ticks.wrapping_add(1),
        Event::Resize | Event::Hangup => {}
        Event::Job(status) => on_job(state, status.map(|status| *status)),
        Event::KeeperLost => state.world.keeper = Keeper::Lost,
        Event::DisksChanged => look_again(state),
        Event::Refused(why) => state.dialog = Some(Dialog::Notice(why)),
        Event::Answer(answer) => on_answer(state, answer),
    }
    state.effects.take()
}

fn on_key(state: &mut State, key: Key) {
    match key {
        Key::Ctrl('l') => return state.effects.push(Effect::Redraw),
        Key::Ctrl('t') => {
            state.world.theme = state.world.theme.next();
            return state.effects.push(Effect::Redraw);
        }
        _ => {}
    }
    if state.dialog.is_some() {
        return on_dialog_key(state, key);
    }
    let is_typing = state.front().is_typing();
    if key == Key::Function(1) || (key == Key::Char('?') && !is_typing) {
        state.dialog = Some(Dialog::Help(state.front().help(), 0));
        return;
    }
    if key == Key::Function(5) || (key == Key::Ctrl('r')) {
        return look_again(state);
    }
    if key == Key::Function(2) {
        return show_job(state);
    }
    let (world, effects) = (&state.world, &mut state.effects);
    let front: &mut dyn Screen = match state.screens.last_mut() {
        Some(screen) => &mut **screen,
        None => &mut state.home,
    };
    let next = if key == Key::Esc { front.back(world, effects) } else { front.key(key, world, effects) };
    go(state, next);
}

fn look_again(state: &mut State) {
    state.effects.push(Effect::ReadDisks);
    state.effects.push(Effect::ReadCards);
}

/// The running job, or the result of the last, in front of everything.
fn show_job(state: &mut State) {
    let Some(job) = &state.world.job else {
        state.dialog = Some(Dialog::Notice("Nothing is being done, and nothing was done yet.".to_owned()));
        return;
    };
    let has_ended = matches!(job.state, job::State::Ended { .. });
    state.screens.retain(|screen| !screen.shows_job());
    state.screens.push(job_screen(has_ended));
}

fn job_screen(has_ended: bool) -> Box<dyn Screen> {
    if has_ended { Box::new(result::Results::default()) } else { Box::new(progress::Progress) }
}

fn go(state: &mut State, next: Move) {
    match next {
        Move::Stay => {}
        Move::Back => {
            state.screens.pop();
        }
        Move::Home => state.screens.clear(),
        Move::Open(screen) => state.screens.push(screen),
        Move::Ask(question) => state.dialog = Some(Dialog::Question(question, false)),
        Move::Tell(text) => state.dialog = Some(Dialog::Notice(text)),
    }
}

fn on_dialog_key(state: &mut State, key: Key) {
    let Some(dialog) = &mut state.dialog else { return };
    match (dialog, key) {
        (Dialog::Help(_, scroll), Key::Down) => *scroll = scroll.saturating_add(1).min(200),
        (Dialog::Help(_, scroll), Key::PageDown | Key::Char(' ')) => *scroll = scroll.saturating_add(10).min(200),
        (Dialog::Help(_, scroll), Key::Up) => *scroll = scroll.saturating_sub(1),
        (Dialog::Help(_, scroll), Key::PageUp) => *scroll = scroll.saturating_sub(10),
        (Dialog::Help(..), Key::Esc | Key::Enter | Key::Char('?' | 'q')) => state.dialog = None,
        (Dialog::Notice(_), Key::Esc | Key::Enter | Key::Char(' ')) => state.dialog = None,
        (Dialog::Question(_, yes), Key::Left | Key::Right | Key::Tab | Key::BackTab | Key::Up | Key::Down) => {
            *yes = !*yes
        }
        (Dialog::Question(_, false), Key::Enter) | (Dialog::Question(..), Key::Esc | Key::Char('n')) => {
            state.dialog = None;
        }
        (Dialog::Question(question, true), Key::Enter) => {
            state.effects.push(question.effect.clone());
            state.dialog = None;
        }
        _ => {}
    }
}

fn on_job(state: &mut State, status: Option<job::Status>) {
    state.world.keeper = Keeper::There;
    let ended = |status: &job::Status| matches!(status.state, job::State::Ended { .. });
    let has_ended = status.as_ref().is_some_and(ended);
    let number = status.as_ref().map(|status| status.number);
    let had_ended = state.world.job.as_ref().is_none_or(ended);
    state.world.job = status;
    let Some(number) = number else {
        // Whatever there was to see is over.
        state.screens.retain(|screen| !screen.shows_job());
        return;
    };
    let is_new = state.shown_job != Some(number);
    let has_just_ended = has_ended && !had_ended;
    state.shown_job = Some(number);
    if is_new || has_just_ended {
        let was_watching = state.front().shows_job();
        state.screens.retain(|screen| !screen.shows_job());
        // What was being prepared lies below and can be gone back to; who looks elsewhere while the job ends is told
        // by the line that all screens have.
        if is_new || was_watching {
            state.screens.push(job_screen(has_ended));
        }
        if has_just_ended {
            state.effects.push(Effect::ReadDisks);
        }
    }
}

fn on_answer(state: &mut State, answer: Answer) {
    match &answer {
        Answer::Machine(machine, id) => {
            state.world.machine = Some((**machine).clone());
            state.world.machine_id.clone_from(id);
        }
        Answer::Disks(Ok(found)) => {
            // What is known of a disk is shown until it was read again.
            let mut found = found.clone();
            for disk in &mut found {
                let before = state.world.disks().iter().find(|before| before.identity == disk.identity);
                if let (Some(before), Content::Reading) = (before, &disk.content) {
                    disk.content = before.content.clone();
                    disk.health.clone_from(&before.health);
                }
            }
            state.world.disks = Some(Ok(found));
        }
        Answer::Disks(Err(error)) => state.world.disks = Some(Err(error.clone())),
        Answer::Disk(found) => {
            if let Some(Ok(disks)) = &mut state.world.disks
                && let Some(disk) = disks.iter_mut().find(|disk| disk.identity == found.identity)
            {
                *disk = Disk { health: disk.health.take(), ..(**found).clone() };
            }
        }
        Answer::Health(found) => {
            let (identity, health) = &**found;
            if let Some(Ok(disks)) = &mut state.world.disks
                && let Some(disk) = disks.iter_mut().find(|disk| disk.identity == *identity)
            {
                disk.health = Some(health.clone());
            }
        }
        Answer::Cards(cards) => state.world.cards.clone_from(cards),
        Answer::Failed(why) => state.dialog = Some(Dialog::Notice(why.clone())),
        Answer::Full(places) => state.world.full.clone_from(places),
        _ => {}
    }
    for screen in &mut state.screens {
        screen.answer(&answer, &state.world, &mut state.effects);
    }
    home::keep_in_range(&mut state.home, &state.world);
}
