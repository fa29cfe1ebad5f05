//! FAT: the map against what `fsck.fat` counts and `mshowfat` and `partclone.vfat` list, and against
//! `fsck.fat` and mtools on a copy of only the used bytes.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use imager::extent::{Extent, ExtentSet};
use imager::fs::{FileSystem, Note, SpareKind, inspect};

use crate::support::{output, run, sh, sparse_file};
use crate::volume::{FileVolume, Overlay, Random, Scratch, copy_used, tree};

const KIB: u64 = 1 << 10;

fn mkfs(image: &Path, size: u64, options: &str) {
    sparse_file(image, size);
    sh(&format!("mkfs.fat {options} {} 2>&1", image.display()));
}

fn map_of(image: &Path) -> FileSystem {
    inspect(&FileVolume::open(image))
}

/// Runs one of the mtools on `image`; they work on odd geometries when told not to check.
fn mtool<S: AsRef<OsStr>>(tool: &str, image: &Path, args: impl IntoIterator<Item = S>) -> String {
    let mut all = vec!["MTOOLS_SKIP_CHECK=1".into(), OsStr::new(tool).into(), OsStr::new("-i").into(), image.into()];
    all.extend(args.into_iter().map(|arg| arg.as_ref().to_os_string()));
    run("env", all)
}

/// Files of many sizes in the root and in directories, every second deleted, the holes filled with one file.
fn fill(image: &Path, scratch: &Path, room: u64, seed: u64) {
    let mut random = Random::new(seed);
    let files = scratch.join("files");
    for directory in ["", "first", "first/below"] {
        fs::create_dir_all(files.join(directory)).unwrap();
        for number in 0..24 {
            let len = usize::try_from(random.below(room / 160)).unwrap();
            fs::write(files.join(directory).join(format!("file {number}")), random.bytes(len)).unwrap();
        }
    }
    let entries: Vec<PathBuf> = fs::read_dir(&files).unwrap().map(|entry| entry.unwrap().path()).collect();
    mtool("mcopy", image, [OsStr::new("-s")].into_iter().chain(entries.iter().map(|e| e.as_os_str())).chain(["::/".as_ref()]));
    for directory in ["", "first/", "first/below/"] {
        let deleted = (0..24).step_by(2).map(|number| format!("::/{directory}file {number}"));
        mtool("mdel", image, deleted);
    }
    let len = usize::try_from(room / 4).unwrap();
    fs::write(files.join("large"), random.bytes(len)).unwrap();
    mtool("mcopy", image, [files.join("large").as_os_str(), "::/".as_ref()]);
}

fn files_of(image: &Path, scratch: &Path) -> std::collections::BTreeMap<String, String> {
    let target = scratch.join("read back");
    let _ = fs::remove_dir_all(&target);
    fs::create_dir(&target).unwrap();
    mtool("mcopy", image, ["-s".as_ref(), "-Q".as_ref(), "::/*".as_ref(), target.as_os_str()]);
    tree(&target)
}

/// The clusters of every file and directory, as `mshowfat` lists them; a cluster counts as one.
fn clusters_by_mshowfat(image: &Path, names: &[String]) -> ExtentSet {
    let listed = mtool("mshowfat", image, names);
    let runs = listed.lines().flat_map(|line| line.rsplit_once("::").unwrap().1.split('<').skip(1));
    let clusters = runs.map(|run| {
        let run = run.split('>').next().unwrap();
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        Extent::between(first.parse().unwrap(), last.parse::<u64>().unwrap() + 1)
    });
    clusters.collect()
}

/// The clusters of a map; a cluster counts as one.
fn clusters(found: &FileSystem, used: &ExtentSet) -> ExtentSet {
    let cluster = |position: u64| (position - found.grid_origin) / u64::from(found.block_size) + 2;
    let data = used.intersect(Extent::between(found.grid_origin, found.size));
    data.map(|extent| Extent::between(cluster(extent.start), cluster(extent.end()))).collect()
}

/// Used and all clusters, as `fsck.fat` counts them.
fn counts_by_fsck(image: &Path) -> (u64, u64) {
    let said = run("fsck.fat", ["-v".as_ref(), "-n".as_ref(), image.as_os_str()]);
    let counts = said.trim_end().lines().last().unwrap().rsplit_once("files, ").unwrap().1;
    let (used, all) = counts.trim_end_matches(" clusters").split_once('/').unwrap();
    (used.parse().unwrap(), all.parse().unwrap())
}

#[test]
fn the_map_is_that_of_the_tools_and_the_used_bytes_are_the_file_system() {
    let variants: &[(&str, u64)] = &[
        ("-F 12 -n FLOPPY", 1440),
        ("-F 12 -s 8 -f 1", 9000),
        ("-F 12 -S 1024 -s 2", 5000),
        ("-F 16 -s 1 -i 0BADCAFE", 20_000),
        ("-F 16 -s 64 -R 8", 300_000),
        ("-F 16 -S 2048 -s 4 -f 1", 100_000),
        ("-F 32 -s 1 -n 'TWO WORDS'", 60_000),
        ("-F 32 -s 8", 600_000),
        ("-F 32 -s 128 -S 512", 5_000_000),
        ("-F 32 -S 4096 -s 1 -R 32", 600_000),
    ];
    for (seed, (options, kib)) in (0..).zip(variants) {
        let scratch = Scratch::new();
        let image = scratch.path("image");
        mkfs(&image, kib * KIB, options);
        fill(&image, scratch.root(), (kib * KIB).min(24 << 20), seed);
        let files = files_of(&image, scratch.root());
        let mut names: Vec<String> = files.keys().map(|name| format!("::/{name}")).collect();

        if options.contains("-F 32") {
            names.push("::/".to_owned());
        }
        let found = map_of(&image);
        assert_eq!((found.kind.as_str(), &found.notes), ("vfat", &vec![]), "{options}");
        let blkid = |tag: &str| Some(run("blkid", ["-p", "-o", "value", "-s", tag, image.to_str().unwrap()]).trim().to_owned());
        assert_eq!(found.uuid, blkid("UUID"), "{options}");
        assert_eq!(found.label, blkid("LABEL").filter(|label| !label.is_empty()), "{options}");
        // mkfs.fat leaves out what does not fill a track.
        assert!((kib * KIB - 63 * 4096..=kib * KIB).contains(&found.size), "{options}");

        let ours = clusters(&found, &found.used);
        assert_eq!(ours, clusters_by_mshowfat(&image, &names), "{options}");
        let (used, all) = counts_by_fsck(&image);
        assert_eq!(ours.total(), used, "{options}");
        assert_eq!((found.size - found.grid_origin) / u64::from(found.block_size), all, "{options}");

        let copy = scratch.path("copy");
        copy_used(&image, &copy, &found.used);
        run("fsck.fat", ["-n".as_ref(), copy.as_os_str()]);
        assert_eq!(files_of(&copy, scratch.root()), files, "{options}");
    }
}
