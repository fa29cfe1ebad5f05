//! NTFS: our allocation map against `$Bitmap` as ntfs-3g's own tools read it, and against the files.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use imager::extent::{Extent, ExtentSet};
use imager::fs::{FileSystem, Note, SpareKind, inspect};
use imager::read_at::ReadAt;

use crate::support::{output, run, sparse_file};
use crate::volume::{FileVolume, Overlay, Random, copy_used};

/// An ntfs-3g process that serves a mounted image; unmounted, and ended, when dropped.
pub(crate) struct Mounted {
    pub(crate) at: PathBuf,
    daemon: Child,
}

impl Mounted {
    pub(crate) fn new(image: &Path, options: &str) -> Self {
        let at = image.with_extension("mnt");
        fs::create_dir_all(&at).unwrap();
        let mut command = Command::new("ntfs-3g");
        let daemon = command.arg(image).arg(&at).args(["-o", &format!("no_detach,{options}")]);
        let daemon = daemon.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mounted = Self { at, daemon };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !output("mountpoint", ["-q".as_ref(), mounted.at.as_os_str()]).status.success() {
            assert!(Instant::now() < deadline, "ntfs-3g does not mount {}", image.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        output("umount", ["-l".as_ref(), self.at.as_os_str()]);
        self.daemon.wait().unwrap();
    }
}

fn make(dir: &Path, name: &str, size: u64, mkntfs_options: &[&str]) -> PathBuf {
    let image = sparse_file(&dir.join(name), size);
    let options = [&["--force", "--quick", "--quiet"], mkntfs_options].concat();
    run("mkntfs", options.into_iter().chain([image.to_str().unwrap()]));
    image
}

fn inspected(image: &Path) -> FileSystem {
    inspect(&FileVolume::open(image))
}

fn size_of(image: &Path) -> u64 {
    fs::metadata(image).unwrap().len()
}

/// What the tools say is in use: `$Bitmap` through `ntfscat`, and what no bit stands for.
fn used_by_the_tools(image: &Path, found: &FileSystem) -> ExtentSet {
    let cat = output("ntfscat", ["--force", "-i", "6", image.to_str().unwrap()]);
    assert!(cat.status.success());
    let cluster_size = u64::from(found.block_size);
    let clusters = found.size / cluster_size;
    let bitmap = cat.stdout;
    assert!(bitmap.len() as u64 * 8 >= clusters);
    let set = (0..clusters).filter(|&n| bitmap[usize::try_from(n / 8).unwrap()] >> (n % 8) & 1 == 1);
    let mut used: ExtentSet = set.map(|n| Extent::new(n * cluster_size, cluster_size)).collect();
    used.insert(Extent::new(0, 8192));
    used.insert(Extent::between(clusters * cluster_size, size_of(image)));
    used
}

/// Free clusters as `ntfsinfo` counts them.
fn free_clusters(image: &Path) -> u64 {
    let info = run("ntfsinfo", ["--force", "-m", image.to_str().unwrap()]);
    let line = info.lines().find_map(|line| line.trim().strip_prefix("Free Clusters:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn assert_map_is_exact(image: &Path) -> FileSystem {
    let found = inspected(image);
    assert_eq!((found.kind.as_str(), &found.notes[..]), ("ntfs", &[][..]), "{}", image.display());
    assert_eq!(found.used, used_by_the_tools(image, &found), "{}", image.display());
    let cluster_size = u64::from(found.block_size);
    let in_clusters = found.size - found.size % cluster_size;
    // `ntfsinfo` counts down from all bits of the bitmap, also those past the end, which are set.
    let free = found.used.complement(Extent::new(0, in_clusters)).total() / cluster_size;
    let boot_file_free = 8192 / cluster_size.min(8192);
    assert!(free.abs_diff(free_clusters(image)) <= boot_file_free, "{}", image.display());
    found
}

/// The hash of every file; of one that cannot be read, what is said about it.
fn hashes(image: &Path) -> Vec<String> {
    let mounted = Mounted::new(image, "ro");
    let script = "cd \"$1\" && find . -type f -print0 | sort -z | xargs -0r sha256sum";
    let hashes = output("bash", ["-c".as_ref(), script.as_ref(), "-".as_ref(), mounted.at.as_os_str()]);
    [hashes.stdout, hashes.stderr]
        .iter()
        .flat_map(|text| String::from_utf8_lossy(text).lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

fn assert_files_survive(image: &Path, used: &ExtentSet) {
    let copy = image.with_extension("copy");
    copy_used(image, &copy, used);
    run("ntfsfix", ["-n", copy.to_str().unwrap()]);
    let (expected, found) = (hashes(image), hashes(&copy));
    assert!(!expected.is_empty());
    if let Some((expected, found)) = expected.iter().zip(&found).find(|(expected, found)| expected != found) {
        panic!("{}: {expected} became {found}", image.display());
    }
    assert_eq!(expected.len(), found.len());
    fs::remove_file(copy).unwrap();
}

/// Content that no other place has.
fn content(seed: usize, len: usize) -> Vec<u8> {
    Random::new(seed as u64 + 1).bytes(len)
}

/// Files of all sizes, half of them deleted, and the gaps filled with a few that grow in turns.
fn fill(at: &Path, files: usize) {
    fs::create_dir_all(at.join("some/directory")).unwrap();
    for n in 0..files {
        let parent = if n % 3 == 0 { "" } else { "some/directory" };
        fs::write(at.join(parent).join(format!("file {n}")), content(n, (n * 977) % 60_000)).unwrap();
    }
    for n in (0..files).step_by(2) {
        let parent = if n % 3 == 0 { "" } else { "some/directory" };
        fs::remove_file(at.join(parent).join(format!("file {n}"))).unwrap();
    }
    let growing: Vec<File> = (0..4).map(|n| File::create(at.join(format!("growing {n}"))).unwrap()).collect();
    for turn in 0..12 {
        for (n, file) in growing.iter().enumerate() {
            file.write_all_at(&content(turn * 100 + n, 16 << 10), (turn as u64) << 14).unwrap();
        }
    }
    let sparse = File::create(at.join("sparse")).unwrap();
    sparse.write_all_at(&content(1, 5000), 3 << 20).unwrap();
    sparse.set_len(8 << 20).unwrap();
}

/// Bytes of the image where the clusters of an attribute's content are, as `ntfscluster` says.
fn runs_by_the_tools(image: &Path, which: &[&str], attribute: &str, cluster_size: u64) -> ExtentSet {
    let text = run("ntfscluster", ["--force"].iter().chain(which).chain([&image.to_str().unwrap()]));
    let mut is_meant = false;
    let mut runs = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.get(1) == Some(&"-") {
            is_meant = words[0] == attribute;
        } else if let (true, [_, lcn, clusters]) = (is_meant, &words[..])
            && let (Ok(lcn), Ok(clusters)) = (lcn.parse::<u64>(), clusters.parse::<u64>())
        {
            runs.push(Extent::new(lcn * cluster_size, clusters * cluster_size));
        }
    }
    runs.sort_unstable();
    runs.into_iter().collect()
}

fn patch(image: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(image).unwrap().write_all_at(bytes, at).unwrap();
}

fn read_whole_reason(found: &FileSystem) -> &str {
    assert_eq!(found.used, ExtentSet::whole(found.used.iter().last().unwrap().end()));
    match found.notes.last() {
        Some(Note::ReadWhole { reason }) => reason,
        other => panic!("not read whole: {other:?}"),
    }
}

fn is_dirty(found: &FileSystem, word: &str) -> bool {
    found.notes.iter().any(|note| matches!(note, Note::Dirty { detail } if detail.contains(word)))
}

#[test]
fn fresh_volumes_of_every_geometry() {
    let dir = tempfile::tempdir().unwrap();
    let clusters = ["512", "1024", "2048", "4096", "8192", "16384", "32768", "65536", "131072", "524288", "2097152"];
    for cluster in clusters {
        let image = make(dir.path(), "clusters", 150 << 20, &["-c", cluster, "-L", "Größe"]);
        let found = assert_map_is_exact(&image);
        assert_eq!((found.block_size.to_string().as_str(), found.label.as_deref()), (cluster, Some("Größe")));
        assert_eq!(
            Some(run("blkid", ["-p", "-o", "value", "-s", "UUID", image.to_str().unwrap()]).trim()),
            found.uuid.as_deref()
        );
    }
    for (sector, cluster) in
        [("256", "256"), ("1024", "4096"), ("4096", "4096"), ("4096", "65536"), ("4096", "2097152")]
    {
        let image = make(dir.path(), "sectors", 150 << 20, &["-s", sector, "-c", cluster]);
        assert_eq!(assert_map_is_exact(&image).block_size.to_string(), cluster);
    }
    for size in [3 << 20, (9 << 20) + 512, (70 << 20) + 7 * 512, (3 << 30) - 512] {
        assert_map_is_exact(&make(dir.path(), "sizes", size, &[]));
    }
}

#[test]
fn a_sparse_volume_of_many_tebibytes() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), "large", 6 << 40, &["-c", "65536"]);
    let before = Instant::now();
    let found = inspected(&image);
    assert!(before.elapsed() < Duration::from_secs(5), "took {:?}", before.elapsed());
    assert_eq!(found.used, used_by_the_tools(&image, &found));
    assert!(found.used.total() < 1 << 30);
}

#[test]
fn filled_and_fragmented_volumes_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for (name, size, options) in [
        ("small-clusters", 40 << 20, &["-c", "512"][..]),
        ("usual", 60 << 20, &["-c", "4096"]),
        ("native-4k", 60 << 20, &["-s", "4096", "-c", "4096"]),
        ("large-clusters", 200 << 20, &["-c", "65536"]),
        ("huge-clusters", 300 << 20, &["-c", "1048576"]),
    ] {
        let image = make(dir.path(), name, size, options);
        fill(&Mounted::new(&image, "").at, if name == "huge-clusters" { 100 } else { 600 });
        let found = assert_map_is_exact(&image);
        assert!(found.used.as_slice().len() > 6, "{name} is not fragmented");
        assert_files_survive(&image, &found.used);
        fs::remove_file(image).unwrap();
    }
}

/// `$MFT` in more fragments than one record describes.
#[test]
fn a_file_table_with_an_attribute_list() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), "fragmented", 24 << 20, &["-c", "512"]);
    {
        let mounted = Mounted::new(&image, "");
        let path = |name: &str, n: usize| mounted.at.join(format!("{name}{n}"));
        let mut count = 0;
        while fs::write(path("full", count), content(count, 1024)).is_ok() {
            count += 1;
        }
        (0..count).step_by(2).for_each(|n| fs::remove_file(path("full", n)).unwrap());
        // Two clusters free, two in use, all over the volume: there the table must grow. So must the page file.
        (0..6000).for_each(|n| drop(File::create(path("empty", n)).unwrap()));
        fs::write(mounted.at.join("pagefile.sys"), content(3, 1 << 20)).unwrap();
    }
    let table = run("ntfsinfo", ["-i", "0", image.to_str().unwrap()]);
    assert!(table.contains("$ATTRIBUTE_LIST"), "the file table has no attribute list");
    let found = assert_map_is_exact(&image);
    let [page_file] = &found.spare_files[..] else { panic!("{:?}", found.spare_files) };
    assert_eq!(page_file.extents, runs_by_the_tools(&image, &["-F", "pagefile.sys"], "0x80", 512));
    assert!(page_file.extents.as_slice().len() > 250, "{} extents", page_file.extents.as_slice().len());
    assert_files_survive(&image, &found.used);
}

#[test]
fn page_and_hibernation_files_of_the_root_directory_only() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), "spare", 40 << 20, &[]);
    {
        let mounted = Mounted::new(&image, "");
        for n in 0..400 {
            fs::write(mounted.at.join(format!("many files make the directory leave its record {n}")), b"x").unwrap();
        }
        fs::create_dir(mounted.at.join("directory")).unwrap();
        fs::write(mounted.at.join("directory/pagefile.sys"), content(1, 50_000)).unwrap();
        fs::write(mounted.at.join("PageFile.sys"), content(2, 200_000)).unwrap();
        fs::write(mounted.at.join("swapfile.sys"), content(3, 100_000)).unwrap();
        fs::write(mounted.at.join("hiberfil.sys"), vec![0; 300_000]).unwrap();
        fs::write(mounted.at.join("hiberfil.sys.old"), content(5, 100_000)).unwrap();
    }
    let found = assert_map_is_exact(&image);
    let mut spare: Vec<_> = found.spare_files.iter().map(|file| (file.path.as_str(), file.kind)).collect();
    spare.sort_unstable_by_key(|(path, _)| *path);
    let expected = [
        ("hiberfil.sys", SpareKind::Hibernation),
        ("pagefile.sys", SpareKind::Paging),
        ("swapfile.sys", SpareKind::Paging),
    ];
    assert_eq!(spare, expected);
    for file in &found.spare_files {
        let name = if file.path == "pagefile.sys" { "PageFile.sys" } else { &file.path };
        assert_eq!(file.extents, runs_by_the_tools(&image, &["-F", name], "0x80", 4096), "{name}");
    }
}

#[test]
fn a_hibernated_windows_is_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    for (content, what) in [(&b"HIBR"[..], "hiberfil.sys begins with HIBR"), (b"wake", "hiberfil.sys begins with wake")]
    {
        let image = make(dir.path(), "hibernated", 20 << 20, &["-L", "Windows"]);
        let mut file = content.to_vec();
        file.resize(100_000, 0);
        fs::write(Mounted::new(&image, "").at.join("hiberfil.sys"), file).unwrap();
        let found = inspected(&image);
        assert!(found.notes.contains(&Note::Hibernated { detail: what.to_owned() }), "{:?}", found.notes);
        assert!(read_whole_reason(&found).contains(what));
        assert_eq!(probed(&image), if content == b"HIBR" { Probed::Hibernated } else { Probed::Mountable });
        assert_eq!((found.label.as_deref(), &found.spare_files[..]), (Some("Windows"), &[][..]));
    }
    let image = make(dir.path(), "stub", 20 << 20, &[]);
    fs::write(Mounted::new(&image, "").at.join("hiberfil.sys"), [0; 16]).unwrap();
    assert!(read_whole_reason(&inspected(&image)).contains("hiberfil.sys is a stub"));
}

/// A volume with one file, and where that file and `$Bitmap` are.
fn with_one_file(dir: &Path, name: &str) -> (PathBuf, ExtentSet, ExtentSet) {
    let image = make(dir, name, 20 << 20, &[]);
    fs::write(Mounted::new(&image, "").at.join("file"), content(9, 500_000)).unwrap();
    let file = runs_by_the_tools(&image, &["-F", "file"], "0x80", 4096);
    let bitmap = runs_by_the_tools(&image, &["-I", "6"], "0x80", 4096);
    assert_eq!((file.total(), bitmap.total()), (503_808, 4096));
    (image, file, bitmap)
}

/// Marks clusters as free in `$Bitmap`.
fn mark_free(image: &Path, bitmap: &ExtentSet, clusters: &ExtentSet) {
    let start = bitmap.as_slice()[0].start;
    let mut bytes = FileVolume::open(image).read_vec(start, 4096).unwrap();
    for extent in clusters.iter() {
        (extent.start / 4096..extent.end() / 4096)
            .for_each(|n| bytes[usize::try_from(n / 8).unwrap()] &= !(1 << (n % 8)));
    }
    patch(image, start, &bytes);
}

/// What a power failure under a driver without journal leaves: the file is there, its bits are not.
#[test]
fn a_bitmap_that_lags_behind_the_files_is_made_up_for() {
    let dir = tempfile::tempdir().unwrap();
    let (image, file, bitmap) = with_one_file(dir.path(), "lag");
    let complete = assert_map_is_exact(&image);
    mark_free(&image, &bitmap, &file);
    let found = inspected(&image);
    assert_eq!(found.notes, [Note::Dirty { detail: "503808 bytes of files are not marked in $Bitmap".to_owned() }]);
    assert_eq!(found.used, complete.used);
    assert_ne!(found.used, used_by_the_tools(&image, &found));
    assert_files_survive(&image, &found.used);
}

#[test]
fn a_bitmap_that_does_not_know_the_file_table_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (image, _, bitmap) = with_one_file(dir.path(), "no table");
    mark_free(&image, &bitmap, &runs_by_the_tools(&image, &["-I", "0"], "0x80", 4096));
    let found = inspected(&image);
    assert_eq!(
        read_whole_reason(&found),
        "damaged at byte 16384 of the volume: $Bitmap says that clusters of $MFT or $Bitmap are free"
    );
}

/// Windows's own journal, written over the empty one that mkntfs leaves.
fn restart_pages(flags: u16, version: (u16, u16)) -> Vec<u8> {
    let mut page = vec![0; 4096];
    page[..8].copy_from_slice(b"RSTR\x1E\0\x09\0");
    page[0x10..0x1A].copy_from_slice(b"\0\x10\0\0\0\x10\0\0\x30\0");
    page[0x1A..0x1C].copy_from_slice(&version.1.to_le_bytes());
    page[0x1C..0x1E].copy_from_slice(&version.0.to_le_bytes());
    page[0x1E] = 0x1D;
    page.chunks_exact_mut(512).for_each(|stride| stride[510] = 0x1D);
    page[0x30..0x3E].copy_from_slice(b"\x15\x44\x50\0\0\0\0\0\x01\0\xFF\xFF\0\0");
    page[0x3E..0x40].copy_from_slice(&flags.to_le_bytes());
    page[0x40..0x50].copy_from_slice(b"\x2D\0\0\0\xE0\0\x40\0\0\0\x20\0\0\0\0\0");
    page[0x50..0x58].copy_from_slice(b"\x70\0\0\0\x30\0\x40\0");
    page[0x80..0x90].copy_from_slice(b"\xFF\xFF\xFF\xFF\0\0\0\0\0\0\0\0\x08\0\0\0");
    page[0x90..0x98].copy_from_slice(b"N\0T\0F\0S\0");
    page.repeat(2)
}

/// Makes a volume look as after a shutdown of Windows.
pub(crate) fn shut_down_cleanly(image: &Path, cluster_size: u64) {
    let journal = runs_by_the_tools(image, &["-I", "2"], "0x80", cluster_size).as_slice()[0].start;
    patch(image, journal, &restart_pages(2, (1, 1)));
}

/// What `ntfs-3g.probe` says about mounting a volume to write to it.
#[derive(Debug, PartialEq, Eq)]
enum Probed {
    Mountable,
    Hibernated,
    Unclean,
}

fn probed(image: &Path) -> Probed {
    match output("ntfs-3g.probe", ["--readwrite", image.to_str().unwrap()]).status.code() {
        Some(0) => Probed::Mountable,
        Some(14) => Probed::Hibernated,
        Some(15) => Probed::Unclean,
        other => panic!("ntfs-3g.probe ended with {other:?}"),
    }
}

#[test]
fn a_journal_with_work_left_means_reading_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (image, file, bitmap) = with_one_file(dir.path(), "journal");
    let journal = runs_by_the_tools(&image, &["-I", "2"], "0x80", 4096).as_slice()[0].start;

    shut_down_cleanly(&image, 4096);
    let clean = assert_map_is_exact(&image);
    assert_eq!(probed(&image), Probed::Mountable);
    // Windows vouches for its bitmap: the file table is not read.
    mark_free(&image, &bitmap, &file);
    assert_eq!(inspected(&image).used, clean.used.minus(&file));

    patch(&image, journal, &restart_pages(0, (1, 1)));
    let found = inspected(&image);
    assert!(is_dirty(&found, "its journal, $LogFile, has work left"));
    assert!(read_whole_reason(&found).starts_with("its journal, $LogFile, has work left"));
    assert_eq!(probed(&image), Probed::Unclean);

    patch(&image, journal, &restart_pages(2, (2, 0)));
    assert!(is_dirty(&inspected(&image), "Fast Startup"));
    assert_eq!(probed(&image), Probed::Hibernated);
}

#[test]
fn the_dirty_flag_makes_the_files_be_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (image, file, bitmap) = with_one_file(dir.path(), "flag");
    let complete = assert_map_is_exact(&image);
    // After its repairs it sets the flag, so that Windows checks, too.
    run("ntfsfix", [&image]);
    assert!(run("ntfsinfo", ["--force", "-m", image.to_str().unwrap()]).contains("DIRTY"));
    shut_down_cleanly(&image, 4096);
    mark_free(&image, &bitmap, &file);

    let found = inspected(&image);
    assert!(is_dirty(&found, "$Volume asks for a check"));
    assert_eq!(found.used, complete.used);

    patch(&image, volume_flags_at(&image), &[0x00, 0x40]);
    assert_eq!(read_whole_reason(&inspected(&image)), "a check by Windows was interrupted");
}

/// Where the flags in `$VOLUME_INFORMATION` are: in record 3, behind eight zeros and version 3.1.
fn volume_flags_at(image: &Path) -> u64 {
    let record = 16384 + 3 * 1024;
    let bytes = FileVolume::open(image).read_vec(record, 1024).unwrap();
    let version = bytes.windows(10).position(|bytes| bytes == [0, 0, 0, 0, 0, 0, 0, 0, 3, 1]).unwrap();
    record + version as u64 + 10
}

#[test]
fn a_driver_killed_while_it_writes_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let image = make(dir.path(), "killed", 60 << 20, &["-c", "1024"]);
        {
            let mut mounted = Mounted::new(&image, "");
            fill(&mounted.at, 100);
            let at = mounted.at.clone();
            let writer = std::thread::spawn(move || {
                let file = File::create(at.join("endless")).unwrap();
                let write = |n: usize| {
                    fs::write(at.join(format!("new {n}")), content(n, 30_000))?;
                    file.write_all_at(&content(n, 8192), (n as u64) << 13)
                };
                (0..).take_while(|&n| write(n).is_ok()).count()
            });
            std::thread::sleep(Duration::from_millis(300 + 100 * round));
            mounted.daemon.kill().unwrap();
            mounted.daemon.wait().unwrap();
            assert!(writer.join().unwrap() > 5, "killed before anything was written");
        }
        let found = inspected(&image);
        assert!(!matches!(found.notes.last(), Some(Note::ReadWhole { .. })), "{:?}", found.notes);
        assert_eq!(used_by_the_tools(&image, &found).minus(&found.used), ExtentSet::new());
        assert_files_survive(&image, &found.used);
    }
}

#[test]
fn damaged_and_foreign_volumes_are_read_whole_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (pristine, _, bitmap) = with_one_file(dir.path(), "pristine");
    let table = 16384;
    let attribute = |record: u64, attribute: u32| {
        let start = table + record * 1024;
        let bytes = FileVolume::open(&pristine).read_vec(start, 1024).unwrap();
        start + bytes[56..].windows(4).position(|b| b == attribute.to_le_bytes()).unwrap() as u64 + 56
    };
    let bitmap_data = attribute(6, 0x80);
    let flags = volume_flags_at(&pristine);
    let cases: &[(u64, &[u8], &str)] = &[
        (3, b"-FVE-FS-", "no file system that has an allocation map here"),
        (3, b"EXFAT   ", "no file system that has an allocation map here"),
        (3, b"ReFS\0\0\0\0", "no file system that has an allocation map here"),
        (0x0B, &[0, 3], "damaged at byte 11 of the volume: sectors of 768 bytes"),
        (0x0D, &[0], "damaged at byte 13 of the volume: clusters of 0x00 sectors"),
        (
            0x28,
            &[0, 0, 1],
            "damaged at byte 40 of the volume: the file system claims 33554432 bytes, the volume has 20971520",
        ),
        (0x40, &[0], "damaged at byte 64 of the volume: file records of size code 0x00"),
        (table, b"BAAD", "damaged at byte 16384 of the volume: file record 0 has no FILE signature"),
        (
            table + 510,
            &[0xEE, 0xEE],
            "damaged at byte 16384 of the volume: a structure that was not written to its end",
        ),
        (
            table + 3 * 1024 + 6,
            &[9],
            "damaged at byte 19456 of the volume: an update sequence that does not fit its structure",
        ),
        (table + 3 * 1024 + 0x16, &[0], "damaged at byte 19456 of the volume: file record 3 belongs to no system file"),
        (flags - 2, &[4, 0], "unsupported: NTFS version 4.0"),
        (flags - 2, &[3, 2], "unsupported: NTFS version 3.2"),
        (
            bitmap_data + 0x30,
            &[100, 0],
            "damaged at byte 22528 of the volume: $Bitmap has 100 bytes, the volume needs 640",
        ),
        (
            bitmap_data + 0x0C,
            &[1],
            "damaged at byte 22528 of the volume: $Bitmap has holes, or is compressed or encrypted",
        ),
        (
            bitmap.as_slice()[0].start,
            &[0; 640],
            "damaged at byte 16384 of the volume: $Bitmap says that clusters of $MFT or $Bitmap are free",
        ),
    ];
    for (at, bytes, reason) in cases {
        let image = dir.path().join("damaged");
        fs::copy(&pristine, &image).unwrap();
        patch(&image, *at, bytes);
        assert_eq!(read_whole_reason(&inspected(&image)), *reason, "{bytes:?} at {at}");
    }
}

/// Whatever is written over the metadata: an answer within the volume, soon.
#[test]
fn random_damage_never_panics_or_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), "mutated", 6 << 20, &["-c", "512"]);
    {
        let mounted = Mounted::new(&image, "");
        fill(&mounted.at, 60);
        fs::write(mounted.at.join("hiberfil.sys"), vec![0; 10_000]).unwrap();
    }
    let pristine = fs::read(&image).unwrap();
    let areas: Vec<Extent> = ["0", "2", "5", "6"]
        .iter()
        .flat_map(|number| {
            let attributes = ["0x80", "0xa0"].iter().map(|kind| runs_by_the_tools(&image, &["-I", number], kind, 512));
            attributes.flat_map(|runs| runs.iter().take(8).collect::<Vec<_>>()).collect::<Vec<_>>()
        })
        .chain([Extent::new(0, 84)])
        .collect();
    assert!(areas.len() > 4);

    let mut random = Random::new(6);
    let mut whole = 0;
    let rounds = 6000;
    for round in 0..rounds {
        let mut volume = Overlay { below: &pristine, patches: Vec::new() };
        for _ in 0..=random.below(4) {
            let area = areas[usize::try_from(random.below(areas.len() as u64)).unwrap()];
            // Mostly the beginnings of records, where the structure is.
            let at = match random.below(3) {
                0 => random.below(area.len),
                _ => (random.below(area.len.div_ceil(1024)) * 1024 + random.below(400)).min(area.len - 1),
            };
            let interesting = [0, 1, 0x7F, 0x80, 0xFF];
            let value = match random.below(2) {
                0 => interesting[usize::try_from(random.below(5)).unwrap()],
                _ => u8::try_from(random.below(256)).unwrap(),
            };
            volume.patches.push((area.start + at, vec![value]));
        }
        let found = inspect(&volume);
        assert!(found.used.iter().all(|extent| extent.end() <= volume.size()), "round {round}");
        whole += usize::from(matches!(found.notes.last(), Some(Note::ReadWhole { .. })));
    }
    assert!((rounds / 20..rounds).contains(&whole), "{whole} of {rounds} were read whole: the damage hits nothing");
}
