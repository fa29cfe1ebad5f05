//! What a virtual machine needs of this machine: QEMU, firmware, an accelerator that works, memory.
//!
//! Must not know: images.

#![forbid(unsafe_code)]

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::disk::sys::end_with_this_thread;
use crate::error::{Error, Result};
use crate::memory::Budget;

/// The emulator's name.
pub const QEMU: &str = "qemu-system-x86_64";
/// A probe that takes longer has failed.
const PROBE: Duration = Duration::from_secs(10);
/// What the probe's boot sector writes, and what QEMU's exit status is then.
const PROBE_STATUS: i32 = (0x10 << 1) | 1;

/// A boot sector that says that it runs, by a port on which QEMU ends, after it has gone to 64 bits and counted for a
/// moment. Where a processor cannot be lent to a machine, but KVM is there all the same, real mode still works, slowly:
/// every instruction of it is emulated.
#[rustfmt::skip]
const PROBE_CODE: &[u8] = &[
    0xFA, 0xFC, 0x31, 0xC0, 0x8E, 0xD8, 0x8E, 0xC0, // cli; cld; ax, ds, es = 0
    0xBF, 0x00, 0x10, 0xB9, 0x00, 0x0C, 0x66, 0x31, 0xC0, 0x66, 0xF3, 0xAB, // three pages at 0x1000 are cleared:
    0xC7, 0x06, 0x00, 0x10, 0x03, 0x20, 0xC7, 0x06, 0x00, 0x20, 0x03, 0x30, 0xC7, 0x06, 0x00, 0x30, 0x83, 0x00, // page tables; the last maps 2 MiB
    0x66, 0x0F, 0x01, 0x16, 0x90, 0x7C, // lgdt
    0x0F, 0x20, 0xE0, 0x0D, 0x20, 0x06, 0x0F, 0x22, 0xE0, // cr4: PAE, SSE
    0x66, 0xB8, 0x00, 0x10, 0x00, 0x00, 0x0F, 0x22, 0xD8, // cr3 = 0x1000
    0x66, 0xB9, 0x80, 0x00, 0x00, 0xC0, 0x0F, 0x32, 0x0D, 0x00, 0x01, 0x0F, 0x30, // EFER: long mode
    0x0F, 0x20, 0xC0, 0x24, 0xFB, 0x66, 0x0D, 0x03, 0x00, 0x00, 0x80, 0x0F, 0x22, 0xC0, // cr0: paging, protection, x87
    0xEA, 0x5E, 0x7C, 0x08, 0x00, // far jump into 64 bits
    0xB9, 0x00, 0x00, 0x00, 0x08, 0xFF, 0xC9, 0x75, 0xFC, // count down from 2^27
    0xF2, 0x48, 0x0F, 0x2A, 0xC1, 0xDB, 0xE3, 0xD9, 0xE8, // an instruction of SSE, two of x87
    0x66, 0xBA, 0x01, 0x05, 0xB0, 0x10, 0xEE, // QEMU ends with out 0x501, 0x10
    0xF4, 0xEB, 0xFD, // hlt, again and again
    0x66, 0x0F, 0x1F, 0x44, 0x00, 0x00, // padding
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x9A, 0x20, 0x00, // the GDT: nothing, and code of 64 bits
    0x0F, 0x00, 0x80, 0x7C, 0x00, 0x00, // where it is
];

/// Where distributions put UEFI for virtual machines: the code, and variables that are empty yet. Debian and Ubuntu,
/// Fedora and RHEL, Arch, openSUSE, Gentoo.
const UEFI: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.fd", "/usr/share/edk2/x64/OVMF_VARS.fd"),
    ("/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"),
    ("/usr/share/qemu/ovmf-x86_64-4m-code.bin", "/usr/share/qemu/ovmf-x86_64-4m-vars.bin"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
    ("/usr/share/edk2-ovmf/OVMF_CODE.fd", "/usr/share/edk2-ovmf/OVMF_VARS.fd"),
];

/// Firmware files for UEFI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UefiFiles {
    /// The code, which is never written.
    pub code: PathBuf,
    /// Empty variables, to be copied.
    pub variables: PathBuf,
}

/// What runs the guest's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// An emulated processor: the same, ten to twenty times slower.
    Tcg,
}

/// The kind of machine that images get.
pub(super) const MACHINE: &str = "q35";

impl Accelerator {
    /// What QEMU is told.
    pub(super) fn option(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            // With a thread for each processor, a kernel that patches its code now and then meets half of a patch, and panics.
            Self::Tcg => "tcg,thread=single",
        }
    }

    /// The processor that goes with it.
    pub(super) fn processor(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "max",
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "emulated processor",
        })
    }
}

/// Where QEMU is.
///
/// # Errors
/// [`Error::Usage`] with what to install.
pub fn qemu() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(QEMU)).find(|file| file.is_file());
    found.ok_or_else(|| {
        Error::Usage(format!(
            "{QEMU} is not on the PATH: install QEMU (qemu-system-x86 on Debian and Ubuntu, qemu-kvm on Fedora and RHEL, qemu-system-x86 on Arch)"
        ))
    })
}

/// Where UEFI for virtual machines is.
///
/// # Errors
/// [`Error::Usage`] with what to install.
pub fn uefi() -> Result<UefiFiles> {
    let there = |(code, variables): &&(&str, &str)| Path::new(code).is_file() && Path::new(variables).is_file();
    let found = UEFI.iter().find(there);
    found.map(|(code, variables)| UefiFiles { code: code.into(), variables: variables.into() }).ok_or_else(|| {
        Error::Usage("there is no UEFI for virtual machines here: install OVMF (ovmf on Debian and Ubuntu, edk2-ovmf on Fedora, RHEL and Arch)".into())
    })
}

/// The accelerator that works: KVM when a machine of one boot sector gets somewhere with it. That `/dev/kvm` is there,
/// and can be opened, says nothing in a container or a virtual machine.
#[must_use]
pub fn accelerator(qemu: &Path) -> Accelerator {
    let open = std::fs::File::options().read(true).write(true).open("/dev/kvm");
    if open.is_ok() && boots_with(qemu, Accelerator::Kvm).unwrap_or(false) {
        Accelerator::Kvm
    } else {
        Accelerator::Tcg
    }
}

/// Whether a boot sector runs with an accelerator, on the machine and the processor that images get: some are refused that
/// others are not.
fn boots_with(qemu: &Path, accelerator: Accelerator) -> std::io::Result<bool> {
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("probe");
    let mut sector = PROBE_CODE.to_vec();
    sector.resize(510, 0);
    sector.extend_from_slice(&[0x55, 0xAA]);
    // Firmware does not start smaller disks on every controller.
    sector.resize(1 << 20, 0);
    std::fs::write(&disk, sector)?;
    let mut drive = std::ffi::OsString::from("if=ide,format=raw,file=");
    drive.push(super::options::escaped(&disk));
    let mut command = Command::new(qemu);
    end_with_this_thread(&mut command);
    let mut child = command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", MACHINE, "-m", "32", "-smp", "2"])
        .args([
            "-accel",
            accelerator.option(),
            "-cpu",
            accelerator.processor(),
            "-device",
            "isa-debug-exit,iobase=0x501,iosize=2",
            "-no-reboot",
            "-drive",
        ])
        .arg(drive)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + PROBE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code() == Some(PROBE_STATUS));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    Ok(false)
}

/// Memory for a virtual machine that would like to have `wanted` bytes: no more than half of what is free here. A
/// multiple of a MiB.
#[must_use]
pub fn memory(wanted: u64) -> u64 {
    let spare = Budget::of_this_machine().bytes();
    wanted.min(spare).max(MEMORY_MIN) >> 20 << 20
}

/// With less, few systems start.
pub const MEMORY_MIN: u64 = 256 << 20;

/// Processors for a virtual machine that would like to have `wanted`.
#[must_use]
pub fn processors(wanted: u32) -> u32 {
    let here = std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX));
    wanted.clamp(1, here.min(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_tells_what_works_from_what_does_not() {
        let Ok(qemu) = qemu() else { return };
        assert!(boots_with(&qemu, Accelerator::Tcg).unwrap());
        assert!(!boots_with("true".as_ref(), Accelerator::Tcg).unwrap());
    }

    #[test]
    fn a_machine_gets_what_can_be_spared() {
        assert_eq!(memory(0), MEMORY_MIN);
        assert!(memory(u64::MAX) <= Budget::of_this_machine().bytes().max(MEMORY_MIN) + (1 << 20));
        assert_eq!(processors(0), 1);
        assert!(processors(u32::MAX) <= 8);
    }
}
