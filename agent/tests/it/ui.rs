//! The user interface on real lines, with a real keeper, real disks and a real repository.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::console::{Console, Flow, Terminal, pseudo_terminal};

const DOWN: &str = "\x1b[B";
const UP: &str = "\x1b[A";
const ESCAPE: &str = "\x1b";

/// A directory with a keeper that works in it.
struct Machine {
    folder: tempfile::TempDir,
    keeper: Child,
}

impl Machine {
    fn start() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for name in ["run", "places"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let mut keeper = Command::new(env!("CARGO_BIN_EXE_agent"));
        let keeper = keeper.arg("jobs").env("LIFEBOAT_RUN", folder.path().join("run")).spawn().unwrap();
        Self { folder, keeper }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn console(&self, terminal: Terminal) -> Console {
        let console = Console::open(&self.path("run"), &self.path("places"), terminal);
        console.wait_for("Back up");
        console
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// A file as a disk.
struct Loop(String);

impl Loop {
    fn attach(file: &Path) -> Self {
        let output = Command::new("losetup").args(["-fP", "--show"]).arg(file).output().unwrap();
        assert!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        Self(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    fn name(&self) -> &str {
        self.0.trim_start_matches("/dev/")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// A disk with a table and one ext4 file system with a file in it.
fn make_disk(machine: &Machine) -> PathBuf {
    let (disk, tree) = (machine.path("source.img"), machine.path("tree"));
    fs::create_dir(&tree).unwrap();
    let bytes: Vec<u8> =
        (0..3_000_000u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(tree.join("numbers"), bytes).unwrap();
    fs::File::create(&disk).unwrap().set_len(96 << 20).unwrap();
    let script = format!(
        "echo 'label: gpt\nstart=2048, size=80MiB, type=L' | sfdisk -q {0} && \
        mkfs.ext4 -q -d {1} -E offset=1048576 {0} 80M",
        disk.display(),
        tree.display()
    );
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    disk
}

#[test]
fn a_disk_is_backed_up_and_restored_by_hand_on_two_consoles() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: loop devices need root");
        return;
    }
    let machine = Machine::start();
    let source = make_disk(&machine);
    let target = machine.path("target.img");
    fs::write(&target, vec![0x55; 128 << 20]).unwrap();
    let (from, to) = (Loop::attach(&source), Loop::attach(&target));
    let mut first = machine.console(Terminal::Answers(100, 40));
    let mut second = machine.console(Terminal::Answers(80, 24));
    first.wait_for(from.name());

    // Which disk, where to, with a password, under which name.
    first.press("b");
    first.wait_for("disks marked");
    // All, then none: whatever other disks there are.
    first.press("aa");
    first.wait_for("0 disks marked");
    first.go_to(DOWN, from.name());
    first.press(" ");
    first.wait_for("1 disk marked");
    first.press("\r");
    first.wait_for("(a directory)");
    first.go_to(DOWN, "(a directory)");
    first.press("\r");
    first.wait_for("A new repository:");
    first.press("\r");
    first.wait_for("With a password, nobody can read the images without it");
    first.press("key?\rkey?\r");
    first.wait_for("How will you know this image again?");
    first.press("\x15by hand\r\r");
    first.wait_for("Start the backup");
    assert!(!machine.path("places/lifeboat").exists());
    first.press("\r");
    // Both consoles show what came of it, until one of them says that it was read.
    first.wait_for("Done, in");
    second.wait_for("Done, in");
    assert!(second.sees("A new repository, encrypted."), "{}", second.text());
    second.press("\r");
    second.wait_for("Look at images");
    first.wait_for("Look at images");
    let reports = fs::read_dir(machine.path("places")).unwrap();
    assert_eq!(reports.filter(|found| found.as_ref().unwrap().path().extension().is_some()).count(), 2);

    // The other console restores it.
    second.press("r");
    second.wait_for("(a directory)");
    second.go_to(DOWN, "(a directory)");
    second.press("\r");
    second.wait_for("one repository in it");
    second.press("\r");
    second.wait_for("is encrypted");
    second.press("key!\r");
    second.wait_for("That is not the password");
    second.press("key?\r");
    second.wait_for("by hand");
    second.press("\r");
    second.wait_for("is to be written to:");
    second.go_to(DOWN, to.name());
    second.press("\r");
    second.wait_for("EVERYTHING ON THIS DISK WILL BE LOST");
    second.press("\r");
    second.wait_for("Nothing is overwritten without it");
    assert_eq!(fs::read(&target).unwrap(), vec![0x55; 128 << 20]);
    second.press("\r");
    second.press(&to.0);
    second.wait_for("that is it");
    second.go_to(UP, "ERASE AND RESTORE");
    second.press("\r");
    second.wait_for("Read back and found equal.");
    first.wait_for("Read back and found equal.");

    // What is on the partition is on the partition.
    let target = fs::read(&target).unwrap();
    let numbers = machine.path("tree/numbers");
    let restored = machine.path("restored");
    let part = machine.path("part.img");
    fs::write(&part, &target[1 << 20..81 << 20]).unwrap();
    let dump = format!("dump numbers {}", restored.display());
    assert!(Command::new("debugfs").args(["-R", &dump]).arg(&part).status().unwrap().success());
    assert!(fs::read(&numbers).unwrap() == fs::read(&restored).unwrap(), "the file differs");
    assert!(Command::new("fsck.ext4").arg("-nf").arg(&part).status().unwrap().success());
}

#[test]
fn a_line_without_a_size_is_asked_for_it() {
    let machine = Machine::start();
    let mut large = machine.console(Terminal::Answers(132, 50));
    large.wait_for_size((132, 50));
    let mute = machine.console(Terminal::Mute);
    mute.wait_for_size((80, 24));
    // A picture of the size that noise makes up would not fit into any memory.
    let lies = machine.console(Terminal::Lies);
    sleep(Duration::from_secs(1));
    lies.wait_for_size((80, 24));
    lies.wait_for("Back up");
    assert!(!large.is_as_before());
    large.press("q");
    large.wait_for_end();
    assert!(large.is_as_before());
}

#[test]
fn an_arrow_that_a_slow_line_cuts_into_pieces_is_an_arrow() {
    let machine = Machine::start();
    let mut console = machine.console(Terminal::Answers(80, 24));
    console.press("n");
    console.wait_for("Lifeboat network");
    // In pieces it still is no Escape, which would leave the screen.
    for piece in [ESCAPE, "[", "B"] {
        console.press(piece);
        sleep(Duration::from_millis(25));
    }
    sleep(Duration::from_millis(300));
    assert!(console.sees("Lifeboat network"), "{}", console.text());
    console.press(ESCAPE);
    console.wait_for("Lifeboat this machine");
}

#[test]
fn little_is_sent_over_a_line_where_nothing_changes() {
    let machine = Machine::start();
    let console = machine.console(Terminal::Answers(80, 24));
    sleep(Duration::from_secs(2));
    let first = console.received();
    // 9,600 baud carry 960 bytes a second. The menu comes first, then the disks as they are read, also those of other
    // tests.
    assert!(first < 5 * 960, "{first} bytes for the first pictures");
    // Other tests bring disks, which are shown: but not all the time.
    let quiet = (0..20).any(|_| {
        let before = console.received();
        sleep(Duration::from_secs(2));
        console.received() - before < 40
    });
    assert!(quiet, "{} bytes in all", console.received());
}

#[test]
fn files_of_an_image_are_looked_at_tagged_and_copied() {
    let machine = Machine::start();
    let (disk, tree) = (machine.path("source.img"), machine.path("tree"));
    fs::create_dir_all(tree.join("etc/deep")).unwrap();
    fs::create_dir(tree.join("many")).unwrap();
    std::os::unix::fs::symlink("./etc/deep", tree.join("link")).unwrap();
    std::os::unix::fs::symlink("/run/elsewhere", tree.join("nowhere")).unwrap();
    fs::write(tree.join("etc/fstab"), "one\n").unwrap();
    fs::write(tree.join("etc/deep/file"), vec![7; 100_000]).unwrap();
    fs::write(tree.join("other"), "two\n").unwrap();
    // A name that clears the screen, and one that is no text.
    fs::write(tree.join("a\x1b[2Jb"), "three\n").unwrap();
    fs::write(tree.join(OsStr::from_bytes(b"b\xff")), "four\n").unwrap();
    for number in 0..5_003 {
        fs::write(tree.join(format!("many/{number:05}")), "").unwrap();
    }
    let script = format!("truncate -s 64M {0} && mkfs.ext4 -q -N 8000 -d {1} {0}", disk.display(), tree.display());
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    let repository = machine.path("places/lifeboat");
    for arguments in [
        vec!["init".as_ref(), repository.as_os_str()],
        vec!["--repo".as_ref(), repository.as_os_str(), "capture".as_ref(), disk.as_os_str(), "--name=web 1".as_ref()],
    ] {
        let mut imager = Command::new(env!("CARGO_BIN_EXE_agent"));
        imager.arg0("imager").args(&arguments).env("IMAGER_PASSWORD", "key?");
        let ran = imager.output().unwrap();
        assert!(ran.status.success(), "{arguments:?}: {ran:?}");
    }

    let mut console = machine.console(Terminal::Answers(120, 40));
    console.press("i");
    console.wait_for("(a directory)");
    console.go_to(DOWN, "(a directory)");
    console.press("\r");
    console.wait_for("one repository in it");
    console.press("\r");
    console.wait_for("is encrypted");
    console.press("key?\r");
    console.wait_for("web 1");
    console.press("\r");
    console.wait_for("its files");
    console.press("\r");
    console.wait_for("The files of which partition?");
    console.press("\r");
    console.wait_for("nothing tagged");
    assert!(console.sees("a\\x1b[2Jb") && console.sees("b\\xff"), "{}", console.text());
    console.go_to(DOWN, "\\x1b[2Jb");
    console.press(" ");
    console.wait_for("1 tagged");
    console.go_to(DOWN, "b\\xff");
    console.press(" ");
    console.wait_for("2 tagged");
    console.go_to(DOWN, "link -> ./etc/deep");
    console.press("\r");
    console.wait_for("1 name; 2 tagged");
    assert!(console.sees("/etc/deep"), "{}", console.text());
    console.press("\x7f");
    console.wait_for("deep/");
    console.press("\x7f");
    console.wait_for("nowhere");
    console.go_to(DOWN, "nowhere -> /run/elsewhere");
    console.press("\r");
    console.wait_for("There is no run on this partition");
    console.go_to(UP, "many/");
    console.press("\r");
    console.wait_for("5003 names; 2 tagged");
    console.wait_for("Only the first 5000 of them are shown");
    console.press("/0500\r");
    console.wait_for("4 of 5003 names with \"0500\" in them");
    console.press(ESCAPE);
    console.wait_for("5003 names; 2 tagged");
    console.press("\x7f");
    console.wait_for("etc/");
    console.go_to(UP, "etc/");
    console.press(" ");
    console.wait_for("3 tagged");
    console.press("c");
    console.wait_for("Where are the copies to go?");
    console.wait_for("(a directory)");
    console.go_to(DOWN, "(a directory)");
    console.press("\r");
    console.wait_for("Start the copy");
    let copies = || -> Vec<PathBuf> {
        let found = fs::read_dir(machine.path("places")).unwrap().map(|found| found.unwrap().path());
        found.filter(|path| path.is_dir() && *path != repository).collect()
    };
    assert!(copies().is_empty());
    console.press("\r");
    console.wait_for("Done, in");
    assert!(console.sees("4 files"), "{}", console.text());
    let [copy] = &copies()[..] else { panic!("{:?}", copies()) };
    assert!(copy.file_name().unwrap().to_str().unwrap().starts_with("web-1-20"), "{}", copy.display());
    for name in [&b"etc/fstab"[..], b"etc/deep/file", b"a\x1b[2Jb", b"b\xff"] {
        let name = OsStr::from_bytes(name);
        assert_eq!(fs::read(copy.join(name)).unwrap(), fs::read(tree.join(name)).unwrap(), "{name:?}");
    }
    assert!(!copy.join("other").exists() && !copy.join("many").exists());
    // The report is beside it. The files are still there when the result was read.
    let mut texts = fs::read_dir(machine.path("places")).unwrap().map(|found| found.unwrap().path());
    let report = texts.find(|path| path.extension().is_some_and(|end| end == "txt")).unwrap();
    let report = fs::read_to_string(report).unwrap();
    assert!(report.contains("Result:  done") && report.contains("files: 4"), "{report}");
}

/// A backup of noise that takes its time, begun over the keeper's socket.
fn long_backup(machine: &Machine) {
    let (disk, repository) = (machine.path("noise.img"), machine.path("places/lifeboat"));
    let mut state = 1u64;
    let mut bytes = vec![0; 96 << 20];
    for chunk in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&(state & 0x0f0f_0f0f_0f0f_0f0f).to_le_bytes());
    }
    fs::write(&disk, bytes).unwrap();
    let steps = json!([
        {"says": "make the repository", "arguments": ["init", repository, "--no-password"]},
        {"says": "back up", "arguments": ["capture", disk, "--repo", repository, "--name", "test", "--level", "15"]},
    ]);
    let job = json!({"type": "start", "title": "Back up noise", "kind": "capture", "steps": steps, "password": null,
        "report": machine.path("places"), "then": null});
    let mut keeper = UnixStream::connect(machine.path("run/jobs")).unwrap();
    keeper.write_all(format!("{job}\n").as_bytes()).unwrap();
    // It hears the request before the line is closed.
    BufReader::new(&keeper).lines().find(|line| line.as_ref().unwrap().contains("noise")).unwrap().unwrap();
}

#[test]
fn a_killed_user_interface_comes_back_to_the_job_and_every_console_drives_it() {
    let machine = Machine::start();
    let mut first = machine.console(Terminal::Answers(80, 24));
    let mut second = machine.console(Terminal::Answers(80, 24));
    long_backup(&machine);
    first.wait_for("Back up noise");
    second.wait_for("reading and storing");
    first.press("p");
    second.wait_for("PAUSED");
    first.kill();
    second.press("p");
    second.wait_for("working");

    // As PID 1 starts it again, on the same line.
    let mut again = Console::open(&machine.path("run"), &machine.path("places"), Terminal::Answers(80, 24));
    again.wait_for("Back up noise");
    again.press("p");
    second.wait_for("PAUSED");
    second.press("c");
    second.wait_for("Cancel this?");
    second.press("\t\r");
    again.wait_for("Cancelled after");
    second.wait_for("Cancelled after");
}

#[test]
fn a_programming_error_ends_what_it_is_in_and_never_leaves_a_screen_that_does_not_hear() {
    if !cfg!(debug_assertions) {
        eprintln!("skipped: only builds for tests can be broken on purpose");
        return;
    }
    let machine = Machine::start();
    let open = |thread| {
        let places = machine.path("places");
        let console = Console::open_to_break(&machine.path("run"), &places, Terminal::Answers(80, 24), thread);
        console.wait_for("Back up");
        console
    };
    for thread in ["main", "keys"] {
        let mut console = open(thread);
        console.press("!");
        console.wait_for_end();
        assert!(console.is_as_before(), "{thread}");
    }
    // Whatever was asked for is not to be had; all else is.
    let mut console = open("effect");
    console.press("l");
    console.wait_for("A programming error kept that from being done");
    console.press("\r");
    console.press(ESCAPE);
    console.wait_for("Look at images");
    console.press("n");
    console.wait_for("Lifeboat network");
}

#[test]
fn a_console_that_takes_no_more_does_not_fill_the_memory_and_goes_on_later() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for name in ["run", "places"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let listener = UnixListener::bind(folder.path().join("run/jobs")).unwrap();
    let terminal = Terminal::Answers(80, 24);
    let console = Console::open(&folder.path().join("run"), &folder.path().join("places"), terminal);
    let status = |message: &str, state: serde_json::Value| {
        let status = json!({"number": 1, "title": "A long job", "kind": "capture", "steps": ["work"], "step": 0,
            "state": state, "seconds": 1, "progress": null, "rates": [], "messages": [message], "results": [],
            "report": null});
        format!("{status}\n").into_bytes()
    };
    let (mut keeper, _) = listener.accept().unwrap();
    keeper.write_all(&status("", json!({"is": "running"}))).unwrap();
    console.wait_for("A long job");

    console.set_flow(Flow::Off);
    keeper.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    let long = "x".repeat(64 << 10);
    let mut written = 0;
    while keeper.write_all(&status(&format!("{written} {long}"), json!({"is": "running"}))).is_ok() {
        written += long.len();
        assert!(written < 256 << 20, "it takes whatever comes");
    }
    // The keeper gives such a console up, which finds it again when it can.
    drop(keeper);
    console.set_flow(Flow::On);
    let (mut keeper, _) = listener.accept().unwrap();
    keeper.write_all(&status("", json!({"is": "ended", "exit_code": 0, "error": null}))).unwrap();
    console.wait_for("Done, in");
}

#[test]
fn a_line_that_is_unplugged_ends_the_user_interface_and_one_that_is_not_there_begins_none() {
    let machine = Machine::start();
    // As soon as the first picture begins, and while the terminal is asked for its size and those who draw wait.
    for (seen, pause) in [("\x1b", Duration::ZERO), ("\x1b[6n", Duration::from_millis(1500))] {
        let (mut line, terminal) = pseudo_terminal();
        let end = || std::process::Stdio::from(terminal.try_clone().unwrap());
        let mut ui = Command::new(env!("CARGO_BIN_EXE_agent"));
        ui.arg("ui").env("LIFEBOAT_RUN", machine.path("run")).stdin(end()).stdout(end()).stderr(end());
        let mut ui = ui.spawn().unwrap();
        let mut said = Vec::new();
        while !said.windows(seen.len()).any(|window| window == seen.as_bytes()) {
            let mut buffer = [0; 4096];
            let len = std::io::Read::read(&mut line, &mut buffer).unwrap();
            said.extend_from_slice(&buffer[..len]);
        }
        sleep(pause);
        drop(line);
        let began = std::time::Instant::now();
        while ui.try_wait().unwrap().is_none() {
            if began.elapsed() > Duration::from_secs(60) {
                ui.kill().unwrap();
                panic!("it goes on without a line that ended after {seen:?}");
            }
            sleep(Duration::from_millis(20));
        }
    }
    let none = Command::new(env!("CARGO_BIN_EXE_agent")).args(["console", "ttyNONE", "ui"]).status().unwrap();
    assert_eq!(none.code(), Some(1));
}
