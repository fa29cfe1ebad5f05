//! Debian packages that are downloaded and unpacked into a folder, never installed: any user can do that, and a boot
//! loader's package cannot touch this machine's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::tool;

/// A package that is unpacked.
#[derive(Clone, Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// The version that apt would install.
    pub version: String,
    /// The folder that has its files.
    pub folder: PathBuf,
}

impl Package {
    /// The package that apt would install, unpacked below `folder`; nothing when apt knows none. It is downloaded once a
    /// version.
    ///
    /// # Errors
    /// What apt or dpkg say.
    pub fn unpacked(name: &str, folder: &Path) -> Result<Option<Self>> {
        let Some(version) = candidate(name)? else { return Ok(None) };
        let package = Self {
            name: name.to_owned(),
            folder: folder.join(format!("{name}_{}", version.replace(':', "_"))),
            version,
        };
        static DOWNLOADING: Mutex<()> = Mutex::new(());
        let _one = DOWNLOADING.lock().unwrap_or_else(PoisonError::into_inner);
        if !package.folder.exists() {
            package.download(folder).with_context(|| format!("cannot get the package {name}"))?;
        }
        Ok(Some(package))
    }

    /// As [`Package::unpacked`], when there is no way without it.
    ///
    /// # Errors
    /// As there, and when apt knows no such package.
    pub fn needed(name: &str, folder: &Path) -> Result<Self> {
        let found = Self::unpacked(name, folder)?;
        found.with_context(|| format!("apt knows no package {name}; run `apt-get update` once, as root"))
    }

    /// The packages that this one is there to bring in, as those named `linux-image-amd64` and the like are.
    ///
    /// # Errors
    /// What apt says.
    pub fn depends_on(name: &str) -> Result<Vec<String>> {
        let said = tool::run("apt-cache", ["depends", "--important", name])?;
        Ok(said.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
    }

    /// A file of the package.
    ///
    /// # Errors
    /// When it is not there.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        let file = self.folder.join(path);
        if !file.is_file() {
            bail!("the package {} {} has no {path}", self.name, self.version);
        }
        Ok(file)
    }

    fn download(&self, folder: &Path) -> Result<()> {
        // Renamed when all is there: what was cut off is not taken for whole.
        let part = folder.join(format!("{}.part", self.name));
        if part.exists() {
            fs::remove_dir_all(&part)?;
        }
        fs::create_dir_all(part.join("root"))?;
        let wanted = format!("{}={}", self.name, self.version);
        tool::output(tool::command("apt-get").current_dir(&part).args(["--quiet", "download", &wanted]))?;
        for entry in fs::read_dir(&part)? {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                tool::run("dpkg-deb", ["--extract".as_ref(), file.as_os_str(), part.join("root").as_os_str()])?;
            }
        }
        fs::rename(part.join("root"), &self.folder)?;
        fs::remove_dir_all(&part)?;
        Ok(())
    }
}

/// The version that apt would install.
fn candidate(name: &str) -> Result<Option<String>> {
    let said = tool::run("apt-cache", ["policy", name])?;
    let version = said.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(version.filter(|version| *version != "(none)").map(str::to_owned))
}
