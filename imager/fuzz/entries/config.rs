//! What must be true of every `config` and of every key slot.

use imager::repo::config::{ChunkSizes, Config, FrameSize, KeySlot, from_lines, to_lines};
use imager::repo::seal::Suite;

/// Reads `data` as the whole object, and as its first line with the checksum that belongs to it.
pub(crate) fn run(data: &[u8]) {
    read(data);
    if let Ok(json) = std::str::from_utf8(data) {
        read(format!("{json}\n{}\n", blake3::hash(data)).as_bytes());
    }
}

fn read(object: &[u8]) {
    if let Ok((config, line)) = Config::from_bytes(object) {
        assert!(object.starts_with(&line) && object.get(line.len()) == Some(&b'\n'));
        assert_eq!(config.chunks, ChunkSizes::around(config.chunks.average.into()).unwrap());
        assert_eq!(config.frames, FrameSize::new(u64::try_from(config.frames.bytes()).unwrap()).unwrap());
        assert_eq!(config.public_secret.is_some(), config.seal == Suite::Blake3);
        let again = to_lines(&config).unwrap();
        let (same, _) = Config::from_bytes(&again).unwrap();
        assert_eq!(to_lines(&same).unwrap(), again);
    }
    if let Ok((slot, _)) = from_lines::<KeySlot>("keys/00000000", object) {
        let cheap = slot.memory_kib <= 64 && slot.passes <= 2;
        // More than is sane must be refused before anything is allocated; what is sane takes its time.
        if cheap || slot.memory_kib > 4 << 20 || slot.passes > 16 {
            let opened = slot.open(b"password", b"config");
            assert!(cheap || opened.is_err());
        }
    }
}
