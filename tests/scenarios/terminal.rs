//! A person at a serial console backs a Debian system up and restores it to an empty disk, with keys and nothing else.

use anyhow::Result;
use lifeboat_tests::boot_disk::DISK_MIB;
use lifeboat_tests::disk::{MIB, Table};
use lifeboat_tests::machine::{Bus, Firmware};
use lifeboat_tests::walkthrough::{Person, machine};

use crate::support::{boots, folder, installed, same_files_as, say, skip};

#[test]
fn a_debian_is_backed_up_and_restored_with_keys_and_boots_from_another_bus() -> Result<()> {
    if skip("terminal") {
        return Ok(());
    }
    let installed = installed(Table::Gpt)?;
    let folder = folder()?;
    let (backups, target) = (folder.join("terminal-backups.img"), folder.join("terminal-target.img"));
    let larger = (DISK_MIB + 1024) * MIB;
    let machine = machine("terminal", &installed.disk.disk.image, &backups, &target, larger)?;
    let mut person = Person::at(machine.start(&folder.path)?)?;
    say(&format!("terminal: the first screen after {:.0} s", person.guest.uptime().as_secs_f64()));
    person.back_up(&mut |_| Ok(()), &mut |_| Ok(()))?;
    person.restore(&mut |_| Ok(()))?;
    person.power_off()?;

    let restored = same_files_as(&installed, &target)?;
    boots("terminal-restored", &restored, Firmware::Ovmf, Bus::Nvme)
}
