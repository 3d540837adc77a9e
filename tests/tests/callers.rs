//! Callers that show a client certificate: who they are, what it is good for, and when it counts
//! no longer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;

use culvert_demo::certs;
use culvert_tests::certificates::{ClientAuthority, ClientCertificate};
use culvert_tests::issuer::{OTHER_CALLER, world};
use culvert_tests::stack::caller_token;
use culvert_tests::wait::until;
use culvert_tests::{Curl, Http, Nginx, Stack, StackOptions, Upstream};
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConnection, StreamOwned};

const DIRECTOR: &str = "spiffe://cloud.example.com/director";
const NAME: &str = "vcenter.sddc.local:443";

/// The director may do anything, and so may the caller of the other tests.
const POLICY: &str = r#"
version = 1

[[rule]]
id = "callers"
action = "allow"
caller = ["spiffe://cloud.example.com/director", "caller-acme"]
scope = ["culvert:call"]

[[rule]]
id = "nothing-forbidden"
action = "deny"
path = ["/forbidden/**"]
"#;

/// `acme` has the director, an auditor for one endpoint, and one who may not call; the director of
/// `globex` is another.
const CALLERS: &str = r#"
[[caller]]
san = "spiffe://cloud.example.com/director"
tenant = "acme"
endpoints = ["*"]
scopes = ["culvert:call", "vcenter.read"]

[[caller]]
san = "auditor.example.com"
tenant = "acme"
endpoints = ["nsx*"]

[[caller]]
san = "robot@example.com"
tenant = "acme"
scopes = ["vcenter.read"]

[[caller]]
san = "10.1.2.3"
tenant = "globex"
"#;

fn options(authority: &ClientAuthority, upstream: &str) -> StackOptions {
    Stack::options()
        .endpoint("vcenter", upstream)
        .endpoint_settings("mode = [\"http\", \"connect\"]\nconnect = [\"vcenter.sddc.local:443\"]")
        .tls(&format!("client_ca = {:?}", authority.file()))
        .relay(CALLERS)
        .policy(POLICY)
}

/// A call that shows a certificate and has no token.
fn shows(stack: &Stack, certificate: &ClientCertificate) -> Curl {
    Curl::new(&stack.url("/api/vm")).certificate(certificate)
}

#[test]
fn a_client_certificate_takes_the_place_of_a_token_in_every_mode() {
    let nginx = Nginx::start();
    let authority = ClientAuthority::generate();
    let stack = options(&authority, &nginx.url()).start();
    let director = authority.issue(&[DIRECTOR]);
    for http in Http::BOTH {
        let answer = Curl::new(&stack.url("/api/vm"))
            .certificate(&director)
            .http(http)
            .ok();
        assert_eq!(answer.status, 200, "{answer}");
    }
    let url = format!("https://{NAME}/api/vm");
    let through = Curl::through(stack.public, &url).proxy_certificate(&director);
    let through = through.arg("--insecure").ok();
    assert_eq!(through.status, 200, "{through}");
    let pac = format!("https://localhost:{}/.culvert/proxy.pac", stack.public);
    let pac = Curl::new(&pac).certificate(&director).ok();
    assert!(pac.text().contains(NAME), "{pac}");

    // What the agent decides on and writes down is the name that is mapped.
    let allowed = |line: &&str| line.contains("\"event\":\"call\"") && line.contains("\"allow\"");
    until("the audit log tells of three calls", || {
        stack.agent.log().lines().filter(allowed).count() >= 3
    });
    let log = stack.agent.log();
    let lines: Vec<_> = log.lines().filter(allowed).collect();
    let caller = format!("\"tenant\":\"acme\",\"caller\":\"{DIRECTOR}\"");
    assert!(lines.iter().all(|line| line.contains(&caller)), "{lines:?}");
}

#[test]
fn what_a_certificate_is_good_for_is_what_its_caller_may() {
    let upstream = Upstream::plain();
    let authority = ClientAuthority::generate();
    let stack = options(&authority, &upstream.url()).start();
    let seen = upstream.requests().len();
    let director = authority.issue(&[DIRECTOR]);
    // Another tenant's endpoint, and one that does not exist, look the same.
    for (tenant, endpoint) in [("globex", "vcenter"), ("acme", "nothing")] {
        let url = stack.url_of(tenant, endpoint, "/api/vm");
        let answer = Curl::new(&url).certificate(&director).ok();
        answer.assert_refused(404, "unknown-endpoint", "relay");
    }
    let elsewhere = shows(&stack, &authority.issue(&["10.1.2.3"])).ok();
    elsewhere.assert_refused(404, "unknown-endpoint", "relay");
    let auditor = shows(&stack, &authority.issue(&["auditor.example.com"])).ok();
    auditor.assert_refused(403, "forbidden", "relay");
    let robot = shows(&stack, &authority.issue(&["robot@example.com"])).ok();
    robot.assert_refused(403, "forbidden", "relay");
    assert_eq!(upstream.requests().len(), seen);
}

/// A certificate that is nobody's counts as none: a token is taken, and without one the answer
/// asks for a credential and says why.
#[test]
fn a_certificate_of_nobody_is_no_credential() {
    let authority = ClientAuthority::generate();
    let stack = options(&authority, &Upstream::plain().url()).start();
    for names in [
        &["spiffe://cloud.example.com/stranger"][..],
        &["spiffe://cloud.example.com/director/"],
        &["cloud.example.com"],
        &["*.example.com"],
        &[],
        // Two callers at once.
        &[DIRECTOR, "auditor.example.com"],
    ] {
        let certificate = authority.issue(names);
        let answer = shows(&stack, &certificate).ok();
        answer.assert_refused(401, "unauthenticated", "relay");
        assert!(answer.text().contains("certificate"), "{answer}");
        assert!(answer.header("www-authenticate").is_some(), "{answer}");
        let through = Curl::through(stack.public, &format!("https://{NAME}/"));
        let through = through.proxy_certificate(&certificate).run();
        assert!(through.errors.contains("407"), "{names:?}: {through}");
        let with_token = shows(&stack, &certificate).token(caller_token()).ok();
        assert_eq!(with_token.status, 200, "{names:?}: {with_token}");
        let bad_token = shows(&stack, &certificate).token("a.b.c").ok();
        bad_token.assert_refused(401, "unauthenticated", "relay");
    }
    // None at all is not demanded.
    let none = Curl::new(&stack.url("/")).ok();
    none.assert_refused(401, "unauthenticated", "relay");
    assert_eq!(stack.call("/").ok().status, 200);
}

#[test]
fn a_callers_certificate_comes_before_any_token() {
    let upstream = Upstream::plain();
    let authority = ClientAuthority::generate();
    let stack = options(&authority, &upstream.url()).start();
    let director = authority.issue(&[DIRECTOR]);
    for token in ["a.b.c", &world().token(OTHER_CALLER)] {
        let answer = shows(&stack, &director).token(token).ok();
        assert_eq!(answer.status, 200, "{answer}");
    }
    // And no token goes on to the upstream.
    for request in upstream.requests() {
        assert!(
            request.all("culvert-authorization").is_empty(),
            "{request:?}"
        );
    }
}

#[test]
fn a_certificate_of_another_authority_or_time_ends_the_handshake() {
    let upstream = Upstream::plain();
    let authority = ClientAuthority::generate();
    let stack = options(&authority, &upstream.url()).start();
    let seen = upstream.requests().len();
    for certificate in [
        ClientAuthority::generate().issue(&[DIRECTOR]),
        authority.issue_until(&[DIRECTOR], -60),
    ] {
        for tls in ["--tls-max", "--tlsv1.3"] {
            let curl = shows(&stack, &certificate).token(caller_token());
            let curl = match tls {
                "--tls-max" => curl.args(["--tls-max", "1.2"]),
                other => curl.arg(other),
            };
            let answer = curl.run();
            // What curl says of it depends on whether it has sent its request by then.
            assert_eq!(answer.status, 0, "{answer}");
            assert_ne!(answer.exit, Some(0), "{answer}");
        }
    }
    assert_eq!(upstream.requests().len(), seen);
}

/// A connection with HTTP/1.1 that has shown a certificate.
struct Kept(StreamOwned<ClientConnection, TcpStream>);

impl Kept {
    fn connect(port: u16, certificate: &ClientCertificate) -> Self {
        let chain = CertificateDer::from_pem_file(&certificate.certificate).unwrap();
        let key = PrivateKeyDer::from_pem_file(&certificate.key).unwrap();
        let plain = certs::client_config(world().authority.pem(), &["http/1.1"]).unwrap();
        let mut config = plain;
        config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(
            rustls::sign::CertifiedKey::from_der(vec![chain], key, config.crypto_provider())
                .unwrap(),
        ));
        let name = "localhost".try_into().unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        Self(StreamOwned::new(tls, tcp))
    }

    /// The status of a GET of `host`'s root.
    fn get(&mut self, host: &str) -> u16 {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        self.0.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        self.0.read_exact(&mut vec![0; length]).unwrap();
        head.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

const VCENTER: &str = "vcenter--acme.localhost";

#[test]
fn each_request_of_a_connection_is_judged_alone_and_by_the_certificate_as_it_is_now() {
    let authority = ClientAuthority::generate();
    let stack = options(&authority, &Upstream::plain().url()).start();
    let mut kept = Kept::connect(stack.public, &authority.issue(&[DIRECTOR]));
    assert_eq!(kept.get(VCENTER), 200);
    assert_eq!(kept.get("vcenter--globex.localhost"), 404);
    assert_eq!(kept.get(VCENTER), 200);

    let mut expiring = Kept::connect(stack.public, &authority.issue_until(&[DIRECTOR], 2));
    assert_eq!(expiring.get(VCENTER), 200);
    until("the certificate's time is over", || {
        expiring.get(VCENTER) == 401
    });
}

#[test]
fn other_authorities_come_into_force_on_sighup_for_connections_that_are_there_too() {
    let (old, new) = (ClientAuthority::generate(), ClientAuthority::generate());
    let stack = options(&old, &Upstream::plain().url()).start();
    let (before, after) = (old.issue(&[DIRECTOR]), new.issue(&[DIRECTOR]));
    let mut kept = Kept::connect(stack.public, &before);
    assert_eq!(kept.get(VCENTER), 200);
    assert_eq!(shows(&stack, &after).run().status, 0);

    std::fs::copy(new.file(), old.file()).unwrap();
    stack.relay.signal(Signal::HUP);
    until("the new authority is accepted", || {
        shows(&stack, &after).run().status == 200
    });
    assert_eq!(shows(&stack, &before).run().status, 0);
    assert_eq!(kept.get(VCENTER), 401);

    // A file that is of no use changes nothing, and the log says so.
    std::fs::write(old.file(), "nothing").unwrap();
    stack.relay.signal(Signal::HUP);
    until("the log complains", || {
        stack.relay.log().contains("is of no use")
    });
    assert_eq!(shows(&stack, &after).ok().status, 200);
}
