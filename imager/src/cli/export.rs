//! `imager export`.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use clap::Args;

use super::watch::Watch;
use super::{Global, open, parse_memory, print_json};
use crate::disk::target::Replace;
use crate::error::{Error, Result};
use crate::export::{self, Beside, How, Image, MachineOptions, Options, archive_warnings};
use crate::memory::Budget;
use crate::progress::Progress;
use crate::restore::{OnDamage, ReadBack, check_file};
use crate::units::{duration, size};
use crate::vm::Macs;
use crate::vm::hardware::Hardware;
use crate::vm_disk::Format;

#[derive(Args)]
pub(super) struct Export {
    /// Beginning of the image's id, its name, or `latest`.
    image: String,
    /// The file, or `-` for standard output (raw, vmdk with --stream, ova). Of several disks web1.qcow2 becomes
    /// web1-disk0.qcow2, web1-disk1.qcow2 and so on.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// raw, qcow2, vmdk, vhdx, vhd, vdi or ova (the whole machine as one file). [default: as FILE's name ends]
    #[arg(long, value_name = "FORMAT", value_parser = Kind::from_str)]
    format: Option<Kind>,
    /// Only this disk; the first is 0. May be given several times.
    #[arg(long = "disk", value_name = "NUMBER")]
    disks: Vec<usize>,
    /// qcow2: compress the clusters with zstd. Smaller, and slower to run from.
    #[arg(long, conflicts_with_all = ["stream", "fixed"])]
    compress: bool,
    /// vmdk: a compressed stream, to be imported rather than run.
    #[arg(long, conflicts_with = "fixed")]
    stream: bool,
    /// vhd: of fixed size.
    #[arg(long)]
    fixed: bool,
    /// Write the disks alone, without the libvirt XML, Proxmox or Hyper-V script or OVF beside them.
    #[arg(long)]
    disks_only: bool,
    /// Give the network cards the addresses that the captured machine had. It must not be on the same network, then.
    #[arg(long)]
    keep_macs: bool,
    /// Overwrite files that exist.
    #[arg(long)]
    force: bool,
    /// Read everything back.
    #[arg(long)]
    verify: bool,
    /// Where the repository is damaged, write zeros and go on.
    #[arg(long)]
    keep_going: bool,
    /// Memory to stay within. [default: half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    memory: Option<u64>,
}

/// What `--format` may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Disks(Format),
    Archive,
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ova" => Ok(Self::Archive),
            "img" => Ok(Self::Disks(Format::Raw)),
            text => text.parse().map(Self::Disks).map_err(|error| format!("{error}, ova")),
        }
    }
}

impl Export {
    fn kind(&self) -> Result<Kind> {
        let by_name = || self.output.extension()?.to_str()?.to_ascii_lowercase().parse().ok();
        self.format.or_else(by_name).ok_or_else(|| {
            Error::Usage("which format? Give it with --format: raw, qcow2, vmdk, vhdx, vhd, vdi or ova".into())
        })
    }

    fn how(&self) -> How {
        match (self.compress, self.stream, self.fixed) {
            (true, ..) => How::Compressed,
            (_, true, _) => How::Stream,
            (_, _, true) => How::Fixed,
            _ => How::Plain,
        }
    }

    /// Numbers of the wanted disks, ascending, each once.
    fn chosen(&self, image: &Image) -> Result<Vec<usize>> {
        let mut chosen = self.disks.clone();
        if chosen.is_empty() {
            chosen = (0..image.manifest.disks.len()).collect();
        }
        chosen.sort_unstable();
        chosen.dedup();
        chosen.iter().try_for_each(|number| image.disk(*number).map(drop))?;
        if chosen.is_empty() {
            return Err(Error::Usage("the image has no disks".into()));
        }
        Ok(chosen)
    }
}

pub(super) fn export(global: &Global, args: &Export) -> Result<u8> {
    let kind = args.kind()?;
    let options = Options {
        how: args.how(),
        replace: if args.force { Replace::Yes } else { Replace::No },
        read_back: if args.verify { ReadBack::Yes } else { ReadBack::No },
        damage: if args.keep_going { OnDamage::Zeros } else { OnDamage::Stop },
        memory: args.memory.map_or_else(Budget::of_this_machine, Budget::new),
    };
    check_arguments(args, kind, &options)?;
    let repository = open::repository(global)?;
    let (id, manifest) = repository.find_image(&args.image)?;
    let image = Image { repository, id, manifest };
    let disks = args.chosen(&image)?;
    let macs = if args.keep_macs { Macs::Keep } else { Macs::New };
    if args.output == Path::new("-") {
        return to_pipe(global, kind, &options, &image, &disks, macs);
    }
    check_file(&args.output, image.repository.store().local_directory().as_deref())?;
    let watch = Watch::start(global, "export")?;
    let began = Instant::now();
    let exported = match kind {
        Kind::Archive => {
            let hardware = Hardware::of_image(image.id, &image.manifest).with_disks(&disks);
            export::write_ova(&image, &hardware, macs, &options, &args.output, watch.progress()).map(|(len, lost)| {
                let files = vec![(args.output.clone(), len)];
                Told { files, beside: Vec::new(), warnings: archive_warnings(&hardware), lost, read_back: false }
            })
        }
        Kind::Disks(format) => {
            let beside = if args.disks_only { Beside::No } else { Beside::Yes };
            let what = MachineOptions { disks, beside, macs };
            export::write_machine(&image, format, &options, &what, &args.output, watch.progress()).map(Told::of)
        }
    };
    drop(watch);
    let told = exported.map_err(|error| match error {
        Error::Interrupted => error.midway("what was not complete is gone; the same command begins it anew"),
        error @ (Error::Damaged { .. } | Error::Missing { .. }) => {
            error.midway("what was not complete is gone; --keep-going puts zeros where the repository is damaged")
        }
        error => error,
    })?;
    told.print(global, &image, began);
    Ok(if told.lost > 0 { 4 } else { 0 })
}

fn check_arguments(args: &Export, kind: Kind, options: &Options) -> Result<()> {
    match kind {
        Kind::Disks(format) => options.how.check(format)?,
        Kind::Archive if options.how != How::Plain => {
            return Err(Error::Usage(
                "--compress, --stream and --fixed do not go with ova, which is compressed".into(),
            ));
        }
        Kind::Archive => {}
    }
    let in_order = kind == Kind::Archive || matches!(options.how, How::Compressed | How::Stream);
    if args.verify && (in_order || args.output == Path::new("-")) {
        return Err(Error::Usage("--verify reads plain files back, not compressed ones and pipes".into()));
    }
    Ok(())
}

fn to_pipe(global: &Global, kind: Kind, options: &Options, image: &Image, disks: &[usize], macs: Macs) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    if global.json {
        return Err(Error::Usage("--json and `-o -` both want the standard output".into()));
    }
    if out.is_terminal() {
        return Err(Error::Usage("this would write a disk to the terminal; send it into a file or a program".into()));
    }
    let one = match (kind, disks) {
        (Kind::Archive, _) => None,
        (_, [one]) => Some(*one),
        _ => return Err(Error::Usage(format!("the image has {} disks; choose one with --disk", disks.len()))),
    };
    let watch = Watch::start(global, "export")?;
    let progress: &Progress = watch.progress();
    let lost = match (kind, one) {
        (Kind::Disks(format), Some(disk)) => export::stream_disk(image, disk, format, options, &mut out, progress)?,
        _ => {
            let hardware = Hardware::of_image(image.id, &image.manifest).with_disks(disks);
            archive_warnings(&hardware).iter().for_each(|warning| progress.say(format!("warning: {warning}")));
            export::stream_ova(image, &hardware, macs, options, &mut out, progress)?
        }
    };
    out.flush().map_err(Error::io("write to", "standard output"))?;
    drop(watch);
    if lost > 0 {
        eprintln!("warning: {} are zeros because the repository is damaged", size(lost));
    }
    Ok(if lost > 0 { 4 } else { 0 })
}

/// What was done.
struct Told {
    files: Vec<(PathBuf, u64)>,
    beside: Vec<PathBuf>,
    warnings: Vec<String>,
    lost: u64,
    read_back: bool,
}

impl Told {
    fn of(machine: export::Machine) -> Self {
        let mut warnings = machine.warnings;
        let unreadable: u64 = machine.disks.iter().map(|disk| disk.unreadable).sum();
        if unreadable > 0 {
            warnings.push(format!("{} are zeros because the source could not be read there", size(unreadable)));
        }
        Self {
            files: machine.disks.iter().map(|disk| (disk.path.clone(), disk.len)).collect(),
            beside: machine.files,
            warnings,
            lost: machine.disks.iter().map(|disk| disk.lost).sum(),
            read_back: machine.disks.iter().all(|disk| disk.read_back),
        }
    }

    fn print(&self, global: &Global, image: &Image, began: Instant) {
        if global.json {
            let files: Vec<_> = self
                .files
                .iter()
                .map(|(path, len)| serde_json::json!({ "path": path.to_string_lossy(), "len": len }))
                .collect();
            let beside: Vec<_> = self.beside.iter().map(|path| path.to_string_lossy()).collect();
            print_json(&serde_json::json!({
                "type": "exported", "image": image.id.to_string(), "seconds": began.elapsed().as_secs_f64(),
                "files": files, "beside": beside, "lost": self.lost, "read_back": self.read_back,
                "warnings": self.warnings,
            }));
            return;
        }
        for (path, len) in &self.files {
            println!("{}  {}", path.display(), size(*len));
        }
        for path in &self.beside {
            println!("{}", path.display());
        }
        println!("exported {} in {}", image.id, duration(began.elapsed()));
        if self.read_back {
            println!("read back and found equal");
        }
        for warning in &self.warnings {
            println!("warning: {warning}");
        }
        if self.lost > 0 {
            println!(
                "warning: {} are zeros because the repository is damaged; `imager verify --read-data {}` says where",
                size(self.lost),
                image.id
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_parse() {
        assert_eq!("ova".parse(), Ok(Kind::Archive));
        assert_eq!("img".parse(), Ok(Kind::Disks(Format::Raw)));
        assert_eq!("vhdx".parse(), Ok(Kind::Disks(Format::Vhdx)));
        assert!("qcow".parse::<Kind>().unwrap_err().contains("ova"));
    }
}
