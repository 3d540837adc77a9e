//! A node that agents can open sessions with, and an agent that the test plays.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use culvert_config::relay::RelayLimits;
use culvert_proto::code::GoawayCode;
use culvert_proto::control::{Control, Hello, Offer, Registration};
use culvert_proto::head::{BodyLength, CallHead, CallId, Mode};
use culvert_proto::mux;
use culvert_proto::names::{EndpointName, TenantName};
use culvert_proto::principal::{Principal, PrincipalKind, Proof};
use culvert_proto::priority::Priority;
use culvert_session::{Controls, Incoming, Session, SessionError, SessionEvent, WebSocketIo};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::directory::Lookup;
use crate::listener::Peer;
use crate::node::Node;
use crate::testing::{TestIssuer, node};

/// A handshake, but for its Authorization.
pub(crate) const HANDSHAKE: &str = "GET /.culvert/v1/session HTTP/1.1\r\nHost: relay.test\r\n\
    Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: culvert.v1\r\n";

pub(crate) struct Rig {
    pub(crate) issuer: TestIssuer,
    pub(crate) node: Arc<Node>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with_limits(RelayLimits::default())
    }

    pub(crate) fn with_limits(limits: RelayLimits) -> Self {
        Self::of(TestIssuer::new(), limits)
    }

    pub(crate) fn of(issuer: TestIssuer, limits: RelayLimits) -> Self {
        let node = node(&issuer, &limits);
        Self { issuer, node }
    }

    /// Sends a request and reads the head and what follows at once.
    pub(crate) async fn request(&self, request: String) -> (String, DuplexStream) {
        let (mut near, far) = duplex(64 * 1024);
        let agents = self.node.agents.clone();
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let agents = agents.clone();
            async move {
                let method = request.method().clone();
                let peer = Peer {
                    address: "192.0.2.7:4711".parse().unwrap(),
                    tls13: true,
                    door: crate::listener::Door::Public,
                };
                let response = match agents.upgrade(request, peer).await {
                    Ok(upgraded) => upgraded.map(|()| Full::new(Bytes::new())),
                    Err(problem) => {
                        let (head, body) = problem.answer("relay.test", CallId([0; 16]), &method);
                        head.map(|()| Full::new(body))
                    }
                };
                Ok::<_, Infallible>(response)
            }
        });
        let served = http1::Builder::new().serve_connection(TokioIo::new(far), service);
        tokio::spawn(served.with_upgrades());
        near.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(near.read_u8().await.unwrap());
        }
        (String::from_utf8(head).unwrap(), near)
    }

    /// Asks for a session with this token; gives the answer's head.
    pub(crate) async fn ask(&self, token: &str) -> (String, DuplexStream) {
        self.request(format!("{HANDSHAKE}Authorization: Bearer {token}\r\n\r\n"))
            .await
    }

    /// Asks for a session that must be refused; gives status and the answer's head.
    pub(crate) async fn refused(&self, request: String) -> (u16, String) {
        let (head, _) = self.request(request).await;
        (head[9..12].parse().unwrap(), head)
    }

    /// Opens a session with this token.
    pub(crate) async fn open(&self, token: &str) -> Agent {
        let agent = self.open_with(token, hello()).await;
        agent.session.ready().await.unwrap();
        agent
    }

    /// Opens a session with this token and greeting.
    pub(crate) async fn open_with(&self, token: &str, hello: Hello) -> Agent {
        let (head, io) = self.ask(token).await;
        Agent::over(&head, io, hello).await
    }

    /// Opens a session with a good token, changed by these claims, and registers.
    pub(crate) async fn agent(&self, changes: Value, endpoints: &[&str]) -> Agent {
        let mut agent = self.open(&self.issuer.token(changes)).await;
        for result in agent.register(endpoints).await {
            assert_eq!(result.refused, None, "{}", result.endpoint);
        }
        agent
    }

    pub(crate) fn lookup(&self, tenant: &str, endpoint: &str) -> &'static str {
        let (tenant, endpoint) = (
            TenantName::new(tenant).unwrap(),
            EndpointName::new(endpoint).unwrap(),
        );
        match self.node.directory.lookup(&tenant, &endpoint) {
            Lookup::Session(..) => "session",
            Lookup::Moving => "moving",
            Lookup::Offline => "offline",
            Lookup::Unknown => "unknown",
        }
    }

    /// Waits until an endpoint of acme is found like this.
    pub(crate) async fn becomes(&self, endpoint: &str, found: &str) {
        while self.lookup("acme", endpoint) != found {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        min_version: mux::VERSION,
        max_version: mux::VERSION,
        features: 0,
        name: "sddc-1".into(),
        instance: [7; 16],
        software: "test".into(),
        max_streams: 100,
        initial_window: 256 * 1024,
        lane: None,
        slot: None,
    }
}

/// A call as the edge would send it.
pub(crate) fn call() -> CallHead {
    CallHead {
        call: CallId([7; 16]),
        endpoint: EndpointName::new("vcenter").unwrap(),
        mode: Mode::Http,
        method: http::Method::GET,
        target: Bytes::from_static(b"/api"),
        headers: http::HeaderMap::new(),
        body: BodyLength::Empty,
        upgrade: None,
        authority: Bytes::from_static(b"vcenter--acme.relay.test"),
        source: None,
        caller: Principal {
            tenant: TenantName::new("acme").unwrap(),
            subject: "director-7".into(),
            scopes: vec!["culvert:call".into()],
            kind: PrincipalKind::Caller,
            expires: 4_000_000_000,
            proof: Proof::Jwt,
        },
        token: None,
    }
}

/// The agent's end of a session.
pub(crate) struct Agent {
    pub(crate) session: Session,
    pub(crate) incoming: Incoming,
    pub(crate) controls: Controls,
    requests: u32,
    /// What it offers its endpoints with.
    pub(crate) priority: Option<Priority>,
}

impl Agent {
    /// Greets on a connection that the relay answered with `head`.
    pub(crate) async fn over(head: &str, io: DuplexStream, hello: Hello) -> Self {
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let config = mux::Config {
            side: mux::Side::Dialer,
            hello,
            limits: Default::default(),
        };
        let (session, incoming, controls) =
            Session::spawn(WebSocketIo::dialer(io, Vec::new()), config);
        // One that is refused may be so together with the relay's greeting.
        let _ = session.ready().await;
        Self {
            session,
            incoming,
            controls,
            requests: 0,
            priority: None,
        }
    }

    /// Registers in place of what was registered before; gives the relay's answer.
    pub(crate) async fn register(&mut self, endpoints: &[&str]) -> Vec<Registration> {
        let offer = |endpoint: &&str| Offer {
            endpoint: EndpointName::new(endpoint).unwrap(),
            modes: vec![Mode::Http],
            connect: Vec::new(),
            priority: self.priority,
        };
        let request = self.offer(endpoints.iter().map(offer).collect());
        match self.control().await {
            Control::Registered {
                request: answered,
                results,
            } => {
                assert_eq!(answered, request);
                results
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Sends a registration; gives its number.
    pub(crate) fn offer(&mut self, offers: Vec<Offer>) -> u32 {
        self.requests += 1;
        let request = self.requests;
        let register = Control::Register { request, offers };
        self.session.send_control(&register).unwrap();
        request
    }

    /// Sends a renewed token.
    pub(crate) fn renew(&self, token: String) {
        self.session.send_control(&Control::Auth { token }).unwrap();
    }

    /// The relay's next control message.
    pub(crate) async fn control(&mut self) -> Control {
        match soon(self.controls.recv()).await {
            Some(SessionEvent::Control(control)) => control,
            other => panic!("unexpected {other:?}"),
        }
    }

    /// What the relay's next notice says.
    pub(crate) async fn notice(&mut self) -> String {
        match self.control().await {
            Control::Notice { text, .. } => text,
            other => panic!("unexpected {other:?}"),
        }
    }

    /// The code with which the relay ends the session.
    pub(crate) async fn closed(&self) -> GoawayCode {
        match soon(self.session.closed()).await {
            SessionError::Protocol(mux::SessionError::Closed { code, .. }) => code,
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// Fails a test that would hang. Under paused time this costs no time.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(600), future)
        .await
        .expect("it hangs")
}

/// No changes to a good token.
pub(crate) fn good() -> Value {
    json!({})
}
