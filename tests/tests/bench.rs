//! The load test that comes with the product: it measures, says what it measured, and says it
//! also when somebody ends it early.

use std::path::Path;
use std::process::{Command, Output};

use culvert_tests::issuer::world;
use culvert_tests::process::{Process, program};
use culvert_tests::stack::caller_token;
use culvert_tests::wait::eventually;
use culvert_tests::{Nginx, Stack};
use rustix::process::Signal;
use serde_json::Value;

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(program("culvert-bench"));
    command.args(arguments);
    command
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}\n{err}")
}

/// Has a scenario run for one round against an installation that is up, by a caller's token; it must end
/// with 1. Gives the report.
fn failed_run(stack: &Stack, scenario: &str, options: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let [token, json] = ["token", "a.json"].map(|name| folder.path().join(name));
    std::fs::write(&token, caller_token()).unwrap();
    let output = against(stack, scenario, &token, &json)
        .args(options.split(' '))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    read(&json)
}

/// One round of a scenario against an installation that is up.
fn against(stack: &Stack, scenario: &str, token: &Path, json: &Path) -> Command {
    let mut command = bench(&["run", "--scenario", scenario, "--rounds", "1"]);
    command
        .args(["--url", stack.url("").trim_end_matches('/')])
        .args(["--address", &format!("127.0.0.1:{}", stack.public)])
        .arg("--ca")
        .arg(world().ca_file())
        .arg("--token-file")
        .arg(token)
        .arg("--json")
        .arg(json);
    command
}

/// A slow machine may not keep to the schedule; whatever else fails is a failure.
fn has_no_failure(round: &Value) -> bool {
    let mut errors = round["errors"].as_object().unwrap().keys();
    errors.all(|kind| kind.starts_with("not begun") || kind == "unfinished")
}

/// One short run gives a table, JSON and a page, with figures of all ways; two reports compare.
#[test]
fn a_local_run_measures_all_ways_and_reports_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let (json, html) = (folder.path().join("a.json"), folder.path().join("a.html"));
    let output = bench(&["--log-format", "json", "local", "--connect", "--scenario"])
        .args([
            "calls-h2,websocket,connections",
            "--seconds",
            "1",
            "--rounds",
            "1",
            "--calls",
            "60",
            "--connections",
            "2",
        ])
        .arg("--json")
        .arg(&json)
        .arg("--html")
        .arg(&html)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("p50 ms"), "{}", text(&output));
    let log = std::str::from_utf8(&output.stderr).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told = |line: &Value| {
        line["fields"]["message"]
            .as_str()
            .unwrap()
            .contains("calls/s")
    };
    assert!(lines.iter().any(told), "{log}");
    let report = read(&json);
    let cases = report["cases"].as_array().unwrap();
    let names: Vec<_> = cases
        .iter()
        .map(|case| case["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "calls-h2/2",
            "calls-h2/2@rate",
            "websocket/1",
            "websocket/64",
            "connections/h1",
            "connections/h2"
        ]
    );
    for case in cases {
        let ways = case["ways"].as_array().unwrap();
        assert_eq!(ways.len(), 3, "culvert, connect and nginx: {case}");
        for way in ways {
            let round = &way["rounds"][0];
            assert!(round["calls"].as_u64() > Some(0), "{}: {way}", case["name"]);
            assert!(has_no_failure(round), "{}: {way}", case["name"]);
            assert!(round["latency"]["p50"].as_u64() > Some(0), "{way}");
            assert!(!round["series"].as_array().unwrap().is_empty());
        }
        let relay = &ways.iter().find(|way| way["name"] == "culvert").unwrap()["rounds"][0];
        assert!(
            relay["processes"]["relay"]["memory_most"].as_u64() > Some(1 << 20),
            "{relay}"
        );
    }
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("<svg") && page.contains("websocket/64"));

    let same = bench(&["compare"]).arg(&json).arg(&json).output().unwrap();
    assert_eq!(same.status.code(), Some(0), "{}", text(&same));
    assert!(
        text(&same).contains("measures are the same"),
        "{}",
        text(&same)
    );
}

/// Ctrl-C ends a run that would last for minutes, and what was measured until then is written.
#[test]
fn an_interrupted_run_still_reports() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("a.json");
    let mut command = bench(&["local", "--scenario", "calls-h1", "--seconds", "600"]);
    command.arg("--json").arg(&json);
    let mut bench = Process::start("bench", folder.path(), &mut command);
    eventually("the first calls", || {
        bench.log().contains("calls/s").then_some(())
    });
    bench.signal(Signal::INT);
    let status = bench.wait();
    assert!(status.success(), "{}", bench.log());
    let report = read(&json);
    assert_eq!(report["interrupted"], true);
    let round = &report["cases"][0]["ways"][0]["rounds"][0];
    assert_eq!(round["partial"], true);
    assert!(round["calls"].as_u64() > Some(0), "{round}");
}

/// An installation that exists is measured from outside, at an address and a port of its own, with
/// the upstream's own credential beside the caller's. What was asked for and cannot be measured is
/// a failure, and the rest is measured.
#[test]
fn a_run_measures_an_installation_that_exists() {
    let session = r#"if ($http_vmware_api_session_id != "0123") { return 401; }"#;
    let nginx = Nginx::start_with("", session);
    let stack = Stack::start(&nginx.url());
    let folder = tempfile::tempdir().unwrap();
    let [token, headers, json] =
        ["token", "headers", "a.json"].map(|name| folder.path().join(name));
    std::fs::write(&token, caller_token()).unwrap();
    std::fs::write(&headers, "vmware-api-session-id: 0123\n").unwrap();
    let mut command = against(&stack, "calls-h1,connections,upload", &token, &json);
    command
        .args(["--path", "/api/x", "--seconds", "1"])
        .args(["--calls", "60", "--connections", "2"])
        .arg("--headers-file")
        .arg(&headers);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let report = read(&json);
    let cases = report["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 5, "{}", text(&output));
    for case in cases {
        if case["name"] == "upload" {
            let skipped = case["skipped"].as_str().unwrap();
            assert!(skipped.contains("--sink-path"), "{skipped}");
            continue;
        }
        let round = &case["ways"][0]["rounds"][0];
        assert!(round["calls"].as_u64() > Some(0), "{}", text(&output));
        assert!(has_no_failure(round), "{case}");
    }
    assert!(nginx.access_log().contains("GET /api/x"));
}

/// An upload that is refused is counted by why it was, and a run without a call that worked is a
/// failure.
#[test]
fn refused_uploads_are_counted_by_why() {
    let nginx = Nginx::start();
    let stack = Stack::start(&nginx.url());
    let options = "--sink-path /forbidden/sink --seconds 2 --calls 20";
    let report = failed_run(&stack, "upload", options);
    for case in report["cases"].as_array().unwrap() {
        let round = &case["ways"][0]["rounds"][0];
        assert_eq!(round["calls"], 0, "{case}");
        let errors = round["errors"].as_object().unwrap();
        assert!(errors["policy-denied"].as_u64() > Some(0), "{case}");
        let known = |kind: &String| kind == "policy-denied" || kind == "unfinished";
        assert!(errors.keys().all(known), "{case}");
    }
}

/// Transfers beside the calls that all fail are a failure, and are counted by why. What processes use
/// then is the transfers', and not the small calls'.
#[test]
fn calls_beside_nothing_but_refusals_have_not_been_measured() {
    let nginx = Nginx::start();
    let stack = Stack::start(&nginx.url());
    // Any process that there is.
    let own = std::process::id();
    let options = format!("--path /api/x --sink-path /forbidden/sink --seconds 1 --pid own={own}");
    let report = failed_run(&stack, "beside", &options);
    let round = |case: &str| {
        let cases = report["cases"].as_array().unwrap();
        let case = cases.iter().find(|known| known["name"] == case).unwrap();
        case["ways"][0]["rounds"][0].clone()
    };
    let per_call = |round: &Value| round["processes"]["own"]["cpu_ms_per_1000_calls"].clone();
    let alone = round("beside/nothing");
    assert!(
        alone["calls"].as_u64() > Some(0) && has_no_failure(&alone),
        "{alone}"
    );
    assert!(per_call(&alone).is_number(), "{alone}");
    let beside = round("beside/uploads");
    assert!(beside["calls"].as_u64() > Some(0), "{beside}");
    assert!(
        beside["errors"]["beside: policy-denied"].as_u64() > Some(0),
        "{beside}"
    );
    assert_eq!(beside["values"]["transfers"]["value"], 0.0, "{beside}");
    assert!(per_call(&beside).is_null(), "{beside}");
}

/// Polls that are answered at once were not held, and not more of them are made than were asked for.
#[test]
fn polls_that_are_not_held_have_not_been_measured() {
    let nginx = Nginx::start();
    let stack = Stack::start(&nginx.url());
    let report = failed_run(
        &stack,
        "polls",
        "--poll-path /api/x --sessions 4 --calls 10",
    );
    let round = &report["cases"][0]["ways"][0]["rounds"][0];
    assert_eq!(round["calls"], 0, "{round}");
    assert_eq!(round["errors"]["answered too early"], 10, "{round}");
    assert!(round["latency"]["p50"].as_u64() > Some(0), "{round}");
}

/// Figures of a process that does not exist would be zeros that nobody measured.
#[test]
fn a_process_that_does_not_exist_is_refused() {
    let mut command = bench(&[
        "run",
        "--url",
        "https://localhost",
        "--pid",
        "relay=4294967295",
    ]);
    command.args(["--address", "127.0.0.1:1", "--token-file", "/dev/null"]);
    let output = command.arg("--ca").arg(world().ca_file()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("--pid relay=4294967295"), "{said}");
}

/// A password in the URL is refused, and shown nowhere.
#[test]
fn a_password_in_the_url_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("a.json");
    for url in ["https://u:hunter2@localhost", "https://u:hunter2@h@h"] {
        let mut command = bench(&["run", "--url", url, "--token-file", "/dev/null"]);
        let output = command.arg("--json").arg(&json).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains("--url"), "{}", text(&output));
        assert!(!text(&output).contains("hunter2"), "{}", text(&output));
        assert!(!json.exists());
    }
}

/// Who names a folder learns that the programs are not there, and how to get them.
#[test]
fn a_folder_without_the_programs_is_said_to_be_one() {
    let folder = tempfile::tempdir().unwrap();
    let named = folder.path().to_str().unwrap();
    let output = bench(&["--programs", named, "local"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("culvert-relay is not in"), "{said}");
    assert!(said.contains("--programs FOLDER"), "{said}");
}
