//! The kernel's own file systems.
//!
//! Must not know: disks.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::log::say;

/// What is mounted where, in this order. Files take memory, too: those here and in the root may take a quarter of it.
///
/// `/dev` is bounded because a misspelt `dd of=/dev/sdx` makes a file there. What Lifeboat itself writes has a place of its own:
/// whatever else fills memory, the running job can be noted.
const MOUNTS: [(&str, &str, &str); 7] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", "mode=755,size=1m"),
    ("devpts", "/dev/pts", "mode=620,gid=5"),
    ("tmpfs", "/run", "mode=755,size=10%"),
    ("tmpfs", "/run/lifeboat", "mode=755,size=4m"),
    ("tmpfs", "/tmp", "mode=1777,size=10%"),
];

/// Mounts everything that is not there yet.
pub(super) fn mount_all() {
    for (kind, at, options) in MOUNTS {
        let _ = fs::create_dir_all(at);
        // Terminals are devices, too.
        let devices = if kind.starts_with("dev") { MsFlags::empty() } else { MsFlags::MS_NODEV };
        let try_with = |options: Option<&str>| mount(Some(kind), at, Some(kind), MsFlags::MS_NOSUID | devices, options);
        // Without its options rather than not at all.
        match try_with(Some(options)).or_else(|error| if error == Errno::EBUSY { Err(error) } else { try_with(None) }) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => say(&format!("cannot mount {at}: {}", error.desc())),
        }
    }
    bound_root();
    for directory in [crate::job::run_directory(), "/root".into()] {
        let _ = fs::create_dir_all(directory);
    }
    link("/proc/self/fd", "/dev/fd");
    link("/proc/self/mounts", "/etc/mtab");
    // What the kernel itself calls for file systems, ciphers and the like.
    link("/init", "/sbin/modprobe");
    mount_firmware_variables();
}

/// Whether Secure Boot is on, and what the firmware starts, is in its variables. They are only read.
fn mount_firmware_variables() {
    let at = Path::new("/sys/firmware/efi/efivars");
    if !at.is_dir() {
        return;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    let none: Option<&str> = None;
    if let Err(error) = mount(Some("efivarfs"), at, Some("efivarfs"), flags, none) {
        say(&format!("the firmware's variables cannot be read: {}", error.desc()));
    }
}

/// Where the initramfs was unpacked, half of the memory may be filled: what is there already, and little more, will do.
fn bound_root() {
    const ROOM: u64 = 8 << 20;
    let Ok(root) = rustix::fs::statvfs("/") else { return };
    let used = root.f_blocks.saturating_sub(root.f_bfree).saturating_mul(root.f_frsize);
    let none: Option<&str> = None;
    let size = format!("size={}", used.saturating_add(ROOM));
    if let Err(error) = mount(none, "/", none, MsFlags::MS_REMOUNT, Some(&*size)) {
        // A root that is no tmpfs has no such bound.
        say(&format!("cannot bound the RAM disk: {}", error.desc()));
    }
}

fn link(target: &str, path: &str) {
    if fs::symlink_metadata(path).is_err() {
        if let Some(parent) = Path::new(path).parent() {
            let _ = fs::create_dir_all(parent);
        }
        let _ = std::os::unix::fs::symlink(target, path);
    }
}
