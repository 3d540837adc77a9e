//! Callers that call all the time while a test does things to relays, and a local API that counts what
//! arrives: [`culvert_demo::load`] on a thread of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use culvert_demo::judge::Findings;
pub use culvert_demo::judge::Trouble;
use culvert_demo::load::{Book, Load, Plan};
use tokio::runtime::Runtime;
pub use tokio::time::Instant;

use crate::issuer::world;
use crate::stack::DOMAIN;
use crate::upstream::Upstream;

/// A local API that counts reports by the id of the event, works on each as long as it is asked to,
/// and answers everything with the name of the tenant that it is for.
#[derive(Debug)]
pub struct Events {
    upstream: Upstream,
    counts: Arc<Mutex<HashMap<String, u32>>>,
    tenant: String,
}

impl Events {
    /// Starts one.
    pub fn of(tenant: &str) -> Self {
        let counts: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
        let (counted, answer) = (counts.clone(), tenant.to_owned());
        let upstream = Upstream::start(move |request, connection| {
            let target = request.target();
            if let Some((event, work)) = target
                .strip_prefix("/api/events/")
                .and_then(|rest| rest.split_once("?work_ms="))
            {
                let mut counts = counted.lock().unwrap_or_else(PoisonError::into_inner);
                *counts.entry(event.to_owned()).or_default() += 1;
                drop(counts);
                std::thread::sleep(Duration::from_millis(work.parse().unwrap_or(0)));
            }
            connection.answer("200 OK", answer.as_bytes())
        });
        Self {
            upstream,
            counts,
            tenant: tenant.to_owned(),
        }
    }

    /// Its address.
    pub fn url(&self) -> String {
        self.upstream.url()
    }

    /// How often each event was reported.
    pub fn arrived(&self) -> HashMap<String, u32> {
        let counts = self.counts.lock();
        counts.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Callers of its tenant by way of a port, each with a call that is over soon and one that takes
    /// longer; `token` is their credential, `prefix` what the ids of their events begin with.
    pub fn callers(&self, count: usize, port: u16, token: &str, prefix: &str) -> Callers {
        let host = format!("vcenter--{}.{DOMAIN}", self.tenant);
        let ca = std::fs::read_to_string(world().ca_file()).expect("the authority");
        Callers::start(Plan {
            authority: ca,
            callers: count,
            headers: vec![("Culvert-Authorization".into(), format!("Bearer {token}"))],
            read: format!("https://{host}:{port}/api/read"),
            report: format!("https://{host}:{port}/api/events"),
            host,
            prefix: prefix.to_owned(),
            quick: 5..50,
            slow: 200..2000,
            answer: Some(self.tenant.clone()),
        })
    }

    /// What the callers saw, beside what arrived here, after these troubles.
    pub fn findings(&self, book: &Book, troubles: &[Trouble]) -> Findings {
        Findings::of(book, troubles, &self.arrived())
    }
}

/// Somebody of another tenant who asks for what is `events`' tenant's, by way of a port.
pub fn stranger(events: &Events, port: u16, token: &str) -> Callers {
    events.callers(1, port, token, "stranger-")
}

/// Callers at work.
#[derive(Debug)]
pub struct Callers {
    load: Load,
    runtime: Runtime,
}

impl Callers {
    /// Starts them.
    pub fn start(plan: Plan) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread");
        let load = {
            let _entered = runtime.enter();
            Load::start(plan).expect("clients")
        };
        Self { load, runtime }
    }

    /// How the calls go.
    pub fn book(&self) -> &Arc<Book> {
        self.load.book()
    }

    /// Waits until so many further calls are over.
    pub fn await_calls(&self, more: usize) {
        let before = self.book().calls();
        crate::wait::until("calls go on", || self.book().calls() >= before + more);
    }

    /// Waits for the calls in flight, and makes no further ones.
    pub fn stop(self) -> Arc<Book> {
        self.runtime.block_on(self.load.stop())
    }
}
