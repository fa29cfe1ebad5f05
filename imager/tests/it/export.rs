//! Images as disks of virtual machines: their own tools find nothing wrong with them, and they read as what a restore
//! writes, byte for byte.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::restore::gpt;
use crate::support::{Imager, Loop, content, gpt_disk, noise, output, run, sh, sparse_file, write_at};
use crate::volume::Scratch;

const MIB: u64 = 1 << 20;

/// Ends of commands, the name of the file, the format as QEMU calls it, whether QEMU checks it.
const KINDS: [(&[&str], &str, &str, bool); 10] = [
    (&[], "plain.raw", "raw", false),
    (&[], "plain.qcow2", "qcow2", true),
    (&["--compress"], "compressed.qcow2", "qcow2", true),
    (&[], "plain.vmdk", "vmdk", true),
    (&["--stream"], "stream.vmdk", "vmdk", true),
    (&[], "plain.vhdx", "vhdx", true),
    (&[], "plain.vhd", "vpc", false),
    (&["--fixed"], "fixed.vhd", "vpc", false),
    (&[], "plain.vdi", "vdi", true),
    (&["--format", "qcow2", "--verify"], "read-back", "qcow2", true),
];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Exports the newest image; gives the result.
fn export(imager: &Imager, file: &Path, args: &[&str]) -> serde_json::Value {
    let result = imager.json(&[&["export", "latest", "-o", text(file), "--force"], args].concat());
    assert_eq!(result["type"], "exported");
    assert!(!file.with_file_name(format!("{}.part", file.file_name().unwrap().to_str().unwrap())).exists());
    result
}

/// Whether `file` is in order, of the restored disk's size, and reads as it.
fn same(file: &Path, format: &str, is_checked: bool, restored: &Path) {
    if is_checked {
        run("qemu-img", ["check", "-q", "-f", format, text(file)]);
    }
    let info: serde_json::Value =
        serde_json::from_str(&run("qemu-img", ["info", "--output=json", "-f", format, text(file)])).unwrap();
    let size = fs::metadata(restored).unwrap().len();
    assert_eq!(info["virtual-size"].as_u64(), Some(size.next_multiple_of(512)), "{format} {}", file.display());
    let compared = run("qemu-img", ["compare", "-f", format, "-F", "raw", text(file), text(restored)]);
    assert!(compared.contains("Images are identical"), "{}: {compared}", file.display());
}

/// Captures `disk` into a new repository, restores it, and compares every kind of export with that.
fn every_kind_is_same(dir: &Scratch, disk: &Path, capture: &[&str]) -> (Imager, PathBuf) {
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(disk, capture);
    let restored = dir.path("restored");
    imager.ok(&["restore", "latest", "--to", text(&restored)]);
    for (args, name, format, is_checked) in KINDS {
        let file = dir.path(name);
        let result = export(&imager, &file, args);
        assert_eq!(result["read_back"], args.contains(&"--verify"));
        same(&file, format, is_checked, &restored);
        // The same image gives the same file.
        let first = content(&file);
        export(&imager, &file, args);
        assert!(content(&file) == first, "{name}");
    }
    assert!(content(&dir.path("plain.raw")) == content(&restored));
    (imager, restored)
}

#[test]
fn every_format_reads_as_a_restore_writes() {
    let dir = Scratch::new();
    let disk = gpt(&dir);
    let (imager, restored) = every_kind_is_same(&dir, &disk, &[]);
    let compressed = fs::metadata(dir.path("compressed.qcow2")).unwrap().len();
    assert!(compressed < fs::metadata(dir.path("plain.qcow2")).unwrap().len());
    // Through pipes.
    let piped = |args: &[&str]| {
        let ran = imager.command(&[&["export", "latest", "-o", "-"], args].concat()).output().unwrap();
        assert!(ran.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ran.stderr));
        ran.stdout
    };
    assert!(piped(&["--format", "raw"]) == content(&restored));
    fs::write(dir.path("piped.vmdk"), piped(&["--format", "vmdk", "--stream"])).unwrap();
    same(&dir.path("piped.vmdk"), "vmdk", true, &restored);
}

#[test]
fn disks_with_sectors_of_4096_bytes() {
    let dir = Scratch::new();
    let disk = sparse_file(&dir.path("source"), 48 * MIB);
    let device = Loop::attach(&disk, &["--sector-size", "4096"]);
    gpt_disk(dir.root(), &device.0, 4096);
    let (imager, _) = every_kind_is_same(&dir, &device.0, &["--live"]);
    // The fourth item of the metadata.
    let vhdx = content(&dir.path("plain.vhdx"));
    let at = (2 << 20) + (64 << 10) + 8 + 8 + 16;
    assert_eq!(vhdx[at..at + 4], 4096u32.to_le_bytes());
    let result = export(&imager, &dir.path("x.vmdk"), &[]);
    assert!(result["warnings"].to_string().contains("sectors of 4,096 bytes, which vmdk does not know"), "{result}");
    assert!(fs::read_to_string(dir.path("x-libvirt.xml")).unwrap().contains("logical_block_size='4096'"));
}

#[test]
fn odd_sizes_and_disks_of_nothing() {
    for (size, data) in [(10 * MIB + 1536, true), (512, true), (5_000_001, true), (3 * MIB + 512, false)] {
        let dir = Scratch::new();
        let disk = sparse_file(&dir.path("source"), size);
        if data {
            // Up to the very last byte.
            let len = usize::try_from(size.min(200_000)).unwrap();
            write_at(&disk, size - len as u64, &noise(len, size));
        }
        every_kind_is_same(&dir, &disk, &[]);
    }
}

#[test]
fn a_large_disk_costs_what_is_on_it() {
    const SIZE: u64 = (3 << 40) + 512;
    let dir = Scratch::new();
    let disk = sparse_file(&dir.path("source"), SIZE);
    for (seed, at) in [(1, 0), (2, SIZE / 2), (3, (2 << 40) + 4096), (4, SIZE - MIB)] {
        write_at(&disk, at, &noise(1 << 20, seed));
    }
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&disk, &[]);
    for (args, name, format, is_checked) in KINDS.into_iter().filter(|kind| kind.2 != "vpc") {
        let file = dir.path(name);
        let result = export(&imager, &file, args);
        let used: u64 = run("du", ["--block-size=1", text(&file)]).split_whitespace().next().unwrap().parse().unwrap();
        assert!(used < 40 * MIB, "{name}: {used}, {result}");
        same(&file, format, is_checked, &disk);
        fs::remove_file(&file).unwrap();
    }
    let vhd = dir.path("x.vhd");
    let words = imager.fails(2, &["export", "latest", "-o", text(&vhd)]);
    assert!(words.contains("2,040 GiB") && words.contains("vhdx"), "{words}");
    assert!(!vhd.exists());
}

#[test]
fn a_table_that_a_restore_mends_is_mended() {
    let dir = Scratch::new();
    let disk = gpt(&dir);
    // The backup's header and entries.
    write_at(&disk, 48 * MIB - 33 * 512, &[0; 33 * 512]);
    let (_, restored) = every_kind_is_same(&dir, &disk, &[]);
    assert!(content(&restored) != content(&disk));
    assert_eq!(content(&restored)[48 * (1 << 20) - 512..][..8], *b"EFI PART");
}

/// Two disks, the second without a table.
fn two_disks(dir: &Scratch) -> Imager {
    let disk = gpt(dir);
    let data = sparse_file(&dir.path("data"), 5 * MIB + 512);
    write_at(&data, MIB, &noise(700_000, 6));
    let imager = Imager::init(&dir.path("repository"));
    imager.ok(&["capture", text(&disk), text(&data), "--name", "web1"]);
    let (first, second) = (dir.path("restored0"), dir.path("restored1"));
    let targets = [format!("disk0={}", first.display()), format!("disk1={}", second.display())];
    imager.ok(&["restore", "latest", "--to", &targets[0], "--to", &targets[1]]);
    imager
}

fn well_formed(path: &Path) {
    run("python3", ["-c", "import sys, xml.etree.ElementTree as e; e.parse(sys.argv[1])", text(path)]);
}

#[test]
fn a_machine_of_several_disks() {
    let dir = Scratch::new();
    let imager = two_disks(&dir);
    export(&imager, &dir.path("vm.qcow2"), &[]);
    same(&dir.path("vm-disk0.qcow2"), "qcow2", true, &dir.path("restored0"));
    same(&dir.path("vm-disk1.qcow2"), "qcow2", true, &dir.path("restored1"));
    well_formed(&dir.path("vm-libvirt.xml"));
    let domain = fs::read_to_string(dir.path("vm-libvirt.xml")).unwrap();
    for part in ["vm-disk0.qcow2", "vm-disk1.qcow2", "dev='sdb' bus='sata'", "<name>web1</name>", "machine='q35'"] {
        assert!(domain.contains(part), "{part}: {domain}");
    }
    run("sh", ["-n", text(&dir.path("vm-proxmox.sh"))]);
    export(&imager, &dir.path("second.vhdx"), &["--disk", "1", "--disks-only"]);
    same(&dir.path("second.vhdx"), "vhdx", true, &dir.path("restored1"));
    assert!(!dir.path("second-hyperv.ps1").exists());
    export(&imager, &dir.path("vm.vhdx"), &[]);
    assert!(fs::read_to_string(dir.path("vm-hyperv.ps1")).unwrap().contains("'vm-disk1.vhdx'"));
    export(&imager, &dir.path("carried.vmdk"), &["--stream"]);
    well_formed(&dir.path("carried.ovf"));
    assert!(fs::read_to_string(dir.path("carried.ovf")).unwrap().contains("carried-disk1.vmdk"));
    assert!(imager.fails(2, &["export", "latest", "-o", "-", "--format", "raw"]).contains("--disk"));
    assert!(imager.fails(2, &["export", "latest", "-o", "x.raw", "--disk", "2"]).contains("no disk 2"));
}

#[test]
fn a_machine_as_one_file() {
    let dir = Scratch::new();
    let imager = two_disks(&dir);
    let archive = dir.path("web1.ova");
    export(&imager, &archive, &[]);
    let listed = run("tar", ["-tf", text(&archive)]);
    let names: Vec<&str> = listed.lines().collect();
    assert_eq!(names, ["web1.ovf", "web1.mf", "web1-disk0.vmdk", "web1-disk1.vmdk"]);
    run("tar", ["-xf", text(&archive), "-C", text(dir.root())]);
    well_formed(&dir.path("web1.ovf"));
    let descriptor = fs::read_to_string(dir.path("web1.ovf")).unwrap();
    for line in fs::read_to_string(dir.path("web1.mf")).unwrap().lines() {
        let (name, sum) = line.strip_prefix("SHA256(").unwrap().split_once(")= ").unwrap();
        assert!(run("sha256sum", [text(&dir.path(name))]).starts_with(sum), "{line}");
        let size = format!("ovf:href=\"{name}\"");
        let len = format!("ovf:size=\"{}\"", fs::metadata(dir.path(name)).unwrap().len());
        assert!(name.ends_with(".ovf") || descriptor.lines().any(|line| line.contains(&size) && line.contains(&len)));
    }
    same(&dir.path("web1-disk0.vmdk"), "vmdk", true, &dir.path("restored0"));
    same(&dir.path("web1-disk1.vmdk"), "vmdk", true, &dir.path("restored1"));
    // The same bytes through a pipe.
    let piped = imager.command(&["export", "latest", "--format", "ova", "-o", "-"]).output().unwrap();
    assert!(piped.status.success() && piped.stdout == content(&archive));
}

/// Names in a directory.
fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn nothing_that_is_not_complete_looks_finished() {
    let dir = Scratch::new();
    let disk = dir.path("disk");
    fs::write(&disk, noise(96 << 20, 9)).unwrap();
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&disk, &[]);
    let out = dir.path("out");
    fs::create_dir(&out).unwrap();
    let file = out.join("x.vmdk");
    for (signal, left) in [("-INT", &[][..]), ("-KILL", &["x.vmdk.part"][..])] {
        let args = ["export", "latest", "--stream", "--memory", "64M", "-o", text(&file)];
        let mut child = imager.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while names_in(&out).is_empty() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        output("kill", [signal, &child.id().to_string()]);
        let ended = child.wait().unwrap();
        // A machine that was busy elsewhere may have let it come to its end.
        if ended.code() == Some(0) {
            same(&file, "vmdk", true, &disk);
            fs::remove_dir_all(&out).unwrap();
            fs::create_dir(&out).unwrap();
        } else {
            assert!(signal != "-INT" || ended.code() == Some(130), "{ended}");
            assert_eq!(names_in(&out), left, "{signal}");
        }
    }
    // What is left over is in nobody's way.
    export(&imager, &file, &["--stream", "--disks-only"]);
    assert_eq!(names_in(&out), ["x.vmdk"]);
    fs::remove_file(&file).unwrap();
    // A repository that lost its data: every way of writing ends with the error and no file, or with zeros.
    sh(&format!("find {0}/packs -type f -size +1M | head -n 1 | xargs rm", dir.path("repository").display()));
    for args in [&["--stream"][..], &["--format", "vhdx"], &["--format", "qcow2", "--compress"]] {
        let all = [&["export", "latest", "--disks-only", "-o", text(&file)], args].concat();
        imager.fails(4, &all);
        assert!(names_in(&out).is_empty(), "{args:?}");
        let ran = imager.run(&[&all[..], &["--keep-going"]].concat());
        assert!(ran.code == 4 && ran.out.contains("are zeros because the repository is damaged"), "{args:?}: {ran:?}");
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn files_are_not_overwritten_by_the_way() {
    let dir = Scratch::new();
    let disk = dir.path("disk");
    fs::write(&disk, noise(1 << 20, 3)).unwrap();
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&disk, &[]);
    let file = dir.path("x.qcow2");
    fs::write(&file, "precious").unwrap();
    let words = imager.fails(6, &["export", "latest", "-o", text(&file)]);
    assert!(words.contains("--force"), "{words}");
    assert_eq!(content(&file), b"precious");
    fs::remove_file(&file).unwrap();
    // What starts the machine is no less precious.
    fs::write(dir.path("x-libvirt.xml"), "mine").unwrap();
    imager.fails(6, &["export", "latest", "-o", text(&file)]);
    assert!(!file.exists());
    imager.ok(&["export", "latest", "-o", text(&file), "--disks-only"]);
    same(&file, "qcow2", true, &disk);
    imager.fails(6, &["export", "latest", "-o", text(&dir.path("repository/x.raw"))]);
    imager.fails(6, &["export", "latest", "--format", "raw", "-o", text(dir.root())]);
    imager.fails(6, &["export", "latest", "--format", "raw", "-o", "/dev/no-such-disk"]);
    assert!(imager.fails(2, &["export", "latest", "-o", "x"]).contains("which format"));
    assert!(imager.fails(2, &["export", "latest", "-o", "x.raw", "--compress"]).contains("qcow2"));
    imager.fails(7, &["export", "nothing", "-o", "x.raw"]);
}
