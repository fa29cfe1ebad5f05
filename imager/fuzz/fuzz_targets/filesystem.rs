//! Whatever lies on a volume: the readers of file systems end, do not panic, and stay within it.
#![no_main]

#[path = "../entries/filesystem.rs"]
mod entry;
#[path = "../entries/mend.rs"]
mod mend;
#[path = "../entries/volume.rs"]
mod volume;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
