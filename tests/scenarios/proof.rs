//! Images start as virtual machines: they prove themselves, say what is wrong when it is, and keep running as clones.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lifeboat_tests::boot_disk::BootDisk;
use lifeboat_tests::disk::Table;
use lifeboat_tests::guest::turn;
use lifeboat_tests::mounted::Mount;
use lifeboat_tests::run::Program;
use lifeboat_tests::tool;

use crate::support::{Installed, Repository, folder, installed, say, skip};

/// What an image that does not come up is told from one that cannot be started.
const NOT_PROVED: i32 = 11;

/// A changed copy of the installed disk, captured under its name.
fn changed_disk(
    installed: &Installed,
    repository: &Repository,
    name: &str,
    change: impl FnOnce(&BootDisk) -> Result<()>,
) -> Result<()> {
    let image = folder()?.join(&format!("{name}.img"));
    let mut copy = installed.disk.clone();
    let original = std::mem::replace(&mut copy.disk.image, image.clone());
    tool::run("cp", [OsStr::new("--sparse=always"), original.as_os_str(), image.as_os_str()])?;
    change(&copy)?;
    repository.imager([OsStr::new("capture"), image.as_os_str(), "--name".as_ref(), name.as_ref()])?;
    Ok(fs::remove_file(&image)?)
}

/// The same, with its root file system changed.
fn changed(
    installed: &Installed,
    repository: &Repository,
    name: &str,
    change: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    changed_disk(installed, repository, name, |BootDisk { disk, root, .. }| {
        let at = folder()?.join(&format!("{name}-root"));
        let mount = Mount::partition(&disk.image, disk.partition(*root)?, "ext4", "rw", &at)?;
        change(&mount.at)?;
        mount.unmount()
    })
}

/// Starts an image; gives the JSON line that says what came of it.
fn prove(repository: &Repository, image: &str, firmware: &str, code: i32) -> Result<serde_json::Value> {
    let reports = folder()?.join(&format!("{image}-{firmware}-report"));
    let words = ["prove", image, "--json", "--timeout", "20m", "--firmware", firmware, "--report"].map(OsStr::new);
    let _turn = turn();
    let output = repository.command(words.into_iter().chain([reports.as_os_str()])).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = || format!("{image}: {said}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.code() == Some(code), "{} instead of {code}: {}", output.status, wrong());
    let line: serde_json::Value = serde_json::from_str(said.lines().last().with_context(wrong)?)?;
    say(&format!("{image}, {firmware}: {} after {} s", line["words"], line["seconds"]));
    let picture = line["files"].as_array().into_iter().flatten().filter_map(|file| file.as_str());
    let picture = picture.into_iter().find(|file| file.ends_with(".png")).with_context(wrong)?;
    ensure!(fs::read(picture)?.starts_with(b"\x89PNG"), "{picture} is no picture");
    Ok(line)
}

#[test]
fn a_good_image_proves_itself_on_the_screen_alone() -> Result<()> {
    if skip("proof") {
        return Ok(());
    }
    let installed = installed(Table::Gpt)?;
    let repository = Repository::create(folder()?, "proof-repository")?;
    // A system as most are: nobody has set up a serial console.
    changed(&installed, &repository, "screen-only", |root| {
        let path = root.join("boot/grub/grub.cfg");
        let text = fs::read_to_string(&path)?;
        ensure!(text.contains("console=ttyS0,115200"), "GRUB's configuration is another than was meant");
        fs::write(&path, text.replace("console=ttyS0,115200", ""))?;
        Ok(())
    })?;
    for firmware in ["bios", "uefi"] {
        let line = prove(&repository, "screen-only", firmware, 0)?;
        ensure!(line["words"] == "login prompt on the screen", "{line}");
    }
    let shown = repository.imager(["show", "screen-only"])?;
    ensure!(shown.contains("proved") && shown.contains("login prompt on the screen"), "{shown}");
    Ok(())
}

#[test]
fn a_loader_that_only_the_firmware_knew_of_is_found() -> Result<()> {
    if skip("proof-boot-entries") {
        return Ok(());
    }
    let installed = installed(Table::Gpt)?;
    let repository = Repository::create(folder()?, "proof-boot-entries-repository")?;
    // As Debian's installer leaves it, where nobody asks for the removable media path.
    changed_disk(&installed, &repository, "entry-only", |BootDisk { disk, esp, .. }| {
        let loader = folder()?.join("entry-only.efi");
        tool::sh(
            "rm -f \"$loader\"; mcopy -i \"$esp\" ::/EFI/BOOT/BOOTX64.EFI \"$loader\"; mdeltree -i \"$esp\" ::/EFI/BOOT
             mmd -i \"$esp\" ::/EFI/debian; mcopy -i \"$esp\" \"$loader\" ::/EFI/debian/grubx64.efi; rm \"$loader\"",
            &[
                ("esp", disk.mtools_name(esp.context("there is no EFI system partition")?)?.as_ref()),
                ("loader", loader.as_os_str()),
            ],
        )
        .map(drop)
    })?;
    prove(&repository, "entry-only", "uefi", 0).map(drop)
}

#[test]
fn a_damaged_image_says_what_is_damaged() -> Result<()> {
    if skip("proof-damage") {
        return Ok(());
    }
    let installed = installed(Table::Gpt)?;
    let repository = Repository::create(folder()?, "proof-damage-repository")?;
    let overwrite = |path: &Path| -> Result<()> {
        let file = fs::File::options().write(true).open(path).with_context(|| path.display().to_string())?;
        let len = usize::try_from(file.metadata()?.len())?;
        Ok(file.write_all_at(&vec![0; len], 0)?)
    };
    changed(&installed, &repository, "no-loader", |root| {
        Ok(fs::rename(root.join("boot/grub"), root.join("boot/gone"))?)
    })?;
    changed(&installed, &repository, "no-kernel", |root| {
        let found = fs::read_dir(root.join("boot"))?.flatten().map(|entry| entry.path());
        let mut kernels = found.filter(|path| path.to_string_lossy().contains("vmlinuz"));
        overwrite(&kernels.next().context("there is no kernel")?)
    })?;
    changed(&installed, &repository, "no-root", |root| overwrite(&root.join("usr/lib/systemd/systemd")))?;
    for (image, reasons) in [
        ("no-loader", &["GRUB"][..]),
        ("no-kernel", &["boot loader reports an error", "GRUB waits at its menu: error:"]),
        ("no-root", &["initramfs", "kernel stopped"]),
    ] {
        let line = prove(&repository, image, "bios", NOT_PROVED)?;
        let words = line["words"].as_str().unwrap_or_default();
        ensure!(reasons.iter().any(|reason| words.contains(reason)), "{image}: {line}");
    }
    let listed = repository.imager(["images"])?;
    ensure!(listed.matches("FAILED").count() == 3, "{listed}");
    Ok(())
}

#[test]
fn a_debian_runs_from_a_linked_clone_and_finds_again_what_it_wrote() -> Result<()> {
    if skip("linked-clone") {
        return Ok(());
    }
    let installed = installed(Table::Gpt)?;
    let file = folder()?.join("linked.qcow2");
    for left in ["", ".clone.json", ".uefi-variables.fd"] {
        let _ = fs::remove_file(format!("{}{left}", file.display()));
    }
    let repository = &installed.repository;
    repository.imager([
        OsStr::new("clone"),
        "--linked".as_ref(),
        "latest".as_ref(),
        "-o".as_ref(),
        file.as_os_str(),
    ])?;
    let run = || {
        let words = [OsStr::new("run"), file.as_os_str(), "--firmware".as_ref(), "bios".as_ref()];
        Program::start(repository.command(words), &folder()?.join("linked.serial.log"))
    };
    let mut machine = run()?;
    let took = machine.log_in()?;
    say(&format!("linked clone: login prompt after {:.0} s", took.as_secs_f64()));
    machine.shell("echo kept > /root/note; sync")?;
    machine.write("systemctl poweroff\n")?;
    machine.ends()?;

    let mut machine = run()?;
    machine.log_in()?;
    ensure!(machine.shell("cat /root/note")? == "kept", "what was written is not there");
    machine.interrupt()?;
    machine.ends()?;
    ensure!(!Path::new(&format!("{}.imager-serve.sock", file.display())).exists(), "the server's socket is left");
    let listed = repository.imager(["clone", "--list"])?;
    ensure!(listed.contains("linked.qcow2"), "{listed}");
    repository.imager([OsStr::new("clone"), "--release".as_ref(), file.as_os_str()]).map(drop)
}
