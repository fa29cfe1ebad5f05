//! Every boot medium starts the agent: from a BIOS, from UEFI and with Secure Boot on, as a CD and as a stick; and what was
//! tampered with does not start.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_tests::disk::{Disk, MIB, sparse_file};
use lifeboat_tests::guest::Guest;
use lifeboat_tests::machine::{Bus, Drive, Firmware, Machine, Medium};
use lifeboat_tests::mounted::Loop;
use lifeboat_tests::screen::Screen;
use lifeboat_tests::walkthrough::Person;
use lifeboat_tests::{media, tool};

use crate::support::{folder, say, skip_without_qemu};

/// From power-on to the boot menu.
const FIRMWARE: Duration = Duration::from_secs(120);

/// From the menu to the agent.
const BOOT: Duration = Duration::from_secs(240);

/// From power-on to the first screen, when every byte comes by TFTP.
const NETWORK_BOOT: Duration = Duration::from_secs(480);

/// From plugging something in to seeing it.
const SEEN: Duration = Duration::from_secs(60);

/// What PID 1 says first.
const STARTED: &str = "lifeboat: PID 1 works";

fn iso() -> Result<PathBuf> {
    Ok(media::folder()?.join("lifeboat.iso"))
}

#[test]
fn the_iso_boots_as_a_cd_with_a_bios() -> Result<()> {
    boots("cd-bios", Firmware::SeaBios, || Ok(Medium::Cd(iso()?)))
}

#[test]
fn the_iso_boots_as_a_cd_with_uefi() -> Result<()> {
    boots("cd-uefi", Firmware::Ovmf, || Ok(Medium::Cd(iso()?)))
}

#[test]
fn the_iso_boots_as_a_cd_with_secure_boot() -> Result<()> {
    boots("cd-secure", Firmware::OvmfSecureBoot, || Ok(Medium::Cd(iso()?)))
}

#[test]
fn the_iso_boots_as_a_stick_with_a_bios() -> Result<()> {
    boots("iso-stick-bios", Firmware::SeaBios, || Ok(Medium::Stick(iso()?)))
}

#[test]
fn the_iso_boots_as_a_stick_with_secure_boot() -> Result<()> {
    boots("iso-stick-secure", Firmware::OvmfSecureBoot, || Ok(Medium::Stick(iso()?)))
}

/// The stick's image is much smaller than the stick: its partition for backups becomes as large as the stick allows.
#[test]
fn the_stick_boots_with_a_bios_and_grows_to_its_size() -> Result<()> {
    if skip_without_qemu("stick-bios") {
        return Ok(());
    }
    let image = larger_stick("stick-bios")?;
    let machine = Machine::new("stick-bios").medium(Medium::KeptStick(image.clone()));
    let mut guest = machine.start(&folder()?.path)?;
    choose_serial_line(&mut guest)?;
    let mut screen = Screen::default();
    // All but what is in front of it and a MiB at the end, on the screen as soon as it has grown; in use are hardly more
    // than the journal's 32 MiB.
    screen.wait_for(&mut guest, r"3  ext4 +893 MiB +3\d\.\d MiB in use", BOOT)?;
    guest.cut_power()?;

    let disk = Disk::open(&image)?;
    ensure!(disk.partition(3)?.len == 893 * MIB, "the partition has another size than the screen said");
    let said = tool::run("sgdisk", ["--verify".as_ref(), image.as_os_str()])?;
    ensure!(said.contains("No problems found"), "sgdisk finds problems:\n{said}");
    if !tool::is_root() {
        return Ok(());
    }
    let device = Loop::partition(&image, disk.partition(3)?, &["--read-only"])?;
    tool::run("e2fsck", ["-f".as_ref(), "-n".as_ref(), device.path.as_os_str()])?;
    let said = tool::run("dumpe2fs", ["-h".as_ref(), device.path.as_os_str()])?;
    let blocks = said.lines().find_map(|line| line.strip_prefix("Block count:")).context("no block count")?;
    ensure!(blocks.trim().parse::<u64>()? * 4096 > 880 * MIB, "the file system has not grown: {blocks} blocks");
    Ok(())
}

#[test]
fn the_stick_boots_with_secure_boot() -> Result<()> {
    boots("stick-secure", Firmware::OvmfSecureBoot, || Ok(Medium::Stick(larger_stick("stick-secure")?)))
}

#[test]
fn the_unified_image_boots_with_uefi() -> Result<()> {
    if skip_without_qemu("unified image") {
        return Ok(());
    }
    let medium = Medium::Kernel {
        image: media::folder()?.join("lifeboat.efi"),
        initramfs: None,
        // Its own is used when it is given none; the agent's first line is to be seen here.
        command_line: "console=ttyS0,115200".to_owned(),
    };
    let mut guest = Machine::new("unified").firmware(Firmware::Ovmf).medium(medium).start(&folder()?.path)?;
    guest.wait_for(STARTED, BOOT)?;
    Ok(())
}

#[test]
fn the_files_for_the_network_boot_with_disks_on_every_bus_and_256_mib() -> Result<()> {
    if skip_without_qemu("pxe") {
        return Ok(());
    }
    let pxe = media::folder()?.join("pxe");
    let medium = Medium::Kernel {
        image: pxe.join("vmlinuz"),
        initramfs: Some(pxe.join("initramfs")),
        command_line: "console=ttyS0,115200".to_owned(),
    };
    let mut machine = Machine::new("pxe").medium(medium).memory_mib(256).network("");
    let buses = [Bus::VirtioBlk, Bus::Ahci, Bus::Nvme, Bus::Scsi, Bus::Usb];
    for bus in buses {
        let image = folder()?.join(&format!("pxe-{bus:?}.img"));
        sparse_file(&image, 64 * MIB)?;
        let sector = if bus == Bus::Nvme { 4096 } else { 512 };
        machine = machine.drive(Drive::new(&image, bus).serial(&format!("{bus:?}-1")).sector(sector));
    }
    let mut guest = machine.start(&folder()?.path)?;
    guest.wait_for(STARTED, BOOT)?;
    say(&format!("pxe: the agent runs after {:.0} s, with 256 MiB", guest.uptime().as_secs_f64()));
    let mut person = Person::at(guest)?;
    person.list_disks("VirtioBlk-1")?;
    for bus in buses {
        person.sees(&format!("serial {bus:?}-1"), SEEN)?;
    }
    Ok(())
}

/// The firmware of QEMU's network cards is iPXE.
#[test]
fn the_example_for_ipxe_boots_over_the_network_with_a_bios() -> Result<()> {
    boots_over_the_network("net-ipxe", Firmware::SeaBios, "lifeboat.ipxe", "BIOS")
}

#[test]
fn the_example_for_grub_boots_over_the_network_with_secure_boot() -> Result<()> {
    boots_over_the_network("net-grub", Firmware::OvmfSecureBoot, "bootx64.efi", "UEFI")
}

/// Nothing but a network card and a server with the folder for the network: up to the first screen, which says how it was
/// started.
fn boots_over_the_network(name: &str, firmware: Firmware, file: &str, said: &str) -> Result<()> {
    if skip_without_qemu(name) {
        return Ok(());
    }
    let medium = Medium::Network { folder: media::folder()?.join("pxe"), file: file.to_owned() };
    let mut guest = Machine::new(name).firmware(firmware).medium(medium).start(&folder()?.path)?;
    let mut screen = Screen::default();
    screen.wait_for(&mut guest, "> b  Back up", NETWORK_BOOT)?;
    screen.wait_for(&mut guest, said, SEEN)?;
    say(&format!("{name}: the user interface is ready after {:.0} s", guest.uptime().as_secs_f64()));
    Ok(())
}

#[test]
fn a_disk_that_is_plugged_in_appears_and_one_that_is_pulled_out_goes() -> Result<()> {
    if skip_without_qemu("plug") {
        return Ok(());
    }
    let image = folder()?.join("plug.img");
    sparse_file(&image, 64 * MIB)?;
    let mut guest = Machine::new("plug").medium(Medium::Cd(iso()?)).start(&folder()?.path)?;
    let mut screen = Screen::default();
    screen.wait_for(&mut guest, "No disk was found", BOOT)?;
    say(&format!("plug: the user interface is ready after {:.0} s", guest.uptime().as_secs_f64()));

    guest.plug_in("stick", &Drive::new(&image, Bus::Usb).serial("PLUGGED-IN").kept())?;
    screen.wait_for(&mut guest, "PLUGGED-IN", SEEN)?;
    let picture = folder()?.join("plug.png");
    guest.screenshot(&picture)?;
    ensure!(fs::read(&picture)?.starts_with(b"\x89PNG"), "the screen's picture is no PNG");

    guest.pull_out("stick")?;
    screen.wait_for(&mut guest, "No disk was found", SEEN)?;
    Ok(())
}

/// One byte in the middle of the kernel is another: the signature does not fit any more.
#[test]
fn a_tampered_kernel_is_refused_by_secure_boot() -> Result<()> {
    if skip_without_qemu("tampered") {
        return Ok(());
    }
    let tampered = folder()?.join("tampered.iso");
    fs::copy(iso()?, &tampered)?;
    let kernel = fs::read(media::folder()?.join("pxe/vmlinuz"))?;
    let at = place_of(&kernel, &tampered)? + u64::try_from(kernel.len() / 2)?;
    let file = File::options().read(true).write(true).open(&tampered)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1], at)?;

    let machine = Machine::new("tampered").firmware(Firmware::OvmfSecureBoot).medium(Medium::Cd(tampered));
    let mut guest = machine.start(&folder()?.path)?;
    choose_serial_line(&mut guest)?;
    guest.wait_for("bad shim signature", BOOT)?;
    ensure!(!guest.console().contains(STARTED), "the agent runs all the same");
    Ok(())
}

/// Starts a machine with nothing but the medium in it, chooses from the menu, and waits for the agent.
fn boots(name: &str, firmware: Firmware, medium: impl FnOnce() -> Result<Medium>) -> Result<()> {
    if skip_without_qemu(name) {
        return Ok(());
    }
    let machine = Machine::new(name).firmware(firmware).medium(medium()?);
    let mut guest = machine.start(&folder()?.path)?;
    choose_serial_line(&mut guest)?;
    let menu = guest.uptime();
    let kernel = guest.wait_for(r"\[ *(\d+\.\d+)\] lifeboat: PID 1 works", BOOT)?;
    say(&format!(
        "{name}: menu after {:.0} s, the agent runs after {:.0} s, by the kernel's clock {} s",
        menu.as_secs_f64(),
        guest.uptime().as_secs_f64(),
        kernel.get(1).map_or("?", String::as_str),
    ));
    if firmware == Firmware::OvmfSecureBoot {
        ensure!(guest.console().contains("Secure boot enabled"), "the kernel was not started with Secure Boot on");
    }
    Ok(())
}

/// The entry of the menu that hides nothing from the serial line.
fn choose_serial_line(guest: &mut Guest) -> Result<()> {
    guest.wait_for("Lifeboat on the serial line", FIRMWARE)?;
    guest.write("s")
}

/// The stick's image, written to a larger stick.
fn larger_stick(name: &str) -> Result<PathBuf> {
    let image = folder()?.join(&format!("{name}.img"));
    fs::copy(media::folder()?.join("lifeboat-usb.img"), &image)?;
    File::options().write(true).open(&image)?.set_len(1024 * MIB)?;
    Ok(image)
}

/// Where a file's content begins in an image that holds it in one piece.
fn place_of(content: &[u8], image: &Path) -> Result<u64> {
    const BLOCK: usize = 2048;
    let begin = content.get(..BLOCK).context("an empty file")?;
    let bytes = fs::read(image)?;
    let index = bytes.chunks(BLOCK).position(|block| block == begin).context("the image does not hold the file")?;
    Ok(u64::try_from(index * BLOCK)?)
}
