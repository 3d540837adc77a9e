//! Bulk transfers in the background, counted while they run.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use crate::load::{self, Body, Failure, Target};

/// Some transfers, each on its own connection, one file after the other. Dropped, they end.
#[derive(Debug)]
pub struct Bulk {
    transfers: JoinSet<Result<(), Failure>>,
    bytes: Arc<AtomicU64>,
}

impl Bulk {
    /// `streams` downloads of `/large`, each at most `pace` bytes per second.
    pub fn down(target: &Target, streams: usize, pace: Option<u64>) -> Self {
        let bytes = Arc::new(AtomicU64::new(0));
        let mut transfers = JoinSet::new();
        for _ in 0..streams {
            let (target, bytes) = (target.clone(), bytes.clone());
            transfers.spawn(async move {
                loop {
                    download(&target, pace, &bytes).await?;
                }
            });
        }
        Self { transfers, bytes }
    }

    /// `streams` uploads to `/sink`. What counts is what has `arrived` there, since whatever lies
    /// in between may buffer.
    pub fn up(target: &Target, streams: usize, arrived: Arc<AtomicU64>) -> Self {
        let mut transfers = JoinSet::new();
        for _ in 0..streams {
            let target = target.clone();
            transfers.spawn(async move {
                loop {
                    upload(&target).await?;
                }
            });
        }
        let bytes = arrived;
        Self { transfers, bytes }
    }

    /// Bytes per second of all transfers together in the next `time`. Fails if one of them did.
    pub async fn rate(&mut self, time: Duration) -> Result<f64, Failure> {
        let (start, before) = (Instant::now(), self.bytes());
        sleep(time).await;
        self.check()?;
        Ok((self.bytes() - before) as f64 / start.elapsed().as_secs_f64())
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether all transfers still run; if not, why.
    pub fn check(&mut self) -> Result<(), Failure> {
        match self.transfers.try_join_next() {
            None => Ok(()),
            Some(Ok(Err(error))) => Err(format!("a transfer failed: {error}").into()),
            Some(Ok(Ok(()))) => Err("a transfer ended".into()),
            Some(Err(error)) => Err(error.into()),
        }
    }
}

/// One file, at most `pace` bytes per second: a reader that takes its time between reads.
async fn download(target: &Target, pace: Option<u64>, bytes: &AtomicU64) -> Result<(), Failure> {
    let (_connection, mut body) = load::start_download(target, "/large").await?;
    let start = Instant::now();
    let mut read: u64 = 0;
    while let Some(frame) = body.frame().await {
        let length = frame?.data_ref().map_or(0, |data| data.len() as u64);
        bytes.fetch_add(length, Ordering::Relaxed);
        read += length;
        if let Some(pace) = pace {
            let due = start + Duration::from_secs_f64(read as f64 / pace as f64);
            sleep_until(due.into()).await;
        }
    }
    Ok(())
}

/// 1 GiB of zeros.
async fn upload(target: &Target) -> Result<(), Failure> {
    let chunk = Bytes::from_static(&[0; 64 << 10]);
    let frames =
        std::iter::repeat_n(chunk, 1 << 14).map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
    let mut send = load::connect(target).await?;
    let body = Body::new(StreamBody::new(stream::iter(frames)));
    load::put(&mut send, target, &"/sink".parse()?, body).await?;
    Ok(())
}
