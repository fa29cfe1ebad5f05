//! Does what is asked for, and keeps leases alive.
//!
//! Must not know: who asks.

use std::fs;
use std::io;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::dhcp::{self, Lease};
use super::{Interface, PATIENCE, Setting, State, Wanted, interfaces, netlink, state_file, wanted_file, write_whole};
use crate::log::say;

/// Between two looks for a new wish.
const LOOK: Duration = Duration::from_millis(300);

/// For cards whose modules are being loaded, and for cables.
const CARDS: Duration = Duration::from_secs(15);

/// Between two tries to keep a lease.
const RENEW_AGAIN: Duration = Duration::from_secs(30);

/// Runs until it is ended.
pub(crate) fn run() -> ExitCode {
    take_words_of_the_command_line();
    let mut done = None;
    let mut kept: Option<Kept> = None;
    loop {
        // The same wish again is a new one.
        let written = fs::metadata(wanted_file()).and_then(|meta| meta.modified()).ok();
        let wish = fs::read(wanted_file()).ok().map(|wish| (wish, written));
        if wish.is_some() && wish != done {
            let (state, lease) = grant(wish.as_ref().map(|(wish, _)| &**wish).unwrap_or_default());
            kept = lease;
            match &state {
                State::Up { interface, setting } => say(&format!("network: {interface} has {setting}")),
                State::Failed { error } => say(error),
                State::Off | State::Working => {}
            }
            if let Err(error) = write_whole(&state_file(), &state) {
                say(&format!("cannot say how the network is: {error}"));
            }
            done = wish;
        }
        if let Some(lease) = &mut kept {
            lease.keep();
        }
        thread::sleep(LOOK);
    }
}

/// A wish that is on the kernel's command line.
fn take_words_of_the_command_line() {
    if wanted_file().exists() {
        return;
    }
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let wish = line.split_ascii_whitespace().rev().find_map(|word| word.strip_prefix("lifeboat.network="));
    if let Some(wish) = wish {
        match Wanted::parse(wish) {
            Ok(wanted) => drop(super::ask(&wanted)),
            Err(error) => {
                say(&format!("lifeboat.network: {error}"));
                let _ = write_whole(&state_file(), &State::Failed { error: format!("lifeboat.network: {error}") });
            }
        }
    }
}

/// A lease, and when it has to be asked for again.
struct Kept {
    interface: Interface,
    lease: Lease,
    renew: Instant,
}

impl Kept {
    fn new(interface: Interface, lease: Lease) -> Self {
        let renew = Instant::now() + lease.time / 2;
        Self { interface, lease, renew }
    }

    fn keep(&mut self) {
        if Instant::now() < self.renew {
            return;
        }
        match dhcp::renew(&self.interface, &self.lease) {
            Ok(lease) => {
                if lease.setting != self.lease.setting {
                    let _ = apply(&self.interface, &lease.setting);
                }
                *self = Self::new(self.interface.clone(), lease);
            }
            // The address stays in use: nobody else is likely to have it, and a job may need it.
            Err(error) => {
                say(&format!("network: the lease of {} is not renewed: {error}", self.lease.setting.address));
                self.renew = Instant::now() + RENEW_AGAIN;
            }
        }
    }
}

fn grant(wish: &[u8]) -> (State, Option<Kept>) {
    let wanted = match serde_json::from_slice(wish) {
        Ok(wanted) => wanted,
        Err(error) => return (State::Failed { error: format!("a wish that is not understood: {error}") }, None),
    };
    let cards = match cards() {
        Ok(cards) => cards,
        Err(error) => return (State::Failed { error }, None),
    };
    let result = match wanted {
        Wanted::Fixed(setting) => fixed(&cards, setting),
        Wanted::Dhcp => ask_everywhere(&cards).and_then(|(interface, lease)| {
            apply(&interface, &lease.setting).map_err(|error| cannot_set(&interface, &error))?;
            Ok((interface.name.clone(), lease.setting.clone(), Some(Kept::new(interface, lease))))
        }),
    };
    match result {
        Ok((interface, setting, kept)) => (State::Up { interface, setting }, kept),
        Err(error) => (State::Failed { error }, None),
    }
}

/// All cards, turned on, once at least one has a link. Without any link, all of them: some drivers do not tell.
fn cards() -> Result<Vec<Interface>, String> {
    let began = Instant::now();
    loop {
        let mut found = interfaces();
        for card in &found {
            if let Err(error) = netlink::set_up(card.index) {
                say(&format!("network: cannot turn {} on: {error}", card.name));
            }
        }
        if found.iter().any(|card| card.has_link) {
            found.sort_by_key(|card| !card.has_link);
            return Ok(found);
        }
        if began.elapsed() >= CARDS {
            return if found.is_empty() {
                Err("no network card was found: its driver, or the firmware for it, is not on this medium".to_owned())
            } else {
                Ok(found)
            };
        }
        thread::sleep(LOOK);
    }
}

type Granted = (String, Setting, Option<Kept>);

fn fixed(cards: &[Interface], setting: Setting) -> Result<Granted, String> {
    let card = cards.first().ok_or("no network card was found")?;
    if !card.has_link {
        return Err(format!("no network card has a link; is a cable plugged into {}?", card.name));
    }
    apply(card, &setting).map_err(|error| cannot_set(card, &error))?;
    Ok((card.name.clone(), setting, None))
}

fn cannot_set(card: &Interface, error: &io::Error) -> String {
    format!("cannot set the address of {}: {error}", card.name)
}

/// On all cards at once; the first answer counts.
fn ask_everywhere(cards: &[Interface]) -> Result<(Interface, Lease), String> {
    let (sender, answers) = mpsc::channel();
    let limit = PATIENCE.saturating_sub(CARDS);
    for card in cards {
        let (card, sender) = (card.clone(), sender.clone());
        // Without a thread, that card is not asked on.
        let _ = thread::Builder::new().name(format!("dhcp {}", card.name)).spawn(move || {
            let lease = dhcp::lease(&card, limit);
            let _ = sender.send((card, lease));
        });
    }
    drop(sender);
    let mut problems = Vec::new();
    for (card, lease) in answers {
        match lease {
            Ok(lease) => return Ok((card, lease)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => problems.push(card.name),
            Err(error) => problems.push(format!("{} ({error})", card.name)),
        }
    }
    Err(format!(
        "no DHCP server answers on {}; is the cable in the right port? A fixed address can be given, too",
        problems.join(", ")
    ))
}

/// Puts addresses, route and name servers into effect, instead of what was there.
fn apply(card: &Interface, setting: &Setting) -> io::Result<()> {
    let now = interfaces().into_iter().find(|other| other.index == card.index);
    for (address, prefix) in now.map(|now| now.addresses).unwrap_or_default() {
        if (address, prefix) != (setting.address, setting.prefix) {
            netlink::remove_address(card.index, address, prefix)?;
        }
    }
    netlink::add_address(card.index, setting.address, setting.prefix)?;
    if let Some(gateway) = setting.gateway {
        netlink::set_gateway(card.index, gateway)?;
    }
    let servers: String = setting.dns.iter().map(|server| format!("nameserver {server}\n")).collect();
    fs::create_dir_all("/etc")?;
    fs::write("/etc/resolv.conf", servers)
}
