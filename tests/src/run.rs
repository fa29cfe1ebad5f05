//! A program that runs a virtual machine and has its serial console on standard input and output.
//!
//! Must not know: how the program starts the machine.

use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use regex_lite::Regex;

use crate::debian;
use crate::guest::{Console, Turn, turn};
use crate::tool;

/// For busy machines.
const BOOT: Duration = Duration::from_secs(600);
const COMMAND: Duration = Duration::from_secs(120);

/// The running program; it is killed when dropped.
pub struct Program {
    child: Child,
    keyboard: ChildStdin,
    console: Arc<Console>,
    seen: usize,
    started: Instant,
    _turn: Turn,
}

impl Program {
    /// Starts it. The console is logged to a file.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let turn = turn();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start it")?;
        let keyboard = child.stdin.take().context("it has no input")?;
        let output = child.stdout.take().context("it has no output")?;
        let console = Arc::new(Console::default());
        let file = std::fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let listener = Arc::clone(&console);
        thread::spawn(move || listener.listen(output, file));
        Ok(Self { child, keyboard, console, seen: 0, started: Instant::now(), _turn: turn })
    }

    /// Waits until the console has shown something that matches, and returns the match's groups.
    ///
    /// # Errors
    /// When it does not come in time or the program ends: with what the console said last.
    pub fn wait_for(&mut self, pattern: &str, limit: Duration) -> Result<Vec<String>> {
        let compiled = Regex::new(pattern)?;
        let deadline = Instant::now() + limit;
        loop {
            tool::check_interrupted()?;
            let (text, ended) = self.console.text();
            let new = text.get(self.seen..).unwrap_or_default();
            if let Some(found) = compiled.captures(new) {
                self.seen += found.get(0).map_or(0, |whole| whole.end());
                return Ok(found.iter().map(|group| group.map_or(String::new(), |g| g.as_str().into())).collect());
            }
            if ended || Instant::now() >= deadline {
                let last: String = text.chars().rev().take(2000).collect::<Vec<_>>().into_iter().rev().collect();
                bail!("waited for `{pattern}`{}: {last}", if ended { ", and it ended" } else { "" });
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Types.
    ///
    /// # Errors
    /// When the program is gone.
    pub fn write(&mut self, text: &str) -> Result<()> {
        use std::io::Write;
        self.keyboard.write_all(text.as_bytes()).and_then(|()| self.keyboard.flush()).context("cannot type")
    }

    /// Logs in as root; says how long the login prompt took.
    ///
    /// # Errors
    /// When a prompt does not come.
    pub fn log_in(&mut self) -> Result<Duration> {
        self.wait_for(&format!("{} login: ", debian::HOST_NAME), BOOT)?;
        let took = self.started.elapsed();
        self.write("root\n")?;
        self.wait_for("Password: ", COMMAND)?;
        self.write(&format!("{}\n", debian::PASSWORD))?;
        self.wait_for("# ", COMMAND)?;
        self.write("stty -echo; PS1=; bind 'set enable-bracketed-paste off'; dmesg -n 1; echo rea''dy\n")?;
        self.wait_for("ready\r?\n", COMMAND)?;
        Ok(took)
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
            status => bail!("`{command}` failed ({}):\n{printed}", status.unwrap_or("?")),
        }
    }

    /// As Ctrl-C does.
    ///
    /// # Errors
    /// When the program is gone.
    pub fn interrupt(&self) -> Result<()> {
        tool::run("kill", ["-INT", &self.child.id().to_string()]).map(drop)
    }

    /// Waits until it ends, which it does well.
    ///
    /// # Errors
    /// When it does not, or says that something went wrong.
    pub fn ends(mut self) -> Result<()> {
        let deadline = Instant::now() + COMMAND;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("it ended with {status}"),
                None if Instant::now() >= deadline => bail!("it does not end"),
                None => thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Gently, so that its machine ends, too.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.interrupt();
            thread::sleep(Duration::from_secs(6));
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
