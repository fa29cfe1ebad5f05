//! Writes VDI, dynamic.
//!
//! ```text
//! header, 512 bytes │ block map: 4 bytes each │ blocks of 1 MiB, ascending, from a multiple of 1 MiB
//! ```
//!
//! Must not know: where the bytes come from.

#![forbid(unsafe_code)]

use std::io;

use super::super::blocks::Blocks;
use super::super::layout::{Label, Layout, Put, Sequence, put_field, put_table};
use crate::error::{Error, Result};

/// Size of its blocks.
pub const BLOCK: u64 = 1 << 20;
const MAP_AT: u64 = 512;
const NOT_THERE: u32 = u32::MAX;
/// What QEMU takes.
const BLOCKS_MAX: u64 = (u32::MAX / 4) as u64;

/// A dynamic VDI.
pub struct Dynamic {
    size: u64,
    label: Label,
    data: Sequence,
}

impl Dynamic {
    /// For a disk of `size` bytes that has these blocks, of [`BLOCK`].
    ///
    /// # Errors
    /// [`Error::Usage`] when it is too large.
    pub fn new(size: u64, blocks: Blocks, label: &Label) -> Result<Self> {
        if blocks.len() > BLOCKS_MAX {
            return Err(Error::Usage(format!("a disk of {} does not fit into a VDI", crate::units::size(size))));
        }
        let first = (MAP_AT + blocks.len() * 4).next_multiple_of(BLOCK);
        Ok(Self { size, label: label.clone(), data: Sequence { blocks, first, stride: BLOCK } })
    }

    fn header(&self) -> [u8; 512] {
        let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
        let mut bytes = [0; 512];
        put_field(&mut bytes, 0, b"<<< Oracle VM VirtualBox Disk Image >>>\n");
        put_field(&mut bytes, 64, &0xBEDA_107F_u32.to_le_bytes());
        put_field(&mut bytes, 68, &0x0001_0001_u32.to_le_bytes());
        put_field(&mut bytes, 72, &400u32.to_le_bytes());
        // Dynamic.
        put_field(&mut bytes, 76, &1u32.to_le_bytes());
        put_field(&mut bytes, 340, &number(MAP_AT));
        put_field(&mut bytes, 344, &number(self.data.first));
        put_field(&mut bytes, 360, &512u32.to_le_bytes());
        put_field(&mut bytes, 368, &self.size.next_multiple_of(512).to_le_bytes());
        put_field(&mut bytes, 376, &number(BLOCK));
        put_field(&mut bytes, 384, &number(self.data.blocks.len()));
        put_field(&mut bytes, 388, &number(self.data.blocks.marked()));
        put_field(&mut bytes, 392, &self.label.id.to_bytes_le());
        // Of its last change, which VirtualBox wants to be told from none.
        let mut changed = self.label.id.to_bytes_le();
        changed.reverse();
        put_field(&mut bytes, 408, &changed);
        bytes
    }
}

impl Layout for Dynamic {
    fn place(&self, offset: u64) -> (Option<u64>, u64) {
        self.data.place(offset)
    }

    fn file_size(&self) -> u64 {
        self.data.end()
    }

    fn write_tables(&self, put: &mut Put<'_>) -> io::Result<()> {
        put(0, &self.header())?;
        let blocks = &self.data.blocks;
        put_table(put, MAP_AT, blocks.len(), [0xFF; 4], &|block| {
            let number = blocks.number(block).and_then(|number| u32::try_from(number).ok());
            number.unwrap_or(NOT_THERE).to_le_bytes()
        })
    }
}
