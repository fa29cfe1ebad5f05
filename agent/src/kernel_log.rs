//! Keeps the newest of the kernel's log, which is ours too, in `/run/lifeboat/log`, for people to read.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::log::say;

/// When the file is that long, its older half goes.
const BYTES_MAX: usize = 512 << 10;

/// Where the log is.
pub(crate) fn file() -> PathBuf {
    crate::job::run_directory().join("log")
}

/// Runs until it is ended.
pub(crate) fn run() -> ExitCode {
    match keep(Path::new(crate::log::KERNEL), &file()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("cannot keep the log: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn keep(kernel: &Path, path: &Path) -> io::Result<()> {
    let mut kernel = File::open(kernel)?;
    let mut file = File::create(path)?;
    let mut len = 0;
    let mut record = [0; 8192];
    loop {
        let count = match kernel.read(&mut record) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            // Records were overwritten before they were read.
            Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) => continue,
            Err(error) => return Err(error),
        };
        let Some(line) = record.get(..count).and_then(line_of) else { continue };
        // A full RAM disk keeps the older lines.
        if file.write_all(line.as_bytes()).is_ok() {
            len += line.len();
        }
        if len > BYTES_MAX {
            (file, len) = halve(path)?;
        }
    }
}

/// `5,1234,12345678,-;text`, with lines ` KEY=value` behind it.
fn line_of(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (head, text) = record.split_once(';')?;
    let micros: u64 = head.split(',').nth(2)?.parse().ok()?;
    let text = text.lines().next().unwrap_or_default();
    Some(format!("[{:>5}.{:03}] {text}\n", micros / 1_000_000, micros % 1_000_000 / 1000))
}

fn halve(path: &Path) -> io::Result<(File, usize)> {
    let text = fs::read(path)?;
    let half = text.get(text.len() / 2..).unwrap_or_default();
    let from = half.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let kept = half.get(from..).unwrap_or_default();
    let mut file = File::create(path)?;
    file.write_all(kept)?;
    Ok((file, kept.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_become_lines() {
        let record = b"6,339,5140900,-;pci 0000:00:01.0: reg 0x10\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:01.0\n";
        assert_eq!(line_of(record).unwrap(), "[    5.140] pci 0000:00:01.0: reg 0x10\n");
        assert_eq!(line_of(b"garbage"), None);
    }

    #[test]
    fn the_file_stays_small_and_keeps_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let lines: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        fs::write(&path, &lines).unwrap();
        let (mut file, len) = halve(&path).unwrap();
        assert!(len <= lines.len() / 2);
        file.write_all(b"and one\n").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("line ") && text.ends_with("line 999\nand one\n"));
    }
}
