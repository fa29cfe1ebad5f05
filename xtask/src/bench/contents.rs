//! What the benchmarks' disks are filled with: the contents of real packages, incompressible bytes, logs.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lifeboat_tests::tool;

/// Debian packages, downloaded once and kept.
pub(crate) struct Packages {
    cache: PathBuf,
}

impl Packages {
    pub(crate) fn new(cache: PathBuf) -> Self {
        Self { cache }
    }

    /// Unpacks them below `to`, one after the other. One that this release does not have is left out, with a word:
    /// what counts is that all tools see the same disk.
    pub(crate) fn unpack(&self, names: &[&str], to: &Path) -> Result<()> {
        fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
        let mut unpacked = 0;
        for name in names {
            let Some(package) = self.fetch(name)? else {
                println!("there is no package {name}; it is left out");
                continue;
            };
            tool::run("dpkg-deb", [OsStr::new("--extract"), package.as_os_str(), to.as_os_str()])?;
            unpacked += 1;
        }
        ensure!(unpacked > 0, "none of these packages can be had: {}", names.join(" "));
        Ok(())
    }

    /// The package's file; nothing when apt has none.
    pub(crate) fn fetch(&self, name: &str) -> Result<Option<PathBuf>> {
        fs::create_dir_all(&self.cache).with_context(|| format!("cannot make {}", self.cache.display()))?;
        if let Some(package) = self.cached(name)? {
            return Ok(Some(package));
        }
        tool::check_interrupted()?;
        // As root, because apt's own user need not be able to write here.
        let mut apt_get = tool::command("apt-get");
        apt_get.current_dir(&self.cache).args(["--quiet", "-o", "APT::Sandbox::User=root", "download", name]);
        match tool::output(&mut apt_get) {
            Ok(_) => self.cached(name),
            Err(error) => {
                tool::check_interrupted()?;
                println!("{error}");
                Ok(None)
            }
        }
    }

    fn cached(&self, name: &str) -> Result<Option<PathBuf>> {
        let prefix = format!("{name}_");
        for entry in fs::read_dir(&self.cache)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                return Ok(Some(entry.path()));
            }
        }
        Ok(None)
    }
}

/// Writes incompressible bytes, the same for the same seed.
pub(crate) fn noise(path: &Path, seed: u64, mib: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path).with_context(|| format!("cannot write {}", path.display()))?);
    let mut state = seed;
    for _ in 0..mib << 17 {
        file.write_all(&next_random(&mut state).to_le_bytes())?;
    }
    Ok(file.flush()?)
}

/// Appends lines as a server writes them, the same for the same seed.
pub(crate) fn log(path: &Path, seed: u64, mib: u64) -> Result<()> {
    const WORDS: [&str; 8] = ["index", "users", "login", "static/logo.png", "api/v2/items", "search", "cart", "health"];
    let file = File::options().create(true).append(true).open(path);
    let mut file = BufWriter::new(file.with_context(|| format!("cannot write {}", path.display()))?);
    let (mut state, mut written, mut millisecond) = (seed, 0, 0);
    while written < mib << 20 {
        let random = next_random(&mut state);
        millisecond += random % 900;
        let second = millisecond / 1000;
        let word = usize::try_from(random >> 61).ok().and_then(|index| WORDS.get(index)).unwrap_or(&"");
        let line = format!(
            "{:02}:{:02}:{:02}.{:03} web[{}]: 10.{}.{}.{} GET /{word}?id={} 200 {} bytes in {} us\n",
            second / 3600 % 24,
            second / 60 % 60,
            second % 60,
            millisecond % 1000,
            900 + seed,
            random >> 8 & 3,
            random >> 10 & 255,
            random >> 18 & 255,
            random >> 26 & 0xf_ffff,
            random >> 20 & 0x3fff,
            random >> 34 & 0x1_ffff,
        );
        file.write_all(line.as_bytes())?;
        written += u64::try_from(line.len())?;
    }
    Ok(file.flush()?)
}

/// SplitMix64.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
