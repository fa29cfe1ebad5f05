//! Images as running machines, as far as a machine without a system gets: what it is given, and that it ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Imager, content, output, sh};
use crate::volume::Scratch;

const OVMF: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// A process' state, and which one has started it; `None` when it is gone.
fn state(pid: &str) -> Option<(char, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.to_owned()))
}

/// What runs because of `parent`.
fn child_of(parent: u32) -> Option<String> {
    let pids = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    pids.into_iter().find(|pid| state(pid).is_some_and(|(_, of)| of == parent.to_string()))
}

/// A disk whose EFI system partition has no loader that firmware finds by itself.
fn installed(dir: &Scratch) -> std::path::PathBuf {
    sh(&format!(
        "cd {}; truncate -s 64M disk; truncate -s 40M esp
         echo 'start=2048,size=81920,type=uefi' | sfdisk -q --label gpt disk
         mkfs.fat -F 32 -s 1 esp >/dev/null; printf 'MZ and more' > loader; printf 'no program' > other
         mmd -i esp ::/efi ::/efi/Debian ::/efi/other
         mcopy -i esp loader ::/efi/Debian/grubx64.efi; mcopy -i esp other ::/efi/other/shimx64.efi
         dd if=esp of=disk bs=1M seek=1 conv=notrunc status=none",
        dir.root().display()
    ));
    dir.path("disk")
}

#[test]
fn a_machine_is_told_of_its_boot_loader_and_does_not_outlive_the_program() {
    if output("qemu-system-x86_64", ["--version"]).status.code() != Some(0) || !Path::new(OVMF).exists() {
        return;
    }
    let dir = Scratch::new();
    let disk = installed(&dir);
    let imager = Imager::init(&dir.path("repository")).with("TMPDIR", dir.root().to_str().unwrap());
    imager.capture(&disk, &[]);
    let file = dir.path("vm.qcow2");
    imager.ok(&["clone", "--linked", "latest", "-o", file.to_str().unwrap()]);
    let args = ["run", file.to_str().unwrap(), "--display", "none", "--memory", "256M", "--json"];
    let mut child = imager.command(&args).stdout(Stdio::piped()).spawn().unwrap();
    // The serial console is there, too.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n').map(|line| line.unwrap());
    let said = lines.find_map(|line| {
        let text = String::from_utf8_lossy(&line).into_owned();
        text.find("{\"").and_then(|at| serde_json::from_str::<serde_json::Value>(&text[at..]).ok())
    });
    let said = said.expect("it says that it runs");
    assert_eq!(said["type"], "running", "{said}");
    assert!(!said["warnings"].to_string().contains("boot"), "{said}");
    std::thread::spawn(move || lines.for_each(drop));
    let machine = child_of(child.id()).expect("QEMU runs");

    // SIGKILL: nothing is left that could end the machine.
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while state(&machine).is_some_and(|(state, _)| state != 'Z') {
        assert!(Instant::now() < deadline, "the machine goes on");
        std::thread::sleep(Duration::from_millis(50));
    }

    let variables = content(&dir.path("vm.qcow2.uefi-variables.fd"));
    let has = |text: &str| {
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        variables.windows(wide.len()).any(|window| window == wide)
    };
    assert!(has("\\efi\\Debian\\grubx64.efi"), "as the names are written there");
    assert!(!has("shimx64.efi"), "that is no program");
    assert_eq!(variables.len(), content(Path::new(OVMF)).len());
}
