//! Whatever a pack is: its directory and its frames are read without a panic, and nothing is taken for sound that is not.
#![no_main]

#[path = "../entries/bytes_of.rs"]
mod bytes_of;
#[path = "../entries/pack.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
