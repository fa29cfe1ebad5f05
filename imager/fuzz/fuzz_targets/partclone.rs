//! Whatever an image of partclone or ntfsclone holds: it is read without a panic, and within its bounds.
#![no_main]

#[path = "../entries/partclone.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
