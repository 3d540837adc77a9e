//! What the micro-benches and the instruction counts share: the heads of a usual call, two greeted
//! ends, and the cases themselves, so that both measure the same.

#![allow(dead_code, reason = "each bench uses a part")]
#![allow(missing_docs, unreachable_pub)]

pub mod cases;
pub mod tunnel;

use std::hint::black_box;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use culvert_proto::control::Hello;
use culvert_proto::head::{BodyLength, CallHead, CallId, Head, Mode, ResponseHead};
use culvert_proto::limits::Limits;
use culvert_proto::mux::{Config, Item, Mux, Side, StreamId};
use culvert_proto::principal::{Principal, PrincipalKind, Proof};
use http::{HeaderMap, Method, StatusCode};

/// The head of a call as a director's client sends it.
pub fn call_head() -> CallHead {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate"),
        ("user-agent", "director/10.6 (linux; x86_64)"),
        ("vmware-api-session-id", "b1c8ba1c6b6f4c4e8a3f4d0f2a1e9c77"),
        ("x-request-id", "0c5d3b0e-3c8c-4a53-9d0c-5a6f6a4b8c11"),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    CallHead {
        call: CallId([9; 16]),
        endpoint: "vcenter".parse().unwrap(),
        mode: Mode::Http,
        method: Method::GET,
        target: Bytes::from_static(b"/api/vcenter/vm?filter.power_states=POWERED_ON"),
        headers,
        body: BodyLength::Empty,
        upgrade: None,
        authority: Bytes::from_static(b"vcenter--acme.relay.example.com"),
        source: Some([192, 0, 2, 1].into()),
        caller: Principal {
            tenant: "acme".parse().unwrap(),
            subject: "director-7".into(),
            scopes: vec!["culvert:call".into()],
            kind: PrincipalKind::Caller,
            expires: 2_000_000_000,
            proof: Proof::Jwt,
        },
        token: None,
    }
}

pub fn answer() -> Head {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", "application/json"),
        ("date", "Tue, 24 Nov 2026 08:49:37 GMT"),
        ("cache-control", "no-store"),
        ("strict-transport-security", "max-age=31536000"),
        ("x-content-type-options", "nosniff"),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    Head::Response(ResponseHead {
        status: StatusCode::OK,
        phrase: None,
        headers,
        body: BodyLength::Exact(200),
    })
}

/// Two greeted ends.
pub fn pair(now: Instant) -> (Mux, Mux) {
    let mut relay = Mux::new(config(Side::Acceptor), now);
    let mut agent = Mux::new(config(Side::Dialer), now);
    pump(&mut relay, &mut agent, now);
    (relay, agent)
}

pub fn config(side: Side) -> Config {
    Config {
        side,
        hello: Hello {
            min_version: 1,
            max_version: 1,
            features: 0,
            name: "bench".into(),
            instance: [1; 16],
            software: "bench".into(),
            max_streams: 100_000,
            initial_window: 256 * 1024,
            lane: None,
            slot: None,
        },
        limits: Limits::default(),
    }
}

/// Exchanges messages until neither side has any, and drops the events.
pub fn pump(relay: &mut Mux, agent: &mut Mux, now: Instant) {
    loop {
        let mut batch = BytesMut::with_capacity(80 * 1024);
        let there = relay.poll_transmit(&mut batch, now);
        if there {
            agent.handle_message(batch.split().freeze(), now).unwrap();
        }
        let back = agent.poll_transmit(&mut batch, now);
        if back {
            relay.handle_message(batch.split().freeze(), now).unwrap();
        }
        while relay.poll_event().is_some() || agent.poll_event().is_some() {}
        if !there && !back {
            return;
        }
    }
}

pub fn read_all(mux: &mut Mux, id: StreamId, now: Instant) {
    while let Ok(Some(item)) = mux.read(id, now) {
        if matches!(black_box(item), Item::Finished) {
            return;
        }
    }
}
