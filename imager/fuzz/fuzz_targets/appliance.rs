//! Whatever an exported virtual machine holds: its disks are found or it is refused.
#![no_main]

#[path = "../entries/bytes_of.rs"]
mod bytes_of;
#[path = "../entries/appliance.rs"]
mod entry;
#[path = "../entries/volume.rs"]
mod volume;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
