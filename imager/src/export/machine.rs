//! A whole machine: a file for each disk, and beside them what starts it.
//!
//! Must not know: how disks are written.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{How, Image, Options, Part, Written, write_disk};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::vm::hardware::{Firmware, Generation, Hardware};
use crate::vm::{Macs, hyperv, libvirt, ovf, proxmox};
use crate::vm_disk::Format;

/// What of a machine, and what beside it.
#[derive(Clone, Debug)]
pub struct MachineOptions {
    /// Numbers of the disks, ascending.
    pub disks: Vec<usize>,
    /// Whether what starts the machine is written beside its disks.
    pub beside: Beside,
    /// Which addresses its network cards get.
    pub macs: Macs,
}

/// Whether what starts a machine is written beside its disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// A machine that was written.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Its disks.
    pub disks: Vec<Written>,
    /// What starts it.
    pub files: Vec<PathBuf>,
    /// What may not be as it was there, a sentence each.
    pub warnings: Vec<String>,
}

/// The files of these disks: `path` for a single one, otherwise `web1-disk0.qcow2`, `web1-disk1.qcow2` for
/// `web1.qcow2`.
#[must_use]
pub fn names(path: &Path, disks: &[usize]) -> Vec<PathBuf> {
    if let [_] = disks {
        return vec![path.to_owned()];
    }
    let extension = path.extension().map_or_else(String::new, |extension| format!(".{}", extension.to_string_lossy()));
    disks.iter().map(|disk| beside(path, &format!("-disk{disk}{extension}"))).collect()
}

/// `path` with another ending.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// Writes the disks of a machine, and what starts it.
///
/// # Errors
/// As [`write_disk`]. Disks that were complete before are there.
pub fn write_machine(
    image: &Image,
    format: Format,
    options: &Options,
    what: &MachineOptions,
    path: &Path,
    progress: &Progress,
) -> Result<Machine> {
    options.how.check(format)?;
    let hardware = Hardware::of_image(image.id, &image.manifest).with_disks(&what.disks);
    let paths = names(path, &what.disks);
    let endings = match what.beside {
        Beside::Yes => endings(format, options.how),
        Beside::No => &[],
    };
    // Before hours of work.
    let files: Vec<(&str, PathBuf)> = endings.iter().map(|ending| (*ending, beside(path, ending))).collect();
    for file in paths.iter().chain(files.iter().map(|(_, file)| file)) {
        Part::new(file, options.replace)?;
    }
    if let Some((_, file)) = files.iter().find(|(_, file)| paths.contains(file)) {
        return Err(Error::Usage(format!(
            "{} would be both a disk and what starts it; choose another name, or --disks-only",
            file.display()
        )));
    }
    let mut disks = Vec::new();
    for (disk, path) in what.disks.iter().zip(&paths) {
        disks.push(write_disk(image, *disk, format, options, path, progress)?);
    }
    let mut warnings = hardware.warnings.clone();
    for (ending, file) in &files {
        let (text, more) = text_of(ending, &hardware, format, &disks, what.macs)?;
        warnings.extend(more);
        let part = Part::new(file, options.replace)?;
        let mut out = part.create()?;
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::io("write", part.working_path()))?;
        part.finish()?;
    }
    warnings.extend(warnings_of(&hardware, format, options.how));
    Ok(Machine { disks, files: files.into_iter().map(|(_, file)| file).collect(), warnings })
}

const LIBVIRT: &str = "-libvirt.xml";
const PROXMOX: &str = "-proxmox.sh";
const HYPER_V: &str = "-hyperv.ps1";
const OVF: &str = ".ovf";

fn endings(format: Format, how: How) -> &'static [&'static str] {
    match (format, how) {
        (Format::Vmdk, How::Stream) => &[OVF],
        (Format::Vhdx | Format::Vhd, _) => &[HYPER_V],
        _ => &[LIBVIRT, PROXMOX],
    }
}

fn text_of(
    ending: &str,
    hardware: &Hardware,
    format: Format,
    disks: &[Written],
    macs: Macs,
) -> Result<(String, Vec<String>)> {
    let file_name = |disk: &Written| disk.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file_names: Vec<String> = disks.iter().map(file_name).collect();
    Ok(match ending {
        PROXMOX => (proxmox::script(hardware, &file_names, macs), Vec::new()),
        HYPER_V => (hyperv::script(hardware, &file_names, macs), hyperv::warnings(hardware)),
        OVF => {
            let files: Vec<_> =
                disks.iter().map(|disk| ovf::DiskFile { name: file_name(disk), len: disk.len }).collect();
            (ovf::descriptor(hardware, &files, macs), ovf::warnings(hardware))
        }
        _ => {
            let source = |disk: &Written| -> Result<libvirt::DiskSource> {
                let path = std::path::absolute(&disk.path).map_err(Error::io("look at", &disk.path))?;
                Ok(libvirt::DiskSource { path, format: format.name() })
            };
            let sources: Vec<_> = disks.iter().map(source).collect::<Result<_>>()?;
            (libvirt::domain(hardware, &sources, macs), libvirt::warnings(hardware))
        }
    })
}

/// What a format cannot say.
#[must_use]
pub(super) fn warnings_of(hardware: &Hardware, format: Format, how: How) -> Vec<String> {
    let mut warnings = Vec::new();
    let is_uefi = matches!(hardware.firmware, Firmware::Uefi { .. });
    if hardware.has_large_sectors() && matches!(format, Format::Vmdk | Format::Vhd | Format::Vdi) {
        warnings.push(format!(
            "the disks have sectors of 4,096 bytes, which {format} does not know: with sectors of 512 their partition tables are not found; use vhdx, qcow2 or raw"
        ));
    }
    if format == Format::Vhd && is_uefi && hardware.generation() == Generation::Two {
        warnings.push("Hyper-V starts machines with UEFI from VHDX alone: use --format vhdx".into());
    }
    if how == How::Fixed && hardware.disks.iter().any(|disk| !disk.size.is_multiple_of(1 << 20)) {
        warnings.push("Azure takes only disks of whole MiB, and this one is not".into());
    }
    warnings
}

/// What should be known before a machine is started from an archive.
#[must_use]
pub fn archive_warnings(hardware: &Hardware) -> Vec<String> {
    let mut warnings = hardware.warnings.clone();
    warnings.extend(ovf::warnings(hardware));
    warnings.extend(warnings_of(hardware, Format::Vmdk, How::Stream));
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_after_the_file() {
        let of = |path: &str, disks: &[usize]| -> Vec<String> {
            names(Path::new(path), disks).iter().map(|name| name.display().to_string()).collect()
        };
        assert_eq!(of("a/web1.qcow2", &[2]), ["a/web1.qcow2"]);
        assert_eq!(of("a/web1.qcow2", &[0, 3]), ["a/web1-disk0.qcow2", "a/web1-disk3.qcow2"]);
        assert_eq!(of("web1", &[0, 1]), ["web1-disk0", "web1-disk1"]);
        assert_eq!(of("web1.example.org.vmdk", &[0, 1])[0], "web1.example.org-disk0.vmdk");
    }
}
