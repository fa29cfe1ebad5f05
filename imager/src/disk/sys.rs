//! The system calls that no safe wrapper has. All unsafe code of the crate is here.
#![expect(
    unsafe_code,
    reason = "ioctls that neither nix nor rustix wraps safely, and what a child does before it is another program"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::libc::{c_int, c_void};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

use crate::extent::Extent;

nix::ioctl_none!(blkrrpart, 0x12, 95);
nix::ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);
nix::ioctl_write_ptr_bad!(blkpg, nix::request_code_none!(0x12, 105), PartitionRequest);
nix::ioctl_write_ptr!(ext4_resize, b'f', 16, u64);
nix::ioctl_readwrite_bad!(sg_io, 0x2285, ScsiRequest);
nix::ioctl_readwrite!(nvme_admin, b'N', 0x41, NvmeCommand);

/// BLKRRPART: the kernel reads a disk's partition table anew.
pub(crate) fn reread_partition_table(disk: &File) -> io::Result<()> {
    // SAFETY: the ioctl takes no argument, and the descriptor is open as long as the borrow lasts.
    unsafe { blkrrpart(disk.as_raw_fd()) }?;
    Ok(())
}

/// BLKDISCARD: nobody needs these bytes any more.
pub(crate) fn discard(disk: &File, extent: Extent) -> io::Result<()> {
    let range = [extent.start, extent.len];
    // SAFETY: the kernel reads two 64-bit integers, which is what the pointer points to, and keeps nothing of it;
    // the descriptor is open as long as the borrow lasts.
    unsafe { blkdiscard(disk.as_raw_fd(), &raw const range) }?;
    Ok(())
}

/// `struct blkpg_ioctl_arg` of the kernel's `include/uapi/linux/blkpg.h`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct PartitionRequest {
    op: c_int,
    flags: c_int,
    datalen: c_int,
    data: *const BlkpgPartition,
}

/// `struct blkpg_partition`, in bytes.
#[repr(C)]
#[derive(Debug)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    pno: c_int,
    devname: [u8; 64],
    volname: [u8; 64],
}

/// BLKPG_RESIZE_PARTITION: a partition that begins where it did has another size now.
pub(crate) fn resize_partition(disk: &File, number: u32, place: Extent) -> io::Result<()> {
    const RESIZE_PARTITION: c_int = 3;
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let partition = BlkpgPartition {
        start: i64::try_from(place.start).map_err(too_large)?,
        length: i64::try_from(place.len).map_err(too_large)?,
        pno: c_int::try_from(number).map_err(too_large)?,
        devname: [0; 64],
        volname: [0; 64],
    };
    let datalen = c_int::try_from(size_of::<BlkpgPartition>()).map_err(too_large)?;
    let request = PartitionRequest { op: RESIZE_PARTITION, flags: 0, datalen, data: &raw const partition };
    // SAFETY: both structures have the kernel's layout and live longer than the call, which only reads them; the
    // descriptor is open as long as the borrow lasts.
    unsafe { blkpg(disk.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// EXT4_IOC_RESIZE_FS: a mounted ext4 gets so many blocks. `directory` is any of it.
pub(crate) fn resize_ext4(directory: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the kernel reads one 64-bit integer, which is what the pointer points to, and keeps nothing of it; the
    // descriptor is open as long as the borrow lasts.
    unsafe { ext4_resize(directory.as_raw_fd(), &raw const blocks) }?;
    Ok(())
}

/// PR_SET_PDEATHSIG: what `command` starts is told to end (SIGTERM) when the thread that starts it has ended, also when
/// nobody had the time to tell it. To be called by whom the thread belongs to, since only that knows that it stays.
pub(crate) fn end_with_this_thread(command: &mut Command) {
    let parent = getpid();
    let tell_kernel = move || {
        set_parent_process_death_signal(Some(Signal::TERM))?;
        // It may have ended just before, and nobody would ever tell.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: between fork and exec the closure makes two system calls, takes no locks and no memory, and touches nothing
    // that another thread may have been changing; the error is a plain value.
    unsafe { command.pre_exec(tell_kernel) };
}

/// `struct sg_io_hdr` of the kernel's `include/scsi/sg.h`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct ScsiRequest {
    interface_id: c_int,
    dxfer_direction: c_int,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: u16,
    dxfer_len: u32,
    dxferp: *mut c_void,
    cmdp: *const u8,
    sbp: *mut u8,
    timeout: u32,
    flags: u32,
    pack_id: c_int,
    usr_ptr: *mut c_void,
    status: u8,
    masked_status: u8,
    msg_status: u8,
    sb_len_wr: u8,
    host_status: u16,
    driver_status: u16,
    resid: c_int,
    duration: u32,
    info: u32,
}

/// What a SCSI command came back with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    /// 0 is good, 2 says that there is sense data.
    pub(crate) status: u8,
    /// What was read.
    pub(crate) data: Vec<u8>,
    /// How it went, in detail.
    pub(crate) sense: Vec<u8>,
}

impl Answered {
    /// It was done.
    pub(crate) fn is_good(&self) -> bool {
        self.status == 0
    }
}

/// SG_IO: sends a SCSI command that reads `len` bytes, or none, and waits for what comes back.
///
/// # Errors
/// When it did not reach the disk, or not in time. A disk that refuses it has answered.
pub(crate) fn scsi_read(disk: &File, command: &[u8], len: usize, limit: Duration) -> io::Result<Answered> {
    const NO_DATA: c_int = -1;
    const FROM_DEVICE: c_int = -3;
    /// The driver's way of saying that there is sense data.
    const DRIVER_SENSE: u16 = 8;
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let (mut data, mut sense) = (vec![0u8; len], vec![0u8; 64]);
    let mut request = ScsiRequest {
        interface_id: c_int::from(b'S'),
        dxfer_direction: if len == 0 { NO_DATA } else { FROM_DEVICE },
        cmd_len: u8::try_from(command.len()).map_err(too_long)?,
        mx_sb_len: u8::try_from(sense.len()).map_err(too_long)?,
        iovec_count: 0,
        dxfer_len: u32::try_from(len).map_err(too_long)?,
        dxferp: data.as_mut_ptr().cast(),
        cmdp: command.as_ptr(),
        sbp: sense.as_mut_ptr(),
        timeout: u32::try_from(limit.as_millis()).unwrap_or(u32::MAX),
        flags: 0,
        pack_id: 0,
        usr_ptr: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        msg_status: 0,
        sb_len_wr: 0,
        host_status: 0,
        driver_status: 0,
        resid: 0,
        duration: 0,
        info: 0,
    };
    // SAFETY: the request has the kernel's layout; `cmdp`, `sbp` and `dxferp` point to as many bytes as `cmd_len`,
    // `mx_sb_len` and `dxfer_len` say, the latter two writable; all of them and the descriptor live longer than the
    // call, which returns when the command is over and keeps none of them.
    unsafe { sg_io(disk.as_raw_fd(), &raw mut request) }?;
    if request.host_status != 0 || request.driver_status & !DRIVER_SENSE != 0 {
        let (host, driver) = (request.host_status, request.driver_status);
        return Err(io::Error::other(format!("the command did not get through (host {host:#x}, driver {driver:#x})")));
    }
    let missing = usize::try_from(request.resid).unwrap_or(0);
    data.truncate(len.saturating_sub(missing));
    sense.truncate(usize::from(request.sb_len_wr));
    Ok(Answered { status: request.status, data, sense })
}

/// `struct nvme_admin_cmd` of the kernel's `include/uapi/linux/nvme_ioctl.h`.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct NvmeCommand {
    opcode: u8,
    flags: u8,
    rsvd1: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

/// NVME_IOCTL_ADMIN_CMD with Get Log Page: `len` bytes, a multiple of four, of a log of the whole controller.
///
/// # Errors
/// What the kernel or the controller says.
pub(crate) fn nvme_log(disk: &File, log: u8, len: usize, limit: Duration) -> io::Result<Vec<u8>> {
    const GET_LOG_PAGE: u8 = 2;
    let mut data = vec![0u8; len];
    let data_len = u32::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let words = (data_len / 4).saturating_sub(1);
    let mut command = NvmeCommand {
        opcode: GET_LOG_PAGE,
        nsid: u32::MAX,
        addr: data.as_mut_ptr().expose_provenance() as u64,
        data_len,
        cdw10: u32::from(log) | words << 16,
        timeout_ms: u32::try_from(limit.as_millis()).unwrap_or(u32::MAX),
        ..NvmeCommand::default()
    };
    // SAFETY: the command has the kernel's layout, `addr` is that of `data_len` writable bytes, which live longer than
    // the call, as the descriptor does; it returns when the command is over.
    let status = unsafe { nvme_admin(disk.as_raw_fd(), &raw mut command) }?;
    if status != 0 {
        return Err(io::Error::other(format!("status {status:#x}")));
    }
    Ok(data)
}

// As the kernel has them: a field that is missing would shift all that follow.
const _: () = assert!(size_of::<NvmeCommand>() == 72);
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<ScsiRequest>() == 88);
