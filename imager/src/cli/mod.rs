//! The command line: a thin layer over the library.
//!
//! Knows arguments, terminals and exit codes, and nothing else.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is the command line")]

mod capture;
mod draw;
mod images;
mod open;
mod restore;
mod upkeep;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::fs::SpareKind;
use crate::units;

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
  130  stopped by Ctrl-C";

/// Images whole machines, proves that the images are good, and brings them back.
#[derive(Parser)]
#[command(name = "imager", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
pub(crate) struct Global {
    /// The repository: a local directory.
    #[arg(long, global = true, env = "IMAGER_REPO", value_name = "REPO")]
    repo: Option<String>,
    /// A file whose first line is the password.
    #[arg(long, global = true, env = "IMAGER_PASSWORD_FILE", value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// One JSON object a line, for programs.
    #[arg(long, global = true)]
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
    /// List the images.
    Images,
    /// Show one image: its machine, disks, partitions.
    Show {
        /// Beginning of its id, its name, or `latest`.
        image: String,
    },
    /// Say what changed between two images, per partition.
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
    // A closed pipe behind us is no reason to panic.
    reset_sigpipe();
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

fn reset_sigpipe() {
    use nix::sys::signal::{SigSet, Signal};
    // Writing to a closed pipe then gives an error, and println! would panic: blocked, EPIPE ends us quietly.
    let mut set = SigSet::empty();
    set.add(Signal::SIGPIPE);
    let _ = set.thread_unblock();
}

fn run(cli: Cli) -> Result<u8> {
    let Cli { global, command } = cli;
    match command {
        Command::Init(args) => upkeep::init(&global, args),
        Command::Inspect(args) => capture::inspect(&global, &args),
        Command::Capture(args) => capture::capture(&global, args),
        Command::Images => images::images(&global),
        Command::Show { image } => images::show(&global, &image),
        Command::Diff { old, new } => images::diff(&global, &old, &new),
        Command::Verify(args) => upkeep::verify(&global, &args),
        Command::Restore(args) => restore::restore(&global, args),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }
}
