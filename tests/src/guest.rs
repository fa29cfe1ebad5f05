//! A virtual machine that is driven over its serial console: wait for this, write that.
//!
//! QEMU with an emulated processor, so that it runs wherever the tests run. One at a time: guests wait for each
//! other. Must not know: what the disk holds beyond a Linux that talks to `ttyS0`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use regex_lite::Regex;

use crate::debian;
use crate::tool;

/// An operating system starts within a minute on an idle machine; the rest is for busy ones.
const BOOT: Duration = Duration::from_secs(300);

/// For whatever a shell is asked to do.
const COMMAND: Duration = Duration::from_secs(60);

/// Lines of the console that an error shows.
const LINES_SHOWN: usize = 40;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What starts the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// A BIOS.
    SeaBios,
    /// UEFI.
    Ovmf,
}

/// What the disk hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// As in most virtual machines.
    VirtioBlk,
    /// As SATA disks do.
    Ahci,
}

impl Firmware {
    /// Where UEFI's code and its empty variables are, on Debian.
    const OVMF: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"];

    /// QEMU's options; UEFI keeps its variables in `variables`.
    fn options(self, variables: &Path) -> Result<Vec<String>> {
        if self == Self::SeaBios {
            return Ok(Vec::new());
        }
        let [code, empty] = Self::OVMF;
        fs::copy(empty, variables).with_context(|| format!("cannot copy {empty}"))?;
        Ok(vec![
            "-drive".into(),
            format!("if=pflash,format=raw,unit=0,readonly=on,file={code}"),
            "-drive".into(),
            format!("if=pflash,format=raw,unit=1,file={}", variables.display()),
        ])
    }
}

/// A running virtual machine; it ends when dropped.
pub struct Guest {
    name: String,
    qemu: Child,
    keyboard: ChildStdin,
    console: Arc<Console>,
    /// How far into the console's text the script has got.
    seen: usize,
    log: PathBuf,
    started: Instant,
    _turn: MutexGuard<'static, ()>,
}

#[derive(Default)]
struct Console {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Default)]
struct Said {
    text: String,
    ended: bool,
}

impl Guest {
    /// Starts a machine with one disk. Nothing that the guest writes reaches the image. The console is logged to
    /// `NAME.serial.log` in `folder`.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start(name: &str, disk: &Path, firmware: Firmware, bus: Bus, folder: &Path) -> Result<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        tool::check_interrupted()?;
        let device = match bus {
            Bus::VirtioBlk => "virtio-blk-pci,drive=disk",
            Bus::Ahci => "ide-hd,drive=disk",
        };
        let drive = format!("if=none,id=disk,format=raw,snapshot=on,cache=unsafe,file={}", disk.display());
        let mut qemu = tool::command("qemu-system-x86_64")
            .args(["-machine", "q35", "-accel", "tcg", "-smp", "2", "-m", "768", "-nodefaults", "-display", "none"])
            .args(["-no-reboot", "-device", "virtio-rng-pci", "-serial", "stdio"])
            .args(["-drive", &drive, "-device", device])
            .args(firmware.options(&folder.join(format!("{name}.uefi-variables")))?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start qemu-system-x86_64")?;
        let keyboard = qemu.stdin.take().context("QEMU has no input")?;
        let output = qemu.stdout.take().context("QEMU has no output")?;
        let log = folder.join(format!("{name}.serial.log"));
        let console = Arc::new(Console::default());
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let listener = Arc::clone(&console);
        thread::spawn(move || listener.listen(output, file));
        let started = Instant::now();
        Ok(Self { name: name.to_owned(), qemu, keyboard, console, seen: 0, log, started, _turn: turn })
    }

    /// Waits until the console has shown something that matches, and returns the match's groups. What came before
    /// it is behind us.
    ///
    /// # Errors
    /// When it does not come in time or the machine ends: with the console's last lines.
    pub fn wait_for(&mut self, pattern: &str, limit: Duration) -> Result<Vec<String>> {
        let pattern_compiled = Regex::new(pattern)?;
        let deadline = Instant::now() + limit;
        let mut said = self.console.said.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            tool::check_interrupted()?;
            let new = said.text.get(self.seen..).unwrap_or_default();
            if let Some(found) = pattern_compiled.captures(new) {
                self.seen += found.get(0).map_or(0, |whole| whole.end());
                return Ok(found
                    .iter()
                    .map(|group| group.map_or(String::new(), |text| text.as_str().into()))
                    .collect());
            }
            let problem = if said.ended {
                "the machine ended".to_owned()
            } else if Instant::now() >= deadline {
                format!("not within {} s", limit.as_secs())
            } else {
                // Woken by every new byte, and now and then to look at the clock.
                let woken = self.console.more.wait_timeout(said, Duration::from_millis(500));
                said = woken.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            };
            bail!(
                "{}: waited for `{pattern}` on the serial console: {problem}; its last lines ({} has all):\n{}",
                self.name,
                self.log.display(),
                last_lines(&said.text)
            );
        }
    }

    /// Types.
    ///
    /// # Errors
    /// When the machine is gone.
    pub fn write(&mut self, text: &str) -> Result<()> {
        let typed = self.keyboard.write_all(text.as_bytes()).and_then(|()| self.keyboard.flush());
        typed.with_context(|| format!("{}: cannot type", self.name))
    }

    /// Waits for the login prompt; says how long it took.
    ///
    /// # Errors
    /// When it does not come.
    pub fn wait_for_login_prompt(&mut self) -> Result<Duration> {
        self.wait_for(&format!("{} login: ", debian::HOST_NAME), BOOT)?;
        Ok(self.started.elapsed())
    }

    /// Logs in as root, up to a shell that [`Guest::shell`] can talk to.
    ///
    /// # Errors
    /// When a prompt does not come.
    pub fn log_in(&mut self) -> Result<()> {
        self.write("root\n")?;
        self.wait_for("Password: ", COMMAND)?;
        self.write(&format!("{}\n", debian::PASSWORD))?;
        self.wait_for("# ", COMMAND)?;
        // No echo and no prompt: from here on the console shows what commands print, and nothing else.
        self.write("stty -echo; PS1=; bind 'set enable-bracketed-paste off'; dmesg -n 1; echo rea''dy\n")?;
        self.wait_for("ready\r?\n", COMMAND)?;
        Ok(())
    }

    /// Runs a command in the guest and returns what it printed.
    ///
    /// # Errors
    /// When it fails or does not end.
    pub fn shell(&mut self, command: &str) -> Result<String> {
        self.write(&format!("{command}; echo \"=$?=\"\n"))?;
        let found = self.wait_for(r"(?s)^(.*?)=(\d+)=\r?\n", COMMAND)?;
        let printed = found.get(1).map_or(String::new(), |text| text.replace('\r', ""));
        match found.get(2).map(String::as_str) {
            Some("0") => Ok(printed.trim().to_owned()),
            status => bail!("{}: `{command}` failed ({}):\n{printed}", self.name, status.unwrap_or("?")),
        }
    }

    /// Shuts the system down and waits for the machine to end.
    ///
    /// # Errors
    /// When it does not end.
    pub fn power_off(mut self) -> Result<()> {
        self.write("systemctl poweroff\n")?;
        let deadline = Instant::now() + BOOT;
        while self.qemu.try_wait()?.is_none() {
            tool::check_interrupted()?;
            if Instant::now() >= deadline {
                bail!("{}: does not power off", self.name);
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Console {
    fn listen(&self, mut output: ChildStdout, mut log: File) {
        let mut buffer = [0; 4096];
        loop {
            let count = output.read(&mut buffer).unwrap_or(0);
            let bytes = buffer.get(..count).unwrap_or_default();
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.text.push_str(&String::from_utf8_lossy(bytes));
            said.ended = count == 0;
            self.more.notify_all();
            if count == 0 || log.write_all(bytes).is_err() {
                return;
            }
        }
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(LINES_SHOWN)..).unwrap_or_default().join("\n")
}
