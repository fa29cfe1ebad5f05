//! The image proves itself: it is started as a virtual machine without a network, and watched until it lives.
//!
//! ```text
//! serial console ─┐
//! screen ─────────┼─► what is seen ─► lives, fails, or too early to say
//! disks' reads ───┘
//! ```
//!
//! The machine's disks are throwaway: the image is only read. Must not know: terminals.

#![forbid(unsafe_code)]

pub mod console;
pub mod picture;
pub mod report;
pub mod verdict;

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::console::{plain_text, screen_text};
use self::picture::Screen;
use self::verdict::{Picture, Seen, Verdict, judge, timed_out};
use crate::error::{Error, Result};
use crate::guest::options::{Console, Network, SerialLogin, Writes};
use crate::guest::{Disks, Running, Settings};
use crate::progress::{Phase, Progress};
use crate::repo::Repository;
use crate::repo::manifest::{ImageId, Manifest};
use crate::repo::proofs::ProofRecord;
use crate::vm::hardware::Firmware;

/// Between two looks at the machine.
const LOOK: Duration = Duration::from_secs(2);
/// Memory of the machine, at most: every system starts with it.
const MEMORY_MAX: u64 = 2 << 30;
/// Of the serial console's text, the last bytes are kept.
const SERIAL_BYTES: usize = 64 << 10;
/// Where a screen in text mode has its memory, and how much.
const TEXT_MEMORY: (u64, u64) = (0xB_8000, 32 << 10);
/// Reads of so few bytes between two looks are of nothing that begins.
const IDLE_BYTES: u64 = 256 << 10;
/// A larger picture is not kept.
const PICTURE_BYTES_MAX: usize = 24 << 20;

/// How to prove.
#[derive(Clone, Debug)]
pub struct Options {
    /// After this the machine has failed.
    pub timeout: Duration,
    /// What starts it, when that is not to be guessed.
    pub firmware: Option<Firmware>,
    /// Memory in bytes, when that is not to be guessed.
    pub memory: Option<u64>,
}

/// Starts an image and says what came of it. What is wrong with the image is in the record.
///
/// # Errors
/// [`Error::Usage`] when there is no QEMU; what the store and the system say; [`Error::Interrupted`].
pub fn prove(
    repository: &Arc<Repository>,
    id: ImageId,
    manifest: &Manifest,
    options: &Options,
    progress: &Progress,
) -> Result<ProofRecord> {
    let mut record = ProofRecord::begun();
    progress.begin(Phase::Verifying, 0);
    let disks = Disks::throwaway(repository, id, manifest)?;
    let serial = disks.folder().join("serial");
    let settings = Settings {
        firmware: options.firmware,
        memory: options.memory,
        memory_max: MEMORY_MAX,
        writes: Writes::Careless,
        network: Network::None,
        display: "none".into(),
        console: Console::File(serial.clone()),
        serial_login: SerialLogin::Asked,
        extra: Vec::new(),
    };
    let began = Instant::now();
    let mut running = Running::start(&disks, &settings)?;
    record.machine = running.description().to_owned();
    record.warnings = running.warnings().to_vec();
    progress.say(format!("started: {}", record.machine));
    let mut watcher = Watcher::new(disks.folder(), serial);
    let verdict = loop {
        progress.check()?;
        disks.take_messages().into_iter().for_each(|message| progress.say(message));
        watcher.look(&mut running)?;
        let seen = watcher.seen();
        if let Some(verdict) = judge(&seen) {
            break verdict;
        }
        if began.elapsed() >= options.timeout {
            break Verdict::Fails(timed_out(&seen));
        }
        std::thread::sleep(LOOK);
    };
    record.seconds = began.elapsed().as_secs();
    match watcher.take_picture(&mut running) {
        Ok(picture) => record.set_picture(&picture),
        Err(error) => record.warnings.push(format!("there is no picture of the screen: {error}")),
    }
    record.serial = last_lines(&watcher.serial);
    record.screen = watcher.screen_text.take().unwrap_or_default();
    (record.proved, record.words) = match verdict {
        Verdict::Lives(words) => (true, words),
        Verdict::Fails(words) => (false, words),
    };
    Ok(record)
}

/// Looks at a machine again and again.
struct Watcher {
    folder: PathBuf,
    serial_file: PathBuf,
    serial_read: u64,
    serial_bytes: Vec<u8>,
    serial: String,
    screen: Option<Screen>,
    screen_text: Option<String>,
    picture: Option<Picture>,
    picture_since: Instant,
    quiet_since: Instant,
    read: u64,
    resets: u32,
    ended: bool,
    processor_failed: bool,
}

impl Watcher {
    fn new(folder: &Path, serial_file: PathBuf) -> Self {
        Self {
            folder: folder.to_owned(),
            serial_file,
            serial_read: 0,
            serial_bytes: Vec::new(),
            serial: String::new(),
            screen: None,
            screen_text: None,
            picture: None,
            picture_since: Instant::now(),
            quiet_since: Instant::now(),
            read: 0,
            resets: 0,
            ended: false,
            processor_failed: false,
        }
    }

    fn look(&mut self, running: &mut Running) -> Result<()> {
        let mut is_quiet = !self.hear()?;
        self.ended = running.ended()?.is_some();
        if !self.ended {
            is_quiet &= !self.count_reads(running);
            is_quiet &= self.see(running)?;
            let events = running.monitor().take_events();
            let resets = events.iter().filter(|event| *event == "RESET").count();
            self.resets = self.resets.saturating_add(u32::try_from(resets).unwrap_or(u32::MAX));
            self.ended = events.iter().any(|event| event == "SHUTDOWN");
            self.processor_failed =
                events.iter().any(|event| event == "STOP") && running.monitor().has_processor_failed();
        }
        if !is_quiet {
            self.quiet_since = Instant::now();
        }
        Ok(())
    }

    /// Reads what is new on the serial console; whether there is something.
    fn hear(&mut self) -> Result<bool> {
        let failed = || Error::io("read", &self.serial_file);
        let mut new = Vec::new();
        let mut file = std::fs::File::open(&self.serial_file).map_err(failed())?;
        file.seek(SeekFrom::Start(self.serial_read)).map_err(failed())?;
        let most = 16 * SERIAL_BYTES as u64;
        let count = file.take(most).read_to_end(&mut new).map_err(failed())?;
        self.serial_read = self.serial_read.saturating_add(count as u64);
        if count > 0 {
            self.serial_bytes.append(&mut new);
            let surplus = self.serial_bytes.len().saturating_sub(SERIAL_BYTES);
            self.serial_bytes.drain(..surplus);
            self.serial = plain_text(&self.serial_bytes);
        }
        Ok(count > 0)
    }

    /// How much was read from the disks; whether it was more than a little since the last look.
    fn count_reads(&mut self, running: &mut Running) -> bool {
        // One that ends just now does not answer, which is seen at the next look.
        let Ok(stats) = running.monitor().run("query-blockstats", &json!({})) else { return true };
        let bytes = |disk: &Value| disk.get("stats")?.get("rd_bytes")?.as_u64();
        let read = stats.as_array().into_iter().flatten().filter_map(bytes).fold(0, u64::saturating_add);
        let is_busy = read > self.read.saturating_add(IDLE_BYTES);
        self.read = read;
        is_busy
    }

    /// Looks at the screen; whether it is as it was.
    fn see(&mut self, running: &mut Running) -> Result<bool> {
        let file = self.folder.join("screen.ppm");
        if running.monitor().run("screendump", &json!({ "filename": file })).is_err() {
            return Ok(false);
        }
        let bytes = std::fs::read(&file).map_err(Error::io("read", &file))?;
        let Some(screen) = Screen::from_ppm(&bytes) else { return Ok(true) };
        let is_same = self.screen.as_ref().is_some_and(|before| before.is_like(&screen));
        if !is_same {
            self.picture_since = Instant::now();
        }
        let text_before = self.screen_text.take();
        (self.screen_text, self.picture) = if screen.is_text_mode() {
            (self.read_text(running), None)
        } else {
            let picture = Picture {
                colours: screen.colours(),
                is_stop_screen: screen.is_stop_screen(),
                is_login_prompt: screen.is_login_prompt(),
            };
            (None, Some(picture))
        };
        // What is compared with is what it looked like when it last changed, or a slow change would go unseen.
        if !is_same {
            self.screen = Some(screen);
        }
        // A digit that counts down is hardly seen, and read all the same.
        Ok(is_same && self.screen_text == text_before)
    }

    fn read_text(&self, running: &mut Running) -> Option<String> {
        let file = self.folder.join("screen.text");
        let (start, len) = TEXT_MEMORY;
        running.monitor().run("pmemsave", &json!({ "val": start, "size": len, "filename": file })).ok()?;
        std::fs::read(file).ok().map(|memory| screen_text(&memory))
    }

    fn seen(&self) -> Seen<'_> {
        Seen {
            serial: &self.serial,
            screen: self.screen_text.as_deref(),
            picture: self.picture,
            quiet: self.quiet_since.elapsed(),
            picture_stays: self.picture_since.elapsed(),
            read: self.read,
            resets: self.resets,
            ended: self.ended,
            processor_failed: self.processor_failed,
        }
    }

    fn take_picture(&self, running: &mut Running) -> std::io::Result<Vec<u8>> {
        let file = self.folder.join("screen.png");
        running.monitor().run("screendump", &json!({ "filename": file, "format": "png" }))?;
        let bytes = std::fs::read(file)?;
        if bytes.len() > PICTURE_BYTES_MAX {
            return Err(std::io::Error::other("it is too large"));
        }
        Ok(bytes)
    }
}

/// Enough of the serial console to see what happened.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n")
}
