//! Stores on file systems that can do less than a Unix one.

use std::fs;

use crate::support::{Loop, run, sh, sparse_file};

fn imager(args: &[&str]) -> String {
    run(env!("CARGO_BIN_EXE_imager"), args)
}

/// exFAT, which most sticks have, knows no hard links.
#[test]
fn a_stick_with_exfat_holds_a_repository() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    sparse_file(&dir.path().join("stick"), 64 << 20);
    fs::write(at("password"), "secret").unwrap();
    fs::write(at("disk"), b"precious".repeat(100_000)).unwrap();
    run("mkfs.exfat", [at("stick")]);
    let device = Loop::attach(&dir.path().join("stick"), &[]);
    sh(&format!("mkdir {0}; mount.exfat-fuse {1} {0}", at("mount"), device.0.display()));
    let used = std::panic::catch_unwind(|| {
        let repo = format!("{}/repository", at("mount"));
        let in_repo = ["--repo", &repo, "--password-file", &at("password")];
        imager(&["init", &repo, "--password-file", &at("password")]);
        assert!(imager(&[&in_repo[..], &["capture", &at("disk")]].concat()).contains("image "));
        imager(&[&in_repo[..], &["verify", "--read-data"]].concat());
        imager(&[&in_repo[..], &["restore", "latest", "--to", &at("restored")]].concat());
    });
    run("umount", [at("mount")]);
    used.unwrap();
    assert_eq!(fs::read(at("restored")).unwrap(), fs::read(at("disk")).unwrap());
}
