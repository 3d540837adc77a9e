//! A simple model beside two real ends, and what must hold for any input: shared by the tests of
//! this crate and by the fuzz targets (`fuzz/`), hence a feature (`model`) of its own. No program
//! is built with it.
//!
//! - [`pair`]: two ends, the line between them, and a clock that only the test moves.
//! - [`step`]: what can happen in a conversation, and how numbers become a conversation.
//! - [`world`]: does it to both ends and keeps beside them what must follow; [`reading`],
//!   [`events`] and [`check`] compare.
//! - [`seen`]: counts what happened, so that a test knows that it covers what it means to.
//! - [`inputs`]: what must hold for bytes that a peer may send; [`spelling`]: that all that can
//!   be read has one spelling.

mod check;
mod events;
mod handle;
pub(super) mod inputs;
pub(super) mod pair;
mod reading;
pub(super) mod seen;
mod spelling;
pub(super) mod step;
pub(super) mod world;

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};

use super::{Config, Event, Mux, Side, VERSION};
use crate::control::Hello;
use crate::head::{BodyLength, CallHead, CallId, Head, Mode, ResponseHead};
use crate::limits::Limits;
use crate::principal::{Principal, PrincipalKind, Proof};

pub use self::inputs::{controls, frames, heads, operations, seeds, websocket};

pub(super) const SIDES: [Side; 2] = [Side::Dialer, Side::Acceptor];

pub(super) fn other(side: Side) -> Side {
    match side {
        Side::Dialer => Side::Acceptor,
        Side::Acceptor => Side::Dialer,
    }
}

/// An instant to start from: the only look at a clock in this crate.
#[expect(
    clippy::disallowed_methods,
    reason = "a virtual clock has to start somewhere"
)]
pub(super) fn start() -> Instant {
    Instant::now()
}

/// A greeting that allows many streams.
pub(super) fn hello(name: &str) -> Hello {
    Hello {
        min_version: VERSION,
        max_version: VERSION,
        features: 0,
        name: name.into(),
        instance: [7; 16],
        software: "test".into(),
        max_streams: 1000,
        initial_window: 256 * 1024,
        lane: None,
        slot: None,
    }
}

pub(super) fn config(side: Side) -> Config {
    Config {
        side,
        hello: hello("test"),
        limits: Limits::default(),
    }
}

pub(super) fn call_head() -> CallHead {
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
        upgrade: None,
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
        token: None,
    }
}

pub(super) fn answer() -> Head {
    Head::Response(ResponseHead {
        status: StatusCode::OK,
        phrase: None,
        headers: HeaderMap::new(),
        body: BodyLength::Unknown,
    })
}

/// A call of this tenant's.
pub(super) fn call_of(tenant: &str) -> CallHead {
    let mut head = call_head();
    head.caller.tenant = tenant.parse().unwrap();
    head
}

/// Everything that a mux has to send now, as one message.
pub(super) fn transmit(mux: &mut Mux, now: Instant) -> Bytes {
    let mut batch = BytesMut::new();
    while mux.poll_transmit(&mut batch, now) {}
    batch.freeze()
}

/// A mux that has greeted and was greeted; what it sent so far is thrown away.
pub(super) fn greeted(side: Side, now: Instant) -> Mux {
    let mut mux = Mux::new(config(side), now);
    mux.handle_message(transmit(&mut Mux::new(config(other(side)), now), now), now)
        .unwrap();
    assert!(matches!(mux.poll_event(), Some(Event::Ready)));
    transmit(&mut mux, now);
    mux
}
