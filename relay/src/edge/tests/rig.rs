//! A node's edge with everything around it in this process: an issuer, agents, callers.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use culvert_config::relay::RelayLimits;
use culvert_http::{Alpn, Breaker};
use culvert_identity::verify::Algorithm;
use culvert_identity::{IssuerRules, KeySource, TrustedIssuer, Verifier};
use culvert_proto::connect_name::ConnectName;
use culvert_proto::control::Hello;
use culvert_proto::head::{BodyLength, CallHead, Head, Mode, ResponseHead};
use culvert_proto::mux::{Config, Item, Side, VERSION};
use culvert_proto::names::{EndpointName, TenantName};
use culvert_session::{Incoming as IncomingCalls, Session, Stream, WebSocketIo};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_util::sync::CancellationToken;

use crate::directory::{Directory, Service, SessionId};
use crate::edge::{Edge, Parts};
use crate::handshakes::Handshakes;
use crate::listener::{Peer, Transport};
use crate::metrics::Metrics;
use crate::place::Place;
use crate::revocations::Revocations;
use crate::sessions::{self, Agents};
use crate::strangers::Strangers;
use crate::tenants::Tenants;

pub(crate) const DOMAIN: &str = "relay.test";
pub(crate) const HOST: &str = "vc--acme.relay.test";
const ISSUER: &str = "https://issuer.test";

/// Long enough that it only fires where something hangs.
pub(crate) const SOON: Duration = Duration::from_secs(100);

impl Transport for DuplexStream {
    fn breaker(&self) -> Breaker {
        Breaker::default()
    }
}

pub(crate) struct Rig {
    pub(crate) edge: Arc<Edge>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) drain: CancellationToken,
    key: KeyPair,
    sessions: AtomicU64,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with_limits(RelayLimits::default())
    }

    pub(crate) fn with_limits(limits: RelayLimits) -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let x = BASE64_URL_SAFE_NO_PAD.encode(key.der_bytes());
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "alg": "EdDSA", "x": x});
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(json!({ "keys": [jwk] }).to_string().as_bytes())
            .unwrap();
        let rules = IssuerRules {
            issuer: ISSUER.into(),
            audience: "culvert".into(),
            algorithms: vec![Algorithm::EdDSA],
            tenants: None,
            tenant_claim: "tenant".into(),
            endpoints_claim: "culvert_endpoints".into(),
            register_scope: "culvert:register".into(),
            call_scope: "culvert:call".into(),
            leeway: Duration::from_secs(30),
        };
        let keys = KeySource::File(file.path().to_owned());
        let verifier = Verifier::new(vec![TrustedIssuer {
            rules,
            keys,
            introspection: None,
        }])
        .unwrap();
        let verifier = Arc::new(verifier);
        let directory = Arc::new(Directory::new(limits.offline_memory.0));
        let metrics = Arc::new(Metrics::new());
        let strangers = Strangers::new(&limits, metrics.clone());
        let tenants = Arc::new(Tenants::new(&limits, &[], metrics.clone()));
        let revocations = Arc::new(Revocations::default());
        let agents = Agents::new(
            "n1",
            &limits,
            sessions::Parts {
                verifier: verifier.clone(),
                directory: directory.clone(),
                strangers: strangers.clone(),
                handshakes: Handshakes::new(&limits, metrics.clone()),
                tenants: tenants.clone(),
                revocations: revocations.clone(),
                metrics: metrics.clone(),
            },
        );
        let (found, counts) = (directory.clone(), metrics.clone());
        let parts = Parts {
            verifier,
            certificates: None,
            directory: found,
            strangers,
            tenants: tenants.clone(),
            revocations: revocations.clone(),
            agents,
            metrics: counts,
        };
        Self {
            edge: Arc::new(Edge::new(DOMAIN, &[], &limits, parts)),
            directory,
            tenants,
            revocations,
            metrics,
            drain: CancellationToken::new(),
            key,
            sessions: AtomicU64::new(1),
        }
    }

    /// A token of a caller of tenant acme, with some claims changed.
    pub(crate) fn token(&self, changes: Value) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let mut claims = json!({
            "iss": ISSUER,
            "aud": "culvert",
            "sub": "director-7",
            "tenant": "acme",
            "scope": "culvert:call vcenter.read",
            "exp": now + 100_000,
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k"});
        let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.key.sign(message.as_bytes()).unwrap());
        format!("{message}.{signature}")
    }

    /// The field that carries a good token.
    pub(crate) fn bearer(&self) -> String {
        format!(
            "Culvert-Authorization: Bearer {}\r\n",
            self.token(json!({}))
        )
    }

    /// Brings an agent of tenant acme up that serves the endpoint.
    pub(crate) async fn agent(&self, endpoint: &str) -> FakeAgent {
        self.agent_that_takes(endpoint, 100).await
    }

    /// Brings an agent of tenant acme up that serves the endpoint, and these names to CONNECT to.
    pub(crate) async fn agent_with_names(&self, endpoint: &str, names: &[&str]) -> FakeAgent {
        let agent = self.agent(endpoint).await;
        let names = names.iter().map(|name| ConnectName::parse(name).unwrap());
        let service = Service {
            priority: None,
            names: names.collect(),
            tunnel: Some(Mode::Connect),
        };
        let name = EndpointName::new(endpoint).unwrap();
        let place = Place::Here(agent.relay.clone());
        self.directory
            .register(&tenant("acme"), &name, agent.id, &place, service);
        agent
    }

    pub(crate) async fn agent_that_takes(&self, endpoint: &str, max_streams: u32) -> FakeAgent {
        let (near, far) = duplex(256 * 1024);
        let (relay, _, relay_controls) =
            Session::spawn(WebSocketIo::acceptor(near), config(Side::Acceptor, 0));
        let (session, calls, controls) = Session::spawn(
            WebSocketIo::dialer(far, Vec::new()),
            config(Side::Dialer, max_streams),
        );
        relay.ready().await.unwrap();
        session.ready().await.unwrap();
        let id = SessionId(self.sessions.fetch_add(1, Ordering::Relaxed));
        let (tenant, name) = (tenant("acme"), EndpointName::new(endpoint).unwrap());
        let place = Place::Here(relay.clone());
        self.directory
            .register(&tenant, &name, id, &place, Service::default());
        drop((relay_controls, controls));
        FakeAgent {
            session,
            calls,
            relay,
            id,
        }
    }

    /// Connects a caller that writes and reads bytes.
    pub(crate) fn connect(&self, alpn: Alpn) -> DuplexStream {
        self.connect_through(alpn, 64 * 1024)
    }

    /// Connects a caller through a pipe that holds so many bytes.
    pub(crate) fn connect_through(&self, alpn: Alpn, pipe: usize) -> DuplexStream {
        let (caller, server) = duplex(pipe);
        let peer = Peer {
            address: "192.0.2.7:4711".parse().unwrap(),
            tls13: true,
            door: crate::listener::Door::Public,
        };
        let served = self
            .edge
            .clone()
            .serve_connection(server, alpn, peer, self.drain.clone());
        tokio::spawn(served);
        caller
    }

    /// Sends one request over HTTP/1.1 and reads everything until the connection closes.
    pub(crate) async fn exchange(&self, request: impl AsRef<[u8]>) -> Reply {
        let mut caller = self.connect(Alpn::Http1);
        caller.write_all(request.as_ref()).await.unwrap();
        Reply::read_to_end(&mut caller).await
    }

    /// A GET of a path with these further fields, each with its line end.
    pub(crate) fn get(path: &str, fields: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{fields}\r\n")
    }

    /// A client for HTTP/2.
    pub(crate) async fn http2(&self) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
        let io = TokioIo::new(self.connect(Alpn::H2));
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// A request for HTTP/2 with a good token.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        body: &'static str,
    ) -> Request<Full<Bytes>> {
        Request::builder()
            .method(method)
            .uri(format!("https://{HOST}{path}"))
            .header(
                "culvert-authorization",
                format!("Bearer {}", self.token(json!({}))),
            )
            .body(Full::new(Bytes::from_static(body.as_bytes())))
            .unwrap()
    }
}

pub(crate) fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

fn config(side: Side, max_streams: u32) -> Config {
    let hello = Hello {
        min_version: VERSION,
        max_version: VERSION,
        features: 0,
        name: "test".into(),
        instance: [1; 16],
        software: "test".into(),
        max_streams,
        initial_window: 256 * 1024,
        lane: None,
        slot: None,
    };
    Config {
        side,
        hello,
        limits: Default::default(),
    }
}

/// The agent's end of a session, played by the test.
pub(crate) struct FakeAgent {
    pub(crate) session: Session,
    pub(crate) calls: IncomingCalls,
    /// The relay's end.
    pub(crate) relay: Session,
    pub(crate) id: SessionId,
}

impl FakeAgent {
    /// The next call.
    pub(crate) async fn accept(&mut self) -> (CallHead, Stream) {
        tokio::time::timeout(SOON, self.calls.accept())
            .await
            .expect("no call came")
            .unwrap()
    }

    /// Whether no call has come.
    pub(crate) async fn is_untouched(&mut self) -> bool {
        tokio::task::yield_now().await;
        self.relay.stats().streams == 0
            && tokio::time::timeout(Duration::from_millis(20), self.calls.accept())
                .await
                .is_err()
    }

    /// Answers every call like an upstream that tells what it was asked.
    pub(crate) fn echo(mut self) {
        tokio::spawn(async move {
            while let Some((head, mut stream)) = self.calls.accept().await {
                let body = read_body(&mut stream).await;
                let text = format!("{} {} {}", head.method, show(&head.target), show(&body));
                answer(&mut stream, 200, &[], text.as_bytes()).await;
            }
        });
    }
}

/// Everything that the caller's body holds.
pub(crate) async fn read_body(stream: &mut Stream) -> Bytes {
    let mut body = Vec::new();
    loop {
        match stream.recv.item().await.unwrap() {
            Item::Data(data) => body.extend_from_slice(&data),
            Item::Head(_) => {}
            Item::Finished => return body.into(),
        }
    }
}

pub(crate) fn response(status: u16, fields: &[(&str, &str)], body: BodyLength) -> Head {
    let headers = fields.iter().map(|(name, value)| {
        (
            name.parse::<HeaderName>().unwrap(),
            value.parse::<HeaderValue>().unwrap(),
        )
    });
    let status = StatusCode::from_u16(status).unwrap();
    Head::Response(ResponseHead {
        status,
        phrase: None,
        headers: headers.collect::<HeaderMap>(),
        body,
    })
}

/// A whole answer.
pub(crate) async fn answer(stream: &mut Stream, status: u16, fields: &[(&str, &str)], body: &[u8]) {
    let length = match body.len() {
        0 => BodyLength::Empty,
        length => BodyLength::Exact(length as u64),
    };
    stream
        .send
        .send_head(&response(status, fields, length))
        .await
        .unwrap();
    if !body.is_empty() {
        stream
            .send
            .write_bytes(Bytes::copy_from_slice(body))
            .await
            .unwrap();
    }
    stream.send.finish().unwrap();
}

pub(crate) fn show(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// An answer as it came over the wire.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// Reads until the connection closes.
    pub(crate) async fn read_to_end(caller: &mut DuplexStream) -> Self {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(SOON, caller.read_to_end(&mut bytes));
        read.await.expect("the connection stays open").unwrap();
        Self::parse(&bytes)
    }

    /// Takes a whole answer apart; the body as it was framed.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut fields);
        let length = match head.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            other => panic!("{other:?}: {}", bytes.escape_ascii()),
        };
        let fields = head.headers.iter().map(|field| {
            let name = HeaderName::from_bytes(field.name.as_bytes()).unwrap();
            (name, HeaderValue::from_bytes(field.value).unwrap())
        });
        Self {
            status: head.code.unwrap(),
            headers: fields.collect(),
            body: bytes[length..].to_vec(),
        }
    }

    pub(crate) async fn of(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self
            .headers
            .get(name)
            .unwrap_or_else(|| panic!("no {name}: {self:?}"));
        value.to_str().unwrap()
    }

    /// The code of a problem, after a look at its form.
    pub(crate) fn code(&self) -> String {
        let problem: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["call"], self.header("culvert-call"));
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        assert!(!problem["title"].as_str().unwrap().is_empty());
        let code = problem["type"].as_str().unwrap();
        let code = code
            .strip_prefix("https://relay.test/.culvert/errors#")
            .unwrap();
        assert!(
            self.header("proxy-status")
                .ends_with(&format!("details=\"{code}\""))
        );
        code.to_owned()
    }

    pub(crate) fn detail(&self) -> String {
        let problem: Value = serde_json::from_slice(&self.body).unwrap();
        problem["detail"].as_str().unwrap().to_owned()
    }
}
