//! A script that makes a machine in Hyper-V.
//!
//! Source: Microsoft's documentation of the Hyper-V PowerShell module. Must not know: images.

#![forbid(unsafe_code)]

use super::hardware::{Firmware, Generation, Hardware, System};
use super::text::{Macs, power_shell};

/// A script for PowerShell. `files` are the names of the disks of `hardware`, in its order, beside the script.
#[must_use]
pub fn script(hardware: &Hardware, files: &[String], macs: Macs) -> String {
    let name = power_shell(&hardware.name);
    let generation = match hardware.generation() {
        Generation::One => 1,
        Generation::Two => 2,
    };
    let mut text = format!(
        "# Makes a virtual machine in Hyper-V. Run it as administrator, with the disks beside it.\nparam([string]$Switch)\n$ErrorActionPreference = 'Stop'\n$name = {name}\nNew-VM -Name $name -Generation {generation} -MemoryStartupBytes {}MB -NoVHD | Out-Null\nSet-VM -Name $name -ProcessorCount {} -StaticMemory -CheckpointType Disabled\nGet-VMNetworkAdapter -VMName $name | Remove-VMNetworkAdapter\n",
        hardware.memory >> 20,
        hardware.cpus,
    );
    let boots = hardware.disks.iter().position(|disk| disk.boots).unwrap_or(0);
    for (index, file) in files.iter().enumerate() {
        let path = format!("(Join-Path $PSScriptRoot {})", power_shell(file));
        // A BIOS machine starts from the first IDE disk; there are four of them.
        let place = match (generation, index) {
            (1, _) if index == boots => "-ControllerType IDE -ControllerNumber 0 -ControllerLocation 0",
            _ => "-ControllerType SCSI",
        };
        text.push_str(&format!("$disk{index} = Add-VMHardDiskDrive -VMName $name -Path {path} {place} -Passthru\n"));
    }
    if let Firmware::Uefi { secure_boot } = hardware.firmware {
        let template =
            if hardware.system == System::Windows { "MicrosoftWindows" } else { "MicrosoftUEFICertificateAuthority" };
        let secure = if secure_boot {
            format!("-EnableSecureBoot On -SecureBootTemplate {template}")
        } else {
            "-EnableSecureBoot Off".into()
        };
        text.push_str(&format!("Set-VMFirmware -VMName $name {secure} -FirstBootDevice $disk{boots}\n"));
    }
    for nic in &hardware.nics {
        let mac = match macs {
            Macs::Keep => format!(" -StaticMacAddress '{}'", nic.mac.replace(':', "")),
            Macs::New => String::new(),
        };
        text.push_str(&format!("Add-VMNetworkAdapter -VMName $name -Name {}{mac}\n", power_shell(&nic.name)));
    }
    text.push_str("if ($Switch) { Connect-VMNetworkAdapter -VMName $name -SwitchName $Switch }\n");
    text
}

/// What is not as in the captured machine.
#[must_use]
pub fn warnings(hardware: &Hardware) -> Vec<String> {
    let mut warnings = Vec::new();
    if hardware.system != System::Windows && hardware.generation() == Generation::Two {
        warnings.push("Hyper-V: the disks are on the VMBus, which a Linux system needs the driver hv_storvsc for in its initramfs".into());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_for_each_firmware() {
        let mut hardware = super::super::hardware::sample();
        let text = script(&hardware, &["it's.vhdx".into()], Macs::Keep);
        assert!(text.contains("-Generation 2") && text.contains("MicrosoftUEFICertificateAuthority"), "{text}");
        assert!(text.contains("'it''s.vhdx'") && text.contains("-StaticMacAddress '001b21000001'"), "{text}");
        hardware.firmware = Firmware::Bios;
        let text = script(&hardware, &["a.vhdx".into()], Macs::New);
        assert!(text.contains("-Generation 1") && text.contains("IDE -ControllerNumber 0"), "{text}");
        assert!(!text.contains("Set-VMFirmware") && !text.contains("StaticMac"), "{text}");
    }
}
