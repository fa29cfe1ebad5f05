//! Whatever leaves and nodes a block map has: the walk ends, and its records are in their places.
#![no_main]

#[path = "../entries/bytes_of.rs"]
mod bytes_of;
#[path = "../entries/block_map.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
