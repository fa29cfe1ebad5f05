//! An image written out as a virtual machine's disk is a disk that starts.

use std::ffi::OsStr;
use std::fs;

use anyhow::Result;
use lifeboat_tests::disk::Table;
use lifeboat_tests::machine::{Bus, Drive, Firmware, Machine};
use lifeboat_tests::package::Package;
use lifeboat_tests::tool;

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

/// By the schema that libvirt itself comes with.
#[test]
fn what_libvirt_is_told_of_a_machine_is_valid() -> Result<()> {
    if skip("libvirt") {
        return Ok(());
    }
    let place = folder()?.join("for-libvirt");
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    fs::create_dir(&place)?;
    let disk = place.join("machine.qcow2");
    let words = ["export", "latest", "-o"].map(OsStr::new).into_iter().chain([disk.as_os_str()]);
    installed(Table::Gpt)?.repository.imager(words)?;

    let libvirt = Package::needed("libvirt0", &folder()?.join("packages"))?;
    let schema = libvirt.file("usr/share/libvirt/schemas/domain.rng")?;
    let machine = place.join("machine-libvirt.xml");
    tool::run("xmllint", ["--noout".as_ref(), "--relaxng".as_ref(), schema.as_os_str(), machine.as_os_str()])?;
    Ok(fs::remove_dir_all(&place)?)
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
