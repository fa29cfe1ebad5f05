//! Whether a running virtual machine has a file open.
//!
//! QEMU says what it does with a file by locks on single bytes, which others can ask for. The other hypervisors leave no
//! sign that is worth trusting. Must not know: formats.
//!
//! Source: QEMU's `block/file-posix.c`: byte 100 + n is locked by whoever has permission n; 1 is to write.

use std::fs::File;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

const WRITER: i64 = 101;

/// Whether a QEMU has `path` open for writing. A file that cannot be asked is in no such use.
#[must_use]
pub fn is_written_by_qemu(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut lock = libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: WRITER,
        l_len: 1,
        l_pid: 0,
    };
    let free = i16::try_from(libc::F_UNLCK).unwrap_or_default();
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).is_ok() && lock.l_type != free
}
