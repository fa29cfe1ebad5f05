//! The system calls that no safe wrapper has. All unsafe code of the crate is here.
#![expect(unsafe_code, reason = "ioctls that neither nix nor rustix wraps safely")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::extent::Extent;

nix::ioctl_none!(blkrrpart, 0x12, 95);
nix::ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);

/// BLKRRPART: the kernel reads a disk's partition table anew.
pub(super) fn reread_partition_table(disk: &File) -> io::Result<()> {
    // SAFETY: the ioctl takes no argument, and the descriptor is open as long as the borrow lasts.
    unsafe { blkrrpart(disk.as_raw_fd()) }?;
    Ok(())
}

/// BLKDISCARD: nobody needs these bytes any more.
pub(super) fn discard(disk: &File, extent: Extent) -> io::Result<()> {
    let range = [extent.start, extent.len];
    // SAFETY: the kernel reads two 64-bit integers, which is what the pointer points to, and keeps nothing of it;
    // the descriptor is open as long as the borrow lasts.
    unsafe { blkdiscard(disk.as_raw_fd(), &raw const range) }?;
    Ok(())
}
