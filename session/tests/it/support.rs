//! Two ends of a session over an in-memory connection.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use culvert_proto::code::GoawayCode;
use culvert_proto::control::Hello;
use culvert_proto::head::{BodyLength, CallHead, CallId, Head, Mode, ResponseHead};
use culvert_proto::mux::{self, Item, Limits, Side};
use culvert_proto::names::{EndpointName, TenantName};
use culvert_proto::principal::{Principal, PrincipalKind, Proof};
use culvert_session::{Controls, Incoming, Session, Stream, WebSocketIo};
use tokio::io::DuplexStream;

/// One end.
pub struct End {
    pub session: Session,
    pub incoming: Incoming,
    pub controls: Controls,
}

impl End {
    pub fn over<IO>(io: WebSocketIo<IO>, config: mux::Config) -> Self
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (session, incoming, controls) = Session::spawn(io, config);
        Self { session, incoming, controls }
    }
}

/// A connection in memory that holds 64 KiB each way, like a small socket buffer.
pub fn connection() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(64 * 1024)
}

pub fn config(side: Side) -> mux::Config {
    config_with(side, Limits::default())
}

pub fn config_with(side: Side, limits: Limits) -> mux::Config {
    let name = match side {
        Side::Dialer => "agent",
        Side::Acceptor => "relay",
    };
    mux::Config { side, hello: hello(name, &limits), limits }
}

/// Dialer and acceptor, both greeted.
pub async fn pair() -> (End, End) {
    let (near, far) = connection();
    let dialer = End::over(WebSocketIo::dialer(near, vec![]), config(Side::Dialer));
    let acceptor = End::over(WebSocketIo::acceptor(far), config(Side::Acceptor));
    dialer.session.ready().await.unwrap();
    acceptor.session.ready().await.unwrap();
    (dialer, acceptor)
}

pub fn call() -> CallHead {
    CallHead {
        call: CallId([7; 16]),
        endpoint: EndpointName::new("vcenter").unwrap(),
        mode: Mode::Http,
        method: http::Method::POST,
        target: Bytes::from_static(b"/sdk"),
        headers: http::HeaderMap::new(),
        body: BodyLength::Unknown,
        authority: Bytes::from_static(b"vcenter--acme.relay.example.com"),
        source: Some([192, 0, 2, 1].into()),
        caller: Principal {
            tenant: TenantName::new("acme").unwrap(),
            subject: "director-7".into(),
            scopes: vec!["culvert:call".into()],
            kind: PrincipalKind::Caller,
            expires: 4_000_000_000,
            proof: Proof::Jwt,
        },
    }
}

pub fn answer(body: BodyLength) -> Head {
    let headers = http::HeaderMap::new();
    Head::Response(ResponseHead { status: http::StatusCode::OK, headers, body })
}

/// Opens a stream from `from` and accepts it at `to`.
pub async fn stream(from: &End, to: &mut End) -> (Stream, Stream) {
    let near = from.session.open(&call(), Bytes::new(), false).unwrap();
    let (_, far) = to.incoming.accept().await.unwrap();
    (near, far)
}

/// Everything of a stream's data up to its end.
pub async fn read_all(recv: &mut culvert_session::RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        match recv.item().await.unwrap() {
            Item::Data(data) => all.extend_from_slice(&data),
            Item::Finished => return all,
            Item::Head(head) => panic!("unexpected {head:?}"),
        }
    }
}

/// Fails a test that would hang. Under paused time this costs no time.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it hangs")
}

/// What comes of a future once everything else has run and nothing happens any more. Needs
/// paused time: time moves only when all tasks wait.
pub async fn settled<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_millis(1), future).await.ok()
}

/// A close that says so.
pub fn close(end: &End) {
    end.session.close(GoawayCode::Drain, "the test is over");
}
