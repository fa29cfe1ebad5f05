//! What the words mean: understood as far as that goes without looking at the machine.
//!
//! Must not know: which disks there are.

use imager::disk::identity::Identity;
use imager::units;

use super::words::Values;
use crate::job::Power;
use crate::places::Spot;

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) work: Work,
    pub(super) repository: Spot,
    pub(super) password_file: Option<FileAt>,
    pub(super) make_repository: bool,
    pub(super) then: Option<Power>,
}

#[derive(Debug)]
pub(super) enum Work {
    Capture { disks: Vec<Choice>, name: Option<String>, note: Option<String>, level: Option<String> },
    Restore { image: String, targets: Vec<Target>, confirm: Vec<String> },
    Verify { image: Option<String> },
}

/// Where one of the image's disks goes.
#[derive(Debug)]
pub(super) struct Target {
    /// `disk1`; none for an image of one disk.
    pub(super) disk: Option<String>,
    pub(super) choice: Choice,
}

/// A file, in the initramfs or on a file system.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileAt {
    Here(std::path::PathBuf),
    Place(Spot),
    /// `http://HOST[:PORT]/PATH`.
    Web(String),
}

impl FileAt {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("http://") {
            return Ok(Self::Web(text.to_owned()));
        }
        if text.starts_with('/') && !text.starts_with("/dev/") {
            return Ok(Self::Here(text.into()));
        }
        Spot::parse(text).map(Self::Place)
    }
}

/// Which disks are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Serial(String),
    Wwn(String),
    Size(u64),
    Only,
    All,
}

/// Shown sizes have three digits.
const SIZE_TOLERANCE: u64 = 100;

impl Choice {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("serial", serial)) if !serial.is_empty() => Ok(Self::Serial(serial.to_owned())),
            Some(("wwn", wwn)) if !wwn.is_empty() => Ok(Self::Wwn(wwn.to_owned())),
            Some(("size", size)) => units::parse_size(size).map(Self::Size),
            None if text == "only" => Ok(Self::Only),
            None if text == "all" => Ok(Self::All),
            _ => Err(format!("{text:?} says no disk: give serial:S, wwn:W, size:N, only or all")),
        }
    }

    /// The disks that are meant; `others` are those that may be meant by `only` and `all`.
    ///
    /// # Errors
    /// When there is none, or when it is not clear which one is meant.
    pub(super) fn find<'a>(&self, disks: &'a [Identity], others: &[&'a Identity]) -> Result<Vec<&'a Identity>, String> {
        let shown = |disks: &[&Identity]| {
            let lines: Vec<String> = disks
                .iter()
                .map(|disk| format!("{} ({disk}, {})", disk.path.display(), units::size(disk.size)))
                .collect();
            if lines.is_empty() { "none".to_owned() } else { lines.join("; ") }
        };
        let every: Vec<&Identity> = disks.iter().collect();
        let (found, candidates): (Vec<&Identity>, Vec<&Identity>) = match self {
            Self::Serial(serial) => {
                (every.iter().copied().filter(|disk| disk.serial.as_ref() == Some(serial)).collect(), every)
            }
            Self::Wwn(wwn) => (
                every
                    .iter()
                    .copied()
                    .filter(|disk| disk.wwn.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(wwn)))
                    .collect(),
                every,
            ),
            Self::Size(size) => {
                let tolerance = size / SIZE_TOLERANCE;
                (
                    others.iter().copied().filter(|disk| disk.size.abs_diff(*size) <= tolerance).collect(),
                    others.to_vec(),
                )
            }
            Self::Only | Self::All => (others.to_vec(), others.to_vec()),
        };
        match (found.len(), self) {
            (0, _) => Err(format!("no disk is {self}; there are: {}", shown(&candidates))),
            (1, _) | (_, Self::All) => Ok(found),
            _ => Err(format!("several disks are {self}: {}; name one by its serial number", shown(&found))),
        }
    }
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Serial(serial) => write!(f, "serial:{serial}"),
            Self::Wwn(wwn) => write!(f, "wwn:{wwn}"),
            Self::Size(size) => write!(f, "size:{}", units::size(*size)),
            Self::Only => f.write_str("the only one"),
            Self::All => f.write_str("there"),
        }
    }
}

/// Understands the words.
///
/// # Errors
/// All that is wrong or missing, a line each.
pub(super) fn understand(values: &Values) -> Result<Plan, Vec<String>> {
    let mut wrong = Vec::new();
    let text = |name: &str| values.get(name).cloned();
    let mut note = |problem: String| wrong.push(problem);
    let repository = match values.get("lifeboat.repo") {
        Some(repo) => Spot::parse(repo).map_err(|error| note(format!("lifeboat.repo: {error}"))).ok(),
        None => {
            note("lifeboat.repo is missing: which repository?".to_owned());
            None
        }
    };
    let password_file = values
        .get("lifeboat.password-file")
        .and_then(|file| FileAt::parse(file).map_err(|error| note(format!("lifeboat.password-file: {error}"))).ok());
    if matches!(password_file, Some(FileAt::Web(_))) {
        note("lifeboat.password-file: everybody in the network could read a password that comes by http".to_owned());
    }
    let make_repository = one_of(values, "lifeboat.init", &[("yes", true), ("no", false)], &mut note).unwrap_or(false);
    let powers = [("poweroff", Some(Power::Off)), ("reboot", Some(Power::Reboot)), ("nothing", None)];
    let then = one_of(values, "lifeboat.then", &powers, &mut note).flatten();
    let work = match values.get("lifeboat.job").map(String::as_str) {
        Some("capture") => capture(values, &mut note),
        Some("restore") => restore(values, &mut note),
        Some("verify") => Some(Work::Verify { image: text("lifeboat.image") }),
        Some(other) => {
            note(format!("lifeboat.job={other}: give capture, restore or verify"));
            None
        }
        None => {
            note("lifeboat.job is missing: give capture, restore or verify".to_owned());
            None
        }
    };
    match (work, repository) {
        (Some(work), Some(repository)) if wrong.is_empty() => {
            Ok(Plan { work, repository, password_file, make_repository, then })
        }
        _ => Err(wrong),
    }
}

fn one_of<T: Copy>(values: &Values, name: &str, known: &[(&str, T)], note: &mut impl FnMut(String)) -> Option<T> {
    let value = values.get(name)?;
    let found = known.iter().find(|(word, _)| word == value).map(|(_, meaning)| *meaning);
    if found.is_none() {
        let known: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
        note(format!("{name}={value}: give {}", known.join(" or ")));
    }
    found
}

fn capture(values: &Values, note: &mut impl FnMut(String)) -> Option<Work> {
    let text = |name: &str| values.get(name).cloned();
    let Some(disks) = values.get("lifeboat.disk") else {
        note("lifeboat.disk is missing: which disks?".to_owned());
        return None;
    };
    let disks = disks
        .split(',')
        .filter_map(|disk| Choice::parse(disk).map_err(|error| note(format!("lifeboat.disk: {error}"))).ok());
    let disks = disks.collect();
    let level = text("lifeboat.level");
    if level.as_ref().is_some_and(|level| level != "auto" && !level.parse().is_ok_and(|n: u8| (1..=22).contains(&n))) {
        note("lifeboat.level: give auto, or a number from 1 to 22".to_owned());
    }
    Some(Work::Capture { disks, name: text("lifeboat.name"), note: text("lifeboat.note"), level })
}

fn restore(values: &Values, note: &mut impl FnMut(String)) -> Option<Work> {
    let Some(targets) = values.get("lifeboat.target") else {
        note("lifeboat.target is missing: which disk is to be overwritten?".to_owned());
        return None;
    };
    let targets = targets.split(',').filter_map(|target| {
        let (disk, choice) = match target.split_once('=') {
            Some((disk, choice)) if disk.starts_with("disk") => (Some(disk.to_owned()), choice),
            _ => (None, target),
        };
        match Choice::parse(choice) {
            Ok(Choice::All) => {
                note("lifeboat.target: say which disk; `all` would erase every one".to_owned());
                None
            }
            Ok(choice) => Some(Target { disk, choice }),
            Err(error) => {
                note(format!("lifeboat.target: {error}"));
                None
            }
        }
    });
    let targets: Vec<Target> = targets.collect();
    if targets.len() > 1 && targets.iter().any(|target| target.disk.is_none()) {
        note("lifeboat.target: for several disks say which one goes where: disk0=serial:S,disk1=serial:T".to_owned());
    }
    let confirm: Vec<String> =
        values.get("lifeboat.confirm").into_iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
    if confirm.is_empty() {
        note("lifeboat.confirm is missing: a restore erases its target, and does nothing without that disk's serial number: lifeboat.confirm=SERIAL".to_owned());
    }
    let image = values.get("lifeboat.image").cloned().unwrap_or_else(|| "latest".to_owned());
    Some(Work::Restore { image, targets, confirm })
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    fn plan(line: &str) -> Result<Plan, Vec<String>> {
        understand(&words::parse(line).unwrap())
    }

    fn disk(path: &str, serial: &str, size: u64) -> Identity {
        let mut disk = imager::disk::identity::of_new_file(path.into(), size);
        disk.serial = Some(serial.to_owned());
        disk.wwn = Some(format!("0x{serial}"));
        disk
    }

    #[test]
    fn a_capture_is_understood() {
        let plan = plan(
            "lifeboat.job=capture lifeboat.disk=serial:A,size:8G lifeboat.repo=label:B/r lifeboat.init=yes lifeboat.then=poweroff lifeboat.password-file=/etc/p",
        );
        let plan = plan.unwrap();
        let Work::Capture { disks, level: None, .. } = plan.work else { panic!("{:?}", plan.work) };
        assert_eq!(disks, [Choice::Serial("A".into()), Choice::Size(8 << 30)]);
        assert_eq!((plan.make_repository, plan.then), (true, Some(Power::Off)));
        assert_eq!(plan.password_file, Some(FileAt::Here("/etc/p".into())));
    }

    #[test]
    fn a_restore_without_confirmation_is_none() {
        let line = "lifeboat.job=restore lifeboat.target=serial:A lifeboat.repo=label:B";
        let wrong = plan(line).unwrap_err();
        assert!(wrong.len() == 1 && wrong[0].contains("lifeboat.confirm"), "{wrong:?}");
        let plan = plan(&format!("{line} lifeboat.confirm=A")).unwrap();
        let Work::Restore { image, targets, confirm } = plan.work else { panic!("{:?}", plan.work) };
        assert_eq!((image.as_str(), targets.len(), confirm), ("latest", 1, vec!["A".to_owned()]));
    }

    #[test]
    fn everything_wrong_is_said() {
        for (line, count) in [
            ("lifeboat.job=capture", 2),
            ("lifeboat.job=fly lifeboat.repo=label:B", 1),
            (
                "lifeboat.job=capture lifeboat.repo=nfs:x lifeboat.disk=sda,foo:x lifeboat.then=dance lifeboat.level=99",
                5,
            ),
            ("lifeboat.job=restore lifeboat.repo=label:B lifeboat.confirm=X lifeboat.target=all", 1),
            ("lifeboat.job=restore lifeboat.repo=label:B lifeboat.confirm=X lifeboat.target=serial:A,serial:B", 1),
            ("lifeboat.job=verify lifeboat.repo=label:B lifeboat.password-file=http://x/y", 1),
            ("lifeboat.repo=label:B", 1),
        ] {
            let wrong = plan(line).unwrap_err();
            assert_eq!(wrong.len(), count, "{line}: {wrong:?}");
        }
    }

    #[test]
    fn disks_are_found_and_never_guessed() {
        let disks = [disk("/dev/sda", "A", 8 << 30), disk("/dev/sdb", "B", 8 << 30), disk("/dev/sdc", "C", 500 << 30)];
        let all: Vec<&Identity> = disks.iter().collect();
        let paths = |choice: &str, others: &[&Identity]| {
            let found = Choice::parse(choice).unwrap().find(&disks, others).map_err(|error| error.to_string());
            found.map(|found| found.iter().map(|disk| disk.path.display().to_string()).collect::<Vec<_>>())
        };
        assert_eq!(paths("serial:B", &[]).unwrap(), ["/dev/sdb"]);
        assert_eq!(paths("wwn:0xc", &all).unwrap(), ["/dev/sdc"]);
        assert_eq!(paths("size:500G", &all).unwrap(), ["/dev/sdc"]);
        assert!(paths("size:8G", &all).unwrap_err().contains("several disks"));
        assert_eq!(paths("size:8G", &all[1..]).unwrap(), ["/dev/sdb"]);
        assert!(paths("only", &all).unwrap_err().contains("several disks"));
        assert_eq!(paths("only", &all[2..]).unwrap(), ["/dev/sdc"]);
        assert_eq!(paths("all", &all).unwrap().len(), 3);
        assert!(paths("all", &[]).unwrap_err().contains("there are: none"));
        assert!(paths("serial:X", &all).unwrap_err().contains("serial B"));
    }
}
