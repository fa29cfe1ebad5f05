//! The command line: a thin layer over the library.
//!
//! Knows arguments, terminals and exit codes, and nothing else.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is the command line")]

mod capture;
mod clone;
mod confirm;
mod copy;
mod draw;
mod export;
mod files;
mod images;
mod import;
mod import_clonezilla;
mod mount;
mod open;
mod prove;
mod restore;
mod run;
mod serve;
mod upkeep;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::fs::SpareKind;
use crate::memory::Budget;
use crate::units;

const COMMON: &str = "Options of every command";

const EXIT_CODES: &str = "Exit codes:
    0  done
    1  an input or output error, or an internal one
    2  wrong use
    3  the repository cannot be opened: none there, one there already, newer format, password
    4  damaged or missing data
    5  the store failed or is full
    6  the target is refused
    7  no such image
    8  the source vanished
    9  somebody else works on the same thing
   10  captured, but some sectors of the source could not be read
   11  the image was started, and its system did not come up
  130  stopped by Ctrl-C";

const JSON: &str = "With --json every line on standard output is an object with a `type`:
    progress, message                what goes on
    repository                       init
    disk                             inspect
    captured                         capture, import
    volume                           import of a Clonezilla directory (one for each)
    image                            images (one for each), show
    diff                             diff
    verified                         verify
    plan, restored                   restore
    plan, copied                     copy, make-stick
    proved                           prove, capture --prove (one for each)
    running                          run
    serving                          serve (one for each export)
    linked, full, detached           clone
    clone, released                  clone --list (one for each), clone --release
    exported                         export
    mounted, unmounted               mount
    part                             ls (one for each partition)
    file                             ls, find (one for each file)
    copied_files                     cp
    forgotten, kept                  forget (one for each)
    pruned                           prune
    key, key_removed                 key
    error                            whatever went wrong, with its exit code

";

/// Images whole machines, proves that the images are good, and brings them back.
#[derive(Parser)]
#[command(name = "imager", version, max_term_width = 100)]
#[command(after_help = EXIT_CODES, after_long_help = format!("{JSON}{EXIT_CODES}"))]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
pub(crate) struct Global {
    /// The repository: a local directory.
    #[arg(long, global = true, env = "IMAGER_REPO", hide_env_values = true, value_name = "REPO", help_heading = COMMON)]
    repo: Option<String>,
    /// A file whose first line is the password.
    #[arg(long, global = true, env = "IMAGER_PASSWORD_FILE", hide_env_values = true, value_name = "FILE", help_heading = COMMON)]
    password_file: Option<PathBuf>,
    /// Print JSON for programs: one object a line.
    #[arg(long, global = true, help_heading = COMMON)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Make a repository.
    Init(upkeep::Init),
    /// Show what is on a disk, and how much of it an image would need.
    Inspect(capture::Inspect),
    /// Take an image of one or several disks.
    Capture(capture::Capture),
    /// Make an image from the disk files of a virtual machine, or from an image directory of Clonezilla.
    Import(import::Import),
    /// List the images.
    Images,
    /// Show one image: its machine, disks, partitions.
    Show {
        /// Beginning of its id, its name, or `latest`.
        image: String,
        /// Write the report of its last proof, with the picture of the screen, into this directory.
        #[arg(long, value_name = "DIR")]
        report: Option<PathBuf>,
    },
    /// Say what changed between two images, per partition. It counts whole chunks, of 64 KiB on average.
    Diff {
        /// The older image.
        old: String,
        /// The newer image.
        new: String,
    },
    /// Prove that what is stored is good.
    Verify(upkeep::Verify),
    /// Write an image back to disks.
    Restore(restore::Restore),
    /// Serve an image's disks over NBD, to be read by virtual machines and others.
    Serve(serve::Serve),
    /// Make a virtual machine's disk of an image at once: one that holds only its changes.
    Clone(clone::CloneArgs),
    /// Start an image as a virtual machine without a network, and see whether its system comes up.
    Prove(prove::Prove),
    /// Start an image, or a linked clone, as a virtual machine.
    Run(run::Run),
    /// Write an image as a virtual machine: its disks in a format of virtual machines, and what starts them.
    Export(export::Export),
    /// Show an image as a directory: its disks, its partitions and their files.
    Mount(mount::Mount),
    /// List files of an image, or its partitions.
    Ls(files::Ls),
    /// Copy single files and directories out of an image.
    Cp(files::Cp),
    /// Look for files in an image.
    Find(files::Find),
    /// Copy one disk onto another, without a repository.
    Copy(copy::Copy),
    /// Write a bootable stick that also has room for backups.
    MakeStick(copy::MakeStick),
    /// Remove images. What only they needed is freed by `prune`.
    Forget(images::Forget),
    /// Free the space that no image needs.
    Prune(upkeep::Prune),
    /// Manage the passwords of an encrypted repository.
    #[command(subcommand)]
    Key(upkeep::Key),
    /// Print shell completions.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write man pages into a directory.
    Man {
        /// The directory.
        directory: PathBuf,
    },
}

/// Files that a system makes anew, and that may be left out of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Spare {
    /// Page and swap files.
    Paging,
    /// Hibernation files.
    Hibernation,
}

impl From<Spare> for SpareKind {
    fn from(spare: Spare) -> Self {
        match spare {
            Spare::Paging => Self::Paging,
            Spare::Hibernation => Self::Hibernation,
        }
    }
}

/// Parses the arguments of this process and does what they say.
#[must_use]
pub fn main() -> ExitCode {
    end_on_closed_pipe();
    // What the environment gives counts as an argument to the parser, which then asks for a command.
    if std::env::args_os().len() <= 1 {
        eprint!("{}", Cli::command().render_help());
        return ExitCode::from(2);
    }
    let cli = Cli::parse();
    let json = cli.global.json;
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if json {
                print_json(
                    &serde_json::json!({ "type": "error", "message": error.to_string(), "exit_code": error.exit_code() }),
                );
            }
            eprintln!("imager: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Ends quietly when nobody reads on, as in `imager images | head`. Rust has it ignored, and println! panics.
fn end_on_closed_pipe() {
    use signal_hook::{consts::SIGPIPE, flag::register_conditional_default};
    // Should it fail, all that is lost is the quiet.
    let _ = register_conditional_default(SIGPIPE, Arc::new(AtomicBool::new(true)));
}

fn run(cli: Cli) -> Result<u8> {
    let Cli { global, command } = cli;
    match command {
        Command::Init(args) => upkeep::init(&global, args),
        Command::Inspect(args) => capture::inspect(&global, &args),
        Command::Capture(args) => capture::capture(&global, args),
        Command::Import(args) => import::import(&global, args),
        Command::Images => images::images(&global),
        Command::Show { image, report } => images::show(&global, &image, report.as_ref()),
        Command::Diff { old, new } => images::diff(&global, &old, &new),
        Command::Verify(args) => upkeep::verify(&global, &args),
        Command::Restore(args) => restore::restore(&global, args),
        Command::Prove(args) => prove::prove(&global, &args),
        Command::Run(args) => run::run(&global, args),
        Command::Serve(args) => serve::serve(&global, &args),
        Command::Clone(args) => clone::clone(&global, &args),
        Command::Export(args) => export::export(&global, &args),
        Command::Mount(args) => mount::mount(&global, &args),
        Command::Ls(args) => files::ls(&global, &args),
        Command::Cp(args) => files::cp(&global, &args),
        Command::Find(args) => files::find(&global, &args),
        Command::Copy(args) => copy::copy(&global, &args),
        Command::MakeStick(args) => copy::make_stick(&global, &args),
        Command::Forget(args) => images::forget(&global, &args),
        Command::Prune(args) => upkeep::prune(&global, &args),
        Command::Key(args) => upkeep::key(&global, args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "imager", &mut std::io::stdout());
            Ok(0)
        }
        Command::Man { directory } => {
            std::fs::create_dir_all(&directory).map_err(Error::io("create", &directory))?;
            clap_mangen::generate_to(Cli::command(), &directory)
                .map_err(Error::io("write man pages to", &directory))?;
            Ok(0)
        }
    }
}

/// One line of JSON on standard output.
fn print_json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(line) => println!("{line}"),
        Err(error) => eprintln!("imager: cannot print JSON: {error}"),
    }
}

fn parse_size(text: &str) -> std::result::Result<u64, String> {
    units::parse_size(text)
}

/// A size that something useful can be done with.
fn parse_memory(text: &str) -> std::result::Result<u64, String> {
    match units::parse_size(text)? {
        size if size >= Budget::MIN => Ok(size),
        _ => Err(format!("less than {} is too little", units::size(Budget::MIN))),
    }
}

/// "1 image", "2 images".
fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }
}
