//! Consoles: WebSockets through the tunnel, over HTTP/1.1 and HTTP/2, with real peers.

use std::time::{Duration, Instant};

use culvert_tests::Stack;
use culvert_tests::curl::Http;
use culvert_tests::issuer::world;
use culvert_tests::peers::{Caller, Server};
use culvert_tests::stack::{POLICY, caller_token};
use culvert_tests::wait::until;

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
