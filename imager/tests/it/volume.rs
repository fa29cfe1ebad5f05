//! What the tests of single file systems share: a file as a volume, copies of which only the used bytes are
//! true, the files of a mounted tree.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imager::extent::{Extent, ExtentSet};
use imager::read_at::ReadAt;

/// A disk image file.
pub(crate) struct FileVolume {
    file: File,
    size: u64,
}

impl FileVolume {
    /// Opens `path` for reading.
    pub(crate) fn open(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let size = file.metadata().unwrap().len();
        Self { file, size }
    }
}

impl ReadAt for FileVolume {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// A volume some of whose bytes are not those of the one below.
pub(crate) struct Overlay<'a> {
    pub(crate) below: &'a dyn ReadAt,
    /// By offset, in any order.
    pub(crate) patches: Vec<(u64, Vec<u8>)>,
}

impl ReadAt for Overlay<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.below.read_at(offset, buf)?;
        let wanted = Extent::new(offset, u64::try_from(buf.len()).unwrap());
        for (at, bytes) in &self.patches {
            let patch = Extent::new(*at, u64::try_from(bytes.len()).unwrap());
            let both = patch.intersection(wanted);
            if !both.is_empty() {
                let within = |outer: Extent| {
                    let start = usize::try_from(both.start - outer.start).unwrap();
                    start..start + usize::try_from(both.len).unwrap()
                };
                buf[within(wanted)].copy_from_slice(&bytes[within(patch)]);
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.below.size()
    }
}

/// A directory for disk images, in memory where that is possible, gone when dropped.
pub(crate) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Makes `target` a file of the size of `source` that has its bytes in `used`, and garbage elsewhere: at the
/// start and at the end of each gap, so that huge sparse volumes stay small.
pub(crate) fn copy_used(source: &Path, target: &Path, used: &ExtentSet) {
    const PIECE: u64 = 1 << 20;
    let source = FileVolume::open(source);
    let file = File::create(target).unwrap();
    file.set_len(source.size).unwrap();
    let write = |bytes: &[u8], at: u64| file.write_all_at(bytes, at).unwrap();
    for extent in used.iter() {
        let mut at = extent.start;
        while at < extent.end() {
            let len = usize::try_from((extent.end() - at).min(PIECE)).unwrap();
            let bytes = source.read_vec(at, len).unwrap();
            // Zeros need no writing: the logs of these images are large and mostly empty.
            if bytes.iter().any(|&b| b != 0) {
                write(&bytes, at);
            }
            at += u64::try_from(len).unwrap();
        }
    }
    let garbage = vec![0xA5; usize::try_from(PIECE).unwrap()];
    for gap in used.complement(Extent::new(0, source.size)).iter() {
        let len = usize::try_from(gap.len.min(PIECE)).unwrap();
        write(&garbage[..len], gap.start);
        write(&garbage[..len], gap.end() - gap.len.min(PIECE));
    }
}

/// The hash of every file and the target of every symbolic link below `root`, by path.
pub(crate) fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let kind = path.symlink_metadata().unwrap().file_type();
            let content = if kind.is_dir() {
                directories.push(path);
                "directory".to_owned()
            } else if kind.is_symlink() {
                std::fs::read_link(path).unwrap().to_string_lossy().into_owned()
            } else {
                blake3::hash(&std::fs::read(path).unwrap()).to_string()
            };
            found.insert(name, content);
        }
    }
    found
}

/// Numbers that look random and are the same every time.
pub(crate) struct Random(u64);

impl Random {
    /// Another sequence for every `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number, below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }

    /// Bytes that do not compress and do not repeat.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(4)).flat_map(|_| self.below(1 << 32).to_le_bytes().into_iter().take(4)).take(len).collect()
    }
}
