//! Images as virtual machines. Data only.

use super::{Contender, Counts, NOTHING};

/// Until there is a disk that a virtual machine can start from.
pub(super) const CLONE: &[Contender] = &[
    Contender {
        tool: "imager --linked",
        needs: &["imager"],
        before: "no_clone",
        warm: "warm_folder $WORK/imager",
        command: "$IMAGER clone --linked latest --repo $WORK/imager -o $WORK/clone.qcow2",
        result: "clone.qcow2",
        counts: Counts::Allocated,
        after: "no_clone",
        ..NOTHING
    },
    Contender {
        tool: "imager --full",
        needs: &["imager"],
        before: "no_clone",
        warm: "warm_folder $WORK/imager",
        command: "$IMAGER clone --full latest --repo $WORK/imager -o $WORK/clone.qcow2",
        result: "clone.qcow2",
        counts: Counts::Allocated,
        after: "no_clone",
        ..NOTHING
    },
];

/// The whole disk, through NBD, by the same client.
pub(super) const SEQUENTIAL: &[Contender] = &[
    Contender {
        tool: "imager verify --read-data",
        needs: &["imager"],
        warm: "warm_folder $WORK/imager",
        command: "$IMAGER verify latest --repo $WORK/imager --read-data",
        ..NOTHING
    },
    Contender {
        tool: "imager serve",
        needs: &["imager"],
        before: "serve_image imager",
        warm: "warm_folder $WORK/imager",
        command: "read_all",
        after: "stop_serving",
        ..NOTHING
    },
    Contender {
        tool: "qemu-nbd, zstd qcow2",
        needs: &["zstd.qcow2"],
        before: "serve_qcow2 zstd.qcow2",
        warm: "warm $WORK/zstd.qcow2",
        command: "read_all",
        after: "stop_serving",
        ..NOTHING
    },
];

/// Anywhere on the disk, from a server that has just been started.
pub(super) const RANDOM_COLD: &[Contender] = &[
    Contender {
        tool: "imager serve",
        needs: &["imager"],
        before: "serve_image imager",
        warm: "warm_folder $WORK/imager",
        command: "random_reads 4096",
        after: "stop_serving",
        ..NOTHING
    },
    Contender {
        tool: "imager serve, small chunks and frames",
        needs: &["imager-small"],
        before: "serve_image imager-small",
        warm: "warm_folder $WORK/imager-small",
        command: "random_reads 4096",
        after: "stop_serving",
        ..NOTHING
    },
    Contender {
        tool: "qemu-nbd, zstd qcow2",
        needs: &["zstd.qcow2"],
        before: "serve_qcow2 zstd.qcow2",
        warm: "warm $WORK/zstd.qcow2",
        command: "random_reads 4096",
        after: "stop_serving",
        ..NOTHING
    },
    Contender {
        tool: "qemu-nbd, zstd qcow2, 2 MiB clusters",
        needs: &["qcow2"],
        before: "serve_qcow2 qcow2",
        warm: "warm $WORK/qcow2",
        command: "random_reads 4096",
        after: "stop_serving",
        ..NOTHING
    },
];

/// Within a part that was read before: what a running machine does most.
pub(super) const RANDOM_CACHED: &[Contender] = &[
    Contender {
        tool: "imager serve",
        needs: &["imager"],
        before: "serve_image imager; random_reads 65536 $READ_BEFORE",
        command: "random_reads 65536 $READ_BEFORE",
        after: "stop_serving",
        ..NOTHING
    },
    Contender {
        tool: "qemu-nbd, zstd qcow2",
        needs: &["zstd.qcow2"],
        before: "serve_qcow2 zstd.qcow2; random_reads 65536 $READ_BEFORE",
        command: "random_reads 65536 $READ_BEFORE",
        after: "stop_serving",
        ..NOTHING
    },
];

/// From power-on to the login prompt, of the same Debian in the same virtual machine.
pub(super) const BOOT: &[Contender] = &[
    Contender {
        tool: "raw disk",
        warm: "warm $DEBIAN",
        command: "boot_until_login file=$DEBIAN,format=raw,snapshot=on",
        ..NOTHING
    },
    Contender {
        tool: "imager clone --linked",
        needs: &["imager-debian"],
        before: "serve_clone",
        warm: "warm_folder $WORK/imager-debian",
        command: "boot_until_login file=$WORK/debian.qcow2,format=qcow2",
        after: "stop_serving; IMAGER_REPO=$WORK/imager-debian $IMAGER clone --release $WORK/debian.qcow2",
        ..NOTHING
    },
];

pub(super) const EXPORT: &[Contender] = &[
    Contender {
        tool: "imager restore to a file",
        needs: &["imager"],
        before: "no_target",
        warm: "warm_folder $WORK/imager",
        command: "$IMAGER restore latest --repo $WORK/imager --to $WORK/target.img",
        result: "target.img",
        counts: Counts::Allocated,
        after: "no_target",
        ..NOTHING
    },
    Contender {
        tool: "imager",
        needs: &["imager"],
        before: "rm -f $WORK/target.qcow2",
        warm: "warm_folder $WORK/imager",
        command: "$IMAGER export latest --repo $WORK/imager --disks-only -o $WORK/target.qcow2",
        result: "target.qcow2",
        counts: Counts::Allocated,
        after: "rm -f $WORK/target.qcow2",
        ..NOTHING
    },
    Contender {
        tool: "imager --compress",
        needs: &["imager"],
        before: "rm -f $WORK/target.qcow2",
        warm: "warm_folder $WORK/imager",
        command: "$IMAGER export latest --repo $WORK/imager --disks-only --compress -o $WORK/target.qcow2",
        result: "target.qcow2",
        counts: Counts::Allocated,
        after: "rm -f $WORK/target.qcow2",
        ..NOTHING
    },
    Contender {
        tool: "qemu-img",
        needs: &["qcow2"],
        before: "rm -f $WORK/target.qcow2",
        warm: "warm $WORK/qcow2",
        command: "qemu-img convert -m 16 -W -O qcow2 $WORK/qcow2 $WORK/target.qcow2",
        result: "target.qcow2",
        counts: Counts::Allocated,
        after: "rm -f $WORK/target.qcow2",
        ..NOTHING
    },
];
