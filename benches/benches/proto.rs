//! What the protocol core costs, without sockets: heads, a small call, bulk, credit, many streams.
//!
//! `cargo bench -p culvert-bench --bench proto`

mod common;

use std::time::{Duration, Instant};

use bytes::BytesMut;
use common::cases;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

fn heads(c: &mut Criterion) {
    let mut heads = cases::Heads::new();
    c.bench_function("head/encode call", |b| b.iter(|| heads.encode_call()));
    c.bench_function("head/decode call", |b| b.iter(|| heads.decode_call()));
    c.bench_function("head/encode answer", |b| b.iter(|| heads.encode_answer()));
    c.bench_function("head/decode answer", |b| b.iter(|| heads.decode_answer()));
}

fn small_call(c: &mut Criterion) {
    let mut call = cases::SmallCall::new(Instant::now());
    c.bench_function("mux/small call, both ends", |b| b.iter(|| call.run()));
}

fn bulk(c: &mut Criterion) {
    let mut bulk = cases::Bulk::new(Instant::now());
    let mut group = c.benchmark_group("mux");
    group.throughput(Throughput::Bytes(cases::Bulk::SIZE as u64));
    group.measurement_time(Duration::from_secs(5));
    group.bench_function("bulk upload, both ends", |b| b.iter(|| bulk.run()));
    group.finish();
}

fn credit(c: &mut Criterion) {
    let mut credit = cases::Credit::new(Instant::now());
    c.bench_function("mux/credit for one frame", |b| b.iter(|| credit.run()));
}

/// One batch out of 1,000 streams that all have data: what the scheduler costs.
fn schedule(c: &mut Criterion) {
    let now = Instant::now();
    c.bench_function("mux/batch of 64 KiB from 1000 streams", |b| {
        b.iter_batched(
            || {
                (
                    cases::waiting(now, 1000),
                    BytesMut::with_capacity(80 * 1024),
                )
            },
            |(mut relay, mut batch)| {
                relay.poll_transmit(&mut batch, now);
                (relay, batch)
            },
            BatchSize::LargeInput,
        );
    });
}

criterion_group!(benches, heads, small_call, bulk, credit, schedule);
criterion_main!(benches);
