//! What two whole sessions cost over a pipe in memory: a small call, and bulk.
//!
//! `cargo bench -p culvert-bench --bench driver`

mod common;

use std::time::Duration;

use common::tunnel::Tunnel;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn driver(c: &mut Criterion) {
    const BULK: usize = 4 << 20;
    let tunnel = Tunnel::new();
    let mut group = c.benchmark_group("driver");
    group.bench_function("small call over a pipe", |b| b.iter(|| tunnel.call(200)));
    group.throughput(Throughput::Bytes(BULK as u64));
    group.measurement_time(Duration::from_secs(5));
    group.bench_function("bulk download over a pipe", |b| {
        b.iter(|| tunnel.call(BULK))
    });
    group.finish();
}

criterion_group!(benches, driver);
criterion_main!(benches);
