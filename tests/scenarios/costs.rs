//! What the medium's surroundings cost, measured on request: the same program reads the same disk under the agent, and in a
//! Debian that it was copied to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_tests::disk::Table;
use lifeboat_tests::machine::{Bus, Drive, Firmware, Machine};
use lifeboat_tests::mounted::{Loop, Mount};
use lifeboat_tests::{media, tool};

use crate::abuse::report;
use crate::support::{folder, installed, say, skip};
use crate::unattended::{backup_disk, server};

const WORK: Duration = Duration::from_secs(1200);

/// The root file system of a Debian on a disk of its own, with another name than the one that starts.
fn source() -> Result<PathBuf> {
    let installed = installed(Table::Gpt)?;
    let path = folder()?.join("costs-source.img");
    let root = Loop::partition(&installed.disk.disk.image, installed.disk.disk.partition(installed.disk.root)?, &[])?;
    tool::run("cp", ["--sparse=always".as_ref(), root.path.as_os_str(), path.as_os_str()])?;
    tool::run("e2fsck", ["-f".as_ref(), "-p".as_ref(), path.as_os_str()])?;
    tool::run("tune2fs", ["-U".as_ref(), "random".as_ref(), path.as_os_str()])?;
    Ok(path)
}

/// Puts the program of the medium onto the disk for backups.
fn put_program_on(backups: &Path) -> Result<()> {
    let device = Loop::attach(backups, &[])?;
    let mount = Mount::new(&device.path, "ext4", "rw", &folder()?.join("costs-mount"))?;
    let initramfs = media::folder()?.join("pxe/initramfs");
    let unpack = "zstd -q -d -c \"$INITRAMFS\" | cpio --quiet -i --to-stdout init > \"$TO\" && chmod +x \"$TO\"";
    tool::sh(unpack, &[("INITRAMFS", initramfs), ("TO", mount.at.join("imager"))])?;
    mount.unmount()
}

#[test]
#[ignore = "measures; takes minutes"]
fn a_capture_under_the_agent_against_one_in_a_debian() -> Result<()> {
    if skip("costs") {
        return Ok(());
    }
    let source = source()?;
    let backups = backup_disk("costs-agent-backups")?;
    let words = "lifeboat.job=capture lifeboat.disk=serial:SOURCE lifeboat.repo=label:BACKUPS/servers lifeboat.init=yes \
        lifeboat.password-file=label:BACKUPS/password lifeboat.level=3 lifeboat.then=poweroff";
    let machine = server("costs-agent", words)?
        .drive(Drive::new(&source, Bus::Nvme).serial("SOURCE"))
        .drive(Drive::new(&backups, Bus::Ahci).serial("BACKUPS").kept());
    let mut guest = machine.start(&folder()?.path)?;
    guest.wait_for("lifeboat: done: exit status 0", WORK)?;
    guest.wait_until_off(WORK)?;
    let report = report(&backups, "costs-agent-report")?;
    let mut results = report["results"].as_array().context("a report without results")?.iter();
    let captured = results.find(|result| result["type"] == "captured").context("nothing was captured")?;
    let agent = captured["seconds"].as_f64().context("a capture without seconds")?;

    let backups = backup_disk("costs-debian-backups")?;
    put_program_on(&backups)?;
    let machine = Machine::new("costs-debian")
        .firmware(Firmware::Ovmf)
        .drive(Drive::new(&installed(Table::Gpt)?.disk.disk.image, Bus::VirtioBlk))
        .drive(Drive::new(&source, Bus::Nvme).serial("SOURCE"))
        .drive(Drive::new(&backups, Bus::Ahci).serial("BACKUPS").kept());
    let mut guest = machine.start(&folder()?.path)?;
    guest.wait_for_login_prompt()?;
    guest.log_in()?;
    guest.shell("mount LABEL=BACKUPS /mnt")?;
    guest.write(
        "export IMAGER_REPO=/mnt/servers IMAGER_PASSWORD_FILE=/mnt/password; /mnt/imager init $IMAGER_REPO && \
         /mnt/imager capture --level 3 --json /dev/nvme0n1 | tail -n 1; echo en''ded\n",
    )?;
    let found = guest.wait_for(r#"(?s)"seconds":([\d.]+).*ended"#, WORK)?;
    let debian: f64 = found.get(1).context("no seconds")?.parse()?;
    guest.power_off()?;
    say(&format!("costs: {agent:.1} s under the agent, {debian:.1} s in a Debian"));
    Ok(())
}
