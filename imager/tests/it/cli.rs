//! The command line as people and programs see it: what it prints, on terminals and off them, and what it counts.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Imager, Loop, gpt_disk, noise, read_at, run, sh, sparse_file, write_at};
use crate::volume::Scratch;

const MIB: u64 = 1 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {value}"))
}

/// Bytes of all objects.
fn size_of(repository: &Path) -> u64 {
    let script = r"find . -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum + 0 }'";
    sh(&format!("cd {}; {script}", repository.display())).trim().parse().unwrap()
}

#[test]
fn without_arguments_it_helps_and_help_is_whole() {
    let imager = Imager::at(Path::new("/nowhere"));
    let ran = imager.run(&[]);
    assert_eq!((ran.code, &*ran.out), (2, ""));
    assert!(ran.err.contains("Usage:") && ran.err.contains("Exit codes:"), "{}", ran.err);
    let commands = [
        "init",
        "inspect",
        "capture",
        "images",
        "show",
        "diff",
        "verify",
        "restore",
        "forget",
        "prune",
        "key",
        "completions",
        "man",
    ];
    let help = imager.ok(&["--help"]);
    for command in commands {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is missing:\n{help}");
        for form in ["-h", "--help"] {
            let help = imager.ok(&[command, form]);
            assert!(help.lines().all(|line| line.len() <= 100), "too wide:\n{help}");
        }
    }
    for code in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "130"] {
        assert!(help.contains(&format!("\n  {code:>3}  ")), "exit code {code} is not documented");
    }
}

#[test]
fn completions_and_man_pages() {
    let dir = Scratch::new();
    let imager = Imager::at(Path::new("/nowhere"));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = imager.ok(&["completions", shell]);
        assert!(script.contains("changed-only") && script.contains("keep-daily"), "{shell}: {script}");
    }
    fs::write(dir.path("bash"), imager.ok(&["completions", "bash"])).unwrap();
    let completed = sh(&format!(
        "source {}; COMP_WORDS=(imager restore --ch); COMP_CWORD=2; _imager imager --ch restore; echo ${{COMPREPLY[*]}}",
        text(&dir.path("bash"))
    ));
    assert_eq!(completed.trim(), "--changed-only");
    imager.ok(&["man", text(&dir.path("man"))]);
    let pages: Vec<_> = fs::read_dir(dir.path("man")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(pages.len() >= 15, "{pages:?}");
    for page in pages {
        let page = fs::read_to_string(&page).unwrap();
        assert!(page.contains(".TH imager") && page.contains(".SH DESCRIPTION"), "{page}");
    }
}

#[test]
fn every_command_speaks_json() {
    let dir = Scratch::new();
    let disk = sparse_file(&dir.path("disk"), 48 * MIB);
    gpt_disk(dir.root(), &disk, 512);
    let help = Imager::at(Path::new("/nowhere")).ok(&["--help"]);
    let imager = Imager::at(&dir.path("repository")).with("IMAGER_PASSWORD", "first");
    fs::write(dir.path("second"), "second\r\nignored\n").unwrap();
    let target = dir.path("target");
    let check = |args: &[&str], kind: &str, fields: &[&str]| -> Value {
        let lines = imager.lines(args);
        for line in &lines {
            let kind = line["type"].as_str().unwrap();
            assert!(help.contains(&format!(" {kind}")), "type {kind} is not documented");
        }
        let result = lines.last().unwrap();
        assert_eq!(result["type"], kind, "{args:?}");
        for field in fields {
            assert!(result.get(field).is_some(), "{args:?}: no {field} in {result}");
        }
        result.clone()
    };
    let repository = check(&["init", text(&dir.path("repository"))], "repository", &["id"]);
    assert_eq!(repository["encrypted"], true);
    let inspected = check(&["inspect", text(&disk)], "disk", &["identity", "table", "warnings"]);
    assert_eq!(inspected["volumes"].as_array().unwrap().len(), 3);
    let captured = check(&["capture", text(&disk), "--name", "one", "--note", "a \"note\""], "captured", &["seconds"]);
    let stats = &captured["stats"];
    assert_eq!(number(&inspected, "wanted"), number(stats, "read"));
    assert_eq!(number(stats, "zero") + number(stats, "known") + number(stats, "new"), number(stats, "read"));
    let id = captured["image"].as_str().unwrap().to_owned();
    assert_eq!(check(&["images"], "image", &["manifest"])["id"], *id);
    let shown = check(&["show", &id[..8]], "image", &["manifest"]);
    assert_eq!((&shown["manifest"]["name"], &shown["manifest"]["note"]), (&"one".into(), &"a \"note\"".into()));
    check(&["capture", text(&disk), "--name", "two"], "captured", &["image"]);
    let same = check(&["diff", "one", "two"], "diff", &[]);
    assert_eq!(same["disks"][0]["same_table"], true);
    assert_eq!(check(&["verify", "--read-data"], "verified", &["report"])["sound"], true);
    check(&["restore", "one", "--to", text(&target), "--dry-run"], "plan", &["plan"]);
    check(&["restore", "one", "--to", text(&target)], "restored", &["result", "image", "seconds"]);
    let added =
        check(&["key", "add", "--new-password-file", text(&dir.path("second")), "--label", "x"], "key", &["id"]);
    check(&["key", "list"], "key", &["id", "label", "created"]);
    check(&["key", "remove", added["id"].as_str().unwrap()], "key_removed", &["id"]);
    assert_eq!(check(&["forget", "one", "--dry-run"], "forgotten", &["image"])["dry_run"], true);
    check(&["forget", "one"], "forgotten", &["image"]);
    check(&["prune", "--dry-run"], "pruned", &["result"]);
    check(&["prune"], "pruned", &["result"]);
    let failed = imager.run(&["show", "nothing", "--json"]);
    let error: Value = serde_json::from_str(&failed.out).unwrap();
    assert_eq!((failed.code, &error["type"], &error["exit_code"]), (7, &"error".into(), &7.into()));
    assert!(failed.err.contains(error["message"].as_str().unwrap()));
}

#[test]
fn passwords_come_from_files_and_the_environment() {
    let dir = Scratch::new();
    let repository = dir.path("repository");
    let (first, second, none) = (dir.path("first"), dir.path("second"), dir.path("none"));
    fs::write(&first, "päss word \n").unwrap();
    fs::write(&second, "second").unwrap();
    fs::write(&none, "\nsecond line").unwrap();
    let bare = Imager::at(&repository);
    let init = ["init", text(&repository)];
    // Neither nothing nor an empty password makes a repository.
    assert!(bare.fails(2, &init).contains("--no-password for none"));
    assert!(bare.with("IMAGER_PASSWORD", "").fails(2, &init).contains("--no-password for none"));
    assert!(bare.fails(2, &[&init[..], &["--password-file", text(&none)]].concat()).contains("empty"));
    assert!(
        bare.fails(2, &[&init[..], &["--password-file", text(&first), "--no-password"]].concat())
            .contains("contradict")
    );
    assert!(
        bare.fails(1, &[&init[..], &["--password-file", "/no/such/file"]].concat())
            .contains("cannot read the password")
    );
    assert!(!repository.join("config").exists());
    bare.ok(&[&init[..], &["--password-file", text(&first)]].concat());
    let opens = |imager: &Imager| imager.ok(&["key", "list"]).lines().count();
    assert_eq!(opens(&bare.with("IMAGER_PASSWORD_FILE", text(&first))), 1);
    assert_eq!(opens(&bare.with("IMAGER_PASSWORD", "päss word ")), 1);
    // The file counts more than the variable.
    let imager = bare.with("IMAGER_PASSWORD_FILE", text(&first)).with("IMAGER_PASSWORD", "wrong");
    assert!(imager.fails(2, &["key", "add"]).contains("--new-password-file"));
    imager.ok(&["key", "add", "--new-password-file", text(&second), "--label", "the safe"]);
    let listed = imager.ok(&["key", "list"]);
    assert!(listed.lines().count() == 2 && listed.contains("the safe"), "{listed}");
    let second = bare.with("IMAGER_PASSWORD_FILE", text(&second));
    let key = |label: &str| {
        let keys = second.lines(&["key", "list"]);
        keys.iter().find(|key| key["label"] == label).unwrap()["id"].as_str().unwrap().to_owned()
    };
    second.fails(2, &["key", "remove", "00000000"]);
    second.ok(&["key", "remove", &key("first")]);
    assert!(imager.fails(3, &["images"]).contains("password"));
    assert!(second.fails(2, &["key", "remove", &key("the safe")]).contains("the last key slot stays"));
    assert!(bare.fails(3, &["images"]).contains("IMAGER_PASSWORD_FILE"));
    // A password file for other repositories is no reason not to make one without.
    bare.with("IMAGER_PASSWORD_FILE", text(&first)).ok(&["init", text(&dir.path("open")), "--no-password"]);
    let open = Imager::at(&dir.path("open"));
    assert_eq!(open.ok(&["key", "list"]), "the repository is not encrypted: there are no passwords\n");
    assert!(open.fails(2, &["key", "remove", "00000000"]).contains("not encrypted"));
}

#[test]
fn disks_and_images_are_drawn_to_the_width_of_the_terminal() {
    let dir = Scratch::new();
    let disk = sparse_file(&dir.path("disk"), 48 * MIB);
    gpt_disk(dir.root(), &disk, 512);
    // A label that would clear the screen.
    run("sgdisk", ["-c", "1:\u{1b}[2Jbös", text(&disk)]);
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&disk, &["--name", "a name that is longer than most"]);
    imager.capture(&disk, &["--name", "näme\u{7}", "--note", "nöte\u{1b}[31m"]);
    for args in [&["inspect", text(&disk)][..], &["show", "latest"], &["images"]] {
        let out = imager.ok(args);
        assert!(out.lines().all(|line| line.len() <= 100 && !line.contains('\u{1b}')), "{out}");
    }
    let shown = imager.ok(&["show", "latest"]);
    assert!(shown.contains("n?me?") && shown.contains("n?te?[31m") && shown.contains("?[2Jb?s"), "{shown}");
    let bar = shown.lines().find(|line| line.starts_with('|')).unwrap();
    assert!(bar.len() == 79 && bar.contains('#') && bar.contains('-') && bar.contains('.'), "{bar}");
    for row in ["ESP", "root", "EFI system", "vfat", "ext4", "12.0 MiB"] {
        assert!(shown.contains(row), "{row} is missing in {shown}");
    }
    let output = imager.with("LC_ALL", "C.UTF-8").command(&["show", "latest"]).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("näme") && shown.contains('█') && shown.contains('░') && !shown.contains('\u{1b}'));
    for columns in [40, 60, 80, 200] {
        for args in [format!("inspect {}", disk.display()), "show latest".into(), "images".into()] {
            let screen = terminal(&imager, columns, &args);
            let widths = screen.lines().filter(|line| line.starts_with(['|', ' ']) && !line.contains(": "));
            // Below that width the numbers alone are too wide.
            let limit = columns.max(80);
            for line in widths {
                let bar = line.starts_with('|');
                assert!(line.len() <= if bar { columns - 1 } else { limit }, "{columns}: {line}");
            }
        }
    }
}

/// Runs a shell script, in which `imager` is the program, on a terminal.
fn on_terminal(imager: &Imager, script: &str) -> Command {
    let program = imager.command(&[]);
    let mut command = Command::new("script");
    let script = script.replace("exec imager", &format!("exec {}", program.get_program().to_str().unwrap()));
    command.args(["-qefc", &script, "/dev/null"]).env("TERM", "xterm");
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// What a run prints on a terminal of so many columns, control sequences and all, with a line for each redrawing.
fn terminal(imager: &Imager, columns: usize, args: &str) -> String {
    let mut command = on_terminal(imager, &format!("stty cols {columns} rows 24; exec imager {args}"));
    let output = command.stdin(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().replace('\r', "\n")
}

/// Types `input` on a terminal to a run.
fn typed(imager: &Imager, args: &str, input: &str) -> (Option<i32>, String) {
    let mut script = on_terminal(imager, &format!("exec imager {args}"));
    script.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    for line in input.split_inclusive('\n') {
        // What is typed before the program asks is lost when it turns the echo off.
        std::thread::sleep(std::time::Duration::from_millis(1000));
        keyboard.write_all(line.as_bytes()).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn passwords_and_serial_numbers_are_asked_for_on_a_terminal() {
    let dir = Scratch::new();
    let repository = dir.path("repository");
    let imager = Imager::at(&repository);
    let init = format!("init {}", text(&repository));
    let (code, said) = typed(&imager, &init, "one\nother\n");
    assert!(code == Some(2) && said.contains("the two passwords differ"), "{said}");
    let (code, said) = typed(&imager, &init, "secret\nsecret\n");
    assert!(code == Some(0) && said.contains("made the encrypted repository") && !said.contains("secret"), "{said}");
    let (code, said) = typed(&imager, "images", "secret\n");
    assert!(code == Some(0) && said.contains("no images yet"), "{said}");

    let imager = imager.with("IMAGER_PASSWORD", "secret");
    let disk = dir.path("disk");
    fs::write(&disk, noise(1 << 20, 1)).unwrap();
    imager.capture(&disk, &[]);
    let target = sparse_file(&dir.path("target"), MIB);
    let device = Loop::attach(&target, &[]);
    let restore = format!("restore latest --to {}", text(&device.0));
    for answer in ["yes", ""] {
        let (code, said) = typed(&imager, &restore, &format!("{answer}\n"));
        assert!(code == Some(6) && said.contains("will be overwritten: a disk, no serial number, 1.00 MiB"), "{said}");
    }
    assert!(fs::read(&target).unwrap() == vec![0; 1 << 20]);
    let (code, said) = typed(&imager, &restore, &format!("{}\n", text(&device.0)));
    assert!(code == Some(0) && said.contains("Type its path to go on: "), "{said}");
    assert!(fs::read(&target).unwrap() == noise(1 << 20, 1));
}

/// Without the control sequences.
fn stripped(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    first
        + &parts
            .map(|part| part.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).get(1..).unwrap_or(""))
            .collect::<String>()
}

#[test]
fn progress_fits_the_terminal_and_says_what_counts() {
    let dir = Scratch::new();
    let disk = dir.path("disk");
    fs::write(&disk, noise(96 << 20, 1)).unwrap();
    for columns in [50, 80] {
        let repository = dir.path(&format!("repository-{columns}"));
        let imager = Imager::init(&repository);
        let screen = terminal(&imager, columns, &format!("capture {} --level 15 --memory 64M", disk.display()));
        // A line that fills the terminal is followed by the next without a line end.
        let pieces = |line: String| {
            let chars: Vec<char> = line.chars().collect();
            chars.chunks(columns).map(|piece| piece.iter().collect()).collect::<Vec<String>>()
        };
        let lines: Vec<String> = screen.lines().map(stripped).flat_map(pieces).collect();
        let frames: Vec<&String> = lines.iter().filter(|line| line.starts_with("copying")).collect();
        assert!(!frames.is_empty(), "{screen}");
        for line in lines.iter().filter(|line| line.starts_with("copying") || line.starts_with("  ")) {
            assert!(line.trim_end().len() < columns, "{columns}: {line:?}");
        }
        assert!(frames.iter().all(|frame| frame.contains("% ") && frame.contains(" of 96.0 MiB")), "{frames:?}");
        if columns == 80 {
            assert!(
                frames.iter().any(|frame| ["[=", "/s", " left"].iter().all(|part| frame.contains(part))),
                "{frames:?}"
            );
            let counts = |line: &String| line.contains("0 B known already, ") && line.contains(" stored as ");
            assert!(lines.iter().any(counts), "{screen}");
        }
        assert!(lines.iter().any(|line| line.starts_with("added ")), "{screen}");
    }
}

#[test]
fn ctrl_c_keeps_what_was_stored_and_says_how_to_go_on() {
    let dir = Scratch::new();
    let disk = dir.path("disk");
    fs::write(&disk, noise(96 << 20, 1)).unwrap();
    let imager = Imager::init(&dir.path("repository"));
    let capture = ["capture", text(&disk), "--level", "15", "--memory", "64M"];
    let child = imager.command(&capture).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let packs = dir.path("repository").join("packs");
    while sh(&format!("find {} -type f 2>/dev/null | wc -l || true", text(&packs))).trim() < "3" {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    run("kill", ["-INT", &child.id().to_string()]);
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{error}");
    assert!(error.contains("the same command again goes on from there"), "{error}");
    assert!(imager.ok(&["images"]).contains("no images yet"));
    imager.ok(&["verify"]);
    let again = imager.json(&capture);
    assert!(number(&again["stats"], "known") >= 4 * MIB, "{again}");
    // Before anything was written, nobody is told to go on.
    let imager = Imager::init(&dir.path("another"));
    let child = imager.command(&["restore", "latest", "--to", text(&dir.path("x"))]).output().unwrap();
    assert_eq!(child.status.code(), Some(7));
}

#[test]
fn a_closed_pipe_is_no_reason_to_panic() {
    let dir = Scratch::new();
    let disk = dir.path("disk");
    fs::write(&disk, noise(1 << 20, 1)).unwrap();
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&disk, &[]);
    for args in [&["show", "latest"][..], &["show", "latest", "--json"], &["completions", "bash"]] {
        let mut child = imager.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.stderr.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_diff_counts_what_really_changed() {
    let dir = Scratch::new();
    let disk = sparse_file(&dir.path("disk"), 48 * MIB);
    gpt_disk(dir.root(), &disk, 512);
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&disk, &["--name", "old"]);
    let diff = |old: &str, new: &str| imager.json(&["diff", old, new])["disks"][0].clone();
    let part = |diff: &Value, name: &str| {
        let parts = diff["parts"].as_array().unwrap();
        parts.iter().find(|part| part["place"].as_str().unwrap().starts_with(name)).unwrap().clone()
    };
    let counts = |part: &Value| ["changed", "added", "removed"].map(|name| number(part, name));
    let chunk = 4 * 65_536;

    // Two blocks in use of the ext4, one in the gap, one that nobody uses in the FAT.
    for at in [20 * MIB, 21 * MIB, 40_960, 13 * MIB] {
        write_at(&disk, at, &noise(4096, at));
    }
    imager.capture(&disk, &["--name", "changed"]);
    let found = diff("old", "changed");
    assert_eq!(found["same_table"], true);
    let [changed, added, removed] = counts(&part(&found, "partition 3"));
    assert!((8192..=4 * chunk).contains(&changed) && added == 0 && removed == 0, "{found}");
    let [changed, added, removed] = counts(&part(&found, "outside"));
    assert!((4096..=2 * chunk).contains(&changed) && added == 0 && removed == 0, "{found}");
    assert_eq!([counts(&part(&found, "partition 1")), counts(&part(&found, "partition 2"))], [[0; 3]; 2]);

    // A file more in the ext4.
    fs::write(dir.path("more"), noise(3 << 20, 7)).unwrap();
    let volume = dir.path("volume");
    fs::write(&volume, read_at(&disk, 14 * MIB, 20 * MIB)).unwrap();
    let change = |what: &str| {
        run("debugfs", ["-w", "-R", what, text(&volume)]);
        write_at(&disk, 14 * MIB, &fs::read(&volume).unwrap());
    };
    change(&format!("write {} more", text(&dir.path("more"))));
    imager.capture(&disk, &["--name", "more"]);
    let found = part(&diff("changed", "more"), "partition 3");
    let [changed, added, removed] = counts(&found);
    assert!((2 * MIB..5 * MIB).contains(&added) && changed < 4 * MIB && removed < MIB, "{found}");
    // And gone again: what was added is what is removed.
    change("rm more");
    imager.capture(&disk, &["--name", "less"]);
    let found = part(&diff("more", "less"), "partition 3");
    assert!(number(&found, "removed") > 2 * MIB && number(&found, "added") < MIB, "{found}");

    run("sgdisk", ["-d", "1", text(&disk)]);
    imager.capture(&disk, &["--name", "fewer"]);
    let found = diff("less", "fewer");
    assert_eq!(found["same_table"], false);
    assert!(imager.ok(&["diff", "less", "fewer"]).contains("the partition table differs"));
    assert!(number(&part(&found, "partition 1"), "removed") >= 290_000, "{found}");
}

#[test]
fn forgetting_and_pruning_frees_space_and_keeps_the_rest() {
    let dir = Scratch::new();
    let disk = dir.path("disk");
    let repository = dir.path("repository");
    let imager = Imager::init(&repository);
    let images = || {
        imager
            .lines(&["images"])
            .iter()
            .map(|line| line["manifest"]["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for n in 0..4u64 {
        fs::write(&disk, [noise(4 << 20, 50), noise(8 << 20, n)].concat()).unwrap();
        imager.capture(&disk, &["--name", &format!("n{n}")]);
    }
    let full = size_of(&repository);
    let would = imager.ok(&["forget", "--keep-last", "2", "--dry-run"]);
    assert!(would.contains("n0") && would.contains("n1") && would.contains("2 images would be forgotten"), "{would}");
    assert_eq!(images(), ["n0", "n1", "n2", "n3"]);
    // They are all of one day, one week and one month: the newest of it stays, and --keep-last adds to it.
    assert!(imager.ok(&["forget", "--keep-daily", "3", "--keep-monthly", "1", "--dry-run"]).contains("3 images would"));
    imager.ok(&["forget", "--keep-last", "2", "--keep-weekly", "1"]);
    assert_eq!(images(), ["n2", "n3"]);
    assert!(imager.ok(&["forget", "n2", "n2"]).contains("1 image forgotten"));
    imager.fails(7, &["forget", "n3", "n2"]);
    assert_eq!(images(), ["n3"]);
    assert!(size_of(&repository) >= full - 100_000, "only prune frees");
    let would = imager.json(&["prune", "--dry-run"]);
    assert!(number(&would["result"], "freed") >= 20 * MIB, "{would}");
    assert!(size_of(&repository) >= full - 100_000, "a dry run frees nothing");
    let pruned = imager.json(&["prune"]);
    assert!(number(&pruned["result"], "freed") >= 24 * MIB, "{pruned}");
    let left = size_of(&repository);
    assert!(left < 13 * MIB, "{left} bytes are left of {full}");
    imager.ok(&["verify", "--read-data"]);
    imager.ok(&["restore", "latest", "--to", text(&dir.path("target"))]);
    assert!(fs::read(dir.path("target")).unwrap() == fs::read(&disk).unwrap());
    imager.ok(&["forget", "latest"]);
    imager.ok(&["prune"]);
    assert!(size_of(&repository) < 10_000, "{}", sh(&format!("find {} -type f", text(&repository))));
}

#[test]
fn images_are_found_by_name_and_by_the_beginning_of_their_ids() {
    let dir = Scratch::new();
    let disk = dir.path("disk");
    fs::write(&disk, noise(5000, 1)).unwrap();
    let imager = Imager::init(&dir.path("repository"));
    let mut ids: Vec<String> = Vec::new();
    let (first, second) = loop {
        let id = imager.capture(&disk, &["--name", "same"]);
        if let Some(other) = ids.iter().find(|other| other[..1] == id[..1]) {
            break (other.clone(), id);
        }
        ids.push(id);
    };
    let shown = |words: &str| imager.json(&["show", words])["id"].as_str().unwrap().to_owned();
    assert_eq!((shown(&first), shown("same"), shown("latest")), (first.clone(), second.clone(), second));
    let error = imager.fails(7, &["show", &first[..1]]);
    assert!(error.contains("several images") && error.contains("give more of it"), "{error}");
    for words in ["", "nothing", "LATEST", "0123456789abcdef0123456789abcdef0"] {
        assert!(imager.fails(7, &["show", words]).contains("`imager images` lists them"));
    }
    imager.fails(2, &["capture", text(&disk), "--name", "latest"]);
    imager.fails(2, &["capture", text(&disk), "--name", ""]);
}
