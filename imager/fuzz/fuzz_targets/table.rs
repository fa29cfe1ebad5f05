//! Whatever lies on a disk: its table and its layout are read without a panic, and fit together.
#![no_main]

#[path = "../entries/table.rs"]
mod entry;
#[path = "../entries/volume.rs"]
mod volume;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
