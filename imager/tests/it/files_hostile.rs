//! A file system that wants harm: a copy stays within its target, comes to an end, and says what it left out.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use imager::extent::Extent;
use imager::files::address::{Found, LastLink, resolve};
use imager::files::copy::{Existing, Options, Recursive, Summary, copy};
use imager::files::{Case, Description, Entry, File, FileSystem, Kind, NodeId, Ownership, Stat, Time, Xattr};
use imager::fs::FsError;
use imager::progress::Progress;

use crate::volume::Scratch;

/// What a node of it is.
#[derive(Clone)]
enum Node {
    Directory(Vec<(&'static [u8], u64)>),
    File(&'static str),
    Link(&'static str),
    Broken,
}

struct Fake {
    nodes: BTreeMap<u64, Node>,
    description: Description,
}

impl Fake {
    fn new(nodes: &[(u64, Node)]) -> Self {
        let description = Description {
            kind: "fake".into(),
            label: None,
            block_size: 4096,
            size: 1 << 20,
            case: Case::Differs,
            ownership: Ownership::None,
            warnings: Vec::new(),
        };
        Self { nodes: nodes.iter().cloned().collect(), description }
    }
}

struct Text(&'static str);

impl File for Text {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        let rest = self.0.as_bytes().get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn next_data(&self, from: u64) -> Option<Extent> {
        (from < self.size()).then(|| Extent::between(from, self.size()))
    }
}

impl FileSystem for Fake {
    fn description(&self) -> &Description {
        &self.description
    }

    fn root(&self) -> NodeId {
        NodeId(1)
    }

    fn stat(&self, node: NodeId) -> Result<Stat, FsError> {
        let (kind, size) = match &self.nodes[&node.0] {
            Node::Directory(_) => (Kind::Directory, 0),
            Node::File(text) => (Kind::File, text.len()),
            Node::Link(target) => (Kind::Symlink, target.len()),
            Node::Broken => return Err(FsError::Corrupt { offset: 7, what: "broken".into() }),
        };
        let time = Time { seconds: 1_000_000, nanoseconds: 5 };
        Ok(Stat {
            node,
            kind,
            size: size as u64,
            stored: size as u64,
            permissions: 0o644,
            uid: 0,
            gid: 0,
            links: 1,
            device: (0, 0),
            accessed: time,
            modified: time,
            changed: time,
            created: None,
        })
    }

    fn list(&self, directory: NodeId, visit: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), FsError> {
        let Node::Directory(entries) = &self.nodes[&directory.0] else { panic!("no directory") };
        for (name, node) in entries {
            if visit(Entry { name: name.to_vec(), node: NodeId(*node), kind: None }).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn open(&self, node: NodeId) -> Result<Box<dyn File>, FsError> {
        let Node::File(text) = &self.nodes[&node.0] else { panic!("no file") };
        Ok(Box::new(Text(text)))
    }

    fn read_link(&self, node: NodeId) -> Result<Vec<u8>, FsError> {
        let Node::Link(target) = &self.nodes[&node.0] else { panic!("no link") };
        Ok(target.as_bytes().to_vec())
    }

    fn xattrs(&self, _node: NodeId) -> Result<Vec<Xattr>, FsError> {
        Ok(Vec::new())
    }
}

fn copied(fake: &Fake, target: &Path, existing: Existing) -> Summary {
    let root = Found { path: Vec::new(), stat: fake.stat(fake.root()).unwrap() };
    let options = Options { recursive: Recursive::Yes, existing, ..Options::default() };
    copy(fake, &[root], target, &options, &Progress::new()).unwrap()
}

fn names(directory: &Path) -> Vec<Vec<u8>> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
    names.sort();
    names
}

#[test]
fn names_that_lead_elsewhere_are_left_out() {
    let dir = Scratch::new();
    let fake = Fake::new(&[
        (
            1,
            Node::Directory(vec![
                (b"../out", 2),
                (b"..", 3),
                (b".", 3),
                (b"a/b", 2),
                (b"", 2),
                (b"nul\0", 2),
                (b"/etc/x", 2),
                (b"good", 2),
            ]),
        ),
        (2, Node::File("text")),
        (3, Node::Directory(vec![(b"inside", 2)])),
    ]);
    let summary = copied(&fake, &dir.path("target"), Existing::Replace);
    assert_eq!((summary.files, summary.failed), (1, 7), "{summary:?}");
    assert_eq!(names(&dir.path("target")), [b"good"]);
    assert_eq!(names(dir.root()), [b"target"]);
}

#[test]
fn names_that_come_twice_do_not_replace_each_other_nor_lead_through_a_link() {
    let dir = Scratch::new();
    let outside = dir.path("outside");
    fs::create_dir(&outside).unwrap();
    let link: &'static str = Box::leak(outside.to_str().unwrap().to_owned().into_boxed_str());
    let fake = Fake::new(&[
        // By their numbers, the link comes first.
        (1, Node::Directory(vec![(b"x", 2), (b"x", 3), (b"file", 4), (b"file", 5), (b"d", 6), (b"d", 7)])),
        (2, Node::Link(link)),
        (3, Node::Directory(vec![(b"escaped", 4)])),
        (4, Node::File("first")),
        (5, Node::File("second")),
        (6, Node::Directory(vec![(b"one", 4)])),
        (7, Node::Directory(vec![(b"two", 4)])),
    ]);
    for existing in [Existing::Keep, Existing::Replace] {
        let target = dir.path(if existing == Existing::Keep { "keep" } else { "replace" });
        let summary = copied(&fake, &target, existing);
        assert_eq!(summary.failed, 3, "{summary:?}");
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "first");
        assert_eq!(names(&target.join("d")), [b"one"]);
        assert!(names(&outside).is_empty());
        assert_eq!(names(&target), [&b"d"[..], b"file", b"x"]);
    }
}

#[test]
fn links_that_are_in_the_target_are_not_followed() {
    let dir = Scratch::new();
    let (target, outside) = (dir.path("target"), dir.path("outside"));
    fs::create_dir(&target).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "mine").unwrap();
    std::os::unix::fs::symlink(&outside, target.join("directory")).unwrap();
    std::os::unix::fs::symlink(outside.join("victim"), target.join("file")).unwrap();
    let fake = Fake::new(&[
        (1, Node::Directory(vec![(b"directory", 2), (b"file", 3)])),
        (2, Node::Directory(vec![(b"victim", 3)])),
        (3, Node::File("other")),
    ]);
    let summary = copied(&fake, &target, Existing::Replace);
    assert_eq!((summary.files, summary.failed), (1, 1), "{summary:?}");
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "mine");
    assert!(fs::symlink_metadata(target.join("file")).unwrap().is_file());
}

#[test]
fn circles_and_damage_end_and_are_said() {
    let dir = Scratch::new();
    let fake = Fake::new(&[
        (1, Node::Directory(vec![(b"a", 2), (b"b", 3), (b"self", 1), (b"broken", 5)])),
        (2, Node::Directory(vec![(b"b", 3), (b"a", 2), (b"up", 1)])),
        (3, Node::Directory(vec![(b"a", 2), (b"file", 4)])),
        (4, Node::File("text")),
        (5, Node::Broken),
        (6, Node::Link("six")),
    ]);
    let summary = copied(&fake, &dir.path("target"), Existing::Keep);
    assert_eq!(summary.files, 1, "{summary:?}");
    assert!(summary.failures.iter().any(|failure| failure.path == "/broken"), "{summary:?}");
    assert!(summary.failures.iter().any(|failure| failure.reason.contains("two places")), "{summary:?}");
    let circle = Fake::new(&[
        (1, Node::Directory(vec![(b"one", 2), (b"two", 3)])),
        (2, Node::Link("two")),
        (3, Node::Link("one")),
    ]);
    assert!(resolve(&circle, b"/one/", LastLink::Keep).unwrap_err().to_string().contains("too many symbolic links"));
    assert!(resolve(&circle, b"/../../one", LastLink::Keep).is_ok());
}
