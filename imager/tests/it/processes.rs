//! The real program on real directories: killed at many moments, stopped with Ctrl-C, on a file system that is
//! full, and on one that has no links.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::engine::{TestDisk, assert_same, within};
use crate::support::{Loop, Mount, run, sh, sparse_file};
use crate::volume::{Random, Scratch};

const LIMIT: Duration = Duration::from_secs(120);

/// A disk image with 16 MiB of files that do not compress, and the same on the next day.
fn disk_images(scratch: &Scratch) -> [(PathBuf, Vec<u8>); 2] {
    let files = scratch.path("files");
    std::fs::create_dir(&files).unwrap();
    let mut random = Random::new(7);
    ["first", "second"].map(|day| {
        for number in 0..8 {
            // Every second file changes.
            if day == "first" || number % 2 == 0 {
                std::fs::write(files.join(number.to_string()), random.bytes(2 << 20)).unwrap();
            }
        }
        let disk = sparse_file(&scratch.path(day), 26 << 20);
        sh(&format!(
            "cd {root}; echo 'start=2048,type=83' | sfdisk -q --label dos {day}
             mkfs.ext4 -q -d files -E offset=1048576 -U 5e1f0000-0000-4000-8000-000000000002 {day} 24m",
            root = scratch.root().display()
        ));
        let restored = TestDisk::new(std::fs::read(&disk).unwrap()).restored;
        (disk, restored)
    })
}

/// A repository and the program to use it with.
struct Cli {
    repository: PathBuf,
}

impl Cli {
    fn init(repository: PathBuf) -> Self {
        let cli = Self { repository };
        run(env!("CARGO_BIN_EXE_imager"), ["init", "--no-password", cli.repository.to_str().unwrap()]);
        cli
    }

    /// Another repository with the same content.
    fn copy(&self, to: PathBuf) -> Self {
        run("cp", ["-a".as_ref(), self.repository.as_os_str(), to.as_os_str()]);
        Self { repository: to }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imager"));
        command.args(args).arg("--json").env("IMAGER_REPO", &self.repository);
        command
    }

    fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Runs to the end; gives the exit code, the last line of JSON and what was said.
    fn finish(&self, args: &[&str]) -> (Option<i32>, Value, String) {
        let output = within(LIMIT, &format!("{args:?}"), || self.command(args).output().unwrap());
        let lines = String::from_utf8(output.stdout).unwrap();
        let last = lines.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).unwrap());
        (output.status.code(), last, String::from_utf8(output.stderr).unwrap())
    }

    /// Runs to the end, which must be a good one.
    fn must(&self, args: &[&str]) -> Value {
        let (code, answer, said) = self.finish(args);
        assert_eq!(code, Some(0), "{args:?}: {answer} {said}");
        answer
    }

    /// Captures with packs of 4 MiB.
    fn capture(&self, disk: &Path) -> Value {
        self.must(&capture_args(disk))
    }

    fn assert_sound(&self, when: &str) {
        let (code, report, said) = self.finish(&["verify", "--read-data"]);
        assert_eq!(code, Some(0), "{when}: {report} {said}");
    }

    fn assert_restores(&self, scratch: &Scratch, image: &str, expected: &[u8]) {
        let target = scratch.path("restored");
        self.must(&["restore", image, "--force", "--to", target.to_str().unwrap()]);
        assert_same(&std::fs::read(target).unwrap(), expected);
    }

    fn packs(&self) -> usize {
        let listed = run("find", [self.repository.to_str().unwrap(), "-path", "*/packs/*", "-type", "f"]);
        listed.lines().filter(|name| !name.contains('#')).count()
    }
}

fn capture_args(disk: &Path) -> [&str; 6] {
    ["capture", "--memory", "64MiB", "--level", "1", disk.to_str().unwrap()]
}

/// Kills a run of the program after each of `count` delays that are spread over the time that it takes.
fn kill_at_many_moments(base: &Cli, scratch: &Scratch, count: u32, args: &[&str], look: &dyn Fn(&Cli, &str)) {
    let began = Instant::now();
    base.copy(scratch.path("not killed")).must(args);
    let takes = began.elapsed();
    let mut killed = 0;
    for number in 0..count {
        let cli = base.copy(scratch.path(&format!("killed {number}")));
        let mut child = cli.start(args);
        std::thread::sleep(takes * number / count);
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGKILL).unwrap();
        killed += u32::from(!child.wait().unwrap().success());
        let when = format!("killed after {:?} of {takes:?}", takes * number / count);
        cli.assert_sound(&when);
        look(&cli, &when);
        std::fs::remove_dir_all(&cli.repository).unwrap();
    }
    assert!(killed >= count / 4, "{killed} of {count} were killed in the middle");
}

#[test]
fn a_capture_may_be_killed_at_any_moment() {
    let scratch = Scratch::new();
    let disks = disk_images(&scratch);
    let base = Cli::init(scratch.path("repository"));
    base.capture(&disks[0].0);
    let args = capture_args(&disks[1].0);
    kill_at_many_moments(&base, &scratch, 10, &args, &|cli, when| {
        let next = cli.capture(&disks[1].0);
        cli.assert_restores(&scratch, next["image"].as_str().unwrap(), &disks[1].1);
        let pruned = cli.must(&["prune", "--keep-unfinished", "0"]);
        assert_eq!(pruned["result"]["waiting"], 0, "{when}: nobody waits for a process that is gone: {pruned}");
        assert!(!cli.repository.join("sessions").read_dir().unwrap().any(|_| true), "{when}");
    });
}

#[test]
fn a_prune_may_be_killed_at_any_moment() {
    let scratch = Scratch::new();
    let disks = disk_images(&scratch);
    let base = Cli::init(scratch.path("repository"));
    let first = base.capture(&disks[0].0);
    base.capture(&disks[1].0);
    base.must(&["forget", first["image"].as_str().unwrap()]);
    let args = ["prune", "--max-waste", "0"];
    kill_at_many_moments(&base, &scratch, 12, &args, &|cli, _| {
        cli.must(&args);
        cli.assert_restores(&scratch, "latest", &disks[1].1);
    });
}

#[test]
fn after_ctrl_c_the_next_capture_goes_on_from_what_was_stored() {
    let scratch = Scratch::new();
    let [(disk, restored), _] = disk_images(&scratch);
    let cli = Cli::init(scratch.path("repository"));
    // Slow enough to be stopped in the middle.
    let args = ["capture", "--memory", "64MiB", "--level", "19", disk.to_str().unwrap()];
    let mut child = cli.start(&args);
    let code = within(LIMIT, "Ctrl-C", || {
        while cli.packs() == 0 {
            assert_eq!(child.try_wait().unwrap(), None, "still at work");
            std::thread::sleep(Duration::from_millis(5));
        }
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
        child.wait().unwrap().code()
    });
    assert_eq!(code, Some(130));
    cli.assert_sound("after Ctrl-C");
    assert_eq!(cli.must(&["verify"])["report"]["images"], 0);
    let next = cli.capture(&disk);
    assert!(next["stats"]["known"].as_u64().unwrap() >= 4 << 20, "the packs that were stored are known: {next}");
    cli.assert_restores(&scratch, "latest", &restored);
}

#[test]
fn a_full_file_system_is_no_end() {
    let scratch = Scratch::new();
    let disks = disk_images(&scratch);
    let at = scratch.path("mounted");
    std::fs::create_dir(&at).unwrap();
    run("mount", ["-t", "tmpfs", "-o", "size=11m", "tmpfs", at.to_str().unwrap()]);
    let room = Mount(at);
    let cli = Cli::init(room.0.join("repository"));
    let (code, answer, said) = cli.finish(&capture_args(&disks[0].0));
    assert_eq!(code, Some(5), "{answer} {said}");
    assert!(said.contains("No space left"), "{said}");
    cli.assert_sound("full");
    // Room can be made without any room.
    assert!(cli.packs() > 0);
    let pruned = cli.must(&["prune", "--keep-unfinished", "0"]);
    assert!(pruned["result"]["freed"].as_u64().unwrap() > 4 << 20, "{pruned}");
    assert_eq!(cli.packs(), 0);
    let (code, ..) = cli.finish(&capture_args(&disks[0].0));
    assert_eq!(code, Some(5));
    run("mount", ["-o".as_ref(), "remount,size=100m".as_ref(), room.0.as_os_str()]);
    let next = cli.capture(&disks[0].0);
    assert!(next["stats"]["known"].as_u64().unwrap() >= 4 << 20, "what was stored is known: {next}");
    cli.assert_restores(&scratch, "latest", &disks[0].1);
}

#[test]
fn a_repository_may_lie_on_exfat() {
    let scratch = Scratch::new();
    let disks = disk_images(&scratch);
    let stick = sparse_file(&scratch.path("stick"), 100 << 20);
    run("mkfs.exfat", [&stick]);
    let device = Loop::attach(&stick, &[]);
    let at = scratch.path("mounted");
    std::fs::create_dir(&at).unwrap();
    run("mount.exfat-fuse", [&device.0, &at]);
    let mounted = Mount(at);
    let cli = Cli::init(mounted.0.join("repository"));
    let again = cli.finish(&["init", "--no-password", cli.repository.to_str().unwrap()]);
    assert_eq!(again.0, Some(3), "{again:?}");
    let first = cli.capture(&disks[0].0);
    cli.capture(&disks[1].0);
    cli.must(&["forget", first["image"].as_str().unwrap()]);
    cli.must(&["prune", "--max-waste", "0"]);
    cli.assert_sound("on exFAT");
    cli.assert_restores(&scratch, "latest", &disks[1].1);
}
