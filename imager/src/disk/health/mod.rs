//! How well a disk is, by its own account: SMART of ATA disks, the health log of NVMe, the log pages of SCSI, the life
//! time of eMMC.
//!
//! Only commands that read are sent, each with a time limit; the answers are parsed by pure functions. Must not know: what
//! lies on a disk, who asks.

mod ata;
mod mmc;
mod nvme;
mod scsi;

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::identity::Identity;
use super::sys;

/// For one command. A disk that is well answers in milliseconds; one that sleeps needs seconds to spin up.
const COMMAND_MAX: Duration = Duration::from_secs(5);

/// For all of it: after a command that timed out the kernel resets the disk, which can take long.
const ASKED_MAX: Duration = Duration::from_secs(7);

/// From here on a disk that counts its own wear is worth a warning.
const WORN_PERCENT: u16 = 90;

/// How well a disk is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// In one word.
    pub verdict: Verdict,
    /// What it says of itself, the worst first: "it expects to fail soon", "3 sectors cannot be read".
    pub remarks: Vec<String>,
    /// How much of its life is used up, in percent. May be more than 100.
    pub worn_percent: Option<u16>,
    /// Its temperature in degrees Celsius.
    pub temperature: Option<i16>,
}

/// How well a disk is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It does not say. The remark says why.
    Unknown,
    /// Nothing is wrong that it knows of.
    Healthy,
    /// It works, but there are signs that it will not for long.
    Suspect,
    /// It says that it is failing.
    Failing,
}

impl Health {
    /// Nothing is known, for this reason.
    fn unknown(why: impl Into<String>) -> Self {
        Self { verdict: Verdict::Unknown, remarks: vec![why.into()], worn_percent: None, temperature: None }
    }

    fn healthy() -> Self {
        Self { verdict: Verdict::Healthy, remarks: Vec::new(), worn_percent: None, temperature: None }
    }

    /// It is this bad at least, and here is why.
    fn note(&mut self, verdict: Verdict, remark: impl Into<String>) {
        self.verdict = self.verdict.max(verdict);
        self.remarks.push(remark.into());
    }

    fn wear(&mut self, percent: u16) {
        self.worn_percent = Some(percent);
        if percent >= WORN_PERCENT {
            self.verdict = self.verdict.max(Verdict::Suspect);
        }
    }

    /// Whether somebody should be told without asking.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        matches!(self.verdict, Verdict::Suspect | Verdict::Failing)
    }

    /// "healthy, worn 12 %", "failing: it expects to fail soon", "health unknown".
    #[must_use]
    pub fn words(&self) -> String {
        let worn = self.worn_percent.filter(|percent| *percent > 0).map(|percent| format!("worn {percent} %"));
        let said: Vec<String> = self.remarks.iter().cloned().chain(worn).collect();
        match self.verdict {
            Verdict::Unknown => "health unknown".to_owned(),
            Verdict::Healthy if said.is_empty() => "healthy".to_owned(),
            Verdict::Healthy => format!("healthy, {}", said.join(", ")),
            Verdict::Suspect => format!("not well: {}", said.join(", ")),
            Verdict::Failing => format!("failing: {}", said.join(", ")),
        }
    }

    /// What to do about it; nothing for a disk that is well.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        match self.verdict {
            Verdict::Unknown | Verdict::Healthy => None,
            Verdict::Suspect => Some("back up now, and replace it soon"),
            Verdict::Failing => Some("back up now, then replace it; do not restore to it"),
        }
    }
}

/// Asks a disk how it is; one that is a partition's, asks the whole disk. Takes up to seven seconds with a disk that does
/// not answer, milliseconds with any other. Nothing is written, and nothing of it is kept.
#[must_use]
pub fn ask(identity: &Identity) -> Health {
    let (sender, answer) = mpsc::channel();
    let identity = identity.clone();
    // A thread of its own: nobody can take back a command that hangs in the kernel.
    let started = thread::Builder::new().name("health".into()).spawn(move || drop(sender.send(ask_now(&identity))));
    if let Err(error) = started {
        return Health::unknown(format!("no thread can be started: {error}"));
    }
    answer.recv_timeout(ASKED_MAX).unwrap_or_else(|_| Health::unknown("it does not answer"))
}

/// How a disk is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Ata,
    Mmc,
    Nvme,
    Scsi,
    None,
}

fn ask_now(identity: &Identity) -> Health {
    let path = identity.partition_of.as_deref().unwrap_or(&identity.path);
    let sysfs = Path::new("/sys/class/block").join(path.file_name().unwrap_or_default()).join("device");
    let vendor = fs::read_to_string(sysfs.join("vendor")).unwrap_or_default();
    let way = way(identity, path, vendor.trim());
    match way {
        Way::None => return Health::unknown("a disk of this kind does not say"),
        Way::Mmc => return mmc::health(&|name| fs::read_to_string(sysfs.join(name)).ok()),
        Way::Ata | Way::Nvme | Way::Scsi => {}
    }
    // Without waiting for a medium.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let disk = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(disk) => disk,
        Err(error) => return Health::unknown(format!("it cannot be opened: {error}")),
    };
    match way {
        Way::Nvme => match sys::nvme_log(&disk, nvme::HEALTH_LOG, nvme::HEALTH_BYTES, COMMAND_MAX) {
            Ok(log) => nvme::health(&log),
            Err(error) => Health::unknown(format!("it does not answer: {error}")),
        },
        Way::Ata => ata::ask(identity.rotational, &|command, len| sys::scsi_read(&disk, command, len, COMMAND_MAX)),
        _ => scsi::ask(&|command, len| sys::scsi_read(&disk, command, len, COMMAND_MAX)),
    }
}

/// ATA disks are known by what stands in place of their maker. Behind USB there may be one, which only the disk in a case
/// is asked for, as udev does it: a stick is none, and some do not take kindly to commands that they do not know.
fn way(identity: &Identity, path: &Path, vendor: &str) -> Way {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match identity.transport.as_deref() {
        Some("nvme") => Way::Nvme,
        Some("mmc") => Way::Mmc,
        Some("usb") if identity.removable => Way::None,
        Some("usb") if name.starts_with("sd") => Way::Ata,
        Some("sata") => Way::Ata,
        _ if name.starts_with("sd") && vendor == "ATA" => Way::Ata,
        _ if name.starts_with("sd") => Way::Scsi,
        _ => Way::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::identity::of_new_file;

    #[test]
    fn each_disk_is_asked_in_its_own_way() {
        let disk = |path: &str, transport: &str, removable| {
            let identity = of_new_file(path.into(), 1);
            Identity { transport: Some(transport.into()), removable, ..identity }
        };
        for (path, transport, removable, vendor, expected) in [
            ("/dev/nvme0n1", "nvme", false, "", Way::Nvme),
            ("/dev/mmcblk0", "mmc", false, "", Way::Mmc),
            ("/dev/sda", "sata", false, "ATA", Way::Ata),
            ("/dev/sda", "sas", false, "ATA", Way::Ata),
            ("/dev/sda", "sas", false, "SEAGATE", Way::Scsi),
            ("/dev/sdb", "usb", false, "WD", Way::Ata),
            ("/dev/sdb", "usb", true, "Kingston", Way::None),
            ("/dev/vda", "virtio", false, "0x1af4", Way::None),
            ("/disk.img", "file", false, "", Way::None),
        ] {
            let identity = disk(path, transport, removable);
            assert_eq!(way(&identity, Path::new(path), vendor), expected, "{path} {transport} {vendor}");
        }
    }

    #[test]
    fn a_file_does_not_say() {
        let health = ask(&of_new_file("/nowhere/disk.img".into(), 1));
        assert_eq!((health.verdict, health.words().as_str()), (Verdict::Unknown, "health unknown"));
    }

    #[test]
    fn words_are_plain() {
        let mut health = Health::healthy();
        assert_eq!((health.words().as_str(), health.advice()), ("healthy", None));
        health.wear(12);
        assert_eq!(health.words(), "healthy, worn 12 %");
        assert!(!health.is_bad());
        health.wear(97);
        assert_eq!(health.words(), "not well: worn 97 %");
        assert!(health.is_bad() && health.advice().is_some());
        health.note(Verdict::Failing, "it expects to fail soon");
        health.note(Verdict::Suspect, "3 sectors cannot be read");
        assert_eq!(health.words(), "failing: it expects to fail soon, 3 sectors cannot be read, worn 97 %");
    }
}
