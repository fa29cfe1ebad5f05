//! Users on their way: what they press, what they see, and what is asked for in the end.

use super::driver::{Driver, PASSWORD};
use super::fixtures::{awkward_disks, disks, ended, status};
use crate::job::{Kind, Power, Request, State};
use crate::ui::facts::Hold;
use crate::ui::state::{Answer, Effect, Event, Keeper, Key};
use crate::ui::theme::Glyphs;

fn started(driver: &Driver) -> crate::job::Job {
    match driver.sent.last() {
        Some(Request::Start(job)) => job.clone(),
        other => panic!("no job was started but {other:?}"),
    }
}

#[test]
fn a_backup_to_a_new_repository_with_a_password() {
    let mut driver = Driver::new();
    driver.type_in("b");
    assert!(driver.sees("2 disks marked") || driver.sees("3 disks marked"), "{}", driver.text(132, 50));
    // Only the first disk: the others of this machine are unmarked.
    driver.keys(&[Key::Down, Key::Char(' '), Key::Down, Key::Char(' '), Key::Enter]);
    // The stick, behind its two repositories.
    driver.keys(&[Key::Enter, Key::Down, Key::Down, Key::Enter]);
    driver.type_in("secret?").key(Key::Enter).type_in("secret!").key(Key::Enter);
    assert!(driver.sees("The two are not the same"), "{}", driver.text(132, 50));
    driver.type_in("secret?").key(Key::Enter).type_in("secret?").key(Key::Enter);
    driver.key(Key::Ctrl('u')).type_in("web1 before the move").key(Key::Enter).type_in("--note").key(Key::Enter);
    assert!(driver.sees("Start the backup"), "{}", driver.text(132, 50));
    assert!(driver.sent.is_empty());
    driver.key(Key::Enter);
    let job = started(&driver);
    assert_eq!(job.kind, Kind::Capture);
    assert_eq!(job.password.as_deref(), Some("secret?"));
    assert_eq!(job.report.as_deref(), Some("/run/lifeboat/places/sdc1".as_ref()));
    let steps: Vec<Vec<&str>> =
        job.steps.iter().map(|step| step.arguments.iter().map(String::as_str).collect()).collect();
    assert_eq!(steps[0], ["init", "/run/lifeboat/places/sdc1/lifeboat-2"]);
    assert_eq!(
        steps[1],
        [
            "--repo",
            "/run/lifeboat/places/sdc1/lifeboat-2",
            "capture",
            "/dev/nvme0n1",
            "--name=web1 before the move",
            "--note=--note"
        ]
    );
    assert!(driver.is_home());
}

#[test]
fn a_backup_onto_a_disk_that_is_backed_up_is_refused() {
    let mut driver = Driver::new();
    driver.type_in("b").keys(&[Key::Enter, Key::Down, Key::Enter]);
    assert!(driver.sees("the disk that it is there to replace"), "{}", driver.text(132, 50));
    assert!(driver.sees("Where is the backup to go?"), "{}", driver.text(132, 50));
}

#[test]
fn a_disk_that_is_written_to_is_not_backed_up() {
    let mut driver = Driver::with(awkward_disks());
    driver.type_in("b").key(Key::Char(' '));
    assert!(
        driver.sees("is mounted for writing at /. An image of it would mix old and new"),
        "{}",
        driver.text(132, 50)
    );
}

#[test]
fn a_restore_needs_the_serial_number() {
    let mut driver = Driver::new();
    // Repository, this machine's newest image, the empty disk.
    driver.type_in("r").keys(&[Key::Enter, Key::Enter, Key::Enter]);
    assert!(driver.sees("is to be written to"), "{}", driver.text(132, 50));
    driver.keys(&[Key::Home, Key::Down, Key::Down, Key::Enter]);
    assert!(driver.sees("EVERYTHING ON THIS DISK WILL BE LOST: ST2000NM0008-2F3100, serial ZDH0A1B2"));
    // Without it: neither by Enter in the field nor on the button.
    driver.key(Key::Enter);
    assert!(driver.sees("That is not the serial number"));
    driver.key(Key::Enter).keys(&[Key::Up, Key::Enter]);
    assert!(driver.sees("That is not the serial number"));
    driver.key(Key::Enter).key(Key::Down).type_in("A1B").keys(&[Key::Up, Key::Enter, Key::Enter]);
    assert!(driver.sent.is_empty());
    driver.key(Key::Down).type_in("2").key(Key::Enter);
    assert!(driver.sees("ERASE AND RESTORE"), "{}", driver.text(132, 50));
    // Past the two partitions and the two options.
    driver.keys(&[Key::Down; 4]).key(Key::Enter);
    let job = started(&driver);
    assert_eq!(job.kind, Kind::Restore);
    assert_eq!(job.password, None);
    assert_eq!(
        job.steps[0].arguments,
        [
            "--repo",
            "/run/lifeboat/places/sdc1/lifeboat",
            "restore",
            "77c2d0ff00112233445566778899aabb",
            "--to",
            "disk0=/dev/sdb",
            "--confirm=ZDH0A1B2",
            "--verify"
        ]
    );
}

#[test]
fn targets_that_cannot_be_say_why() {
    let mut driver = Driver::with(awkward_disks());
    driver.type_in("r").keys(&[Key::Enter, Key::Enter, Key::Enter]);
    for (place, why) in [(0, "it is in use"), (3, "it holds the repository")] {
        driver.key(Key::Home);
        for _ in 0..place {
            driver.key(Key::Down);
        }
        driver.key(Key::Enter);
        assert!(driver.sees(why), "{}", driver.text(132, 50));
        driver.key(Key::Esc);
    }
    // One without a serial number is named by its path.
    driver.keys(&[Key::Home, Key::Down, Key::Down, Key::Enter]).type_in("/dev/sdb");
    assert!(driver.sees("that is it"), "{}", driver.text(132, 50));
}

#[test]
fn two_disks_of_an_image_go_to_different_targets() {
    let mut driver = Driver::new();
    driver.type_in("r").keys(&[Key::Enter, Key::Enter, Key::Down, Key::Down, Key::Enter]);
    // Disk 0 to sda, disk 1 first to the same.
    driver.keys(&[Key::Enter, Key::Home, Key::Down, Key::Enter, Key::Enter, Key::Home, Key::Down, Key::Enter]);
    assert!(driver.sees("another disk of the image goes there already"), "{}", driver.text(132, 50));
    driver.keys(&[Key::Esc, Key::Down, Key::Enter]);
    assert!(driver.sees("Go on with 2 disks"), "{}", driver.text(132, 50));
    driver.key(Key::Enter).type_in("9L2A").key(Key::Enter).type_in("ZDH0A1B2").key(Key::Enter);
    driver.keys(&[Key::Char(' '), Key::Down, Key::Char(' '), Key::Down, Key::Enter]);
    let arguments = started(&driver).steps[0].arguments.join(" ");
    assert!(
        arguments.ends_with(
            "restore 90aa11be00112233445566778899aabb --to disk0=/dev/sda --confirm=WD-WCC2E3XR9L2A \
            --to disk1=/dev/sdb --confirm=ZDH0A1B2 --changed-only"
        ),
        "{arguments}"
    );
}

#[test]
fn a_target_that_went_away_is_not_written() {
    let mut driver = Driver::new();
    driver.type_in("r").keys(&[Key::Enter, Key::Enter, Key::Enter, Key::Home, Key::Down, Key::Down, Key::Enter]);
    driver.type_in("ZDH0A1B2");
    let mut fewer = disks();
    fewer.remove(2);
    driver.answer(Answer::Disks(Ok(fewer)));
    driver.keys(&[Key::Up, Key::Enter]);
    assert!(driver.sees("That disk is gone"), "{}", driver.text(132, 50));
    assert!(driver.sent.is_empty());
}

#[test]
fn passwords_are_asked_for_until_they_are_right() {
    let mut driver = Driver::new();
    driver.type_in("v").keys(&[Key::Enter, Key::Down, Key::Enter]).type_in("wrong").key(Key::Enter);
    assert!(driver.sees("That is not the password") && !driver.sees("wrong"), "{}", driver.text(132, 50));
    driver.type_in(PASSWORD).key(Key::Enter);
    assert!(driver.sees("The whole repository"), "{}", driver.text(132, 50));
    driver.key(Key::Enter);
    let job = started(&driver);
    assert_eq!(job.password.as_deref(), Some(PASSWORD));
    assert_eq!(job.steps[0].arguments.join(" "), "--repo /run/lifeboat/places/sdc1/locked verify --read-data");
}

#[test]
fn every_console_shows_the_job_and_may_control_it() {
    let mut driver = Driver::new();
    driver.job(status(Kind::Capture, State::Running));
    assert!(driver.sees("41 %") && driver.sees("31.0 GiB of 74.0 GiB"), "{}", driver.text(132, 50));
    driver.type_in("p");
    assert_eq!(driver.sent, [Request::Pause]);
    driver.job(status(Kind::Capture, State::Paused)).type_in("p");
    assert_eq!(driver.sent.last(), Some(&Request::Resume));
    // The harmless answer is the marked one.
    driver.type_in("c").key(Key::Enter);
    assert_eq!(driver.sent.len(), 2);
    driver.type_in("c").keys(&[Key::Right, Key::Enter]);
    assert_eq!(driver.sent.last(), Some(&Request::Cancel));
    // Esc leaves it running; the line and F2 lead back.
    driver.key(Key::Esc);
    assert!(driver.is_home() && driver.sees("F2 shows it"));
    driver.job(status(Kind::Capture, State::Running));
    assert!(driver.is_home());
    driver.key(Key::Function(2));
    assert!(driver.sees("Step 2 of 2"));
    driver.job(ended(Kind::Capture, 0, None));
    assert!(driver.sees("Done, in 3 min 14 s."), "{}", driver.text(132, 50));
    driver.key(Key::Enter);
    assert_eq!(driver.sent.last(), Some(&Request::Dismiss));
    driver.event(Event::Job(None));
    assert!(driver.is_home());
}

#[test]
fn what_is_being_prepared_waits_behind_a_job_of_another_console() {
    let mut driver = Driver::new();
    driver.type_in("b").key(Key::Enter);
    driver.job(status(Kind::Verify, State::Running)).key(Key::Esc);
    assert!(driver.sees("Where is the backup to go?"), "{}", driver.text(132, 50));
    // A job that ends is shown to those who watch it; others are told.
    driver.job(ended(Kind::Verify, 0, None));
    assert!(driver.sees("Where is the backup to go?") && driver.sees("Verify web1: done"));
}

#[test]
fn one_job_at_a_time_and_none_without_a_keeper() {
    let mut driver = Driver::new();
    driver.job(status(Kind::Verify, State::Running)).keys(&[Key::Esc, Key::Char('b')]);
    assert!(driver.sees("Something is being done already"));
    driver.key(Key::Enter);
    driver.event(Event::Job(None));
    driver.event(Event::KeeperLost);
    assert_eq!(driver.state.world.keeper, Keeper::Lost);
    driver.type_in("r");
    assert!(driver.sees("What does the work is not there yet"), "{}", driver.text(132, 50));
}

#[test]
fn the_machine_is_turned_off_after_a_question() {
    let mut driver = Driver::new();
    driver.type_in("o").keys(&[Key::Enter]);
    assert!(driver.sent.is_empty());
    driver.type_in("o").keys(&[Key::Tab, Key::Enter]);
    driver.type_in("t").keys(&[Key::Tab, Key::Enter]);
    assert_eq!(driver.sent, [Request::Power(Power::Off), Request::Power(Power::Reboot)]);
    driver.event(Event::Refused("a job runs; cancel it first".into()));
    assert!(driver.sees("a job runs; cancel it first"));
}

#[test]
fn answers_that_nobody_waits_for_any_more_change_nothing() {
    let mut driver = Driver::new();
    driver.silent = true;
    driver.type_in("i");
    let Some(Effect::ListPlaces(first)) = driver.others.pop() else { panic!("no places asked for") };
    driver.type_in("u");
    driver.answer(Answer::Places(first, Err("too late".into())));
    assert!(!driver.sees("too late"));
    let Some(Effect::ListPlaces(second)) = driver.others.pop() else { panic!("no places asked for") };
    driver.answer(Answer::Places(second, Err("no sysfs".into())));
    assert!(driver.sees("Places cannot be listed: no sysfs. Press u to try again."));
}

#[test]
fn keys_that_mean_the_same_everywhere() {
    let mut driver = Driver::new();
    driver.type_in("?");
    assert!(driver.sees("These keys work everywhere"));
    driver.key(Key::Esc).key(Key::Ctrl('t'));
    assert_eq!(driver.state.world.theme.glyphs, Glyphs::Console);
    assert_eq!(driver.others, [Effect::Redraw]);
    // In a field it is a character.
    driver.type_in("v").keys(&[Key::End, Key::Enter]).type_in("?");
    assert!(driver.sees("[/?"), "{}", driver.text(132, 50));
    driver.key(Key::Function(1));
    assert!(driver.sees("These keys work everywhere"));
}

#[test]
fn a_disk_that_was_only_looked_at_can_be_let_go() {
    let mut held = disks();
    held[3].writers = vec!["/dev/sdc1 is mounted for writing at /run/lifeboat/places/sdc1".into()];
    held[3].users = vec!["/dev/sdc1 is mounted at /run/lifeboat/places/sdc1".into()];
    held[3].hold = Hold::Ours;
    let mut driver = Driver::with(held);
    driver.type_in("b").keys(&[Key::End, Key::Char(' ')]);
    assert!(driver.sees("Unmount SanDisk Ultra, serial 4C530001230523"), "{}", driver.text(132, 50));
    driver.key(Key::Enter);
    assert!(driver.others.is_empty());
    driver.keys(&[Key::Char(' '), Key::Tab, Key::Enter]);
    assert_eq!(driver.others, [Effect::Release("/dev/sdc".into())]);
}

#[test]
fn some_partitions_are_restored_and_the_others_stay() {
    let mut driver = Driver::new();
    driver.type_in("r").keys(&[Key::Enter, Key::Enter, Key::Enter, Key::Home, Key::Enter]).type_in("3456");
    driver.keys(&[Key::Down, Key::Down, Key::Char(' ')]);
    assert!(driver.sees("PARTITIONS 1 OF THIS DISK WILL BE LOST: Samsung"), "{}", driver.text(132, 50));
    driver.keys(&[Key::Up, Key::Char(' ')]);
    while !driver.sees("Enter ERASE AND RESTORE") {
        driver.key(Key::Down);
    }
    driver.key(Key::Enter);
    assert!(driver.sees("No partition is marked"), "{}", driver.text(132, 50));
    driver.key(Key::Enter);
    while !driver.sees("► [ ] partition 2") {
        driver.key(Key::Up);
    }
    driver.key(Key::Char(' '));
    while !driver.sees("Enter ERASE AND RESTORE") {
        driver.key(Key::Down);
    }
    driver.key(Key::Enter);
    let arguments = started(&driver).steps[0].arguments.join(" ");
    assert!(arguments.ends_with("--to disk0=/dev/nvme0n1 --confirm=S5GXNX0T123456 --only=2 --verify"), "{arguments}");
}

#[test]
fn the_network_is_set_up() {
    let mut driver = Driver::new();
    driver.type_in("n").key(Key::Enter);
    assert!(driver.sees("could not be set up: no answer"), "{}", driver.text(132, 50));
    driver.keys(&[Key::Down, Key::Enter]).type_in("10.0.0.5/24").key(Key::Enter);
    assert!(driver.sees("eno1 has 10.0.0.5/24"), "{}", driver.text(132, 50));
}

#[test]
fn a_clone_needs_the_serial_number_of_its_target() {
    let mut driver = Driver::new();
    driver.type_in("c").keys(&[Key::Down, Key::Enter]);
    assert!(driver.sees("is to be written to"), "{}", driver.text(132, 50));
    // Onto itself, and onto a smaller one.
    driver.keys(&[Key::Home, Key::Down, Key::Enter]);
    assert!(driver.sees("it is the one that is read"), "{}", driver.text(132, 50));
    driver.key(Key::Esc).keys(&[Key::End, Key::Enter]);
    assert!(driver.sees("it is too small"), "{}", driver.text(132, 50));
    driver.key(Key::Esc).keys(&[Key::Home, Key::Down, Key::Down, Key::Enter]);
    assert!(driver.sees("EVERYTHING ON THIS DISK WILL BE LOST: ST2000NM0008-2F3100, serial ZDH0A1B2"));
    driver.type_in("9L2A").key(Key::Enter);
    assert!(driver.sees("That is not the serial number"), "{}", driver.text(132, 50));
    driver.keys(&[Key::Enter, Key::Up, Key::Enter]);
    assert!(driver.sent.is_empty());
    driver.keys(&[Key::Enter, Key::Down, Key::Ctrl('u')]).type_in("A1B2").keys(&[
        Key::Enter,
        Key::Down,
        Key::Char(' '),
    ]);
    driver.keys(&[Key::Down, Key::Enter]);
    let job = started(&driver);
    assert_eq!(job.kind, Kind::Clone);
    assert_eq!(
        job.steps[0].arguments,
        ["copy", "/dev/sda", "--to", "/dev/sdb", "--confirm=ZDH0A1B2", "--verify", "--new-ids"]
    );
}

fn browsing() -> Driver {
    let mut driver = Driver::new();
    // This machine's newest image, its second partition.
    driver.type_in("i").keys(&[Key::Enter; 4]).keys(&[Key::End, Key::Enter]);
    assert!(driver.sees("7 names; nothing tagged"), "{}", driver.text(132, 50));
    driver
}

#[test]
fn files_are_tagged_in_several_directories_and_copied_together() {
    let mut driver = browsing();
    driver.keys(&[Key::Down, Key::Enter]);
    assert!(driver.sees("/etc") && driver.sees("[ ] -rw-r--r-- 999 B"), "{}", driver.text(132, 50));
    assert!(driver.sees("Not all of this directory can be read"), "{}", driver.text(132, 50));
    driver.key(Key::Char(' '));
    assert!(driver.sees("1 tagged: 1 file (999 B)"), "{}", driver.text(132, 50));
    // Back to where the cursor was.
    driver.key(Key::Backspace);
    assert!(driver.sees("► [ ] drwxr-xr-x 2026-09-30 17:05 etc/"), "{}", driver.text(132, 50));
    // A second fstab cannot go into the same directory.
    driver.keys(&[Key::Down, Key::Down, Key::Char(' ')]);
    assert!(driver.sees("two of the same name cannot go into one directory"), "{}", driver.text(132, 50));
    driver.keys(&[Key::Enter, Key::Down, Key::Char(' ')]);
    assert!(driver.sees("lost is damaged in the image"), "{}", driver.text(132, 50));
    driver.keys(&[Key::Enter, Key::Down, Key::Char(' ')]);
    assert!(driver.sees("slash/name cannot be copied by itself"), "{}", driver.text(132, 50));
    driver.keys(&[Key::Enter, Key::End, Key::Char(' '), Key::Char('c')]);
    assert!(driver.sees("Where are the copies to go?"), "{}", driver.text(132, 50));
    driver.key(Key::Enter);
    assert!(driver.sees("1 file (999 B), 1 directory with all in it"), "{}", driver.text(132, 50));
    assert!(driver.sent.is_empty());
    driver.key(Key::Enter);
    let job = started(&driver);
    assert_eq!((job.kind, job.report.as_deref()), (Kind::Copy, Some("/run/lifeboat/places/sdc1".as_ref())));
    assert_eq!(
        job.steps[0].arguments,
        [
            "--repo",
            "/run/lifeboat/places/sdc1/lifeboat",
            "cp",
            "-r",
            "--make-directory",
            "--",
            "77c2d0ff00112233445566778899aabb:p2/etc/fstab",
            "77c2d0ff00112233445566778899aabb:p2/var",
            "/run/lifeboat/places/sdc1/image-77c2d0ff-2026-11-01"
        ]
    );
    // A job that was refused leaves the tags as they were.
    assert!(driver.sees("2 tagged"), "{}", driver.text(132, 50));
    driver.type_in("n");
    assert!(driver.sees("nothing tagged"), "{}", driver.text(132, 50));
}

#[test]
fn without_tags_what_is_marked_is_copied() {
    let mut driver = browsing();
    driver.keys(&[Key::Down, Key::Down, Key::Down, Key::Char('c'), Key::Enter, Key::Enter]);
    let arguments = &started(&driver).steps[0].arguments;
    assert_eq!(arguments[6], "77c2d0ff00112233445566778899aabb:p2/fstab");
}

#[test]
fn escape_leads_from_the_files_to_the_image() {
    let mut driver = browsing();
    driver.keys(&[Key::Down, Key::Enter, Key::Char('c')]);
    for sight in ["1 name; nothing tagged", "7 names; nothing tagged", "The files of which partition?", "Taken"] {
        driver.key(Key::Esc);
        assert!(driver.sees(sight), "{sight}: {}", driver.text(132, 50));
    }
}

#[test]
fn only_the_newest_answer_is_shown() {
    let mut driver = browsing();
    driver.silent = true;
    driver.keys(&[Key::Down, Key::Enter]);
    assert!(driver.sees("The directory is being read"), "{}", driver.text(132, 50));
    // Keys have nothing to be about yet.
    driver.keys(&[Key::Char(' '), Key::Enter, Key::Char('c')]);
    assert!(driver.sees("There is nothing to copy here"), "{}", driver.text(132, 50));
    let Some(Effect::ListFiles(old, ..)) = driver.others.last().cloned() else { panic!("{:?}", driver.others) };
    driver.keys(&[Key::Enter, Key::Backspace]);
    let listing = std::sync::Arc::new(super::fixtures::listing(imager::files::NodeId(12), ""));
    driver.answer(Answer::Listed(old, listing));
    assert!(driver.sees("The directory is being read"), "{}", driver.text(132, 50));
}

#[test]
fn links_are_followed_and_names_found() {
    let mut driver = browsing();
    driver.key(Key::Enter);
    assert!(driver.sees("p2: /usr/bin") && driver.sees("2 names"), "{}", driver.text(132, 50));
    // Out of the partition: that is said, and the next key is about something else.
    driver.key(Key::Enter);
    assert!(driver.sees("The link awk cannot be followed. It leads out of this partition"), "{}", driver.text(132, 50));
    driver.key(Key::Down);
    assert!(!driver.sees("cannot be followed"), "{}", driver.text(132, 50));
    // To a file: into its directory, and to the file.
    driver.keys(&[Key::Enter, Key::Char(' ')]);
    assert!(driver.sees("p2: /etc") && driver.sees("1 tagged: 1 file (999 B)"), "{}", driver.text(132, 50));
    driver.key(Key::Backspace);
    assert!(driver.sees("► [ ] drwxr-xr-x 2026-09-30 17:05 etc/"), "{}", driver.text(132, 50));

    driver.keys(&[Key::End, Key::Enter]).type_in("/?").key(Key::Backspace).type_in("log.07").key(Key::Enter);
    assert!(driver.sees("10 of 100000 names with \"log.07\" in them"), "{}", driver.text(132, 50));
    assert!(!driver.sees("Only the first"), "{}", driver.text(132, 50));
    driver.keys(&[Key::Down, Key::Esc]);
    // What was marked among them is marked among all.
    assert!(driver.sees("100000 names") && driver.sees("► [ ] -rw-r----- 71.0 MiB"), "{}", driver.text(132, 50));
    driver.key(Key::Esc);
    assert!(driver.sees("7 names"), "{}", driver.text(132, 50));
}

#[test]
fn a_link_that_was_left_is_not_followed_any_more() {
    let mut driver = browsing();
    driver.silent = true;
    driver.key(Key::Enter);
    assert!(driver.sees("The link is being followed"), "{}", driver.text(132, 50));
    let Some(Effect::FollowLink(old, ..)) = driver.others.last().cloned() else { panic!("{:?}", driver.others) };
    driver.key(Key::Down).answer(Answer::Followed(old, super::fixtures::led(imager::files::NodeId(20))));
    assert!(driver.sees("7 names; nothing tagged"), "{}", driver.text(132, 50));
}
