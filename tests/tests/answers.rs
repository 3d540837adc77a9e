//! What a denied call looks like to the tools that people use.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use culvert_tests::issuer::world;
use culvert_tests::raw::Raw;
use culvert_tests::stack::{DOMAIN, caller_token};
use culvert_tests::wait::{LONG, eventually};
use culvert_tests::{Http, Stack, Upstream};
use serde_json::Value;

const POLICY: &str = r#"
version = 1
reveal_rule = true

[[rule]]
id = "everything-of-acme"
action = "allow"
path = ["/**"]
caller = ["caller-acme"]
soap_op = "all"

[[rule]]
id = "no-power-off"
action = "deny"
path = ["/sdk/**"]
soap_op = ["PowerOffVM_Task"]

[[rule]]
id = "nothing-forbidden"
action = "deny"
path = ["/forbidden/**"]
"#;

const POWER_OFF: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>
<PowerOffVM_Task xmlns="urn:vim25"><_this type="VirtualMachine">vm-1</_this></PowerOffVM_Task>
</soapenv:Body></soapenv:Envelope>"#;

fn stack(upstream: &Upstream, policy: &str) -> Stack {
    Stack::options()
        .endpoint("vcenter", &upstream.url())
        .policy(policy)
        .start()
}

/// The audit line of a call; without `[audit]` it is on standard output.
fn line_of(stack: &Stack, call: &str) -> Value {
    eventually("the call has a line", || {
        let log = stack.agent.log();
        let line = log
            .lines()
            .find(|line| line.starts_with('{') && line.contains(call))?;
        serde_json::from_str(line).ok()
    })
}

/// SOAP clients show the text of a fault, and of a plain 403 nothing.
#[test]
fn a_denied_soap_call_gets_a_fault_and_the_audit_log_its_operation() {
    let upstream = Upstream::plain();
    for (policy, revealed) in [
        (POLICY.to_owned(), true),
        (POLICY.replace("reveal_rule = true", ""), false),
    ] {
        let stack = stack(&upstream, &policy);
        let answer = stack
            .call("/sdk")
            .header("Content-Type: text/xml; charset=utf-8")
            .args(["--data", POWER_OFF])
            .ok();
        assert_eq!(answer.status, 500, "{answer}");
        assert_eq!(
            answer.header("content-type"),
            Some("text/xml; charset=utf-8")
        );
        let text = answer.text();
        for part in [
            "<soapenv:Fault><faultcode>ServerFaultCode</faultcode>",
            "xsi:type=\"NoPermission\"",
            "policy-denied",
            &answer.call(),
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(text.contains("no-power-off"), revealed, "{text}");
        let line = line_of(&stack, &answer.call());
        for (field, value) in [
            ("soap_op", Value::from("PowerOffVM_Task")),
            ("soap_ns", "urn:vim25".into()),
            ("decision", "deny".into()),
            ("rule", "no-power-off".into()),
            ("status", 500.into()),
            ("code", "policy-denied".into()),
        ] {
            assert_eq!(line[field], value, "{field} of {line}");
        }
    }
    assert_eq!(upstream.requests().len(), 0);
}

/// Tools print it; over HTTP/2 there is none.
#[test]
fn what_an_upstream_says_beside_its_status_reaches_callers_of_http_1() {
    let upstream = Upstream::start(|request, connection| {
        connection.read_body(request, |_| ())?;
        connection.answer("503 Maintenance mode", b"")
    });
    let stack = Stack::start(&upstream.url());
    let host = format!("vcenter--acme.{DOMAIN}");
    let mut raw = Raw::connect(&host, stack.public);
    raw.send(format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Culvert-Authorization: Bearer {}\r\n\r\n",
        caller_token()
    ));
    let answer = raw.receive(LONG).text();
    assert!(
        answer.starts_with("HTTP/1.1 503 Maintenance mode\r\n"),
        "{answer}"
    );
    let answer = stack.call("/").http(Http::Two).ok();
    assert_eq!(answer.status, 503, "{answer}");
}

#[test]
fn pyvmomi_shows_its_user_why_a_call_is_denied() {
    let upstream = Upstream::plain();
    let stack = stack(&upstream, POLICY);
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let mut command = Command::new(python.join(".venv/bin/python3"));
    command
        .arg(python.join("denied.py"))
        .arg(format!("vcenter--acme.{DOMAIN}"))
        .arg(stack.public.to_string())
        .arg(world().ca_file())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(caller_token().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        words.starts_with("NoPermission: The policy of the data centre denied the call"),
        "{words}{errors}"
    );
    for part in ["no-power-off", "policy-denied"] {
        assert!(words.contains(part), "{part} is not in {words}");
    }
    assert_eq!(upstream.requests().len(), 0);
}
