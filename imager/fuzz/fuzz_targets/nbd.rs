//! Whatever a client says: it is answered or sent away.
#![no_main]

#[path = "../entries/nbd.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
