//! The machine that this runs on: what goes into an image's manifest, and what tells machines apart.
//!
//! From sysfs and procfs alone. Nothing here fails: what the machine does not tell is left out. Must not know:
//! disks.
//!
//! Sources: SMBIOS 3.6, sections 7.2 and 7.3, as the kernel shows it in `/sys/class/dmi/id`; UEFI
//! specification 2.10, section 3.3 (`SecureBoot`).

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a machine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Who made it.
    pub vendor: Option<String>,
    /// What its maker calls it.
    pub product: Option<String>,
    /// Its serial number; only root may know it.
    pub serial: Option<String>,
    /// The UUID that its firmware has for it, in lower case; only root may know it.
    pub uuid: Option<String>,
    /// What it was booted by.
    pub firmware: Firmware,
    /// Is Secure Boot on? Unknown without UEFI, or without its variables.
    pub secure_boot: Option<bool>,
    /// Memory that the kernel has, in bytes.
    pub memory: u64,
    /// Number of logical CPUs.
    pub cpus: u32,
    /// What their maker calls them.
    pub cpu_model: Option<String>,
    /// The host name of the running system.
    pub hostname: Option<String>,
    /// Its network cards, by name; virtual interfaces are left out.
    pub nics: Vec<Nic>,
}

impl Machine {
    /// A machine of which nothing is known but how its disks boot.
    #[must_use]
    pub fn unknown(firmware: Firmware) -> Self {
        Self {
            vendor: None,
            product: None,
            serial: None,
            uuid: None,
            firmware,
            secure_boot: None,
            memory: 0,
            cpus: 1,
            cpu_model: None,
            hostname: None,
            nics: Vec::new(),
        }
    }
}

/// What a machine was booted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    /// Legacy BIOS, or no firmware that says otherwise.
    Bios,
    /// UEFI.
    Uefi,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The interface's name.
    pub name: String,
    /// Its address: `52:54:00:12:34:56`.
    pub mac: String,
}

/// The machine that this runs on.
#[must_use]
pub fn this_machine() -> Machine {
    Host::below(Path::new("/")).machine()
}

/// A name for the machine that stays the same when its system is installed anew, as far as it has one: the
/// firmware's UUID, else a serial number, else the system's machine id, else the lowest MAC address.
///
/// What every other board of some maker has, too ("To be filled by O.E.M."), does not count. `unknown` for a
/// machine without anything of its own.
#[must_use]
pub fn machine_id() -> String {
    Host::below(Path::new("/")).id()
}

/// The directory below which `sys`, `proc` and `etc` are.
struct Host {
    root: PathBuf,
}

impl Host {
    fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn machine(&self) -> Machine {
        let cpuinfo = self.text("proc/cpuinfo").unwrap_or_default();
        let cpu_value = |key: &'static str| cpuinfo.lines().filter_map(move |line| value_of(line, key));
        Machine {
            vendor: self.dmi("sys_vendor"),
            product: self.dmi("product_name"),
            serial: self.dmi("product_serial").or_else(|| self.dmi("board_serial")),
            uuid: self.uuid(),
            firmware: if self.root.join("sys/firmware/efi").exists() { Firmware::Uefi } else { Firmware::Bios },
            secure_boot: self.secure_boot(),
            memory: self.memory().unwrap_or(0),
            cpus: u32::try_from(cpu_value("processor").count()).unwrap_or(u32::MAX),
            cpu_model: cpu_value("model name").next().map(str::to_owned),
            hostname: self.text("proc/sys/kernel/hostname").filter(|name| name != "(none)"),
            nics: self.nics(),
        }
    }

    fn id(&self) -> String {
        let serial = || {
            let serial = self.dmi("product_serial").or_else(|| self.dmi("board_serial"))?;
            Some(format!("serial {} {serial}", self.dmi("sys_vendor").unwrap_or_default()))
        };
        let installed = || self.text("etc/machine-id").filter(|id| id.len() == 32).map(|id| format!("machine-id {id}"));
        let mac = || self.nics().into_iter().map(|nic| nic.mac).min().map(|mac| format!("mac {mac}"));
        let uuid = self.uuid().map(|uuid| format!("uuid {uuid}"));
        uuid.or_else(serial).or_else(installed).or_else(mac).unwrap_or_else(|| "unknown".to_owned())
    }

    /// The text of a file, without padding; `None` when it is empty.
    fn text(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.root.join(path)).ok()?;
        let text = String::from_utf8_lossy(&bytes).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned();
        (!text.is_empty()).then_some(text)
    }

    fn dmi(&self, field: &str) -> Option<String> {
        self.text(&format!("sys/class/dmi/id/{field}")).filter(|text| !is_placeholder(text))
    }

    fn uuid(&self) -> Option<String> {
        self.dmi("product_uuid").map(|uuid| uuid.to_lowercase()).filter(|uuid| is_sane(uuid))
    }

    /// The variable's four bytes of attributes, then 1 for on.
    fn secure_boot(&self) -> Option<bool> {
        const VARIABLE: &str = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
        fs::read(self.root.join(VARIABLE)).ok()?.get(4).map(|&value| value == 1)
    }

    fn memory(&self) -> Option<u64> {
        let meminfo = self.text("proc/meminfo")?;
        let total = meminfo.lines().find_map(|line| value_of(line, "MemTotal"))?;
        total.strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    }

    /// Cards have a device behind them; bridges, bonds, tunnels and the loopback have none.
    fn nics(&self) -> Vec<Nic> {
        let entries = fs::read_dir(self.root.join("sys/class/net")).into_iter().flatten().flatten();
        let cards = entries.filter(|entry| entry.path().join("device").exists());
        let mut nics: Vec<Nic> = cards
            .filter_map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                let mac = self.text(&format!("sys/class/net/{name}/address"))?;
                mac.contains(|c: char| c != '0' && c != ':').then_some(Nic { name, mac })
            })
            .collect();
        nics.sort_by(|a, b| a.name.cmp(&b.name));
        nics
    }
}

/// The value of a line `key   : value`.
fn value_of<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (found, value) = line.split_once(':')?;
    (found.trim_end() == key).then(|| value.trim())
}

/// What boards carry that nobody gave a number.
fn is_placeholder(text: &str) -> bool {
    const PLACEHOLDERS: [&str; 20] = [
        "0123456789",
        "1234567890",
        "123456789",
        "12345678",
        "chassis serial number",
        "base board serial number",
        "default string",
        "empty",
        "invalid",
        "n/a",
        "none",
        "not applicable",
        "not available",
        "not specified",
        "o.e.m.",
        "oem",
        "system manufacturer",
        "system product name",
        "system serial number",
        "unknown",
    ];
    let text = text.to_lowercase();
    PLACEHOLDERS.contains(&text.as_str())
        || text.starts_with("to be filled by")
        || text.chars().all(|c| matches!(c, '0' | 'x' | 'f' | '.' | '-' | ' '))
}

/// A UUID that is this machine's own: not one digit over and over, and none of those that firmware comes with.
fn is_sane(uuid: &str) -> bool {
    const DEFAULTS: [&str; 5] = [
        "03000200-0400-0500-0006-000700080009",
        "00020003-0004-0005-0006-000700080009",
        "12345678-1234-5678-90ab-cddeefaabbcc",
        "12345678-1234-1234-1234-123456789abc",
        "4c4c4544-0000-2010-8020-80c04f202020",
    ];
    let mut digits = uuid.chars().filter(|&c| c != '-');
    let first = digits.next();
    uuid.len() == 36 && !DEFAULTS.contains(&uuid) && digits.any(|c| Some(c) != first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let host = Host::below(root.path());
        (root, host)
    }

    const UUID: (&str, &[u8]) = ("sys/class/dmi/id/product_uuid", b"12345678-9ABC-DEF0-1234-56789ABCDEF0\n");
    const SERIAL: (&str, &[u8]) = ("sys/class/dmi/id/product_serial", b"SN-0042\n");
    const BOARD: (&str, &[u8]) = ("sys/class/dmi/id/board_serial", b" B-7 \n");
    const VENDOR: (&str, &[u8]) = ("sys/class/dmi/id/sys_vendor", b"Acme Inc.\n");
    const INSTALLED: (&str, &[u8]) = ("etc/machine-id", b"0123456789abcdef0123456789abcdef\n");
    const CARD: (&str, &[u8]) = ("sys/class/net/enp3s0/address", b"52:54:00:12:34:56\n");
    const CARD_DEVICE: (&str, &[u8]) = ("sys/class/net/enp3s0/device/vendor", b"0x8086\n");

    #[test]
    fn a_machine_tells_what_it_is() {
        let (_root, host) = host(&[
            UUID,
            SERIAL,
            BOARD,
            VENDOR,
            ("sys/class/dmi/id/product_name", b"Rocket 9\n"),
            ("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", &[6, 0, 0, 0, 1]),
            ("proc/cpuinfo", b"processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\n\nprocessor\t: 1\nmodel name\t: Fast\n"),
            ("proc/meminfo", b"MemTotal:         983684 kB\nMemFree:          870476 kB\n"),
            ("proc/sys/kernel/hostname", b"web-1\n"),
            CARD,
            CARD_DEVICE,
            ("sys/class/net/lo/address", b"00:00:00:00:00:00\n"),
            ("sys/class/net/br0/address", b"02:00:00:00:00:01\n"),
        ]);
        let machine = host.machine();
        assert_eq!(machine.vendor.as_deref(), Some("Acme Inc."));
        assert_eq!(machine.product.as_deref(), Some("Rocket 9"));
        assert_eq!(machine.serial.as_deref(), Some("SN-0042"));
        assert_eq!(machine.uuid.as_deref(), Some("12345678-9abc-def0-1234-56789abcdef0"));
        assert_eq!((machine.firmware, machine.secure_boot), (Firmware::Uefi, Some(true)));
        assert_eq!((machine.memory, machine.cpus), (983_684 * 1024, 2));
        assert_eq!(machine.cpu_model.as_deref(), Some("Fast CPU @ 3 GHz"));
        assert_eq!(machine.hostname.as_deref(), Some("web-1"));
        assert_eq!(machine.nics, [Nic { name: "enp3s0".to_owned(), mac: "52:54:00:12:34:56".to_owned() }]);
    }

    #[test]
    fn a_machine_that_tells_nothing_is_no_error() {
        let (_root, host) = host(&[]);
        let machine = host.machine();
        assert_eq!((machine.firmware, machine.secure_boot, machine.memory), (Firmware::Bios, None, 0));
        assert_eq!(host.id(), "unknown");
    }

    #[test]
    fn the_first_source_that_is_the_machines_own_names_it() {
        let id = |files: &[(&str, &[u8])]| {
            let (_root, host) = host(files);
            host.id()
        };
        assert_eq!(id(&[UUID, SERIAL, INSTALLED]), "uuid 12345678-9abc-def0-1234-56789abcdef0");
        assert_eq!(id(&[SERIAL, BOARD, VENDOR, INSTALLED]), "serial Acme Inc. SN-0042");
        assert_eq!(id(&[BOARD, VENDOR, INSTALLED]), "serial Acme Inc. B-7");
        assert_eq!(id(&[INSTALLED, CARD, CARD_DEVICE]), "machine-id 0123456789abcdef0123456789abcdef");
        assert_eq!(id(&[CARD, CARD_DEVICE]), "mac 52:54:00:12:34:56");
        let uuid = UUID.0;
        for shared in [
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "03000200-0400-0500-0006-000700080009",
            "Not Settable",
        ] {
            assert_eq!(id(&[(uuid, shared.as_bytes()), BOARD, VENDOR]), "serial Acme Inc. B-7", "{shared}");
        }
        for shared in ["To be filled by O.E.M.", "Default string", "System Serial Number", "0", "xxxxxxxx", "None", ""]
        {
            assert_eq!(id(&[(SERIAL.0, shared.as_bytes()), BOARD, VENDOR]), "serial Acme Inc. B-7", "{shared}");
        }
    }

    #[test]
    fn this_machine_has_cpus_and_memory() {
        let machine = this_machine();
        assert!(machine.cpus > 0 && machine.memory > 0);
        assert_eq!(machine_id(), machine_id());
    }
}
