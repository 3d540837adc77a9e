//! The agent's audit log: one line for every call however it ends, chained, verified, rotated,
//! and what happens when the disk is full.

use std::path::{Path, PathBuf};
use std::process::Command;

use culvert_tests::curl::Http;
use culvert_tests::stack::{caller_token, run};
use culvert_tests::upstream::Then;
use culvert_tests::wait::{eventually, until};
use culvert_tests::{Stack, StackOptions, Upstream};
use rustix::process::Signal;
use serde_json::Value;

fn audited(upstream: &str, settings: &str) -> StackOptions {
    let audit = format!("\n[audit]\nfile = \"audit.log\"\n{settings}\n");
    Stack::options().endpoint("vcenter", upstream).agent(&audit)
}

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let whole = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    whole
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

/// The one line of a call, once it is there.
fn line_of(stack: &Stack, call: &str) -> Value {
    let found: Vec<Value> = eventually("the call has a line", || {
        let lines = lines(&stack.file("audit.log"));
        let found: Vec<_> = lines
            .into_iter()
            .filter(|line| line["call"] == call)
            .collect();
        (!found.is_empty()).then_some(found)
    });
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

/// Exit code and words of `audit verify`.
fn verify(arguments: &[&str]) -> (i32, String) {
    let arguments = [&["audit", "verify"], arguments].concat();
    let output = run("culvert-agent", &arguments);
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), words + &errors)
}

fn verify_config(stack: &Stack) -> (i32, String) {
    verify(&["--config", stack.file("agent.toml").to_str().unwrap()])
}

#[test]
fn every_call_has_one_line_however_it_ends_and_no_secret_in_it() {
    let upstream = Upstream::start(|request, connection| match request.target() {
        "/hang-up" => Ok(Then::Close),
        "/cut" => {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")?;
            Ok(Then::Close)
        }
        "/wait" => {
            connection.closed_within(culvert_tests::wait::LONG);
            Ok(Then::Close)
        }
        _ => {
            connection.read_body(request, |_| ())?;
            connection.answer("200 OK", b"hello")
        }
    });
    let stack = audited(&upstream.url(), "").start();

    let answered = stack
        .call("/api/vm?token=t0ps3cret&x=1")
        .header("Cookie: vmware_soap_session=c00kie")
        .header("traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .arg("--data")
        .arg("b0dy")
        .ok();
    let line = line_of(&stack, &answered.call());
    for (field, value) in [
        ("event", "call".into()),
        ("relay", "relay-1".into()),
        ("tenant", "acme".into()),
        ("caller", "caller-acme".into()),
        ("source", "127.0.0.1".into()),
        ("endpoint", "vcenter".into()),
        ("mode", "http".into()),
        ("method", "POST".into()),
        ("target", "/api/vm?token=***&x=1".into()),
        ("decision", "allow".into()),
        ("rule", "everything-of-acme".into()),
        ("status", 200.into()),
        ("upstream_status", 200.into()),
        ("bytes_in", 4.into()),
        ("bytes_out", 5.into()),
        ("outcome", "answered".into()),
        ("trace", "4bf92f3577b34da6a3ce929d0e0e4736".into()),
    ] {
        let value: Value = value;
        assert_eq!(line[field], value, "{field} of {line}");
    }

    let denied = stack.call("/forbidden/nfc/t1cket/x").ok();
    let line = line_of(&stack, &denied.call());
    assert_eq!(
        (&line["outcome"], &line["status"]),
        (&"refused".into(), &403.into())
    );
    assert_eq!(
        (&line["code"], &line["rule"]),
        (&"policy-denied".into(), &"nothing-forbidden".into())
    );
    assert_eq!(line["target"], "/forbidden/nfc/***/x");

    let failed = stack.call("/hang-up").ok();
    let line = line_of(&stack, &failed.call());
    assert_eq!(
        (&line["outcome"], &line["code"]),
        (&"failed".into(), &"upstream-protocol".into())
    );

    let cut = stack.call("/cut").http(Http::Two).run();
    let line = line_of(&stack, &cut.call());
    assert_eq!(
        (&line["outcome"], &line["bytes_out"]),
        (&"truncated".into(), &4.into())
    );

    let waiting = stack.call("/wait").start();
    until("the call waits", || {
        upstream.requests().iter().any(|r| r.target() == "/wait")
    });
    waiting.kill();
    until("the caller's going is noticed", || {
        let lines = lines(&stack.file("audit.log"));
        lines
            .iter()
            .any(|l| l["target"] == "/wait" && l["outcome"] == "caller-gone")
    });

    let text = std::fs::read_to_string(stack.file("audit.log")).unwrap();
    let signature = caller_token().rsplit('.').next().unwrap();
    for secret in ["t0ps3cret", "c00kie", "b0dy", "t1cket", signature] {
        assert!(!text.contains(secret), "{secret} in\n{text}");
    }
    // Nothing of it is in the other log.
    assert!(!stack.agent.log().contains(&answered.call()));
    assert_eq!(verify_config(&stack).0, 0);
}

/// A log of a few calls, of an agent that has ended; and its lines.
fn a_log(stack: &mut Stack) -> (PathBuf, Vec<String>) {
    for _ in 0..5 {
        assert_eq!(stack.call("/").ok().status, 200);
    }
    stack.agent.terminate();
    assert_eq!(stack.agent.wait().code(), Some(0));
    let file = stack.file("audit.log");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.lines().last().unwrap().contains("\"event\":\"stop\""),
        "{text}"
    );
    (file, text.lines().map(ToOwned::to_owned).collect())
}

#[test]
fn a_move_leaves_a_line_that_says_where_it_led_and_which_path_was_refused() {
    let upstream = Upstream::start(|_, connection| connection.answer("201 Created", b""));
    let stack = audited(&upstream.url(), "").start();
    let moved = |to: &str| {
        let call = stack.call("/dav/a").method("MOVE");
        let answer = call.header(&format!("Destination: {to}")).ok();
        (answer.status, line_of(&stack, &answer.call()))
    };
    let (status, line) = moved("/dav/b?token=t0ps3cret");
    assert_eq!((status, &line["reason"]), (201, &Value::Null), "{line}");
    assert_eq!(line["destination"], "/dav/b?token=***");
    assert_eq!(line["destination_rule"], "everything-of-acme");
    let elsewhere = stack.url("/forbidden/b");
    let (status, line) = moved(&elsewhere);
    assert_eq!((status, &line["target"]), (403, &"/dav/a".into()), "{line}");
    assert_eq!(line["destination"], elsewhere);
    assert_eq!(line["rule"], "nothing-forbidden");
    assert_eq!(line["reason"], "destination: rule");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn tampering_is_found_and_named_by_file_and_line() {
    let mut stack = audited(&Upstream::plain().url(), "").start();
    let (file, good) = a_log(&mut stack);
    assert!(good.len() >= 7, "{good:?}");
    let (code, words) = verify_config(&stack);
    assert_eq!(code, 0, "{words}");
    assert!(
        words.contains("the chain holds from line number 1"),
        "{words}"
    );

    let changed = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = good.clone();
        change(&mut lines);
        lines
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    let seq = good.len();
    let cases: [(&str, String, String); 6] = [
        (
            "edited",
            changed(&|lines| lines[3] = lines[3].replace("\"status\":200", "\"status\":201")),
            "audit.log:4: this line was changed".into(),
        ),
        (
            "removed",
            changed(&|lines| drop(lines.remove(3))),
            "audit.log:4: line number 4 was removed".into(),
        ),
        (
            "reordered",
            changed(&|lines| lines.swap(3, 4)),
            "audit.log:5: line number 4 does not belong here".into(),
        ),
        (
            "inserted",
            changed(&|lines| lines.insert(3, lines[2].clone())),
            "audit.log:4: line number 3 does not belong here".into(),
        ),
        (
            "garbage",
            changed(&|lines| lines.insert(3, "{}".into())),
            "audit.log:4: this is no line".into(),
        ),
        (
            "cut off",
            changed(&|lines| lines.truncate(seq - 2)),
            format!("lines number {} to {seq} are gone", seq - 1),
        ),
    ];
    for (what, text, expected) in cases {
        std::fs::write(&file, text).unwrap();
        for (code, words) in [verify_config(&stack), verify(&[file.to_str().unwrap()])] {
            assert_eq!(code, 1, "{what}: {words}");
            assert!(
                words.contains(&expected),
                "{what}: {words} without {expected}"
            );
        }
    }

    // Half a line at the end is what a crash leaves.
    let torn = changed(&|_| ()) + &good[3][..40];
    std::fs::write(&file, torn).unwrap();
    let (code, words) = verify_config(&stack);
    assert_eq!(code, 0, "{words}");
    assert!(words.contains("half a line"), "{words}");

    let (code, words) = verify(&["/nonexistent/audit.log"]);
    assert_eq!(code, 1, "{words}");
    let (code, _) = verify(&[]);
    assert_eq!(code, 2);
}

#[test]
fn the_chain_outlives_crashes_rotation_and_files_that_are_moved() {
    let mut stack = audited(&Upstream::plain().url(), "max_size = \"4 KiB\"\nkeep = 50").start();
    let call = |stack: &Stack| {
        let call = stack.call("/").ok().call();
        line_of_any(stack, &call);
    };
    for _ in 0..15 {
        call(&stack);
    }
    stack.agent.kill();
    stack.restart_agent();
    stack.await_endpoint("vcenter");
    call(&stack);
    assert!(stack.file("audit.log.2").exists(), "no rotation");

    // As logrotate does it, with a postrotate of SIGHUP.
    let (file, moved) = (stack.file("audit.log"), stack.file("moved"));
    std::fs::rename(&file, &moved).unwrap();
    stack.agent.signal(Signal::HUP);
    until("a new file is begun", || !lines(&file).is_empty());
    call(&stack);
    std::fs::rename(&file, stack.file("moved-2")).unwrap();
    // Without any signal.
    until("a new file is begun", || !lines(&file).is_empty());
    call(&stack);

    let mut files: Vec<PathBuf> = (1..=50)
        .rev()
        .map(|number| stack.file(&format!("audit.log.{number}")))
        .filter(|file| file.exists())
        .collect();
    files.extend([moved, stack.file("moved-2"), file]);
    let names: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    let (code, words) = verify(&names);
    assert_eq!(code, 0, "{words}");
    assert!(words.contains("from line number 1 to "), "{words}");
}

/// Waits until a call has a line in one of the log's files.
fn line_of_any(stack: &Stack, call: &str) {
    until("the call has a line", || {
        let folder = stack.file("");
        let files = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let logs = files.filter(|file| {
            let name = file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            name.starts_with("audit.log") && !name.ends_with(".head")
        });
        let texts: Vec<String> = logs
            .map(|f| std::fs::read_to_string(f).unwrap_or_default())
            .collect();
        texts.iter().any(|text| text.contains(call))
    });
}

#[test]
fn refused_calls_that_come_in_numbers_are_counted_in_place_of_a_line_each() {
    let stack = audited(&Upstream::plain().url(), "denied_per_minute = 3").start();
    for _ in 0..20 {
        stack
            .call("/forbidden/x")
            .ok()
            .assert_refused(403, "policy-denied", "agent");
    }
    let mut stack = stack;
    stack.agent.terminate();
    assert_eq!(stack.agent.wait().code(), Some(0));
    let lines = lines(&stack.file("audit.log"));
    let denied = lines
        .iter()
        .filter(|l| l["event"] == "call" && l["decision"] == "deny")
        .count();
    let counted: Vec<_> = lines.iter().filter(|l| l["event"] == "denied").collect();
    assert_eq!((denied, counted.len()), (3, 1), "{lines:?}");
    assert_eq!(counted[0]["rule"], "nothing-forbidden");
    // The probe that waited for the agent was one, too.
    assert_eq!(counted[0]["suppressed"], 20 + 1 - 3);
    assert_eq!(verify_config(&stack).0, 0);
}

/// A small file system of its own; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, and a word: the test is not run by root, or may not mount.
    fn mount(at: PathBuf) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let mut command = Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
            .arg(&at);
        let mounted = command.output().is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("SKIPPED: mounting a tmpfs takes root");
        }
        mounted.then_some(Self(at))
    }

    fn fill(&self) {
        let mut room = 64 * 1024;
        let mut filler = std::fs::File::create(self.0.join("filler")).unwrap();
        while room > 0 {
            use std::io::Write;
            if filler.write_all(&vec![0; room]).is_err() {
                room /= 2;
            }
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// An agent whose audit log lies on a disk that is full; `None` where no such disk can be made.
/// The disk comes second, so that it goes first.
fn on_full_disk(on_full: &str) -> Option<(Stack, SmallDisk)> {
    let configured = Stack::options()
        .endpoint("vcenter", &Upstream::plain().url())
        .agent(&format!(
            "\n[audit]\nfile = \"disk/audit.log\"\non_full = \"{on_full}\"\n"
        ))
        .configure();
    let disk = SmallDisk::mount(configured.file("disk"))?;
    let stack = configured.run();
    let log = stack.file("disk/audit.log");
    // The probe's line fills what is left of a page.
    until("the log is written", || lines(&log).len() > 1);
    disk.fill();
    // What is left of the last page takes a few lines yet.
    until("the disk is full", || {
        stack.call("/").run();
        !stack.status()["audit"]["alarm"].is_null()
    });
    Some((stack, disk))
}

#[test]
fn on_a_full_disk_no_call_goes_without_its_line_if_so_configured() {
    let Some((stack, disk)) = on_full_disk("stop") else {
        return;
    };
    let refused = stack.call("/").ok();
    refused.assert_refused(503, "overloaded", "agent");
    assert!(refused.text().contains("audit log"), "{refused}");
    assert_eq!(stack.ask_agent("/readyz").status, 503);
    assert!(stack.ask_agent("/readyz").text().contains("audit log"));
    disk.empty();
    until("calls are taken again", || {
        stack.call("/").run().status == 200
    });
    assert_eq!(stack.ask_agent("/readyz").status, 200);
    let status = stack.status();
    assert!(status["audit"]["alarm"].is_null(), "{status}");
    assert_eq!(status["audit"]["lost"], 0, "{status}");
    line_of_all(&stack, &refused.call());
    assert_eq!(verify_config(&stack).0, 0);
}

#[test]
fn on_a_full_disk_calls_go_on_with_an_alarm_and_their_lines_follow() {
    let Some((stack, disk)) = on_full_disk("continue") else {
        return;
    };
    let calls: Vec<String> = (0..5).map(|_| stack.call("/").ok().call()).collect();
    let log = stack.agent.log();
    assert!(
        log.contains("ERROR") && log.contains("the audit log cannot be written"),
        "{log}"
    );
    let metrics = stack.ask_agent("/metrics").text();
    assert!(metrics.contains("culvert_agent_audit_alarm 1"), "{metrics}");
    disk.empty();
    for call in &calls {
        line_of_all(&stack, call);
    }
    until("the alarm is over", || {
        stack.status()["audit"]["alarm"].is_null()
    });
    let (code, words) = verify_config(&stack);
    assert_eq!(code, 0, "{words}");
}

fn line_of_all(stack: &Stack, call: &str) {
    let log = stack.file("disk/audit.log");
    until("the call has a line", || {
        lines(&log).iter().any(|line| line["call"] == call)
    });
}

#[test]
fn the_log_may_go_to_a_syslog_server() {
    let socket_folder = tempfile::tempdir().unwrap();
    let path = socket_folder.path().join("log");
    let server = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    server
        .set_read_timeout(Some(culvert_tests::wait::LONG))
        .unwrap();
    let stack = Stack::options()
        .endpoint("vcenter", &Upstream::plain().url())
        .agent(&format!(
            "\n[audit]\nsyslog = \"unix:{}\"\n",
            path.display()
        ))
        .start();
    let call = stack.call("/").ok().call();
    let mut buffer = vec![0; 64 * 1024];
    let mut seq = 0;
    loop {
        let length = server.recv(&mut buffer).unwrap();
        let message = std::str::from_utf8(&buffer[..length]).unwrap();
        assert!(message.starts_with("<109>1 "), "{message}");
        let line: Value = serde_json::from_str(&message[message.find('{').unwrap()..]).unwrap();
        seq += 1;
        assert_eq!(line["seq"], seq);
        if line["call"] == call.as_str() {
            break;
        }
    }
}

#[test]
fn an_audit_log_that_cannot_be_opened_ends_the_agent_and_says_so() {
    let configured = audited("https://localhost:1", "").configure();
    std::fs::create_dir(configured.file("audit.log.head")).unwrap();
    let output = configured.command("culvert-agent").output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("audit log"), "{words}");
}
