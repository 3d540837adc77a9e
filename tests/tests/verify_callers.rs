//! Agents that verify callers themselves, tokens that are bound to a key, and streams that end
//! with their caller's token.

use std::time::{Duration, Instant};

use culvert_demo::tokens;
use culvert_tests::certificates::ClientAuthority;
use culvert_tests::issuer::{CALLER, OTHER_CALLER, world};
use culvert_tests::proof::ProofKey;
use culvert_tests::stack::caller_token;
use culvert_tests::upstream::Then;
use culvert_tests::wait::{LONG, until};
use culvert_tests::way::Way;
use culvert_tests::{Curl, Http, Nginx, Stack, StackOptions, Upstream};
use serde_json::json;

const NAME: &str = "vcenter.sddc.local:443";

/// `[verify_callers]` with the tests' issuer, discovered.
fn verifying(options: StackOptions) -> StackOptions {
    let (issuer, ca) = (&world().issuer, world().ca_file());
    options.agent(&format!(
        "[verify_callers]\nissuer = \"{issuer}\"\naudience = \"culvert\"\nca = {ca:?}\n"
    ))
}

fn options(upstream: &str) -> StackOptions {
    Stack::options()
        .endpoint("vcenter", upstream)
        .endpoint_settings("mode = [\"http\", \"connect\"]\nconnect = [\"vcenter.sddc.local:443\"]")
        .policy(POLICY)
}

const POLICY: &str = r#"
version = 1

[[rule]]
id = "acme"
action = "allow"
caller = ["caller-acme"]

[[rule]]
id = "nothing-forbidden"
action = "deny"
path = ["/forbidden/**"]
"#;

fn through(stack: &Stack, header: &str) -> Curl {
    Curl::through(stack.public, &format!("https://{NAME}/api/vm"))
        .arg("--insecure")
        .args(["--proxy-header", header])
}

/// With a relay in good order everything works as before, in every mode; the agent finds its
/// tenant in its own token and the issuer's keys by discovery.
#[test]
fn callers_of_an_agent_that_verifies_them_notice_nothing() {
    let nginx = Nginx::start();
    let stack = verifying(options(&nginx.url())).start();
    for http in Http::BOTH {
        let answer = stack.call("/api/vm").http(http).ok();
        assert_eq!(answer.status, 200, "{answer}");
    }
    let header = format!("Proxy-Authorization: Bearer {}", caller_token());
    let answer = through(&stack, &header).ok();
    assert_eq!(answer.status, 200, "{answer}");
    let other = Curl::new(&stack.url("/api/vm")).token(&world().token(OTHER_CALLER));
    other.ok().assert_refused(404, "unknown-endpoint", "relay");
    for log in [stack.relay.log(), stack.agent.log()] {
        assert!(!log.contains("eyJ"), "a token in a log: {log}");
    }
}

#[test]
fn a_caller_by_certificate_cannot_be_verified_and_is_told_so() {
    let upstream = Upstream::plain();
    let authority = ClientAuthority::generate();
    let stack = verifying(options(&upstream.url()))
        .tls(&format!("client_ca = {:?}", authority.file()))
        .relay("[[caller]]\nsan = \"caller-acme\"\ntenant = \"acme\"\n")
        .start();
    let seen = upstream.requests().len();
    let answer = Curl::new(&stack.url("/api/vm")).certificate(&authority.issue(&["caller-acme"]));
    let answer = answer.ok();
    answer.assert_refused(403, "caller-unverified", "agent");
    assert!(answer.text().contains("client certificate"), "{answer}");
    assert_eq!(upstream.requests().len(), seen);
    let metrics = stack.ask_agent("/metrics").text();
    let count = "culvert_agent_callers_unverified_total{reason=\"certificate\"} 1";
    assert!(metrics.contains(count), "{metrics}");
}

/// Keys that the agent has in a file, and another tenant than the token's: the relay takes the
/// caller, the agent does not.
#[test]
fn what_the_agent_is_told_of_issuer_and_tenant_counts_and_not_what_the_relay_believes() {
    let upstream = Upstream::plain();
    let keys = tempfile::NamedTempFile::new().unwrap();
    let set = json!({ "keys": [world().key.public_jwk()] });
    std::fs::write(keys.path(), set.to_string()).unwrap();
    let with = |tenant: &str, audience: &str| {
        options(&upstream.url())
            .agent(&format!(
                "[verify_callers]\ntenant = \"{tenant}\"\nissuer = \"{}\"\n\
                 audience = \"{audience}\"\njwks = \"file:{}\"\n",
                world().issuer,
                keys.path().display()
            ))
            .without_waiting()
            .start()
    };
    for (tenant, audience, status) in [
        ("acme", "culvert", 200),
        ("globex", "culvert", 403),
        ("acme", "other", 403),
    ] {
        let stack = with(tenant, audience);
        let answer = culvert_tests::wait::eventually("the endpoint is there", || {
            let answer = stack.call("/api/vm").ok();
            (!matches!(answer.status, 404 | 503)).then_some(answer)
        });
        assert_eq!(answer.status, status, "{tenant} {audience}: {answer}");
        if status == 403 {
            answer.assert_refused(403, "caller-unverified", "agent");
            until("the audit log has a security event", || {
                let log = stack.agent.log();
                log.contains("\"security\":\"caller-unverified\"")
            });
        }
    }
}

/// A token that the certified OAuth server has bound to the caller's key: good with a proof for
/// this request, once, at relay and agent; nothing without.
#[test]
fn a_bound_token_needs_a_proof_for_each_request_in_every_mode() {
    let nginx = Nginx::start();
    let stack = verifying(options(&nginx.url())).start();
    let key = ProofKey::generate();
    let token = world().bound_token(CALLER, &key);
    let url = stack.url("/api/vm");
    let call = |proof: &str| {
        Curl::new(&format!("{url}?x=1"))
            .header(&format!("Culvert-Authorization: DPoP {token}"))
            .header(&format!("Culvert-DPoP: {proof}"))
            .header("DPoP: of-the-upstream")
    };
    for http in Http::BOTH {
        let proof = key.prove("GET", &url, Some(&token));
        let answer = call(&proof).http(http).ok();
        assert_eq!(answer.status, 200, "{answer}");
        let again = call(&proof).http(http).ok();
        again.assert_refused(401, "unauthenticated", "relay");
        let challenge = again.header("www-authenticate").unwrap_or_default();
        assert!(challenge.contains("invalid_dpop_proof"), "{again}");
    }
    let refused = |curl: Curl| curl.ok().assert_refused(401, "unauthenticated", "relay");
    refused(Curl::new(&url).token(&token));
    refused(Curl::new(&url).header(&format!("Culvert-Authorization: DPoP {token}")));
    refused(call(&key.prove("POST", &url, Some(&token))));
    refused(call(&key.prove(
        "GET",
        &stack.url("/api/other"),
        Some(&token),
    )));
    refused(call(&key.prove("GET", &url, Some(caller_token()))));
    refused(call(&ProofKey::generate().prove("GET", &url, Some(&token))));

    for address in [NAME, "https://vcenter.sddc.local/"] {
        let proof = key.prove("CONNECT", address, Some(&token));
        let curl = through(&stack, &format!("Proxy-Authorization: DPoP {token}"))
            .args(["--proxy-header", &format!("DPoP: {proof}")]);
        let answer = curl.ok();
        assert_eq!(answer.status, 200, "{address}: {answer}");
    }
    let without = through(&stack, &format!("Proxy-Authorization: Bearer {token}")).run();
    assert!(without.errors.contains("407"), "{without}");
}

/// A token that was void for 9 s is still taken, for clocks differ; what it has opened ends when
/// the grace is over, in host mode and in proxy mode.
#[test]
fn streams_end_with_their_callers_token_in_every_mode() {
    let upstream = Upstream::start(|request, connection| {
        if request.target().starts_with("/stream") {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello")?;
            connection.closed_within(LONG);
            return Ok(Then::Close);
        }
        connection.answer("200 OK", b"hello")
    });
    let stack = options(&upstream.url()).start();
    let token = world().forge(|claims| claims["exp"] = json!(tokens::now() - 9));
    let began = Instant::now();
    let mut streaming = Curl::new(&stack.url("/stream")).token(&token).start();
    assert_eq!(streaming.head().status, 200);
    assert_eq!(streaming.body(5), b"hello");
    let credential = format!("Proxy-Authorization: Bearer {token}\r\n");
    let mut way = Way::open(stack.public, NAME, &credential);
    assert_eq!(way.status(), 200, "{}", way.head);
    way.handshake("localhost")
        .expect_err("the name is not the endpoint's");
    let mut way = Way::open(stack.public, NAME, &credential);
    assert_eq!(way.status(), 200, "{}", way.head);
    way.write(&hello_to("vcenter.sddc.local"));
    let cut = streaming.finish();
    assert!(cut.exit != Some(0), "it looks as if it were whole: {cut}");
    let (_, ending) = way.read_to_end();
    assert_ne!(ending, culvert_tests::way::Ending::Clean);
    assert!(began.elapsed() < Duration::from_secs(30));
    until("the audit log says of both what ended them", || {
        stack.agent.log().matches("credential-expired").count() == 2
    });
}

/// The first bytes of TLS with this server.
fn hello_to(server: &str) -> Vec<u8> {
    let config = culvert_demo::certs::client_config(world().authority.pem(), &[]).unwrap();
    let name = server.to_owned().try_into().unwrap();
    let mut tls = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    hello
}
