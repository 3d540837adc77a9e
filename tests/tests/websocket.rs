//! Consoles: WebSockets through the tunnel, over HTTP/1.1 and HTTP/2, with real peers.

use std::time::{Duration, Instant};

use culvert_tests::curl::Http;
use culvert_tests::issuer::world;
use culvert_tests::peers::{Caller, Server};
use culvert_tests::raw::Raw;
use culvert_tests::stack::{DOMAIN, POLICY, caller_token};
use culvert_tests::upstream::Then;
use culvert_tests::wait::until;
use culvert_tests::{Stack, Upstream};

const CONSOLE: &str = r#"
[[rule]]
id = "consoles"
action = "allow"
path = ["/ticket/**"]
upgrade = ["websocket"]
"#;

fn start(server: &Server) -> Stack {
    Stack::options()
        .endpoint("vcenter", &server.url())
        .policy(&format!("{POLICY}{CONSOLE}"))
        .start()
}

/// A caller that opens a console and says `words` there.
fn call(stack: &Stack, http: Http, path: &str, words: &str) -> Caller {
    let ca = world().ca_file();
    let version = if http == Http::Two { "2" } else { "1" };
    let url = stack.url(path);
    let arguments = [version, &url, ca.to_str().unwrap(), caller_token(), words];
    Caller::start("websocket.mjs", &arguments)
}

#[test]
fn a_console_keeps_its_subprotocol_its_bytes_and_its_close_code() {
    let server = Server::start("websocket.mjs");
    let stack = start(&server);
    for http in Http::BOTH {
        let result = call(&stack, http, "/ticket/1", "close 4321 bye bye").result();
        assert_eq!(result["protocol"], "binary", "{http:?}: {result}");
        assert_eq!(result["same"], true, "{http:?}: {result}");
        assert_eq!(result["code"], 4321, "{http:?}: {result}");
        assert_eq!(result["reason"], "bye bye", "{http:?}: {result}");
        assert_eq!(server.event(), "opened /ticket/1");
        assert_eq!(server.event(), "closed 4321");
    }
    until("the audit log says what both asked for", || {
        let log = stack.agent.log();
        log.matches(r#""upgrade":"websocket""#).count() == Http::BOTH.len()
    });
}

#[test]
fn a_console_takes_a_rule_that_allows_upgrades() {
    let server = Server::start("websocket.mjs");
    let stack = start(&server);
    for http in Http::BOTH {
        // Allowed, but not to leave HTTP.
        let result = call(&stack, http, "/api/1", "close 1000").result();
        assert_eq!(result["status"], 403, "{http:?}: {result}");
    }
    assert!(server.is_untouched());
}

#[test]
fn a_console_that_breaks_off_is_no_clean_end() {
    let server = Server::start("websocket.mjs");
    let stack = start(&server);
    for http in Http::BOTH {
        let result = call(&stack, http, "/ticket/1", "kill").result();
        assert_eq!(result["same"], true, "{http:?}: {result}");
        assert_eq!(result["code"], 1006, "{http:?}: {result}");
    }
}

/// Programs that exit say no goodbye, in TLS or otherwise. What they said before is the caller's.
#[test]
fn what_a_console_said_before_it_broke_off_arrives() {
    const SAID: usize = 100_000;
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                            Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n";
    let upstream = Upstream::start(move |_, connection| {
        connection.send(switched)?;
        connection.send(vec![7; SAID])?;
        Ok(Then::Close)
    });
    let stack = Stack::options()
        .endpoint("vcenter", &upstream.url())
        .policy(&format!("{POLICY}{CONSOLE}"))
        .start();
    let host = format!("vcenter--acme.{DOMAIN}");
    for _ in 0..10 {
        let mut caller = Raw::connect(&host, stack.public);
        caller.send(format!(
            "GET /ticket/1 HTTP/1.1\r\nHost: {host}\r\nCulvert-Authorization: Bearer {}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            caller_token()
        ));
        let received = caller.receive(Duration::from_secs(30));
        let head = received.bytes.windows(4).position(|end| end == b"\r\n\r\n");
        let said = received.bytes.len() - head.expect("an answer's head") - 4;
        assert_eq!(said, SAID, "{}", &received.text()[..200]);
        assert!(received.closed);
    }
}

#[test]
fn a_caller_that_goes_closes_the_upstream() {
    let server = Server::start("websocket.mjs");
    let stack = start(&server);
    for http in Http::BOTH {
        let mut caller = call(&stack, http, "/ticket/1", "stay");
        assert_eq!(caller.line(), "open");
        assert_eq!(server.event(), "opened /ticket/1");
        caller.kill();
        assert_eq!(server.event(), "closed 1006", "{http:?}");
    }
}

/// Calls that go on are waited for, and given up when the time for it is over.
#[test]
fn a_relay_that_drains_gives_a_console_its_time() {
    let server = Server::start("websocket.mjs");
    let mut stack = Stack::options()
        .endpoint("vcenter", &server.url())
        .policy(&format!("{POLICY}{CONSOLE}"))
        .relay("[limits]\ndrain = \"3s\"\n")
        .start();
    let mut callers = Http::BOTH.map(|http| call(&stack, http, "/ticket/1", "stay"));
    for caller in &mut callers {
        assert_eq!(caller.line(), "open");
        assert_eq!(server.event(), "opened /ticket/1");
    }
    let begun = Instant::now();
    stack.relay.terminate();
    for caller in callers {
        let result = caller.result();
        assert_eq!(result["code"], 1006, "{result}");
    }
    assert!(
        begun.elapsed() >= Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(stack.relay.wait().code(), Some(0));
}
