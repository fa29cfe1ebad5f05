//! The lists that people edit: what goes on the medium, one entry a line.
//!
//! Must not know: whether what an entry names is there.

use crate::error::Error;
use crate::modinfo::canonical;

/// Which modules go on the medium, as `modules.list` has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleList {
    /// In the list's order.
    pub entries: Vec<ModuleEntry>,
}

/// One line of a [`ModuleList`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleEntry {
    /// Counted from 1, for complaints.
    pub line: usize,
    /// What it does with what it names.
    pub effect: Effect,
    /// What it names.
    pub names: Names,
}

/// What an entry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// They go in; there must be some.
    Include,
    /// They go in, if there are any.
    IncludeIfThere,
    /// They are left out.
    Exclude,
}

/// What an entry names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// The module with this name, with `_` only.
    Module(String),
    /// The module at this path below `kernel/`, without `.ko`.
    Path(String),
    /// All modules below this folder, whose name ends with a slash.
    Folder(String),
}

impl ModuleList {
    /// Reads a list; `name` stands in complaints.
    ///
    /// # Errors
    /// When a line is not understood.
    pub fn parse(name: &str, text: &str) -> Result<Self, Error> {
        let mut entries = Vec::new();
        for (line, words) in lines(text) {
            let [word] = words.as_slice() else {
                return Err(complaint(name, line, "one module or folder a line"));
            };
            let (effect, word) = match (word.strip_prefix('!'), word.strip_prefix('?')) {
                (Some(rest), _) => (Effect::Exclude, rest),
                (_, Some(rest)) => (Effect::IncludeIfThere, rest),
                _ => (Effect::Include, *word),
            };
            let names = match word {
                "" => return Err(complaint(name, line, "a name is missing")),
                folder if folder.ends_with('/') => Names::Folder(folder.to_owned()),
                path if path.contains('/') => Names::Path(path.to_owned()),
                module => Names::Module(canonical(module)),
            };
            entries.push(ModuleEntry { line, effect, names });
        }
        Ok(Self { entries })
    }
}

/// A program beside the agent: a line of `programs.list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramEntry {
    /// Where it is in its package, and in the archive.
    pub path: String,
    /// The packages that have it and its libraries.
    pub packages: Vec<String>,
    /// Links to it.
    pub links: Vec<String>,
}

/// Reads `programs.list`; `name` stands in complaints.
///
/// # Errors
/// When a line is not understood.
pub fn programs(name: &str, text: &str) -> Result<Vec<ProgramEntry>, Error> {
    let entry = |(line, words): (usize, Vec<&str>)| {
        let problem = "a program's path, its packages with commas between, then links' paths";
        let [path, packages, links @ ..] = words.as_slice() else { return Err(complaint(name, line, problem)) };
        if std::iter::once(path).chain(links).any(|path| !path.starts_with('/')) {
            return Err(complaint(name, line, problem));
        }
        Ok(ProgramEntry {
            path: (*path).to_owned(),
            packages: packages.split(',').map(str::to_owned).collect(),
            links: links.iter().map(|&link| link.to_owned()).collect(),
        })
    };
    lines(text).map(entry).collect()
}

/// Reads a list of names, such as `firmware.list`.
#[must_use]
pub fn names(text: &str) -> Vec<String> {
    lines(text).flat_map(|(_, words)| words).map(str::to_owned).collect()
}

/// The words of each line that has some, without comments and `[group]` lines.
fn lines(text: &str) -> impl Iterator<Item = (usize, Vec<&str>)> {
    text.lines().enumerate().filter_map(|(index, line)| {
        let words: Vec<&str> = line.split_ascii_whitespace().take_while(|word| !word.starts_with('#')).collect();
        let is_group = words.first().is_some_and(|word| word.starts_with('['));
        (!words.is_empty() && !is_group).then_some((index + 1, words))
    })
}

fn complaint(list: &str, line: usize, problem: &str) -> Error {
    Error::Line { list: list.to_owned(), line, problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_list_has_names_paths_folders_and_what_to_leave_out() {
        let text =
            "# all\n[disks: first]\nvirtio-blk   # quick\n\n drivers/ata/\n!drivers/ata/pata_legacy\n?bcachefs\n";
        let list = ModuleList::parse("list", text).unwrap();
        let entry = |line, effect, names| ModuleEntry { line, effect, names };
        assert_eq!(
            list.entries,
            [
                entry(3, Effect::Include, Names::Module("virtio_blk".into())),
                entry(5, Effect::Include, Names::Folder("drivers/ata/".into())),
                entry(6, Effect::Exclude, Names::Path("drivers/ata/pata_legacy".into())),
                entry(7, Effect::IncludeIfThere, Names::Module("bcachefs".into())),
            ]
        );
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        let complaint = |text| ModuleList::parse("modules.list", text).unwrap_err().to_string();
        assert_eq!(complaint("a\nb c\n"), "line 2 of modules.list: one module or folder a line");
        assert_eq!(complaint("!\n"), "line 1 of modules.list: a name is missing");
        assert!(programs("programs.list", "/bin/a\n").is_err());
        assert!(programs("programs.list", "/bin/a package b\n").is_err());
    }

    #[test]
    fn a_program_has_packages_and_links() {
        let entry = ProgramEntry {
            path: "/bin/busybox".into(),
            packages: vec!["busybox-static".into(), "libc6".into()],
            links: vec!["/bin/sh".into()],
        };
        assert_eq!(programs("list", "/bin/busybox busybox-static,libc6 /bin/sh # the shell").unwrap(), [entry]);
    }

    #[test]
    fn the_lists_of_this_project_are_understood() {
        assert!(ModuleList::parse("modules.list", include_str!("../modules.list")).unwrap().entries.len() > 100);
        ModuleList::parse("modules-minimal.list", include_str!("../modules-minimal.list")).unwrap();
        programs("programs.list", include_str!("../programs.list")).unwrap();
        assert!(!names(include_str!("../firmware.list")).is_empty());
    }
}
