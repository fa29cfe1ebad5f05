//! The system calls that no safe wrapper has. All unsafe code of the crate is here.
#![expect(unsafe_code, reason = "ioctls that neither nix nor rustix wraps safely")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

nix::ioctl_none!(blkrrpart, 0x12, 95);

/// BLKRRPART: the kernel reads a disk's partition table anew.
pub(super) fn reread_partition_table(disk: &File) -> io::Result<()> {
    // SAFETY: the ioctl takes no argument, and the descriptor is open as long as the borrow lasts.
    unsafe { blkrrpart(disk.as_raw_fd()) }?;
    Ok(())
}
