//! Every screen in several states, at 80×24 and 132×50, in colour and in ASCII, as files that people can look at.
//!
//! `LIFEBOAT_SNAPSHOTS=write` writes them anew.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};

use super::driver::{Driver, text_of};
use super::fixtures::{awkward_disks, ended, status};
use crate::job::{Kind, State};
use crate::ui::state::{Answer, Event, Key, State as Whole, Surroundings};
use crate::ui::theme::{Glyphs, Palette, Theme};

type Step = fn(&mut Driver) -> &mut Driver;

/// A name, the disks that there are, and the way there.
const SCREENS: &[(&str, Step)] = &[
    ("home", |driver| driver),
    ("home-awkward", |driver| driver.answer(Answer::Disks(Ok(awkward_disks())))),
    ("home-no-disk", |driver| driver.answer(Answer::Disks(Ok(Vec::new())))),
    ("home-starting", |driver| {
        let theme = driver.state.world.theme;
        driver.state = Whole::new(theme, Surroundings::Medium, "/run/lifeboat/log".into()).0;
        driver
    }),
    ("home-job", |driver| driver.job(status(Kind::Capture, State::Running)).key(Key::Esc)),
    ("home-power-off", |driver| driver.type_in("o")),
    ("help", |driver| driver.type_in("?")),
    ("backup-disks", |driver| driver.type_in("b")),
    ("backup-disks-awkward", |driver| {
        driver.answer(Answer::Disks(Ok(awkward_disks())));
        driver.type_in("b").key(Key::Char(' '))
    }),
    ("backup-places", |driver| driver.type_in("b").key(Key::Enter)),
    ("backup-repositories", |driver| driver.type_in("b").keys(&[Key::Enter; 2])),
    ("backup-password", |driver| {
        driver
            .type_in("b")
            .keys(&[Key::Enter, Key::Enter, Key::Down, Key::Down, Key::Enter])
            .type_in("secret")
            .key(Key::Enter)
    }),
    ("backup-name", |driver| driver.type_in("b").keys(&[Key::Enter; 3]).key(Key::Tab).type_in("before the move")),
    ("backup-summary", |driver| driver.type_in("b").keys(&[Key::Enter; 5])),
    ("restore-images", |driver| driver.type_in("r").keys(&[Key::Enter; 2])),
    ("restore-target", |driver| driver.type_in("r").keys(&[Key::Enter; 3])),
    ("restore-disks", |driver| {
        driver.type_in("r").keys(&[
            Key::Enter,
            Key::Enter,
            Key::Down,
            Key::Down,
            Key::Enter,
            Key::Enter,
            Key::Down,
            Key::Enter,
        ])
    }),
    ("restore-confirm", |driver| {
        driver.type_in("r").keys(&[Key::Enter, Key::Enter, Key::Enter, Key::Home, Key::Down, Key::Enter]).type_in("9L")
    }),
    ("restore-ready", |driver| {
        driver.type_in("r").keys(&[Key::Enter, Key::Enter, Key::Enter, Key::Home, Key::Down, Key::Enter]);
        driver.type_in("9L2A").key(Key::Up)
    }),
    ("restore-partitions", |driver| {
        driver.type_in("r").keys(&[Key::Enter, Key::Enter, Key::Enter, Key::Home, Key::Enter]).type_in("3456");
        driver.keys(&[Key::Down, Key::Down, Key::Char(' ')])
    }),
    ("restore-refused", |driver| {
        driver.type_in("r").keys(&[Key::Enter, Key::Enter, Key::Enter, Key::Home, Key::Up, Key::Up, Key::Enter])
    }),
    ("restore-target-failing", |driver| {
        driver.type_in("r").keys(&[Key::Enter; 3]).answer(Answer::Disks(Ok(awkward_disks())))
    }),
    ("restore-confirm-failing", |driver| {
        driver.type_in("r").keys(&[Key::Enter, Key::Enter, Key::Enter, Key::Home, Key::Down, Key::Enter]);
        driver.answer(Answer::Disks(Ok(awkward_disks())))
    }),
    ("images", |driver| driver.type_in("i").keys(&[Key::Enter; 2])),
    ("image", |driver| driver.type_in("i").keys(&[Key::Enter; 3])),
    ("files-parts", |driver| driver.type_in("i").keys(&[Key::Enter; 4])),
    ("files-opening-failed", |driver| driver.type_in("i").keys(&[Key::Enter; 4]).keys(&[Key::Up, Key::Enter])),
    ("files-root", |driver| {
        driver.type_in("i").keys(&[Key::Enter; 4]).keys(&[Key::Down, Key::Up, Key::Down, Key::Enter]);
        driver.keys(&[Key::Down, Key::Char(' '), Key::Char(' ')])
    }),
    ("files-damaged-directory", |driver| {
        driver.type_in("i").keys(&[Key::Enter; 4]).keys(&[Key::End, Key::Enter, Key::Down, Key::Enter])
    }),
    ("files-huge-directory", |driver| {
        driver.type_in("i").keys(&[Key::Enter; 4]).keys(&[Key::End, Key::Enter, Key::End, Key::Enter]);
        driver.keys(&[Key::PageDown, Key::PageDown, Key::PageDown, Key::Char(' ')])
    }),
    ("files-finding", |driver| {
        driver.type_in("i").keys(&[Key::Enter; 4]).keys(&[Key::End, Key::Enter, Key::End, Key::Enter]);
        driver.type_in("/log.05")
    }),
    ("files-found", |driver| {
        driver.type_in("i").keys(&[Key::Enter; 4]).keys(&[Key::End, Key::Enter, Key::End, Key::Enter]);
        driver.type_in("/log.05").keys(&[Key::Enter, Key::Down])
    }),
    ("files-found-nothing", |driver| {
        driver.type_in("i").keys(&[Key::Enter; 4]).keys(&[Key::End, Key::Enter]).type_in("/xyz").key(Key::Enter)
    }),
    ("files-link-followed", |driver| {
        driver.type_in("i").keys(&[Key::Enter; 4]).keys(&[Key::End, Key::Enter, Key::Enter])
    }),
    ("files-link-outside", |driver| {
        driver.type_in("i").keys(&[Key::Enter; 4]).keys(&[Key::End, Key::Enter, Key::Enter, Key::Enter])
    }),
    ("files-details", |driver| {
        driver.type_in("i").keys(&[Key::Enter; 4]).keys(&[Key::End, Key::Enter, Key::Down, Key::Down, Key::Enter])
    }),
    ("files-copy-place", |driver| {
        driver.type_in("i").keys(&[Key::Enter; 4]).keys(&[Key::End, Key::Enter, Key::Down, Key::Char('c')])
    }),
    ("files-copy-ready", |driver| {
        driver.type_in("i").keys(&[Key::Enter; 4]).keys(&[Key::End, Key::Enter, Key::Down, Key::Char(' ')]);
        driver.keys(&[Key::Char(' '), Key::Char('c'), Key::Enter])
    }),
    ("files-result", |driver| driver.job(ended(Kind::Copy, 0, None))),
    ("files-result-partly", |driver| {
        driver.job(ended(Kind::Copy, 4, Some("1 file could not be copied; `failures` says which and why")))
    }),
    ("clone-target", |driver| driver.type_in("c").keys(&[Key::Down, Key::Enter])),
    ("clone-confirm", |driver| driver.type_in("c").keys(&[Key::Down, Key::Enter, Key::Down, Key::Down, Key::Enter])),
    ("clone-result", |driver| driver.job(ended(Kind::Clone, 0, None))),
    ("verify", |driver| driver.type_in("v").keys(&[Key::Enter; 2])),
    ("verify-password", |driver| {
        driver.type_in("v").keys(&[Key::Enter, Key::Down, Key::Enter]).type_in("wrong").key(Key::Enter).type_in("abc")
    }),
    ("progress-backup", |driver| driver.job(status(Kind::Capture, State::Running))),
    ("progress-restore-paused", |driver| driver.job(status(Kind::Restore, State::Paused))),
    ("progress-beginning", |driver| {
        let mut job = status(Kind::Capture, State::Running);
        (job.progress, job.seconds, job.step) = (None, 1, 0);
        (job.rates, job.messages) = (Vec::new(), Vec::new());
        driver.job(job)
    }),
    ("progress-cancel", |driver| driver.job(status(Kind::Capture, State::Running)).type_in("c")),
    ("result-backup", |driver| driver.job(ended(Kind::Capture, 0, None))),
    ("result-restore", |driver| driver.job(ended(Kind::Restore, 0, None))),
    ("result-failed", |driver| {
        driver.job(ended(Kind::Restore, 5, Some("the store failed to read packs/17: the stick was pulled out")))
    }),
    ("result-damage", |driver| driver.job(ended(Kind::Verify, 4, Some("1 image is damaged")))),
    ("log", |driver| driver.type_in("l").key(Key::PageUp)),
    ("network", |driver| driver.type_in("n").key(Key::Enter)),
    ("keeper-lost", |driver| driver.event(Event::KeeperLost)),
    ("keeper-was-killed", |driver| {
        let error = "the program that kept the job was killed, and the job with it. What was stored is kept: start the job again, and it goes on from there";
        let mut job = ended(Kind::Capture, 0, None);
        job.state = State::Ended { exit_code: None, error: Some(error.into()) };
        driver.job(status(Kind::Capture, State::Running)).event(Event::KeeperLost).job(job)
    }),
    ("ram-disk-full", |driver| driver.answer(Answer::Full(vec!["/run".into(), "/tmp".into()]))),
];

#[test]
fn screens_look_as_they_did() {
    let write = std::env::var("LIFEBOAT_SNAPSHOTS").is_ok_and(|value| value == "write");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ui/snapshots");
    let mut wanted = BTreeMap::new();
    for (name, way) in SCREENS {
        for (width, height) in [(80, 24), (132, 50)] {
            let mut driver = Driver::new();
            way(&mut driver);
            let colour = driver.picture(width, height);
            let text = format!("{}{}", framed(&text_of(&colour)), styles(&colour));
            wanted.insert(format!("{name}-{width}x{height}.txt"), text);
            driver.state.world.theme = Theme { glyphs: Glyphs::Ascii, palette: Palette::Mono };
            let mono = driver.picture(width, height);
            let ascii = text_of(&mono);
            assert!(ascii.is_ascii(), "{name} is not ASCII: {ascii}");
            wanted.insert(format!("{name}-{width}x{height}-ascii.txt"), format!("{}{}", framed(&ascii), styles(&mono)));
        }
    }
    if write {
        fs::create_dir_all(&folder).unwrap();
        for found in fs::read_dir(&folder).unwrap() {
            fs::remove_file(found.unwrap().path()).unwrap();
        }
        wanted.iter().for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
    }
    let mut there: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|found| found.unwrap().file_name().into_string().unwrap()).collect();
    there.sort();
    assert_eq!(there, wanted.keys().cloned().collect::<Vec<_>>(), "LIFEBOAT_SNAPSHOTS=write writes them anew");
    for (name, text) in &wanted {
        let kept = fs::read_to_string(folder.join(name)).unwrap();
        assert!(kept == *text, "{name} differs. It was:\n{kept}\nand is:\n{text}\nLIFEBOAT_SNAPSHOTS=write keeps it");
    }
}

/// Lines in a frame, so that spaces at their ends are no matter.
fn framed(text: &str) -> String {
    text.lines().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "|{line}");
        all
    })
}

/// A letter for each style, as a map of the screen, and what the letters mean. Rows without any are left out.
fn styles(buffer: &Buffer) -> String {
    let mut letters: Vec<(Color, Color, Modifier)> = vec![(Color::Reset, Color::Reset, Modifier::empty())];
    let width = usize::from(buffer.area.width);
    let mut map = String::new();
    for (number, row) in buffer.content.chunks(width).enumerate() {
        let line: String = row
            .iter()
            .map(|cell| {
                let style = (cell.fg, cell.bg, cell.modifier);
                let found = letters.iter().position(|known| *known == style).unwrap_or_else(|| {
                    letters.push(style);
                    letters.len() - 1
                });
                if found == 0 { ' ' } else { char::from(b"abcdefghijklmnopqrstuvwxyz"[found - 1]) }
            })
            .collect();
        let line = runs(line.trim_end());
        if !line.is_empty() {
            let _ = writeln!(map, "{number:>3} {line}");
        }
    }
    let meaning = letters.iter().skip(1).zip("abcdefghijklmnopqrstuvwxyz".chars());
    meaning.fold(format!("\n{map}"), |mut all, ((fg, bg, modifier), letter)| {
        let _ = writeln!(all, "{letter} {fg} on {bg} {modifier:?}");
        all
    })
}

/// "aaab" as "3a1b".
fn runs(line: &str) -> String {
    let mut all = String::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let count = rest.chars().take_while(|c| *c == first).count();
        let _ = write!(all, "{count}{}", if first == ' ' { '.' } else { first });
        rest = &rest[count..];
    }
    all
}
