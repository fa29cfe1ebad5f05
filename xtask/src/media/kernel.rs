//! The kernel: Debian's, signed by Debian, out of its package.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lifeboat_tests::package::Package;

/// The first of these that apt knows.
///
/// Linux 6.12 rather than Debian 12's own 6.1: two more years of network cards, NVMe and RAID controllers. Debian keeps both
/// for the same time, in the same archive, and signs both with the key that its shim knows. And 6.12's modules are compressed,
/// which the kernel itself undoes: in the archive unpacked to RAM they take a quarter of the space, so that a machine
/// with 256 MiB has room for all of them. On later releases the second is 6.12 or newer.
const CHOICES: &[&str] = &["linux-image-6.12-amd64", "linux-image-amd64"];

/// A kernel and its modules.
pub(crate) struct Kernel {
    /// `6.12.1-amd64` or the like.
    pub(crate) version: String,
    pub(crate) image: PathBuf,
    /// The folder with its modules.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// Downloads what is not there yet.
    pub(super) fn get(packages: &Path) -> Result<Self> {
        for choice in CHOICES {
            let Ok(names) = Package::depends_on(choice) else { continue };
            let Some(name) = names.iter().find(|name| name.starts_with("linux-image-")) else { continue };
            let Some(package) = Package::unpacked(name, packages)? else { continue };
            return Self::in_package(&package);
        }
        bail!("apt knows none of these kernels: {}; run `apt-get update` once, as root", CHOICES.join(", "))
    }

    fn in_package(package: &Package) -> Result<Self> {
        let version = package.name.strip_prefix("linux-image-").unwrap_or(&package.name).to_owned();
        let image = package.file(&format!("boot/vmlinuz-{version}"))?;
        let places = ["lib/modules", "usr/lib/modules"].map(|lib| package.folder.join(lib).join(&version));
        let modules = places.into_iter().find(|folder| folder.is_dir());
        let modules = modules.with_context(|| format!("the package {} has no modules", package.name))?;
        let signed = is_signed(&fs::read(&image)?);
        if !signed {
            bail!("the kernel in {} {} is not signed for Secure Boot", package.name, package.version);
        }
        Ok(Self { version, image, modules })
    }
}

/// True when a PE file has a certificate table, which is where signatures are.
fn is_signed(image: &[u8]) -> bool {
    let u32_at = |offset: usize| Some(u32::from_le_bytes(*image.get(offset..)?.first_chunk()?));
    let size = || {
        let header = usize::try_from(u32_at(0x3c)?).ok()?;
        // After the signature and the COFF header: the optional header of PE32+, whose fifth directory it is.
        const DIRECTORIES: usize = 24 + 112;
        u32_at(header.checked_add(DIRECTORIES + 4 * 8 + 4)?)
    };
    size().is_some_and(|size| size > 0)
}
