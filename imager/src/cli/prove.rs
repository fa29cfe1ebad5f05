//! `imager prove`, and what `capture --prove` does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgGroup, Args};

use super::draw::plain;
use super::images::short_id;
use super::run::FirmwareKind;
use super::watch::Watch;
use super::{Global, count, open, parse_memory, print_json};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::prove::{self, Options, report};
use crate::repo::Repository;
use crate::repo::manifest::{ImageId, Manifest};

/// The exit code of an image that did not come up.
pub(super) const NOT_PROVED: u8 = 11;
/// On an idle machine without hardware support, systems start within two minutes.
const TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Args)]
#[command(group = ArgGroup::new("which").required(true))]
pub(super) struct Prove {
    /// Beginning of the image's id, its name, or `latest`.
    #[arg(group = "which")]
    image: Option<String>,
    /// Every image that was not started yet.
    #[arg(long, group = "which")]
    all_new: bool,
    /// How long the system may take, as 90s, 10m or 1h. [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Write the report and the picture of the screen into this directory, too.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Memory of the machine. [default: what it had, at most 2 GiB and half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    memory: Option<u64>,
    /// What starts it. [default: what the image's disks are made for]
    #[arg(long, value_enum)]
    firmware: Option<FirmwareKind>,
}

/// "90s", "10m", "1h", "90".
fn parse_duration(text: &str) -> std::result::Result<Duration, String> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    seconds
        .filter(|seconds| (1..=7 * 86_400).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{text:?} is no time; give 90s, 10m or 1h, of a week at most"))
}

pub(super) fn prove(global: &Global, args: &Prove) -> Result<u8> {
    let repository = open::repository(global)?;
    let images = match &args.image {
        Some(words) => vec![repository.find_image(words)?],
        None => {
            let proofs = repository.proofs()?;
            let (images, damaged) = repository.images()?;
            damaged.iter().for_each(|(_, error)| eprintln!("imager: {error}"));
            images.into_iter().filter(|(id, _)| !proofs.contains_key(id)).collect()
        }
    };
    let options = Options {
        timeout: args.timeout.unwrap_or(TIMEOUT),
        firmware: args.firmware.map(Into::into),
        memory: args.memory,
    };
    let watch = Watch::start(global, "prove")?;
    let mut failed = 0;
    for (id, manifest) in &images {
        let is_proved = one(global, &repository, (*id, manifest), &options, args.report.as_ref(), watch.progress())?;
        failed += usize::from(!is_proved);
    }
    drop(watch);
    if args.all_new && !global.json {
        println!("{}, of which {failed} not proved", count(images.len(), "new image"));
    }
    Ok(if failed == 0 { 0 } else { NOT_PROVED })
}

/// Proves an image that was captured just now.
pub(super) fn captured(
    global: &Global,
    repository: &Arc<Repository>,
    id: ImageId,
    manifest: &Manifest,
) -> Result<bool> {
    let watch = Watch::start(global, "prove")?;
    let options = Options { timeout: TIMEOUT, firmware: None, memory: None };
    let proved = one(global, repository, (id, manifest), &options, None, watch.progress());
    drop(watch);
    proved.map_err(|error| error.midway(format!("the image is there; `imager prove {id}` proves it later")))
}

fn one(
    global: &Global,
    repository: &Arc<Repository>,
    (id, manifest): (ImageId, &Manifest),
    options: &Options,
    folder: Option<&PathBuf>,
    progress: &Progress,
) -> Result<bool> {
    let proof = prove::prove(repository, id, manifest, options, progress)?;
    repository.write_proof(id, &proof)?;
    let files = folder.map(|folder| report::write(folder, id, manifest, &proof)).transpose()?.unwrap_or_default();
    if global.json {
        let mut line = report::json(id, &proof);
        if let Some(fields) = line.as_object_mut() {
            fields.insert("type".to_owned(), "proved".into());
            fields.insert("files".to_owned(), serde_json::json!(files));
        }
        print_json(&line);
        return Ok(proof.proved);
    }
    let verdict = if proof.proved { "proved" } else { "NOT PROVED" };
    println!("{verdict}  {}  {}", short_id(id), plain(&report::words(&proof)));
    proof.warnings.iter().for_each(|warning| println!("  warning: {}", plain(warning)));
    files.iter().for_each(|file| println!("  {}", file.display()));
    Ok(proof.proved)
}

/// Writes what is kept of an image's proof into a folder.
pub(super) fn write_report(
    repository: &Repository,
    id: ImageId,
    manifest: &Manifest,
    folder: &std::path::Path,
) -> Result<Vec<PathBuf>> {
    match repository.proof(id)? {
        Some(proof) => report::write(folder, id, manifest, &proof),
        None => Err(Error::Usage(format!("the image {} was not started yet; `imager prove` does that", short_id(id)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("10m", 600), ("1h", 3600), ("168h", 604_800)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "0", "m", "-1s", "10 m", "1d", "169h", "99999999999999999999h", "5124095576030431h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
