//! Whatever a text of an import or of a linked clone says: it is understood or refused.
#![no_main]

#[path = "../entries/bytes_of.rs"]
mod bytes_of;
#[path = "../entries/import_text.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
