//! A machine with little memory that is treated badly: memory is filled, programs are killed, two people press keys. It has to
//! stay of use, and to say what happened.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lifeboat_tests::guest::Guest;
use lifeboat_tests::machine::{Bus, Drive};
use lifeboat_tests::mounted::{Loop, Mount};
use lifeboat_tests::screen::Press;
use lifeboat_tests::walkthrough::{Into, PASSWORD, Person, SYSTEM};
use serde_json::Value;

use crate::mishaps::{holds_one_image_in, noise_disk};
use crate::support::{folder, say, skip};
use crate::unattended::{backup_disk, server};

const ANSWER: Duration = Duration::from_secs(60);
const WORK: Duration = Duration::from_secs(600);
const OFF: Duration = Duration::from_secs(120);
/// Between two looks at the machine.
const LOOK: Duration = Duration::from_secs(1);
/// The key that shows the job, as terminals send it.
const F2: Press<'static> = Press::Text("\u{1b}OQ");

/// Defines `of`: the numbers of the agent's processes in this role that have this in their environment. The brackets keep
/// `grep` from finding itself.
const OF: &str = "of() { for p in $(ps -o pid,args | grep \"[a]gent $1$\" | awk '{print $1}'); do \
    tr '\\0' '\\n' </proc/$p/environ | grep -q \"$2\" && echo $p; done; true; }";
/// Prints a letter for each running step of the job: what proc(5) has as its state.
const STEPS: &str = "for p in $(ps -o pid,args | grep '[i]mager --json' | awk '{print $1}'); do \
    cut -d' ' -f3 /proc/$p/stat; done; true";
/// Files in every place in memory, until nothing goes in any more; what Lifeboat writes itself has a place of its own.
const FILL: &str = "for f in /fill /tmp/fill /run/fill /dev/fill; do dd if=/dev/zero of=$f bs=64k 2>/dev/null; \
    done; df -k / /tmp /run /run/lifeboat /dev; free";

#[test]
fn what_is_killed_comes_back_and_full_memory_is_said_and_hinders_nothing_in_256_mib() -> Result<()> {
    if skip("abuse") {
        return Ok(());
    }
    let source = noise_disk("abuse", 160, 5)?;
    let backups = backup_disk("abuse-backups")?;
    let machine = server("abuse", "")?
        .memory_mib(256)
        .drive(Drive::new(&source, Bus::VirtioBlk).serial(SYSTEM))
        .drive(Drive::new(&backups, Bus::Ahci).serial("BACKUPS-1").kept());
    let mut person = Person::at(machine.start(&folder()?.path)?)?;

    person.open_shell()?;
    is_small(&mut person.guest)?;
    let version = person.guest.shell("imager --version")?;
    ensure!(version.starts_with("imager "), "`imager` on the medium says {version:?}");
    let said = person.guest.shell(FILL)?;
    say(&format!("abuse: memory as it was filled:\n{said}"));
    person.leave_shell()?;
    person.sees("no room in /, /run, /tmp", ANSWER)?;

    // One person is at the serial line, another at the screen.
    person.begin_backup(Into::New)?;
    person.guest.press(&["p"])?;
    person.sees("PAUSED", ANSWER)?;
    person.press(&[Press::Text("p")])?;
    person.sees("working", ANSWER)?;
    person.guest.press(&["p"])?;
    person.sees("PAUSED", ANSWER)?;

    person.open_shell()?;
    let guest = &mut person.guest;
    guest.shell(OF)?;
    let serial = process(guest, "ui LIFEBOAT_CONSOLE=ttyS0", None)?;
    kill_and_wait(guest, "ui LIFEBOAT_CONSOLE=tty1")?;
    goes_on_at_the_screen(guest)?;
    kill_and_wait(guest, "jobs PATH=")?;
    // Nobody works on disks unseen.
    let deadline = Instant::now() + ANSWER;
    while !guest.shell(STEPS)?.is_empty() {
        ensure!(Instant::now() < deadline, "the step outlives its keeper");
        thread::sleep(LOOK);
    }
    ensure!(process(guest, "ui LIFEBOAT_CONSOLE=ttyS0", None)? == serial, "the serial line has another user interface");
    person.leave_shell()?;
    person.press(&[F2])?;
    person.sees("the program that kept the job was killed", ANSWER)?;
    person.press(&[Press::Enter])?;

    person.begin_backup(Into::Known)?;
    person.sees("Done, in", WORK)?;
    person.press(&[Press::Enter])?;

    // As an expert does it, on the second screen.
    person.guest.press(&["alt", "f2"])?;
    thread::sleep(LOOK);
    person.guest.type_line("reboot")?;
    person.guest.wait_for("Everything is written. The stick can be pulled. The machine starts again.", OFF)?;
    person.guest.wait_until_off(OFF)?;

    let known = report(&backups, "abuse-report")?.pointer("/results/0/stats/known").and_then(Value::as_u64);
    ensure!(known.is_some_and(|known| known > 0), "nothing that was stored before was known: {known:?}");
    holds_one_image_in("lifeboat", PASSWORD, &backups, &source, "abuse")
}

/// What the medium promises: less than 120 MiB of memory in use once the first screen is there. When that was is said, and
/// judged by people: a machine with other work is slow.
fn is_small(guest: &mut Guest) -> Result<()> {
    let mut moment = |text: &str| -> Result<f64> {
        let line = guest.shell(&format!("grep -m1 '{text}' /run/lifeboat/log"))?;
        let seconds = line.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(seconds, _)| seconds.trim());
        seconds.and_then(|seconds| seconds.parse().ok()).with_context(|| format!("no time in {line:?}"))
    };
    let (kernel, screen) = (moment("Run /init")?, moment("the first screen is there")?);
    // Mem: total used free shared buff/cache available, in KiB.
    let said = guest.shell("free | grep Mem:")?;
    let numbers: Vec<u64> = said.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
    let (total, available) = numbers.first().zip(numbers.last()).context("free says nothing")?;
    let used_mib = total.saturating_sub(*available) / 1024;
    say(&format!("abuse: {kernel:.1} s to /init, {screen:.1} s to the first screen, {used_mib} MiB in use"));
    ensure!(used_mib <= 120, "{used_mib} MiB are in use");
    Ok(())
}

/// The number of the agent's process in this role, another than `not`.
fn process(guest: &mut Guest, role: &str, not: Option<u32>) -> Result<u32> {
    let deadline = Instant::now() + ANSWER;
    loop {
        let said = guest.shell(&format!("of {role}"))?;
        match said.parse::<u32>() {
            Ok(pid) if Some(pid) != not => return Ok(pid),
            _ if Instant::now() >= deadline => bail!("no agent with the role {role}, other than {not:?}: {said:?}"),
            _ => thread::sleep(LOOK),
        }
    }
}

/// Kills a process as the kernel would, and waits for the next one with its role.
fn kill_and_wait(guest: &mut Guest, role: &str) -> Result<()> {
    let killed = process(guest, role, None)?;
    guest.shell(&format!("kill -9 {killed}"))?;
    process(guest, role, Some(killed)).map(drop)
}

/// The user interface on the screen has come back to the job, and takes keys.
fn goes_on_at_the_screen(guest: &mut Guest) -> Result<()> {
    let deadline = Instant::now() + ANSWER;
    ensure!(guest.shell(STEPS)? == "T", "the job has not paused");
    loop {
        // It is there before it has heard of the job; until then the key means nothing.
        guest.press(&["p"])?;
        for _ in 0..5 {
            thread::sleep(LOOK);
            if guest.shell(STEPS)? != "T" {
                return Ok(());
            }
        }
        ensure!(Instant::now() < deadline, "nobody at the screen hears the key");
    }
}

/// The only report beside the repository.
pub(crate) fn report(backups: &Path, name: &str) -> Result<Value> {
    let device = Loop::attach(backups, &["--read-only"])?;
    let mount = Mount::new(&device.path, "ext4", "ro,noload", &folder()?.join(name))?;
    let mut reports = Vec::new();
    for entry in fs::read_dir(&mount.at)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            reports.push(serde_json::from_slice(&fs::read(&path)?)?);
        }
    }
    mount.unmount()?;
    ensure!(reports.len() == 1, "{} reports instead of one", reports.len());
    reports.pop().context("no report")
}
