//! A person at a serial console backs a Debian system up and restores it to an empty disk, with keys and nothing else.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use lifeboat_tests::boot_disk::DISK_MIB;
use lifeboat_tests::disk::{MIB, Table, sparse_file};
use lifeboat_tests::guest::Guest;
use lifeboat_tests::machine::{Bus, Drive, Firmware, Machine, Medium};
use lifeboat_tests::screen::{Press, Screen};
use lifeboat_tests::{media, tool};

use crate::support::{boots, folder, installed, same_files_as, say, skip};

const BOOT: Duration = Duration::from_secs(240);
/// Until what was pressed is drawn.
const SETTLE: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(60);
const WORK: Duration = Duration::from_secs(900);

/// An empty ext4 on a disk without partitions.
fn backup_disk(name: &str) -> Result<std::path::PathBuf> {
    let path = folder()?.join(&format!("{name}.img"));
    sparse_file(&path, 3 * 1024 * MIB)?;
    tool::run("mkfs.ext4", ["-q".as_ref(), "-L".as_ref(), "BACKUPS".as_ref(), path.as_os_str()])?;
    Ok(path)
}

struct Console {
    guest: Guest,
    screen: Screen,
}

impl Console {
    fn start(machine: &Machine, folder: &Path) -> Result<Self> {
        let mut console = Self { guest: machine.start(folder)?, screen: Screen::default() };
        console.sees("Back up", BOOT)?;
        Ok(console)
    }

    fn sees(&mut self, pattern: &str, limit: Duration) -> Result<Vec<String>> {
        self.screen.wait_for(&mut self.guest, pattern, limit)
    }

    fn press(&mut self, keys: &[Press<'_>]) -> Result<()> {
        self.screen.press(&mut self.guest, keys)
    }

    fn choose(&mut self, pattern: &str) -> Result<()> {
        self.screen.choose(&mut self.guest, pattern, ANSWER)
    }
}

#[test]
fn a_debian_is_backed_up_and_restored_with_keys_and_boots_from_another_bus() -> Result<()> {
    if skip("terminal") {
        return Ok(());
    }
    let installed = installed(Table::Gpt)?;
    let backups = backup_disk("terminal-backups")?;
    let target = folder()?.join("terminal-target.img");
    sparse_file(&target, (DISK_MIB + 1024) * MIB)?;
    let machine = Machine::new("terminal")
        .medium(Medium::Cd(media::folder()?.join("lifeboat.iso")))
        .drive(Drive::new(&installed.disk.disk.image, Bus::VirtioBlk).serial("DEBIAN-1"))
        .drive(Drive::new(&backups, Bus::Ahci).serial("BACKUPS-1").kept())
        .drive(Drive::new(&target, Bus::Nvme).serial("EMPTY-1").kept());
    let mut console = Console::start(&machine, &folder()?.path)?;
    say(&format!("terminal: the first screen after {:.0} s", console.guest.uptime().as_secs_f64()));
    back_up(&mut console)?;
    restore(&mut console)?;
    console.press(&[Press::Text("o")])?;
    console.sees("Turn this machine off\\?", ANSWER)?;
    console.press(&[Press::Right, Press::Enter])?;
    console.guest.wait_until_off(ANSWER)?;
    drop(console);

    let restored = same_files_as(&installed, &target)?;
    boots("terminal-restored", &restored, Firmware::Ovmf, Bus::Nvme)
}

/// Ctrl-U empties a field.
const CLEAR: &str = "\u{15}";
const PASSWORD: &str = "correct horse";

fn back_up(console: &mut Console) -> Result<()> {
    console.press(&[Press::Text("b")])?;
    console.sees(r"\[.\] virtio disk, serial DEBIAN-1", ANSWER)?;
    while console.sees(r"(\d+) disks? marked", ANSWER)?.get(1).is_none_or(|marked| marked != "0") {
        console.press(&[Press::Text("a")])?;
        std::thread::sleep(SETTLE);
    }
    console.screen.mark(&mut console.guest, "serial DEBIAN-1", ANSWER)?;
    console.press(&[Press::Text(" ")])?;
    console.sees("1 disk marked", ANSWER)?;
    console.press(&[Press::Enter])?;
    console.choose(r#""BACKUPS""#)?;
    console.choose("A new repository")?;
    for field in ["> Password", "> The same"] {
        console.sees(field, ANSWER)?;
        console.press(&[Press::Text(PASSWORD), Press::Enter])?;
    }
    console.sees("> Name", ANSWER)?;
    console.press(&[Press::Enter])?;
    console.sees("> Note", ANSWER)?;
    console.press(&[Press::Text("before the move"), Press::Enter])?;
    console.choose("Start the backup")?;
    console.sees(r"Done +\d.* MiB of", WORK)?;
    console.sees("Done, in", WORK)?;
    console.press(&[Press::Enter])
}

fn restore(console: &mut Console) -> Result<()> {
    console.choose("Restore")?;
    console.choose(r#""BACKUPS""#)?;
    console.choose("places/.*/lifeboat")?;
    console.sees("> Password", ANSWER)?;
    console.press(&[Press::Text("wrong"), Press::Enter])?;
    console.sees("That is not the password", ANSWER)?;
    console.press(&[Press::Text(PASSWORD), Press::Enter])?;
    console.choose("712 MiB in use|MiB in use")?;
    console.choose("serial EMPTY-1")?;
    console.sees("EVERYTHING ON THIS DISK WILL BE LOST: QEMU NVMe Ctrl, serial EMPTY-1", ANSWER)?;
    // Another disk's serial number, then the right one's last characters.
    console.press(&[Press::Text("DEBIAN-1"), Press::Enter])?;
    console.sees("That is not the serial number", ANSWER)?;
    console.press(&[Press::Enter, Press::Text(CLEAR), Press::Text("TY-1"), Press::Enter])?;
    console.choose("ERASE AND RESTORE|Erase and restore$")?;
    console.sees("Done, in", WORK)?;
    console.press(&[Press::Enter])
}
