//! The policy while the agent runs: a new one comes into force by itself and ends what it
//! forbids, a bad one changes nothing; and what `culvert-agent status` tells of it all. Other files:
//! which are read again, and what is said of those that are not.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use culvert_demo::certs::Authority;
use culvert_tests::issuer::world;
use culvert_tests::stack::{POLICY, run};
use culvert_tests::upstream::Then;
use culvert_tests::wait::{LONG, until};
use culvert_tests::{Nginx, Stack, Upstream};
use rustix::process::Signal;
use serde_json::Value;

/// Long polls under `/wait`, answers that never end under `/stream`, and under `/other` a long
/// poll that is answered once the test says `go`.
fn upstream(go: Arc<AtomicBool>) -> Upstream {
    Upstream::start(move |request, connection| {
        let target = request.target();
        if target.starts_with("/stream") {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello")?;
        } else if target == "/other" {
            while !connection.closed_within(Duration::from_millis(50)) {
                if go.load(Ordering::Relaxed) {
                    return connection.answer("200 OK", b"done");
                }
            }
        } else if !target.starts_with("/wait") {
            return connection.answer("200 OK", b"hello");
        }
        connection.closed_within(LONG);
        Ok(Then::Close)
    })
}

/// Replaces a file at once, as configuration management does.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

const FORBID: &str = r#"
[[rule]]
id = "no-waiting"
action = "deny"
path = ["/wait/**", "/stream/**"]
"#;

#[test]
fn a_new_policy_ends_the_live_calls_that_it_forbids_and_leaves_the_others_alone() {
    let go = Arc::new(AtomicBool::new(false));
    let upstream = upstream(go.clone());
    let stack = Stack::start(&upstream.url());
    let waiting = stack.call("/wait").start();
    let mut streaming = stack.call("/stream").start();
    assert_eq!(streaming.head().status, 200);
    assert_eq!(streaming.body(5), b"hello");
    let other = stack.call("/other").start();
    until("the calls wait", || upstream.requests().len() == 3);

    replace(&stack.file("policy.toml"), &format!("{POLICY}{FORBID}"));
    let refused = waiting.answer();
    refused.assert_refused(403, "policy-denied", "agent");
    let cut = streaming.finish();
    assert!(
        cut.exit != Some(0),
        "it looks as if the answer were whole: {cut}"
    );
    go.store(true, Ordering::Relaxed);
    let answer = other.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
    stack
        .call("/wait")
        .ok()
        .assert_refused(403, "policy-denied", "agent");
    assert_eq!(stack.status()["policy"]["rules"], 3);
}

#[test]
fn a_bad_policy_changes_nothing_and_says_so_once_and_in_the_status() {
    let stack = Stack::start(&Upstream::plain().url());
    let file = stack.file("policy.toml");
    let errors = |stack: &Stack| {
        let log = stack.agent.log();
        log.lines()
            .filter(|line| line.contains("the new policy is refused"))
            .count()
    };
    let failing = "\n[[test]]\nname = \"t\"\nexpect = \"deny\"\n\
        call = { endpoint = \"vcenter\", method = \"GET\", path = \"/x\", caller = \"caller-acme\" }\n";
    let mut told = 0;
    for bad in [
        String::new(),
        POLICY.replace("action", "actoin"),
        POLICY.trim_end().to_owned(),
        format!("{POLICY}{failing}"),
    ] {
        replace(&file, &bad);
        told += 1;
        until("the bad file is noticed", || errors(&stack) == told);
        let status = stack.status();
        let error = status["policy"]["error"].as_str().unwrap_or_default();
        assert!(error.contains("policy.toml"), "{status}");
        assert_eq!(
            stack.call("/x").ok().status,
            200,
            "the old policy is in force"
        );
        assert_eq!(stack.call("/forbidden/x").ok().status, 403);
    }
    // Whoever asks is told again; the file alone says it once.
    stack.agent.signal(Signal::HUP);
    until("the bad file is refused again", || {
        errors(&stack) == told + 1
    });
    assert!(stack.agent.log().contains("ERROR"));
    let metrics = stack.ask_agent("/metrics").text();
    let failures = format!("culvert_agent_policy_reload_failures_total {}", told + 1);
    assert!(metrics.contains(&failures), "{metrics}");

    replace(&file, &format!("{POLICY}{FORBID}"));
    until("the good file is in force", || {
        stack.status()["policy"]["error"].is_null()
    });
    assert_eq!(stack.call("/wait/x").ok().status, 403);
    assert_eq!(errors(&stack), told + 1);
}

#[test]
fn a_policy_that_is_empty_cut_off_or_missing_stops_the_agent_at_start() {
    let configured = Stack::options()
        .endpoint("vcenter", "https://localhost:1")
        .configure();
    let file = configured.file("policy.toml");
    for bad in [Some(""), Some(POLICY.trim_end()), None] {
        match bad {
            Some(text) => std::fs::write(&file, text).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let output = configured.command("culvert-agent").output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{words}");
        assert!(words.contains("policy"), "{words}");
    }
}

/// As when the certificates of a vCenter are replaced by those of another authority.
#[test]
fn a_new_ca_file_of_an_endpoint_is_in_force_on_sighup_and_a_bad_one_changes_nothing() {
    let other = Authority::generate().unwrap();
    let nginx = Nginx::start_signed_by(&other);
    let configured = Stack::options()
        .endpoint("vcenter", &nginx.url())
        .configure();
    let ca = configured.file("upstream-ca.pem");
    std::fs::copy(world().ca_file(), &ca).unwrap();
    let agent = configured.file("agent.toml");
    let text = std::fs::read_to_string(&agent).unwrap();
    let (before, endpoint) = text.split_once("[[endpoint]]").unwrap();
    let shared = world().ca_file().display().to_string();
    let endpoint = endpoint.replacen(&shared, "upstream-ca.pem", 1);
    std::fs::write(&agent, format!("{before}[[endpoint]]{endpoint}")).unwrap();
    let stack = configured.run();
    let refused = stack.call("/api/x").ok();
    refused.assert_refused(502, "upstream-tls", "agent");

    replace(&ca, other.pem());
    stack.agent.signal(Signal::HUP);
    until("the new authority is trusted", || {
        stack.call("/api/x").ok().status == 200
    });
    replace(&ca, "nothing");
    stack.agent.signal(Signal::HUP);
    until("the log complains", || {
        let log = stack.agent.log();
        log.lines()
            .any(|line| line.contains("is of no use") && line.contains("upstream-ca.pem"))
    });
    assert_eq!(stack.call("/api/x").ok().status, 200);

    // Without a signal, within seconds.
    replace(&ca, world().authority.pem());
    until("the authority is trusted no more", || {
        stack.call("/api/x").ok().status == 502
    });
}

#[test]
fn whoever_changes_the_configuration_file_and_reloads_is_told_that_it_takes_a_restart() {
    let stack = Stack::start(&Upstream::plain().url());
    for (program, file, reloaded) in [
        (&stack.relay, "relay.toml", "loaded the certificates again"),
        (
            &stack.agent,
            "agent.toml",
            "loaded the authorities of the relay again",
        ),
    ] {
        let told = |what: &str| program.log().matches(what).count();
        program.signal(Signal::HUP);
        until("everything is read again", || told(reloaded) == 1);
        assert_eq!(told("takes a restart"), 0, "{file} is as it was");

        let file = stack.file(file);
        let text = std::fs::read_to_string(&file).unwrap();
        replace(&file, &format!("{text}\n# Changed.\n"));
        program.signal(Signal::HUP);
        until("the log says so", || told("takes a restart") == 1);
        let log = program.log();
        let line = log.lines().find(|line| line.contains("takes a restart"));
        let line = line.unwrap();
        assert!(line.contains("WARN"), "{line}");
        assert!(line.contains(file.to_str().unwrap()), "{line}");
    }
}

#[test]
fn the_status_of_a_running_agent_is_told_to_people_and_programs() {
    let stack = Stack::start(&Upstream::plain().url());
    assert_eq!(stack.call("/x").ok().status, 200);
    let call = stack.call("/forbidden/x?token=t0ps3cret").ok().call();
    let admin = format!("unix:{}", stack.file("admin.sock").display());
    until("the refusal is remembered", || {
        stack.status()["refusals"].to_string().contains(&call)
    });
    let output = run("culvert-agent", &["status", "--admin", &admin, "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["ready"], true, "{status}");
    let session = &status["sessions"][0];
    assert_eq!(
        (&session["node"], &session["state"]),
        (&"relay-1".into(), &"open".into())
    );
    assert_eq!(session["registrations"][0]["endpoint"], "vcenter");
    let endpoint = &status["endpoints"][0];
    assert_eq!(
        (&endpoint["sessions"], &endpoint["failures"]),
        (&1.into(), &0.into())
    );
    assert!(
        endpoint["answered_s"].is_u64() && endpoint["failure"].is_null(),
        "{status}"
    );
    assert!(
        status["token"]["expires_in_s"].as_u64().unwrap() > 0,
        "{status}"
    );
    assert_eq!(status["policy"]["rules"], 2);
    assert!(status["audit"]["alarm"].is_null() && status["audit"]["seq"].as_u64().unwrap() > 0);
    let refusal = status["refusals"].as_array().unwrap();
    let refusal = refusal
        .iter()
        .find(|refusal| refusal["call"] == call.as_str())
        .unwrap();
    assert_eq!(
        (&refusal["code"], &refusal["rule"]),
        (&"policy-denied".into(), &"nothing-forbidden".into())
    );
    assert!(!status.to_string().contains("t0ps3cret"));

    let output = run("culvert-agent", &["status", "--admin", &admin]);
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{words}");
    for word in [
        "ready",
        "relay-1",
        "vcenter",
        "policy.toml",
        "audit log",
        &call,
    ] {
        assert!(words.contains(word), "{word} is not in\n{words}");
    }
    let nobody = run("culvert-agent", &["status", "--admin", "unix:/nonexistent"]);
    assert_eq!(nobody.status.code(), Some(1));
}

#[test]
fn an_agent_without_a_session_is_alive_and_not_ready() {
    let configured = Stack::options()
        .endpoint("vcenter", "https://localhost:1")
        .configure();
    let _agent = configured.start("culvert-agent");
    let ask = |path: &str| {
        let socket = configured.file("admin.sock");
        culvert_tests::Curl::new(&format!("http://localhost{path}"))
            .args(["--unix-socket", socket.to_str().unwrap()])
            .run()
    };
    until("the agent is alive", || ask("/healthz").status == 200);
    let answer = ask("/readyz");
    assert_eq!(answer.status, 503, "{answer}");
    assert!(
        answer.text().contains("a session with the relay"),
        "{answer}"
    );
}
