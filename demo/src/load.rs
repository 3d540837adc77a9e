//! Callers that call without a pause, and remember how each call went: for the demo of a cluster, and
//! for tests that do things to one meanwhile.
//!
//! A caller reads, which may be sent again by whoever lost an answer, and reports events, which must
//! never be: each has an id, by which whoever is called can tell how often it came.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::Method;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::failure::Result;
use crate::web::Web;

/// Most failures that are remembered.
const MAX_FAILURES: usize = 10_000;

/// What is called, by whom.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The certificate that the relays' certificates are signed by, PEM.
    pub authority: String,
    /// The host name of the URLs, which is on loopback.
    pub host: String,
    /// Callers, each with connections of its own: every second one speaks HTTP/2.
    pub callers: usize,
    /// Headers of every call.
    pub headers: Vec<(String, String)>,
    /// What is read.
    pub read: String,
    /// Where events are reported: `/ID?work_ms=N` is added.
    pub report: String,
    /// What the ids of events begin with.
    pub prefix: String,
    /// For how many milliseconds quick reports are worked on.
    pub quick: Range<u64>,
    /// The same of the slow ones; of those each caller has one in flight.
    pub slow: Range<u64>,
    /// What every answer of a success must be, if anything.
    pub answer: Option<String>,
}

/// Callers at work. Dropped, they are gone.
#[derive(Debug)]
pub struct Load {
    book: Arc<Book>,
    callers: JoinSet<()>,
}

/// How the calls went.
#[derive(Debug, Default)]
pub struct Book {
    /// No further calls are made.
    closed: AtomicBool,
    calls: AtomicUsize,
    failed: AtomicUsize,
    wrong: AtomicUsize,
    in_flight: AtomicUsize,
    events: AtomicUsize,
    failures: Mutex<Vec<CallFailed>>,
    reported: Mutex<HashSet<String>>,
}

/// A call that failed.
#[derive(Debug, Clone)]
pub struct CallFailed {
    /// When it was made.
    pub begun: Instant,
    /// When it was over.
    pub ended: Instant,
    /// What was called: method and URL.
    pub call: String,
    /// What the caller got.
    pub why: String,
}

#[derive(Clone)]
struct Caller {
    web: Arc<Web>,
    plan: Arc<Plan>,
    book: Arc<Book>,
}

impl Load {
    /// Starts the callers.
    pub fn start(plan: Plan) -> Result<Self> {
        let plan = Arc::new(plan);
        let book = Arc::new(Book::default());
        let mut callers = JoinSet::new();
        for number in 0..plan.callers {
            let http = if number % 2 == 0 { "http/1.1" } else { "h2" };
            let web = Web::reaching(&plan.authority, &[&plan.host], &[http])?;
            let caller = Caller {
                web: Arc::new(web),
                plan: plan.clone(),
                book: book.clone(),
            };
            let slow = caller.clone();
            callers.spawn(async move {
                while !caller.book.is_closed() {
                    caller.report(&caller.plan.quick).await;
                    caller.call(Method::GET, &caller.plan.read).await;
                }
            });
            callers.spawn(async move {
                while !slow.book.is_closed() && !slow.plan.slow.is_empty() {
                    slow.report(&slow.plan.slow).await;
                }
            });
        }
        Ok(Self { book, callers })
    }

    /// How the calls go.
    pub fn book(&self) -> &Arc<Book> {
        &self.book
    }

    /// Lets the calls in flight end, and makes no further ones.
    pub async fn stop(mut self) -> Arc<Book> {
        self.book.closed.store(true, Ordering::Relaxed);
        while self.callers.join_next().await.is_some() {}
        self.book.clone()
    }
}

impl Caller {
    /// Reports an event of its own.
    async fn report(&self, work: &Range<u64>) {
        let number = self.book.events.fetch_add(1, Ordering::Relaxed);
        let event = format!("{}{number}", self.plan.prefix);
        let work = fastrand::u64(work.clone());
        let url = format!("{}/{event}?work_ms={work}", self.plan.report);
        if self.call(Method::POST, &url).await {
            lock(&self.book.reported).insert(event);
        }
    }

    /// Whether it got an answer that says success.
    async fn call(&self, method: Method, url: &str) -> bool {
        let begun = Instant::now();
        let mut request = self.web.request(method.clone(), url);
        for (name, value) in &self.plan.headers {
            request = request.header(name, value);
        }
        self.book.in_flight.fetch_add(1, Ordering::Relaxed);
        let answer = self.web.send(request).await;
        self.book.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.book.calls.fetch_add(1, Ordering::Relaxed);
        let why = match answer {
            Ok(answer) if answer.status.is_success() => {
                let expected = self.plan.answer.as_deref();
                if expected.is_some_and(|expected| answer.body != expected) {
                    self.book.wrong.fetch_add(1, Ordering::Relaxed);
                }
                return true;
            }
            Ok(answer) => {
                let code = answer.problem().map(|problem| problem.code);
                format!("{} {}", answer.status, code.unwrap_or_default())
            }
            Err(error) => {
                let why = error.to_string();
                // What is before it is the URL.
                why.rsplit_once("): ")
                    .map_or(&*why, |(_, cause)| cause)
                    .to_owned()
            }
        };
        self.book.failed.fetch_add(1, Ordering::Relaxed);
        let ended = Instant::now();
        let mut failures = lock(&self.book.failures);
        if failures.len() < MAX_FAILURES {
            failures.push(CallFailed {
                begun,
                ended,
                call: format!("{method} {url}"),
                why,
            });
        }
        false
    }
}

impl Book {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Calls that are over.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Those of them that failed.
    pub fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }

    /// Those of them that succeeded with an answer that is not the expected one.
    pub fn wrong(&self) -> usize {
        self.wrong.load(Ordering::Relaxed)
    }

    /// Calls that are not over.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How the failed calls failed; of very many, the first ones.
    pub fn failures(&self) -> Vec<CallFailed> {
        lock(&self.failures).clone()
    }

    /// The events whose report succeeded.
    pub fn reported(&self) -> HashSet<String> {
        lock(&self.reported).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
