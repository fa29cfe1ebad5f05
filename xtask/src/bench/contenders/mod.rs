//! What is measured: each subject, and each tool's command line for it. Data only.

mod backup;
mod machine;
mod restore;

use backup::{CAPTURE, HUGE, SECOND_CAPTURE, SECOND_MACHINE, VERIFY};
use machine::{BOOT, CLONE, EXPORT, RANDOM_CACHED, RANDOM_COLD, SEQUENTIAL};
use restore::{RESTORE_TO_DEVICE, RESTORE_TO_FILE};

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
    Subject { name: "clone", reference: "imager --linked", heat_mib: 7168, contenders: CLONE },
    Subject {
        name: "sequential reads by NBD",
        reference: "imager verify --read-data",
        heat_mib: 3072,
        contenders: SEQUENTIAL,
    },
    Subject { name: "random reads by NBD, cold", reference: "imager serve", heat_mib: 3072, contenders: RANDOM_COLD },
    Subject {
        name: "random reads by NBD, cached",
        reference: "imager serve",
        heat_mib: 3072,
        contenders: RANDOM_CACHED,
    },
    Subject { name: "boot", reference: "raw disk", heat_mib: 3072, contenders: BOOT },
    Subject { name: "verify", reference: "imager", heat_mib: 3072, contenders: VERIFY },
    Subject { name: "1 TiB with 1 GiB used", reference: "imager", heat_mib: 3072, contenders: HUGE },
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
        before: "imager_init $WORK/imager-debian",
        command: "$IMAGER capture --repo $WORK/imager-debian --name debian $DEBIAN",
        result: "imager-debian",
        ..NOTHING
    },
    // As people make them, with clusters of 64 KiB.
    Contender {
        command: "qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd -m 16 -W $IMG $WORK/zstd.qcow2",
        result: "zstd.qcow2",
        ..NOTHING
    },
    Contender {
        before: "restic_init $WORK/restic-fleet",
        command: "restic_backup $WORK/restic-fleet $FLEET_A",
        result: "restic-fleet",
        ..NOTHING
    },
];
