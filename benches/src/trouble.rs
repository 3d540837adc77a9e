//! Trouble on the way: a link that is cut, a caller that does not read.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::load::{self, Failure, Target};
use crate::stack::Stack;

/// Streams that read, beside the one that does not.
const READERS: usize = 99;

/// How long the link holds before it is cut: an agent whose sessions break at once dials ever
/// more slowly, as it should.
const HOLDS: Duration = Duration::from_secs(4);

/// Cuts the link `cuts` times; each time, how long until a call works again.
pub async fn cut(stack: &Stack, cuts: usize, out: &mut impl Write) -> Result<(), Failure> {
    let [link, _] = stack.links.as_ref().ok_or("there is no link to cut")?;
    let mut times = Vec::new();
    for _ in 0..cuts {
        tokio::time::sleep(HOLDS).await;
        call(&stack.culvert).await?;
        link.cut();
        let start = Instant::now();
        // The session is lost only when both ends have seen it: the first call that fails, or
        // that succeeds on a new session, counts from the cut.
        tokio::time::sleep(Duration::from_millis(1)).await;
        while call(&stack.culvert).await.is_err() {
            if start.elapsed() > Duration::from_secs(30) {
                return Err("no call works 30 s after the cut".into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        times.push(start.elapsed());
    }
    times.sort_unstable();
    writeln!(
        out,
        "link cut to a call that works, {cuts} times: median {:.0} ms ({:.0} to {:.0})",
        times[cuts / 2].as_secs_f64() * 1e3,
        times[0].as_secs_f64() * 1e3,
        times[cuts - 1].as_secs_f64() * 1e3,
    )?;
    Ok(())
}

async fn call(target: &Target) -> Result<u64, Failure> {
    let mut send = load::connect(target).await?;
    load::call(&mut send, target, &"/small".parse()?).await
}

/// What 99 downloads get together, without and with a hundredth that nobody reads.
pub async fn unread(stack: &Stack, time: Duration, out: &mut impl Write) -> Result<(), Failure> {
    for (way, target) in [("nginx", &stack.nginx), ("culvert", &stack.culvert)] {
        let alone = downloads(target, time).await?;
        let stuck = load::start_download(target, "/large").await?;
        let beside = downloads(target, time).await?;
        drop(stuck);
        writeln!(
            out,
            "{way:<9} 99 downloads: {:>7.1} MB/s alone, {:>7.1} MB/s beside one unread: {:.3}",
            alone / 1e6,
            beside / 1e6,
            beside / alone
        )?;
    }
    Ok(())
}

/// Bytes per second of all readers together.
async fn downloads(target: &Target, time: Duration) -> Result<f64, Failure> {
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..READERS {
        let target = target.clone();
        readers.spawn(async move { load::download_paced(&target, "/large", u64::MAX, time).await });
    }
    let mut bytes = 0;
    while let Some(read) = readers.join_next().await {
        bytes += read??;
    }
    Ok(bytes as f64 / time.as_secs_f64())
}
