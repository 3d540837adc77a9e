//! Tests of the core: two ends on a virtual clock, and single ends fed by hand.

mod floods;
mod growth;
mod hostile;
mod memory;
mod pair;
mod properties;
mod schedule;
mod states;
mod streams;
mod world;

use std::time::Instant;

use http::{HeaderMap, Method, StatusCode};

use super::*;
use crate::code::ResetCode;
use crate::frame::put_frame;
use crate::head::{BodyLength, CallId, Mode, ResponseHead};
use crate::head::{CallHead, Head};
use crate::principal::{Principal, PrincipalKind, Proof};

/// An instant to start from: the only look at a clock in this crate.
#[expect(
    clippy::disallowed_methods,
    reason = "a virtual clock has to start somewhere"
)]
pub(super) fn start() -> Instant {
    Instant::now()
}

/// A greeting that allows many streams.
fn hello(name: &str) -> Hello {
    Hello {
        min_version: VERSION,
        max_version: VERSION,
        features: 0,
        name: name.into(),
        instance: [7; 16],
        software: "test".into(),
        max_streams: 1000,
        initial_window: 256 * 1024,
    }
}

fn config(side: Side) -> Config {
    Config {
        side,
        hello: hello("test"),
        limits: Limits::default(),
    }
}

fn call_head() -> CallHead {
    let mut headers = HeaderMap::new();
    headers.insert("accept", "application/json".parse().unwrap());
    headers.insert("x-own-name", "value".parse().unwrap());
    CallHead {
        call: CallId([9; 16]),
        endpoint: "vcenter".parse().unwrap(),
        mode: Mode::Http,
        method: Method::GET,
        target: Bytes::from_static(b"/api/vm?x=1"),
        headers,
        body: BodyLength::Unknown,
        authority: Bytes::from_static(b"vcenter--acme.relay.example.com"),
        source: Some([192, 0, 2, 1].into()),
        caller: Principal {
            tenant: "acme".parse().unwrap(),
            subject: "director-7".into(),
            scopes: vec!["culvert:call".into(), "vcenter.read".into()],
            kind: PrincipalKind::Caller,
            expires: 2_000_000_000,
            proof: Proof::Jwt,
        },
    }
}

fn answer() -> Head {
    Head::Response(ResponseHead {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: BodyLength::Unknown,
    })
}

/// Everything that a mux has to send now, as one message.
fn transmit(mux: &mut Mux, now: Instant) -> Bytes {
    let mut batch = BytesMut::new();
    while mux.poll_transmit(&mut batch, now) {}
    batch.freeze()
}

/// A mux that has greeted and was greeted; what it sent so far is thrown away.
fn greeted(side: Side, now: Instant) -> Mux {
    let other = if side == Side::Dialer {
        Side::Acceptor
    } else {
        Side::Dialer
    };
    let mut mux = Mux::new(config(side), now);
    mux.handle_message(transmit(&mut Mux::new(config(other), now), now), now)
        .unwrap();
    assert!(matches!(mux.poll_event(), Some(Event::Ready)));
    transmit(&mut mux, now);
    mux
}

fn events(mux: &mut Mux) -> Vec<Event> {
    std::iter::from_fn(|| mux.poll_event()).collect()
}
