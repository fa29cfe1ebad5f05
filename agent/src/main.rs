//! The agent: the only program that has to be on the boot medium.
//!
//! One static binary with several roles: `/init` of the initramfs, the keeper of the one job that runs at a time,
//! the user interface on each console, the kernel's `modprobe`, and `imager` itself.
#![forbid(unsafe_code)]

mod init;
mod job;
mod kernel_log;
mod log;
mod modules;
mod network;
mod places;
mod power;
mod stick;
mod ui;
mod unattended;

use std::path::Path;
use std::process::ExitCode;

use crate::job::Power;

/// What this process is here for.
fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let name = Path::new(&name).file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    if std::process::id() == 1 {
        return init::run();
    }
    match name.as_str() {
        "imager" => return imager::cli::main(),
        "modprobe" => return modules::modprobe(arguments),
        _ => {}
    }
    if std::env::var_os(log::VARIABLE).is_some() {
        log::log_panics();
    }
    match arguments.next().as_deref() {
        Some("console") => init::attach(arguments),
        Some("jobs") => job::keeper::run(),
        Some("log") => kernel_log::run(),
        Some("modules") => modules::run(),
        Some("network") => network::run(),
        Some("stick") => stick::run(),
        Some("step") => job::step::become_imager(arguments),
        Some("ui") => ui::run(),
        Some("unattended") => unattended::run(),
        Some("poweroff") => ask(Power::Off),
        Some("reboot") => ask(Power::Reboot),
        Some("words") => print_words(),
        _ => usage(),
    }
}

fn ask(power: Power) -> ExitCode {
    match power::ask(power) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn print_words() -> ExitCode {
    use std::io::Write;
    match std::io::stdout().write_all(unattended::words().as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn usage() -> ExitCode {
    log::say(
        "this is what Lifeboat's boot medium starts as its first process. On a running system it can be the keeper of jobs (`agent jobs`) and the user interface (`agent ui`), with LIFEBOAT_RUN naming a directory for both; called `imager`, it is the command line.",
    );
    ExitCode::from(2)
}
