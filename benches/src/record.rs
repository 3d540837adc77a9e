//! What calls did, counted while they run, from many tasks at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::Value;

use crate::load::{Failure, Refused};

/// Longest latency that is told from a longer one.
const LONGEST: Duration = Duration::from_secs(600);

/// Most kinds of errors that are told apart: what a peer answers must not fill our memory.
const KINDS: usize = 64;

/// Counters, and the details behind one lock, which costs far less than a call.
#[derive(Debug)]
pub struct Recorder {
    calls: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
    details: Mutex<Details>,
}

#[derive(Debug)]
struct Details {
    latency: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

/// The counters at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Calls that ended well.
    pub calls: u64,
    /// Calls that failed.
    pub errors: u64,
    /// Bytes of bodies.
    pub bytes: u64,
}

impl Recorder {
    /// One that has seen nothing.
    pub fn new() -> Result<Self, Failure> {
        let longest = LONGEST.as_micros() as u64;
        Ok(Self {
            calls: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            details: Mutex::new(Details {
                latency: Histogram::new_with_bounds(1, longest, 3)?,
                errors: BTreeMap::new(),
            }),
        })
    }

    /// A call ended so long after it was to begin.
    pub fn end(&self, latency: Duration, result: &Result<(), Failure>) {
        match result {
            Ok(()) => {
                self.calls.fetch_add(1, Ordering::Relaxed);
                self.details()
                    .latency
                    .saturating_record(latency.as_micros() as u64);
            }
            Err(error) => self.fail(latency, &kind(error)),
        }
    }

    /// A call failed so long after it was to begin.
    pub fn fail(&self, latency: Duration, kind: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut details = self.details();
        details
            .latency
            .saturating_record(latency.as_micros() as u64);
        let full = details.errors.len() >= KINDS && !details.errors.contains_key(kind);
        let kind = if full { "other" } else { kind };
        *details.errors.entry(kind.to_owned()).or_default() += 1;
    }

    /// Bytes of a body came or went.
    pub fn carried(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that were counted belong to a body that was refused.
    pub fn not_carried(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The counters now.
    pub fn count(&self) -> Count {
        Count {
            calls: self.calls.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// All latencies so far.
    pub fn latency(&self) -> Histogram<u64> {
        self.details().latency.clone()
    }

    /// All errors so far, by kind.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.details().errors.clone()
    }

    fn details(&self) -> MutexGuard<'_, Details> {
        self.details.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What kind of failure it is: the problem's `code` (RFC 9457), else the status, else what the
/// connection did.
pub fn kind(error: &Failure) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
    let mut shallow = None;
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref::<Refused>() {
            let problem: Option<Value> = serde_json::from_slice(&refused.body).ok();
            let code = problem.as_ref().and_then(code).map(str::to_owned);
            return code.unwrap_or_else(|| format!("status {}", refused.status.as_u16()));
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return format!("connection: {:?}", error.kind());
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && (error.is_incomplete_message() || error.is_canceled() || error.is_closed())
        {
            shallow = Some("connection: closed before the answer".to_owned());
        }
        if error.is::<tokio::time::error::Elapsed>() {
            return "timeout".into();
        }
        cause = error.source();
    }
    // Words, without what differs from call to call behind the first colon.
    shallow.unwrap_or_else(|| {
        let words = error.to_string();
        words
            .split(':')
            .next()
            .unwrap_or_default()
            .chars()
            .take(60)
            .collect()
    })
}

/// A problem's code (RFC 9457): a member of that name, or what its type ends with, which is where
/// Culvert has it.
fn code(problem: &Value) -> Option<&str> {
    let member = |name| problem.get(name).and_then(Value::as_str);
    let of_type = || Some(member("type")?.rsplit_once('#')?.1);
    member("code").or_else(of_type)
}

#[cfg(test)]
mod tests {
    use std::io;

    use bytes::Bytes;
    use http::StatusCode;

    use super::*;

    fn refused(body: &'static str) -> Failure {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let body = Bytes::from_static(body.as_bytes());
        Refused { status, body }.into()
    }

    #[test]
    fn an_error_is_named_by_code_then_status_then_what_the_connection_did() {
        let table: [(Failure, &str); 5] = [
            (refused("{\"code\":\"no_agent\"}"), "no_agent"),
            (
                refused("{\"type\":\"https://a/.culvert/errors#no-agent\",\"status\":503}"),
                "no-agent",
            ),
            (refused("<html>"), "status 503"),
            (
                io::Error::from(io::ErrorKind::ConnectionRefused).into(),
                "connection: ConnectionRefused",
            ),
            ("short: 17 of 200".into(), "short"),
        ];
        for (error, expected) in table {
            assert_eq!(kind(&error), expected);
        }
    }

    #[test]
    fn a_peer_that_invents_errors_does_not_fill_the_memory() {
        let recorder = Recorder::new().unwrap();
        for number in 0..1000 {
            recorder.fail(Duration::from_millis(1), &format!("invented {number}"));
        }
        let errors = recorder.errors();
        assert_eq!(errors.len(), KINDS + 1);
        assert_eq!(errors.values().sum::<u64>(), 1000);
        assert_eq!(recorder.count().errors, 1000);
    }
}
