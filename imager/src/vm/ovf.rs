//! A machine in the Open Virtualization Format, for VMware and VirtualBox.
//!
//! Source: DMTF DSP0243 1.1 (the envelope), the CIM schema (its numbers); what VMware adds are hints that others may
//! pass over. Must not know: images, archives.

#![forbid(unsafe_code)]

use super::hardware::{Controller, Firmware, Hardware, System};
use super::text::{Macs, escape};

/// A disk's file.
pub struct DiskFile {
    /// Its name, beside the descriptor.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// Disks that one AHCI controller takes, in VMware.
const PORTS: usize = 30;

/// The descriptor. `files` are the disks of `hardware`, in its order, as streamOptimized VMDKs.
#[must_use]
pub fn descriptor(hardware: &Hardware, files: &[DiskFile], macs: Macs) -> String {
    let mut references = String::new();
    let mut disks = String::new();
    for (index, (file, disk)) in files.iter().zip(&hardware.disks).enumerate() {
        references.push_str(&format!(
            "    <File ovf:href=\"{}\" ovf:id=\"file{index}\" ovf:size=\"{}\"/>\n",
            escape(&file.name),
            file.len
        ));
        disks.push_str(&format!(
            "    <Disk ovf:capacity=\"{}\" ovf:capacityAllocationUnits=\"byte\" ovf:diskId=\"disk{index}\" ovf:fileRef=\"file{index}\" ovf:format=\"http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized\"/>\n",
            disk.size.next_multiple_of(512)
        ));
    }
    let name = escape(&hardware.name);
    let (number, guest, words) = match hardware.system {
        System::Linux => (101, "otherLinux64Guest", "Linux, 64 bits"),
        System::Windows => (103, "windows9_64Guest", "Windows, 64 bits"),
        System::Unknown => (1, "otherGuest64", "Another system"),
    };
    let firmware = match hardware.firmware {
        Firmware::Bios => {
            "      <vmw:Config ovf:required=\"false\" vmw:key=\"firmware\" vmw:value=\"bios\"/>\n".to_owned()
        }
        Firmware::Uefi { secure_boot } => format!(
            "      <vmw:Config ovf:required=\"false\" vmw:key=\"firmware\" vmw:value=\"efi\"/>\n      <vmw:Config ovf:required=\"false\" vmw:key=\"bootOptions.efiSecureBootEnabled\" vmw:value=\"{secure_boot}\"/>\n"
        ),
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\" xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData\" xmlns:vmw=\"http://www.vmware.com/schema/ovf\" xmlns:vssd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData\">
  <References>
{references}  </References>
  <DiskSection>
    <Info>Virtual disks</Info>
{disks}  </DiskSection>
  <NetworkSection>
    <Info>Networks</Info>
    <Network ovf:name=\"VM Network\">
      <Description>The network that the machine is connected to</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id=\"{name}\">
    <Info>A virtual machine</Info>
    <Name>{name}</Name>
    <AnnotationSection>
      <Info>What it was</Info>
      <Annotation>{description}</Annotation>
    </AnnotationSection>
    <OperatingSystemSection ovf:id=\"{number}\" vmw:osType=\"{guest}\">
      <Info>The operating system</Info>
      <Description>{words}</Description>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>
      </System>
{items}{firmware}    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
",
        description = escape(&hardware.description),
        items = items(hardware, files.len(), macs),
    )
}

/// Elements of an item come in the order of their names: the schema is a sequence.
fn items(hardware: &Hardware, disks: usize, macs: Macs) -> String {
    let mut items = vec![
        format!(
            "<rasd:AllocationUnits>hertz * 10^6</rasd:AllocationUnits><rasd:ElementName>{0} virtual CPUs</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>{0}</rasd:VirtualQuantity>",
            hardware.cpus
        ),
        format!(
            "<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ElementName>{0} MiB of memory</rasd:ElementName><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>{0}</rasd:VirtualQuantity>",
            hardware.memory >> 20
        ),
    ];
    for controller in 0..disks.div_ceil(PORTS) {
        items.push(format!(
            "<rasd:Address>{controller}</rasd:Address><rasd:ElementName>SATA controller {controller}</rasd:ElementName><rasd:InstanceID>{}</rasd:InstanceID><rasd:ResourceSubType>AHCI</rasd:ResourceSubType><rasd:ResourceType>20</rasd:ResourceType>",
            10 + controller
        ));
    }
    for disk in 0..disks {
        items.push(format!(
            "<rasd:AddressOnParent>{}</rasd:AddressOnParent><rasd:ElementName>Disk {disk}</rasd:ElementName><rasd:HostResource>ovf:/disk/disk{disk}</rasd:HostResource><rasd:InstanceID>{}</rasd:InstanceID><rasd:Parent>{}</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType>",
            disk % PORTS,
            1000 + disk,
            10 + disk / PORTS
        ));
    }
    for (index, nic) in hardware.nics.iter().enumerate() {
        let mac = match macs {
            Macs::Keep => format!("<rasd:Address>{}</rasd:Address>", escape(&nic.mac)),
            Macs::New => String::new(),
        };
        items.push(format!(
            "{mac}<rasd:AutomaticAllocation>true</rasd:AutomaticAllocation><rasd:Connection>VM Network</rasd:Connection><rasd:ElementName>{}</rasd:ElementName><rasd:InstanceID>{}</rasd:InstanceID><rasd:ResourceSubType>E1000e</rasd:ResourceSubType><rasd:ResourceType>10</rasd:ResourceType>",
            escape(&nic.name),
            100_000 + index
        ));
    }
    items.iter().map(|item| format!("      <Item>{}</Item>\n", item)).collect()
}

/// What is not as in the captured machine.
#[must_use]
pub fn warnings(hardware: &Hardware) -> Vec<String> {
    let mut warnings = Vec::new();
    if hardware.controller != Controller::Sata {
        warnings.push(
            "OVF: the disks are on SATA, and were not; a system that loads no driver for SATA early does not find them"
                .into(),
        );
    }
    if hardware.disks.iter().position(|disk| disk.boots).is_some_and(|index| index > 0) {
        warnings.push("OVF: the machine starts from another disk than its first: set the order in the firmware".into());
    }
    warnings
}
