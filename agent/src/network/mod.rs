//! The network: what there is, and setting it up by DHCP or with fixed addresses.
//!
//! A service of its own does it and keeps leases alive; others [`ask`] and look at the [`state`]. Must not know: what the
//! network is for.

mod dhcp;
mod netlink;
mod service;

use std::fmt;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub(crate) use self::service::run;

/// A cable, a switch and a DHCP server that take longer than this do not come.
const PATIENCE: Duration = Duration::from_secs(90);

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// `eth0`.
    pub name: String,
    /// The kernel's number for it.
    pub index: u32,
    /// Its own address: `52:54:00:12:34:56`.
    pub mac: String,
    /// Is there a cable, and somebody at its other end? Known once the card is up.
    pub has_link: bool,
    /// With the lengths of their prefixes.
    pub addresses: Vec<(Ipv4Addr, u8)>,
}

/// How the network is to be set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub(crate) enum Wanted {
    /// As a server on the first card that gets an answer says.
    Dhcp,
    /// Like this, on the first card with a link.
    Fixed(Setting),
}

/// Addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setting {
    /// Our own.
    pub address: Ipv4Addr,
    /// Length of the network's prefix in bits.
    pub prefix: u8,
    /// Who knows the way to everybody else.
    pub gateway: Option<Ipv4Addr>,
    /// Who knows names.
    pub dns: Vec<Ipv4Addr>,
}

/// How the network is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(crate) enum State {
    /// Nobody asked for it.
    Off,
    /// It is being set up.
    Working,
    /// It is up.
    Up {
        /// On this card.
        interface: String,
        /// With these addresses.
        setting: Setting,
    },
    /// It could not be set up.
    Failed {
        /// Why, and what to do.
        error: String,
    },
}

impl Wanted {
    /// `dhcp`, or `IP/PREFIX[,GATEWAY[,DNS]]`.
    ///
    /// # Errors
    /// What is accepted.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "dhcp" {
            return Ok(Self::Dhcp);
        }
        let setting = || {
            let mut parts = text.split(',');
            let (address, prefix) = parts.next()?.split_once('/')?;
            let address = address.parse().ok()?;
            let prefix = prefix.parse().ok().filter(|bits| (1..=32).contains(bits))?;
            let optional = |part: Option<&str>| match part {
                None | Some("") => Some(None),
                Some(part) => part.parse().ok().map(Some),
            };
            let (gateway, dns) = (optional(parts.next())?, optional(parts.next())?);
            parts.next().is_none().then_some(Setting { address, prefix, gateway, dns: dns.into_iter().collect() })
        };
        setting().map(Self::Fixed).ok_or_else(|| {
            format!("{text:?}: give dhcp, or IP/PREFIX,GATEWAY,DNS such as 10.0.0.5/24,10.0.0.1,10.0.0.1")
        })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)?;
        if let Some(gateway) = self.gateway {
            write!(f, ", gateway {gateway}")?;
        }
        for server in &self.dns {
            write!(f, ", DNS {server}")?;
        }
        Ok(())
    }
}

/// The cards of this machine, by name; nothing that only the kernel has.
pub(crate) fn interfaces() -> Vec<Interface> {
    interfaces_in(Path::new("/sys/class/net"))
}

fn interfaces_in(sysfs: &Path) -> Vec<Interface> {
    let addresses = addresses();
    let look = |path: PathBuf| {
        // Without a device behind it, it is a bridge, a tunnel or the loopback.
        path.join("device").exists().then_some(())?;
        let text = |file: &str| fs::read_to_string(path.join(file)).ok().map(|text| text.trim().to_owned());
        let name = path.file_name()?.to_string_lossy().into_owned();
        let addresses =
            addresses.iter().filter(|(owner, ..)| *owner == name).map(|(_, ip, bits)| (*ip, *bits)).collect();
        Some(Interface {
            index: text("ifindex")?.parse().ok()?,
            mac: text("address")?,
            // An error while it is down.
            has_link: text("carrier").as_deref() == Some("1"),
            name,
            addresses,
        })
    };
    let entries = fs::read_dir(sysfs).into_iter().flatten().flatten();
    let mut found: Vec<Interface> = entries.filter_map(|entry| look(entry.path())).collect();
    found.sort_by_key(|interface| (interface.name.len(), interface.name.clone()));
    found
}

/// Interface, address, length of the prefix.
fn addresses() -> Vec<(String, Ipv4Addr, u8)> {
    let list = nix::ifaddrs::getifaddrs().into_iter().flatten();
    list.filter_map(|entry| {
        let address = entry.address?.as_sockaddr_in()?.ip();
        let mask = entry.netmask?.as_sockaddr_in()?.ip();
        let prefix = u8::try_from(u32::from(mask).leading_ones()).ok()?;
        Some((entry.interface_name, address, prefix))
    })
    .collect()
}

fn file(name: &str) -> PathBuf {
    crate::job::run_directory().join(name)
}

fn wanted_file() -> PathBuf {
    file("network-wanted.json")
}

fn state_file() -> PathBuf {
    file("network.json")
}

fn write_whole(path: &Path, value: &impl Serialize) -> io::Result<()> {
    // Several may write at once; the last one counts.
    let partial = path.with_extension(std::process::id().to_string());
    fs::write(&partial, serde_json::to_vec(value)?)?;
    fs::rename(partial, path)
}

/// Asks for the network to be set up, anew if it is. What comes of it is in the [`state`].
///
/// # Errors
/// When the wish cannot be written.
pub(crate) fn ask(wanted: &Wanted) -> io::Result<()> {
    // First, so that nobody takes an older state for the answer.
    write_whole(&state_file(), &State::Working)?;
    write_whole(&wanted_file(), wanted)
}

/// How the network is now.
pub(crate) fn state() -> State {
    let read = || serde_json::from_slice(&fs::read(state_file()).ok()?).ok();
    read().unwrap_or(State::Off)
}

/// Waits for what was asked for, here or on the kernel's command line, and says what came of it.
///
/// # Errors
/// What went wrong, and what to do.
pub(crate) fn wait() -> Result<String, String> {
    let deadline = Instant::now() + PATIENCE + Duration::from_secs(10);
    loop {
        match state() {
            State::Up { interface, setting } => return Ok(format!("network: {interface} has {setting}")),
            State::Failed { error } => return Err(error),
            State::Off | State::Working if Instant::now() > deadline => {
                return Err("the network service does not answer".to_owned());
            }
            State::Off | State::Working => thread::sleep(Duration::from_millis(200)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_understood() {
        assert_eq!(Wanted::parse("dhcp"), Ok(Wanted::Dhcp));
        let Ok(Wanted::Fixed(setting)) = Wanted::parse("10.0.0.5/24,10.0.0.1,9.9.9.9") else { unreachable!() };
        assert_eq!(setting.to_string(), "10.0.0.5/24, gateway 10.0.0.1, DNS 9.9.9.9");
        let Ok(Wanted::Fixed(setting)) = Wanted::parse("10.0.0.5/24,,9.9.9.9") else { unreachable!() };
        assert_eq!((setting.gateway, setting.dns.len()), (None, 1));
        assert!(Wanted::parse("10.0.0.5/8").is_ok());
        for text in ["", "10.0.0.5", "10.0.0.5/33", "10.0.0.5/0", "10.0.0.5/24,x", "10.0.0.5/24,,,", "static"] {
            assert!(Wanted::parse(text).unwrap_err().contains("give dhcp"), "{text}");
        }
    }

    #[test]
    fn only_cards_count() {
        let folder = tempfile::tempdir().unwrap();
        for (name, has_device) in [("eth10", true), ("eth2", true), ("lo", false)] {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("ifindex"), "7\n").unwrap();
            fs::write(path.join("address"), "52:54:00:12:34:56\n").unwrap();
            fs::write(path.join("carrier"), "1\n").unwrap();
            if has_device {
                fs::create_dir(path.join("device")).unwrap();
            }
        }
        let found = interfaces_in(folder.path());
        let names: Vec<&str> = found.iter().map(|interface| &*interface.name).collect();
        assert_eq!(names, ["eth2", "eth10"]);
        assert!(found[0].has_link && found[0].index == 7);
    }

    #[test]
    fn wishes_and_states_survive_their_files() {
        let setting = Setting { address: Ipv4Addr::LOCALHOST, prefix: 8, gateway: None, dns: vec![] };
        for wanted in [Wanted::Dhcp, Wanted::Fixed(setting.clone())] {
            assert_eq!(serde_json::from_str::<Wanted>(&serde_json::to_string(&wanted).unwrap()).unwrap(), wanted);
        }
        for state in [State::Off, State::Working, State::Up { interface: "eth0".into(), setting }] {
            assert_eq!(serde_json::from_str::<State>(&serde_json::to_string(&state).unwrap()).unwrap(), state);
        }
    }
}
