//! The whole of it on Debian's own kernel and programs, with other people's tools as judges: depmod, cpio, bsdtar, chroot.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use initramfs::cpio::{Archive, Entry};
use initramfs::error::Error;
use initramfs::list::{ModuleList, ProgramEntry};
use initramfs::modules::{Module, Tree};
use initramfs::{compressed, programs};
use lifeboat_tests::package::Package;
use lifeboat_tests::{imager, tool};

const TIME: u32 = 1_700_000_000;

const LIST: &str =
    "virtio_blk\nnvme\nahci\nusb-storage\next4\nbtrfs\ndrivers/md/\n!drivers/md/dm-vdo/\ncifs\ne1000e\nloop\n";

/// Debian's kernel, downloaded once; or nothing, and why is said.
fn kernel(test: &str) -> Result<Option<(String, PathBuf)>> {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap();
    if tool::find("apt-get").is_none() || tool::find("depmod").is_none() {
        say(&format!("skipped: {test}: needs apt, for Debian's kernel, and kmod"));
        return Ok(None);
    }
    let choices = ["linux-image-6.12-amd64", "linux-image-amd64"];
    let found = choices.iter().find_map(|choice| Package::depends_on(choice).ok()?.into_iter().next());
    let name = found.context("apt knows no kernel")?;
    let package = Package::needed(&name, &imager::target_folder()?.join("packages"))?;
    let version = name.strip_prefix("linux-image-").context("a kernel's package of another name")?.to_owned();
    let modules = ["lib/modules", "usr/lib/modules"].map(|lib| package.folder.join(lib).join(&version));
    Ok(modules.into_iter().find(|folder| folder.is_dir()).map(|folder| (version, folder)))
}

/// Seen even when the test passes.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn selected(folder: &Path) -> Result<(Tree, Vec<Module>)> {
    let tree = Tree::open(folder)?;
    let modules = tree.select("list", &ModuleList::parse("list", LIST)?)?;
    Ok((tree, modules))
}

fn archive(version: &str, tree: &Tree, modules: &[Module]) -> Result<Archive> {
    let mut archive = Archive::default();
    initramfs::add_agent(&mut archive, "/bin/true".as_ref(), "ID=lifeboat\n")?;
    initramfs::add_modules(&mut archive, version, tree, modules)?;
    Ok(archive)
}

/// Unpacked by somebody else's program.
fn unpacked(archive: &Archive, folder: &Path) -> Result<()> {
    let file = folder.join("archive.cpio");
    fs::write(&file, archive.to_bytes(TIME)?)?;
    let variables = [("file", file.as_os_str()), ("root", folder.join("root").into_os_string().as_os_str())]
        .map(|(name, value)| (name, value.to_owned()));
    // Device nodes are for root alone to make.
    tool::sh(
        "mkdir \"$root\"; cd \"$root\"; cpio --quiet -idm --no-absolute-filenames -f 'dev/*' < \"$file\"",
        &variables,
    )?;
    Ok(())
}

#[test]
fn the_index_is_the_one_that_depmod_makes() -> Result<()> {
    let Some((version, folder)) = kernel("depmod")? else { return Ok(()) };
    let (tree, modules) = selected(&folder)?;
    let work = tempfile::tempdir()?;
    unpacked(&archive(&version, &tree, &modules)?, work.path())?;
    let root = work.path().join("root");
    let at = root.join("lib/modules").join(&version);
    let ours = ["modules.dep", "modules.alias", "modules.softdep"].map(|name| fs::read_to_string(at.join(name)));
    fs::copy(folder.join("modules.order"), at.join("modules.order"))?;
    tool::run("depmod", ["--basedir".as_ref(), root.as_os_str(), version.as_ref()])?;
    let [dependencies, aliases, soft] = ours;

    let theirs = fs::read_to_string(at.join("modules.dep"))?;
    let ours = dependencies_of(&dependencies?);
    ensure!(ours.len() == modules.len(), "a module is missing");
    assert_eq!(ours, dependencies_of(&theirs));
    assert_eq!(lines(&aliases?), lines(&fs::read_to_string(at.join("modules.alias"))?));
    assert_eq!(lines(&soft?), lines(&fs::read_to_string(at.join("modules.softdep"))?));
    Ok(())
}

fn dependencies_of(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let parsed = text.lines().filter_map(|line| line.split_once(':'));
    parsed.map(|(path, needed)| (path.into(), needed.split_whitespace().map(str::to_owned).collect())).collect()
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn nothing_has_to_be_loaded_before_what_it_needs() -> Result<()> {
    let Some((_, folder)) = kernel("order")? else { return Ok(()) };
    let (_, modules) = selected(&folder)?;
    let index = initramfs::index::Index::of(&modules);
    let by_path: BTreeMap<&str, &Module> = modules.iter().map(|module| (module.path.as_str(), module)).collect();
    for line in index.dependencies.lines() {
        let (path, needed) = line.split_once(':').context("no colon")?;
        let mut loaded = BTreeSet::new();
        for path in needed.split_whitespace().rev().chain([path]) {
            let module = by_path.get(path).with_context(|| format!("{path} is not in the archive"))?;
            for name in &module.info.depends {
                ensure!(loaded.contains(name), "{path} is loaded before {name}");
            }
            loaded.insert(module.info.name.clone());
        }
    }
    Ok(())
}

#[test]
fn modules_are_the_same_whether_compressed_or_not() -> Result<()> {
    let Some((_, folder)) = kernel("plain modules")? else { return Ok(()) };
    let (_, modules) = selected(&folder)?;
    let work = tempfile::tempdir()?;
    for module in &modules {
        let file = work.path().join(&module.path);
        fs::create_dir_all(file.parent().context("no folder")?)?;
        fs::write(&file, &module.content)?;
        if module.path.ends_with(".xz") {
            tool::run("xz", ["--decompress".as_ref(), file.as_os_str()])?;
        }
    }
    for name in ["modules.order", "modules.builtin"] {
        fs::copy(folder.join(name), work.path().join(name))?;
    }
    let list = LIST.replace("!drivers/md/dm-vdo/\n", "");
    let plain = Tree::open(work.path())?.select("list", &ModuleList::parse("list", &list)?)?;
    let infos = |modules: &[Module]| modules.iter().map(|module| module.info.clone()).collect::<Vec<_>>();
    assert_eq!(infos(&plain), infos(&modules));
    ensure!(plain.iter().all(|module| module.path.ends_with(".ko")), "still compressed");
    Ok(())
}

#[test]
fn two_builds_are_the_same_and_everything_is_roots() -> Result<()> {
    let Some((version, folder)) = kernel("archive")? else { return Ok(()) };
    let build = || -> Result<(Archive, Vec<u8>)> {
        let (tree, modules) = selected(&folder)?;
        let archive = archive(&version, &tree, &modules)?;
        let bytes = compressed(&archive, TIME)?;
        Ok((archive, bytes))
    };
    let (archive, bytes) = build()?;
    ensure!(bytes == build()?.1, "two builds differ");

    let work = tempfile::tempdir()?;
    let file = work.path().join("initramfs");
    fs::write(&file, bytes)?;
    let listed = tool::sh("zstd -dc \"$file\" | cpio -tv --quiet --numeric-uid-gid", &[("file", &file)])?;
    let listed: Vec<&str> = listed.lines().collect();
    assert_eq!(listed.len(), archive.entries().count());
    for line in &listed {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words.get(2..4), Some(["0", "0"].as_slice()), "{line}");
        ensure!(line.contains("Nov 14  2023"), "another date: {line}");
    }
    let line = |name: &str| listed.iter().find(|line| line.ends_with(name)).copied().unwrap_or_default();
    ensure!(line(" init").starts_with("-rwxr-xr-x"), "{}", line(" init"));
    ensure!(line(" sbin/modprobe -> /init").starts_with("lrwxrwxrwx"), "the kernel finds no modprobe");
    ensure!(line(" dev/console").starts_with("crw------- "), "{}", line(" dev/console"));
    let paths: Vec<&str> = archive.entries().map(|(path, _)| path).collect();
    ensure!(paths.is_sorted(), "not sorted");
    Ok(())
}

#[test]
fn a_program_runs_with_nothing_but_the_archive() -> Result<()> {
    if !tool::is_root() {
        say("skipped: a program in the archive: needs root, for chroot");
        return Ok(());
    }
    let mke2fs = ProgramEntry {
        path: "/sbin/mke2fs".into(),
        packages: vec!["e2fsprogs".into()],
        links: vec!["/bin/format".into()],
    };
    let mut archive = Archive::default();
    // This system stands for the packages.
    programs::add(&mut archive, &mke2fs, &["/".into()])?;
    let work = tempfile::tempdir()?;
    unpacked(&archive, work.path())?;
    let root = work.path().join("root");
    File::create(root.join("disk.img"))?.set_len(8 << 20)?;
    tool::run("chroot", [root.as_os_str(), "/bin/format".as_ref(), "-q".as_ref(), "/disk.img".as_ref()])?;
    let image = fs::read(root.join("disk.img"))?;
    assert_eq!(image.get(1080..1082), Some([0x53, 0xef].as_slice()), "not ext2");
    Ok(())
}

#[test]
fn what_is_missing_is_named() -> Result<()> {
    let mut archive = Archive::default();
    let work = tempfile::tempdir()?;
    fs::create_dir_all(work.path().join("bin"))?;
    fs::copy("/proc/self/exe", work.path().join("bin/me"))?;
    let me = ProgramEntry { path: "/bin/me".into(), packages: Vec::new(), links: Vec::new() };
    let error = programs::add(&mut archive, &me, &[work.path().to_owned()]).unwrap_err();
    ensure!(matches!(&error, Error::Library { library, .. } if library.contains(".so")), "{error}");

    let Some((_, folder)) = kernel("what is missing")? else { return Ok(()) };
    let tree = Tree::open(&folder)?;
    let select = |text| tree.select("modules.list", &ModuleList::parse("modules.list", text)?);
    let error = select("nvme\nno-such-module\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2 of modules.list: this kernel has no no_such_module; a `?` before it says that it may be missing"
    );
    ensure!(select("?no-such-module\n")?.is_empty(), "something came of nothing");
    Ok(())
}

#[test]
fn a_damaged_module_is_named() -> Result<()> {
    let work = tempfile::tempdir()?;
    fs::create_dir_all(work.path().join("kernel"))?;
    for (name, content) in [
        ("modules.order", "kernel/a.ko\n"),
        ("modules.builtin", ""),
        ("kernel/a.ko", "\x7fELF\u{2}\u{1}"),
        ("kernel/b.ko.xz", "x"),
    ] {
        fs::write(work.path().join(name), content)?;
    }
    let tree = Tree::open(work.path())?;
    let select = |text| tree.select("list", &ModuleList::parse("list", text)?);
    ensure!(matches!(select("a"), Err(Error::Elf { path, .. }) if path.ends_with("kernel/a.ko")), "taken for good");
    ensure!(matches!(select("b"), Err(Error::File { path, .. }) if path.ends_with("kernel/b.ko.xz")), "taken for good");
    Ok(())
}

#[test]
fn bsdtar_reads_the_archive_too() -> Result<()> {
    if tool::find("bsdtar").is_none() {
        say("skipped: bsdtar is not there");
        return Ok(());
    }
    let mut archive = Archive::default();
    archive.add("/a/b", Entry::File(b"content".to_vec()))?;
    archive.add("/a/link", Entry::Link("b".into()))?;
    let work = tempfile::tempdir()?;
    let file = work.path().join("archive");
    fs::write(&file, archive.to_bytes(TIME)?)?;
    let listed = tool::run("bsdtar", ["-tvf".as_ref(), file.as_os_str()])?;
    ensure!(listed.contains("a/link -> b") && listed.lines().count() == 3, "{listed}");
    assert_eq!(tool::run("bsdtar", ["-xOf".as_ref(), file.as_os_str(), "a/b".as_ref()])?, "content");
    Ok(())
}
