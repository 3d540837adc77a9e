//! What the protocol core costs, without sockets: heads, a small call, bulk, many streams.
//!
//! `cargo bench -p culvert-bench --bench proto`

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use culvert_proto::control::Hello;
use culvert_proto::head::{BodyLength, CallHead, CallId, Head, Mode, ResponseHead};
use culvert_proto::heads::{decode_call, decode_head, encode_call, encode_head};
use culvert_proto::limits::Limits;
use culvert_proto::mux::{Config, Item, Mux, Side, StreamId};
use culvert_proto::principal::{Principal, PrincipalKind, Proof};
use http::{HeaderMap, Method, StatusCode};

/// The head of a call as a director's client sends it.
fn call_head() -> CallHead {
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
    }
}

fn answer() -> Head {
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
        headers,
        body: BodyLength::Exact(200),
    })
}

/// Two greeted ends.
fn pair(now: Instant) -> (Mux, Mux) {
    let config = |side| Config {
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
        },
        limits: Limits::default(),
    };
    let mut relay = Mux::new(config(Side::Acceptor), now);
    let mut agent = Mux::new(config(Side::Dialer), now);
    pump(&mut relay, &mut agent, now);
    (relay, agent)
}

/// Exchanges messages until neither side has any, and drops the events.
fn pump(relay: &mut Mux, agent: &mut Mux, now: Instant) {
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

fn read_all(mux: &mut Mux, id: StreamId, now: Instant) {
    while let Ok(Some(item)) = mux.read(id, now) {
        if matches!(black_box(item), Item::Finished) {
            return;
        }
    }
}

fn heads(c: &mut Criterion) {
    let (call, answer) = (call_head(), answer());
    let mut encoded_call = BytesMut::new();
    encode_call(&call, &mut encoded_call).unwrap();
    let encoded_call = encoded_call.freeze();
    let mut encoded_answer = BytesMut::new();
    encode_head(&answer, &mut encoded_answer).unwrap();
    let encoded_answer = encoded_answer.freeze();
    let mut out = BytesMut::with_capacity(4096);
    c.bench_function("head/encode call", |b| {
        b.iter(|| {
            out.clear();
            encode_call(black_box(&call), &mut out).unwrap();
        });
    });
    c.bench_function("head/decode call", |b| {
        b.iter(|| decode_call(black_box(encoded_call.clone())).unwrap());
    });
    c.bench_function("head/encode answer", |b| {
        b.iter(|| {
            out.clear();
            encode_head(black_box(&answer), &mut out).unwrap();
        });
    });
    c.bench_function("head/decode answer", |b| {
        b.iter(|| decode_head(black_box(encoded_answer.clone())).unwrap());
    });
}

fn small_call(c: &mut Criterion) {
    let now = Instant::now();
    let (mut relay, mut agent) = pair(now);
    let (call, answer) = (call_head(), answer());
    let body = Bytes::from_static(&[7; 200]);
    c.bench_function("mux/small call, both ends", |b| {
        b.iter(|| {
            let id = relay.open(&call, Bytes::new(), true).unwrap();
            pump(&mut relay, &mut agent, now);
            let (accepted, head) = agent.accept().unwrap();
            black_box(head);
            read_all(&mut agent, accepted, now);
            agent.send_head(accepted, &answer).unwrap();
            agent.write(accepted, &mut body.clone()).unwrap();
            agent.finish(accepted).unwrap();
            pump(&mut relay, &mut agent, now);
            read_all(&mut relay, id, now);
            for mux in [&mut relay, &mut agent] {
                mux.release_send(id);
                mux.release_recv(id);
            }
        });
    });
}

fn bulk(c: &mut Criterion) {
    const SIZE: usize = 4 << 20;
    let now = Instant::now();
    let (mut relay, mut agent) = pair(now);
    let data = Bytes::from(vec![7; 64 * 1024]);
    let mut group = c.benchmark_group("mux");
    group.throughput(Throughput::Bytes(SIZE as u64));
    group.measurement_time(Duration::from_secs(5));
    group.bench_function("bulk upload, both ends", |b| {
        b.iter(|| {
            let id = relay.open(&call_head(), Bytes::new(), false).unwrap();
            pump(&mut relay, &mut agent, now);
            agent.accept().unwrap();
            for _ in 0..SIZE / data.len() {
                let mut chunk = data.clone();
                while !chunk.is_empty() {
                    relay.write(id, &mut chunk).unwrap();
                    pump(&mut relay, &mut agent, now);
                    while let Ok(Some(item)) = agent.read(id, now) {
                        black_box(item);
                    }
                }
            }
            relay.reset(id, culvert_proto::code::ResetCode::Cancelled);
            for mux in [&mut relay, &mut agent] {
                mux.release_send(id);
                mux.release_recv(id);
            }
            pump(&mut relay, &mut agent, now);
        });
    });
    group.finish();
}

/// One batch out of 1,000 streams that all have data: what the scheduler costs.
fn schedule(c: &mut Criterion) {
    let now = Instant::now();
    c.bench_function("mux/batch of 64 KiB from 1000 streams", |b| {
        b.iter_batched(
            || {
                let (mut relay, mut agent) = pair(now);
                let open = || relay.open(&call_head(), Bytes::new(), false).unwrap();
                let ids: Vec<_> = std::iter::repeat_with(open).take(1000).collect();
                pump(&mut relay, &mut agent, now);
                for id in ids {
                    relay
                        .write(id, &mut Bytes::from_static(&[7; 1000]))
                        .unwrap();
                }
                (relay, BytesMut::with_capacity(80 * 1024))
            },
            |(mut relay, mut batch)| {
                relay.poll_transmit(&mut batch, now);
                (relay, batch)
            },
            BatchSize::LargeInput,
        );
    });
}

criterion_group!(benches, heads, small_call, bulk, schedule);
criterion_main!(benches);
