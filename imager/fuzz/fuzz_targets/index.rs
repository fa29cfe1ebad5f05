//! Whatever an object of the index is: it is read without a panic, and its packs fit.
#![no_main]

#[path = "../entries/bytes_of.rs"]
mod bytes_of;
#[path = "../entries/index.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
