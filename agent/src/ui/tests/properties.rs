//! Whatever is pressed and whatever happens, at whatever size: nothing panics, and Esc leads home.

use proptest::prelude::*;

use super::driver::{Driver, PASSWORD};
use super::fixtures::{awkward_disks, disks, ended, status};
use crate::job::{Kind, State};
use crate::ui::state::{Answer, Event, Key};

#[derive(Clone, Debug)]
enum Happening {
    Key(Key),
    Text(String),
    Size(u16, u16),
    Job(u8),
    Disks(u8),
    Silence(bool),
    Tick,
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![
        4 => Just(Key::Enter),
        3 => Just(Key::Down),
        2 => Just(Key::Up),
        1 => Just(Key::Esc),
        1 => Just(Key::Tab),
        1 => prop::sample::select(vec![
            Key::BackTab, Key::Left, Key::Right, Key::Home, Key::End, Key::PageUp, Key::PageDown, Key::Backspace,
            Key::Delete, Key::Function(1), Key::Function(2), Key::Function(5), Key::Ctrl('t'), Key::Ctrl('l'),
            Key::Ctrl('p'), Key::Ctrl('u'),
        ]),
        2 => prop::sample::select("brivnlstoqpcaud?yn 1/".chars().collect::<Vec<_>>()).prop_map(Key::Char),
        1 => any::<char>().prop_map(Key::Char),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        20 => key().prop_map(Happening::Key),
        1 => prop::sample::select(vec![PASSWORD, "ZDH0A1B2", "9L2A", "/dev/sdb"]).prop_map(|text| Happening::Text(text.into())),
        2 => (1u16..300, 1u16..100).prop_map(|(width, height)| Happening::Size(width, height)),
        1 => (0u8..8).prop_map(Happening::Job),
        1 => (0u8..4).prop_map(Happening::Disks),
        1 => any::<bool>().prop_map(Happening::Silence),
        1 => Just(Happening::Tick),
    ]
}

fn happen<'d>(driver: &'d mut Driver, happening: Happening, size: &mut (u16, u16)) -> &'d mut Driver {
    match happening {
        Happening::Key(key) => driver.key(key),
        Happening::Text(text) => driver.type_in(&text),
        Happening::Size(width, height) => {
            *size = (width, height);
            driver.event(Event::Resize)
        }
        Happening::Job(0) => driver.event(Event::Job(None)),
        Happening::Job(1) => driver.event(Event::KeeperLost),
        Happening::Job(2) => driver.job(status(Kind::Capture, State::Running)),
        Happening::Job(3) => driver.job(status(Kind::Restore, State::Paused)),
        Happening::Job(4) => driver.job(ended(Kind::Restore, 5, Some("the store failed"))),
        Happening::Job(5) => {
            let mut odd = status(Kind::Verify, State::Cancelling);
            (odd.number, odd.step, odd.progress) = (7, 99, None);
            odd.rates = vec![u64::MAX, 0];
            driver.job(odd)
        }
        Happening::Job(6) => driver.job(ended(Kind::Verify, 4, Some("damage"))),
        Happening::Job(_) => driver.event(Event::Refused("no, because".into())),
        Happening::Disks(0) => driver.answer(Answer::Disks(Ok(Vec::new()))),
        Happening::Disks(1) => driver.answer(Answer::Disks(Err("no sysfs".into()))),
        Happening::Disks(2) => driver.answer(Answer::Disks(Ok(awkward_disks()))),
        Happening::Disks(_) => driver.answer(Answer::Disks(Ok(disks()))),
        Happening::Silence(on) => {
            driver.silent = on;
            driver
        }
        Happening::Tick => driver.event(Event::Tick),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_and_escape_leads_home(happenings in prop::collection::vec(happening(), 1..80)) {
        let mut driver = Driver::new();
        let mut size = (80, 24);
        for happening in happenings {
            happen(&mut driver, happening, &mut size);
            driver.picture(size.0, size.1);
        }
        let mut left = 20;
        while !driver.is_home() && left > 0 {
            driver.key(Key::Esc);
            left -= 1;
        }
        prop_assert!(driver.is_home(), "{}", driver.text(132, 50));
        // Whatever was overwritten, its serial number was typed.
        for request in &driver.sent {
            if let crate::job::Request::Start(job) = request && job.kind == Kind::Restore {
                let all = job.steps[0].arguments.join(" ");
                prop_assert_eq!(all.matches("--to").count(), all.matches("--confirm=").count());
            }
        }
    }
}

#[test]
fn every_size_is_drawn() {
    let mut driver = Driver::new();
    for screen in ["", "b", "r", "i", "v", "n", "l"] {
        driver.keys(&[Key::Esc; 5]).type_in(screen).keys(&[Key::Enter, Key::Enter]);
        for width in (1..40).chain([79, 80, 81, 132, 300]) {
            for height in (1..14).chain([23, 24, 25, 50, 100]) {
                driver.picture(width, height);
            }
        }
    }
}
