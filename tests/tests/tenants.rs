//! Two tenants on one relay: neither learns anything of the other, nor notices what it does; and
//! what an operator revokes is over.

use std::process::Command;
use std::sync::mpsc::channel;

use culvert_tests::curl::{Answer, Curl, Http};
use culvert_tests::issuer::{AGENT, CALLER, OTHER_CALLER, world};
use culvert_tests::process::{Process, program};
use culvert_tests::stack::caller_token;
use culvert_tests::upstream::Then;
use culvert_tests::wait::{eventually, until};
use culvert_tests::{Stack, Upstream, stack};
use serde_json::{Value, json};

/// A name that acme's endpoint declares, and one that nobody does.
const DECLARED: &str = "vcenter.sddc.local:443";
const UNDECLARED: &str = "nothing.sddc.local:443";

/// An agent and an endpoint of acme.
fn acme(upstream: &Upstream) -> Stack {
    Stack::options()
        .endpoint("vcenter", &upstream.url())
        .endpoint_settings(&format!(
            "mode = [\"http\", \"connect\"]\nconnect = [\"{DECLARED}\"]"
        ))
        .start()
}

/// A token of the caller of globex.
fn globex_caller() -> String {
    world().forge(|claims| {
        claims["tenant"] = json!("globex");
        claims["sub"] = json!(OTHER_CALLER);
    })
}

/// A second agent on the same relay: globex's, whose endpoint is called `vcenter` too.
fn globex_agent(stack: &Stack, upstream: &Upstream) -> Process {
    let token = world().forge(|claims| {
        claims["tenant"] = json!("globex");
        claims["sub"] = json!("agent-globex");
        claims["scope"] = json!("culvert:register");
        claims["culvert_endpoints"] = json!(["*"]);
    });
    culvert_demo::files::write_private(&stack.file("globex.token"), &token).unwrap();
    let policy = stack::POLICY.replace("caller-acme", OTHER_CALLER);
    std::fs::write(stack.file("globex-policy.toml"), policy).unwrap();
    let config = format!(
        r#"[relay]
url = "wss://localhost:{port}"
sessions = 1
ca = "{ca}"

[oauth]
grant = "token_file"
client_id = "agent-globex"
token_file = "globex.token"

[[endpoint]]
name = "vcenter"
upstream = "{upstream}"
ca = "{ca}"
mode = ["http", "connect"]
connect = ["{DECLARED}"]

[policy]
file = "globex-policy.toml"

[admin]
socket = "globex.sock"
"#,
        port = stack.public,
        ca = world().ca_file().display(),
        upstream = upstream.url(),
    );
    std::fs::write(stack.file("globex.toml"), config).unwrap();
    let mut command = Command::new(program("culvert-agent"));
    command
        .arg("run")
        .arg("--config")
        .arg(stack.file("globex.toml"));
    let folder = stack.file("globex.toml");
    let agent = Process::start("globex-agent", folder.parent().unwrap(), &mut command);
    until("globex's endpoint is reachable", || {
        let url = stack.url_of("globex", "vcenter", "/forbidden/probe");
        Curl::new(&url).token(&globex_caller()).run().code() == "policy-denied"
    });
    agent
}

/// Everything of an answer but what differs from call to call.
fn shown(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let call = answer.header("culvert-call").unwrap_or_default();
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| name != "culvert-call" && name != "date");
    let text = answer.text().replace(call, "CALL");
    (answer.status, headers, text)
}

/// What globex's caller gets for a request to each of two hosts, the one of which is acme's.
fn looks_the_same(what: &str, ask: impl Fn(&str) -> Answer, [there, not_there]: [&str; 2]) {
    let (found, nothing) = (ask(there), ask(not_there));
    assert_eq!(found.status, 404, "{what}: {found}");
    assert_eq!(shown(&found), shown(&nothing), "{what}");
}

#[test]
fn another_tenants_endpoint_looks_like_one_that_does_not_exist_whatever_its_state() {
    let upstream = Upstream::plain();
    let mut stack = acme(&upstream);
    let token = globex_caller();
    let look = |stack: &Stack, state: &str| {
        for http in Http::BOTH {
            for method in ["GET", "POST", "DELETE", "OPTIONS"] {
                let ask = |endpoint: &str| {
                    let url = stack.url_of("acme", endpoint, "/api?x=1");
                    let call = Curl::new(&url).token(&token).http(http).method(method);
                    call.header("Content-Type: text/plain").ok()
                };
                let what = format!("{method} while {state}");
                looks_the_same(&what, ask, ["vcenter", "nothing"]);
            }
        }
        let upgrade = |endpoint: &str| {
            let url = stack.url_of("acme", endpoint, "/ws");
            let call = Curl::new(&url).token(&token).http(Http::One);
            call.args(["-H", "Connection: Upgrade", "-H", "Upgrade: websocket"])
                .args(["-H", "Sec-WebSocket-Version: 13"])
                .header("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
                .ok()
        };
        looks_the_same(state, upgrade, ["vcenter", "nothing"]);
        let connect = |name: &str| {
            // curl's own view of a proxy's answer has no body: ask by hand.
            let mut raw = culvert_tests::raw::Raw::connect("localhost", stack.public);
            raw.send(format!(
                "CONNECT {name} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\
                 Proxy-Authorization: Bearer {token}\r\n\r\n"
            ));
            masked(&raw.receive(culvert_tests::wait::LONG).text())
        };
        let refused = connect(DECLARED);
        // 503 while the relay has just started: this tenant has no agent.
        let unknown = ["HTTP/1.1 404 ", "HTTP/1.1 503 "].map(|start| refused.starts_with(start));
        assert!(unknown.contains(&true), "{refused}");
        assert_eq!(refused, connect(UNDECLARED), "{state}");
    };
    look(&stack, "it serves");

    revoke(&stack, &["--tenant", "acme", "--endpoint", "vcenter"]);
    stack
        .call("/")
        .ok()
        .assert_refused(403, "forbidden", "relay");
    look(&stack, "it is revoked");

    stack.agent.kill();
    lift_all(&stack);
    until("acme's own caller hears that it is offline", || {
        stack.call("/").run().code() == "endpoint-offline"
    });
    look(&stack, "it is offline");
    assert_eq!(upstream.requests().len(), 0);
}

/// An answer as text without what differs from call to call.
fn masked(text: &str) -> String {
    let line = |line: &str| {
        let lower = line.to_ascii_lowercase();
        !lower.starts_with("culvert-call:") && !lower.starts_with("date:")
    };
    let call = text
        .lines()
        .find_map(|line| line.strip_prefix("culvert-call: "))
        .unwrap_or_default();
    let lines = text.lines().filter(|text| line(text));
    let lines: Vec<_> = lines
        .map(|line| line.replace(call.trim(), "CALL"))
        .collect();
    lines.join("\n")
}

#[test]
fn the_same_name_is_each_tenants_own_endpoint_and_no_page_or_count_tells_of_the_other() {
    let ours = Upstream::start(|request, connection| {
        connection.read_body(request, |_| ())?;
        connection.answer("200 OK", b"acme's")
    });
    let theirs = Upstream::start(|request, connection| {
        connection.read_body(request, |_| ())?;
        connection.answer("200 OK", b"globex's")
    });
    let stack = acme(&ours);
    let globex = globex_caller();
    let pac = |token: &str| {
        let url = format!("https://localhost:{}/.culvert/proxy.pac", stack.public);
        Curl::new(&url).token(token).ok().text()
    };
    let before = pac(&globex);
    assert!(pac(caller_token()).contains("vcenter.sddc.local"));
    assert!(!before.contains("vcenter"), "{before}");

    // It may register a name that acme has: it is another one.
    let _agent = globex_agent(&stack, &theirs);
    for _ in 0..5 {
        assert_eq!(stack.call("/").ok().text(), "acme's");
        let url = stack.url_of("globex", "vcenter", "/");
        assert_eq!(Curl::new(&url).token(&globex).ok().text(), "globex's");
        Curl::new(&url)
            .token(caller_token())
            .ok()
            .assert_refused(404, "unknown-endpoint", "relay");
        let url = stack.url("/");
        Curl::new(&url)
            .token(&globex)
            .ok()
            .assert_refused(404, "unknown-endpoint", "relay");
    }
    // Counts are kept without names: nobody is counted into somebody else's view.
    let metrics = stack.admin("/metrics").text();
    for name in ["acme", "globex", "vcenter"] {
        assert!(!metrics.contains(name), "{name}: {metrics}");
    }
}

/// Only the name itself is the tenant, in a token; in a host, letter case means nothing.
#[test]
fn names_that_look_like_a_tenants_are_not_the_tenants() {
    let upstream = Upstream::plain();
    let stack = acme(&upstream);
    for tenant in [
        "Acme",
        "ACME",
        "acme ",
        " acme",
        "acme.",
        "acme\u{0}",
        "acme-",
        "a\u{441}me",
        "acm\u{e9}",
        "acme--globex",
        "acme/globex",
        "acme,globex",
        "*",
        "..",
    ] {
        let token = world().forge(|claims| claims["tenant"] = json!(tenant));
        let answer = Curl::new(&stack.url("/")).token(&token).ok();
        answer.assert_refused(401, "unauthenticated", "relay");
    }
    // Names of their own, and other tenants than acme.
    for tenant in ["acm", "acme2", "acme-eu", "a-cme", "xn--acme-9na"] {
        let token = world().forge(|claims| claims["tenant"] = json!(tenant));
        let answer = Curl::new(&stack.url("/")).token(&token).ok();
        let status = if tenant.contains("--") { 401 } else { 404 };
        assert_eq!(answer.status, status, "{tenant}: {answer}");
    }
    assert_eq!(upstream.requests().len(), 0);
    let shouted = |token: &str| {
        let host = format!("Host: VCenter--ACME.localhost:{}", stack.public);
        Curl::new(&stack.url("/"))
            .http(Http::One)
            .header(&host)
            .token(token)
            .ok()
    };
    assert_eq!(shouted(caller_token()).status, 200);
    shouted(&globex_caller()).assert_refused(404, "unknown-endpoint", "relay");
}

#[test]
fn a_tenant_that_uses_up_its_quota_costs_the_others_nothing() {
    let (hold, held) = channel::<()>();
    let held = std::sync::Mutex::new(held);
    let ours = Upstream::start(move |_, connection| {
        // Until the test is over.
        let _ = held.lock().unwrap().recv();
        connection.answer("200 OK", b"at last")
    });
    let theirs = Upstream::plain();
    let stack = Stack::options()
        .endpoint("vcenter", &ours.url())
        .relay("\n[[tenant]]\nname = \"acme\"\nmax_calls = 4\n")
        .start();
    let _agent = globex_agent(&stack, &theirs);
    let calls: Vec<_> = (0..4).map(|_| stack.call("/held").start()).collect();
    until("acme has as many calls as it may", || {
        ours.requests().len() == 4
    });

    let token = globex_caller();
    let url = stack.url_of("globex", "vcenter", "/");
    let mut errors = 0;
    for _ in 0..40 {
        let refused = stack.call("/more").run();
        refused.assert_refused(429, "quota-exceeded", "relay");
        assert!(refused.header("retry-after").is_some(), "{refused}");
        errors += usize::from(Curl::new(&url).token(&token).run().status != 200);
    }
    assert_eq!(errors, 0);
    assert_eq!(ours.requests().len(), 4);
    let status = stack.admin("/api/v1/status").json();
    let of = |name: &str| {
        let tenants = status["tenants"].as_array().unwrap();
        tenants
            .iter()
            .find(|tenant| tenant["tenant"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(
        (&of("acme")["calls"], &of("acme")["refused"]),
        (&json!(4), &json!(40))
    );
    assert_eq!(of("globex")["refused"], 0);

    drop(hold);
    for call in calls {
        assert_eq!(call.answer().status, 200);
    }
    until("there is room again", || {
        stack.call("/again").run().status == 200
    });
}

/// `culvert-relay revoke`, by its own command line.
fn revoke(stack: &Stack, what: &[&str]) -> String {
    let admin = format!("http://127.0.0.1:{}", stack.admin);
    let arguments = [&["revoke", "--admin", &admin], what].concat();
    let output = stack::run("culvert-relay", &arguments);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(' ').nth(1).unwrap().trim().to_owned()
}

fn lift_all(stack: &Stack) {
    let admin = format!("http://127.0.0.1:{}", stack.admin);
    let listed = stack.admin("/api/v1/revocations").json();
    for revocation in listed["revocations"].as_array().unwrap() {
        let id = revocation["id"].as_str().unwrap();
        let output = stack::run("culvert-relay", &["lift", "--admin", &admin, id]);
        assert!(output.status.success(), "{output:?}");
    }
    let output = stack::run("culvert-relay", &["revocations", "--admin", &admin]);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "nothing is revoked\n"
    );
}

#[test]
fn a_revoked_callers_calls_end_in_the_middle_and_come_back_when_it_is_lifted() {
    let upstream = Upstream::start(|request, connection| {
        if request.target() == "/whole" {
            return connection.answer("200 OK", b"whole");
        }
        if request.target() == "/endless" {
            connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            connection.send_chunk(b"first")?;
        }
        connection.closed_within(culvert_tests::wait::LONG);
        Ok(Then::Close)
    });
    let stack = acme(&upstream);
    for http in Http::BOTH {
        let waiting = stack.call("/waiting").http(http).start();
        let mut endless = stack.call("/endless").http(http).start();
        assert_eq!(endless.head().status, 200);
        assert_eq!(endless.body(5), b"first");
        let before = upstream.requests().len();
        until("both are at the upstream", || {
            let targets = upstream.requests();
            targets
                .iter()
                .rev()
                .take(2)
                .any(|request| request.target() == "/waiting")
                || before == 0
        });
        let id = revoke(&stack, &["--subject", CALLER, "--reason", "laptop stolen"]);
        let refused = waiting.answer();
        refused.assert_refused(403, "forbidden", "relay");
        assert!(
            !refused.text().contains("laptop"),
            "the reason is not the caller's to know"
        );
        assert_ne!(
            endless.finish().exit,
            Some(0),
            "an answer cut short looks cut short"
        );
        stack
            .call("/whole")
            .http(http)
            .ok()
            .assert_refused(403, "forbidden", "relay");
        until("the relay's log says why", || {
            let why = format!("revocation {id}: laptop stolen");
            stack.relay.log().contains(&why)
        });
        lift_all(&stack);
        assert_eq!(stack.call("/whole").http(http).ok().text(), "whole");
    }
}

#[test]
fn a_revoked_agent_is_told_why_and_does_not_hammer_the_relay() {
    let mut stack = acme(&Upstream::plain());
    revoke(
        &stack,
        &[
            "--subject",
            AGENT,
            "--tenant",
            "acme",
            "--reason",
            "key lost",
        ],
    );
    until("the agent hears why, twice", || {
        let log = stack.agent.log();
        // By GOAWAY, and when it dials again.
        log.matches("revoked the access: key lost").count() >= 2
    });
    stack
        .call("/")
        .ok()
        .assert_refused(503, "endpoint-offline", "relay");
    let waits = |log: &str| -> Option<f32> {
        let line = log.lines().rev().find(|line| line.contains("403"))?;
        let number = line.split("retry_s=").nth(1)?;
        number
            .split(' ')
            .next()?
            .trim_matches(|c: char| c == '\u{1b}')
            .parse()
            .ok()
    };
    let wait = eventually("it says how long it stays away", || {
        waits(&strip(&stack.agent.log()))
    });
    assert!(wait >= 30.0, "{wait}");
    let status: Value = stack.status();
    assert_eq!(
        status["sessions"].as_array().map(Vec::len),
        Some(0),
        "{status}"
    );
    // Another process of the same agent is no other agent.
    lift_all(&stack);
    stack.agent.kill();
    stack.restart_agent();
    stack.await_endpoint("vcenter");
}

/// Text without the colours of a terminal.
fn strip(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut escape = false;
    for c in text.chars() {
        match c {
            '\u{1b}' => escape = true,
            'm' if escape => escape = false,
            _ if escape => {}
            c => plain.push(c),
        }
    }
    plain
}
