//! A domain for libvirt (`virsh define`).
//!
//! Source: libvirt's "Domain XML format". Must not know: images.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use super::hardware::{Controller, Disk, Firmware, Hardware, System};
use super::text::{Macs, escape};

/// A disk's file.
pub struct DiskSource {
    /// Its path, absolute.
    pub path: PathBuf,
    /// The format, as QEMU calls it.
    pub format: &'static str,
}

/// The domain's XML. `sources` are the disks of `hardware`, in its order.
#[must_use]
pub fn domain(hardware: &Hardware, sources: &[DiskSource], macs: Macs) -> String {
    let name = escape(&hardware.name);
    let (firmware, smm) = firmware(hardware.firmware);
    let clock = if hardware.system == System::Windows { "localtime" } else { "utc" };
    let devices: String = hardware
        .disks
        .iter()
        .zip(sources)
        .enumerate()
        .map(|(index, (disk, source))| disk_element(hardware, disk, source, index))
        .collect();
    let controller = if bus(hardware) == "scsi" { "    <controller type='scsi' model='virtio-scsi'/>\n" } else { "" };
    let model = nic_model(hardware.controller);
    let nics: String = hardware
        .nics
        .iter()
        .map(|nic| {
            let mac = match macs {
                Macs::Keep => format!("\n      <mac address='{}'/>", escape(&nic.mac)),
                Macs::New => String::new(),
            };
            format!(
                "    <interface type='network'>{mac}\n      <source network='default'/>\n      <model type='{model}'/>\n    </interface>\n"
            )
        })
        .collect();
    format!(
        "<domain type='kvm'>
  <name>{name}</name>
  <title>{title}</title>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>{cpus}</vcpu>
  <cpu mode='host-passthrough'>
    <topology sockets='1' cores='{cpus}' threads='1'/>
  </cpu>
  <os{firmware}
  </os>
  <features>
    <acpi/>
    <apic/>
{smm}  </features>
  <clock offset='{clock}'/>
  <devices>
{controller}{devices}{nics}    <serial type='pty'/>
    <console type='pty'/>
    <input type='tablet' bus='usb'/>
    <graphics type='vnc' port='-1' listen='127.0.0.1'/>
    <video>
      <model type='vga'/>
    </video>
  </devices>
</domain>
",
        title = escape(if hardware.description.is_empty() { &hardware.name } else { &hardware.description }),
        memory = hardware.memory >> 20,
        cpus = hardware.cpus,
    )
}

/// The rest of the element `os`, and what the features need for it.
fn firmware(firmware: Firmware) -> (&'static str, &'static str) {
    const TYPE: &str = ">\n    <type arch='x86_64' machine='q35'>hvm</type>";
    match firmware {
        Firmware::Bios => (TYPE, ""),
        Firmware::Uefi { secure_boot: false } => (
            " firmware='efi'>\n    <type arch='x86_64' machine='q35'>hvm</type>\n    <firmware>\n      <feature enabled='no' name='secure-boot'/>\n    </firmware>",
            "",
        ),
        Firmware::Uefi { secure_boot: true } => (
            " firmware='efi'>\n    <type arch='x86_64' machine='q35'>hvm</type>\n    <firmware>\n      <feature enabled='yes' name='enrolled-keys'/>\n      <feature enabled='yes' name='secure-boot'/>\n    </firmware>\n    <loader secure='yes'/>",
            "    <smm state='on'/>\n",
        ),
    }
}

/// libvirt's NVMe is too new to be relied on, and QEMU's AHCI has no sectors of 4,096 bytes.
fn bus(hardware: &Hardware) -> &'static str {
    match hardware.controller {
        Controller::VirtioBlk => "virtio",
        Controller::VirtioScsi => "scsi",
        _ if hardware.has_large_sectors() => "scsi",
        Controller::Sata | Controller::Nvme => "sata",
    }
}

/// Intel's, which physical machines have a driver for; virtio where the machine was virtual before.
fn nic_model(controller: Controller) -> &'static str {
    match controller {
        Controller::VirtioBlk | Controller::VirtioScsi => "virtio",
        Controller::Sata | Controller::Nvme => "e1000e",
    }
}

fn disk_element(hardware: &Hardware, disk: &Disk, source: &DiskSource, index: usize) -> String {
    let bus = bus(hardware);
    let prefix = if bus == "virtio" { "vd" } else { "sd" };
    let device = format!("{prefix}{}", letters(index));
    let path = escape(&source.path.to_string_lossy());
    let boot = if disk.boots { "\n      <boot order='1'/>" } else { "" };
    let sectors = match disk.sector_size {
        512 => String::new(),
        size => format!("\n      <blockio logical_block_size='{size}' physical_block_size='{size}'/>"),
    };
    // QEMU takes 20 bytes for SATA and virtio; one that is cut short names nothing.
    let serial = disk.serial.as_deref().filter(|serial| {
        serial.len() <= 20 && serial.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte))
    });
    let serial = serial.map_or_else(String::new, |serial| format!("\n      <serial>{serial}</serial>"));
    format!(
        "    <disk type='file' device='disk'>\n      <driver name='qemu' type='{}' discard='unmap'/>\n      <source file='{path}'/>{sectors}\n      <target dev='{device}' bus='{bus}'/>{serial}{boot}\n    </disk>\n",
        source.format
    )
}

/// a, b … z, aa, ab …
fn letters(index: usize) -> String {
    let mut letters = String::new();
    let mut rest = index + 1;
    while rest > 0 {
        rest -= 1;
        letters.insert(0, char::from(b'a' + u8::try_from(rest % 26).unwrap_or(0)));
        rest /= 26;
    }
    letters
}

/// What is not as in the captured machine.
#[must_use]
pub fn warnings(hardware: &Hardware) -> Vec<String> {
    let mut warnings = Vec::new();
    match (hardware.controller, bus(hardware)) {
        (_, "scsi") if hardware.has_large_sectors() => warnings.push(
            "libvirt: disks with sectors of 4,096 bytes are on virtio-scsi, which the system must have a driver for".into(),
        ),
        (Controller::Nvme, "sata") => warnings.push(
            "libvirt, Proxmox and OVF: the disks are on SATA, and were on NVMe; a system that loads no driver for SATA early does not find them".into(),
        ),
        _ => {}
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_have_names() {
        assert_eq!([0, 25, 26, 27, 701, 702].map(letters), ["a", "z", "aa", "ab", "zz", "aaa"]);
    }

    #[test]
    fn nothing_from_a_manifest_becomes_an_element() {
        let mut hardware = super::super::hardware::sample();
        hardware.description = "</title><evil a='&'>".into();
        hardware.disks[0].serial = Some("'/><x".into());
        let source = DiskSource { path: "/a'b/<c>.qcow2".into(), format: "qcow2" };
        let text = domain(&hardware, &[source], Macs::Keep);
        assert!(text.contains("&lt;/title&gt;&lt;evil a=&apos;&amp;&apos;&gt;") && !text.contains("<evil"));
        assert!(text.contains("file='/a&apos;b/&lt;c&gt;.qcow2'") && !text.contains("<x"));
        assert!(text.contains("<boot order='1'/>") && text.contains("<smm state='on'/>"));
        assert!(text.contains("<mac address='00:1b:21:00:00:01'/>"));
        assert!(!domain(&hardware, &[], Macs::New).contains("<mac"));
    }
}
