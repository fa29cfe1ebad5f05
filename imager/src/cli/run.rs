//! `imager run`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::watch::Watch;
use super::{Global, open, parse_memory, print_json};
use crate::clone::{self, Found};
use crate::error::{Error, Result};
use crate::guest::options::{Console, Network, SerialLogin, Writes};
use crate::guest::{Disks, Running, Settings};
use crate::vm::hardware::Firmware;

#[derive(Args)]
pub(super) struct Run {
    /// The image (beginning of its id, its name, or `latest`), or a linked clone's file.
    #[arg(value_name = "IMAGE|FILE")]
    subject: String,
    /// Keep what the machine writes, in a new linked clone.
    #[arg(long, value_name = "FILE", conflicts_with = "snapshot")]
    keep: Option<PathBuf>,
    /// Of a linked clone, drop what the machine writes, as it is always done with an image.
    #[arg(long)]
    snapshot: bool,
    /// Memory of the machine. [default: what it had, at most half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    memory: Option<u64>,
    /// Where its screen is: none, gtk, sdl, curses, vnc=:1 and what else QEMU knows. With none, its serial console is on the
    /// terminal. [default: gtk on a desktop, else none]
    #[arg(long, value_name = "DISPLAY")]
    display: Option<String>,
    /// Its network: none, or user, where it reaches others and nobody reaches it.
    #[arg(long, value_enum, default_value_t = NetworkKind::None)]
    network: NetworkKind,
    /// What starts it. [default: what the image's disks are made for]
    #[arg(long, value_enum)]
    firmware: Option<FirmwareKind>,
    /// More arguments for QEMU, behind `--`.
    #[arg(last = true, value_name = "QEMU ARGUMENTS")]
    extra: Vec<OsString>,
}

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NetworkKind {
    /// No network card.
    None,
    /// Behind an address translation.
    User,
}

/// What starts a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FirmwareKind {
    /// BIOS.
    Bios,
    /// UEFI.
    Uefi,
}

impl From<FirmwareKind> for Firmware {
    fn from(kind: FirmwareKind) -> Self {
        match kind {
            FirmwareKind::Bios => Self::Bios,
            FirmwareKind::Uefi => Self::Uefi { secure_boot: false },
        }
    }
}

pub(super) fn run(global: &Global, args: Run) -> Result<u8> {
    let display = args.display.unwrap_or_else(|| {
        let is_desktop = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
        if is_desktop { "gtk".into() } else { "none".into() }
    });
    let path = Path::new(&args.subject);
    let (disks, writes) = if path.is_file() {
        if args.keep.is_some() {
            return Err(Error::Usage("a linked clone keeps what is written to it anyway; --keep is for images".into()));
        }
        let found = Found::must_be_at(path)?;
        let repository = open::of_clone(global, path)?;
        (Disks::of_clone(&repository, &found)?, if args.snapshot { Writes::Dropped } else { Writes::Kept })
    } else {
        let repository = open::repository(global)?;
        let (id, manifest) = repository.find_image(&args.subject)?;
        match &args.keep {
            None => (Disks::throwaway(&repository, id, &manifest)?, Writes::Careless),
            Some(output) => {
                let wanted = clone::Wanted { image: id, manifest: &manifest, disk: None, output, socket: None };
                let linked = clone::link(&repository, &wanted)?;
                let first = linked.files.first().map(|(_, path)| path.clone()).unwrap_or_default();
                if !global.json {
                    eprintln!("What it writes is kept; `imager run {}` starts it again.", first.display());
                }
                (Disks::of_clone(&repository, &Found::must_be_at(&first)?)?, Writes::Kept)
            }
        }
    };
    // A screen in the terminal leaves no room for another console.
    let is_terminal_taken = display.starts_with("curses");
    let settings = Settings {
        firmware: args.firmware.map(Into::into),
        memory: args.memory,
        memory_max: u64::MAX,
        writes,
        network: match args.network {
            NetworkKind::None => Network::None,
            NetworkKind::User => Network::User,
        },
        display,
        console: if is_terminal_taken { Console::None } else { Console::Terminal },
        serial_login: SerialLogin::Asked,
        extra: args.extra,
    };
    let watch = Watch::silent("run")?;
    let running = Running::start(&disks, &settings)?;
    if global.json {
        print_json(&serde_json::json!({
            "type": "running", "machine": running.description(), "warnings": running.warnings(),
        }));
    } else {
        eprintln!("{}; Ctrl-C ends it.", running.description());
        running.warnings().iter().for_each(|warning| eprintln!("warning: {warning}"));
    }
    running.wait(&disks, watch.progress())?;
    Ok(0)
}
