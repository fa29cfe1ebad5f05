//! Work without anybody there: reads the words, waits for the hardware, starts the job, and says on every console how it
//! goes.
//!
//! Must not know: PID 1, screens.

mod fetch;
mod plan;
mod tell;
mod words;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use imager::disk::health;
use imager::disk::identity::{self, Identity};

use self::plan::{Choice, FileAt, Plan, Target, Work};
use self::tell::{Teller, Tone};
use self::words::Values;
use crate::job::client::{Client, Update};
use crate::job::{Job, Kind, Request, Step, run_directory};
use crate::network::Wanted;
use crate::places::{self, Access, Place, Spot};

/// Hardware that has not come by then does not come.
const HARDWARE: Duration = Duration::from_secs(60);

/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(500);

/// For the keeper to be there.
const KEEPER: Duration = Duration::from_secs(30);

/// Bytes of a file with words or a password.
const FILE_MAX: u64 = 64 << 10;

/// Where a repository lies on a place, when nothing else is said.
const REPOSITORY: &str = "lifeboat";

/// The file system that every medium of Lifeboat has.
const MEDIUM_LABEL: &str = "LIFEBOATEFI";

/// All words, as the README has them.
pub(crate) fn words() -> String {
    words::table()
}

/// Runs until the job has ended, or somebody wants to see the screens.
pub(crate) fn run() -> ExitCode {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let mut teller = Teller::on_all_consoles();
    match work(&line, &mut teller) {
        Ok(code) => code,
        Err(problems) => {
            for problem in &problems {
                teller.say(Tone::Problem, problem);
            }
            teller.ended(None, Some("nothing was done"));
            teller.wait_for_enter();
            ExitCode::FAILURE
        }
    }
}

fn work(line: &str, teller: &mut Teller) -> Result<ExitCode, Vec<String>> {
    let values = read_words(line, teller)?;
    let plan = plan::understand(&values)?;
    let job = prepare(&plan, teller).map_err(|problem| vec![problem])?;
    follow(job, teller).map_err(|problem| vec![problem])
}

/// The words of the command line, and of the file that it names.
fn read_words(line: &str, teller: &mut Teller) -> Result<Values, Vec<String>> {
    let mut values = words::parse(line)?;
    teller.set_tone(&values)?;
    // The service takes that word from the command line itself.
    let is_network_asked = values.contains_key("lifeboat.network");
    if is_network_asked {
        wait_for_network(teller)?;
    }
    if let Some(config) = values.get("lifeboat.config").cloned() {
        teller.say(Tone::News, &format!("reading {config}"));
        let problem = |problem: String| vec![format!("lifeboat.config: {problem}")];
        let file = FileAt::parse(&config).map_err(problem)?;
        let bytes = read_file(&file, teller).map_err(problem)?;
        let text = String::from_utf8(bytes).map_err(|_| problem(format!("{config} is no text")))?;
        for (name, value) in words::parse(&text)
            .map_err(|wrong| wrong.into_iter().map(|line| format!("{config}: {line}")).collect::<Vec<_>>())?
        {
            values.entry(name).or_insert(value);
        }
        teller.set_tone(&values)?;
    }
    if let Some(network) = values.get("lifeboat.network").filter(|_| !is_network_asked) {
        let problem = |problem: String| vec![format!("lifeboat.network: {problem}")];
        let wanted = Wanted::parse(network).map_err(problem)?;
        crate::network::ask(&wanted).map_err(|error| problem(error.to_string()))?;
        wait_for_network(teller)?;
    }
    Ok(values)
}

fn wait_for_network(teller: &mut Teller) -> Result<(), Vec<String>> {
    teller.say(Tone::News, "waiting for the network");
    let said = crate::network::wait().map_err(|problem| vec![problem])?;
    teller.say(Tone::News, &said);
    Ok(())
}

fn read_file(file: &FileAt, teller: &mut Teller) -> Result<Vec<u8>, String> {
    match file {
        FileAt::Here(path) => read_bounded(path),
        FileAt::Web(url) => fetch::get(url, FILE_MAX),
        FileAt::Place(spot) => {
            // A CD will do.
            let (place, path) = wait_for(&format!("the file system {spot}"), teller, || {
                spot.find(&places::all().map_err(|error| error.to_string())?)
            })?;
            let was_mounted = place.mounted.is_some();
            let at = places::mount(&place, Access::Read).map_err(|error| error.to_string())?;
            let bytes = read_bounded(&at.join(path));
            if !was_mounted {
                let _ = places::unmount(&place);
            }
            bytes
        }
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut bytes = Vec::new();
    fs::File::open(path).map_err(failed)?.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("{} is larger than {FILE_MAX} bytes; is it the right file?", path.display()));
    }
    Ok(bytes)
}

/// Tries until it works, for as long as hardware may take; then the last problem counts.
fn wait_for<T>(what: &str, teller: &mut Teller, mut look: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let began = Instant::now();
    let mut is_said = false;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(problem) if began.elapsed() >= HARDWARE => {
                return Err(format!("{problem} (waited for {} s)", HARDWARE.as_secs()));
            }
            Err(_) => {}
        }
        if !is_said && began.elapsed() > Duration::from_secs(2) {
            is_said = true;
            teller.say(Tone::News, &format!("waiting for {what}, up to {} s", HARDWARE.as_secs()));
        }
        thread::sleep(LOOK);
    }
}

/// Looks for everything that the plan names, and makes a job of it.
fn prepare(plan: &Plan, teller: &mut Teller) -> Result<Job, String> {
    // `only` and `all` mean something once everything is there.
    let is_ready = || if run_directory().join("ready").exists() { Ok(()) } else { Err("no end of modules".to_owned()) };
    let _ = wait_for("the hardware", teller, is_ready);
    // It may be where the repository is, and cannot be mounted while its partition grows.
    let is_grown = || if crate::stick::is_done() { Ok(()) } else { Err("no end of growing".to_owned()) };
    let _ = wait_for("the stick to grow to its size", teller, is_grown);
    let password = plan.password_file.as_ref().map(|file| password(file, teller)).transpose()?;
    let (place, path) = find_repository(&plan.repository, teller)?;
    let at = places::mount(&place, Access::Write).map_err(|error| error.to_string())?;
    let repository = at.join(if path.as_os_str().is_empty() { Path::new(REPOSITORY) } else { &path });
    teller.say(Tone::News, &format!("repository: {} on {}", repository.display(), place.shown()));
    let is_there = repository.join(imager::repo::config::CONFIG).exists();
    let mut steps = Vec::new();
    let repo = repository.display().to_string();
    match &plan.work {
        Work::Capture { .. } if !is_there && plan.make_repository => {
            let mut arguments = vec!["init".to_owned(), repo.clone()];
            if password.is_none() {
                arguments.push("--no-password".to_owned());
            }
            steps.push(Step { says: "make the repository".to_owned(), arguments });
        }
        Work::Capture { .. } if !is_there => {
            return Err(format!("there is no repository at {repo}; lifeboat.init=yes makes one"));
        }
        _ => {}
    }
    let (title, kind, arguments) = match &plan.work {
        Work::Capture { disks, name, note, level } => {
            let found = wait_for("the disks", teller, || find_disks(disks, &repository))?;
            for disk in &found {
                teller.say(Tone::News, &format!("disk: {}", with_health(disk)));
            }
            let mut arguments = words_of(&["capture", "--repo", &repo]);
            for (option, value) in [("--name", name), ("--note", note), ("--level", level)] {
                arguments.extend(value.iter().flat_map(|value| [option.to_owned(), value.clone()]));
            }
            arguments.push("--".to_owned());
            arguments.extend(found.iter().map(|disk| disk.path.display().to_string()));
            let title = format!("Back up {} to {}", count(found.len(), "disk"), place.shown());
            (title, Kind::Capture, arguments)
        }
        Work::Restore { image, targets, confirm } => {
            let mut arguments = words_of(&["restore", "--repo", &repo]);
            for target in targets {
                let disk = wait_for("the target", teller, || find_target(target, &repository))?;
                check_confirmed(&disk, confirm)?;
                teller.say(Tone::News, &format!("target: {}", with_health(&disk)));
                let number = target.disk.as_ref().map(|disk| format!("{disk}=")).unwrap_or_default();
                arguments.extend(["--to".to_owned(), format!("{number}{}", disk.path.display())]);
            }
            arguments.extend(confirm.iter().flat_map(|serial| ["--confirm".to_owned(), serial.clone()]));
            arguments.extend(["--".to_owned(), image.clone()]);
            let title = format!("Restore {image} to {}", count(targets.len(), "disk"));
            (title, Kind::Restore, arguments)
        }
        Work::Verify { image } => {
            let mut arguments = words_of(&["verify", "--read-data", "--repo", &repo]);
            arguments.extend(image.iter().flat_map(|image| ["--".to_owned(), image.clone()]));
            (format!("Verify {}", place.shown()), Kind::Verify, arguments)
        }
    };
    steps.push(Step { says: title.clone(), arguments });
    let report = repository.parent().map_or_else(|| at.clone(), Path::to_path_buf);
    Ok(Job { title, kind, steps, password, report: Some(report), then: plan.then })
}

/// "/dev/sda (QEMU HARDDISK, serial 17), healthy"; with what to do about a disk that is not.
fn with_health(disk: &Identity) -> String {
    let health = health::ask(disk);
    let advice = health.advice().map(|advice| format!("; {advice}")).unwrap_or_default();
    format!("{} ({disk}), {}{advice}", disk.path.display(), health.words())
}

fn words_of(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn password(file: &FileAt, teller: &mut Teller) -> Result<String, String> {
    let problem = |problem: &str| format!("lifeboat.password-file: {problem}");
    let bytes = read_file(file, teller).map_err(|error| problem(&error))?;
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok("") => Err(problem("its first line is empty")),
        Ok(password) => Ok(password.to_owned()),
        Err(_) => Err(problem("its first line is no text")),
    }
}

fn find_repository(spot: &Spot, teller: &mut Teller) -> Result<(Place, PathBuf), String> {
    wait_for(&format!("the file system {spot}"), teller, || {
        spot.find(&places::list().map_err(|error| error.to_string())?)
    })
}

/// The disks that a capture reads, each once.
fn find_disks(choices: &[Choice], repository: &Path) -> Result<Vec<Identity>, String> {
    let disks = identity::all_disks().map_err(|error| format!("cannot list the disks: {error}"))?;
    let others = without_ours(&disks, repository);
    let mut found: Vec<Identity> = Vec::new();
    for choice in choices {
        for disk in choice.find(&disks, &others)? {
            if !found.iter().any(|known| known.path == disk.path) {
                found.push(disk.clone());
            }
        }
    }
    Ok(found)
}

/// The disk that a restore overwrites.
fn find_target(target: &Target, repository: &Path) -> Result<Identity, String> {
    let disks = identity::all_disks().map_err(|error| format!("cannot list the disks: {error}"))?;
    let others = without_ours(&disks, repository);
    let found = target.choice.find(&disks, &others)?;
    found.first().map(|&disk| disk.clone()).ok_or_else(|| "no disk is the target".to_owned())
}

/// imager checks it, too; what is said here is of more help.
fn check_confirmed(disk: &Identity, confirm: &[String]) -> Result<(), String> {
    let name = disk.serial.clone().unwrap_or_else(|| disk.path.display().to_string());
    if confirm.contains(&name) {
        return Ok(());
    }
    Err(format!(
        "{} ({disk}) would be erased, but lifeboat.confirm names another disk; to erase this one: lifeboat.confirm={name}",
        disk.path.display()
    ))
}

/// Disks that neither hold the repository nor are the medium.
fn without_ours<'a>(disks: &'a [Identity], repository: &Path) -> Vec<&'a Identity> {
    let mut ours: BTreeSet<PathBuf> = identity::backing_disks(repository).unwrap_or_default().into_iter().collect();
    for place in places::all().unwrap_or_default() {
        if place.label.as_deref() == Some(MEDIUM_LABEL) {
            ours.extend(identity::backing_disks(&place.device).unwrap_or_default());
        }
    }
    disks.iter().filter(|disk| !ours.contains(&disk.path)).collect()
}

/// Starts the job and says how it goes, until it has ended or somebody presses Enter.
fn follow(job: Job, teller: &mut Teller) -> Result<ExitCode, String> {
    let (sender, updates) = mpsc::channel();
    let failed = |error: std::io::Error| format!("cannot start the job: {error}");
    let client = Client::start(move |update| sender.send(update).is_ok()).map_err(failed)?;
    match updates.recv_timeout(KEEPER) {
        Ok(Update::Status(_)) => {}
        _ => return Err(format!("the keeper of jobs did not answer within {} s", KEEPER.as_secs())),
    }
    teller.begin(&job);
    client.send(&Request::Start(job)).map_err(failed)?;
    teller.listen_for_enter();
    let mut is_begun = false;
    loop {
        match updates.recv_timeout(LOOK) {
            Ok(Update::Status(Some(status))) => {
                is_begun = true;
                if let Some(code) = teller.status(&status) {
                    return Ok(code);
                }
            }
            Ok(Update::Refused(refusal)) => return Err(refusal.refused),
            // Somebody at a screen has read its result, or its keeper was killed and nothing is left of it.
            Ok(Update::Status(None)) if is_begun => {
                return Err("nobody knows of the job any more; the log says what became of it".to_owned());
            }
            Ok(Update::Lost) => is_begun = true,
            Ok(Update::Status(None)) | Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err("the keeper of jobs is gone".to_owned()),
        }
        if teller.is_enter_pressed() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}
