//! What every test needs: the system's own tools, loop devices, mounts, the program, disks for it.

use std::ffi::OsStr;
use std::os::unix::fs::FileExt;
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

/// The program, and a repository for it.
pub struct Imager {
    repository: PathBuf,
    environment: Vec<(String, String)>,
}

/// What a run of it gave.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Imager {
    /// Makes an unencrypted repository at `repository`.
    pub fn init(repository: &Path) -> Self {
        let imager = Self::at(repository);
        imager.ok(&["init", "--no-password", repository.to_str().unwrap()]);
        imager
    }

    /// The program with the repository at `repository`, which may be there or not.
    pub fn at(repository: &Path) -> Self {
        Self { repository: repository.to_owned(), environment: Vec::new() }
    }

    /// The same with a variable in its environment.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut environment = self.environment.clone();
        environment.push((name.to_owned(), value.to_owned()));
        Self { repository: self.repository.clone(), environment }
    }

    /// The command, to be changed or run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imager"));
        command.args(args).stdin(std::process::Stdio::null()).env("LC_ALL", "C").env("IMAGER_REPO", &self.repository);
        for variable in ["IMAGER_PASSWORD", "IMAGER_PASSWORD_FILE", "RUST_BACKTRACE"] {
            command.env_remove(variable);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it, whatever comes of it. It never panics, and what it says with `LC_ALL=C` is ASCII.
    pub fn run(&self, args: &[&str]) -> Ran {
        let output = self.command(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let ran = Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) };
        assert!(!ran.err.contains("panicked"), "{args:?}: {}", ran.err);
        assert!(args.contains(&"--json") || (ran.out.is_ascii() && ran.err.is_ascii()), "{args:?}: {ran:?}");
        ran
    }

    /// Runs it, and it must succeed. Gives its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.out, ran.err);
        ran.out
    }

    /// Runs it, and it must fail with exit code `code` and nothing on standard output. Gives its words.
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!((ran.code, &*ran.out), (code, ""), "{args:?}: {}", ran.err);
        ran.err
    }

    /// Runs it with `--json`, and it must succeed. Gives every line, which must be an object with a type.
    pub fn lines(&self, args: &[&str]) -> Vec<serde_json::Value> {
        let out = self.ok(&[args, &["--json"]].concat());
        let line = |line: &str| -> serde_json::Value { serde_json::from_str(line).unwrap() };
        let lines: Vec<_> = out.lines().map(line).collect();
        assert!(lines.iter().all(|line| line["type"].is_string()), "{out}");
        lines
    }

    /// The last of these lines, which is the result.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        self.lines(args).pop().unwrap()
    }

    /// Captures `disk`; gives the image's id.
    pub fn capture(&self, disk: &Path, args: &[&str]) -> String {
        let result = self.json(&[&["capture", disk.to_str().unwrap()], args].concat());
        result["image"].as_str().unwrap().to_owned()
    }
}

/// Bytes that do not compress, the same every time for one `seed`.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Overwrites a part of a file or device.
pub fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}

/// A part of a file or device.
pub fn read_at(path: &Path, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    std::fs::File::open(path).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

/// All of a file or device.
pub fn content(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// The directory `tree` in `dir`, made if need be: a few files for a file system of 12 MiB or more.
pub fn some_files(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join("folder")).unwrap();
    std::fs::write(tree.join("noise"), noise(2 << 20, 1)).unwrap();
    std::fs::write(tree.join("folder/the same"), noise(2 << 20, 1)).unwrap();
    std::fs::write(tree.join("text"), "all work and no play\n".repeat(40_000)).unwrap();
    std::fs::write(tree.join("empty"), "").unwrap();
    tree
}

/// A volume of `mib` MiB as a file, made by its own mkfs and filled with [`some_files`]; without them when it is a
/// swap.
pub fn volume(dir: &Path, kind: &str, mib: u64, sector: u64) -> Vec<u8> {
    let path = sparse_file(&dir.join(format!("volume-{kind}")), mib << 20);
    let (volume, tree) = (path.display(), some_files(dir));
    let tree = tree.display();
    sh(&match kind {
        "ext4" => format!("/usr/sbin/mke2fs -q -t ext4 -L root -d {tree} {volume}"),
        "vfat" => format!(
            "/usr/sbin/mkfs.vfat -S {sector} -n ESP {volume} >/dev/null; \
             MTOOLS_SKIP_CHECK=1 mcopy -s -i {volume} {tree}/noise {tree}/text {tree}/folder ::"
        ),
        "swap" => format!("/usr/sbin/mkswap -q {volume}"),
        other => panic!("no volume of kind {other}"),
    });
    let bytes = content(&path);
    std::fs::remove_file(&path).unwrap();
    bytes
}

/// Whether `bytes` hold a file system that its own check finds nothing wrong with.
pub fn check_volume(dir: &Path, kind: &str, bytes: &[u8]) {
    let path = dir.join("checked");
    std::fs::write(&path, bytes).unwrap();
    match kind {
        "ext4" => run("e2fsck", [OsStr::new("-fn"), path.as_os_str()]),
        "vfat" => run("fsck.vfat", [OsStr::new("-n"), path.as_os_str()]),
        "swap" => run("swaplabel", [path.as_os_str()]),
        other => panic!("no check for {other}"),
    };
    std::fs::remove_file(&path).unwrap();
}

/// A GPT disk of 48 MiB at `path`, which is a file or a device and is filled with leftovers before: boot code, a
/// boot loader in the gap and in a BIOS boot partition (1), an ESP (2), an ext4 (3).
pub fn gpt_disk(dir: &Path, path: &Path, sector: u64) {
    let at = |mib: u64| mib * (1 << 20) / sector;
    let until = |mib: u64| at(mib) - 1;
    write_at(path, 0, &noise(48 << 20, 99));
    let disk = path.display();
    sh(&format!(
        "sgdisk=/usr/sbin/sgdisk; $sgdisk -Z {disk} >/dev/null 2>&1 || true; $sgdisk -o -n 1:{}:{} -t 1:ef02 -c 1:bios \
         -n 2:{}:{} -t 2:ef00 -c 2:esp -n 3:{}:{} -c 3:root {disk} >/dev/null",
        at(1),
        until(2),
        at(2),
        until(14),
        at(14),
        until(34)
    ));
    write_at(path, 0, &noise(440, 2));
    write_at(path, 0x8000, &noise(60_000, 3));
    write_at(path, 1 << 20, &noise(300_000, 4));
    write_at(path, 2 << 20, &volume(dir, "vfat", 12, sector));
    write_at(path, 14 << 20, &volume(dir, "ext4", 20, sector));
}
