//! ext2, ext3 and ext4 as their own tools make them: our map against dumpe2fs's, and against a copy of which
//! only the used bytes are true.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use imager::extent::{Extent, ExtentSet};
use imager::fs::{FileSystem, inspect};
use tempfile::TempDir;

use crate::support::{Loop, Mount, output, run, sparse_file};
use crate::volume::{FileVolume, Random, copy_used, tree};

const MIB: u64 = 1 << 20;

/// One way to make a file system.
struct Variant {
    kind: &'static str,
    size: u64,
    mkfs: &'static [&'static str],
}

const fn variant(kind: &'static str, mib: u64, mkfs: &'static [&'static str]) -> Variant {
    Variant { kind, size: mib * MIB, mkfs }
}

#[rustfmt::skip]
const EXT2_AND_EXT3: &[Variant] = &[
    variant("ext2", 40, &["mkfs.ext2", "-b", "1024"]),
    variant("ext2", 64, &["mkfs.ext2", "-b", "2048"]),
    variant("ext2", 64, &["mkfs.ext2", "-b", "4096", "-O", "^sparse_super,^resize_inode"]),
    variant("ext2", 40, &["mkfs.ext2", "-b", "1024", "-O", "none", "-r", "0"]),
    variant("ext3", 64, &["mkfs.ext3", "-b", "1024", "-J", "size=4"]),
    variant("ext3", 64, &["mkfs.ext3", "-b", "4096"]),
];

#[rustfmt::skip]
const EXT4_LAYOUTS: &[Variant] = &[
    variant("ext4", 64, &["mkfs.ext4", "-b", "1024"]),
    variant("ext4", 64, &["mkfs.ext4", "-b", "2048"]),
    variant("ext4", 300, &["mkfs.ext4", "-b", "4096"]),
    variant("ext4", 300, &["mkfs.ext4", "-b", "4096", "-g", "4096", "-O", "^has_journal"]),
    variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"]),
    variant("ext4", 200, &["mkfs.ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode,^flex_bg,^64bit"]),
    variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-O", "^flex_bg"]),
    variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-O", "^64bit"]),
    variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-O", "^resize_inode"]),
    variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-O", "sparse_super2,^resize_inode"]),
    variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-O", "sparse_super2,^resize_inode", "-E", "num_backup_sb=1"]),
    variant("ext4", 300, &["mkfs.ext4", "-b", "4096", "-G", "4", "-g", "2048", "-I", "512", "-i", "8192"]),
];

#[rustfmt::skip]
const EXT4_FEATURES: &[Variant] = &[
    variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-O", "uninit_bg,^metadata_csum"]),
    variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-O", "uninit_bg,^metadata_csum,^64bit"]),
    variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-O", "^metadata_csum,^uninit_bg"]),
    variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-O", "metadata_csum_seed,mmp,encrypt,inline_data,ea_inode,large_dir,verity"]),
    variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-O", "fast_commit,orphan_file,stable_inodes"]),
    variant("ext4", 200, &["mkfs.ext4", "-b", "1024", "-O", "bigalloc", "-C", "2048"]),
    variant("ext4", 300, &["mkfs.ext4", "-b", "1024", "-O", "bigalloc", "-C", "16384", "-N", "4096"]),
    variant("ext4", 400, &["mkfs.ext4", "-b", "4096", "-O", "bigalloc", "-C", "65536"]),
    variant("ext4", 400, &["mkfs.ext4", "-b", "4096", "-O", "bigalloc,meta_bg,^resize_inode", "-C", "32768"]),
    variant("ext4", 300, &["mkfs.ext4", "-b", "4096", "-O", "bigalloc,^flex_bg,^metadata_csum,uninit_bg", "-C", "8192", "-g", "4096"]),
];

/// Blocks larger than this machine's pages, and features that its kernel may lack: filled by debugfs.
#[rustfmt::skip]
const NOT_MOUNTED: &[Variant] = &[
    variant("ext2", 64, &["mkfs.ext2", "-b", "8192"]),
    variant("ext3", 200, &["mkfs.ext3", "-b", "16384"]),
    variant("ext4", 200, &["mkfs.ext4", "-b", "32768"]),
    variant("ext4", 600, &["mkfs.ext4", "-b", "65536"]),
    variant("ext4", 600, &["mkfs.ext4", "-b", "65536", "-g", "1024", "-O", "meta_bg,^resize_inode,^has_journal"]),
    variant("ext4", 600, &["mkfs.ext4", "-b", "65536", "-g", "1024", "-O", "bigalloc,^has_journal", "-C", "131072"]),
    variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-O", "quota,project,casefold"]),
];

/// Makes the file system of `variant` in a new file.
fn make(variant: &Variant, directory: &Path) -> PathBuf {
    let image = sparse_file(&directory.join("image"), variant.size);
    let (program, args) = variant.mkfs.split_first().unwrap();
    let fixed = ["-q", "-F", "-L", "a label", "-U", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"];
    run(program, fixed.iter().chain(args).copied().chain([image.to_str().unwrap()]));
    image
}

/// Writes files of many sizes, deletes every third and writes more into the holes.
fn fill(root: &Path, bytes: u64) {
    let mut random = Random::new(7);
    let mut names = Vec::new();
    let mut write = |round: u32, bytes: u64, names: &mut Vec<PathBuf>| {
        let mut left = bytes;
        for number in 0.. {
            let magnitude = random.below(20);
            let len = random.below(1 << magnitude);
            if len > left || number == 400 {
                break;
            }
            let directory = root.join(format!("directory {}", number % 7));
            fs::create_dir_all(&directory).unwrap();
            let name = directory.join(format!("file {round} {number}"));
            fs::write(&name, random.bytes(usize::try_from(len).unwrap())).unwrap();
            names.push(name);
            left -= len;
        }
    };
    write(1, bytes / 2, &mut names);
    for name in names.iter().step_by(3) {
        fs::remove_file(name).unwrap();
    }
    write(2, bytes / 4, &mut names);
    std::os::unix::fs::symlink("directory 1", root.join("link")).unwrap();
    fs::File::create(root.join("sparse")).unwrap().set_len(100 * MIB).unwrap();
}

/// The bytes that dumpe2fs does not call free.
pub(crate) fn used_by_dumpe2fs(image: &Path, found: &FileSystem) -> ExtentSet {
    let block_size = u64::from(found.block_size);
    let dump = run("dumpe2fs", [image]);
    // With bigalloc, it names the first block of each free cluster.
    let cluster_size = dump.lines().find_map(|line| line.strip_prefix("Cluster size:"));
    let cluster_size = cluster_size.map_or(block_size, |size| size.trim().parse().unwrap());
    let free = dump.lines().filter_map(|line| line.strip_prefix("  Free blocks: ")).flat_map(|list| list.split(", "));
    let free = free.filter(|range| !range.is_empty()).map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
        Extent::between(first * block_size, last * block_size + cluster_size)
    });
    ExtentSet::whole(found.size).minus(&free.collect())
}

fn assert_same(found: &FileSystem, image: &Path, what: &str) {
    let expected = used_by_dumpe2fs(image, found);
    let missing = expected.minus(&found.used);
    let surplus = found.used.minus(&expected).intersect(Extent::new(0, found.size)).collect::<ExtentSet>();
    assert!(missing.is_empty(), "{what}: in use, but not for us: {:?}", missing.as_slice());
    assert!(surplus.is_empty(), "{what}: free, but not for us: {:?}", surplus.as_slice());
}

/// Asserts that our map is dumpe2fs's.
fn check_map(image: &Path, variant: &Variant) -> FileSystem {
    let what = variant.mkfs.join(" ");
    let found = inspect(&FileVolume::open(image));
    assert_eq!((found.kind.as_str(), found.notes.as_slice()), (variant.kind, [].as_slice()), "{what}");
    let blkid = |tag| run("blkid", ["-p", "-s", tag, "-o", "value", image.to_str().unwrap()]).trim().to_owned();
    assert_eq!(found.kind, blkid("TYPE"), "{what}");
    assert_eq!(found.label.as_deref(), Some(blkid("LABEL").as_str()), "{what}");
    assert_eq!(found.uuid.as_deref(), Some(blkid("UUID").as_str()), "{what}");
    assert_same(&found, image, &what);
    found
}

/// Asserts that the used bytes alone make a file system that its own check passes.
fn copy_and_check(image: &Path, found: &FileSystem) -> PathBuf {
    let copy = image.with_extension("copy");
    copy_used(image, &copy, &found.used);
    run("e2fsck", ["-fn", copy.to_str().unwrap()]);
    copy
}

fn check_mounted(variants: &[Variant]) {
    for variant in variants {
        let scratch = TempDir::new().unwrap();
        let root = scratch.path().join("root");
        let image = make(variant, scratch.path());
        check_map(&image, variant);
        let mount = Mount::new(&image, &root, "loop");
        fill(&root, variant.size.min(64 * MIB) / 3);
        let files = tree(&root);
        drop(mount);
        let copy = copy_and_check(&image, &check_map(&image, variant));
        let _mount = Mount::new(&copy, &root, "loop");
        assert_eq!(tree(&root), files, "{:?}", variant.mkfs);
    }
}

#[test]
fn the_map_of_ext2_and_ext3_is_that_of_dumpe2fs() {
    check_mounted(EXT2_AND_EXT3);
}

#[test]
fn the_map_of_every_ext4_layout_is_that_of_dumpe2fs() {
    check_mounted(EXT4_LAYOUTS);
}

#[test]
fn the_map_with_every_ext4_feature_is_that_of_dumpe2fs() {
    check_mounted(EXT4_FEATURES);
}

#[test]
fn the_map_of_what_cannot_be_mounted_here_is_that_of_dumpe2fs() {
    for variant in NOT_MOUNTED {
        let scratch = TempDir::new().unwrap();
        let image = make(variant, scratch.path());
        check_map(&image, variant);
        let files = scratch.path().join("files");
        fill(&files, 8 * MIB);
        let names: Vec<String> = tree(&files).into_keys().filter(|name| name.contains('/')).collect();
        let mut commands: Vec<String> = (0..7).map(|number| format!("mkdir \"directory {number}\"")).collect();
        commands.extend(names.iter().map(|name| format!("write \"{}/{name}\" \"{name}\"", files.display())));
        commands.extend(names.iter().step_by(3).map(|name| format!("rm \"{name}\"")));
        let script = scratch.path().join("script");
        fs::write(&script, commands.join("\n")).unwrap();
        run("debugfs", ["-w", "-f", script.to_str().unwrap(), image.to_str().unwrap()]);
        // debugfs leaves the quota files as they were.
        output("e2fsck", ["-fy", image.to_str().unwrap()]);
        let copy = copy_and_check(&image, &check_map(&image, variant));
        let restored = scratch.path().join("restored");
        fs::create_dir(&restored).unwrap();
        let dump = format!("rdump / {}", restored.display());
        run("debugfs", ["-R", &dump, copy.to_str().unwrap()]);
        for (index, name) in names.iter().enumerate() {
            let expected = (index % 3 != 0).then(|| fs::read(files.join(name)).unwrap());
            assert!(fs::read(restored.join(name)).ok() == expected, "{name} of {:?}", variant.mkfs);
        }
    }
}

/// Grows, shrinks or converts the file system in a file; or does it to a mounted one.
enum Change {
    Tool(&'static str, &'static [&'static str]),
    GrowMounted,
}

#[test]
fn the_map_of_a_changed_file_system_is_that_of_dumpe2fs() {
    use Change::{GrowMounted, Tool};
    #[rustfmt::skip]
    let cases = [
        (variant("ext4", 64, &["mkfs.ext4", "-b", "1024"]), GrowMounted),
        (variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-O", "^flex_bg,^64bit", "-g", "1024"]), GrowMounted),
        // No room is kept for descriptors: the kernel goes over to meta_bg.
        (variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-g", "1024", "-O", "^resize_inode"]), GrowMounted),
        (variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-O", "sparse_super2,^resize_inode"]), Tool("resize2fs", &["200M"])),
        (variant("ext3", 64, &["mkfs.ext3", "-b", "1024"]), Tool("resize2fs", &["200M"])),
        (variant("ext4", 64, &["mkfs.ext4", "-b", "1024"]), Tool("resize2fs", &["50M"])),
        (variant("ext4", 64, &["mkfs.ext4", "-b", "1024"]), Tool("resize2fs", &["-s"])),
        (variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-O", "^64bit"]), Tool("resize2fs", &["-b"])),
        (variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-O", "^metadata_csum"]), Tool("tune2fs", &["-O", "metadata_csum"])),
        (variant("ext4", 64, &["mkfs.ext4", "-b", "1024"]), Tool("tune2fs", &["-O", "^metadata_csum"])),
        (variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-I", "128", "-O", "^flex_bg"]), Tool("tune2fs", &["-I", "256"])),
        (variant("ext4", 64, &["mkfs.ext3", "-b", "1024"]), Tool("tune2fs", &["-O", "extents,uninit_bg"])),
        // As the kernel leaves it when it runs out of room for descriptors.
        (variant("ext4", 64, &["mkfs.ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode"]), Tool("debugfs", &["-w", "-R", "ssv first_meta_bg 1"])),
    ];
    for (variant, change) in cases {
        let scratch = TempDir::new().unwrap();
        let root = scratch.path().join("root");
        let image = make(&variant, scratch.path());
        let device = Loop::attach(&image, &[]);
        let mount = Mount::new(&device.0, &root, "defaults");
        fill(&root, 16 * MIB);
        fs::File::options().write(true).open(&image).unwrap().set_len(200 * MIB).unwrap();
        let mount = match change {
            GrowMounted => {
                run("losetup", [OsStr::new("--set-capacity"), device.0.as_os_str()]);
                let resize = output("resize2fs", [&device.0]);
                if String::from_utf8_lossy(&resize.stderr).contains("Permission denied") {
                    println!("not shown: growing a mounted file system takes CAP_SYS_RESOURCE");
                    continue;
                }
                assert!(resize.status.success(), "{resize:?}");
                Some(mount)
            }
            Tool(tool, args) => {
                drop(mount);
                output("e2fsck", [OsStr::new("-fy"), image.as_os_str()]);
                // The size follows the file, options go before it.
                let file = image.to_str().unwrap();
                let (options, size) = if args[0].starts_with('-') { (args, &[][..]) } else { (&[][..], args) };
                run(tool, options.iter().copied().chain([file]).chain(size.iter().copied()));
                // As tune2fs asks for.
                output("e2fsck", ["-fy", file]);
                None
            }
        };
        drop(mount);
        drop(device);
        let found = check_map(&image, &variant);
        copy_and_check(&image, &found);
    }
}

#[test]
fn terabytes_take_neither_time_nor_memory() {
    #[rustfmt::skip]
    let variants = [
        variant("ext4", 4 << 20, &["mkfs.ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1"]),
        // Block numbers above 2^32.
        variant("ext4", 5 << 20, &["mkfs.ext4", "-b", "1024", "-O", "bigalloc,^has_journal,sparse_super2,^resize_inode", "-C", "65536", "-E", "lazy_itable_init=1"]),
    ];
    for variant in variants {
        let scratch = TempDir::new().unwrap();
        let image = make(&variant, scratch.path());
        let start = std::time::Instant::now();
        let found = inspect(&FileVolume::open(&image));
        println!("{:?}: {:?}", variant.mkfs, start.elapsed());
        assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
        assert!(found.used.total() < variant.size / 20);
        check_map(&image, &variant);
    }
}
