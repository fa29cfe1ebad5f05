//! The way in, and what is kept. Data only.

use super::{Contender, Counts, NOTHING};

pub(super) const CAPTURE: &[Contender] = &[
    Contender {
        tool: "imager -3",
        before: "imager_init $WORK/imager",
        warm: "warm $IMG",
        command: "$IMAGER capture --repo $WORK/imager --level 3 --name bench $IMG",
        result: "imager",
        ..NOTHING
    },
    Contender {
        tool: "imager auto",
        before: "imager_init $WORK/imager-auto",
        warm: "warm $IMG",
        command: "$IMAGER capture --repo $WORK/imager-auto --level auto --name bench $IMG",
        result: "imager-auto",
        ..NOTHING
    },
    Contender {
        tool: "imager -3, small chunks and frames",
        before: "imager_init $WORK/imager-small --chunk-size 32K --frame-size 64K",
        warm: "warm $IMG",
        command: "$IMAGER capture --repo $WORK/imager-small --level 3 --name bench $IMG",
        result: "imager-small",
        ..NOTHING
    },
    Contender {
        tool: "partclone -a0, zstd -3",
        before: "rm -rf $WORK/partclone-a0",
        warm: "warm_partitions",
        command: "partclone_each $WORK/partclone-a0 \"zstd -q -T$CORES -3\" -a0",
        result: "partclone-a0",
        ..NOTHING
    },
    Contender {
        tool: "partclone, zstd -3",
        before: "rm -rf $WORK/partclone",
        warm: "warm_partitions",
        command: "partclone_each $WORK/partclone \"zstd -q -T$CORES -3\"",
        result: "partclone",
        ..NOTHING
    },
    Contender {
        tool: "qemu-img, zstd, 2 MiB clusters",
        before: "rm -f $WORK/qcow2",
        warm: "warm $IMG",
        command: "qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd,cluster_size=2M -m 16 -W $IMG $WORK/qcow2",
        result: "qcow2",
        ..NOTHING
    },
    Contender {
        tool: "restic",
        before: "restic_init $WORK/restic",
        warm: "warm $IMG",
        command: "restic_backup $WORK/restic $IMG",
        result: "restic",
        ..NOTHING
    },
    Contender {
        tool: "borg, zstd,3",
        before: "borg_init $WORK/borg",
        warm: "warm $IMG",
        command: "borg_create $WORK/borg first $IMG",
        result: "borg",
        ..NOTHING
    },
    Contender {
        tool: "dd, zstd -3",
        before: "rm -f $WORK/dd",
        warm: "warm $IMG",
        command: "dd if=$IMG bs=4M status=none | zstd -q -T$CORES -3 > $WORK/dd",
        result: "dd",
        ..NOTHING
    },
    Contender {
        tool: "limit: zstd -3 of the used bytes",
        needs: &["used"],
        warm: "warm $WORK/used",
        command: "zstd -q -T$CORES -3 -c $WORK/used > $WORK/used.zst",
        before: "rm -f $WORK/used.zst",
        result: "used.zst",
        ..NOTHING
    },
];

pub(super) const SECOND_CAPTURE: &[Contender] = &[
    Contender {
        tool: "imager",
        needs: &["imager"],
        before: "copy_of $WORK/imager $WORK/imager-second",
        warm: "warm $DAY2",
        command: "$IMAGER capture --repo $WORK/imager-second --level 3 --name bench $DAY2",
        result: "imager-second",
        after: "rm -rf $WORK/imager-second",
        ..NOTHING
    },
    Contender {
        tool: "restic",
        needs: &["restic"],
        before: "copy_of $WORK/restic $WORK/restic-second",
        warm: "warm $DAY2",
        command: "restic_backup $WORK/restic-second $DAY2",
        result: "restic-second",
        after: "rm -rf $WORK/restic-second",
        ..NOTHING
    },
    Contender {
        tool: "borg, zstd,3",
        needs: &["borg"],
        before: "copy_of $WORK/borg $WORK/borg-second",
        warm: "warm $DAY2",
        command: "borg_create $WORK/borg-second second $DAY2",
        result: "borg-second",
        after: "rm -rf $WORK/borg-second",
        ..NOTHING
    },
    Contender {
        tool: "limit: reading the used bytes",
        needs: &["used"],
        warm: "warm $WORK/used",
        command: "cat $WORK/used > /dev/null",
        ..NOTHING
    },
];

pub(super) const SECOND_MACHINE: &[Contender] = &[
    Contender {
        tool: "imager",
        needs: &["imager-fleet"],
        before: "copy_of $WORK/imager-fleet $WORK/imager-second-machine",
        warm: "warm $FLEET_B",
        command: "$IMAGER capture --repo $WORK/imager-second-machine --level 3 --name b $FLEET_B",
        result: "imager-second-machine",
        after: "rm -rf $WORK/imager-second-machine",
        ..NOTHING
    },
    Contender {
        tool: "restic",
        needs: &["restic-fleet"],
        before: "copy_of $WORK/restic-fleet $WORK/restic-second-machine",
        warm: "warm $FLEET_B",
        command: "restic_backup $WORK/restic-second-machine $FLEET_B",
        result: "restic-second-machine",
        after: "rm -rf $WORK/restic-second-machine",
        ..NOTHING
    },
];

pub(super) const HUGE: &[Contender] = &[
    Contender {
        tool: "imager",
        before: "imager_init $WORK/imager-huge",
        command: "$IMAGER capture --repo $WORK/imager-huge --level 3 --name bench $HUGE",
        result: "imager-huge",
        after: "rm -rf $WORK/imager-huge",
        ..NOTHING
    },
    Contender {
        tool: "partclone -a0, zstd -3",
        before: "attach_partition $HUGE 1 --read-only > $WORK/target.devices",
        command: "partclone.ext4 $PARTCLONE -a0 -c -s $(cat $WORK/target.devices) -o - |
            zstd -q -T$CORES -3 > $WORK/partclone-huge",
        result: "partclone-huge",
        after: "detach_target; rm $WORK/partclone-huge",
        ..NOTHING
    },
];

pub(super) const VERIFY: &[Contender] = &[
    Contender {
        tool: "imager",
        needs: &["imager"],
        warm: "warm_folder $WORK/imager",
        command: "$IMAGER verify --repo $WORK/imager --read-data",
        ..NOTHING
    },
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
        tool: "restic",
        needs: &["restic"],
        warm: "warm_folder $WORK/restic",
        command: "restic -q -r $WORK/restic check --read-data",
        ..NOTHING
    },
    Contender {
        tool: "borg, zstd,3",
        needs: &["borg"],
        warm: "warm_folder $WORK/borg",
        command: "borg check --verify-data $WORK/borg",
        ..NOTHING
    },
];
