//! What a loader of modules needs to know, worked out here so that a boot opens no module that it does not load: the
//! files of kmod, in kmod's text forms (`modules.dep(5)`).
//!
//! Must not know: where the modules came from.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::modules::Module;

/// The index files' texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// `modules.dep`: `PATH: PATH…`, all that a module needs, directly or not. To be loaded from the last to the first.
    pub dependencies: String,
    /// `modules.alias`: `alias PATTERN NAME`.
    pub aliases: String,
    /// `modules.softdep`: `softdep NAME pre: NAME… post: NAME…`.
    pub soft_dependencies: String,
}

impl Index {
    /// The index of modules that depend on nothing outside, in their order.
    #[must_use]
    pub fn of(modules: &[Module]) -> Self {
        let by_name: BTreeMap<&str, &Module> =
            modules.iter().map(|module| (module.info.name.as_str(), module)).collect();
        let mut dependencies = String::new();
        let mut aliases = "# Aliases that the modules themselves have.\n".to_owned();
        let mut soft_dependencies = "# Soft dependencies that the modules themselves have.\n".to_owned();
        for module in modules {
            let mut needed = Vec::new();
            collect(module, &by_name, &mut needed);
            needed.retain(|path| *path != module.path);
            dependencies += &format!("{}:", module.path);
            for path in needed.iter().rev() {
                dependencies += &format!(" {path}");
            }
            dependencies.push('\n');
            let name = &module.info.name;
            for pattern in &module.info.aliases {
                let _ = writeln!(aliases, "alias {pattern} {name}");
            }
            for softdep in &module.info.softdeps {
                let _ = writeln!(soft_dependencies, "softdep {name} {softdep}");
            }
        }
        Self { dependencies, aliases, soft_dependencies }
    }
}

/// Adds a module's path after those of all that it needs.
fn collect<'a>(module: &'a Module, by_name: &BTreeMap<&str, &'a Module>, loaded: &mut Vec<&'a str>) {
    for name in &module.info.depends {
        if let Some(needed) = by_name.get(name.as_str())
            && !loaded.contains(&needed.path.as_str())
        {
            collect(needed, by_name, loaded);
        }
    }
    if !loaded.contains(&module.path.as_str()) {
        loaded.push(&module.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modinfo::ModInfo;

    fn module(name: &str, depends: &[&str]) -> Module {
        let depends = depends.iter().map(|&name| name.to_owned()).collect();
        let info = ModInfo { name: name.to_owned(), depends, ..ModInfo::default() };
        Module { path: format!("kernel/{name}.ko"), content: Vec::new(), info }
    }

    #[test]
    fn loading_from_the_last_to_the_first_finds_everything_there() {
        let modules = [module("bus", &[]), module("core", &["bus"]), module("disk", &["bus", "core", "built_in"])];
        let index = Index::of(&modules);
        assert_eq!(
            index.dependencies,
            "kernel/bus.ko:\nkernel/core.ko: kernel/bus.ko\nkernel/disk.ko: kernel/core.ko kernel/bus.ko\n"
        );
    }

    #[test]
    fn aliases_and_soft_dependencies_name_their_module() {
        let mut card = module("card", &[]);
        card.info.aliases = vec!["pci:v1d*".into(), "pci:v2d*".into()];
        card.info.softdeps = vec!["pre: crc32c".into()];
        let index = Index::of(&[card]);
        assert!(index.aliases.ends_with("alias pci:v1d* card\nalias pci:v2d* card\n"));
        assert!(index.soft_dependencies.ends_with("softdep card pre: crc32c\n"));
    }
}
