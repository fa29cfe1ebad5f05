//! A virtual machine that is driven over its serial console: wait for this, write that.
//!
//! QEMU with an emulated processor, so that it runs wherever the tests run; as many at a time as this machine has
//! processors. Must not know: what the disk holds beyond a Linux that talks to `ttyS0`.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use regex_lite::Regex;
use serde_json::{Map, Value, json};

use crate::debian;
use crate::machine::{Drive, Machine, Writes};
use crate::monitor::Monitor;
use crate::tool;

/// An operating system starts within a minute on an idle machine; the rest is for busy ones.
const BOOT: Duration = Duration::from_secs(300);

/// For whatever a shell is asked to do.
const COMMAND: Duration = Duration::from_secs(60);

/// Lines of the console that an error shows.
const LINES_SHOWN: usize = 40;

/// Virtual machines that run now.
static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// Permission to run one virtual machine, until it is dropped.
pub struct Turn(());

/// Waits until this machine has a processor for one more virtual machine: each emulates all of its own on one.
#[must_use]
pub fn turn() -> Turn {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut running = ENDED.wait_while(running, |count| *count >= processors).unwrap_or_else(PoisonError::into_inner);
    *running += 1;
    Turn(())
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// A running virtual machine; it ends when dropped.
pub struct Guest {
    name: String,
    qemu: Child,
    monitor: Monitor,
    keyboard: ChildStdin,
    console: Arc<Console>,
    /// How far into the console's text the script has got.
    seen: usize,
    log: PathBuf,
    started: Instant,
    _turn: Turn,
}

#[derive(Default)]
pub(crate) struct Console {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Default)]
struct Said {
    text: String,
    ended: bool,
}

impl Guest {
    /// Starts a machine. The console is logged to `NAME.serial.log` in `folder`.
    pub(crate) fn start(machine: &Machine, folder: &Path) -> Result<Self> {
        let turn = turn();
        tool::check_interrupted()?;
        let name = &machine.name;
        // Here rather than in the folder: a socket's path has to be short.
        let socket = std::env::temp_dir().join(format!("lifeboat-{}-{name}.qmp", std::process::id()));
        let mut qemu = tool::command("qemu-system-x86_64")
            .args(machine.options(folder)?)
            .args(["-serial", "stdio", "-qmp", &format!("unix:{},server=on,wait=off", socket.display())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start qemu-system-x86_64")?;
        let started = Instant::now();
        let connected = Monitor::connect(&socket);
        let _ = std::fs::remove_file(&socket);
        let monitor = match connected {
            Ok(monitor) => monitor,
            Err(error) => {
                let _ = qemu.kill();
                let _ = qemu.wait();
                return Err(error.context(format!("{name}: cannot start the machine")));
            }
        };
        let keyboard = qemu.stdin.take().context("QEMU has no input")?;
        let output = qemu.stdout.take().context("QEMU has no output")?;
        let log = folder.join(format!("{name}.serial.log"));
        let console = Arc::new(Console::default());
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let listener = Arc::clone(&console);
        thread::spawn(move || listener.listen(output, file));
        Ok(Self { name: name.clone(), qemu, monitor, keyboard, console, seen: 0, log, started, _turn: turn })
    }

    /// How long the machine has been on.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// All that the console has shown so far.
    #[must_use]
    pub fn console(&self) -> String {
        self.console.said.lock().unwrap_or_else(PoisonError::into_inner).text.clone()
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
        self.wait_until_off(BOOT)
    }

    /// Waits for the machine to end by itself.
    ///
    /// # Errors
    /// When it does not end.
    pub fn wait_until_off(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.qemu.try_wait()?.is_none() {
            tool::check_interrupted()?;
            if Instant::now() >= deadline {
                bail!("{}: does not end within {} s", self.name, limit.as_secs());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The power is cut: nothing in the machine has time for anything.
    ///
    /// # Errors
    /// When QEMU does not end.
    pub fn cut_power(mut self) -> Result<()> {
        self.qemu.kill()?;
        self.qemu.wait()?;
        Ok(())
    }

    /// A picture of the screen, as PNG.
    ///
    /// # Errors
    /// When it cannot be taken.
    pub fn screenshot(&mut self, file: &Path) -> Result<()> {
        self.monitor.run("screendump", &json!({ "filename": file, "format": "png" })).map(drop)
    }

    /// Presses keys of the keyboard at once, by QEMU's names: `["ctrl", "c"]`.
    ///
    /// # Errors
    /// When there is no such key.
    pub fn press(&mut self, keys: &[&str]) -> Result<()> {
        let keys: Vec<Value> = keys.iter().map(|key| json!({ "type": "qcode", "data": key })).collect();
        self.monitor.run("send-key", &json!({ "keys": keys })).map(drop)
    }

    /// Types on the keyboard: small letters, digits and blanks, then Enter.
    ///
    /// # Errors
    /// When there is no such key.
    pub fn type_line(&mut self, text: &str) -> Result<()> {
        for letter in text.chars() {
            let key = if letter == ' ' { "spc".to_owned() } else { letter.to_string() };
            self.press(&[&key])?;
        }
        self.press(&["ret"])
    }

    /// Plugs a disk in; `name` is for pulling it out again.
    ///
    /// # Errors
    /// When its bus allows no such thing.
    pub fn plug_in(&mut self, name: &str, drive: &Drive) -> Result<()> {
        let content = format!("{name}-content");
        let file = json!({
            "driver": "raw",
            "node-name": content,
            "read-only": false,
            "file": { "driver": "file", "filename": drive.image },
        });
        if drive.writes == Writes::Discarded {
            bail!("a disk that is plugged in keeps what is written to it: give it a copy");
        }
        self.monitor.run("blockdev-add", &file)?;
        let mut device: Map<String, Value> =
            drive.device(&content).into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        device.insert("id".to_owned(), json!(name));
        self.monitor.run("device_add", &Value::Object(device)).map(drop)
    }

    /// Pulls a disk out that was plugged in, whatever is being written to it.
    ///
    /// # Errors
    /// When there is no such disk.
    pub fn pull_out(&mut self, name: &str) -> Result<()> {
        self.monitor.run_until("device_del", &json!({ "id": name }), "DEVICE_DELETED")?;
        self.monitor.run("blockdev-del", &json!({ "node-name": format!("{name}-content") })).map(drop)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Console {
    /// All that was said, and whether that is all.
    pub(crate) fn text(&self) -> (String, bool) {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        (said.text.clone(), said.ended)
    }

    pub(crate) fn listen(&self, mut output: ChildStdout, mut log: File) {
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
