//! QEMU's monitor: asking a running virtual machine what it does, and telling it what to do.
//!
//! The protocol is QMP: a JSON object a line. Source: QEMU's `docs/interop/qmp-spec`. Must not know: what runs in the
//! machine.

#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// A busy machine takes its time.
const ANSWER: Duration = Duration::from_secs(60);
/// Nothing that is asked for here has a longer answer.
const LINE_BYTES_MAX: u64 = 8 << 20;

/// A connection to a machine's monitor.
pub(crate) struct Monitor {
    stream: BufReader<UnixStream>,
    /// Names of events that were not asked for yet.
    events: Vec<String>,
}

impl Monitor {
    /// Connects, and says that commands will come.
    ///
    /// # Errors
    /// What the socket says; it is not there before QEMU has begun.
    pub(crate) fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let mut monitor = Self { stream: BufReader::new(stream), events: Vec::new() };
        monitor.run("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Runs a command and gives its result.
    ///
    /// # Errors
    /// What QEMU says.
    pub(crate) fn run(&mut self, command: &str, arguments: &Value) -> io::Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut line = String::new();
            if self.stream.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let answer: Value = serde_json::from_str(&line).map_err(io::Error::other)?;
            if let Some(error) = answer.get("error") {
                let words = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
                return Err(io::Error::other(format!("QEMU refuses {command}: {words}")));
            }
            if let Some(result) = answer.get("return") {
                return Ok(result.clone());
            }
            // The greeting says nothing that is needed.
            self.events.extend(answer.get("event").and_then(Value::as_str).map(str::to_owned));
        }
    }

    /// Whether the accelerator has given up on the machine's processor: it stands still for good.
    pub(crate) fn has_processor_failed(&mut self) -> bool {
        let status = self.run("query-status", &json!({}));
        status.is_ok_and(|status| status.get("status").and_then(Value::as_str) == Some("internal-error"))
    }

    /// The names of what has happened since the last call, as far as an answer came later.
    pub(crate) fn take_events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }
}
