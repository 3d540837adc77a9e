//! What the guard takes and refuses, and that its readings are hyper's.

mod connection;
mod properties;
mod tables;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Violation;
use super::head::{HeadScan, Scanned};
use super::io::Guard;
use crate::long_heads::LongHeads;
use crate::pace::Pace;
use crate::traffic::Traffic;

const PACE: Pace = Pace {
    head: Duration::from_secs(10),
    keep_alive: Duration::from_secs(60),
    stall: Duration::from_secs(30),
};

/// Scans a head that is there at once.
fn scan(head: &[u8]) -> Result<Scanned, Violation> {
    HeadScan::default().scan(head)
}

/// A request whose head has these lines behind the request line and the Host.
fn with(lines: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes()
}

/// Sends `input` through a guard in pieces cut at `cuts`, with every call answered at once.
/// Gives what came out until the guard refused, ended or waits for more, and what was refused.
async fn pass(input: &[u8], cuts: &[usize], read: usize) -> (Vec<u8>, Option<Violation>) {
    let (mut caller, server) = tokio::io::duplex(1 << 20);
    let traffic = Arc::new(Traffic::default());
    let mut guard = Guard::new(server, traffic.clone(), PACE, LongHeads::default());
    let mut out = Vec::new();
    let mut from = 0;
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    cuts.push(input.len());
    cuts.sort_unstable();
    for cut in cuts {
        caller.write_all(&input[from..cut]).await.unwrap();
        from = cut;
        let mut buffer = vec![0; read];
        // The paused clock moves on as soon as everybody waits.
        let moment = Duration::from_millis(1);
        while let Ok(Ok(length @ 1..)) = tokio::time::timeout(moment, guard.read(&mut buffer)).await
        {
            out.extend_from_slice(&buffer[..length]);
            if traffic.refused().is_none() && traffic.is_busy() {
                traffic.on_end();
            }
        }
    }
    (out, traffic.refused())
}
