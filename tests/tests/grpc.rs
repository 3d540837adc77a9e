//! gRPC through the tunnel: HTTP/2 at both ends, every kind of call, with real peers.

use culvert_tests::Stack;
use culvert_tests::issuer::world;
use culvert_tests::peers::{Caller, Server};
use culvert_tests::stack::caller_token;
use serde_json::json;

const POLICY_WITHOUT_ECHO: &str = r#"
version = 1

[[rule]]
id = "everything-else"
action = "allow"
path = ["/api/**"]
"#;

/// A conversation, and silence in it, is no caller that stalls.
#[test]
fn a_caller_may_pause_in_the_midst_of_a_call_that_is_answered() {
    let server = Server::start("grpc.mjs");
    let stack = Stack::options()
        .endpoint("vcenter", &server.url())
        .relay("[limits]\nstall = \"1s\"")
        .start();
    let ca = world().ca_file();
    let address = format!("127.0.0.1:{}", stack.public);
    let name = "vcenter--acme.localhost";
    let arguments = [
        &*address,
        name,
        ca.to_str().unwrap(),
        caller_token(),
        "pause",
    ];
    let results = Caller::start("grpc.mjs", &arguments).result();
    assert_eq!(results, json!({ "pause": ["A", "B", "B"] }));
}

/// Its clients show neither the body nor the headers of an answer that is none of gRPC's.
#[test]
fn a_refused_call_says_why_in_grpcs_own_words() {
    let server = Server::start("grpc.mjs");
    let stack = Stack::options()
        .endpoint("vcenter", &server.url())
        .policy(POLICY_WITHOUT_ECHO)
        .start();
    let ca = world().ca_file();
    let address = format!("127.0.0.1:{}", stack.public);
    let of_token = |token: &str| {
        let name = "vcenter--acme.localhost";
        let arguments = [&*address, name, ca.to_str().unwrap(), token, "refused"];
        let results = Caller::start("grpc.mjs", &arguments).result();
        let results = results["refused"].as_array().unwrap().clone();
        results.into_iter().map(|result| {
            let details = result["details"].as_str().unwrap().to_owned();
            (result["code"].as_u64().unwrap(), details)
        })
    };
    for (code, details) in of_token(caller_token()) {
        assert_eq!(code, 7, "{details}");
        let text = "The policy of the data centre denied the call: ";
        assert!(details.starts_with(text), "{details}");
        assert!(details.contains(" [policy-denied, call "), "{details}");
    }
    for (code, details) in of_token("nonsense") {
        assert_eq!(code, 16, "{details}");
        assert!(details.contains(" [unauthenticated, call "), "{details}");
    }
}

#[test]
fn every_kind_of_call_passes_with_its_status_and_its_cancellation() {
    let server = Server::start("grpc.mjs");
    let stack = Stack::start(&server.url());
    let ca = world().ca_file();
    let address = format!("127.0.0.1:{}", stack.public);
    let name = "vcenter--acme.localhost";
    let arguments = [&*address, name, ca.to_str().unwrap(), caller_token()];
    let results = Caller::start("grpc.mjs", &arguments).result();
    assert_eq!(
        results,
        json!({
            "unary": "hello",
            "collect": "abc",
            "split": ["x", "y", "z"],
            "chat": ["A", "B", "B"],
            // An answer that is trailers alone.
            "fail": { "code": 5, "details": "no such thing", "why": "because" },
            // What the caller cancels says so to the caller ...
            "wait": { "code": 1 },
        })
    );
    // ... and to the server.
    assert_eq!(server.event(), "waiting");
    assert_eq!(server.event(), "cancelled");
}
