//! The report of a job: a text for people, and the same as JSON.
//!
//! Must not know: how the job was done.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use imager::units::{duration, size};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{Kind, State, Status};

/// Writes both into an existing directory and returns the text's path.
///
/// # Errors
/// What the system says. A directory that is not there is not made: where a stick is no longer mounted, the report would
/// only fill memory.
pub(super) fn write(directory: &Path, status: &Status, ended: Timestamp) -> io::Result<PathBuf> {
    let kind = match status.kind {
        Kind::Capture => "backup",
        Kind::Restore => "restore",
        Kind::Verify => "verify",
        Kind::Clone => "clone",
        Kind::Copy => "copy",
    };
    let time = ended.to_zoned(TimeZone::UTC);
    let name = format!("lifeboat-{kind}-{}", time.strftime("%Y%m%d-%H%M%S"));
    let mut json = serde_json::to_vec_pretty(&as_json(status, ended))?;
    json.push(b'\n');
    replace(directory, &format!("{name}.json"), &json)?;
    replace(directory, &format!("{name}.txt"), as_text(status, ended).as_bytes())
}

/// Under its name there is either all of it or nothing.
fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    let path = directory.join(name);
    let partial = directory.join(format!("{name}.partial"));
    let written = File::create(&partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, &path))
        .and_then(|()| File::open(directory)?.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written.map(|()| path)
}

fn as_json(status: &Status, ended: Timestamp) -> Value {
    let (exit_code, error) = outcome(status);
    json!({
        "title": status.title, "kind": status.kind, "ended": ended.to_string(), "seconds": status.seconds,
        "exit_code": exit_code, "error": error, "steps": status.steps, "last_step": status.step,
        "results": status.results, "messages": status.messages, "machine": imager::machine::this_machine(),
    })
}

fn outcome(status: &Status) -> (Option<u8>, Option<&str>) {
    match &status.state {
        State::Ended { exit_code, error } => (*exit_code, error.as_deref()),
        _ => (None, None),
    }
}

fn as_text(status: &Status, ended: Timestamp) -> String {
    let machine = imager::machine::this_machine();
    let (exit_code, error) = outcome(status);
    let mut lines = vec!["Lifeboat: report".to_owned(), String::new(), status.title.clone()];
    let known = [machine.vendor, machine.product, machine.serial.map(|serial| format!("serial {serial}"))];
    lines.push(format!("Machine: {}", known.into_iter().flatten().collect::<Vec<_>>().join(", ")));
    let time = std::time::Duration::from_secs(status.seconds);
    lines.push(format!(
        "Ended:   {}, after {}",
        ended.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        duration(time)
    ));
    lines.push(match (exit_code, error) {
        (Some(0), _) => "Result:  done".to_owned(),
        (Some(code), None) => format!("Result:  done, but exit code {code}"),
        (Some(code), Some(error)) => format!("Result:  FAILED, exit code {code}: {error}"),
        (None, error) => format!("Result:  FAILED: {}", error.unwrap_or("the program was killed")),
    });
    lines.push(String::new());
    for (number, says) in status.steps.iter().enumerate() {
        let how = match number.cmp(&status.step) {
            std::cmp::Ordering::Less => "done",
            std::cmp::Ordering::Equal if matches!(exit_code, Some(0 | 10)) => "done",
            std::cmp::Ordering::Equal => "failed",
            std::cmp::Ordering::Greater => "not begun",
        };
        lines.push(format!("{}. {says}: {how}", number + 1));
    }
    lines.extend(status.results.iter().flat_map(result_lines));
    if !status.messages.is_empty() {
        lines.push(String::new());
        lines.push("What was said:".to_owned());
        lines.extend(status.messages.iter().map(|message| format!("  {message}")));
    }
    lines.join("\n") + "\n"
}

/// The figures that people look for; the JSON has all.
fn result_lines(result: &Value) -> Vec<String> {
    let bytes = |pointer: &str| result.pointer(pointer).and_then(Value::as_u64).map(size);
    let text = |pointer: &str| result.pointer(pointer).and_then(Value::as_str);
    let facts: Vec<(&str, Option<String>)> = match text("/type") {
        Some("captured") => vec![
            ("image", text("/image").map(str::to_owned)),
            ("name", text("/name").map(str::to_owned)),
            ("read", bytes("/stats/read")),
            ("known already", bytes("/stats/known")),
            ("new", bytes("/stats/new")),
            ("added to the repository", bytes("/stats/stored")),
            ("could not be read", bytes("/unreadable").filter(|_| result.pointer("/unreadable") != Some(&json!(0)))),
        ],
        Some("restored") => vec![
            ("image", text("/image").map(str::to_owned)),
            ("written", bytes("/result/written")),
            ("unchanged", bytes("/result/unchanged")),
        ],
        Some("copied_files") => {
            let number = |pointer: &str| result.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
            let some = |pointer: &str| Some(number(pointer)).filter(|count| *count > 0).map(|count| count.to_string());
            let mut facts = vec![
                ("from", text("/from").map(str::to_owned)),
                ("files", Some(number("/files").to_string())),
                ("directories", Some(number("/directories").to_string())),
                ("bytes", bytes("/bytes")),
                ("there already", some("/already_there")),
                ("NOT COPIED", some("/failed")),
            ];
            let items = |key: &str| result.get(key).and_then(Value::as_array).into_iter().flatten();
            let field = |item: &Value, key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            for failure in items("failures") {
                facts.push(("not copied", Some(format!("{}: {}", field(failure, "path"), field(failure, "reason")))));
            }
            for lost in items("not_kept") {
                let count = lost.get("count").and_then(Value::as_u64).unwrap_or(0);
                facts.push((
                    "not kept",
                    Some(format!("{}, of {count} files: {}", field(lost, "what"), field(lost, "reason"))),
                ));
            }
            facts
        }
        _ => Vec::new(),
    };
    let facts: Vec<String> =
        facts.into_iter().filter_map(|(name, value)| Some(format!("  {name}: {}", value?))).collect();
    if facts.is_empty() { facts } else { [vec![String::new()], facts].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            number: 1,
            title: "Back up 1 disk to /x".into(),
            kind: Kind::Capture,
            steps: vec!["make the repository".into(), "capture".into()],
            step: 1,
            state: State::Ended { exit_code: Some(5), error: Some("the store is full".into()) },
            seconds: 200,
            progress: None,
            rates: vec![],
            messages: vec!["sda: hibernated".into()],
            results: vec![
                json!({"type": "captured", "image": "abc", "stats": {"read": 1536, "known": 0, "new": 1, "stored": 2}}),
            ],
            report: None,
        }
    }

    #[test]
    fn a_report_says_what_happened() {
        let folder = tempfile::tempdir().unwrap();
        let ended: Timestamp = "2026-11-22T20:39:28Z".parse().unwrap();
        let path = write(folder.path(), &status(), ended).unwrap();
        assert_eq!(path.file_name().unwrap(), "lifeboat-backup-20261122-203928.txt");
        let text = fs::read_to_string(&path).unwrap();
        for part in [
            "Back up 1 disk to /x",
            "2026-11-22 20:39:28 UTC, after 3 min 20 s",
            "FAILED, exit code 5: the store is full",
            "1. make the repository: done",
            "2. capture: failed",
            "read: 1.50 KiB",
            "sda: hibernated",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let json: Value = serde_json::from_slice(&fs::read(path.with_extension("json")).unwrap()).unwrap();
        assert_eq!(json["exit_code"], 5);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_directory_that_is_gone_stays_gone() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        assert!(write(&gone, &status(), Timestamp::UNIX_EPOCH).is_err());
        assert!(!gone.exists());
    }
}
