//! QEMU's copy-on-write disks, version 2 and 3.
//!
//! The format: QEMU's `docs/interop/qcow2`.

pub mod overlay;
mod read_header;
pub mod reader;
pub mod writer;

/// The first four bytes.
pub(in crate::vm_disk) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The largest L1 table that QEMU takes: 32 MiB.
const L1_BYTES_MAX: u64 = 32 << 20;
/// Incompatible feature: the header says what clusters are compressed with.
const COMPRESSION: u64 = 1 << 3;
/// Header extension: the format of the backing disk.
const BACKING_FORMAT: u32 = 0xE279_2ACA;
/// As long as the specification lets the name of a backing disk be.
const NAME_BYTES_MAX: usize = 1023;
