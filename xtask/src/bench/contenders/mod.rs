//! What is measured: each subject, and each tool's command line for it. Data only.

/// A question that several tools answer.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    /// The tool whose time is 1.
    pub(crate) reference: &'static str,
    /// How much free memory is touched first; what is written lands there.
    pub(crate) heat_mib: u64,
    pub(crate) contenders: &'static [Contender],
}

/// One tool's way. All scripts are run by bash with the functions of `helpers.sh`.
pub(crate) struct Contender {
    pub(crate) tool: &'static str,
    /// Results of others that it starts from.
    pub(crate) needs: &'static [&'static str],
    /// Not measured: makes room, copies a repository.
    pub(crate) before: &'static str,
    /// Not measured: reads the input once, so that no tool waits for a disk that another did not wait for.
    pub(crate) warm: &'static str,
    /// Measured.
    pub(crate) command: &'static str,
    /// What it makes or lets grow, below the work folder.
    pub(crate) result: &'static str,
    pub(crate) counts: Counts,
    /// Not measured: detaches.
    pub(crate) after: &'static str,
    /// The first time: fails when the result is wrong.
    pub(crate) check: &'static str,
}

/// Which bytes of the result are its size.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counts {
    /// Those in its files.
    Stored,
    /// Those that a sparse file has room for.
    Allocated,
}

impl Subject {
    pub(crate) fn title(&self, contender: &Contender) -> String {
        format!("{}/{}", self.name, contender.tool)
    }
}

impl Contender {
    /// True when a script of its own, or one for something that it needs, has this in it.
    pub(crate) fn uses(&self, text: &str) -> bool {
        [self.before, self.warm, self.command].iter().any(|script| script.contains(text))
            || self.needs.iter().any(|need| need.contains(text))
    }
}

/// Whose result this is.
pub(crate) fn maker_of(result: &str) -> Option<&'static Contender> {
    SUBJECTS.iter().flat_map(|subject| subject.contenders).chain(PREPARED).find(|contender| contender.result == result)
}

const NOTHING: Contender = Contender {
    tool: "",
    needs: &[],
    before: "",
    warm: "",
    command: "",
    result: "",
    counts: Counts::Stored,
    after: "",
    check: "",
};

/// Those whose tool begins with "limit" only tell what no tool can beat.
pub(crate) const SUBJECTS: &[Subject] = &[
    Subject { name: "capture", reference: "imager -3", heat_mib: 3072, contenders: CAPTURE },
    Subject { name: "second capture", reference: "imager", heat_mib: 3072, contenders: SECOND_CAPTURE },
    Subject { name: "second machine", reference: "imager", heat_mib: 3072, contenders: SECOND_MACHINE },
    Subject { name: "restore to a file", reference: "imager", heat_mib: 7168, contenders: RESTORE_TO_FILE },
    Subject { name: "restore to a device", reference: "imager", heat_mib: 7168, contenders: RESTORE_TO_DEVICE },
    Subject { name: "export to qcow2", reference: "imager restore to a file", heat_mib: 7168, contenders: EXPORT },
    Subject { name: "verify", reference: "imager", heat_mib: 3072, contenders: VERIFY },
    Subject { name: "1 TiB with 1 GiB used", reference: "imager", heat_mib: 3072, contenders: HUGE },
];

const CAPTURE: &[Contender] = &[
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

const SECOND_CAPTURE: &[Contender] = &[
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

const SECOND_MACHINE: &[Contender] = &[
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

const RESTORE_TO_FILE: &[Contender] = &[
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

const RESTORE_TO_DEVICE: &[Contender] = &[
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

const EXPORT: &[Contender] = &[
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

const VERIFY: &[Contender] = &[
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

const HUGE: &[Contender] = &[
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

/// What some contenders start from and nobody is measured making.
const PREPARED: &[Contender] = &[
    Contender { command: "used_bytes > $WORK/used", result: "used", ..NOTHING },
    Contender {
        before: "imager_init $WORK/imager-fleet",
        command: "$IMAGER capture --repo $WORK/imager-fleet --level 3 --name a $FLEET_A",
        result: "imager-fleet",
        ..NOTHING
    },
    Contender {
        before: "restic_init $WORK/restic-fleet",
        command: "restic_backup $WORK/restic-fleet $FLEET_A",
        result: "restic-fleet",
        ..NOTHING
    },
];
