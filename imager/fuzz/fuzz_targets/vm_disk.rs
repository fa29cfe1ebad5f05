//! Whatever a disk file holds: it is read without a panic, and reads the same twice.
#![no_main]

#[path = "../entries/vm_disk.rs"]
mod entry;
#[path = "../entries/mend.rs"]
mod mend;
#[path = "../entries/volume.rs"]
mod volume;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
