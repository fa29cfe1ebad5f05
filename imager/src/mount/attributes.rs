//! What the kernel is told of a file.
//!
//! Must not know: where files lie.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use crate::files::{Kind, Ownership, Stat, Time};

/// Of a file in a file system.
pub(super) fn of_file(number: u64, stat: &Stat, ownership: Ownership) -> FileAttr {
    let (uid, gid) = match ownership {
        Ownership::Unix => (stat.uid, stat.gid),
        Ownership::None => mine(),
    };
    FileAttr {
        ino: INodeNo(number),
        size: stat.size,
        blocks: stat.stored.div_ceil(512),
        atime: moment(stat.accessed),
        mtime: moment(stat.modified),
        ctime: moment(stat.changed),
        crtime: stat.created.map_or(UNIX_EPOCH, moment),
        kind: file_type(stat.kind),
        perm: u16::try_from(stat.permissions & 0o7777).unwrap_or(0),
        nlink: stat.links,
        uid,
        gid,
        rdev: device(stat.device),
        blksize: 128 << 10,
        flags: 0,
    }
}

/// Of a directory of disks, or of a disk as a file. They are for whoever mounts: they hold everybody's files.
pub(super) fn of_node(number: u64, size: u64, kind: FileType, created: jiff::Timestamp) -> FileAttr {
    let time = moment(Time { seconds: created.as_second(), nanoseconds: 0 });
    let (uid, gid) = mine();
    let is_directory = kind == FileType::Directory;
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm: if is_directory { 0o555 } else { 0o400 },
        nlink: if is_directory { 2 } else { 1 },
        uid,
        gid,
        rdev: 0,
        blksize: 128 << 10,
        flags: 0,
    }
}

fn mine() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::CharacterDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
    }
}

fn moment(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    let moment = base.and_then(|base| base.checked_add(Duration::from_nanos(time.nanoseconds.into())));
    moment.unwrap_or(UNIX_EPOCH)
}

/// As Linux packs device numbers into 32 bits.
fn device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_before_1970_have_nanoseconds_that_count_up() {
        let moment = moment(Time { seconds: -2, nanoseconds: 250_000_000 });
        assert_eq!(UNIX_EPOCH.duration_since(moment).unwrap(), Duration::from_millis(1750));
        // 70000 is 0x11170, 259 is 0x103.
        assert_eq!(device((259, 70000)), 0x1111_0370);
    }
}
