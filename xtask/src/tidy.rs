//! What no compiler checks: the shape of the tree.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};
use lifeboat_tests::{imager, tool};

/// Everything that may lie at the top, beside files whose names begin with a dot.
const TOP: &[&str] = &[
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "agent",
    "imager",
    "initramfs",
    "tests",
    "xtask",
];

/// A longer file wants to be two.
const LINES_MAX: usize = 1000;

/// Fails with every complaint at once.
pub(crate) fn check() -> Result<()> {
    let root = imager::workspace();
    let listed = tool::output(tool::command("git").current_dir(root).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let files: Vec<&str> = listed.lines().filter(|file| root.join(file).is_file()).collect();
    let mut complaints = Vec::new();
    for file in &files {
        let top = file.split('/').next().unwrap_or(file);
        if !top.starts_with('.') && !TOP.contains(&top) {
            complaints.push(format!("{file}: `{top}` has no place at the top"));
        }
    }
    for file in files.iter().filter(|file| file.ends_with(".rs")) {
        complaints.extend(complaints_about(file, &fs::read_to_string(root.join(file))?));
    }
    complaints.dedup();
    if !complaints.is_empty() {
        bail!("the tree is not tidy:\n{}", complaints.join("\n"));
    }
    println!("{} files are tidy", files.len());
    Ok(())
}

fn complaints_about(file: &str, source: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let lines = source.lines().count();
    if lines > LINES_MAX {
        complaints.push(format!("{file}: {lines} lines, more than {LINES_MAX}"));
    }
    // Attributes of the whole file may stand before its documentation.
    let first = source.lines().find(|line| !line.is_empty() && !line.starts_with("#!["));
    if !first.is_some_and(|line| line.starts_with("//!")) {
        complaints.push(format!("{file}: does not begin with `//!` and what it is for"));
    }
    if Path::new(file).components().any(|part| part.as_os_str() == "src") && source.contains(concat!("#[", "allow(")) {
        complaints.push(format!("{file}: `#[allow]`, where `#[expect]` with a reason belongs"));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_is_for() {
        assert!(complaints_about("a/src/b.rs", "#![no_main]\n\n//! For this.\n").is_empty());
        assert_eq!(complaints_about("a/src/b.rs", "use a;\n//! For this.\n").len(), 1);
        assert_eq!(complaints_about("a/src/b.rs", "").len(), 1);
    }

    #[test]
    fn a_long_file_wants_to_be_two() {
        let long = "//! Long.\n".repeat(LINES_MAX + 1);
        assert_eq!(complaints_about("b.rs", &long).len(), 1);
    }
}
