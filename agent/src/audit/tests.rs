//! Logs that were written as they are, and logs that were not.

use std::path::{Path, PathBuf};

use culvert_config::units::Size;
use proptest::prelude::*;

use super::chain::{Hash, Sealed};
use super::check::{Checker, Finding};
use super::*;

/// A log of several files in memory: `start`, calls, and `open` where a file begins.
fn log(files: &[usize]) -> (Vec<Vec<String>>, Head) {
    let mut head = Head::NONE;
    let mut lines = Vec::new();
    for (file, calls) in files.iter().enumerate() {
        let mut written = Vec::new();
        let mut add = |fields: &str| {
            let mut out = Vec::new();
            head = head.seal(fields, &mut out);
            out.pop();
            written.push(String::from_utf8(out).unwrap());
        };
        let previous = lines.last().map_or(Hash::ZERO, |last: &Vec<String>| {
            Sealed::parse(last.last().unwrap().as_bytes())
                .unwrap()
                .head
                .hash
        });
        match file {
            0 => add(&line::start(&previous, false, 0)),
            _ => add(&line::open(&previous)),
        }
        for call in 0..*calls {
            add(&format!(
                "\"time\":\"t\",\"event\":\"call\",\"call\":\"{file}-{call}\""
            ));
        }
        lines.push(written);
    }
    (lines, head)
}

fn check(files: &[Vec<String>], noted: Option<Head>) -> Checker {
    let mut checker = Checker::new(noted);
    for (number, lines) in files.iter().enumerate() {
        checker.begin(&number.to_string());
        lines
            .iter()
            .for_each(|line| checker.line(line.as_bytes(), true));
    }
    checker.end();
    checker
}

/// (file, line, finding), lines from 1.
fn found(checker: &Checker) -> Vec<(usize, u64, Finding)> {
    let found = checker.findings.iter();
    found
        .map(|f| (f.file.parse().unwrap(), f.line, f.what.clone()))
        .collect()
}

fn a_log() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(1usize..8, 1..4)
}

proptest! {
    #[test]
    fn a_log_as_it_was_written_has_no_findings(files in a_log()) {
        let (lines, head) = log(&files);
        let checker = check(&lines, Some(head));
        prop_assert_eq!(found(&checker), vec![]);
        prop_assert_eq!(checker.last, head);
        prop_assert_eq!(checker.first, Some(1));
        // Files that were deleted for their age are no finding either.
        prop_assert_eq!(found(&check(&lines[lines.len() - 1..], Some(head))), vec![]);
    }

    /// One byte of one line: that line is named, and no other.
    #[test]
    fn a_changed_line_is_named(files in a_log(), pick in any::<prop::sample::Index>(),
                               at in any::<prop::sample::Index>(), to in 0x20u8..0x7f) {
        let (mut lines, head) = log(&files);
        let file = pick.index(lines.len());
        let line = pick.index(lines[file].len());
        let text = &mut lines[file][line];
        let at = at.index(text.len());
        prop_assume!(text.as_bytes()[at] != to);
        let old = text.clone();
        text.replace_range(at..=at, char::from(to).encode_utf8(&mut [0; 4]));
        let found = found(&check(&lines, Some(head)));
        let there = (file, line as u64 + 1);
        prop_assert!(found.iter().any(|(f, l, _)| (*f, *l) == there), "{found:?} for {old}");
        // Where the line can still be read as the one it was, it alone is blamed.
        let same = Sealed::parse(lines[file][line].as_bytes())
            .is_some_and(|new| new.head.seq == Sealed::parse(old.as_bytes()).unwrap().head.seq);
        if same {
            prop_assert!(found.iter().all(|(f, l, _)| (*f, *l) == there), "{found:?}");
        }
    }

    #[test]
    fn removed_lines_are_named_where_they_are_missing(
        files in a_log(), pick in any::<prop::sample::Index>(), count in 1usize..4,
    ) {
        let (lines, head) = log(&files);
        let flat: Vec<(usize, String)> = lines.iter().enumerate()
            .flat_map(|(file, lines)| lines.iter().map(move |line| (file, line.clone()))).collect();
        let from = pick.index(flat.len());
        let to = (from + count).min(flat.len());
        let rest: Vec<Vec<String>> = (0..lines.len())
            .map(|file| flat[..from].iter().chain(&flat[to..])
                .filter(|(f, _)| *f == file).map(|(_, line)| line.clone()).collect())
            .collect();
        let found = found(&check(&rest, Some(head)));
        let (first, last) = (from as u64 + 1, to as u64);
        let expected = match (from, to == flat.len()) {
            (_, true) => Finding::CutOff { from: first, to: last },
            // The very beginning: what is first now says that it begins no file, unless it does.
            (0, false) if flat[to].0 == 0 => Finding::NoBeginning,
            (0, false) => return Ok(()),
            _ => Finding::Missing { from: first, to: last },
        };
        prop_assert!(found.iter().any(|(_, _, what)| *what == expected), "{found:?}, not {expected:?}");
    }

    #[test]
    fn moved_copied_and_forged_lines_are_found(
        files in a_log(), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(), kind in 0..3,
    ) {
        let (mut lines, head) = log(&files);
        let file = a.index(lines.len());
        let (from, to) = (a.index(lines[file].len()), b.index(lines[file].len()));
        match kind {
            0 => {
                prop_assume!(from != to);
                lines[file].swap(from, to);
            }
            1 => {
                let copy = lines[file][from].clone();
                lines[file].insert(to, copy);
            }
            _ => {
                // Sealed rightly, behind another line than the one that stands there.
                let mut forged = Vec::new();
                Head { seq: to as u64, hash: Hash::link(&Hash::ZERO, b"x") }
                    .seal("\"event\":\"call\"", &mut forged);
                forged.pop();
                lines[file].insert(to, String::from_utf8(forged).unwrap());
            }
        }
        let found = found(&check(&lines, Some(head)));
        prop_assert!(found.iter().any(|(f, l, _)| *f == file && *l >= 1), "{found:?}");
    }

    /// Whoever rewrites the end of the log is found out by the note beside it.
    #[test]
    fn a_rewritten_end_does_not_fit_the_note(files in a_log()) {
        let (mut lines, head) = log(&files);
        let last = lines.last_mut().unwrap();
        let sealed = last.pop().unwrap();
        let before = match last.last() {
            Some(line) => Sealed::parse(line.as_bytes()).unwrap().head,
            None => return Ok(()),
        };
        let mut other = Vec::new();
        before.seal("\"event\":\"call\",\"call\":\"other\"", &mut other);
        other.pop();
        last.push(String::from_utf8(other).unwrap());
        prop_assert_ne!(&sealed, last.last().unwrap());
        let found = found(&check(&lines, Some(head)));
        prop_assert!(matches!(&found[..], [(_, _, Finding::Rewritten)]), "{found:?}");
    }

    /// Any bytes at all: no panic, and never taken for a log.
    #[test]
    fn anything_else_is_no_log(lines in proptest::collection::vec("\\PC{0,80}", 1..10)) {
        let checker = check(&[lines], None);
        prop_assert!(!checker.findings.is_empty());
    }
}

/// An audit log in a folder of the test.
struct Logged {
    folder: tempfile::TempDir,
    config: AuditConfig,
}

impl Logged {
    fn new(max_size: u64, keep: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = AuditConfig {
            sink: AuditSink::File {
                file: folder.path().join("audit.log"),
                max_size: Size(max_size),
                keep,
            },
            ..AuditConfig::default()
        };
        Self { folder, config }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    fn start(&self) -> Audit {
        let audit = Audit::new(&self.config);
        audit.start().unwrap();
        audit
    }

    /// Runs an agent that has so many calls.
    async fn run(&self, calls: usize) {
        let audit = self.start();
        for call in 0..calls {
            audit.write(&a_call(&call.to_string()), false);
        }
        audit.close().await;
        assert_eq!(audit.status().lost, 0);
    }

    fn files(&self) -> (Vec<PathBuf>, Option<Head>) {
        let (files, noted) = file::all(&self.path(), 1000).unwrap();
        (files.into_iter().map(|(path, _)| path).collect(), noted)
    }

    fn check(&self) -> Checker {
        let (files, noted) = file::all(&self.path(), 1000).unwrap();
        let mut checker = Checker::new(noted);
        for (number, (_, file)) in files.iter().enumerate() {
            checker.begin(&number.to_string());
            let text = io::read_to_string(file).unwrap();
            for line in text.split_inclusive('\n') {
                let whole = line.strip_suffix('\n');
                checker.line(whole.unwrap_or(line).as_bytes(), whole.is_some());
            }
        }
        checker.end();
        checker
    }

    fn events(&self, file: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(file).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn a_call(call: &str) -> CallLine<'_> {
    CallLine {
        time: Time::now(),
        event: "call",
        call,
        within: None,
        relay: "relay-1",
        tenant: "acme",
        caller: "director-7",
        source: None,
        endpoint: "vcenter",
        mode: "http",
        name: None,
        method: "GET",
        target: "/",
        destination: None,
        upgrade: None,
        soap_op: None,
        soap_ns: None,
        decision: "allow",
        rule: Some("read"),
        destination_rule: None,
        shadow: Vec::new(),
        status: 200,
        upstream_status: Some(200),
        bytes_in: 0,
        bytes_out: 0,
        duration_ms: 1,
        upstream_ms: Some(1),
        outcome: "answered",
        code: None,
        reason: None,
        security: None,
        trace: None,
    }
}

#[tokio::test]
async fn the_chain_goes_on_through_restarts() {
    let logged = Logged::new(1 << 30, 3);
    for _ in 0..3 {
        logged.run(5).await;
    }
    let checker = logged.check();
    assert_eq!(found(&checker), []);
    assert_eq!(checker.last.seq, 3 * 7, "start, five calls, stop");
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(logged.path())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn files_are_rotated_and_the_oldest_go() {
    let logged = Logged::new(4096, 2);
    for _ in 0..10 {
        logged.run(10).await;
    }
    let (files, _) = logged.files();
    assert_eq!(files.len(), 3, "the one that is written and two older ones");
    let checker = logged.check();
    assert_eq!(found(&checker), []);
    assert!(checker.first > Some(1), "the oldest files are gone");
    for file in files {
        let first = logged.events(&file).remove(0);
        assert_eq!(first["event"], "open");
        assert!(std::fs::metadata(file).unwrap().len() < 2 * 4096 + 4096);
    }
}

#[tokio::test]
async fn half_a_line_of_a_crash_is_told_apart() {
    let logged = Logged::new(1 << 30, 3);
    logged.run(2).await;
    let mut text = std::fs::read(logged.path()).unwrap();
    text.extend_from_slice(b"{\"seq\":5,\"time\":\"2026-");
    std::fs::write(logged.path(), &text).unwrap();
    // As it lies there after the crash, and after the next start.
    let checker = logged.check();
    assert_eq!((found(&checker), checker.torn.len()), (vec![], 1));
    logged.run(1).await;
    let checker = logged.check();
    assert_eq!((found(&checker), checker.torn.len()), (vec![], 1));
    // The same without a restart that explains it is a change.
    let text = std::fs::read_to_string(logged.path()).unwrap();
    std::fs::write(
        logged.path(),
        text.replace("\"torn\":true", "\"torn\":fals"),
    )
    .unwrap();
    assert!(
        logged
            .check()
            .findings
            .iter()
            .any(|f| f.what == Finding::NotALine)
    );
}

#[tokio::test]
async fn an_end_that_was_cut_off_shows_before_and_after_a_restart() {
    let logged = Logged::new(1 << 30, 3);
    logged.run(5).await;
    let text = std::fs::read_to_string(logged.path()).unwrap();
    let kept: Vec<&str> = text.split_inclusive('\n').take(4).collect();
    std::fs::write(logged.path(), kept.concat()).unwrap();
    let (from, to) = (5, 7);
    assert_eq!(
        found(&logged.check()),
        [(0, 4, Finding::CutOff { from, to })]
    );
    logged.run(1).await;
    assert_eq!(
        found(&logged.check()),
        [(0, 5, Finding::Missing { from, to })]
    );
    assert_eq!(logged.events(&logged.path())[4]["missing"], 3);
}

#[tokio::test]
async fn a_file_that_another_program_moved_is_followed_by_a_new_one() {
    let logged = Logged::new(1 << 30, 3);
    let audit = logged.start();
    audit.write(&a_call("before"), false);
    while audit.status().written < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::fs::rename(logged.path(), file::beside(&logged.path(), "1")).unwrap();
    audit.reopen();
    audit.write(&a_call("after"), false);
    audit.close().await;
    assert_eq!(found(&logged.check()), []);
    let events = logged.events(&logged.path());
    assert_eq!(
        (&events[0]["event"], &events[1]["call"]),
        (&"open".into(), &"after".into())
    );
    // Moved while no agent runs: the chain goes on all the same.
    std::fs::remove_file(file::beside(&logged.path(), "1")).unwrap();
    std::fs::rename(logged.path(), file::beside(&logged.path(), "1")).unwrap();
    logged.run(1).await;
    assert_eq!(found(&logged.check()), []);
}

/// As every SIGHUP asks for, which mostly is about the policy.
#[tokio::test]
async fn a_file_that_nobody_moved_goes_on_whoever_asks_to_look() {
    let logged = Logged::new(1 << 30, 3);
    let audit = logged.start();
    audit.write(&a_call("before"), false);
    audit.reopen();
    audit.write(&a_call("after"), false);
    audit.close().await;
    let events = logged.events(&logged.path());
    let events: Vec<_> = events.iter().map(|line| &line["event"]).collect();
    assert_eq!(events, ["start", "call", "call", "stop"]);
    assert_eq!(found(&logged.check()), []);
}

/// As logrotate does with `copytruncate`, and a script that calls SIGHUP then.
#[tokio::test]
async fn a_file_that_was_emptied_is_begun_anew() {
    let logged = Logged::new(1 << 30, 3);
    let audit = logged.start();
    audit.write(&a_call("before"), false);
    while audit.status().written < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::fs::copy(logged.path(), file::beside(&logged.path(), "1")).unwrap();
    std::fs::write(logged.path(), "").unwrap();
    audit.reopen();
    audit.write(&a_call("after"), false);
    audit.close().await;
    let events = logged.events(&logged.path());
    let events: Vec<_> = events.iter().map(|line| &line["event"]).collect();
    assert_eq!(events, ["open", "call", "stop"]);
    assert_eq!(found(&logged.check()), []);
}

#[tokio::test]
async fn where_fewer_files_are_kept_the_others_go_and_are_not_missed_when_more_are_kept_again() {
    let mut logged = Logged::new(1000, 6);
    let keep = |logged: &mut Logged, files| {
        let AuditSink::File { keep, .. } = &mut logged.config.sink else {
            panic!("it is a file")
        };
        *keep = files;
    };
    logged.run(60).await;
    for _ in 0..12 {
        logged.run(5).await;
    }
    assert_eq!(logged.files().0.len(), 7);
    // What has another name is not the log's.
    let foreign = file::beside(&logged.path(), "7.gz");
    std::fs::write(&foreign, "").unwrap();
    keep(&mut logged, 2);
    for _ in 0..4 {
        logged.run(5).await;
    }
    assert_eq!(logged.files().0.len(), 3);
    assert!(foreign.exists());
    keep(&mut logged, 6);
    for _ in 0..4 {
        logged.run(5).await;
    }
    assert_eq!(found(&logged.check()), []);
}

/// It is verified from cron, while calls go on: nothing is missing only because it was moved.
#[tokio::test]
async fn a_log_that_is_rotated_meanwhile_is_found_whole() {
    let logged = Logged::new(2000, 1000);
    let audit = logged.start();
    for _ in 0..200 {
        for call in ["a", "b", "c", "d", "e"] {
            audit.write(&a_call(call), false);
        }
        assert_eq!(found(&logged.check()), []);
    }
    audit.close().await;
    assert!(logged.files().0.len() > 2);
}

#[tokio::test]
async fn a_log_that_cannot_be_rotated_grows_on() {
    let logged = Logged::new(1000, 1);
    // What cannot be replaced by a file.
    std::fs::create_dir(file::beside(&logged.path(), "1")).unwrap();
    logged.run(50).await;
    assert_eq!(logged.events(&logged.path()).len(), 52);
}

/// Tried again and again, moving files up would have them fall off at the end.
#[test]
fn files_move_up_no_further_than_there_is_need() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let numbered = |number: u32| file::beside(&path, &number.to_string());
    for number in 1..=3 {
        std::fs::write(numbered(number), number.to_string()).unwrap();
    }
    let (files, _) = LogFiles::open(&path, 1000, 5).unwrap();
    std::fs::remove_file(&path).unwrap();
    for _ in 0..5 {
        files.move_up().unwrap();
    }
    for number in 1..=3 {
        let kept = std::fs::read_to_string(numbered(number + 1)).unwrap();
        assert_eq!(kept, number.to_string());
    }
}

#[tokio::test]
async fn two_agents_do_not_share_a_log() {
    let logged = Logged::new(1 << 30, 3);
    let audit = logged.start();
    let error = Audit::new(&logged.config).start().unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    audit.close().await;
}

#[tokio::test]
async fn refused_calls_beyond_the_limit_are_counted_in_a_line() {
    let logged = Logged::new(1 << 30, 3);
    let audit = logged.start();
    let refused = CallLine {
        decision: "deny",
        rule: Some("no"),
        code: Some("policy-denied"),
        outcome: "refused",
        ..a_call("x")
    };
    for _ in 0..100 {
        audit.write(&refused, true);
    }
    audit.write(&a_call("y"), false);
    audit.close().await;
    let events = logged.events(&logged.path());
    let calls = events
        .iter()
        .filter(|e| e["event"] == "call" && e["decision"] == "deny");
    assert_eq!(calls.count(), 10);
    let denied: Vec<_> = events.iter().filter(|e| e["event"] == "denied").collect();
    assert_eq!(denied.len(), 1);
    assert_eq!(
        (&denied[0]["suppressed"], &denied[0]["rule"]),
        (&90.into(), &"no".into())
    );
    assert_eq!(found(&logged.check()), []);
}
