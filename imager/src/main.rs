//! The `imager` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    imager::cli::main()
}
