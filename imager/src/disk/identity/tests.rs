//! Against a sysfs that is made here, in the shapes that a kernel 6.1 shows on a machine with one disk of each
//! kind.

use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::sysfs::Mounted;
use super::uses::{Stack, add_disks};
use super::*;

struct Made {
    root: TempDir,
}

/// Padding and all: what the files hold.
type Files<'a> = &'a [(&'a str, &'a [u8])];

const DISK: Files = &[
    ("size", b"131072\n"),
    ("ro", b"0\n"),
    ("removable", b"0\n"),
    ("queue/logical_block_size", b"512\n"),
    ("queue/physical_block_size", b"4096\n"),
    ("queue/rotational", b"1\n"),
];

impl Made {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn system(&self) -> System {
        System::below(self.root.path())
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn link(&self, link: &str, target: &str) {
        let link = self.root.path().join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(self.root.path().join(target), link).unwrap();
    }

    fn block(&self, way: &str, number: &str, files: Files) {
        let name = way.rsplit('/').next().unwrap();
        self.write(&format!("sys/devices/{way}/dev"), format!("{number}\n").as_bytes());
        for (file, bytes) in files {
            self.write(&format!("sys/devices/{way}/{file}"), bytes);
        }
        self.link(&format!("sys/dev/block/{number}"), &format!("sys/devices/{way}"));
        self.link(&format!("sys/class/block/{name}"), &format!("sys/devices/{way}"));
    }

    /// A disk, whose `device` is so many directories above it.
    fn disk(&self, way: &str, number: &str, device_above: usize, device: Files) {
        self.block(way, number, DISK);
        let name = way.rsplit('/').next().unwrap();
        self.link(&format!("sys/block/{name}"), &format!("sys/devices/{way}"));
        let device_way = way.rsplitn(device_above + 1, '/').last().unwrap();
        self.link(&format!("sys/devices/{way}/device"), &format!("sys/devices/{device_way}"));
        for (file, bytes) in device {
            self.write(&format!("sys/devices/{device_way}/{file}"), bytes);
        }
    }

    fn partition(&self, disk: &str, name: &str, number: &str) {
        let files: Files = &[("partition", b"1\n"), ("size", b"16384\n"), ("ro", b"0\n")];
        self.block(&format!("{disk}/{name}"), number, files);
    }

    fn holds(&self, holder: &str, held: &str) {
        let name = |way: &str| way.rsplit('/').next().unwrap().to_owned();
        self.link(&format!("sys/devices/{held}/holders/{}", name(holder)), &format!("sys/devices/{holder}"));
        self.link(&format!("sys/devices/{holder}/slaves/{}", name(held)), &format!("sys/devices/{held}"));
    }

    fn identity(&self, name: &str) -> Identity {
        let system = self.system();
        let number = system.number(&Path::new("/dev").join(name)).unwrap();
        identify(&system, &system.block(number).unwrap())
    }
}

const NVME: &str = "pci0000:00/0000:00:03.0/nvme/nvme0/nvme0n1";
const ATA: &str = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda";
const VIRTIO_SCSI: &str = "pci0000:00/0000:00:06.0/virtio1/host6/target6:0:0/6:0:0:0/block/sdb";
const USB: &str = "pci0000:00/0000:00:04.0/usb2/2-1/2-1:1.0/host7/target7:0:0/7:0:0:0/block/sdd";
const SAS: &str = "pci0000:00/0000:00:08.0/host9/port-9:0/end_device-9:0/target9:0:0/9:0:0:0/block/sde";
const VIRTIO: &str = "pci0000:00/0000:00:05.0/virtio0/block/vda";
const MMC: &str = "pci0000:00/0000:00:07.0/mmc_host/mmc0/mmc0:4567/block/mmcblk0";
const CCISS: &str = "pci0000:00/0000:00:09.0/cciss0/c0d0/block/cciss!c0d0";

/// One disk of each kind.
fn machine() -> Made {
    let made = Made::new();
    made.disk(
        NVME,
        "259:0",
        1,
        &[
            ("nvme0n1/wwid", b"eui.0025385b71b0a4d2\n"),
            ("model", b"QEMU NVMe Ctrl                          \n"),
            ("serial", b"NVME0001            \n"),
        ],
    );
    made.partition(NVME, "nvme0n1p1", "259:1");
    made.partition(NVME, "nvme0n1p2", "259:2");
    made.disk(
        ATA,
        "8:0",
        2,
        &[
            ("model", b"ACME SPINNER    \n"),
            ("vendor", b"ATA     \n"),
            ("wwid", b"naa.5000c50015ea71ac\n"),
            ("vpd_pg80", b"\x00\x80\x00\x14ATA0002             "),
        ],
    );
    made.partition(ATA, "sda1", "8:1");
    made.partition(ATA, "sda2", "8:2");
    // No `wwid`: as with kernels that do not make it.
    made.disk(
        VIRTIO_SCSI,
        "8:16",
        2,
        &[
            ("model", b"BIG DISK        \n"),
            ("vendor", b"ACME    \n"),
            ("vpd_pg80", b"\x00\x80\x00\x08SCSI0005"),
            ("vpd_pg83", b"\x00\x83\x00\x18\x02\x00\x00\x08SCSI0005\x01\x03\x00\x08\x50\x0c\x0f\xf0\xde\xad\xbe\xef"),
        ],
    );
    // A stick: no pages, an empty wwid, and the serial number at the USB device.
    made.disk(USB, "8:48", 2, &[("model", b"QEMU HARDDISK   \n"), ("vendor", b"QEMU    \n"), ("wwid", b"")]);
    made.write(&format!("sys/devices/{USB}/removable"), b"1\n");
    let usb_device = "sys/devices/pci0000:00/0000:00:04.0/usb2/2-1";
    made.write(&format!("{usb_device}/idVendor"), b"46f4\n");
    made.write(&format!("{usb_device}/serial"), b"USB0003\n");
    made.disk(SAS, "8:64", 2, &[("wwid", b"t10.ATA     ACME   0001\n"), ("vpd_pg80", b"\x00\x80\x00\x04    ")]);
    made.disk(VIRTIO, "254:0", 2, &[("vendor", b"0x1af4\n"), ("block/vda/serial", b"VBLK0004")]);
    made.write(&format!("sys/devices/{VIRTIO}/ro"), b"1\n");
    made.disk(
        MMC,
        "179:0",
        2,
        &[("name", b"QEMU!\n"), ("serial", b"0x00000000\n"), ("cid", b"aa585951454d552101deadbeef006200\n")],
    );
    made.disk(&MMC.replace("mmcblk0", "mmcblk0boot0"), "179:8", 2, &[]);
    made.disk(CCISS, "104:0", 2, &[]);
    for (name, number) in [("zram0", "253:0"), ("loop0", "7:0"), ("sr0", "11:0"), ("ram0", "1:0")] {
        made.disk(&format!("virtual/block/{name}"), number, 0, &[]);
    }
    made
}

#[test]
fn each_kind_of_disk_says_who_it_is() {
    let made = machine();
    let expected = [
        ("nvme0n1", Some("QEMU NVMe Ctrl"), Some("NVME0001"), Some("eui.0025385b71b0a4d2"), Some("nvme")),
        ("sda", Some("ACME SPINNER"), Some("ATA0002"), Some("0x5000c50015ea71ac"), Some("sata")),
        ("sdb", Some("ACME BIG DISK"), Some("SCSI0005"), Some("0x500c0ff0deadbeef"), Some("virtio")),
        ("sdd", Some("QEMU HARDDISK"), Some("USB0003"), None, Some("usb")),
        ("sde", None, None, None, Some("sas")),
        ("vda", None, Some("VBLK0004"), None, Some("virtio")),
        ("mmcblk0", Some("QEMU!"), Some("0x00000000"), None, Some("mmc")),
        ("cciss/c0d0", None, None, None, None),
    ];
    for (name, model, serial, wwn, transport) in expected {
        let found = made.identity(name);
        assert_eq!(found.path, Path::new("/dev").join(name));
        let strings = [&found.model, &found.serial, &found.wwn, &found.transport].map(Option::as_deref);
        assert_eq!(strings, [model, serial, wwn, transport], "{name}");
        assert_eq!((found.size, found.logical_sector, found.physical_sector), (64 << 20, 512, 4096), "{name}");
        assert_eq!((found.removable, found.read_only), (name == "sdd", name == "vda"), "{name}");
        assert_eq!((found.rotational, found.partition_of), (Some(true), None), "{name}");
    }
}

#[test]
fn a_partition_is_who_its_disk_is() {
    let made = machine();
    let (disk, partition) = (made.identity("nvme0n1"), made.identity("nvme0n1p2"));
    assert_eq!(partition.partition_of.as_deref(), Some(Path::new("/dev/nvme0n1")));
    assert_eq!(partition.size, 8 << 20);
    let path = partition.path.clone();
    assert_eq!(Identity { partition_of: None, size: disk.size, path: disk.path.clone(), ..partition }, disk);
    assert_eq!(path, Path::new("/dev/nvme0n1p2"));
}

#[test]
fn udev_fills_the_gaps_and_only_those() {
    let made = machine();
    let notes = b"S:disk/by-id/x\nE:ID_MODEL=ACME_CHEAP\nE:ID_SERIAL=ACME_CHEAP_77\nE:ID_SERIAL_SHORT=77\n\
        E:ID_WWN=0x50\nE:ID_WWN_WITH_EXTENSION=0x5000\n";
    made.write("run/udev/data/b8:64", notes);
    made.write("run/udev/data/b8:0", notes);
    let filled = made.identity("sde");
    assert_eq!(filled.model.as_deref(), Some("ACME CHEAP"));
    assert_eq!(filled.serial.as_deref(), Some("77"));
    assert_eq!(filled.wwn.as_deref(), Some("0x5000"));
    assert_eq!(made.identity("sda").serial.as_deref(), Some("ATA0002"));
}

#[test]
fn the_disks_of_a_machine_are_those_that_one_would_image() {
    let made = machine();
    let array = "virtual/block/md127";
    made.disk(array, "9:127", 0, &[]);
    made.holds(array, &format!("{ATA}/sda1"));
    made.disk("virtual/block/loop1", "7:1", 0, &[("loop/backing_file", b"/srv/disk.img\n")]);
    made.write(&format!("sys/devices/{SAS}/size"), b"0\n");
    let disks = disks_of(&made.system()).unwrap();
    let paths: Vec<_> = disks.iter().map(|disk| disk.path.to_str().unwrap()).collect();
    let expected = [
        "/dev/sda",
        "/dev/sdb",
        "/dev/sdd",
        "/dev/vda",
        "/dev/loop1",
        "/dev/mmcblk0",
        "/dev/nvme0n1",
        "/dev/cciss/c0d0",
    ];
    assert_eq!(paths, expected);
}

/// LVM on RAID on two partitions, one more partition mounted, another as swap, a btrfs on two disks.
fn stacked() -> Made {
    let made = machine();
    let (array, volume) = ("virtual/block/md127", "virtual/block/dm-0");
    made.disk(array, "9:127", 0, &[]);
    made.disk(volume, "252:0", 0, &[("dm/name", b"vg-root\n")]);
    made.holds(array, &format!("{ATA}/sda1"));
    made.holds(array, &format!("{NVME}/nvme0n1p1"));
    made.holds(volume, array);
    for (name, way) in [("sdb", VIRTIO_SCSI), ("sdd", USB)] {
        made.link(&format!("sys/fs/btrfs/1b9d7f74/devices/{name}"), &format!("sys/devices/{way}"));
    }
    made.write(
        "proc/self/mountinfo",
        b"21 1 0:19 / /proc rw - proc proc rw\n\
          22 1 252:0 / / rw - xfs /dev/mapper/vg-root rw\n\
          23 22 8:2 / /boot\\040x rw - ext4 /dev/sda2 rw\n\
          24 22 0:40 /@ /data rw - btrfs /dev/sdb rw\n\
          25 22 0:41 / /net rw - nfs server:/export rw\n",
    );
    made.write("proc/swaps", b"Filename Type Size Used Priority\n/dev/nvme0n1p2 partition 1 0 -2\n");
    made
}

#[test]
fn a_disk_is_used_by_everything_that_is_built_on_it() {
    let made = stacked();
    let system = made.system();
    let uses = |name: &str| {
        let number = system.number(&Path::new("/dev").join(name)).unwrap();
        let mut stack = Stack::new(&system);
        stack.add_own(&system.block(number).unwrap());
        let uses = stack.uses();
        let mounts: Vec<_> =
            uses.mounted_at.iter().map(|(d, at)| format!("{} {}", d.display(), at.display())).collect();
        let swap: Vec<_> = uses.swap.iter().map(|path| path.display().to_string()).collect();
        (mounts.join(", "), swap.join(", "), uses.holders.join(", "))
    };
    let expect = |name: &str, mounts: &str, swap: &str, holders: &str| {
        assert_eq!(uses(name), (mounts.to_owned(), swap.to_owned(), holders.to_owned()), "{name}");
    };
    expect("sda", "/dev/dm-0 /, /dev/sda2 /boot x", "", "md127, dm-0 (vg-root)");
    expect("sda2", "/dev/sda2 /boot x", "", "");
    expect("nvme0n1", "/dev/dm-0 /", "/dev/nvme0n1p2", "md127, dm-0 (vg-root)");
    expect("sdb", "/dev/sdb /data", "", "");
    expect("sdd", "/dev/sdd /data", "", "");
    expect("vda", "", "", "");
}

#[test]
fn the_disks_under_a_mount_are_found_through_every_layer() {
    let made = stacked();
    let system = made.system();
    let disks = |at: &str| {
        let mounts = system.mounts();
        let mounted: &Mounted = mounts.iter().find(|m| m.at == Path::new(at)).unwrap();
        let mut found = std::collections::BTreeMap::new();
        system.devices_of(mounted).into_iter().for_each(|number| add_disks(&system, number, &mut found));
        found.values().map(|block| block.name.clone()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(disks("/"), "sda md127 dm-0 nvme0n1");
    assert_eq!(disks("/boot x"), "sda");
    assert_eq!(disks("/data"), "sdb sdd");
    assert_eq!(disks("/net"), "");
    assert_eq!(disks("/proc"), "");
}

#[test]
fn pages_that_are_cut_short_or_lie_about_their_length_do_no_harm() {
    assert_eq!(unit_serial_number(b"\x00\x80\x00\xffABC").as_deref(), Some("ABC"));
    assert_eq!(unit_serial_number(b"\x00\x80\x00"), None);
    assert_eq!(unit_serial_number(b"\x00\x80\x00\x00ABC"), None);
    assert_eq!(device_identification(b"\x00\x83\x00\x18\x01\x03\x00\xff\x50"), None);
    assert_eq!(device_identification(b"\x00\x83\x00\x04\x01\x13\x00\x00"), None);
    assert_eq!(device_identification(b"\x00\x83\xff\xff\x01\x03\x00\x01\x50").as_deref(), Some("0x50"));
    assert_eq!(device_identification(b""), None);
}

#[test]
fn a_file_whose_name_is_no_text_can_be_written_down() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(std::ffi::OsStr::from_bytes(b"disk-\xff.img"));
    fs::write(&path, [1; 512]).unwrap();
    let json = serde_json::to_string(&of_file(&path).unwrap()).unwrap();
    assert!(json.contains("disk-\u{fffd}.img"), "{json}");
}
