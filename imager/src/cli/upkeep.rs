//! `imager init`, `verify`, `prune` and `key`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use jiff::SignedDuration;

use super::draw::plain;
use super::watch::Watch;
use super::{Global, count, open, parse_memory, parse_size, print_json};
use crate::capture::Verify as Depth;
use crate::error::{Error, Result};
use crate::memory::Budget;
use crate::prune::{self, DryRun};
use crate::repo::config::{ChunkSizes, FrameSize};
use crate::repo::index::with_fresh_index;
use crate::repo::seal::Suite;
use crate::repo::store::CrateStore;
use crate::repo::{Lock, Repository};
use crate::units::size;
use crate::verify::{Report, verify_image, verify_repository};

#[derive(Args)]
pub(super) struct Init {
    /// The directory to make it in; it is made when it is not there.
    #[arg(value_name = "REPO")]
    repository: PathBuf,
    /// Do not encrypt: whoever can read the repository can read the disks.
    #[arg(long)]
    no_password: bool,
    /// Average size of a chunk: smaller finds more that is the same, larger needs less memory.
    #[arg(long, value_name = "AVG", value_parser = parse_size, default_value = "64KiB")]
    chunk_size: u64,
    /// How much is compressed together. Smaller makes reads here and there faster, from `serve`, linked clones and `mount`,
    /// and the repository larger.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "1280KiB")]
    frame_size: u64,
}

#[derive(Args)]
pub(super) struct Verify {
    /// Only this image; otherwise everything.
    image: Option<String>,
    /// Read and hash all data.
    #[arg(long)]
    read_data: bool,
    /// Memory to stay within. [default: half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    memory: Option<u64>,
}

#[derive(Args)]
pub(super) struct Prune {
    /// Rewrite packs of which more than so many percent are not needed.
    #[arg(long, value_name = "PERCENT", default_value_t = 25, value_parser = clap::value_parser!(u8).range(0..=100))]
    max_waste: u8,
    /// Keep what interrupted captures left for so many hours, for the next capture to go on from.
    #[arg(long, value_name = "HOURS", default_value_t = 72)]
    keep_unfinished: u32,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Subcommand)]
pub(super) enum Key {
    /// Add a password.
    Add {
        /// A file whose first line is the new password.
        #[arg(long, value_name = "FILE")]
        new_password_file: Option<PathBuf>,
        /// What to call it.
        #[arg(long, default_value = "")]
        label: String,
    },
    /// Remove a password by the id of its slot. The last one stays.
    Remove {
        /// The slot's id, as `imager key list` shows it.
        id: String,
    },
    /// List the passwords' slots.
    List,
}

pub(super) fn init(global: &Global, args: Init) -> Result<u8> {
    let (chunks, frames) = (ChunkSizes::around(args.chunk_size)?, FrameSize::new(args.frame_size)?);
    // The environment may name a password for other repositories.
    let environment = std::env::var_os("IMAGER_PASSWORD_FILE").map(PathBuf::from);
    if args.no_password && global.password_file.as_ref().is_some_and(|file| Some(file) != environment.as_ref()) {
        return Err(Error::Usage("--no-password and --password-file contradict each other".into()));
    }
    let lock = if args.no_password {
        Lock::None
    } else {
        let password = match open::from_environment() {
            Some(password) if global.password_file.is_none() => password,
            _ => open::new_password(
                global.password_file.as_deref(),
                "Password for the new repository: ",
                "give a password with --password-file, or --no-password for none",
            )?,
        };
        Lock::Password(password)
    };
    std::fs::create_dir_all(&args.repository).map_err(Error::io("create", &args.repository))?;
    let store = Arc::new(CrateStore::local(&args.repository)?);
    let repository = Repository::create(store, &lock, chunks, frames)?;
    let id = repository.config().id;
    if global.json {
        print_json(&serde_json::json!({ "type": "repository", "id": id.to_string(), "encrypted": !args.no_password }));
    } else {
        let kind = if args.no_password { "unencrypted" } else { "encrypted" };
        println!("made the {kind} repository {id} in {}", args.repository.display());
        if !args.no_password {
            println!("Without the password nothing can be read: keep it where this machine is not.");
        }
    }
    Ok(0)
}

pub(super) fn verify(global: &Global, args: &Verify) -> Result<u8> {
    let repository = open::repository(global)?;
    let depth = if args.read_data { Depth::Data } else { Depth::Seals };
    let memory = args.memory.map_or_else(Budget::of_this_machine, Budget::new);
    let image = args.image.as_ref().map(|words| repository.find_image(words)).transpose()?;
    let watch = Watch::start(global, "verify")?;
    let report = with_fresh_index(|| match &image {
        Some((id, manifest)) => verify_image(&repository, *id, manifest, depth, memory, watch.progress()),
        None => verify_repository(&repository, depth, memory, watch.progress()),
    });
    drop(watch);
    let report = report?;
    if global.json {
        print_json(&serde_json::json!({ "type": "verified", "sound": report.is_sound(), "report": report }));
    } else {
        print_report(&report, depth);
    }
    if report.is_sound() { Ok(0) } else { Err(Error::DamageFound(report.summary())) }
}

fn print_report(report: &Report, depth: Depth) {
    for line in &report.damaged_objects {
        println!("damage: {line}");
    }
    for line in &report.leftovers {
        println!("leftover, which no image needs: {line}");
    }
    for hurt in &report.hurt {
        let image = hurt.image.as_deref().unwrap_or("?");
        println!("hurt: image {image}, {}, {}, {}:", hurt.machine, hurt.disk, hurt.place);
        for extent in hurt.extents.iter().take(20) {
            println!("      {} at byte {}", size(extent.len), extent.start);
        }
        if hurt.extents.len() > 20 {
            println!("      ... and {} more places (--json has all)", hurt.extents.len() - 20);
        }
    }
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let what = match depth {
        Depth::Data => format!("{} of data read", size(report.bytes_read)),
        _ => "seals checked (--read-data reads the data, too)".to_owned(),
    };
    let (images, packs) = (count(number(report.images), "image"), count(number(report.packs), "pack"));
    println!("{images}, {packs}, {what}: {}", report.summary());
}

pub(super) fn prune(global: &Global, args: &Prune) -> Result<u8> {
    let repository = open::repository(global)?;
    let memory = Budget::of_this_machine();
    let options = prune::Options {
        waste_percent: args.max_waste,
        keep_unfinished: SignedDuration::from_hours(args.keep_unfinished.into()),
        dry_run: if args.dry_run { DryRun::Yes } else { DryRun::No },
        pack_bytes: memory.pack_bytes(),
        level: 3,
    };
    let watch = Watch::start(global, "prune")?;
    let pruned = prune::prune(&repository, &options, watch.progress());
    drop(watch);
    let pruned = pruned?;
    if global.json {
        print_json(&serde_json::json!({ "type": "pruned", "dry_run": args.dry_run, "result": pruned }));
        return Ok(0);
    }
    for warning in &pruned.warnings {
        println!("warning: {warning}");
    }
    let verb = if args.dry_run { "would free" } else { "freed" };
    println!("{verb} {} of {}", size(pruned.freed), size(pruned.before));
    if pruned.rewritten > 0 {
        println!("{} of that written anew, to free what lay between", size(pruned.rewritten));
    }
    if pruned.waiting > 0 {
        println!(
            "{} more will be freed by the next prune, after the captures that run now on {}",
            size(pruned.waiting),
            pruned.waits_for.join(", ")
        );
    }
    if pruned.unfinished > 0 {
        println!(
            "{} of interrupted captures are kept for the next capture to go on from (--keep-unfinished 0 frees them)",
            size(pruned.unfinished)
        );
    }
    Ok(0)
}

pub(super) fn key(global: &Global, args: Key) -> Result<u8> {
    let repository = open::repository(global)?;
    match args {
        Key::Add { new_password_file, label } => {
            let password = open::new_password(
                new_password_file.as_deref(),
                "The new password: ",
                "give the new password with --new-password-file",
            )?;
            let id = repository.add_key(&password, &label)?;
            if global.json {
                print_json(&serde_json::json!({ "type": "key", "id": id }));
            } else {
                println!("added key slot {id}");
            }
        }
        Key::Remove { id } => {
            repository.remove_key(&id)?;
            if global.json {
                print_json(&serde_json::json!({ "type": "key_removed", "id": id }));
            } else {
                println!("removed key slot {id}");
            }
        }
        Key::List => {
            if !global.json && repository.config().seal == Suite::Blake3 {
                println!("the repository is not encrypted: there are no passwords");
            }
            for (id, slot) in repository.keys()? {
                let slot = match slot {
                    Ok(slot) => slot,
                    Err(error) => {
                        eprintln!("imager: {id}: {error}");
                        continue;
                    }
                };
                if global.json {
                    print_json(
                        &serde_json::json!({ "type": "key", "id": id, "label": slot.label, "created": slot.created }),
                    );
                } else {
                    println!("{id}  {}  {}", slot.created.strftime("%Y-%m-%d"), plain(&slot.label));
                }
            }
        }
    }
    Ok(0)
}
