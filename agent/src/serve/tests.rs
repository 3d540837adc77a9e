//! Calls from a relay of the tests, through the real session and policy, to upstreams in memory.

mod audit;
mod bodies;
mod callers;
mod endings;
mod hands;
mod heads;
mod http2;
mod interim;
mod passages;
mod soap;
mod switch;
mod terminate;

use std::sync::Arc;

use bytes::Bytes;
use culvert_config::endpoint::Endpoint;
use culvert_proto::code::ResetCode;
use culvert_proto::control::Hello;
use culvert_proto::head::{BodyLength, CallHead, CallId, Head, Mode, Refusal, ResponseHead};
use culvert_proto::limits::Limits;
use culvert_proto::mux::{self, Item, Side, StreamError};
use culvert_proto::names::{EndpointName, TenantName};
use culvert_proto::principal::{Principal, PrincipalKind, Proof};
use culvert_session::{Session, Stream, WebSocketIo};
use http::{HeaderMap, Method};

use super::*;
use crate::testing::{Connection, Connections, endpoint};

/// Everybody may read, nobody may delete.
const POLICY: &str = r#"
version = 1
[[rule]]
id = "read"
action = "allow"
method = ["GET", "HEAD", "POST", "PUT"]
path = ["/api/**"]
[[rule]]
id = "secrets"
action = "deny"
path = ["/api/secrets/**"]
"#;

fn policy(text: &str) -> Arc<ActivePolicy> {
    let file = culvert_config::policy_file::parse(text, "policy.toml".as_ref()).unwrap();
    Arc::new(ActivePolicy::new(file.policy, file.reveal_rule))
}

/// An agent that serves one endpoint, `api`, and the relay that it is connected to.
struct Tunnel {
    relay: Session,
    agent: Session,
    policy: watch::Sender<Arc<ActivePolicy>>,
    serving: Arc<Serving>,
    /// What the agent opens towards the upstream.
    upstream: Connections,
    opened: usize,
}

impl Tunnel {
    async fn new(rules: &str) -> Self {
        Self::with(
            rules,
            &endpoint(
                "http://127.0.0.1:9",
                culvert_config::endpoint::Trust::SystemRoots,
            ),
        )
        .await
    }

    /// Over an upstream in memory, whatever `endpoint` says of its address.
    async fn with(rules: &str, endpoint: &Endpoint) -> Self {
        let (upstream, connections) = Upstream::in_memory(endpoint);
        Self::over(rules, endpoint, upstream, connections).await
    }

    /// Over an upstream as it is dialled in earnest.
    async fn dialling(rules: &str, endpoint: &Endpoint) -> Self {
        let (_, none) = Upstream::in_memory(endpoint);
        Self::over(rules, endpoint, Upstream::new(endpoint).unwrap(), none).await
    }

    async fn over(
        rules: &str,
        endpoint: &Endpoint,
        client: Upstream,
        upstream: Connections,
    ) -> Self {
        Self::verifying(rules, endpoint, client, upstream, None).await
    }

    /// Over an agent that verifies callers itself, where it is told how.
    async fn verifying(
        rules: &str,
        endpoint: &Endpoint,
        client: Upstream,
        upstream: Connections,
        callers: Option<Arc<CallerChecks>>,
    ) -> Self {
        let features = callers.as_ref().map_or(0, |_| mux::CALLER_TOKENS);
        let policy = watch::Sender::new(policy(rules));
        let served = ServedEndpoint::new(endpoint, client).unwrap();
        let serving = Arc::new(Serving {
            endpoints: HashMap::from([(endpoint.name.clone(), served)]),
            names: LocalNames::of(std::slice::from_ref(endpoint)),
            policy: policy.subscribe(),
            accounts: Accounts::idle(),
            callers,
            front: Front::new("relay.example"),
            calls: TaskTracker::new(),
        });
        let (near, far) = tokio::io::duplex(64 * 1024);
        let mut dialer = config(Side::Dialer);
        dialer.hello.features = features;
        let (agent, incoming, _) = Session::spawn(WebSocketIo::dialer(near, vec![]), dialer);
        let (relay, ..) = Session::spawn(WebSocketIo::acceptor(far), config(Side::Acceptor));
        tokio::spawn(serving.clone().serve(incoming, "relay-1".into()));
        agent.ready().await.unwrap();
        relay.ready().await.unwrap();
        Self {
            relay,
            agent,
            policy,
            serving,
            upstream,
            opened: 0,
        }
    }

    /// Opens a call whose body ends with its first bytes.
    fn call(&self, head: &CallHead, body: impl Into<Bytes>) -> Stream {
        self.relay.open(head, body.into(), true).unwrap()
    }

    /// Opens a call whose body follows.
    fn upload(&self, head: &CallHead) -> Stream {
        self.relay.open(head, Bytes::new(), false).unwrap()
    }

    /// A call without a body that has reached the upstream, on a new connection: both ends.
    async fn under_way(&mut self, head: &CallHead) -> (Stream, Connection) {
        let call = self.call(head, "");
        (call, self.asked().await)
    }

    /// The same of a call whose body follows.
    async fn uploading(&mut self, head: &CallHead) -> (Stream, Connection) {
        let call = self.upload(head);
        (call, self.asked().await)
    }

    /// The next connection to the upstream, on which a request has come.
    async fn asked(&mut self) -> Connection {
        let mut upstream = self.connection().await;
        upstream.request().await.unwrap();
        upstream
    }

    /// The next connection to the upstream.
    async fn connection(&mut self) -> Connection {
        self.opened += 1;
        Connection::new(self.upstream.recv().await.unwrap(), self.opened)
    }

    /// No connection to the upstream was opened.
    fn assert_untouched(&mut self) {
        assert!(
            self.upstream.try_recv().is_err(),
            "the upstream heard of the call"
        );
    }
}

fn config(side: Side) -> mux::Config {
    let hello = Hello {
        min_version: 1,
        max_version: 1,
        features: mux::CALLER_TOKENS,
        name: "test".into(),
        instance: [1; 16],
        software: "test/0".into(),
        max_streams: 100,
        initial_window: 256 * 1024,
        lane: None,
        slot: None,
    };
    mux::Config {
        side,
        hello,
        limits: Limits::default(),
    }
}

fn head(method: Method, target: &'static str) -> CallHead {
    CallHead {
        call: CallId([7; 16]),
        endpoint: EndpointName::new("api").unwrap(),
        mode: Mode::Http,
        method,
        target: Bytes::from_static(target.as_bytes()),
        headers: HeaderMap::new(),
        body: BodyLength::Empty,
        upgrade: None,
        authority: Bytes::from_static(b"api--acme.relay.example"),
        source: Some([192, 0, 2, 1].into()),
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

fn get(target: &'static str) -> CallHead {
    head(Method::GET, target)
}

fn post(target: &'static str, body: BodyLength) -> CallHead {
    CallHead {
        body,
        ..head(Method::POST, target)
    }
}

/// What the relay gets first.
async fn first(stream: &mut Stream) -> Result<Head, StreamError> {
    match stream.recv.item().await? {
        Item::Head(head) => Ok(head),
        other => panic!("{other:?} instead of a head"),
    }
}

async fn answer(stream: &mut Stream) -> ResponseHead {
    match first(stream).await.unwrap() {
        Head::Response(head) => head,
        other => panic!("{other:?} instead of an answer"),
    }
}

/// The refusal, with a clean end behind it.
async fn refusal(stream: &mut Stream) -> Refusal {
    let refusal = match first(stream).await.unwrap() {
        Head::Refusal(refusal) => refusal,
        other => panic!("{other:?} instead of a refusal"),
    };
    assert!(matches!(stream.recv.item().await, Ok(Item::Finished)));
    refusal
}

/// The body up to its end, and how it ended.
async fn body(stream: &mut Stream) -> (Vec<u8>, Result<(), StreamError>) {
    let mut bytes = Vec::new();
    loop {
        match stream.recv.item().await {
            Ok(Item::Data(data)) => bytes.extend_from_slice(&data),
            Ok(Item::Finished) => return (bytes, Ok(())),
            Ok(Item::Head(Head::Trailers(_))) => {}
            Ok(Item::Head(head)) => panic!("{head:?} in a body"),
            Err(error) => return (bytes, Err(error)),
        }
    }
}

const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

#[tokio::test(start_paused = true)]
async fn an_allowed_call_is_forwarded_and_answered() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let mut call = tunnel.call(&get("/api/vms?filter=x"), "");
    let mut upstream = tunnel.connection().await;
    let request = upstream.request().await.unwrap();
    assert!(
        request.starts_with("GET /api/vms?filter=x HTTP/1.1\r\n"),
        "{request}"
    );
    upstream.send(HELLO).await;
    let head = answer(&mut call).await;
    assert_eq!(
        (head.status.as_u16(), head.body),
        (200, BodyLength::Exact(5))
    );
    assert_eq!(body(&mut call).await, (b"hello".to_vec(), Ok(())));
}

#[tokio::test(start_paused = true)]
async fn calls_of_different_callers_take_turns_on_one_connection() {
    let mut tunnel = Tunnel::new(POLICY).await;
    let mut call = tunnel.call(&get("/api/1"), "");
    let mut upstream = tunnel.connection().await;
    for _ in 0..3 {
        upstream.request().await.unwrap();
        upstream.send(HELLO).await;
        assert_eq!(body_of(&mut call).await, b"hello");
        call = tunnel.call(&get("/api/2"), "");
    }
    upstream.request().await.unwrap();
    tunnel.assert_untouched();
}

async fn body_of(call: &mut Stream) -> Vec<u8> {
    answer(call).await;
    let (bytes, end) = body(call).await;
    end.unwrap();
    bytes
}

#[tokio::test(start_paused = true)]
async fn a_denied_call_is_refused_with_words_and_the_upstream_hears_nothing() {
    let mut tunnel = Tunnel::new(POLICY).await;
    for (head, words) in [
        (get("/api/secrets/1"), "A rule of"),
        (get("/other"), "No rule of"),
        (head(Method::DELETE, "/api/vms"), "No rule of"),
    ] {
        let refusal = refusal(&mut tunnel.call(&head, "")).await;
        assert_eq!(refusal.code, culvert_proto::code::ErrorCode::PolicyDenied);
        assert!(refusal.detail.starts_with(words), "{}", refusal.detail);
        assert_eq!(
            refusal.rule, None,
            "rules are not revealed unless the policy says so"
        );
        assert!(!refusal.soap);
    }
    tunnel.assert_untouched();
}

#[tokio::test(start_paused = true)]
async fn a_policy_may_reveal_the_rule_that_denies() {
    let rules = POLICY.replacen("version = 1", "version = 1\nreveal_rule = true", 1);
    let tunnel = Tunnel::new(&rules).await;
    let denied = refusal(&mut tunnel.call(&get("/api/secrets/1"), "")).await;
    assert_eq!(denied.rule.as_deref(), Some("secrets"));
    assert_eq!(
        refusal(&mut tunnel.call(&get("/other"), "")).await.rule,
        None
    );
}

/// A stream that was broken off, never one that ended.
fn assert_reset(end: Result<(), StreamError>, code: ResetCode) {
    assert_eq!(end, Err(StreamError::Reset(code)));
}
