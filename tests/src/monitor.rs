//! QEMU's monitor: what is done to a machine from outside. Screens are looked at, keys pressed, disks plugged in and pulled.
//!
//! The protocol is QMP: a JSON object a line. Must not know: what runs in the machine.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A busy machine takes its time.
const ANSWER: Duration = Duration::from_secs(60);

/// A connection to a running machine's monitor.
pub(crate) struct Monitor {
    stream: BufReader<UnixStream>,
    /// Names of events that came while an answer was waited for.
    events: Vec<String>,
}

impl Monitor {
    /// Connects to a QEMU that has just been started.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let deadline = Instant::now() + ANSWER;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => return Err(error).context("QEMU's monitor is not there"),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        };
        stream.set_read_timeout(Some(ANSWER))?;
        let mut monitor = Self { stream: BufReader::new(stream), events: Vec::new() };
        monitor.run("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Runs a command and returns its result.
    pub(crate) fn run(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        let failed = || format!("QEMU's monitor does not answer to {command}");
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes()).with_context(failed)?;
        loop {
            let answer = self.line().with_context(failed)?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command} {arguments}: {}", error["desc"].as_str().unwrap_or("no reason given"));
            }
            if let Some(result) = answer.get("return") {
                return Ok(result.clone());
            }
            // The greeting says nothing that is needed.
            self.events.extend(answer["event"].as_str().map(str::to_owned));
        }
    }

    /// Runs a command and waits until what it brings about has happened.
    pub(crate) fn run_until(&mut self, command: &str, arguments: &Value, event: &str) -> Result<()> {
        self.events.clear();
        self.run(command, arguments)?;
        while !self.events.iter().any(|seen| seen == event) {
            let line = self.line().with_context(|| format!("waited for {event} on QEMU's monitor"))?;
            self.events.extend(line["event"].as_str().map(str::to_owned));
        }
        Ok(())
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("QEMU has ended");
        }
        serde_json::from_str(&line).with_context(|| format!("not QMP: {line}"))
    }
}
