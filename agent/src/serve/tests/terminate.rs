//! Connections whose TLS ends at the agent, and the calls on them.

use std::time::Duration;

use culvert_config::endpoint::{Timeouts, Trust};
use culvert_config::terminate::Terminate;
use culvert_config::units::Span;
use culvert_proto::code::ErrorCode;
use culvert_session::tls::{ServerTrust, TlsMin, client_tls};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::testing::Identity as Certificate;

mod kinds;

const NAME: &str = "vcenter.sddc.local:443";
const HOST: &str = "vcenter.sddc.local";

const RULES: &str = r#"
version = 1
[[rule]]
id = "read"
action = "allow"
mode = ["terminate"]
method = ["GET", "HEAD", "POST", "PUT"]
path = ["/api/**"]
caller = ["director-*"]
host = ["vcenter.sddc.local"]
[[rule]]
id = "secrets"
action = "deny"
path = ["/api/secrets/**"]
"#;

/// An agent that ends callers' TLS, and the certificate that it shows them.
struct Terminating {
    tunnel: Tunnel,
    certificate: Certificate,
    _folder: tempfile::TempDir,
}

fn connect(mode: Mode) -> CallHead {
    CallHead {
        mode,
        body: BodyLength::Unknown,
        authority: Bytes::from_static(NAME.as_bytes()),
        ..head(Method::CONNECT, NAME)
    }
}

/// Makes it an endpoint where callers' TLS ends; what they are shown, and the folder that has it.
fn terminate(endpoint: &mut Endpoint) -> (Certificate, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::new(&[HOST, "alias.sddc.local"]);
    let (pem, key) = (folder.path().join("vc.pem"), folder.path().join("vc.key"));
    std::fs::write(&pem, &certificate.pem).unwrap();
    std::fs::write(&key, certificate.key_pem()).unwrap();
    endpoint.modes = vec![Mode::Terminate];
    endpoint.connect = [NAME, "alias.sddc.local:443"]
        .map(|name| ConnectName::parse(name).unwrap())
        .to_vec();
    endpoint.terminate = Some(Terminate::Certificate {
        certificate: pem,
        private_key: key,
    });
    (certificate, folder)
}

impl Terminating {
    async fn new(rules: &str) -> Self {
        Self::with(rules, |_| ()).await
    }

    async fn with(rules: &str, change: impl FnOnce(&mut Endpoint)) -> Self {
        let mut endpoint = endpoint("http://127.0.0.1:9", Trust::SystemRoots);
        let (certificate, folder) = terminate(&mut endpoint);
        change(&mut endpoint);
        Self {
            tunnel: Tunnel::with(rules, &endpoint).await,
            certificate,
            _folder: folder,
        }
    }

    /// Over an upstream as it is dialled in earnest.
    async fn dialling(rules: &str, mut endpoint: Endpoint) -> Self {
        let (certificate, folder) = terminate(&mut endpoint);
        Self {
            tunnel: Tunnel::dialling(rules, &endpoint).await,
            certificate,
            _folder: folder,
        }
    }

    /// A CONNECT that was answered with 200.
    async fn way(&self) -> Stream {
        let head = connect(Mode::Terminate);
        let mut stream = self.tunnel.relay.open(&head, Bytes::new(), false).unwrap();
        assert_eq!(answer(&mut stream).await.status, 200);
        stream
    }

    /// A caller's TLS on it, that means this server and speaks this ALPN.
    async fn tls(&self, server: &str, alpn: &str) -> std::io::Result<TlsStream<Stream>> {
        let trust = ServerTrust::Ca(vec![self.certificate.certificate.clone()]);
        let mut config = (*client_tls(&trust, TlsMin::V12).unwrap()).clone();
        config.alpn_protocols = vec![alpn.into()];
        let connector = TlsConnector::from(Arc::new(config));
        let server = server.to_owned().try_into().unwrap();
        connector.connect(server, self.way().await).await
    }

    async fn http1(&self) -> TlsStream<Stream> {
        self.tls(HOST, "http/1.1").await.unwrap()
    }

    /// A call that has reached the upstream, from both ends.
    async fn under_way(&mut self, line: &str, fields: &str) -> (TlsStream<Stream>, Connection) {
        let mut caller = self.http1().await;
        let request = request(line, fields);
        caller.write_all(request.as_bytes()).await.unwrap();
        let mut upstream = self.tunnel.connection().await;
        upstream.request().await.unwrap();
        (caller, upstream)
    }

    /// The audit lines so far, when all calls are over.
    async fn lines(self) -> Vec<Value> {
        let serving = self.tunnel.serving;
        serving.calls().close();
        serving.calls().wait().await;
        let lines = serving.accounts().audit.take_lines();
        lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn request(line: &str, fields: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n")
}

/// Head and body of an answer with a length.
async fn read_answer(caller: &mut TlsStream<Stream>) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(caller.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    caller.read_exact(&mut body).await.unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[tokio::test(start_paused = true)]
async fn calls_inside_are_decided_on_forwarded_and_recorded_one_by_one() {
    let mut agent = Terminating::new(RULES).await;
    let mut caller = agent.http1().await;
    caller
        .write_all(request("GET /api/vms?x=1", "Origin: https://vcenter.sddc.local\r\n").as_bytes())
        .await
        .unwrap();
    let mut upstream = agent.tunnel.connection().await;
    let seen = upstream.request().await.unwrap();
    assert!(seen.starts_with("GET /api/vms?x=1 HTTP/1.1\r\n"), "{seen}");
    // The name is the upstream's own, in both directions.
    for field in [
        "host: vcenter.sddc.local\r\n",
        "origin: https://vcenter.sddc.local\r\n",
        "x-forwarded-for: 192.0.2.1\r\n",
    ] {
        assert!(seen.contains(field), "{field} in {seen}");
    }
    upstream
        .send(
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/ui\r\n\
             Set-Cookie: a=b; Domain=sddc.local\r\nContent-Length: 5\r\n\r\nhello",
        )
        .await;
    let (head, body) = read_answer(&mut caller).await;
    assert!(head.starts_with("http/1.1 302 found\r\n"), "{head}");
    assert!(
        head.contains("location: http://127.0.0.1:9/ui\r\n"),
        "{head}"
    );
    assert!(
        head.contains("set-cookie: a=b; domain=sddc.local\r\n"),
        "{head}"
    );
    assert_eq!(body, "hello");
    let call = |head: &str| {
        let mut lines = head
            .lines()
            .filter_map(|l| l.strip_prefix("culvert-call: "));
        lines.next().unwrap().to_owned()
    };
    let allowed = call(&head);

    caller
        .write_all(request("GET /api/secrets/1", "").as_bytes())
        .await
        .unwrap();
    let (head, body) = read_answer(&mut caller).await;
    assert!(head.starts_with("http/1.1 403 "), "{head}");
    assert!(
        head.contains("content-type: application/problem+json"),
        "{head}"
    );
    assert!(head.contains("proxy-status: culvert-agent;"), "{head}");
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(problem["layer"], "agent");
    let denied = call(&head);
    assert_eq!(problem["call"], denied.as_str());
    assert_eq!(
        problem["type"],
        "https://relay.example/.culvert/errors#policy-denied"
    );
    caller.shutdown().await.unwrap();
    assert_eq!(caller.read(&mut [0]).await.unwrap(), 0);
    drop(caller);

    let lines = agent.lines().await;
    let seen: Vec<_> = lines
        .iter()
        .map(|line| {
            let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
            (text("call"), text("mode"), text("target"), text("outcome"))
        })
        .collect();
    let line = |call: &str, target: &str, outcome: &str| {
        (
            call.into(),
            "terminate".into(),
            target.into(),
            outcome.into(),
        )
    };
    let connect = CallId([7; 16]).to_string();
    assert_eq!(
        seen,
        [
            line(&allowed, "/api/vms?x=1", "answered"),
            line(&denied, "/api/secrets/1", "refused"),
            line(&connect, NAME, "answered"),
        ]
    );
    assert_eq!(lines[0]["within"], connect.as_str());
    assert_eq!(lines[0]["name"], NAME);
    assert_eq!(lines[1]["name"], NAME);
    assert!(lines[2].get("name").is_none(), "its target says it");
    assert_eq!(lines[0]["rule"], "read");
    assert_eq!(lines[1]["rule"], "secrets");
    assert_eq!(lines[2]["rule"], "read");
    assert!(lines[2]["bytes_in"].as_u64() > Some(200), "{}", lines[2]);
    assert!(lines[2]["bytes_out"].as_u64() > Some(500), "{}", lines[2]);
}

/// The relay is still passing the answer on then, and takes any other word for a break.
#[tokio::test(start_paused = true)]
async fn an_answer_that_ends_its_connection_is_no_break() {
    let mut agent = Terminating::new(RULES).await;
    let (mut caller, mut upstream) = agent
        .under_way("GET /api/vms", "Connection: close\r\n")
        .await;
    upstream.send(HELLO).await;
    let (_, body) = read_answer(&mut caller).await;
    assert_eq!(body, "hello");
    assert_eq!(caller.read(&mut [0]).await.unwrap(), 0);
    let why = caller.get_mut().0.send.stopped().await;
    assert_eq!(why, StreamError::Stopped(ResetCode::NotNeeded));
}

#[tokio::test(start_paused = true)]
async fn the_calls_of_an_http2_connection_go_beside_each_other() {
    let mut agent = Terminating::new(RULES).await;
    let tls = agent.tls(HOST, "h2").await.unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (client, connection) = h2::client::handshake(tls).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let mut send = |path: &str| {
        let request = http::Request::get(format!("https://{HOST}{path}"));
        let (answer, _) = client
            .send_request(request.body(()).unwrap(), true)
            .unwrap();
        answer
    };
    let (first, second) = (send("/api/1"), send("/api/2"));
    let denied = send("/other").await.unwrap();
    assert_eq!(denied.status(), 403);
    assert!(denied.headers().contains_key("culvert-call"));
    let mut upstreams = [
        agent.tunnel.connection().await,
        agent.tunnel.connection().await,
    ];
    for upstream in &mut upstreams {
        let seen = upstream.request().await.unwrap();
        assert!(seen.contains("host: vcenter.sddc.local\r\n"), "{seen}");
    }
    for upstream in &mut upstreams {
        upstream.send(HELLO).await;
    }
    for answer in [first, second] {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.headers().contains_key("culvert-call"));
        let mut body = answer.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "hello");
    }
}

/// Over HTTP/2 a body without a length ends with its last piece, and nobody asks for its end.
#[tokio::test(start_paused = true)]
async fn a_body_that_ends_with_its_last_piece_is_not_waited_for() {
    let patience = |endpoint: &mut Endpoint| {
        endpoint.timeouts = Timeouts {
            head: Span::secs(1800),
            idle: Span::secs(5),
            ..Timeouts::default()
        };
    };
    let mut agent = Terminating::with(RULES, patience).await;
    let tls = agent.tls(HOST, "h2").await.unwrap();
    let (client, connection) = h2::client::handshake(tls).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = http::Request::post(format!("https://{HOST}/api/poll"));
    let (answer, mut body) = client
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    let mut upstream = agent.tunnel.connection().await;
    upstream.request().await.unwrap();
    body.send_data("hello".into(), true).unwrap();
    let sent = upstream.body(15).await.unwrap();
    assert_eq!(sent, b"5\r\nhello\r\n0\r\n\r\n");
    tokio::time::sleep(Duration::from_secs(60)).await;
    upstream.send(HELLO).await;
    assert_eq!(answer.await.unwrap().status(), 200);
}

/// The agent's own configuration says how a name is carried, whatever the relay calls it, and no
/// relay can make a call of its own look like one from within a connection.
#[tokio::test(start_paused = true)]
async fn a_relay_cannot_choose_the_mode() {
    let mut agent =
        Terminating::new("version = 1\n[[rule]]\nid = \"all\"\naction = \"allow\"\n").await;
    let inside = CallHead {
        mode: Mode::Terminate,
        ..get("/api/vms")
    };
    for (head, code) in [
        (connect(Mode::Connect), ErrorCode::BadRequest),
        (connect(Mode::Tcp), ErrorCode::BadRequest),
        (get("/api/vms"), ErrorCode::BadRequest),
        (inside, ErrorCode::UnknownEndpoint),
    ] {
        let mut stream = agent.tunnel.call(&head, "");
        assert_eq!(refusal(&mut stream).await.code, code, "{:?}", head.mode);
    }
    agent.tunnel.assert_untouched();
}

#[tokio::test(start_paused = true)]
async fn a_call_by_host_name_to_an_endpoint_without_is_told_the_other_way() {
    let agent = Terminating::new(RULES).await;
    let refusal = refusal(&mut agent.tunnel.call(&get("/api/vms"), "")).await;
    assert_eq!(refusal.code, ErrorCode::BadRequest);
    assert!(
        refusal
            .detail
            .contains("use the relay as a proxy (CONNECT)"),
        "{refusal:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_may_make_no_call_may_not_connect() {
    let agent = Terminating::new(RULES).await;
    let stranger = CallHead {
        caller: Principal {
            subject: "intern-1".into(),
            ..connect(Mode::Terminate).caller
        },
        ..connect(Mode::Terminate)
    };
    let elsewhere = CallHead {
        target: Bytes::from_static(b"alias.sddc.local:443"),
        ..connect(Mode::Terminate)
    };
    for head in [stranger, elsewhere] {
        let mut stream = agent.tunnel.relay.open(&head, Bytes::new(), false).unwrap();
        assert_eq!(refusal(&mut stream).await.code, ErrorCode::PolicyDenied);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_means_another_server_gets_an_alert_and_no_certificate() {
    let agent = Terminating::new(RULES).await;
    let error = agent.tls("nsx.sddc.local", "http/1.1").await.unwrap_err();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    let mut way = agent.way().await;
    way.write_all(b"GET / HTTP/1.1\r\nHost: vcenter.sddc.local\r\n\r\n")
        .await
        .unwrap();
    let mut words = Vec::new();
    let _ = way.read_to_end(&mut words).await;
    // A TLS alert, or nothing.
    assert!(matches!(words.first(), None | Some(21)), "{words:?}");
    drop(way);
    let lines = agent.lines().await;
    let reasons: Vec<_> = lines
        .iter()
        .map(|line| line["reason"].to_string())
        .collect();
    assert!(
        reasons[0].contains("sni: the ClientHello names nsx.sddc.local"),
        "{reasons:?}"
    );
    assert!(reasons[1].contains("tls: "), "{reasons:?}");
    assert!(lines.iter().all(|line| line["outcome"] == "refused"));
}

#[tokio::test(start_paused = true)]
async fn what_a_request_could_be_smuggled_in_is_refused_and_the_upstream_hears_nothing() {
    let mut agent = Terminating::new(RULES).await;
    let both = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n";
    for (bytes, words) in [
        (request("POST /api/x", both), "both Content-Length and"),
        (
            request("POST /api/x", "Transfer-Encoding: gzip, chunked\r\n"),
            "exactly 'chunked'",
        ),
        (
            request("GET /api/x", "Host: other\r\n"),
            "more than one Host",
        ),
        (request("GET https://other/api/x", ""), "origin form"),
        (request("GET /api/x", "X: a\nY: b\r\n"), "bare line feed"),
        (request("CONNECT nsx.sddc.local:443", ""), "not accepted"),
        (request("GET /api/../secrets", ""), "target is not accepted"),
        (
            request("GET /api/x", "Upgrade: h2c\r\nConnection: upgrade\r\n"),
            "another HTTP",
        ),
        (
            "GET /api/x HTTP/1.1\r\nHost: nsx.sddc.local\r\n\r\n".into(),
            "not a name",
        ),
        (
            "GET /api/x HTTP/1.1\r\nHost: vcenter.sddc.local:8443\r\n\r\n".into(),
            "not a name",
        ),
    ] {
        let mut caller = agent.http1().await;
        caller.write_all(bytes.as_bytes()).await.unwrap();
        let (head, body) = read_answer(&mut caller).await;
        assert!(head.starts_with("http/1.1 400 "), "{bytes}: {head}");
        assert!(head.contains("culvert-call: "), "{head}");
        assert!(body.contains(words), "{bytes}: {body}");
        assert!(body.contains("\"layer\":\"agent\""), "{body}");
    }
    agent.tunnel.assert_untouched();
    let lines = agent.lines().await;
    let calls = lines.iter().filter(|line| line["within"].is_string());
    let codes: Vec<_> = calls.map(|line| line["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["bad-request"; 10]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_closes_the_upstream_and_one_that_waits_is_not_slow() {
    let mut agent = Terminating::with(RULES, |endpoint| {
        endpoint.timeouts.head = Span::secs(7200);
    })
    .await;
    let (caller, mut upstream) = agent.under_way("GET /api/wait", "").await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    drop(caller);
    upstream.closed().await;
    let lines = agent.lines().await;
    assert_eq!(lines[0]["outcome"], "caller-gone", "{lines:?}");
    assert_eq!(lines[1]["outcome"], "caller-gone", "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_forbids_the_calls_ends_them_and_the_connection() {
    let mut agent = Terminating::new(RULES).await;
    let (mut caller, mut upstream) = agent.under_way("GET /api/wait", "").await;
    agent.tunnel.policy.send_replace(policy("version = 1\n"));
    let (head, body) = read_answer(&mut caller).await;
    assert!(head.starts_with("http/1.1 403 "), "{head} {body}");
    upstream.closed().await;
    // Nothing more is served here.
    assert!(!matches!(caller.read(&mut [0; 1]).await, Ok(1..)));
    let lines = agent.lines().await;
    let outcomes: Vec<_> = lines.iter().map(|line| &line["outcome"]).collect();
    assert_eq!(outcomes, ["withdrawn", "withdrawn"], "{lines:?}");
    assert_eq!(lines[1]["reason"], "policy");
}

#[tokio::test(start_paused = true)]
async fn calls_inside_count_against_the_endpoints_limit_and_idle_connections_do_not() {
    let mut agent = Terminating::with(RULES, |endpoint| endpoint.max_streams = 2).await;
    let mut callers = [agent.http1().await, agent.http1().await];
    let mut third = agent
        .tunnel
        .relay
        .open(&connect(Mode::Terminate), Bytes::new(), false)
        .unwrap();
    assert_eq!(refusal(&mut third).await.code, ErrorCode::Overloaded);
    for caller in &mut callers {
        caller
            .write_all(request("GET /api/1", "").as_bytes())
            .await
            .unwrap();
        let mut upstream = agent.tunnel.connection().await;
        upstream.request().await.unwrap();
        upstream.send(HELLO).await;
        let (head, _) = read_answer(caller).await;
        assert!(head.starts_with("http/1.1 200 "), "{head}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_goes_up_and_an_answer_without_a_length_comes_down() {
    let mut agent = Terminating::new(RULES).await;
    let mut caller = agent.http1().await;
    let head = request(
        "PUT /api/file",
        "Content-Length: 8\r\nExpect: 100-continue\r\n",
    );
    caller.write_all(head.as_bytes()).await.unwrap();
    let mut upstream = agent.tunnel.connection().await;
    let seen = upstream.request().await.unwrap();
    assert!(seen.contains("expect: 100-continue\r\n"), "{seen}");
    upstream.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    let (head, _) = read_answer(&mut caller).await;
    assert!(head.starts_with("http/1.1 100 "), "{head}");
    caller.write_all(b"8 bytes.").await.unwrap();
    assert_eq!(upstream.body(8).await.unwrap(), b"8 bytes.");
    upstream
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        .await;
    let (head, _) = read_answer(&mut caller).await;
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    let mut body = [0; 15];
    caller.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"5\r\nhello\r\n0\r\n\r\n");
}
