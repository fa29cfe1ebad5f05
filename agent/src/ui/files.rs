//! The files of an image, held open, and what the screens see of its directories.
//!
//! Must not know: screens, how file systems lie on a disk.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use imager::Error;
use imager::files::screen::{escaped, letters, moment};
use imager::files::{self, Entry, FileSystem, Kind, NodeId, Ownership, Stat, fold_case, unwrapped};
use imager::fs::FsError;
use imager::image_disk::Shelf;
use imager::memory::Budget;
use imager::repo::Repository;
use imager::repo::store::CrateStore;
use zeroize::Zeroizing;

use super::state::Ticket;

/// Links that are followed on the way to one place, as many as Linux follows.
const LINKS_MAX: usize = 40;
/// Names of one directory that are shown; a page of 5,000 is more than anybody reads.
pub(crate) const LISTED_MAX: usize = 5_000;
/// Names of one directory that are counted. A forged directory may seem endless.
const COUNTED_MAX: usize = 1_000_000;
/// Decompressed frames that are kept: directories are small, and memory may be.
const CACHE_BYTES: u64 = 32 << 20;

/// Which file system of which image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The repository's directory.
    pub repository: PathBuf,
    /// Its password.
    pub password: Option<String>,
    /// The image's id.
    pub image: String,
    /// Which disk of the image, from 0.
    pub disk: usize,
    /// Which partition; none for the bare disk.
    pub partition: Option<u32>,
}

/// A file system that is open. It is closed when nobody holds it any more.
#[derive(Clone)]
pub(crate) struct Files {
    system: Arc<dyn FileSystem>,
    /// The newest question: who works on an older one may stop.
    newest: Arc<AtomicU64>,
}

impl fmt::Debug for Files {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Files").finish_non_exhaustive()
    }
}

/// The same one, not one that is alike.
impl PartialEq for Files {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.newest, &other.newest)
    }
}

impl Eq for Files {}

/// A directory, as far as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    /// The first of the names that were asked for, in order.
    pub entries: Vec<File>,
    /// Names that are in it.
    pub count: usize,
    /// Names among them that were asked for.
    pub matching: usize,
    /// There are more than were counted.
    pub is_endless: bool,
    /// Why there may be more in it than is shown, or nothing.
    pub problem: Option<String>,
}

/// A name in a directory. All text is safe to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// Its name, escaped.
    pub name: String,
    /// The name as `imager cp` takes it; none for one that cannot be given to it.
    pub argument: Option<String>,
    /// Which file.
    pub node: NodeId,
    /// What it is; or why nobody knows.
    pub facts: Result<Facts, String>,
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// What it is.
    pub kind: Kind,
    /// Bytes in it.
    pub size: u64,
    /// Its kind and mode, `drwxr-xr-x`; only the kind where the file system has no modes.
    pub mode: String,
    /// Owner and group, where there are some.
    pub owner: Option<(u32, u32)>,
    /// Last written, in UTC.
    pub modified: String,
    /// Where a symbolic link leads, escaped.
    pub target: Option<String>,
}

/// Where a symbolic link leads, within its file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Led {
    /// So many of the directories on the way to the link are on the way there, too.
    pub kept: usize,
    /// The directories from there on.
    pub through: Vec<Through>,
    /// What is meant in the last directory, when that is no directory.
    pub file: Option<NodeId>,
}

/// A directory on the way to where a link leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Through {
    /// Its name, escaped.
    pub name: String,
    /// The name as `imager cp` takes it; none for one that cannot be given to it without doubt.
    pub argument: Option<String>,
    /// Which directory.
    pub node: NodeId,
}

impl File {
    /// It leads elsewhere.
    pub(crate) fn is_link(&self) -> bool {
        self.facts.as_ref().is_ok_and(|facts| facts.kind == Kind::Symlink)
    }

    /// It can be gone into.
    pub(crate) fn is_directory(&self) -> bool {
        self.facts.as_ref().is_ok_and(|facts| facts.kind == Kind::Directory)
    }
}

impl Files {
    /// Holds a file system.
    pub(crate) fn new(system: Arc<dyn FileSystem>) -> Self {
        Self { system, newest: Arc::default() }
    }

    /// Its root directory.
    pub(crate) fn root(&self) -> NodeId {
        self.system.root()
    }

    /// Opens one of an image.
    ///
    /// # Errors
    /// In words, with what to do.
    pub(super) fn open(wanted: &Wanted) -> Result<Self, String> {
        let opened = || -> imager::Result<Self> {
            let repository = Repository::open(Arc::new(CrateStore::local(&wanted.repository)?), || {
                let password = wanted.password.as_ref().ok_or(Error::PasswordNeeded)?;
                Ok(Zeroizing::new(password.as_bytes().to_vec()))
            })?;
            let (_, manifest) = repository.find_image(&wanted.image)?;
            let shelf = Shelf::open(Arc::new(repository), Budget::new(CACHE_BYTES))?;
            Ok(Self::new(files::open(&shelf, &manifest, wanted.disk, wanted.partition)?))
        };
        opened().map_err(|error| match error {
            Error::FileSystem(error @ FsError::Unsupported(_)) => {
                format!("Its files cannot be shown: {error}. Restore the disk to get at them, or choose another partition.")
            }
            Error::FileSystem(error) => format!(
                "Its file system is damaged: {error}. It was so when the image was taken, unless \"Verify\" finds damage; \
                 choose another partition, or an older image."
            ),
            error => format!(
                "It cannot be opened: {error}. Check the disk or stick that the repository is on, then try again; \
                 \"Verify\" says what is damaged."
            ),
        })
    }

    /// What is in a directory and has `part` in its name, as it is shown and in whatever case; none when something else
    /// was asked for meanwhile.
    pub(super) fn list(&self, ticket: Ticket, directory: NodeId, part: &str) -> Option<Listing> {
        let part = part.to_uppercase();
        self.newest.fetch_max(ticket, Ordering::Relaxed);
        let is_old = || self.newest.load(Ordering::Relaxed) > ticket;
        let mut listing = Listing::default();
        // The first names only: however many there are, memory holds no more of them.
        let mut kept: BTreeMap<(Vec<u8>, NodeId), Entry> = BTreeMap::new();
        let listed = self.system.list(directory, &mut |entry| {
            if is_old() || listing.count >= COUNTED_MAX {
                listing.is_endless = true;
                return ControlFlow::Break(());
            }
            listing.count += 1;
            if !part.is_empty() && !escaped(&entry.name).to_uppercase().contains(&part) {
                return ControlFlow::Continue(());
            }
            listing.matching += 1;
            kept.insert((entry.name.clone(), entry.node), entry);
            if kept.len() > LISTED_MAX {
                kept.pop_last();
            }
            ControlFlow::Continue(())
        });
        listing.problem = listed.err().map(in_words);
        let ambiguous = self.ambiguous(directory, kept.values(), &is_old);
        let has_modes = self.system.description().ownership == Ownership::Unix;
        for entry in kept.into_values() {
            if is_old() {
                return None;
            }
            let facts = self.system.stat(entry.node).map_err(in_words);
            listing.entries.push(File {
                name: escaped(&entry.name),
                argument: argument(&entry.name).filter(|argument| !ambiguous.contains(&fold_case(argument.as_bytes()))),
                node: entry.node,
                facts: facts.map(|stat| self.facts(&stat, has_modes)),
            });
        }
        (!is_old()).then_some(listing)
    }

    /// Where a symbolic link leads that lies in the last of the directories `way`, which come from the root on.
    ///
    /// # Errors
    /// In words: that it leads out of this file system, to nothing, or in a circle; or that something on the way is
    /// damaged.
    pub(super) fn follow(&self, way: &[NodeId], link: NodeId) -> Result<Led, String> {
        let damaged =
            |error: FsError| format!("Something on the way to where it leads is damaged: {}", in_words(error));
        let mut led = Led { kept: way.len(), ..Led::default() };
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut next = Some(link);
        let mut links = 0;
        loop {
            if let Some(link) = next.take() {
                links += 1;
                if links > LINKS_MAX {
                    return Err("It leads in a circle of links.".to_owned());
                }
                let target = self.system.read_link(link).map_err(damaged)?;
                // A drive's letter stands for this partition, if for any that can be seen here.
                let drive = |target: &[u8]| matches!(target, [letter, b':', b'/', ..] if letter.is_ascii_alphabetic());
                let rest = if drive(&target) { target.get(2..).unwrap_or_default() } else { &target };
                if rest.starts_with(b"/") {
                    (led.kept, led.through) = (0, Vec::new());
                }
                names.extend(rest.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
            }
            let Some(name) = names.pop() else { return Ok(led) };
            match (&*name, led.through.is_empty(), led.kept) {
                (b"" | b".", ..) => continue,
                (b"..", true, 0) => return Err("It leads out of this partition: look on the others.".to_owned()),
                (b"..", true, _) => {
                    led.kept -= 1;
                    continue;
                }
                (b"..", false, _) => {
                    led.through.pop();
                    continue;
                }
                _ => {}
            }
            let above = led.kept.checked_sub(1).and_then(|last| way.get(last)).copied();
            let here = led.through.last().map(|through| through.node).or(above).unwrap_or(self.root());
            let Some(entry) = self.system.lookup(here, &name).map_err(damaged)? else {
                return Err(format!(
                    "There is no {} on this partition where it leads. What was mounted there in the running system lies on \
                     another partition, or the link leads to nothing.",
                    escaped(&name)
                ));
            };
            match self.system.stat(entry.node).map_err(damaged)?.kind {
                Kind::Symlink => next = Some(entry.node),
                Kind::Directory => led.through.push(Through {
                    argument: argument(&entry.name).filter(|_| is_text(&entry.name)),
                    name: escaped(&entry.name),
                    node: entry.node,
                }),
                _ if names.iter().all(|name| matches!(&**name, b"" | b".")) => {
                    led.file = Some(entry.node);
                    return Ok(led);
                }
                kind => {
                    return Err(format!(
                        "It leads through {} as if that were a directory, but it is a {}.",
                        escaped(&name),
                        kind.word()
                    ));
                }
            }
        }
    }

    /// Names that only their escapes can stand for, where another file is called as those escapes are.
    fn ambiguous<'a>(
        &self,
        directory: NodeId,
        entries: impl Iterator<Item = &'a Entry>,
        is_old: &dyn Fn() -> bool,
    ) -> HashSet<Vec<u8>> {
        let escapes = entries.filter(|entry| !is_text(&entry.name)).map(|entry| escaped(&entry.name));
        let escapes: HashSet<Vec<u8>> = escapes.map(|text| fold_case(text.as_bytes())).collect();
        let (mut found, mut seen) = (HashSet::new(), 0);
        if !escapes.is_empty() {
            // What a damaged directory does not say, it has not said before either.
            let _ = self.system.list(directory, &mut |entry| {
                seen += 1;
                let folded = fold_case(&entry.name);
                if escapes.contains(&folded) {
                    found.insert(folded);
                }
                if is_old() || seen >= COUNTED_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        }
        found
    }

    fn facts(&self, stat: &Stat, has_modes: bool) -> Facts {
        let target = (stat.kind == Kind::Symlink).then(|| self.system.read_link(stat.node).ok()).flatten();
        let mode = if has_modes { letters(stat.permissions) } else { String::new() };
        Facts {
            kind: stat.kind,
            size: stat.size,
            mode: format!("{}{mode}", stat.kind.letter()),
            owner: has_modes.then_some((stat.uid, stat.gid)),
            modified: moment(stat.modified),
            target: target.map(|target| escaped(&target)),
        }
    }
}

fn in_words(error: FsError) -> String {
    unwrapped(error).to_string()
}

/// A name that an argument can have as it is.
fn is_text(name: &[u8]) -> bool {
    !name.contains(&0) && std::str::from_utf8(name).is_ok()
}

/// A name as `imager cp` takes it in a path. None for one that no path can have.
fn argument(name: &[u8]) -> Option<String> {
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
        return None;
    }
    match std::str::from_utf8(name) {
        Ok(text) if is_text(name) => Some(text.to_owned()),
        _ => Some(escaped(name)),
    }
}

/// A path in `root` that is called `name`, or `name-2` and so on, where nothing is yet.
///
/// # Errors
/// In words, with what to do.
pub(super) fn free_name(root: &Path, name: &str) -> Result<PathBuf, String> {
    let others = (2..10_000).map(|number| format!("{name}-{number}"));
    for name in std::iter::once(name.to_owned()).chain(others) {
        let path = root.join(name);
        match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(format!("{}: {error}. Choose another place.", path.display())),
            Ok(_) => {}
        }
    }
    Err(format!("{} has too many copies called {name}. Choose another place.", root.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use imager::files::{Case, Description, Time, Xattr};

    /// A root directory with these names; some files cannot be looked at.
    struct Names(Vec<Vec<u8>>, Description);

    impl FileSystem for Names {
        fn description(&self) -> &Description {
            &self.1
        }

        fn root(&self) -> NodeId {
            NodeId(0)
        }

        fn stat(&self, node: NodeId) -> Result<Stat, FsError> {
            if node == NodeId(1) {
                return Err(FsError::corrupt(512, "an inode that is none"));
            }
            let time = Time::default();
            Ok(Stat {
                node,
                kind: Kind::File,
                size: node.0,
                stored: 0,
                permissions: 0o640,
                uid: 5,
                gid: 6,
                links: 1,
                device: (0, 0),
                accessed: time,
                modified: time,
                changed: time,
                created: None,
            })
        }

        fn list(&self, _: NodeId, visit: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), FsError> {
            for (node, name) in (1..).zip(&self.0) {
                if visit(Entry { name: name.clone(), node: NodeId(node), kind: None }).is_break() {
                    break;
                }
            }
            Ok(())
        }

        fn open(&self, _: NodeId) -> Result<Box<dyn files::File>, FsError> {
            Err(FsError::unsupported("reading"))
        }

        fn read_link(&self, _: NodeId) -> Result<Vec<u8>, FsError> {
            Err(FsError::unsupported("links"))
        }

        fn xattrs(&self, _: NodeId) -> Result<Vec<Xattr>, FsError> {
            Ok(Vec::new())
        }
    }

    fn description() -> Description {
        Description {
            kind: "ext4".into(),
            label: None,
            block_size: 4096,
            size: 1 << 20,
            case: Case::Differs,
            ownership: Ownership::Unix,
            warnings: Vec::new(),
        }
    }

    fn with(names: Vec<Vec<u8>>) -> Files {
        Files::new(Arc::new(Names(names, description())))
    }

    #[test]
    fn of_a_huge_directory_the_first_names_are_kept_and_all_are_counted() {
        let names = (0..100_000u32).rev().map(|number| format!("{number:06}").into_bytes()).collect();
        let listing = with(names).list(1, NodeId(0), "").unwrap();
        assert_eq!((listing.entries.len(), listing.count, listing.is_endless), (LISTED_MAX, 100_000, false));
        assert_eq!((&*listing.entries[0].name, &*listing.entries[LISTED_MAX - 1].name), ("000000", "004999"));
    }

    #[test]
    fn of_a_huge_directory_names_are_found_by_a_part_of_them() {
        let names = (0..20_000u32).map(|number| format!("Log-{number:05}\u{7}").into_bytes()).collect();
        let files = with(names);
        let listing = files.list(1, NodeId(0), "g-1998").unwrap();
        let names: Vec<&str> = listing.entries.iter().map(|entry| &*entry.name).collect();
        assert_eq!((names.len(), names[0], listing.matching, listing.count), (10, "Log-19980\\x07", 10, 20_000));
        // As it is shown, in whatever case.
        assert_eq!(files.list(2, NodeId(0), "LOG-00007\\X07").unwrap().matching, 1);
        let listing = files.list(3, NodeId(0), "nowhere").unwrap();
        assert_eq!((listing.entries.len(), listing.matching, listing.count), (0, 0, 20_000));
    }

    /// Directories from 0 on with the names in them, and links: a tree for following links.
    struct Tree(Vec<Vec<(&'static str, u64)>>, Vec<(u64, &'static str)>, Names);

    impl FileSystem for Tree {
        fn description(&self) -> &Description {
            self.2.description()
        }

        fn root(&self) -> NodeId {
            NodeId(0)
        }

        fn stat(&self, node: NodeId) -> Result<Stat, FsError> {
            let kind = match node.0 {
                directory if directory < self.0.len() as u64 => Kind::Directory,
                link if self.1.iter().any(|(node, _)| *node == link) => Kind::Symlink,
                _ => Kind::File,
            };
            Ok(Stat { node, kind, ..self.2.stat(NodeId(0))? })
        }

        fn list(&self, directory: NodeId, visit: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), FsError> {
            let names = usize::try_from(directory.0).ok().and_then(|at| self.0.get(at));
            for (name, node) in names.ok_or(FsError::corrupt(0, "no directory"))? {
                if visit(Entry { name: name.as_bytes().to_vec(), node: NodeId(*node), kind: None }).is_break() {
                    break;
                }
            }
            Ok(())
        }

        fn open(&self, node: NodeId) -> Result<Box<dyn files::File>, FsError> {
            self.2.open(node)
        }

        fn read_link(&self, node: NodeId) -> Result<Vec<u8>, FsError> {
            let found = self.1.iter().find(|(link, _)| *link == node.0);
            found.map(|(_, target)| target.as_bytes().to_vec()).ok_or(FsError::corrupt(0, "no link"))
        }

        fn xattrs(&self, _: NodeId) -> Result<Vec<Xattr>, FsError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn links_lead_where_they_say_and_never_out_of_the_file_system() {
        // /usr/bin/tool, /home/anna, and links at the root.
        let tree = vec![
            vec![("usr", 1), ("home", 3), ("bin", 10), ("up", 15)],
            vec![("bin", 2)],
            vec![("tool", 9)],
            vec![("anna", 4)],
            vec![],
        ];
        let links = vec![
            (10, "usr/./bin/"),
            (11, "../../bin/tool"),
            (12, "/home/../bin"),
            (13, "../../../etc"),
            (14, "/usr/lib/x"),
            (15, "/up"),
            (16, "/bin/tool/x"),
            (17, "C:/home"),
            (18, ".."),
        ];
        let files = Files::new(Arc::new(Tree(tree, links, Names(vec![Vec::new()], description()))));
        let anna = [NodeId(3), NodeId(4)];
        let led = |link| {
            let led = files.follow(&anna, NodeId(link))?;
            let names = led.through.iter().map(|through| &*through.name).collect::<Vec<_>>().join("/");
            Ok::<_, String>(format!("{} {names} {}", led.kept, led.file.map_or(0, |node| node.0)))
        };
        assert_eq!(led(11).unwrap(), "0 usr/bin 9");
        assert_eq!(led(12).unwrap(), "0 usr/bin 0");
        assert_eq!(led(17).unwrap(), "0 home 0");
        assert_eq!(led(18).unwrap(), "1  0");
        assert!(led(13).unwrap_err().contains("leads out of this partition"));
        assert!(led(14).unwrap_err().contains("There is no lib on this partition"));
        assert!(led(15).unwrap_err().contains("in a circle"));
        assert!(led(16).unwrap_err().contains("as if that were a directory"));
        assert!(led(9).unwrap_err().contains("damaged"));
    }

    #[test]
    fn names_are_safe_to_see_and_arguments_mean_the_very_file() {
        let names: [&[u8]; 7] = [b"damaged", b"plain", b"\x1b[2J", b"bad\xff", b"other\xfe", b"other\\xfe", b"a/b"];
        let listing = with(names.iter().map(|name| name.to_vec()).collect()).list(1, NodeId(0), "").unwrap();
        let find = |name: &str| listing.entries.iter().find(|entry| entry.name == name).unwrap();
        assert!(find("damaged").facts.as_ref().is_err_and(|why| why.contains("an inode that is none")));
        let plain = find("plain");
        let facts = plain.facts.as_ref().unwrap();
        assert_eq!((plain.argument.as_deref(), &*facts.mode, facts.owner), (Some("plain"), "-rw-r-----", Some((5, 6))));
        assert_eq!(find("\\x1b[2J").argument.as_deref(), Some("\x1b[2J"));
        assert_eq!(find("bad\\xff").argument.as_deref(), Some("bad\\xff"));
        assert_eq!(find("other\\xfe").argument, None, "another file has that name");
        assert_eq!(find("a/b").argument, None);
        assert!(listing.entries.iter().all(|entry| !entry.name.chars().any(char::is_control)));
    }

    #[test]
    fn an_old_question_is_dropped() {
        let files = with(vec![b"a".to_vec()]);
        assert!(files.list(7, NodeId(0), "").is_some());
        assert_eq!(files.list(6, NodeId(0), ""), None);
    }

    #[test]
    fn copies_have_names_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(free_name(folder.path(), "web1").unwrap(), folder.path().join("web1"));
        std::fs::create_dir(folder.path().join("web1")).unwrap();
        assert_eq!(free_name(folder.path(), "web1").unwrap(), folder.path().join("web1-2"));
        assert!(free_name(&folder.path().join("web1/x\0"), "a").is_err());
    }
}
