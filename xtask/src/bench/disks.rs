//! The disks that are measured: a server, the same server a day later, two machines of one kind, a very large disk.
//!
//! They hold what real ones hold: programs, text, logs, images and packed archives; and what real ones carry along:
//! the bytes of deleted files, holes, space that was set aside and never written.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lifeboat_tests::disk::{self, Disk, MIB, Table, Wanted};
use lifeboat_tests::mounted::{Loop, Mount, WorkFolder};
use lifeboat_tests::{boot_disk, debian, tool};

use super::contents::{Packages, log, noise};

/// Programs, libraries, sources and documents of a server and a developer's machine.
const PROGRAMS: &[&str] = &[
    "gcc-12",
    "g++-12",
    "cpp-12",
    "libstdc++-12-dev",
    "binutils-x86-64-linux-gnu",
    "libllvm14",
    "libclang-cpp14",
    "libstd-rust-1.63",
    "rustc",
    "openjdk-17-jre-headless",
    "postgresql-15",
    "mariadb-server-core",
    "apache2-bin",
    "php8.2-cli",
    "samba-libs",
    "python3-numpy",
    "python3-scipy",
    "python3-pandas",
    "golang-1.19-src",
    "git",
    "vim-runtime",
    "emacs-common",
    "docker.io",
    "containerd",
    "python3.11-doc",
    "firefox-esr",
];

/// Written before or after the others, and deleted: what is left of them lies in free space.
const DELETED_BEFORE: &[&str] = &["chromium"];
const DELETED_AFTER: &[&str] = &["golang-1.19-go", "ghc"];

const DOCUMENTS: &[&str] = &["linux-doc-6.1", "gnome-backgrounds", "kicad-symbols", "python3.11-doc"];
const DOCUMENTS_DELETED: &[&str] = &["libboost1.74-dev"];

/// Kept as the compressed archives that they are.
const ARCHIVES: &[&str] = &["fonts-noto-cjk", "libwine"];

/// Windows programs, headers and import libraries.
const WINDOWS: &[&str] = &["libwine", "mingw-w64-x86-64-dev", "gcc-mingw-w64-x86-64-win32-runtime"];

/// What is installed on the second day.
const NEW: &[&str] = &["gimp-data"];

const WINDOWS_TYPE: &str = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7";

/// The numbers of the server's partitions.
const ESP: usize = 1;
const ROOT: usize = 2;
const DATA: usize = 3;
const SWAP: usize = 4;
const NTFS: usize = 5;

pub(crate) struct Disks<'a> {
    folder: &'a WorkFolder,
    packages: Packages,
}

impl<'a> Disks<'a> {
    pub(crate) fn new(folder: &'a WorkFolder) -> Self {
        Self { folder, packages: Packages::new(folder.join("cache")) }
    }

    /// 8 GiB: EFI system partition, ext4, XFS, swap, NTFS.
    pub(crate) fn server(&self) -> Result<PathBuf> {
        self.made("server.img", |image| {
            let wanted = [
                Wanted { name: "EFI", kind: "uefi", mib: 256 },
                Wanted { name: "root", kind: "linux", mib: 5120 },
                Wanted { name: "data", kind: "linux", mib: 1536 },
                Wanted { name: "swap", kind: "swap", mib: 254 },
                Wanted { name: "windows", kind: WINDOWS_TYPE, mib: 1024 },
            ];
            let disk = Disk::create(image, 8192, Table::Gpt, &wanted)?;
            self.fill_esp(&disk)?;
            self.on(&disk, ROOT, "ext4", &["-q", "-L", "root", "-E", EXT4_WRITES_ALL], |root| self.fill_root(root))?;
            self.on(&disk, DATA, "xfs", &["-q", "-K", "-L", "data"], |data| self.fill_data(data))?;
            self.fill_swap(&disk)?;
            self.on(&disk, NTFS, "ntfs-3g", &["-Q", "-F", "-q"], |windows| self.fill_windows(windows, Order::Ascending))
        })
    }

    /// The server after a day: about 4 % of its used blocks are others.
    pub(crate) fn day_later(&self, server: &Path) -> Result<PathBuf> {
        self.made("server-day-2.img", |image| {
            tool::run("cp", [OsStr::new("--sparse=always"), server.as_os_str(), image.as_os_str()])?;
            let disk = Disk::open(image)?;
            let root = Mount::partition(image, disk.partition(ROOT)?, "ext4", "nodiscard", &self.folder.join("root"))?;
            self.packages.unpack(NEW, &root.at.join("home/new"))?;
            noise(&root.at.join("home/photo.bin"), 2, 16)?;
            rewrite_some(&root.at.join("usr/lib"))?;
            for number in 1..=4 {
                log(&root.at.join(format!("var/log/app/access.{number}.log")), 10 + number, 4)?;
            }
            fs::remove_dir_all(root.at.join("usr/share/doc")).context("the disk is not one of ours")?;
            root.unmount()
        })
    }

    /// Two machines with the same programs, installed in another order, at another place, each with leftovers and
    /// data of its own.
    pub(crate) fn fleet(&self) -> Result<[PathBuf; 2]> {
        Ok([
            self.fleet_machine("fleet-a.img", Order::Ascending)?,
            self.fleet_machine("fleet-b.img", Order::Descending)?,
        ])
    }

    fn fleet_machine(&self, name: &str, order: Order) -> Result<PathBuf> {
        self.made(name, |image| {
            let is_second = order == Order::Descending;
            let gap = Wanted { name: "recovery", kind: "linux", mib: 300 };
            let system = [
                Wanted { name: "root", kind: "linux", mib: 4096 },
                Wanted { name: "windows", kind: WINDOWS_TYPE, mib: 1024 },
            ];
            let wanted = if is_second { [&[gap][..], &system].concat() } else { system.to_vec() };
            let disk = Disk::create(image, 6144, Table::Gpt, &wanted)?;
            let first = wanted.len() - 1;
            self.on(&disk, first, "ext4", &["-q", "-L", "root", "-E", EXT4_WRITES_ALL], |root| {
                if is_second {
                    self.packages.unpack(DELETED_AFTER, &root.join("opt/gone"))?;
                    noise(&root.join("opt/gone/other"), 3, 90)?;
                    settle(root)?;
                    fs::remove_dir_all(root.join("opt/gone"))?;
                }
                self.unpack_system(root)?;
                let mut programs = PROGRAMS.to_vec();
                if is_second {
                    programs.reverse();
                }
                self.packages.unpack(&programs, root)?;
                noise(&root.join("var/data.bin"), if is_second { 4 } else { 5 }, 60)
            })?;
            self.on(&disk, first + 1, "ntfs-3g", &["-Q", "-F", "-q"], |windows| {
                if is_second {
                    noise(&windows.join("setup.log"), 6, 20)?;
                }
                self.fill_windows(windows, order)
            })
        })
    }

    /// 1 TiB, of which 1 GiB is in use.
    pub(crate) fn huge(&self) -> Result<PathBuf> {
        self.made("huge.img", |image| {
            let mib = 1 << 20;
            let disk = Disk::create(image, mib, Table::Gpt, &[Wanted { name: "root", kind: "linux", mib: mib - 2 }])?;
            // Inode tables stay unwritten, as on a real disk of this size in its first days.
            self.on(&disk, 1, "ext4", &["-q", "-E", "nodiscard,lazy_itable_init=1"], |root| {
                self.packages.unpack(PROGRAMS.split_at(PROGRAMS.len() / 2).0, root)
            })
        })
    }

    /// A small Debian that boots.
    pub(crate) fn debian(&self) -> Result<PathBuf> {
        self.made("debian.img", |image| {
            boot_disk::make(self.folder, &debian::tarball(self.folder)?, image, Table::Gpt).map(drop)
        })
    }

    /// The image with this name; made when it is not there, under another name until it is whole.
    fn made(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let image = self.folder.join(name);
        if !image.exists() {
            println!("making {name}");
            let unfinished = self.folder.join(&format!("{name}.unfinished"));
            make(&unfinished).with_context(|| format!("cannot make {name}"))?;
            fs::rename(&unfinished, &image)?;
        }
        Ok(image)
    }

    /// Makes a file system on a partition, and has its files made. Blocks that files leave keep their bytes.
    fn on(
        &self,
        disk: &Disk,
        number: usize,
        kind: &str,
        make: &[&str],
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let (program, options) = match kind {
            "ext4" => ("mkfs.ext4", "nodiscard,noinit_itable"),
            "xfs" => ("mkfs.xfs", "nodiscard"),
            "ntfs-3g" => ("mkntfs", "big_writes"),
            _ => bail!("no file system {kind} is made here"),
        };
        let partition = disk.partition(number)?;
        {
            let device = Loop::partition(&disk.image, partition, &[])?;
            tool::run(program, make.iter().map(OsStr::new).chain([device.path.as_os_str()]))?;
        }
        let mount = Mount::partition(&disk.image, partition, kind, options, &self.folder.join("files"))?;
        fill(&mount.at)?;
        mount.unmount()
    }

    fn fill_esp(&self, disk: &Disk) -> Result<()> {
        {
            let device = Loop::partition(&disk.image, disk.partition(ESP)?, &[])?;
            let words = ["-F", "32", "-n", "ESP"].map(OsStr::new);
            tool::run("mkfs.vfat", words.into_iter().chain([device.path.as_os_str()]))?;
        }
        let script = "mmd -i \"$esp\" ::/EFI ::/EFI/BOOT ::/EFI/debian ::/EFI/old
            rm -rf \"$files\"; mkdir \"$files\"
            tar -xf \"$system\" -C \"$files\" ./boot ./usr/lib/grub
            find \"$files/usr\" -name '*.efi' -exec mcopy -o -i \"$esp\" {} ::/EFI/BOOT/ \\;
            mcopy -i \"$esp\" \"$files\"/boot/* ::/EFI/old/
            mcopy -i \"$esp\" \"$files\"/boot/* ::/EFI/debian/
            mdel -i \"$esp\" '::/EFI/old/*'
            rm -rf \"$files\"";
        tool::sh(
            script,
            &[
                ("esp", disk.mtools_name(ESP)?.as_ref()),
                ("system", debian::tarball(self.folder)?.as_os_str()),
                ("files", self.folder.join("files").as_os_str()),
            ],
        )?;
        Ok(())
    }

    fn fill_root(&self, root: &Path) -> Result<()> {
        self.unpack_system(root)?;
        self.packages.unpack(DELETED_BEFORE, &root.join("opt/before"))?;
        settle(root)?;
        let (first, second) = PROGRAMS.split_at(PROGRAMS.len() / 2);
        self.packages.unpack(first, root)?;
        settle(root)?;
        fs::remove_dir_all(root.join("opt/before"))?;
        settle(root)?;
        self.packages.unpack(second, root)?;
        fs::create_dir_all(root.join("var/log/app"))?;
        for number in 1..=4 {
            log(&root.join(format!("var/log/app/access.{number}.log")), number, 5)?;
        }
        disk::sparse_file(&root.join("var/lib/sparse.raw"), 400 * MIB)?;
        let set_aside = root.join("var/lib/set-aside.raw");
        tool::run("fallocate", [OsStr::new("--length"), "64M".as_ref(), set_aside.as_os_str()])?;
        settle(root)?;
        self.packages.unpack(DELETED_AFTER, &root.join("opt/after"))?;
        settle(root)?;
        fs::remove_dir_all(root.join("opt/after"))?;
        Ok(())
    }

    fn fill_data(&self, data: &Path) -> Result<()> {
        self.packages.unpack(DOCUMENTS_DELETED, &data.join("deleted"))?;
        settle(data)?;
        self.packages.unpack(DOCUMENTS, &data.join("files"))?;
        fs::create_dir(data.join("archives"))?;
        for name in ARCHIVES {
            if let Some(package) = self.packages.fetch(name)? {
                fs::copy(package, data.join("archives").join(name))?;
            }
        }
        for number in 1..=4 {
            noise(&data.join(format!("{number}.bin")), 100 + number, 16)?;
        }
        settle(data)?;
        fs::remove_dir_all(data.join("deleted"))?;
        Ok(())
    }

    /// With pages that were swapped out long ago.
    fn fill_swap(&self, disk: &Disk) -> Result<()> {
        let device = Loop::partition(&disk.image, disk.partition(SWAP)?, &[])?;
        tool::run("mkswap", [&device.path])?;
        let script = "head -c 96M \"$system\" | dd of=\"$swap\" bs=1M seek=16 iflag=fullblock conv=notrunc status=none";
        tool::sh(script, &[("system", debian::tarball(self.folder)?.as_os_str()), ("swap", device.path.as_os_str())])?;
        Ok(())
    }

    fn fill_windows(&self, windows: &Path, order: Order) -> Result<()> {
        // Every second program goes again, and leaves a gap before the next.
        let script = "mkdir -p \"$windows/Windows/System32\" \"$windows/Users/Public/sdk\" \"$windows/Temp\"
            cd \"$files\"
            programs=$(find . -type f -path '*x86_64-windows*' | sort)
            for half in 0:Temp 1:Windows/System32; do
              awk -v half=\"${half%:*}\" 'NR % 2 == half' <<< \"$programs\" | sort $sort |
                xargs cp --no-preserve=all -t \"$windows/${half#*:}\"
              sync --file-system \"$windows\"
            done
            find usr/x86_64-w64-mingw32 usr/lib/gcc -type f | tar -cf - --files-from - |
              tar -xf - -C \"$windows/Users/Public/sdk\" --no-same-owner --no-same-permissions
            rm -r \"$windows/Temp\"";
        let files = self.folder.join("windows");
        self.packages.unpack(WINDOWS, &files)?;
        let sort = if order == Order::Descending { "-r" } else { "" };
        let variables = [("windows", windows.as_os_str()), ("files", files.as_os_str()), ("sort", sort.as_ref())];
        tool::sh(script, &variables)?;
        noise(&windows.join("pagefile.sys"), 7, 4)?;
        Ok(fs::remove_dir_all(files)?)
    }

    fn unpack_system(&self, root: &Path) -> Result<()> {
        let system = debian::tarball(self.folder)?;
        tool::run("tar", [OsStr::new("-xf"), system.as_os_str(), "-C".as_ref(), root.as_os_str()])?;
        Ok(())
    }
}

const EXT4_WRITES_ALL: &str = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Ascending,
    Descending,
}

/// Has everything that was written so far be given its place on the disk.
fn settle(root: &Path) -> Result<()> {
    tool::run("sync", [OsStr::new("--file-system"), root.as_os_str()])?;
    Ok(())
}

/// Some of the larger files get another second half, in place, as an update that rewrites files does.
fn rewrite_some(folder: &Path) -> Result<()> {
    const REWRITTEN_MAX: u64 = 500_000;
    let listed =
        tool::run("find", [folder.as_os_str(), "-type".as_ref(), "f".as_ref(), "-size".as_ref(), "+400k".as_ref()])?;
    let mut files: Vec<&str> = listed.lines().collect();
    files.sort_unstable();
    for file in files.iter().step_by(6).take(60) {
        let mut file = fs::File::options().read(true).write(true).open(file)?;
        let half = file.metadata()?.len() / 2;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(half))?;
        (&mut file).take(REWRITTEN_MAX).read_to_end(&mut bytes)?;
        bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
        file.seek(SeekFrom::Start(half))?;
        file.write_all(&bytes)?;
    }
    Ok(())
}
