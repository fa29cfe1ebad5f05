//! The `imager` command.

fn main() {}
