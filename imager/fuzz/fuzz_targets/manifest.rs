//! Whatever a manifest is: it is read without a panic, and its regions are in their places.
#![no_main]

#[path = "../entries/manifest.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
