//! Two ends of a session over an in-memory connection.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use culvert_proto::control::Hello;
use culvert_proto::head::{BodyLength, CallHead, CallId, Head, Mode, ResponseHead};
use culvert_proto::limits::Limits;
use culvert_proto::mux::{self, Item, Side};
use culvert_proto::names::{EndpointName, TenantName};
use culvert_proto::principal::{Principal, PrincipalKind, Proof};
use culvert_session::{Controls, Incoming, Session, Stream, WebSocketIo};
use tokio::io::DuplexStream;
use tokio::sync::Notify;

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
        Self {
            session,
            incoming,
            controls,
        }
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
    let hello = Hello {
        min_version: 1,
        max_version: 1,
        features: 0,
        name: format!("{side:?}"),
        instance: [1; 16],
        software: "culvert-test/0".into(),
        max_streams: 1024,
        initial_window: WINDOW as u32,
        lane: None,
        slot: None,
    };
    mux::Config {
        side,
        hello,
        limits,
    }
}

/// Bytes that one stream may have under way.
pub const WINDOW: usize = 256 * 1024;

/// Holds no more than its windows and send queues, however much it has moved.
pub fn assert_bounded(session: &Session) {
    let (stats, limits) = (session.stats(), Limits::default());
    assert!(stats.buffered <= stats.streams * WINDOW, "{stats:?}");
    // A stream takes a piece when it has room at all, and the batch is on its way.
    assert!(
        stats.queued <= stats.streams * limits.send_queue,
        "{stats:?}"
    );
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

/// What lies between two ends.
pub struct Wire {
    task: tokio::task::JoinHandle<()>,
    silent: Arc<Notify>,
}

impl Wire {
    /// Breaks the connection: both ends see that it is gone.
    pub fn cut(self) {
        self.task.abort();
    }

    /// Passes nothing on any more, and says nothing about it.
    pub fn silence(&self) {
        self.silent.notify_one();
    }
}

/// Like [`pair`], with a hand on the wire.
pub async fn pair_over_wire() -> (End, End, Wire) {
    let ((near, mut a), (mut b, far)) = (connection(), connection());
    let silent = Arc::new(Notify::new());
    let quiet = silent.clone();
    let task = tokio::spawn(async move {
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut a, &mut b) => {}
            () = quiet.notified() => std::future::pending().await,
        }
    });
    let dialer = End::over(WebSocketIo::dialer(near, vec![]), config(Side::Dialer));
    let acceptor = End::over(WebSocketIo::acceptor(far), config(Side::Acceptor));
    dialer.session.ready().await.unwrap();
    acceptor.session.ready().await.unwrap();
    (dialer, acceptor, Wire { task, silent })
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
        upgrade: None,
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
        token: None,
    }
}

pub fn answer(body: BodyLength) -> Head {
    let headers = http::HeaderMap::new();
    Head::Response(ResponseHead {
        status: http::StatusCode::OK,
        phrase: None,
        headers,
        body,
    })
}

/// Opens a stream from `from`, accepts and answers it at `to`: free for data both ways.
pub async fn stream(from: &End, to: &mut End) -> (Stream, Stream) {
    let mut near = from.session.open(&call(), Bytes::new(), false).unwrap();
    let (_, mut far) = to.incoming.accept().await.unwrap();
    far.send
        .send_head(&answer(BodyLength::Unknown))
        .await
        .unwrap();
    assert!(matches!(
        near.recv.item().await,
        Ok(Item::Head(Head::Response(_)))
    ));
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
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("it hangs")
}

/// What comes of a future once everything else has run and nothing happens any more. Needs
/// paused time: time moves only when all tasks wait.
pub async fn settled<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_millis(1), future)
        .await
        .ok()
}

/// Lets everything run until nothing happens any more. Needs paused time.
pub async fn settle() {
    assert!(settled(std::future::pending::<()>()).await.is_none());
}
