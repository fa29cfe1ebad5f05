//! Whatever a config or a key slot is: it is read without a panic, and costs no more than is sane.
#![no_main]

#[path = "../entries/config.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
