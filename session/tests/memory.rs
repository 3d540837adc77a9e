//! What a peer can make a session hold is what `docs/memory.md` says, whatever it sends.

#![allow(missing_docs)]

use bytes::{BufMut, Bytes, BytesMut};
use culvert_proto::control::{Control, Hello, Offer};
use culvert_proto::controls::{encode_control, encode_hello};
use culvert_proto::frame::{Kind, put_frame, put_header};
use culvert_proto::growth::GrowthBudget;
use culvert_proto::head::{BodyLength, CallHead, CallId, Mode};
use culvert_proto::heads::encode_call;
use culvert_proto::limits::{FLOOR, Limits, MAX_CONTROL};
use culvert_proto::mux::{self, Side, Stats};
use culvert_proto::principal::{Principal, PrincipalKind, Proof};
use culvert_proto::websocket::{self, Opcode};
use culvert_session::websocket::MAX_MESSAGE;
use culvert_session::{Session, WebSocketIo};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Streams of the peer's that have a reader who does not read.
const STREAMS: u32 = 100;
const WINDOW: u32 = 256 * 1024;
const WAITING: usize = 4 * MIB;

fn hello(side: Side) -> Hello {
    Hello {
        min_version: mux::VERSION,
        max_version: mux::VERSION,
        features: 0,
        name: format!("{side:?}"),
        instance: [1; 16],
        software: String::new(),
        max_streams: STREAMS + 1000,
        initial_window: WINDOW,
        lane: None,
        slot: None,
    }
}

/// A call head with as many headers as there may be, each as costly as it can be for its size.
fn call_head() -> CallHead {
    let mut headers = HeaderMap::new();
    for number in 0..100 {
        let name = HeaderName::try_from(format!("x{number}")).unwrap();
        headers.append(name, HeaderValue::from_static("v"));
    }
    CallHead {
        call: CallId([9; 16]),
        endpoint: "api".parse().unwrap(),
        mode: Mode::Http,
        method: Method::GET,
        target: Bytes::from_static(b"/"),
        headers,
        body: BodyLength::Unknown,
        upgrade: None,
        authority: Bytes::from_static(b"a"),
        source: None,
        caller: Principal {
            tenant: "acme".parse().unwrap(),
            subject: "c".into(),
            scopes: vec!["s".into(); 64],
            kind: PrincipalKind::Caller,
            expires: 2_000_000_000,
            proof: Proof::Jwt,
        },
        token: None,
    }
}

/// A hostile peer: writes what it likes and reads nothing after the greeting.
struct Peer(DuplexStream);

impl Peer {
    /// One message, masked with zeros; so many of its bytes.
    async fn send(&mut self, payload: &[u8], bytes: usize) {
        let mut message = BytesMut::new();
        websocket::leave_room(&mut message);
        message.put_slice(payload);
        websocket::seal(&mut message, Opcode::Binary, Some([0; 4]));
        let length = message.len().min(bytes);
        // A session that has ended takes no more.
        let _ = self.0.write_all(&message[..length]).await;
    }

    async fn frame(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        let mut frame = BytesMut::new();
        put_frame(&mut frame, kind, 0, stream, payload);
        self.send(&frame, usize::MAX).await;
    }

    async fn open(&mut self, stream: u32) {
        let mut head = BytesMut::new();
        encode_call(&call_head(), &mut head).unwrap();
        let mut payload = BytesMut::new();
        // LEB128 in two bytes.
        payload.put_u8(head.len() as u8 | 0x80);
        payload.put_u8((head.len() >> 7) as u8);
        payload.put_slice(&head);
        self.frame(Kind::Open, stream, &payload).await;
    }

    /// As much data as a quarter of a message, with waste around it: what waits holds on to all
    /// of the message.
    async fn wasteful_data(&mut self, stream: u32, bytes: usize) {
        let mut message = BytesMut::new();
        put_frame(&mut message, Kind::Data, 0, stream, &vec![0; bytes]);
        // A frame that is to be skipped.
        put_header(&mut message, Kind::Ping, 0, 2 * bytes, 0);
        let at = message.len() - 8;
        message[at] = 0xff;
        message.put_bytes(0, 2 * bytes);
        self.send(&message, usize::MAX).await;
    }
}

/// Fills everything, and keeps the session to the end.
async fn fill(waiting: GrowthBudget) -> (Session, Stats) {
    let (near, far) = tokio::io::duplex(64 * KIB);
    let limits = Limits {
        waiting,
        ..Limits::default()
    };
    let config = mux::Config {
        side: Side::Acceptor,
        hello: hello(Side::Acceptor),
        limits,
    };
    let (session, mut incoming, _controls) = Session::spawn(WebSocketIo::acceptor(near), config);
    let mut peer = Peer(far);
    let mut greeting = BytesMut::new();
    encode_hello(&hello(Side::Dialer), &mut greeting);
    peer.frame(Kind::Hello, 0, &greeting).await;
    session.ready().await.unwrap();
    let mut some = [0; 16];
    peer.0.read_exact(&mut some).await.unwrap();

    let mut stuck = Vec::new();
    for number in 0..STREAMS {
        peer.open(2 * number + 1).await;
        stuck.push(incoming.accept().await.unwrap());
    }
    // Byte by byte, and in pieces that hold on to messages three times their size.
    for number in 0..STREAMS {
        let stream = 2 * number + 1;
        for _ in 0..200 {
            peer.frame(Kind::Data, stream, b"x").await;
        }
        // Some use up what the process has, the others what every stream has besides.
        if number < 17 {
            for _ in 0..6 {
                peer.wasteful_data(stream, 40 * KIB).await;
            }
        } else {
            peer.wasteful_data(stream, FLOOR - KIB).await;
        }
    }
    // Calls that nobody accepts.
    for number in STREAMS..STREAMS + 1000 {
        peer.open(2 * number + 1).await;
    }
    // Control messages that nobody reads.
    let offer = Offer {
        endpoint: "api".parse().unwrap(),
        modes: vec![Mode::Http],
        connect: vec!["a:1".into(); 64],
        priority: None,
    };
    let register = Control::Register {
        request: 1,
        offers: vec![offer; 16],
    };
    let mut payload = BytesMut::new();
    encode_control(&register, &mut payload).unwrap();
    assert!(payload.len() <= MAX_CONTROL);
    for _ in 0..16 {
        peer.frame(Kind::Register, 0, &payload).await;
    }
    // A message that is all there but for its last byte.
    peer.send(&vec![0; MAX_MESSAGE], MAX_MESSAGE).await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    if !session.is_open() {
        panic!(
            "what ends a session holds nothing: {}",
            session.closed().await
        );
    }
    let stats = session.stats();
    // Handles hold next to nothing: what waits for them is the session's.
    std::mem::forget((stuck, incoming, _controls, peer));
    (session, stats)
}

#[test]
fn a_session_that_is_filled_with_everything_stays_within_its_sum() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let waiting = GrowthBudget::new(WAITING as u64);
    let mut stats = Stats::default();
    let info = allocation_counter::measure(|| {
        let (session, filled) = runtime.block_on(fill(waiting.clone()));
        stats = filled;
        std::mem::forget(session);
    });
    // It did fill: every stream beyond what it may hold, the budget, the backlog.
    assert!(stats.buffered > WAITING + 80 * (FLOOR - KIB), "{stats:?}");
    assert_eq!(stats.backlog, 1000, "{stats:?}");

    // The sum of docs/memory.md.
    let streams = STREAMS as usize * (4 * FLOOR + 2 * KIB);
    let calls = (STREAMS as usize + 1000) * 24 * KIB;
    let fixed = 2 * MIB + 4 * 64 * KIB + 16 * (MAX_CONTROL + 100 * KIB);
    let sum = fixed + streams + calls + 4 * WAITING;
    let held = info.bytes_current as usize;
    assert!(held <= sum, "{held} bytes are held, {sum} allowed");
    assert!(info.bytes_max as usize <= sum + 2 * MIB, "{info:?}");
}

/// Two ends that have had so many calls at once, all of which are over.
async fn idle_after(calls: u32) -> [Session; 2] {
    let (near, far) = tokio::io::duplex(64 * KIB);
    let config = |side| mux::Config {
        side,
        hello: hello(side),
        limits: Limits::default(),
    };
    let (agent, mut incoming, _) =
        Session::spawn(WebSocketIo::dialer(near, vec![]), config(Side::Dialer));
    let (relay, _, _) = Session::spawn(WebSocketIo::acceptor(far), config(Side::Acceptor));
    relay.ready().await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..calls {
        streams.push(relay.open(&call_head(), Bytes::new(), true).unwrap());
        streams.push(incoming.accept().await.unwrap().1);
    }
    drop(streams);
    while [&agent, &relay].iter().any(|end| end.stats().streams > 0) {
        tokio::task::yield_now().await;
    }
    std::mem::forget(incoming);
    [agent, relay]
}

#[test]
fn a_session_that_was_busy_holds_no_more_when_it_is_idle() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let [few, many] = [1, 1000].map(|calls| {
        let info = allocation_counter::measure(|| {
            std::mem::forget(runtime.block_on(idle_after(calls)));
        });
        info.bytes_current as usize
    });
    assert!(many <= few + 2 * 16 * KIB, "{few} bytes, and {many}");
}
