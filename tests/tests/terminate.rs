//! Mode `terminate`: callers CONNECT to the upstream's real name, the agent ends their TLS and decides
//! on every call inside; the relay sees ciphertext.

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Instant;

use culvert_demo::certs::Authority;
use culvert_demo::tokens;
use culvert_tests::curl::Http;
use culvert_tests::issuer::world;
use culvert_tests::peers::{Caller, Server};
use culvert_tests::stack::caller_token;
use culvert_tests::upstream::Then;
use culvert_tests::wait::{LONG, eventually, until};
use culvert_tests::way::Way;
use culvert_tests::{Curl, Nginx, Stack, Upstream};
use serde_json::{Value, json};
use tempfile::TempDir;

const NAME: &str = "vcenter.sddc.local:443";
const URL: &str = "https://vcenter.sddc.local";

const POLICY: &str = r#"
version = 1

[[rule]]
id = "everything-inside"
action = "allow"
mode = ["terminate"]
host = ["vcenter.sddc.local"]
path = ["/api/**"]
caller = ["caller-acme"]

[[rule]]
id = "one-operation"
action = "allow"
mode = ["terminate"]
path = ["/sdk"]
soap_op = ["CurrentTime"]

[[rule]]
id = "consoles"
action = "allow"
mode = ["terminate"]
path = ["/ticket/**"]
upgrade = ["websocket"]

[[rule]]
id = "nothing-forbidden"
action = "deny"
path = ["/forbidden/**", "/api/secret/**"]
"#;

/// A CA of the data centre, which the agent was given, and a stack whose agent issues by it.
struct Terminating {
    stack: Stack,
    folder: TempDir,
}

impl Terminating {
    fn start(upstream: &str) -> Self {
        Self::start_with(upstream, "")
    }

    /// The same with further tables of `agent.toml`.
    fn start_with(upstream: &str, agent: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Authority::load_or_generate(folder.path()).unwrap();
        let terminate = format!(
            "{{ ca_certificate = \"{0}/ca.pem\", ca_private_key = \"{0}/ca.key\" }}",
            folder.path().display()
        );
        let stack = stack(upstream, &terminate, agent);
        Self { stack, folder }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A call through the proxy by somebody who trusts the data centre's CA.
    fn call(&self, path: &str) -> Curl {
        call(&self.stack, path, &self.ca())
    }
}

fn stack(upstream: &str, terminate: &str, agent: &str) -> Stack {
    Stack::options()
        .endpoint("vcenter", upstream)
        .endpoint_settings(&format!(
            "mode = [\"http\", \"terminate\"]\nconnect = [\"{NAME}\"]\nterminate = {terminate}"
        ))
        .policy(POLICY)
        .agent(&format!("\n[audit]\nfile = \"audit.log\"\n{agent}"))
        .start()
}

fn call(stack: &Stack, path: &str, ca: &Path) -> Curl {
    call_as(caller_token(), stack, path, ca)
}

fn call_as(token: &str, stack: &Stack, path: &str, ca: &Path) -> Curl {
    Curl::through(stack.public, &format!("{URL}{path}")).args([
        "--proxy-header",
        &format!("Proxy-Authorization: Bearer {token}"),
        "--cacert",
        ca.to_str().unwrap(),
    ])
}

/// The audit line of a call, once it is there.
fn line_of(stack: &Stack, call: &str) -> Value {
    eventually("the call has a line", || {
        let text = std::fs::read_to_string(stack.file("audit.log")).unwrap_or_default();
        let mut lines = text
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok());
        lines.find(|line| line["call"] == call)
    })
}

#[test]
fn each_call_inside_is_decided_on_and_recorded_and_the_relay_sees_none_of_it() {
    let nginx = Nginx::start();
    let it = Terminating::start(&nginx.url());
    for http in Http::BOTH {
        let allowed = it.call("/api/vm?x=1").http(http).ok();
        assert_eq!(allowed.status, 200, "{http:?}: {allowed}");
        let json = allowed.json();
        assert_eq!(json["host"], "vcenter.sddc.local", "{allowed}");
        assert_eq!(json["target"], "/api/vm?x=1", "{allowed}");
        let line = line_of(&it.stack, &allowed.call());
        for (field, value) in [
            ("mode", "terminate"),
            ("method", "GET"),
            ("target", "/api/vm?x=1"),
            ("decision", "allow"),
            ("rule", "everything-inside"),
            ("outcome", "answered"),
            ("caller", "caller-acme"),
            ("source", "127.0.0.1"),
        ] {
            assert_eq!(line[field], value, "{field} of {line}");
        }
        let connect = line_of(&it.stack, line["within"].as_str().unwrap());
        assert_eq!(connect["method"], "CONNECT", "{connect}");
        assert_eq!(connect["target"], NAME, "{connect}");

        let denied = it.call("/api/secret/1").http(http).ok();
        denied.assert_refused(403, "policy-denied", "agent");
        let line = line_of(&it.stack, &denied.call());
        assert_eq!(line["rule"], "nothing-forbidden", "{line}");
    }
    let served = nginx.access_log();
    assert_eq!(served.lines().count(), 2, "{served}");
    let ours = |line: &&str| line.contains("mode=\"terminate\"") && line.contains(NAME);
    until("there is an access line for each connection", || {
        it.stack.relay.log().lines().filter(ours).count() == 4
    });
    let log = it.stack.relay.log();
    assert!(!log.contains("/api/"), "{log}");
    assert!(!log.contains("everything-inside"), "{log}");
}

/// curl names no other version then, where TLS asks for one.
#[test]
fn callers_that_speak_http_1_0_alone_may_say_so() {
    let nginx = Nginx::start();
    let it = Terminating::start(&nginx.url());
    let inside = it.call("/api/vm").arg("--http1.0").ok();
    assert_eq!(inside.status, 200, "{inside}");
    // What comes through the relay's own TLS is not what the policy allows.
    let outside = it.stack.call("/api/vm").arg("--http1.0").ok();
    outside.assert_refused(403, "policy-denied", "agent");
}

/// The agent has said all then long before the caller has it.
#[test]
fn an_answer_that_ends_its_connection_is_whole_for_a_caller_that_takes_it_late() {
    const LENGTH: usize = 8 * 1024 * 1024;
    /// What the tunnel and the sockets on the way hold.
    const LATE: usize = 384 * 1024;
    let large: Vec<u8> = (0..LENGTH).map(|at| (at ^ (at >> 8)) as u8).collect();
    let sent = large.clone();
    let upstream = Upstream::start(move |_, connection| connection.answer("200 OK", &sent));
    let it = Terminating::start(&upstream.url());
    let caller = it.call("/api/large").http(Http::One);
    let mut caller = caller.header("Connection: close").start();
    let head = caller.head();
    assert_eq!(head.status, 200, "{head}");
    let mut taken = caller.body(LENGTH - LATE);
    let line = line_of(&it.stack, &head.call());
    line_of(&it.stack, line["within"].as_str().unwrap());
    let end = caller.finish();
    assert_eq!(end.exit, Some(0), "{end}");
    taken.extend_from_slice(&end.body);
    assert!(taken == large, "{} of {LENGTH} bytes", taken.len());
    until("the relay says that it ended well", || {
        let log = it.stack.relay.log();
        let mut lines = log.lines().filter(|line| line.contains(NAME));
        lines.any(|line| line.contains("outcome=\"answered\""))
    });
}

/// It waits at the agent, for the tunnel.
#[test]
fn what_an_upstream_said_before_it_broke_off_arrives() {
    const CAME: usize = 16_000_000;
    let upstream = Upstream::breaking_off(CAME);
    let it = Terminating::start(&upstream.url());
    for http in Http::BOTH {
        let call = it.call("/api/large").http(http);
        let answer = call.args(["--limit-rate", "4M"]).run();
        assert_eq!(answer.status, 200, "{answer}");
        assert_eq!(answer.body.len(), CAME, "{http:?}");
        assert_ne!(answer.exit, Some(0), "it was not all");
    }
}

#[test]
fn a_denied_soap_call_shows_a_fault_to_its_client() {
    let upstream = Upstream::plain();
    let it = Terminating::start(&upstream.url());
    let soap = |operation: &str| {
        let body = format!(
            "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\">\
             <soapenv:Body><{operation} xmlns=\"urn:vim25\"/></soapenv:Body></soapenv:Envelope>"
        );
        let curl = it.call("/sdk").header("Content-Type: text/xml");
        curl.args(["--data", &body]).ok()
    };
    let denied = soap("Destroy_Task");
    assert_eq!(denied.status, 500, "{denied}");
    assert!(denied.text().contains("NoPermission"), "{denied}");
    assert!(upstream.requests().is_empty());
    assert_eq!(soap("CurrentTime").status, 200);
}

/// Leaves are for declared names, and for whoever trusts their CA.
#[test]
fn the_certificate_is_for_the_real_name_and_another_name_gets_none() {
    let nginx = Nginx::start();
    let it = Terminating::start(&nginx.url());
    let certificates = it
        .call("/api/vm")
        .args(["--write-out", "%{certs}"])
        .report();
    assert!(
        certificates.contains("DNS:vcenter.sddc.local"),
        "{certificates}"
    );
    let bearer = format!("Proxy-Authorization: Bearer {}\r\n", caller_token());
    // Who trusts another CA notices. The name of this one is the same.
    let mut way = Way::open(it.stack.public, NAME, &bearer);
    let error = way.handshake("vcenter.sddc.local").unwrap_err();
    assert!(error.contains("BadSignature"), "{error}");
    let mut way = Way::open(it.stack.public, NAME, &bearer);
    let error = way.handshake("nsx.sddc.local").unwrap_err();
    assert!(error.to_lowercase().contains("unrecogni"), "{error}");
    until("the audit log says why", || {
        let text = std::fs::read_to_string(it.stack.file("audit.log")).unwrap_or_default();
        text.contains("sni: the ClientHello names nsx.sddc.local")
    });
}

#[test]
fn a_request_with_two_lengths_is_refused_inside() {
    let upstream = Upstream::plain();
    let it = Terminating::start(&upstream.url());
    let answer = it
        .call("/api/x")
        .http(Http::One)
        .header("Content-Length: 4")
        .header("Transfer-Encoding: chunked")
        .args(["--data", "smug"])
        .run();
    assert_eq!(answer.status, 400, "{answer}");
    assert_eq!(answer.json()["layer"], "agent", "{answer}");
    assert_eq!(line_of(&it.stack, &answer.call())["code"], "bad-request");
    assert!(upstream.requests().is_empty());
}

#[test]
fn a_caller_that_goes_closes_the_upstream() {
    let (sender, closed) = channel();
    let upstream = Upstream::start(move |_, connection| {
        let _ = sender.send(connection.closed_within(LONG));
        Ok(Then::Close)
    });
    let it = Terminating::start(&upstream.url());
    for http in Http::BOTH {
        let before = upstream.requests().len();
        let caller = it.call("/api/wait").http(http).start();
        until("the call has arrived", || {
            upstream.requests().len() > before
        });
        caller.kill();
        assert!(closed.recv_timeout(LONG).unwrap(), "{http:?}");
    }
}

#[test]
fn consoles_open_inside() {
    let server = Server::start("websocket.mjs");
    let it = Terminating::start(&server.url());
    let proxy = format!("https://localhost:{}", it.stack.public);
    let (ca, proxy_ca) = (it.ca(), world().ca_file());
    for (version, http) in [("1", Http::One), ("2", Http::Two)] {
        let call = |path: &str, words: &str| {
            let url = format!("{URL}{path}");
            let arguments = [
                version,
                &url,
                ca.to_str().unwrap(),
                caller_token(),
                words,
                &proxy,
                proxy_ca.to_str().unwrap(),
            ];
            Caller::start("websocket.mjs", &arguments)
        };
        let result = call("/ticket/1", "close 4321 bye bye").result();
        assert_eq!(result["protocol"], "binary", "{http:?}: {result}");
        assert_eq!(result["same"], true, "{http:?}: {result}");
        assert_eq!(result["code"], 4321, "{http:?}: {result}");
        assert_eq!(server.event(), "opened /ticket/1");
        assert_eq!(server.event(), "closed 4321");
        let result = call("/ticket/1", "kill").result();
        assert_eq!(result["code"], 1006, "{http:?}: {result}");
        assert_eq!(server.event(), "opened /ticket/1");
        assert_eq!(server.event(), "closed 1006");
        let mut staying = call("/ticket/1", "stay");
        assert_eq!(staying.line(), "open");
        assert_eq!(server.event(), "opened /ticket/1");
        staying.kill();
        assert_eq!(server.event(), "closed 1006", "{http:?}");
        let result = call("/api/1", "close 1000").result();
        assert_eq!(result["status"], 403, "{http:?}: {result}");
    }
    assert!(server.is_untouched());
}

/// A certificate of one's own, renewed while the agent runs.
#[test]
fn a_renewed_certificate_is_shown_without_a_restart() {
    let nginx = Nginx::start();
    let folder = tempfile::tempdir().unwrap();
    let issue = |authority: &Authority| {
        let leaf = authority.issue(&["vcenter.sddc.local"]).unwrap();
        leaf.write(folder.path(), "vc").unwrap();
    };
    issue(&world().authority);
    let terminate = format!(
        "{{ certificate = \"{0}/vc.pem\", private_key = \"{0}/vc.key\" }}",
        folder.path().display()
    );
    let stack = stack(&nginx.url(), &terminate, "");
    assert_eq!(call(&stack, "/api/1", &world().ca_file()).ok().status, 200);
    let other = tempfile::tempdir().unwrap();
    let (authority, _) = Authority::load_or_generate(other.path()).unwrap();
    issue(&authority);
    let ca = other.path().join("ca.pem");
    until("the new certificate is shown", || {
        call(&stack, "/api/1", &ca).run().status == 200
    });
}

/// The agent looks at the token that came with the CONNECT itself; each call inside is that caller's.
#[test]
fn an_agent_that_verifies_callers_itself_knows_who_calls_inside() {
    let nginx = Nginx::start();
    let (issuer, ca) = (&world().issuer, world().ca_file());
    let verifying = |audience: &str| {
        format!(
            "\n[verify_callers]\nissuer = \"{issuer}\"\naudience = \"{audience}\"\nca = {ca:?}\n"
        )
    };
    let it = Terminating::start_with(&nginx.url(), &verifying("culvert"));
    for http in Http::BOTH {
        let answer = it.call("/api/vm").http(http).ok();
        assert_eq!(answer.status, 200, "{answer}");
        let line = line_of(&it.stack, &answer.call());
        assert_eq!(line["caller"], "caller-acme", "{line}");
        let denied = it.call("/api/secret/x").http(http).ok();
        denied.assert_refused(403, "policy-denied", "agent");
    }
}

#[test]
fn trailers_pass_inside() {
    let upstream = Upstream::start(|_, connection| {
        connection.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
             5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n",
        )?;
        Ok(Then::KeepAlive)
    });
    let it = Terminating::start(&upstream.url());
    for http in Http::BOTH {
        let answer = it.call("/api/sum").http(http).header("TE: trailers").ok();
        // curl shows them where they come: behind the body.
        let text = answer.text().to_lowercase();
        assert!(
            text.starts_with("hello") && text.contains("x-sum: 7"),
            "{answer}"
        );
    }
}

/// The token came with the CONNECT; what goes on inside ends with it all the same.
#[test]
fn calls_inside_end_with_the_token_of_their_connection() {
    let upstream = Upstream::start(|_, connection| {
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello")?;
        connection.closed_within(LONG);
        Ok(Then::Close)
    });
    let rig = Terminating::start(&upstream.url());
    // Relay and agent bear with clocks that differ by 30 s.
    let token = world().forge(|claims| claims["exp"] = json!(tokens::now() - 24));
    let began = Instant::now();
    let cut = call_as(&token, &rig.stack, "/api/stream", &rig.ca()).run();
    assert!(cut.exit != Some(0), "it looks as if it were whole: {cut}");
    assert!(cut.text().contains("hello"), "{cut}");
    assert!(began.elapsed() < LONG, "it waited for the upstream");
    // Then the relay says that it is time for a new one.
    let late = call_as(&token, &rig.stack, "/api/stream", &rig.ca()).run();
    assert!(late.errors.contains("407"), "{late}");
}
