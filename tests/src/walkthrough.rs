//! What a person does at a machine that was started from the medium: back up, restore, power off. By keys, looking at
//! the screen of the serial console.
//!
//! Must not know: what becomes of the disks afterwards.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::disk::{MIB, sparse_file};
use crate::guest::Guest;
use crate::machine::{Bus, Drive, Machine, Medium};
use crate::screen::{Press, Screen};
use crate::{media, tool};

/// The password of the repository.
pub const PASSWORD: &str = "correct horse";
/// Serial number of the disk with the system.
pub const SYSTEM: &str = "SYSTEM-1";
/// Serial number of the disk for backups.
pub const BACKUPS: &str = "BACKUPS-1";
/// Serial number of the empty disk.
pub const EMPTY: &str = "EMPTY-1";

const BOOT: Duration = Duration::from_secs(240);
const ANSWER: Duration = Duration::from_secs(60);
const WORK: Duration = Duration::from_secs(900);
/// Until what was pressed is drawn.
const SETTLE: Duration = Duration::from_secs(1);
/// Ctrl-U empties a field.
const CLEAR: &str = "\u{15}";

/// A machine with the system's disk on virtio, a disk for backups on SATA and an empty one on NVMe, which keep what is
/// written to them, started from the ISO.
///
/// # Errors
/// When a disk or the medium cannot be made.
pub fn machine(name: &str, system: &Path, backups: &Path, empty: &Path, empty_bytes: u64) -> Result<Machine> {
    sparse_file(backups, 3 * 1024 * MIB)?;
    tool::run("mkfs.ext4", ["-q".as_ref(), "-L".as_ref(), "BACKUPS".as_ref(), backups.as_os_str()])?;
    sparse_file(empty, empty_bytes)?;
    let iso: PathBuf = media::folder()?.join("lifeboat.iso");
    Ok(Machine::new(name)
        .medium(Medium::Cd(iso))
        .drive(Drive::new(system, Bus::VirtioBlk).serial(SYSTEM))
        .drive(Drive::new(backups, Bus::Ahci).serial(BACKUPS).kept())
        .drive(Drive::new(empty, Bus::Nvme).serial(EMPTY).kept()))
}

/// The repository that a backup goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// One that is made for it.
    New,
    /// The one that is there.
    Known,
}

/// A person at the serial console.
pub struct Person {
    /// The machine.
    pub guest: Guest,
    screen: Screen,
}

impl Person {
    /// Waits for the first screen.
    ///
    /// # Errors
    /// When it does not come.
    pub fn at(guest: Guest) -> Result<Self> {
        let mut person = Self { guest, screen: Screen::default() };
        person.sees("> b  Back up", BOOT)?;
        Ok(person)
    }

    /// Waits until the screen shows what matches.
    ///
    /// # Errors
    /// When it does not: with the screen.
    pub fn sees(&mut self, pattern: &str, limit: Duration) -> Result<Vec<String>> {
        self.screen.wait_for(&mut self.guest, pattern, limit)
    }

    /// Presses keys.
    ///
    /// # Errors
    /// When the machine is gone.
    pub fn press(&mut self, keys: &[Press<'_>]) -> Result<()> {
        self.screen.press(&mut self.guest, keys)
    }

    fn choose(&mut self, pattern: &str) -> Result<()> {
        self.screen.choose(&mut self.guest, pattern, ANSWER)
    }

    /// Back to the first screen, from wherever one is.
    ///
    /// # Errors
    /// When it does not come.
    pub fn go_home(&mut self) -> Result<()> {
        for _ in 0..20 {
            self.sees("Lifeboat", ANSWER)?;
            if self.screen.text().contains("Power off") {
                return Ok(());
            }
            self.press(&[Press::Escape])?;
            thread::sleep(SETTLE);
        }
        self.sees("Power off", ANSWER).map(drop)
    }

    /// The shell of the medium on this console, up to where [`Guest::shell`] can talk to it.
    ///
    /// # Errors
    /// When it does not come.
    pub fn open_shell(&mut self) -> Result<()> {
        self.go_home()?;
        self.press(&[Press::Text("s")])?;
        self.guest.wait_for("# ", ANSWER)?;
        // Nothing is echoed to a loop that reads, and nothing is prompted for.
        self.guest.write("stty -echo; echo rea''dy; while read -r line; do eval \"$line\"; done; exit\n")?;
        self.guest.wait_for("ready\r?\n", ANSWER).map(drop)
    }

    /// Back from the shell to the screens.
    ///
    /// # Errors
    /// When they do not come.
    pub fn leave_shell(&mut self) -> Result<()> {
        self.guest.write("\u{4}")?;
        self.sees("Power off", ANSWER).map(drop)
    }

    /// Backs the system's disk up into a new repository with a password. `midway` is called while it works, `at_end`
    /// when the result is on the screen.
    ///
    /// # Errors
    /// When a screen does not show what it should.
    pub fn back_up(
        &mut self,
        midway: &mut dyn FnMut(&mut Self) -> Result<()>,
        at_end: &mut dyn FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        self.begin_backup(Into::New)?;
        self.sees(r"Done +\d{3}.* MiB of", WORK)?;
        midway(self)?;
        self.sees("Done, in", WORK)?;
        at_end(self)?;
        self.press(&[Press::Enter])
    }

    /// Lists the disks that can be backed up, among them the one with this serial number.
    ///
    /// # Errors
    /// When they are not shown.
    pub fn list_disks(&mut self, serial: &str) -> Result<()> {
        self.press(&[Press::Text("b")])?;
        let disk = format!(r"\[.\] .*serial {serial}");
        // On a slow machine the first screen is there before what does the work, and says so.
        while self.sees(&format!("{disk}|(not there yet)"), ANSWER)?.get(1).is_some_and(|said| !said.is_empty()) {
            self.press(&[Press::Enter])?;
            thread::sleep(SETTLE);
            self.press(&[Press::Text("b")])?;
        }
        Ok(())
    }

    /// Begins to back the system's disk up, until there is progress to be seen.
    ///
    /// # Errors
    /// When a screen does not show what it should.
    pub fn begin_backup(&mut self, into: Into) -> Result<()> {
        self.list_disks(SYSTEM)?;
        while self.sees(r"(\d+) disks? marked", ANSWER)?.get(1).is_none_or(|marked| marked != "0") {
            self.press(&[Press::Text("a")])?;
            thread::sleep(SETTLE);
        }
        self.screen.mark(&mut self.guest, &format!("serial {SYSTEM}"), ANSWER)?;
        self.press(&[Press::Text(" ")])?;
        self.sees("1 disk marked", ANSWER)?;
        self.press(&[Press::Enter])?;
        self.choose("\"BACKUPS\"")?;
        let fields: &[&str] = match into {
            Into::New => {
                self.choose("A new repository")?;
                &["> Password", "> The same"]
            }
            Into::Known => {
                self.choose("places/.*/lifeboat")?;
                &["> Password"]
            }
        };
        for field in fields {
            self.sees(field, ANSWER)?;
            self.press(&[Press::Text(PASSWORD), Press::Enter])?;
        }
        self.sees("> Name", ANSWER)?;
        self.press(&[Press::Enter])?;
        self.sees("> Note", ANSWER)?;
        self.press(&[Press::Text("before the move"), Press::Enter])?;
        self.choose("Start the backup")?;
        self.sees(r"Done +\d+.* MiB of", WORK).map(drop)
    }

    /// Restores the newest image to the empty disk. `before` is called when the screen says what will be erased.
    ///
    /// # Errors
    /// When a screen does not show what it should, or takes a wrong serial number.
    pub fn restore(&mut self, before: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.choose("Restore")?;
        self.choose("\"BACKUPS\"")?;
        self.choose("places/.*/lifeboat")?;
        self.sees("> Password", ANSWER)?;
        self.press(&[Press::Text("wrong"), Press::Enter])?;
        self.sees("That is not the password", ANSWER)?;
        self.press(&[Press::Text(PASSWORD), Press::Enter])?;
        self.choose("MiB in use")?;
        self.choose(&format!("serial {EMPTY}"))?;
        self.sees(&format!("EVERYTHING ON THIS DISK WILL BE LOST: .*serial {EMPTY}"), ANSWER)?;
        before(self)?;
        self.press(&[Press::Text(SYSTEM), Press::Enter])?;
        self.sees("That is not the serial number", ANSWER)?;
        // The last characters are enough.
        let last = EMPTY.get(3..).unwrap_or(EMPTY);
        self.press(&[Press::Enter, Press::Text(CLEAR), Press::Text(last), Press::Up])?;
        self.sees("> +ERASE AND RESTORE", ANSWER)?;
        self.press(&[Press::Enter])?;
        self.sees("Done, in", WORK)?;
        self.press(&[Press::Enter])
    }

    /// Turns the machine off.
    ///
    /// # Errors
    /// When it stays on.
    pub fn power_off(mut self) -> Result<()> {
        self.sees("Power off", ANSWER)?;
        self.press(&[Press::Text("o")])?;
        self.sees(r"Turn this machine off\?", ANSWER)?;
        self.press(&[Press::Right, Press::Enter])?;
        self.guest.wait_for("Everything is written. The stick can be pulled. The machine turns off.", ANSWER)?;
        self.guest.wait_until_off(ANSWER)
    }
}
