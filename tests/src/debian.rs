//! A small but real Debian system, as a tar file that is made once and kept.
//!
//! Must not know: disks, boot loaders' places; see [`crate::boot_disk`].

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::mounted::WorkFolder;
use crate::tool;

/// What root types to log in.
pub const PASSWORD: &str = "lifeboat";

/// The name that stands before `login:`.
pub const HOST_NAME: &str = "lifeboat-guest";

/// Beside debootstrap's smallest set. GRUB as `-bin` packages, because only those of BIOS and UEFI go
/// together, and the same disk shall boot on both.
const PACKAGES: &str = "systemd-sysv,udev,kmod,initramfs-tools,linux-image-amd64,e2fsprogs,\
                        grub2-common,grub-pc-bin,grub-efi-amd64-bin";

/// `$root`, `$suite`, `$mirror`, `$packages`, `$password` and `$name` in; `$tar` out.
///
/// The second stage finds settings that leave out documentation and keep the initramfs small: every module in it is
/// loaded by an emulated processor.
const RECIPE: &str = r#"
debootstrap --foreign --variant=minbase --include="$packages" "$suite" "$root" "$mirror"
mkdir -p "$root/etc/dpkg/dpkg.cfg.d" "$root/etc/initramfs-tools/conf.d"
printf 'force-unsafe-io\npath-exclude=/usr/share/%s/*\n' doc > "$root/etc/dpkg/dpkg.cfg.d/small"
printf 'path-exclude=/usr/share/%s/*\n' man locale info >> "$root/etc/dpkg/dpkg.cfg.d/small"
printf 'MODULES=list\nCOMPRESS=zstd\n' > "$root/etc/initramfs-tools/conf.d/small"
printf '%s\n' virtio_pci virtio_blk ahci sd_mod nvme ext4 > "$root/etc/initramfs-tools/modules"
chroot "$root" /debootstrap/debootstrap --second-stage
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root/etc/resolv.conf"

echo "$name" > "$root/etc/hostname"
echo "127.0.0.1 localhost $name" > "$root/etc/hosts"
echo "root:$password" | chroot "$root" chpasswd
ln -sf /dev/null "$root/etc/systemd/system/apt-daily.timer"
ln -sf /dev/null "$root/etc/systemd/system/apt-daily-upgrade.timer"
cat > "$root/etc/default/grub" <<'END'
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX="console=ttyS0,115200 net.ifnames=0"
GRUB_TERMINAL=serial
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
END
tar --numeric-owner --xattrs -C "$root" -cf "$tar.part" .
mv "$tar.part" "$tar"
"#;

/// The system's tar file in `folder`; debootstrap makes it when it is not there, or was made by another recipe.
///
/// # Errors
/// What debootstrap says; the mirror may be out of reach.
pub fn tarball(folder: &WorkFolder) -> Result<PathBuf> {
    let (mirror, suite) = mirror_and_suite()?;
    let mut hasher = DefaultHasher::new();
    (RECIPE, PACKAGES, PASSWORD, HOST_NAME, &suite).hash(&mut hasher);
    let tar = folder.join(&format!("debian-{suite}-{:016x}.tar", hasher.finish()));
    if tar.exists() {
        return Ok(tar);
    }
    let root = folder.join("debian");
    if root.exists() {
        fs::remove_dir_all(&root).context("cannot clear away a half-made system")?;
    }
    let variables = [("root", root.as_os_str()), ("tar", tar.as_os_str())].into_iter().chain(
        [("suite", &*suite), ("mirror", &*mirror), ("packages", PACKAGES), ("password", PASSWORD), ("name", HOST_NAME)]
            .map(|(name, value)| (name, value.as_ref())),
    );
    tool::sh(RECIPE, &variables.collect::<Vec<_>>()).context("cannot make a Debian system")?;
    fs::remove_dir_all(&root).context("cannot clear away the system's folder")?;
    Ok(tar)
}

/// The archive that this machine's apt is set up with, and the release that it runs.
fn mirror_and_suite() -> Result<(String, String)> {
    let release = fs::read_to_string("/etc/os-release").context("cannot tell which Debian this is")?;
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let suite = suite.context("/etc/os-release has no VERSION_CODENAME")?.trim_matches('"');
    let targets =
        tool::run("apt-get", ["indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"])?;
    let mirror = targets.lines().find_map(|line| line.strip_prefix(suite)?.strip_prefix(' '));
    let mirror = mirror.with_context(|| format!("apt has no archive of {suite}"))?;
    Ok((mirror.to_owned(), suite.to_owned()))
}
