//! The main job: a machine is started from the boot medium, backs its disk up and restores it to an empty one, by the
//! keys that a person presses; and the restored disk boots.
//!
//! Pictures of the screens are left in `target/demo-pictures`.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_tests::boot_disk::{self, DISK_MIB};
use lifeboat_tests::disk::{MIB, Table};
use lifeboat_tests::guest::Guest;
use lifeboat_tests::machine::{Bus, Drive, Firmware, Machine};
use lifeboat_tests::mounted::{Keep, WorkFolder};
use lifeboat_tests::walkthrough::{self, PASSWORD, Person};
use lifeboat_tests::{debian, imager};

use super::say;

/// Until a key has drawn its screen.
const DRAWN: Duration = Duration::from_secs(4);

pub(crate) fn play() -> Result<PathBuf> {
    let target = imager::target_folder()?;
    // The installed system stays for the next time, here and in the tests.
    let folder = WorkFolder::open(&target.join("e2e"), Keep::Files)?;
    let pictures = target.join("demo-pictures");
    fs::create_dir_all(&pictures).with_context(|| pictures.display().to_string())?;
    say("installing a Debian system on a disk");
    let tarball = debian::tarball(&folder)?;
    let system = folder.join("demo-system.img");
    boot_disk::make(&folder, &tarball, &system, Table::Gpt)?;

    let (backups, empty) = (folder.join("demo-backups.img"), folder.join("demo-empty.img"));
    let machine = walkthrough::machine("demo", &system, &backups, &empty, (DISK_MIB + 1024) * MIB)?;
    say("starting a machine from the ISO, with that disk, one for backups and an empty one");
    let mut person = Person::at(machine.start(&folder.path)?)?;
    say(&format!("the first screen is there after {:.0} s", person.guest.uptime().as_secs_f64()));
    // The screen itself is a little later: its driver is loaded then.
    thread::sleep(DRAWN * 3);
    picture(&mut person.guest, &pictures, "home")?;
    keys(&mut person.guest, &["b"])?;
    picture(&mut person.guest, &pictures, "back-up")?;
    keys(&mut person.guest, &["esc"])?;

    say("backing up");
    person.back_up(&mut |person| picture(&mut person.guest, &pictures, "progress"), &mut |person| {
        picture(&mut person.guest, &pictures, "result")
    })?;
    say("restoring to the empty disk, which is larger");
    person.restore(&mut |person| what_will_be_erased(&mut person.guest, &pictures))?;
    person.power_off()?;

    say("starting the restored disk, on another kind of controller and with other firmware");
    let restored = Machine::new("demo-restored").firmware(Firmware::Ovmf).drive(Drive::new(&empty, Bus::Nvme));
    let mut guest = restored.start(&folder.path)?;
    let took = guest.wait_for_login_prompt()?;
    guest.log_in()?;
    let system_says = guest.shell("uname -sr; findmnt -no SOURCE,FSTYPE /")?.replace('\n', "; ");
    say(&format!("login prompt after {:.0} s; it says: {system_says}", took.as_secs_f64()));
    guest.power_off()?;
    for image in [system, backups, empty] {
        fs::remove_file(&image).with_context(|| image.display().to_string())?;
    }
    Ok(pictures)
}

/// On the screen itself, while the serial console asks for the serial number.
fn what_will_be_erased(guest: &mut Guest, pictures: &Path) -> Result<()> {
    keys(guest, &["r", "ret", "ret"])?;
    for letter in PASSWORD.chars() {
        let letter = letter.to_string();
        guest.press(&[if letter == " " { "spc" } else { &letter }])?;
        thread::sleep(DRAWN / 20);
    }
    keys(guest, &["ret", "ret", "down", "ret"])?;
    picture(guest, pictures, "restore")?;
    keys(guest, &["esc"; 6])
}

fn keys(guest: &mut Guest, keys: &[&str]) -> Result<()> {
    for key in keys {
        guest.press(&[key])?;
        thread::sleep(DRAWN);
    }
    Ok(())
}

fn picture(guest: &mut Guest, folder: &Path, name: &str) -> Result<()> {
    guest.screenshot(&folder.join(format!("{name}.png")))
}
