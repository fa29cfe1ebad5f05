//! The keeper with a real `imager` and real repositories, spoken to over its socket.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery staple";
const LIMIT: Duration = Duration::from_secs(60);

struct Machine {
    folder: tempfile::TempDir,
    keeper: Child,
}

impl Machine {
    fn start() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let keeper = start_keeper(folder.path());
        Self { folder, keeper }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn connect(&self) -> Console {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Ok(stream) = UnixStream::connect(self.path("run/jobs")) {
                stream.set_read_timeout(Some(LIMIT)).unwrap();
                return Console { lines: BufReader::new(stream) };
            }
            assert!(Instant::now() < deadline, "no keeper");
            sleep(Duration::from_millis(20));
        }
    }

    /// The keeper dies as if by the kernel, and PID 1 starts another.
    fn kill_keeper(&mut self) {
        self.keeper.kill().unwrap();
        self.keeper.wait().unwrap();
        self.keeper = start_keeper(self.folder.path());
    }

    /// A disk of pseudo-random bytes, that take their time to store.
    fn disk(&self, mib: usize) -> PathBuf {
        let path = self.path("disk.img");
        let mut state = 1u64;
        let mut bytes = vec![0; mib << 20];
        for chunk in bytes.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&(state & 0x0f0f_0f0f_0f0f_0f0f).to_le_bytes());
        }
        fs::write(&path, bytes).unwrap();
        path
    }

    fn imager(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command.arg0("imager").args(arguments).env("IMAGER_PASSWORD", PASSWORD).env("IMAGER_REPO", self.path("repo"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn init(&self) -> Value {
        json!({"says": "make the repository", "arguments": ["init", self.path("repo")]})
    }

    fn capture(&self, disk: &Path, level: &str) -> Value {
        let repo = self.path("repo");
        json!({"says": "capture", "arguments": ["capture", disk, "--repo", repo, "--name", "test", "--level", level]})
    }

    fn job(&self, steps: &[Value]) -> Value {
        json!({"type": "start", "title": "Back up 1 disk", "kind": "capture", "steps": steps, "password": PASSWORD,
            "report": self.folder.path(), "then": null})
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

fn start_keeper(folder: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_agent")).arg("jobs").env("LIFEBOAT_RUN", folder.join("run")).spawn().unwrap()
}

struct Console {
    lines: BufReader<UnixStream>,
}

impl Console {
    fn ask(&mut self, request: &Value) {
        self.lines.get_mut().write_all(format!("{request}\n").as_bytes()).unwrap();
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn hear_until(&mut self, is_meant: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let said = self.hear();
            if is_meant(&said) {
                return said;
            }
            assert!(Instant::now() < deadline, "last heard: {said}");
        }
    }

    fn hear_end(&mut self) -> Value {
        self.hear_until(|said| said["state"]["is"] == "ended")
    }

    fn hear_refusal(&mut self) -> String {
        self.hear_until(|said| said["refused"].is_string())["refused"].as_str().unwrap().to_owned()
    }
}

/// Processes of `imager` that work in this folder, with their states as in proc(5).
fn imagers(folder: &Path) -> Vec<(u32, char)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        if line.starts_with("imager\0") && line.contains(&*folder.to_string_lossy()) {
            found.extend(state.filter(|state| *state != 'Z').map(|state| (pid, state)));
        }
    }
    found
}

fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_true() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_job_is_done_seen_on_all_consoles_and_reported() {
    let machine = Machine::start();
    let (mut first, mut second) = (machine.connect(), machine.connect());
    assert_eq!(first.hear(), Value::Null);
    let disk = machine.disk(8);
    first.ask(&machine.job(&[machine.init(), machine.capture(&disk, "3")]));

    for console in [&mut first, &mut second] {
        let ended = console.hear_until(|said| said["report"].is_string());
        assert_eq!(ended["state"], json!({"is": "ended", "exit_code": 0, "error": null}), "{ended}");
        assert_eq!((&ended["number"], &ended["step"]), (&json!(1), &json!(1)));
        let kinds: Vec<&Value> = ended["results"].as_array().unwrap().iter().map(|result| &result["type"]).collect();
        assert_eq!(kinds, ["repository", "captured"]);
        let text = fs::read_to_string(ended["report"].as_str().unwrap()).unwrap();
        assert!(text.contains("Result:  done") && text.contains("added to the repository"), "{text}");
        assert!(!text.contains(PASSWORD));
    }
    assert!(machine.imager(&["images"]).contains("test"));
    assert!(!fs::read_to_string(machine.path("run/job.json")).unwrap().contains(PASSWORD));

    second.ask(&json!({"type": "dismiss"}));
    first.hear_until(Value::is_null);
}

#[test]
fn a_job_pauses_goes_on_and_is_cancelled() {
    let machine = Machine::start();
    let mut console = machine.connect();
    let disk = machine.disk(96);
    console.ask(&machine.job(&[machine.init(), machine.capture(&disk, "15")]));
    console.hear_until(|said| said["progress"]["phase"] == "copying");

    console.ask(&json!({"type": "pause"}));
    console.hear_until(|said| said["state"]["is"] == "paused");
    let states = || imagers(machine.folder.path()).into_iter().map(|(_, state)| state).collect::<Vec<_>>();
    wait_until("stopped", || states() == ['T']);
    console.ask(&machine.job(&[machine.init()]));
    assert!(console.hear_refusal().contains("another job runs"));
    console.ask(&json!({"type": "power", "off": null}));
    assert!(console.hear_refusal().contains("a job runs"));

    console.ask(&json!({"type": "resume"}));
    console.hear_until(|said| said["state"]["is"] == "running");
    wait_until("running", || !states().contains(&'T') && !states().is_empty());

    console.ask(&json!({"type": "pause"}));
    console.ask(&json!({"type": "cancel"}));
    let ended = console.hear_end();
    assert_eq!(ended["state"]["exit_code"], 130, "{ended}");
    assert!(ended["state"]["error"].as_str().unwrap().contains("cancelled"));
    assert!(imagers(machine.folder.path()).is_empty());
}

#[test]
fn a_killed_keeper_leaves_nobody_working_and_the_next_one_says_so() {
    let mut machine = Machine::start();
    let mut console = machine.connect();
    let disk = machine.disk(96);
    console.ask(&machine.job(&[machine.init(), machine.capture(&disk, "19")]));
    console.hear_until(|said| said["progress"]["phase"] == "copying");
    console.ask(&json!({"type": "pause"}));
    console.hear_until(|said| said["state"]["is"] == "paused");

    machine.kill_keeper();
    let mut console = machine.connect();
    let ended = console.hear_end();
    assert_eq!(ended["state"]["exit_code"], Value::Null);
    assert!(ended["state"]["error"].as_str().unwrap().contains("start the job again"), "{ended}");
    wait_until("gone", || imagers(machine.folder.path()).is_empty());

    console.ask(&machine.job(&[machine.capture(&disk, "1")]));
    let ended = console.hear_until(|said| said["number"] == 2 && said["state"]["is"] == "ended");
    assert_eq!(ended["state"]["exit_code"], 0, "{ended}");
}

#[test]
fn a_killed_step_is_said() {
    let machine = Machine::start();
    let mut console = machine.connect();
    let disk = machine.disk(96);
    console.ask(&machine.job(&[machine.init(), machine.capture(&disk, "19")]));
    console.hear_until(|said| said["progress"]["phase"] == "copying");
    let (pid, _) = imagers(machine.folder.path()).pop().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGKILL).unwrap();
    let ended = console.hear_end();
    assert_eq!(ended["state"]["exit_code"], Value::Null);
    assert!(ended["state"]["error"].as_str().unwrap().contains("memory ran out"), "{ended}");
}

#[test]
fn a_step_that_fails_is_the_last_and_a_report_that_cannot_be_written_is_said() {
    let machine = Machine::start();
    let mut console = machine.connect();
    let mut job = machine.job(&[machine.capture(Path::new("/nowhere"), "3"), machine.init()]);
    job["report"] = json!(machine.path("gone"));
    job["then"] = json!("off");
    console.ask(&job);
    let ended = console.hear_until(|said| said["state"]["is"] == "ended" && said["messages"][0].is_string());
    assert_eq!((&ended["step"], &ended["state"]["exit_code"]), (&json!(0), &json!(1)), "{ended}");
    assert!(ended["state"]["error"].as_str().unwrap().contains("/nowhere"));
    assert!(ended["messages"][0].as_str().unwrap().contains("no report"));
    assert!(!machine.path("repo").exists());
}

#[test]
fn nonsense_is_refused_and_a_system_that_runs_is_not_turned_off() {
    let machine = Machine::start();
    let mut console = machine.connect();
    console.ask(&json!({"type": "fly"}));
    assert!(console.hear_refusal().contains("does not understand"));
    console.ask(&json!({"type": "pause"}));
    assert!(console.hear_refusal().contains("no job"));
    console.ask(&machine.job(&[]));
    assert!(console.hear_refusal().contains("no steps"));
    console.ask(&json!({"type": "power", "off": null}));
    assert!(console.hear_refusal().contains("not started from Lifeboat's medium"));
}
