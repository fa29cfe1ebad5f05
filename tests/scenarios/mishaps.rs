//! What goes wrong in the field: the power goes, the stick is pulled, the disk has bad sectors, its twin lies beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_tests::disk::MIB;
use lifeboat_tests::guest::Guest;
use lifeboat_tests::machine::{Bus, Drive};
use lifeboat_tests::mounted::{Loop, Mount};
use lifeboat_tests::{imager, tool};

use crate::support::{folder, skip};
use crate::unattended::{PASSWORD, backup_disk, server};

const BOOT: Duration = Duration::from_secs(240);
const WORK: Duration = Duration::from_secs(600);

const CAPTURE: &str = "lifeboat.job=capture lifeboat.repo=label:BACKUPS/servers lifeboat.password-file=label:BACKUPS/password \
    lifeboat.init=yes lifeboat.level=1";

/// A disk of noise, the same every time for one `seed`, which nobody knows a file system in.
pub(crate) fn noise_disk(name: &str, mib: u64, seed: u64) -> Result<PathBuf> {
    let path = folder()?.join(&format!("{name}.img"));
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(usize::try_from(mib * MIB)?);
    while (bytes.len() as u64) < mib * MIB {
        // xorshift64*, by Vigna.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    fs::write(&path, bytes)?;
    Ok(path)
}

fn is_well_underway(guest: &mut Guest) -> Result<()> {
    guest.wait_for(r"lifeboat: copying +[2-9]\d %", WORK).map(drop)
}

/// The backups' disk, looked at from outside: the repository is sound, and its only image is what `expected` has.
fn holds_one_image_of(backups: &Path, expected: &Path, name: &str) -> Result<()> {
    holds_one_image_in("servers", PASSWORD.trim_end(), backups, expected, name)
}

/// The same for a repository in this directory with this password.
pub(crate) fn holds_one_image_in(
    directory: &str,
    password: &str,
    backups: &Path,
    expected: &Path,
    name: &str,
) -> Result<()> {
    let folder = folder()?;
    let device = Loop::attach(backups, &[])?;
    let mount = Mount::new(&device.path, "ext4", "rw", &folder.join(&format!("{name}-mount")))?;
    let target = folder.join(&format!("{name}-restored.img"));
    let run = |words: &[&str]| {
        let mut command = tool::command(imager::binary()?);
        command.env("IMAGER_REPO", mount.at.join(directory)).env("IMAGER_PASSWORD", password);
        tool::output(command.args(words))
    };
    run(&["verify", "--read-data"])?;
    let images = run(&["images", "--json"])?.lines().count();
    ensure!(images == 1, "{images} images instead of one");
    run(&["restore", "latest", "--force", "--to", target.to_str().context("a path that is not UTF-8")?])?;
    mount.unmount()?;
    ensure!(fs::read(&target)? == fs::read(expected)?, "the restored disk differs");
    fs::remove_file(&target)?;
    Ok(())
}

#[test]
fn after_a_power_cut_the_next_start_goes_on() -> Result<()> {
    if skip("power cut") {
        return Ok(());
    }
    let source = noise_disk("power-cut", 384, 1)?;
    let backups = backup_disk("power-cut-backups")?;
    let words = format!("{CAPTURE} lifeboat.disk=only lifeboat.then=poweroff");
    let machine = server("power-cut", &words)?
        .drive(Drive::new(&source, Bus::Ahci).serial("SOURCE-1"))
        .drive(Drive::new(&backups, Bus::VirtioBlk).serial("BACKUPS-1").kept());
    let mut guest = machine.start(&folder()?.path)?;
    // SMART of ATA is asked for in the guest.
    guest.wait_for(r"disk: /dev/sda .*serial SOURCE-1\), healthy", BOOT)?;
    is_well_underway(&mut guest)?;
    guest.cut_power()?;

    let mut guest = machine.start(&folder()?.path)?;
    guest.wait_for("lifeboat: done: exit status 0", WORK)?;
    guest.wait_until_off(BOOT)?;
    holds_one_image_of(&backups, &source, "power-cut")
}

#[test]
fn a_stick_that_is_pulled_ends_the_job_and_not_the_machine() -> Result<()> {
    if skip("pulled stick") {
        return Ok(());
    }
    let source = noise_disk("pulled", 384, 2)?;
    let backups = backup_disk("pulled-backups")?;
    let words = format!("{CAPTURE} lifeboat.disk=serial:SOURCE-1 lifeboat.then=poweroff");
    let machine = server("pulled", &words)?.drive(Drive::new(&source, Bus::VirtioBlk).serial("SOURCE-1"));
    let mut guest = machine.start(&folder()?.path)?;
    let stick = Drive::new(&backups, Bus::Usb).serial("STICK-1").kept();
    guest.wait_for("waiting for the file system labelled BACKUPS", BOOT)?;
    guest.plug_in("stick", &stick)?;
    is_well_underway(&mut guest)?;
    guest.pull_out("stick")?;
    guest.wait_for("lifeboat: FAILED: exit status", WORK)?;
    guest.wait_for("Lifeboat", BOOT)?;
    ensure!(!guest.console().contains("The stick can be pulled"), "the machine was turned off");
    drop(guest);

    // Plugged in again, at the next start, the capture goes on.
    let words = format!("{CAPTURE} lifeboat.disk=serial:SOURCE-1 lifeboat.then=poweroff");
    let machine =
        server("pulled-again", &words)?.drive(Drive::new(&source, Bus::VirtioBlk).serial("SOURCE-1")).drive(stick);
    let mut guest = machine.start(&folder()?.path)?;
    guest.wait_for("lifeboat: done: exit status 0", WORK)?;
    guest.wait_until_off(BOOT)?;
    holds_one_image_of(&backups, &source, "pulled")
}

#[test]
fn bad_sectors_are_said_and_a_twin_is_told_by_its_serial_number_in_256_mib() -> Result<()> {
    if skip("bad sectors") {
        return Ok(());
    }
    const BAD: [u64; 3] = [5_000, 5_001, 60_000];
    let source = noise_disk("bad-sectors", 64, 3)?;
    let twin = noise_disk("bad-sectors-twin", 64, 4)?;
    let backups = backup_disk("bad-sectors-backups")?;
    let words = format!("{CAPTURE} lifeboat.disk=serial:TWIN-B");
    // And there is hardly any memory.
    let machine = server("bad-sectors", &words)?
        .memory_mib(256)
        .drive(Drive::new(&twin, Bus::Scsi).serial("TWIN-A"))
        .drive(Drive::new(&source, Bus::Scsi).serial("TWIN-B").bad_sectors(&BAD))
        .drive(Drive::new(&backups, Bus::Ahci).serial("BACKUPS-1").kept());
    let mut guest = machine.start(&folder()?.path)?;
    guest.wait_for("cannot be read", WORK)?;
    guest.wait_for("exit status 10", WORK)?;
    guest.wait_for("Lifeboat", BOOT)?;
    guest.cut_power()?;

    let mut expected = fs::read(&source)?;
    for sector in BAD {
        let start = usize::try_from(sector * 512)?;
        expected.get_mut(start..start + 512).context("a bad sector behind the disk's end")?.fill(0);
    }
    let readable = folder()?.join("bad-sectors-readable.img");
    fs::write(&readable, expected)?;
    holds_one_image_of(&backups, &readable, "bad-sectors")
}
