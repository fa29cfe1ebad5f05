//! A server without anybody near it, started over the network: words on the kernel's command line say what is done.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_tests::boot_disk::DISK_MIB;
use lifeboat_tests::disk::{MIB, Table, sparse_file};
use lifeboat_tests::guest::Guest;
use lifeboat_tests::machine::{Bus, Drive, Firmware, Machine, Medium};
use lifeboat_tests::{media, tool};

use crate::support::{boots, folder, installed, same_files_as, say, skip, skip_without_qemu};

/// From power-on to the first words.
const BOOT: Duration = Duration::from_secs(240);

/// For a disk of 2 GiB, read, hashed and compressed by an emulated processor.
const WORK: Duration = Duration::from_secs(1200);

const OFF: Duration = Duration::from_secs(60);

pub(crate) const PASSWORD: &str = "correct horse battery staple\n";

/// The machine, as PXE would start it with these words.
pub(crate) fn server(name: &str, words: &str) -> Result<Machine> {
    let pxe = media::folder()?.join("pxe");
    Ok(Machine::new(name).medium(Medium::Kernel {
        image: pxe.join("vmlinuz"),
        initramfs: Some(pxe.join("initramfs")),
        command_line: format!("console=tty0 console=ttyS0,115200 {words}"),
    }))
}

/// A disk for backups, with the password beside the place for the repository.
pub(crate) fn backup_disk(name: &str) -> Result<PathBuf> {
    backup_disk_with(name, &[])
}

/// The same with these files, each with its text.
fn backup_disk_with(name: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
    let content = folder()?.join(&format!("{name}-content"));
    std::fs::create_dir_all(&content)?;
    std::fs::write(content.join("password"), PASSWORD)?;
    for (file, text) in files {
        std::fs::write(content.join(file), text)?;
    }
    let path = folder()?.join(&format!("{name}.img"));
    sparse_file(&path, 3 * 1024 * MIB)?;
    let words = ["-q", "-F", "-L", "BACKUPS", "-d"].map(std::ffi::OsStr::new);
    tool::run("mkfs.ext4", words.into_iter().chain([content.as_os_str(), path.as_os_str()]))?;
    Ok(path)
}

fn empty_disk(name: &str, mib: u64) -> Result<PathBuf> {
    let path = folder()?.join(&format!("{name}.img"));
    sparse_file(&path, mib * MIB)?;
    Ok(path)
}

/// Waits for the end of the job, which has to be a good one, and of the machine.
fn is_done_and_off(mut guest: Guest) -> Result<()> {
    let began = guest.uptime();
    guest.wait_for("lifeboat: done: exit status 0", WORK)?;
    say(&format!("the job took {:.0} s", (guest.uptime() - began).as_secs_f64()));
    guest.wait_for("The stick can be pulled", OFF)?;
    guest.wait_until_off(OFF)
}

/// What brings the server back: on the disk that has the backups. Of another size than they.
const RESTORE_WORDS: &str = "\
# web1, to the only disk of this size
lifeboat.job=restore lifeboat.repo=label:BACKUPS/servers lifeboat.password-file=label:BACKUPS/password
lifeboat.image=web1
lifeboat.target=size:3584M
lifeboat.confirm=EMPTY-1
lifeboat.then=reboot
";

#[test]
fn a_server_is_backed_up_and_brought_back_to_another_bus_and_boots_with_any_firmware() -> Result<()> {
    if skip("unattended") {
        return Ok(());
    }
    let installed = installed(Table::Gpt)?;
    let backups = backup_disk_with("unattended-backups", &[("restore.words", RESTORE_WORDS)])?;
    let target = empty_disk("unattended-target", DISK_MIB + 1536)?;
    let common = "lifeboat.repo=label:BACKUPS/servers lifeboat.password-file=label:BACKUPS/password";

    let words = format!(
        "{common} lifeboat.job=capture lifeboat.disk=only lifeboat.init=yes lifeboat.name=web1 lifeboat.note=\"before the move\" lifeboat.level=1 lifeboat.then=poweroff"
    );
    let machine = server("unattended-capture", &words)?
        .drive(Drive::new(&installed.disk.disk.image, Bus::VirtioBlk).serial("DEBIAN-1"))
        .drive(Drive::new(&backups, Bus::Ahci).serial("BACKUPS-1").kept());
    let mut guest = machine.start(&folder()?.path)?;
    guest.wait_for("disk: /dev/vda .*serial DEBIAN-1", BOOT)?;
    is_done_and_off(guest)?;

    let machine = server("unattended-restore", "lifeboat.config=label:BACKUPS/restore.words")?
        .drive(Drive::new(&backups, Bus::Usb).serial("BACKUPS-1").kept())
        .drive(Drive::new(&target, Bus::Nvme).serial("EMPTY-1").kept());
    let mut guest = machine.start(&folder()?.path)?;
    // The health log of NVMe is asked for in the guest.
    guest.wait_for(r"target: /dev/nvme0n1 .*serial EMPTY-1\), healthy", BOOT)?;
    is_done_and_off(guest)?;

    let restored = same_files_as(&installed, &target)?;
    boots("unattended-restored", &restored, Firmware::Ovmf, Bus::Nvme)?;
    boots("unattended-restored-bios", &restored, Firmware::SeaBios, Bus::Ahci)
}

#[test]
fn a_restore_without_its_confirmation_does_nothing_and_shows_the_screens() -> Result<()> {
    if skip_without_qemu("unconfirmed") {
        return Ok(());
    }
    let target = empty_disk("unconfirmed-target", 64)?;
    let words = "lifeboat.job=restore lifeboat.repo=label:BACKUPS lifeboat.target=only lifeboat.then=poweroff";
    let machine = server("unconfirmed", words)?.drive(Drive::new(&target, Bus::Ahci).serial("EMPTY-2").kept());
    let mut guest = machine.start(&folder()?.path)?;
    guest.wait_for("PROBLEM: lifeboat.confirm is missing", BOOT)?;
    guest.wait_for("FAILED: nothing was done", BOOT)?;
    guest.wait_for("press Enter", BOOT)?;
    guest.write("\r")?;
    guest.wait_for("Back up", BOOT)?;
    drop(guest);
    ensure!(std::fs::metadata(&target)?.blocks() == 0, "something was written to the target");
    Ok(())
}

/// One request is answered with these words; the port, and what was asked.
fn web_server(words: String) -> Result<(u16, std::thread::JoinHandle<Result<String>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let mut asked = vec![0; 4096];
        let len = stream.read(&mut asked)?;
        write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{words}", words.len())?;
        Ok(String::from_utf8_lossy(asked.get(..len).unwrap_or_default()).into_owned())
    });
    Ok((port, answering))
}

/// What is wrong is said as JSON, and the machine stays on: there is no repository to be verified.
#[test]
fn words_come_from_a_web_server_and_progress_goes_to_programs() -> Result<()> {
    if skip_without_qemu("words from a web server") {
        return Ok(());
    }
    let disk = backup_disk("web-backups")?;
    let words = "# for server 17\nlifeboat.job=verify\nlifeboat.repo=label:BACKUPS/nothing\nlifeboat.progress=json\n";
    let (port, answering) = web_server(words.to_owned())?;
    // QEMU's router leads this address to the machine that the tests run on.
    let words = format!("lifeboat.network=dhcp lifeboat.config=http://10.0.2.2:{port}/17.words lifeboat.then=poweroff");
    let machine = server("web", &words)?.network("").drive(Drive::new(&disk, Bus::Scsi).serial("BACKUPS-2"));
    let mut guest = machine.start(&folder()?.path)?;
    guest.wait_for(r"network: eth\d has 10\.0\.2\.15/24", BOOT)?;
    let ended = guest.wait_for(r#"\{"error":"[^"]*","exit_code":(\d+),"type":"ended"\}"#, BOOT)?;
    let asked = answering.join().ok().context("the web server broke")??;
    ensure!(asked.starts_with("GET /17.words HTTP/1.0\r\n"), "asked was: {asked}");
    ensure!(ended.get(1).is_some_and(|code| code == "3"), "another end than without a repository: {ended:?}");
    // The screens come up by themselves.
    guest.wait_for("nothing", BOOT)?;
    ensure!(!guest.console().contains("The stick can be pulled"), "the machine was turned off");
    Ok(())
}
