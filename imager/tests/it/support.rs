//! What every test needs: a scratch directory, the system's own tools, loop devices, mounts.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs a tool and returns its standard output; panics with everything it said when it fails.
pub fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> String {
    let output = output(program, args);
    assert!(
        output.status.success(),
        "{program} failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a tool and returns whatever came of it. `/usr/sbin` is on its path, and its language is C.
pub fn output<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Output {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    Command::new(program).args(args).env("PATH", path).env("LC_ALL", "C").output().unwrap_or_else(|error| {
        panic!("cannot run {program}: {error} (`cargo xtask test` installs what the tests need)")
    })
}

/// Runs a shell script with `-e`; for the set-up of disks, where a pipe says more than ten lines.
pub fn sh(script: &str) -> String {
    run("bash", ["-euo", "pipefail", "-c", script])
}

/// A new sparse file of `size` bytes.
pub fn sparse_file(path: &Path, size: u64) -> PathBuf {
    std::fs::File::create(path).unwrap().set_len(size).unwrap();
    path.to_owned()
}

/// A loop device, gone when dropped.
pub struct Loop(pub PathBuf);

impl Loop {
    /// Attaches `file`; `args` are losetup's own (`--sector-size 4096`, `-P`, `-r` …).
    pub fn attach(file: &Path, args: &[&str]) -> Self {
        let mut all = vec!["--find", "--show"];
        all.extend(args);
        all.push(file.to_str().unwrap());
        Self(run("losetup", all).trim().into())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        output("losetup", [OsStr::new("--detach"), self.0.as_os_str()]);
    }
}

/// A mounted file system, unmounted when dropped.
pub struct Mount(pub PathBuf);

impl Mount {
    /// Mounts `source` (a file becomes a loop device) on the new directory `at`.
    pub fn new(source: &Path, at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        run("mount", [OsStr::new("-o"), OsStr::new(options), source.as_os_str(), at.as_os_str()]);
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A child that another test is just starting may hold our files for a moment.
        for _ in 0..100 {
            if output("umount", [&self.0]).status.success() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}
