//! Systems boot, on both kinds of firmware.

use anyhow::{Result, ensure};
use lifeboat_tests::boot_disk::ROOT_UUID;
use lifeboat_tests::disk::Table;
use lifeboat_tests::guest::{Bus, Firmware, Guest};

use crate::support::{folder, installed_disk, say, skip};

#[test]
fn a_gpt_disk_boots_with_a_bios() -> Result<()> {
    boots("gpt-bios", Table::Gpt, Firmware::SeaBios, Bus::VirtioBlk)
}

#[test]
fn a_gpt_disk_boots_with_uefi() -> Result<()> {
    boots("gpt-uefi", Table::Gpt, Firmware::Ovmf, Bus::Ahci)
}

#[test]
fn an_mbr_disk_boots_with_a_bios() -> Result<()> {
    boots("mbr-bios", Table::Mbr, Firmware::SeaBios, Bus::Ahci)
}

fn boots(name: &str, table: Table, firmware: Firmware, bus: Bus) -> Result<()> {
    if skip(name) {
        return Ok(());
    }
    let installed = installed_disk(table)?;
    let mut guest = Guest::start(name, &installed.disk.image, firmware, bus, &folder()?.path)?;
    let took = guest.wait_for_login_prompt()?;
    say(&format!("{name}: login prompt after {:.0} s", took.as_secs_f64()));
    guest.log_in()?;
    ensure!(guest.shell("findmnt -no UUID /")? == ROOT_UUID, "another root file system than ours");
    let is_uefi = guest.shell("test -d /sys/firmware/efi && echo yes || echo no")?;
    ensure!((is_uefi == "yes") == (firmware == Firmware::Ovmf), "started by other firmware than was meant");
    let failed = guest.shell("systemctl list-units --failed --plain --no-legend")?;
    ensure!(failed.is_empty(), "units failed in the guest:\n{failed}");
    guest.power_off()
}
