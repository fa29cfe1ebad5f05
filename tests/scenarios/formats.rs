//! An image written out as a virtual machine's disk is a disk that starts.

use std::ffi::OsStr;
use std::fs;

use anyhow::Result;
use lifeboat_tests::disk::Table;
use lifeboat_tests::machine::{Bus, Drive, Firmware, Machine};

use crate::support::{folder, installed, say, skip};

#[test]
fn a_full_clone_boots_with_a_bios() -> Result<()> {
    boots("full.qcow2", &["clone", "--full"], Firmware::SeaBios)
}

#[test]
fn an_exported_vmdk_boots_with_uefi() -> Result<()> {
    boots("exported.vmdk", &["export", "--format", "vmdk", "--disks-only"], Firmware::Ovmf)
}

#[test]
fn an_exported_vhdx_boots_with_a_bios() -> Result<()> {
    boots("exported.vhdx", &["export", "--format", "vhdx", "--disks-only"], Firmware::SeaBios)
}

/// The installed Debian, written to this file by these words, gets to its login prompt and lets root in.
fn boots(name: &str, words: &[&str], firmware: Firmware) -> Result<()> {
    if skip(name) {
        return Ok(());
    }
    let file = folder()?.join(name);
    if file.exists() {
        fs::remove_file(&file)?;
    }
    let words = words.iter().copied().chain(["latest", "-o"]).map(OsStr::new);
    installed(Table::Gpt)?.repository.imager(words.chain([file.as_os_str()]))?;

    let machine = Machine::new(name).firmware(firmware).drive(Drive::new(&file, Bus::Ahci));
    let mut guest = machine.start(&folder()?.path)?;
    let took = guest.wait_for_login_prompt()?;
    say(&format!("{name}: login prompt after {:.0} s", took.as_secs_f64()));
    guest.log_in()?;
    guest.cut_power()?;
    Ok(fs::remove_file(&file)?)
}
