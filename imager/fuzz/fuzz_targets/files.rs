//! Whatever lies on a volume: its files are walked through and read to an end, without a panic.
#![no_main]

#[path = "../entries/files.rs"]
mod entry;
#[path = "../entries/volume.rs"]
mod volume;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
