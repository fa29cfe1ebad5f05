//! An image, or a linked clone, as a running virtual machine: disks that hold changes, a server for the rest, QEMU.
//!
//! QEMU is a program of its own, found on the PATH. Everything that is made for it is gone when it has ended. Must not
//! know: terminals, what the system in the machine says.

#![forbid(unsafe_code)]

mod boot_entries;
mod folder;
pub(crate) mod monitor;
pub mod options;
pub mod programs;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::folder::Folder;
use self::monitor::Monitor;
use self::options::{Console, Network, Options, Pflash, SerialLogin, Writes};
use self::programs::{Accelerator, memory, processors, qemu, uefi};
use crate::clone::backing::Backing;
use crate::clone::{Found, make};
use crate::disk::sys::end_with_this_thread;
use crate::error::{Error, Result};
use crate::image_disk::Shelf;
use crate::memory::Budget;
use crate::nbd::{Listen, Server};
use crate::progress::Progress;
use crate::repo::Repository;
use crate::repo::manifest::{ImageId, Manifest};
use crate::serve::exports_for_clones;
use crate::vm::hardware::{Firmware, Hardware, NO_BOOT_ENTRIES};
use crate::vm::uefi_variables::with_boot_entries;
use crate::vm_disk::qcow2::overlay::Overlay;

/// Decompressed frames that are kept for the machine.
const CACHE_BYTES: u64 = 256 << 20;
/// How long QEMU has to end when it is asked to.
const ENDING: Duration = Duration::from_secs(5);
/// How long it has to begin.
const BEGINNING: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
/// A processor that cannot run firmware shows it within this time.
const FIRST_MOMENTS: Duration = Duration::from_secs(2);
/// How often a machine is asked whether its processor still runs.
const STATUS: Duration = Duration::from_secs(1);
/// Of what QEMU says, the last bytes.
const WORDS_MAX: usize = 4096;

/// A server in a thread of its own, until it is dropped.
struct Serving {
    progress: Arc<Progress>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Serving {
    fn start(server: Server) -> Result<Self> {
        let progress = Arc::new(Progress::new());
        let own = Arc::clone(&progress);
        let thread = std::thread::Builder::new()
            .name("serving".into())
            .spawn(move || server.run(&own))
            .map_err(|error| Error::Internal(format!("cannot start a thread: {error}")))?;
        Ok(Self { progress, thread: Some(thread) })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.progress.stop();
        if let Some(thread) = self.thread.take() {
            // What ended it was said when the machine could not read.
            let _ = thread.join();
        }
    }
}

/// Disks for a machine, and the server that they read from.
pub struct Disks {
    /// Dropped before the folder: the socket is in it.
    serving: Option<Serving>,
    /// Files of the machine and its monitor's socket; throwaway disks, too.
    folder: Folder,
    /// The qcow2 files, by the number of the disk.
    files: Vec<(usize, PathBuf)>,
    /// Where the machine's UEFI variables stay; none when they are thrown away.
    variables: Option<PathBuf>,
    /// What it is a machine of.
    image: ImageId,
    manifest: Manifest,
    repository: Arc<Repository>,
    /// What is served from; none while somebody else serves the image.
    shelf: Option<Arc<Shelf>>,
}

impl Disks {
    /// Disks whose changes are thrown away.
    ///
    /// # Errors
    /// What the store and the system say.
    pub fn throwaway(repository: &Arc<Repository>, image: ImageId, manifest: &Manifest) -> Result<Self> {
        let folder = Folder::make()?;
        let socket = folder.path().join("image.sock");
        let mut files = Vec::new();
        for (number, disk) in manifest.disks.iter().enumerate() {
            let path = folder.path().join(format!("disk{number}.qcow2"));
            let size = disk.size.next_multiple_of(u64::from(disk.sector_size).max(512));
            make(&path, &Overlay { size, backing: Backing { image, disk: number, socket: socket.clone() }.uri() })?;
            files.push((number, path));
        }
        let (serving, shelf) = serve(repository, image, manifest, &socket)?;
        Ok(Self {
            folder,
            serving: Some(serving),
            files,
            variables: None,
            image,
            manifest: manifest.clone(),
            repository: Arc::clone(repository),
            shelf: Some(shelf),
        })
    }

    /// The disks of a linked clone, of which `found` is one file. If somebody serves the image already, that is taken.
    ///
    /// # Errors
    /// What the store and the system say.
    pub fn of_clone(repository: &Arc<Repository>, found: &Found) -> Result<Self> {
        let (manifest, _) = found.manifest(repository)?;
        let image = found.backing.image;
        let mut files = vec![(found.backing.disk, found.path.clone())];
        // The others of the same machine, as long as they are still its own.
        for file in
            found.sidecar.iter().flat_map(|sidecar| &sidecar.files).filter(|file| file.disk != found.backing.disk)
        {
            match Found::at(Path::new(&file.path)) {
                Ok(Some(other)) if other.backing == (Backing { disk: file.disk, ..found.backing.clone() }) => {
                    files.push((file.disk, other.path));
                }
                _ => {
                    return Err(Error::Usage(format!(
                        "{}, disk {} of the same machine, is not where it was made",
                        file.path, file.disk
                    )));
                }
            }
        }
        files.sort();
        let socket = &found.backing.socket;
        let is_served = std::os::unix::net::UnixStream::connect(socket).is_ok();
        let served = if is_served { None } else { Some(serve(repository, image, &manifest, socket)?) };
        let (serving, shelf) = served.unzip();
        let mut variables = files.first().map_or_else(|| found.path.clone(), |(_, path)| path.clone()).into_os_string();
        variables.push(".uefi-variables.fd");
        Ok(Self {
            folder: Folder::make()?,
            serving,
            files,
            variables: Some(variables.into()),
            image,
            manifest,
            repository: Arc::clone(repository),
            shelf,
        })
    }

    /// What was captured.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// A place for files that are needed while the machine runs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// UEFI's variables for a machine that has none yet: those that are `empty`, and entries for the boot loaders on the disk
    /// that it starts from. Whatever stands in the way of that becomes a warning.
    fn new_variables(&self, empty: Vec<u8>, hardware: &Hardware, warnings: &mut Vec<String>) -> Vec<u8> {
        let boots = hardware.disks.iter().find(|disk| disk.boots).map(|disk| disk.number);
        let Some(boots) = boots.filter(|boots| self.files.iter().any(|(number, _)| number == boots)) else {
            return empty;
        };
        let shelf = self.shelf.clone().map_or_else(|| shelf(&self.repository), Ok);
        let wanted = match shelf {
            Ok(shelf) => boot_entries::wanted(&shelf, &self.manifest, boots),
            Err(error) => {
                warnings.push(format!("its boot loader cannot be looked for, and it may not find it: {error}"));
                return empty;
            }
        };
        warnings.extend(wanted.warnings);
        if wanted.entries.is_empty() {
            return empty;
        }
        with_boot_entries(&empty, &wanted.entries).unwrap_or_else(|error| {
            warnings.push(format!("it gets no boot entries, and may not find its boot loader: {error}"));
            empty
        })
    }

    /// What the server has to say since the last call.
    #[must_use]
    pub fn take_messages(&self) -> Vec<String> {
        self.serving.iter().flat_map(|serving| serving.progress.take_messages()).collect()
    }
}

fn serve(
    repository: &Arc<Repository>,
    image: ImageId,
    manifest: &Manifest,
    socket: &Path,
) -> Result<(Serving, Arc<Shelf>)> {
    let shelf = shelf(repository)?;
    let exports = exports_for_clones(&shelf, image, manifest);
    let serving = Serving::start(Server::bind(&Listen::Unix(socket.to_owned()), exports)?)?;
    Ok((serving, shelf))
}

fn shelf(repository: &Arc<Repository>) -> Result<Arc<Shelf>> {
    Shelf::open(Arc::clone(repository), Budget::new(CACHE_BYTES))
}

/// How a machine shall be, beside what its image says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What starts it, when that is not to be guessed.
    pub firmware: Option<Firmware>,
    /// Memory in bytes; otherwise what the machine had, as far as it can be spared.
    pub memory: Option<u64>,
    /// Memory in bytes, at most, that is given without being asked for.
    pub memory_max: u64,
    /// What becomes of what is written.
    pub writes: Writes,
    /// Whether it has a network.
    pub network: Network,
    /// QEMU's `-display`.
    pub display: String,
    /// The serial console.
    pub console: Console,
    /// Whether systemd is asked for a login prompt there.
    pub serial_login: SerialLogin,
    /// Whatever else QEMU shall be told.
    pub extra: Vec<OsString>,
}

/// A running machine. It ends when dropped.
pub struct Running {
    child: Child,
    words: Option<JoinHandle<Vec<u8>>>,
    monitor: Monitor,
    /// What it is, in words.
    description: String,
    warnings: Vec<String>,
    accelerator: Accelerator,
}

impl Running {
    /// Starts a machine on `disks`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a program that is missing, and with QEMU's words when it does not start.
    pub fn start(disks: &Disks, settings: &Settings) -> Result<Self> {
        let program = qemu()?;
        let mut hardware = Hardware::of_image(disks.image, &disks.manifest);
        let mut warnings = std::mem::take(&mut hardware.warnings);
        if let Some(firmware) = settings.firmware {
            hardware.firmware = firmware;
        }
        // A BIOS has none, and for UEFI they are made; what comes of that is said then.
        warnings.retain(|warning| warning != NO_BOOT_ENTRIES);
        let pflash = match hardware.firmware {
            Firmware::Bios => None,
            Firmware::Uefi { secure_boot } => {
                if secure_boot {
                    warnings.push("Secure Boot was on; this machine starts without it".into());
                }
                let files = uefi()?;
                let own = disks.variables.clone().unwrap_or_else(|| disks.folder.path().join("variables.fd"));
                if !own.exists() {
                    // Whole or not at all: half of it would start nothing.
                    let mut part = own.clone().into_os_string();
                    part.push(".part");
                    std::fs::read(&files.variables)
                        .map(|empty| disks.new_variables(empty, &hardware, &mut warnings))
                        .and_then(|bytes| write_flushed(Path::new(&part), &bytes))
                        .and_then(|()| std::fs::rename(&part, &own))
                        .map_err(Error::io("copy UEFI's variables to", &own))?;
                }
                Some(Pflash { code: files.code, variables: own })
            }
        };
        let accelerator = programs::accelerator(&program);
        let wanted = settings.memory.unwrap_or_else(|| hardware.memory.min(settings.memory_max));
        let socket = disks.folder.path().join("monitor.sock");
        let mut options = Options {
            hardware: &hardware,
            disks: &disks.files,
            pflash,
            accelerator,
            memory: settings.memory.unwrap_or_else(|| memory(wanted)),
            processors: processors(hardware.cpus),
            writes: settings.writes,
            network: settings.network,
            display: &settings.display,
            console: settings.console.clone(),
            monitor: &socket,
            serial_login: settings.serial_login,
            extra: &settings.extra,
        };
        let input = || if settings.console == Console::Terminal { Stdio::inherit() } else { Stdio::null() };
        let mut launched = Launched::new(&program, options.arguments(), input(), &socket)?;
        if options.accelerator == Accelerator::Kvm && launched.stops_at_once() {
            launched.kill();
            warnings.push("KVM cannot run this machine here; its processor is emulated, which is slow".into());
            options.accelerator = Accelerator::Tcg;
            launched = Launched::new(&program, options.arguments(), input(), &socket)?;
        }
        let description = format!(
            "{}, {}, {} of memory, {}",
            match hardware.firmware {
                Firmware::Bios => "BIOS",
                Firmware::Uefi { .. } => "UEFI",
            },
            match hardware.controller {
                crate::vm::hardware::Controller::Sata => "SATA",
                crate::vm::hardware::Controller::Nvme => "NVMe",
                crate::vm::hardware::Controller::VirtioBlk => "virtio-blk",
                crate::vm::hardware::Controller::VirtioScsi => "virtio-scsi",
            },
            crate::units::size(options.memory),
            options.accelerator
        );
        let Launched { child, words, monitor } = launched;
        Ok(Self { child, words: Some(words), monitor, description, warnings, accelerator: options.accelerator })
    }

    /// What it is, in words: firmware, controller, memory, accelerator.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// What may keep it from starting, or from working as it did.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What runs it.
    #[must_use]
    pub fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    pub(crate) fn monitor(&mut self) -> &mut Monitor {
        &mut self.monitor
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(Error::io("wait for", programs::QEMU))
    }

    /// Waits until it ends by itself, or ends it when `progress` is told to stop.
    ///
    /// # Errors
    /// QEMU's words when it died.
    pub fn wait(mut self, disks: &Disks, progress: &Progress) -> Result<()> {
        let mut asked = Instant::now();
        loop {
            disks.take_messages().into_iter().for_each(|message| progress.say(message));
            if let Some(status) = self.ended()? {
                return if status.success() { Ok(()) } else { Err(self.died(status)) };
            }
            if progress.is_stopped() {
                self.end();
                return Ok(());
            }
            if asked.elapsed() >= STATUS {
                asked = Instant::now();
                if self.monitor.has_processor_failed() {
                    self.end();
                    let error = io::Error::other("its processor cannot go on (internal error of the accelerator)");
                    return Err(Error::io("run the machine in", programs::QEMU)(error));
                }
            }
            std::thread::sleep(LOOK);
        }
    }

    /// What QEMU said when it died.
    fn died(&mut self, status: ExitStatus) -> Error {
        let said = self.words.take().and_then(|words| words.join().ok()).unwrap_or_default();
        let error = io::Error::other(plain_words(&said, &status.to_string()));
        Error::io("run the machine in", programs::QEMU)(error)
    }

    /// Ends the machine: at first politely, so that what it has in memory of its disks gets there.
    pub(crate) fn end(&mut self) {
        let deadline = Instant::now() + ENDING;
        let pid = i32::try_from(self.child.id()).ok().map(Pid::from_raw);
        // It may have ended just now.
        let _ = pid.map(|pid| kill(pid, Signal::SIGTERM));
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

/// Writes a file that is on the medium when this returns: one that is renamed before that may be empty after a loss of power.
fn write_flushed(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A QEMU that has begun.
struct Launched {
    child: Child,
    words: JoinHandle<Vec<u8>>,
    monitor: Monitor,
}

impl Launched {
    fn new(program: &Path, arguments: Vec<OsString>, input: Stdio, socket: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(input);
        let (mut child, words) = spawn(command).map_err(Error::io("start", program))?;
        match connect(&mut child, socket) {
            Ok(monitor) => Ok(Self { child, words, monitor }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let said = words.join().unwrap_or_default();
                Err(Error::Usage(format!("QEMU does not start: {}", plain_words(&said, &error.to_string()))))
            }
        }
    }

    /// Whether the machine stops in its first moments because its processor cannot go on. A boot sector is no proof: what
    /// UEFI does first is more than some processors run for a virtual machine within a virtual machine.
    fn stops_at_once(&mut self) -> bool {
        let deadline = Instant::now() + FIRST_MOMENTS;
        while Instant::now() < deadline {
            if self.monitor.has_processor_failed() {
                return true;
            }
            std::thread::sleep(LOOK);
        }
        false
    }

    fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.words.join();
    }
}

/// Starts QEMU, and a thread that reads what it says, to the end. The thread is the one that starts it: QEMU ends with it,
/// and so does not outlive this program, but whoever called may end before.
fn spawn(mut command: Command) -> io::Result<(Child, JoinHandle<Vec<u8>>)> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let start = move || {
        end_with_this_thread(&mut command);
        let mut started = command.stderr(Stdio::piped()).spawn();
        let stderr = started.as_mut().ok().and_then(|child| child.stderr.take());
        // Its receiver waits for it.
        let _ = sender.send(started);
        stderr.map(last_words).unwrap_or_default()
    };
    let words = std::thread::Builder::new().name("machine".into()).spawn(start)?;
    let child = receiver.recv().map_err(io::Error::other)??;
    Ok((child, words))
}

/// Waits until QEMU answers.
fn connect(child: &mut Child, socket: &Path) -> io::Result<Monitor> {
    let deadline = Instant::now() + BEGINNING;
    loop {
        let error = match Monitor::connect(socket) {
            Ok(monitor) => return Ok(monitor),
            Err(error) => error,
        };
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(status.to_string()));
        }
        if Instant::now() >= deadline {
            return Err(error);
        }
        std::thread::sleep(LOOK);
    }
}

/// Reads to the end and keeps the last bytes.
fn last_words(mut stream: impl Read) -> Vec<u8> {
    let (mut words, mut buffer) = (Vec::new(), [0; 1024]);
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(count @ 1..) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            _ => break,
        };
        words.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if words.len() > 2 * WORDS_MAX {
            words.drain(..words.len() - WORDS_MAX);
        }
    }
    words
}

/// In one line; `otherwise` when nothing was said.
fn plain_words(said: &[u8], otherwise: &str) -> String {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("; ");
    let plain: String = last.chars().filter(|c| !c.is_control()).collect();
    if plain.is_empty() { otherwise.to_owned() } else { plain }
}
