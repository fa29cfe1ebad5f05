//! A script that makes a machine in Proxmox VE.
//!
//! Source: qm(1), of Proxmox VE 8. Must not know: images.

#![forbid(unsafe_code)]

use super::hardware::{Controller, Firmware, Hardware, System};
use super::text::{Macs, shell};

/// A script for `sh`. `files` are the names of the disks of `hardware`, in its order, in the script's own directory.
#[must_use]
pub fn script(hardware: &Hardware, files: &[String], macs: Macs) -> String {
    let mut text = String::from(
        "#!/bin/sh\n# Makes a virtual machine in Proxmox VE and copies its disks into a storage.\n# usage: sh SCRIPT VMID STORAGE [BRIDGE]\nset -eu\nid=${1:?which number has the machine?}\nstorage=${2:?which storage? pvesm status lists them}\nbridge=${3:-vmbr0}\ncd \"$(dirname \"$0\")\"\n\n",
    );
    let bios = if hardware.firmware == Firmware::Bios { "seabios" } else { "ovmf" };
    let system = match hardware.system {
        System::Linux => "l26",
        System::Windows => "win10",
        System::Unknown => "other",
    };
    text.push_str(&format!(
        "qm create \"$id\" --name {} --machine q35 --bios {bios} --ostype {system} --cpu host --sockets 1 --cores {} --memory {} --scsihw virtio-scsi-pci --serial0 socket\n",
        // Names of machines are DNS names there.
        shell(hardware.name.replace('.', "-").trim_matches('-')),
        hardware.cpus,
        hardware.memory >> 20,
    ));
    if let Firmware::Uefi { secure_boot } = hardware.firmware {
        let keys = u8::from(secure_boot);
        text.push_str(&format!("qm set \"$id\" --efidisk0 \"$storage\":1,efitype=4m,pre-enrolled-keys={keys}\n"));
    }
    let bus = bus(hardware);
    for (index, file) in files.iter().enumerate() {
        // The path must be absolute, and may not have a comma.
        text.push_str(&format!("qm set \"$id\" --{bus}{index} \"$storage:0,import-from=$PWD/\"{}\n", shell(file)));
    }
    if let Some(index) = hardware.disks.iter().position(|disk| disk.boots) {
        text.push_str(&format!("qm set \"$id\" --boot order={bus}{index}\n"));
    }
    let settings: Vec<String> = hardware
        .disks
        .iter()
        .enumerate()
        .filter(|(_, disk)| disk.sector_size != 512)
        .map(|(index, disk)| {
            let size = disk.sector_size;
            format!(
                "-set device.{bus}{index}.logical_block_size={size} -set device.{bus}{index}.physical_block_size={size}"
            )
        })
        .collect();
    if !settings.is_empty() {
        text.push_str(&format!("qm set \"$id\" --args {}\n", shell(&settings.join(" "))));
    }
    let model = match hardware.controller {
        Controller::VirtioBlk | Controller::VirtioScsi => "virtio",
        Controller::Sata | Controller::Nvme => "e1000e",
    };
    for (index, nic) in hardware.nics.iter().enumerate() {
        let mac = match macs {
            Macs::Keep => format!("={}", nic.mac.to_uppercase()),
            Macs::New => String::new(),
        };
        text.push_str(&format!("qm set \"$id\" --net{index} \"{model}{mac},bridge=$bridge\"\n"));
    }
    text.push_str("echo \"machine $id is there: qm start $id\"\n");
    text
}

/// Proxmox has no NVMe, six disks on SATA, and sets sizes of sectors for SCSI alone.
fn bus(hardware: &Hardware) -> &'static str {
    match hardware.controller {
        Controller::VirtioBlk => "virtio",
        Controller::VirtioScsi => "scsi",
        _ if hardware.has_large_sectors() || hardware.disks.len() > 6 => "scsi",
        Controller::Sata | Controller::Nvme => "sata",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_one_that_a_shell_takes() {
        let mut hardware = super::super::hardware::sample();
        hardware.disks[0].sector_size = 4096;
        let text = script(&hardware, &["it's $(here).qcow2".into()], Macs::Keep);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("script");
        // With a `qm` that says what it was given.
        std::fs::write(&file, text.replace("set -eu\n", "set -eu\nqm() { printf '%s|' \"$@\"; echo; }\n")).unwrap();
        let ran = std::process::Command::new("sh").arg(&file).args(["100", "local"]).output().unwrap();
        let said = String::from_utf8(ran.stdout).unwrap();
        assert!(ran.status.success(), "{said}");
        for part in [
            "create|100|--name|web-1|--machine|q35|--bios|ovmf|--ostype|l26",
            "--cores|6|--memory|8192",
            "--efidisk0|local:1,efitype=4m,pre-enrolled-keys=1|",
            "/it's $(here).qcow2|",
            "--boot|order=scsi0|",
            "-set device.scsi0.logical_block_size=4096",
            "--net0|e1000e=00:1B:21:00:00:01,bridge=vmbr0|",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
