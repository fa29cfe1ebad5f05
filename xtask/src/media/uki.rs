//! `lifeboat.efi`: kernel, initramfs and command line as one program that UEFI can start by itself.
//!
//! Not signed; signed with one's own key it is the only medium whose initramfs Secure Boot checks. The form is the UAPI
//! group's "Unified Kernel Image"; systemd's stub at its beginning finds the other sections.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use lifeboat_tests::package::Package;
use lifeboat_tests::tool;

use super::Ingredients;

const COMMAND_LINE: &str = "console=tty0 console=ttyS0,115200 quiet";

const PAGE: u64 = 4096;

pub(super) fn build(ingredients: &Ingredients, uki: &Path) -> Result<()> {
    let stub = Package::needed("systemd-boot-efi", &ingredients.packages)?;
    let stub = stub.file("usr/lib/systemd/boot/efi/linuxx64.efi.stub")?;
    let sections = [
        (".osrel", ingredients.text("os-release", &ingredients.os_release)?),
        (".cmdline", ingredients.text("cmdline", COMMAND_LINE)?),
        (".initrd", ingredients.initramfs.clone()),
        // The last: the kernel may unpack itself beyond its section's end.
        (".linux", ingredients.kernel.clone()),
    ];
    let mut objcopy = ingredients.command("objcopy");
    let mut address = end_of_last_section(&tool::run("objdump", ["-h".as_ref(), stub.as_os_str()])?)?;
    for (name, file) in sections {
        address = address.next_multiple_of(PAGE);
        objcopy.arg(format!("--add-section={name}={}", file.display()));
        objcopy.arg(format!("--change-section-vma={name}={address:#x}"));
        address += fs::metadata(&file)?.len();
    }
    tool::output(objcopy.arg(stub).arg(uki))?;
    date(uki, ingredients.time)
}

/// objcopy puts the clock's time into the file's header, and a checksum over it, which nobody checks.
fn date(uki: &Path, time: u32) -> Result<()> {
    const HEADER: u64 = 0x3c;
    const TIME: u64 = 8;
    const CHECKSUM: u64 = 24 + 64;
    let file = File::options().read(true).write(true).open(uki)?;
    let mut header = [0; 4];
    file.read_exact_at(&mut header, HEADER)?;
    let header = u64::from(u32::from_le_bytes(header));
    file.write_all_at(&time.to_le_bytes(), header + TIME)?;
    file.write_all_at(&[0; 4], header + CHECKSUM)?;
    Ok(())
}

/// In objdump's table: number, name, size, address, all but the first two in hexadecimal.
fn end_of_last_section(table: &str) -> Result<u64> {
    let end = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        words.next()?.parse::<u32>().ok()?;
        let size = u64::from_str_radix(words.nth(1)?, 16).ok()?;
        u64::from_str_radix(words.next()?, 16).ok()?.checked_add(size)
    };
    table.lines().filter_map(end).max().context("objdump lists no sections")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_sections_go_behind_the_last() {
        let table = "Sections:\nIdx Name          Size      VMA               LMA\n  \
                     0 .text         0000bff0  0000000000004000  0000000000004000  00000400  2**4\n  \
                     \u{20} CONTENTS, ALLOC\n  1 .sbat         000000e2  0000000000019000  0000000000019000  00011000  2**2\n";
        assert_eq!(end_of_last_section(table).ok(), Some(0x190e2));
    }
}
