//! The way out. Data only.

use super::{Contender, Counts, NOTHING};

pub(super) const RESTORE_TO_FILE: &[Contender] = &[
    Contender {
        tool: "imager",
        needs: &["imager"],
        before: "no_target",
        warm: "warm_folder $WORK/imager",
        command: "$IMAGER restore latest --repo $WORK/imager --to $WORK/target.img",
        result: "target.img",
        counts: Counts::Allocated,
        check: "sound",
        ..NOTHING
    },
    Contender {
        tool: "qemu-img",
        needs: &["qcow2"],
        before: "no_target",
        warm: "warm $WORK/qcow2",
        command: "qemu-img convert -m 16 -W -O raw $WORK/qcow2 $WORK/target.img",
        result: "target.img",
        counts: Counts::Allocated,
        check: "same_as_disk",
        ..NOTHING
    },
    Contender {
        tool: "zstd -d --sparse",
        needs: &["dd"],
        before: "no_target",
        warm: "warm $WORK/dd",
        command: "zstd -q -d --sparse -f -o $WORK/target.img $WORK/dd",
        result: "target.img",
        counts: Counts::Allocated,
        check: "same_as_disk",
        ..NOTHING
    },
    Contender {
        tool: "restic",
        needs: &["restic"],
        before: "no_target",
        warm: "warm_folder $WORK/restic",
        command: "restic -q -r $WORK/restic dump latest disk.img |
            dd of=$WORK/target.img bs=4M iflag=fullblock conv=sparse status=none",
        result: "target.img",
        counts: Counts::Allocated,
        ..NOTHING
    },
    Contender {
        tool: "limit: writing the used bytes",
        needs: &["used"],
        before: "no_target",
        warm: "warm $WORK/used",
        command: "dd if=$WORK/used of=$WORK/target.img bs=4M status=none",
        result: "target.img",
        counts: Counts::Allocated,
        after: "no_target",
        ..NOTHING
    },
    Contender {
        tool: "limit: decompressing them, one thread",
        needs: &["used.zst"],
        warm: "warm $WORK/used.zst",
        command: "zstd -q -d -c $WORK/used.zst > /dev/null",
        ..NOTHING
    },
];

pub(super) const RESTORE_TO_DEVICE: &[Contender] = &[
    Contender {
        tool: "imager",
        needs: &["imager"],
        before: "target_device",
        warm: "warm_folder $WORK/imager",
        command: "device=$(cat $WORK/target.devices)
            $IMAGER restore latest --repo $WORK/imager --to $device --confirm $device",
        result: "target.img",
        counts: Counts::Allocated,
        after: "detach_target",
        check: "sound",
    },
    Contender {
        tool: "partclone.restore of -a0",
        needs: &["partclone-a0"],
        before: "target_partitions",
        warm: "warm_folder $WORK/partclone-a0",
        command: "partclone_restore_each $WORK/partclone-a0",
        result: "target.img",
        counts: Counts::Allocated,
        after: "detach_target",
        check: "sound",
    },
    Contender {
        tool: "partclone.restore",
        needs: &["partclone"],
        before: "target_partitions",
        warm: "warm_folder $WORK/partclone",
        command: "partclone_restore_each $WORK/partclone",
        result: "target.img",
        counts: Counts::Allocated,
        after: "detach_target",
        check: "sound",
    },
    Contender {
        tool: "qemu-img",
        needs: &["qcow2"],
        before: "target_device",
        warm: "warm $WORK/qcow2",
        command: "qemu-img convert -n --target-is-zero -m 16 -W -O raw $WORK/qcow2 $(cat $WORK/target.devices)",
        result: "target.img",
        counts: Counts::Allocated,
        after: "detach_target",
        check: "same_as_disk",
    },
    Contender {
        tool: "zstd -d, dd conv=sparse",
        needs: &["dd"],
        before: "target_device",
        warm: "warm $WORK/dd",
        command: "zstd -q -d -c $WORK/dd |
            dd of=$(cat $WORK/target.devices) bs=4M iflag=fullblock conv=sparse status=none",
        result: "target.img",
        counts: Counts::Allocated,
        after: "detach_target",
        check: "same_as_disk",
    },
];
