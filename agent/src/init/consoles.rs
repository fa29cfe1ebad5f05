//! The consoles: which there are, and what it takes to be on one.
//!
//! Must not know: what is shown there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::termios::{InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex};

use crate::log::say;

/// Names the console that a program was started on, for that program.
pub(crate) const CONSOLE: &str = "LIFEBOAT_CONSOLE";

/// The names below `/dev` of the first screen and of every `console=` of the kernel.
pub(crate) fn names() -> Vec<String> {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let registered = fs::read_to_string("/proc/consoles").unwrap_or_default();
    names_in(&line, &registered, Path::new("/sys/class/tty/tty1").exists())
}

fn names_in(line: &str, registered: &str, has_screen: bool) -> Vec<String> {
    let mut names: Vec<String> = if has_screen { vec!["tty1".to_owned()] } else { Vec::new() };
    // console=ttyS0,115200n8; console=tty0 is whatever screen is in front.
    let asked = line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("console="));
    let asked = asked.map(|value| value.split(',').next().unwrap_or(value));
    // ttyS0                -W- (EC   a)    4:64
    let registered = registered.lines().filter_map(|line| line.split_ascii_whitespace().next());
    for name in asked.chain(registered) {
        let name = if matches!(name, "tty0" | "tty") { "tty1" } else { name };
        let is_plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        // These take output only, or are no terminals.
        let is_terminal = !["null", "netcon", "ttynull", "pstore", "uart"].iter().any(|other| name.starts_with(other));
        if is_plain && is_terminal && (has_screen || name != "tty1") && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// The role `console NAME PROGRAM …`: becomes the program on that console, in a session of its own. `ui` is our own.
pub(crate) fn attach(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let (Some(console), Some(program)) = (arguments.next(), arguments.next()) else { return ExitCode::from(2) };
    let terminal = match take(&console) {
        Ok(terminal) => terminal,
        Err(error) => {
            say(&format!("console {console}: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let mut command = if program == "ui" {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("agent").arg("ui");
        command
    } else {
        // A shell's messages are for who sits there.
        let _ = rustix::stdio::dup2_stderr(&terminal);
        Command::new(program)
    };
    let is_screen = console.strip_prefix("tty").is_some_and(|number| number.parse::<u32>().is_ok());
    command.args(arguments).env("TERM", if is_screen { "linux" } else { "vt220" }).env(CONSOLE, &console);
    drop(terminal);
    let error = command.exec();
    say(&format!("console {console}: {error}"));
    ExitCode::FAILURE
}

/// Makes a terminal this process' own: its input and output, and where Ctrl-C comes from.
fn take(console: &str) -> io::Result<File> {
    // Fails when it leads a session already, which then is its own.
    let _ = rustix::process::setsid();
    // Without waiting for a modem's carrier.
    let open = |flags: nix::fcntl::OFlag| {
        let path = Path::new("/dev").join(console);
        File::options().read(true).write(true).custom_flags((flags | nix::fcntl::OFlag::O_NOCTTY).bits()).open(path)
    };
    let probe = open(nix::fcntl::OFlag::O_NONBLOCK)?;
    let mut modes = rustix::termios::tcgetattr(&probe)?;
    // As whoever was here last may have left it.
    modes.input_modes |= InputModes::ICRNL | InputModes::IXON;
    modes.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
    modes.local_modes |= LocalModes::ICANON
        | LocalModes::ECHO
        | LocalModes::ECHOE
        | LocalModes::ECHOK
        | LocalModes::ISIG
        | LocalModes::IEXTEN;
    modes.control_modes |= rustix::termios::ControlModes::CLOCAL | rustix::termios::ControlModes::CREAD;
    modes.special_codes[SpecialCodeIndex::VMIN] = 1;
    modes.special_codes[SpecialCodeIndex::VTIME] = 0;
    rustix::termios::tcsetattr(&probe, OptionalActions::Now, &modes)?;
    let terminal = open(nix::fcntl::OFlag::empty())?;
    drop(probe);
    rustix::process::ioctl_tiocsctty(&terminal)?;
    rustix::stdio::dup2_stdin(&terminal)?;
    rustix::stdio::dup2_stdout(&terminal)?;
    Ok(terminal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_console_counts_once() {
        let line = "quiet console=tty0 console=ttyS0,115200n8 console=ttyS0 console=ttynull console=../x console=hvc0";
        let registered = "ttyS0                -W- (EC   a)    4:64\ntty0                 -WU (E  p  )    4:1\nnetcon0 -W- (E )\nttyAMA0 -W- (E)\n";
        assert_eq!(names_in(line, registered, true), ["tty1", "ttyS0", "hvc0", "ttyAMA0"]);
        assert_eq!(names_in(line, "", false), ["ttyS0", "hvc0"]);
        assert_eq!(names_in("", "", true), ["tty1"]);
    }
}
