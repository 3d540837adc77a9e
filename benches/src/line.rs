//! A long line: what a call and a transfer cost when relay and agent are far apart.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::load::{self, Failure, Target};
use crate::stack::Stack;

/// Bytes of the upload.
const UPLOAD: u64 = 1 << 30;

/// Measures a first call, a call on a warm connection, one download and one upload of 1 GiB, both
/// ways in turn.
pub async fn run(stack: &Stack, rtt: Duration, out: &mut impl Write) -> Result<(), Failure> {
    writeln!(
        out,
        "{:<9} {:>17} {:>16} {:>12} {:>15} {:>13}",
        "way", "first call / RTT", "warm call / RTT", "p50 ms", "download MB/s", "upload MB/s"
    )?;
    for (way, target) in [("nginx", &stack.nginx), ("culvert", &stack.culvert)] {
        let first = first_call(target).await?;
        let call = warm_call(target).await?;
        let download = download(target).await?;
        let upload = upload(target).await?;
        let in_trips = |time: Duration| time.as_secs_f64() / rtt.as_secs_f64();
        writeln!(
            out,
            "{way:<9} {:>17.3} {:>16.3} {:>12.2} {download:>15.1} {upload:>13.1}",
            in_trips(first),
            in_trips(call),
            call.as_secs_f64() * 1e3
        )?;
    }
    Ok(())
}

/// The median of 11 calls, each on a connection of its own: TCP and TLS with the near end, whose
/// round trips are those of loopback, and the call.
async fn first_call(target: &Target) -> Result<Duration, Failure> {
    let path = "/small".parse()?;
    let mut times = Vec::new();
    for _ in 0..11 {
        let start = Instant::now();
        let mut send = load::connect(target).await?;
        load::call(&mut send, target, &path).await?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// The median of 20 calls, one after the other.
async fn warm_call(target: &Target) -> Result<Duration, Failure> {
    let mut send = load::connect(target).await?;
    let path = "/small".parse()?;
    load::call(&mut send, target, &path).await?;
    let mut times = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        load::call(&mut send, target, &path).await?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

async fn download(target: &Target) -> Result<f64, Failure> {
    let mut send = load::connect(target).await?;
    let start = Instant::now();
    let bytes = load::call(&mut send, target, &"/large".parse()?).await?;
    Ok(bytes as f64 / 1e6 / start.elapsed().as_secs_f64())
}

async fn upload(target: &Target) -> Result<f64, Failure> {
    let mut send = load::connect(target).await?;
    let start = Instant::now();
    load::upload(&mut send, target, &"/sink".parse()?, UPLOAD).await?;
    Ok(UPLOAD as f64 / 1e6 / start.elapsed().as_secs_f64())
}
