//! What the state machine wants done, done in threads; what comes of it goes back as events.
//!
//! Must not know: screens.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use imager::disk::health::{self, Health};
use imager::disk::identity::{self, Identity};
use imager::disk::source::{Source, SourceDisk};
use imager::layout::{self, Wanted};
use imager::repo::Repository;
use imager::repo::config::{CONFIG, Config};
use imager::repo::store::CrateStore;
use imager::{Error, machine};
use zeroize::Zeroizing;

use super::facts::{Card, Content, Disk, Hold, Image, Looked, OpenProblem, Opened, Picture, Place};
use super::files::{self, Files};
use super::state::{Answer, Effect, Event, Surroundings};
use crate::network;
use crate::places::{self, Access};

/// Disks that are read at the same time.
const READERS_MAX: usize = 4;
/// A repository's config is a few hundred bytes.
const CONFIG_BYTES_MAX: u64 = 64 << 10;
/// Directories that are looked into for repositories.
const DIRECTORIES_MAX: usize = 500;
/// The end of the log, as much of it as is shown.
const LOG_BYTES_MAX: u64 = 512 << 10;
/// Files in memory need so many bytes to be of use.
const ROOM: u64 = 64 << 10;
/// What a programming error is to whoever asked for what it kept from being done.
const BROKEN: &str = "A programming error kept that from being done; the log says more. Go back and choose something else, or try again.";
/// Between two looks at which disks there are.
const WATCH: Duration = Duration::from_secs(2);
/// So long a disk is believed what it said of its health.
const HEALTH_FOR: Duration = Duration::from_secs(300);

/// Begins an effect that needs neither the terminal nor the keeper; gives what is to be said when it cannot be begun.
pub(super) fn start(effect: Effect, events: &SyncSender<Event>) -> Option<Event> {
    let own = events.clone();
    let started = thread::Builder::new().name("effect".into()).spawn(move || {
        // Whoever asked may be gone: then nobody needs the answer.
        let answer = |answer| drop(own.send(Event::Answer(answer)));
        let work = || {
            #[cfg(debug_assertions)]
            super::break_where_asked("effect", matches!(effect, Effect::ReadLog(..)).then_some(()));
            perform(effect, &answer);
        };
        if unbroken(work).is_none() {
            let _ = own.send(Event::Refused(BROKEN.to_owned()));
        }
    });
    let error = started.err()?;
    let why = format!("This machine is out of memory or threads ({error}). Wait for the running job, then try again.");
    Some(Event::Refused(why))
}

/// None when there is a programming error in the work: one disk that nothing understands must not be the end of a screen
/// that would read it again as soon as it is back.
fn unbroken<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

fn perform(effect: Effect, answer: &(dyn Fn(Answer) + Sync)) {
    match effect {
        Effect::ReadMachine => {
            answer(Answer::Machine(Box::new(machine::this_machine()), machine::machine_id()));
            answer(Answer::Cards(cards()));
        }
        Effect::ReadCards => answer(Answer::Cards(cards())),
        Effect::ReadDisks => read_disks(answer),
        Effect::ListPlaces(ticket) => answer(Answer::Places(ticket, list_places())),
        Effect::LookAt(ticket, place) => answer(Answer::LookedAt(ticket, look_at(&place))),
        Effect::Open(ticket, path, password) => {
            answer(Answer::Opened(ticket, open(&path, password.map(Zeroizing::new))))
        }
        Effect::OpenFiles(ticket, wanted) => answer(Answer::FilesOpened(ticket, Files::open(&wanted))),
        Effect::ListFiles(ticket, files, directory, part) => {
            if let Some(listing) = files.list(ticket, directory, &part) {
                answer(Answer::Listed(ticket, Arc::new(listing)));
            }
        }
        Effect::FollowLink(ticket, files, way, link) => {
            answer(Answer::Followed(ticket, files.follow(&way, link)));
        }
        Effect::NameCopy(ticket, root, name) => answer(Answer::CopyNamed(ticket, files::free_name(&root, &name))),
        Effect::ReadLog(ticket, path) => {
            answer(Answer::Log(ticket, read_log(&path).map_err(|error| format!("{}: {error}", path.display()))));
        }
        Effect::SetUpNetwork(ticket, how) => {
            // Said before the service is asked: it would name the word on the kernel's command line.
            let set_up = network::Wanted::parse(&how).and_then(|wanted| {
                network::ask(&wanted).map_err(|error| format!("cannot ask for the network: {error}"))?;
                network::wait()
            });
            answer(Answer::Network(ticket, set_up));
        }
        Effect::Release(path) => {
            if let Err(why) = release(&path) {
                answer(Answer::Failed(why));
            }
            read_disks(answer);
        }
        // Done where the terminal and the keeper are.
        Effect::Send(_) | Effect::Shell | Effect::Redraw | Effect::Quit => {}
    }
}

/// First who the disks are, then what is on each.
fn read_disks(answer: &(dyn Fn(Answer) + Sync)) {
    let found = match identity::all_disks() {
        Ok(found) => found,
        Err(error) => return answer(Answer::Disks(Err(error.to_string()))),
    };
    let disks: Vec<Disk> = found.into_iter().map(|identity| disk_of(identity, Content::Reading)).collect();
    answer(Answer::Disks(Ok(disks.clone())));
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..READERS_MAX.min(disks.len()) {
            scope.spawn(|| {
                while let Some(disk) = disks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let content = match unbroken(|| picture_of(&disk.identity.path)) {
                        Some(Ok(picture)) => Content::Known(picture),
                        Some(Err(error)) => Content::Failed(error.to_string()),
                        None => Content::Failed("a programming error, of which the log says more".to_owned()),
                    };
                    answer(Answer::Disk(Box::new(Disk { content, ..disk.clone() })));
                }
            });
        }
        for disk in &disks {
            // Asked at the same time: one that does not answer keeps none of the others waiting.
            scope.spawn(|| {
                if let Some(health) = unbroken(|| health_of(&disk.identity)) {
                    answer(Answer::Health(Box::new((disk.identity.clone(), health))));
                }
            });
        }
    });
}

/// How well a disk is. It is asked no more often than it can change.
fn health_of(disk: &Identity) -> Health {
    static ASKED: Mutex<Vec<(Identity, Instant, Health)>> = Mutex::new(Vec::new());
    let asked = || ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    let is_fresh = |(known, when, _): &&(Identity, Instant, Health)| known == disk && when.elapsed() < HEALTH_FOR;
    if let Some((_, _, health)) = asked().iter().find(is_fresh) {
        return health.clone();
    }
    let health = health::ask(disk);
    let mut asked = asked();
    asked.retain(|(known, when, _)| known != disk && when.elapsed() < HEALTH_FOR);
    asked.push((disk.clone(), Instant::now(), health.clone()));
    health
}

fn picture_of(path: &Path) -> imager::Result<Picture> {
    let source = SourceDisk::open(path)?;
    let layout = layout::read(&source, source.sector_size(), &Wanted::default()).map_err(Error::io("read", path))?;
    Ok(Picture::of_layout(&layout))
}

/// A disk with what uses it.
fn disk_of(identity: Identity, content: Content) -> Disk {
    let uses = match identity::uses_of(&identity.path) {
        Ok(uses) => uses,
        Err(error) => {
            // Not knowing is no reason to overwrite it.
            let users = vec![format!("nobody can tell by whom ({error})")];
            return Disk { identity, content, health: None, writers: Vec::new(), users, hold: Hold::Others };
        }
    };
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let (mut writers, mut users) = (Vec::new(), Vec::new());
    for (device, place) in &uses.mounted_at {
        let (device, shown) = (device.display(), place.display());
        if is_writable(&mounts, place) {
            writers.push(format!("{device} is mounted for writing at {shown}"));
        }
        users.push(format!("{device} is mounted at {shown}"));
    }
    for swap in &uses.swap {
        let text = format!("{} is swap space", swap.display());
        writers.push(text.clone());
        users.push(text);
    }
    users.extend(uses.holders.iter().map(|holder| format!("{holder} is built on it")));
    let own = crate::job::run_directory();
    let only_ours = uses.swap.is_empty() && uses.holders.is_empty() && !uses.mounted_at.is_empty();
    let is_ours = only_ours && uses.mounted_at.iter().all(|(_, place)| place.starts_with(&own));
    let hold = if is_ours { Hold::Ours } else { Hold::Others };
    Disk { identity, content, health: None, writers, users, hold }
}

/// Unmounts every place on a disk.
fn release(disk: &Path) -> Result<(), String> {
    let places = places::list().map_err(|error| error.to_string())?;
    for place in places.iter().filter(|place| place.mounted.is_some()) {
        let own = identity::of_device(&place.device).ok().and_then(|found| found.partition_of.or(Some(found.path)));
        if own.as_deref() == Some(disk) {
            places::unmount(place).map_err(|error| {
                format!(
                    "{} cannot be unmounted: {error}. Wait for what uses it to end, then try again.",
                    place.device.display()
                )
            })?;
        }
    }
    Ok(())
}

/// A mount that cannot be found counts as one.
fn is_writable(mounts: &str, place: &Path) -> bool {
    let mut here = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let at = words.next()?.replace("\\040", " ");
        let options = words.nth(1)?;
        (place.to_str() == Some(&*at)).then(|| options.split(',').any(|option| option == "rw"))
    });
    match here.next() {
        None => true,
        Some(first) => first || here.any(|other| other),
    }
}

/// `LIFEBOAT_PLACES`, directories with colons between them, stands for what there is, for trying things out.
fn list_places() -> Result<Vec<Place>, String> {
    if let Some(directories) = std::env::var_os("LIFEBOAT_PLACES") {
        return Ok(std::env::split_paths(&directories).map(Place::Directory).collect());
    }
    let places = places::list().map_err(|error| error.to_string())?;
    Ok(places.into_iter().map(Place::Device).collect())
}

fn look_at(place: &Place) -> Result<Looked, String> {
    let root = match place {
        Place::Device(place) => places::mount(place, Access::Write).map_err(|error| {
            format!(
                "{} cannot be used: {error}. Choose another place, or check this one in a shell.",
                place.device.display()
            )
        })?,
        Place::Directory(path) => path.clone(),
    };
    match fs::metadata(&root) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(format!("{} is not a directory. Choose one, or another place.", root.display())),
        Err(error) => {
            return Err(format!("{}: {error}. Check how it is written, or choose another place.", root.display()));
        }
    }
    let disks = identity::backing_disks(&root).unwrap_or_default();
    let free = places::free_bytes(&root).ok();
    let repositories = repositories_below(&root);
    Ok(Looked { root, free, repositories, disks: disks.into_iter().collect::<BTreeSet<PathBuf>>() })
}

/// The repositories at a directory, in it, and in the directories in it.
fn repositories_below(root: &Path) -> Vec<PathBuf> {
    if is_repository(root) {
        return vec![root.to_owned()];
    }
    let mut looked = 0;
    let mut found = Vec::new();
    let mut level = vec![root.to_owned()];
    for _ in 0..2 {
        let mut below = Vec::new();
        for directory in level {
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            let mut inside: Vec<PathBuf> = entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path())
                .take(DIRECTORIES_MAX)
                .collect();
            inside.sort();
            for path in inside {
                looked += 1;
                if looked > DIRECTORIES_MAX {
                    return found;
                }
                if is_repository(&path) { found.push(path) } else { below.push(path) }
            }
        }
        level = below;
    }
    found
}

fn is_repository(directory: &Path) -> bool {
    let config = directory.join(CONFIG);
    let is_small = fs::metadata(&config).is_ok_and(|found| found.is_file() && found.len() <= CONFIG_BYTES_MAX);
    is_small
        && match fs::read(&config).map(|bytes| Config::from_bytes(&bytes)) {
            Ok(Ok(_) | Err(Error::NewerFormat { .. })) => true,
            Ok(Err(_)) | Err(_) => false,
        }
}

fn open(path: &Path, password: Option<Zeroizing<String>>) -> Result<Opened, OpenProblem> {
    let opened = || -> imager::Result<Opened> {
        let repository = Repository::open(Arc::new(CrateStore::local(path)?), || match &password {
            Some(password) => Ok(Zeroizing::new(password.as_bytes().to_vec())),
            None => Err(Error::PasswordNeeded),
        })?;
        let (images, damaged) = repository.images()?;
        let images =
            images.into_iter().map(|(id, manifest)| Image { id: id.to_string(), manifest: Arc::new(manifest) });
        Ok(Opened { images: images.collect(), damaged: damaged.len() })
    };
    opened().map_err(|error| match error {
        Error::PasswordNeeded => OpenProblem::PasswordNeeded,
        Error::WrongPassword => OpenProblem::WrongPassword,
        error => OpenProblem::Other(format!(
            "It cannot be opened: {error}. Choose another one, or check the disk or stick that it is on."
        )),
    })
}

fn read_log(path: &Path) -> io::Result<Vec<String>> {
    let mut file = fs::File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(LOG_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}

/// The network cards; not the loopback, bridges and the like, which have no device behind them.
fn cards() -> Vec<Card> {
    let below = Path::new("/sys/class/net");
    let text = |name: &str, file: &str| {
        fs::read_to_string(below.join(name).join(file)).ok().map(|text| text.trim().to_owned())
    };
    let addresses: Vec<(String, String)> = nix::ifaddrs::getifaddrs()
        .map(|all| {
            let known = all.filter_map(|interface| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|address| address.ip().to_string());
                let v6 = address.as_sockaddr_in6().map(|address| address.ip());
                // Link-local ones are of no use to people.
                let v6 = v6.filter(|ip| ip.segments().first() != Some(&0xFE80)).map(|ip| ip.to_string());
                Some((interface.interface_name, v4.or(v6)?))
            });
            known.collect()
        })
        .unwrap_or_default();
    let entries = fs::read_dir(below).into_iter().flatten().flatten();
    let names = entries.filter(|entry| entry.path().join("device").exists()).map(|entry| entry.file_name());
    let mut cards: Vec<Card> = names
        .map(|name| {
            let name = name.to_string_lossy().into_owned();
            let own = addresses.iter().filter(|(owner, _)| *owner == name).map(|(_, address)| address.clone());
            Card {
                mac: text(&name, "address").unwrap_or_default(),
                // A card that is switched off cannot tell, and reading fails.
                link: text(&name, "carrier").map(|carrier| carrier == "1"),
                addresses: own.collect(),
                name,
            }
        })
        .collect();
    cards.sort_by(|a, b| a.name.cmp(&b.name));
    cards
}

/// Where files lie in memory that others than Lifeboat write, too; on somebody's machine that is not our concern.
pub(super) fn ram_disks(surroundings: Surroundings) -> Vec<PathBuf> {
    match surroundings {
        Surroundings::Medium => ["/", "/run", "/tmp"].into_iter().map(PathBuf::from).collect(),
        Surroundings::Guest => Vec::new(),
    }
}

/// Those that have no room left.
fn full(ram_disks: &[PathBuf]) -> Vec<String> {
    let is_full = |path: &&PathBuf| {
        // A root without bounds has no blocks at all.
        rustix::fs::statvfs(path.as_path())
            .is_ok_and(|found| found.f_blocks > 0 && found.f_bavail.saturating_mul(found.f_frsize) < ROOM)
    };
    ram_disks.iter().filter(is_full).map(|path| path.display().to_string()).collect()
}

/// Says so when a disk or a partition comes, goes, or changes its size, when the stick that this was started from has grown,
/// and when memory for files is full, or no longer.
pub(super) fn watch(events: SyncSender<Event>, ram_disks: Vec<PathBuf>) {
    let look = || -> (bool, Vec<(std::ffi::OsString, Option<String>)>) {
        let is_grown = crate::stick::is_done();
        let entries = fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
        let mut disks: Vec<_> =
            entries.map(|entry| (entry.file_name(), fs::read_to_string(entry.path().join("size")).ok())).collect();
        disks.sort();
        (is_grown, disks)
    };
    let _ = thread::Builder::new().name("disks".into()).spawn(move || {
        let mut before = look();
        let mut full_before = Vec::new();
        loop {
            thread::sleep(WATCH);
            let full_now = full(&ram_disks);
            if full_now != full_before {
                full_before.clone_from(&full_now);
                if events.send(Event::Answer(Answer::Full(full_now))).is_err() {
                    return;
                }
            }
            let now = look();
            if now != before {
                before = now;
                if events.send(Event::DisksChanged).is_err() {
                    return;
                }
            }
        }
    });
}
