//! One line per call in the audit log, and the security log for what no relay should send.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Mutex;

use culvert_proto::code::GoawayCode;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::*;

type Line = BTreeMap<String, String>;

/// The lines of one log target.
#[derive(Clone)]
struct Log {
    target: &'static str,
    lines: Arc<Mutex<Vec<Line>>>,
}

struct Fields<'a>(&'a mut Line);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(
            field.name().to_owned(),
            format!("{value:?}").trim_matches('"').to_owned(),
        );
    }
}

impl<S: tracing::Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == self.target {
            let mut line = Line::new();
            event.record(&mut Fields(&mut line));
            self.lines.lock().unwrap().push(line);
        }
    }
}

impl Log {
    /// Listens on this thread, which is where a test's tasks run.
    fn listen(target: &'static str) -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self {
            target,
            lines: Arc::default(),
        };
        let subscriber = tracing_subscriber::registry().with(log.clone());
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn take(&self) -> Vec<Line> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }

    /// The one line of a call that is over.
    async fn one(&self, tunnel: &Tunnel) -> Line {
        tunnel.serving.calls().close();
        tunnel.serving.calls().wait().await;
        let mut lines = self.take();
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }
}

fn assert_line(line: &Line, expected: &[(&str, &str)]) {
    for (field, value) in expected {
        assert_eq!(
            line.get(*field).map(String::as_str),
            Some(*value),
            "{field} in {line:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_answered_call_leaves_a_line_with_all_that_was_decided() {
    let (log, _guard) = Log::listen("culvert::audit");
    let mut tunnel = Tunnel::new(POLICY).await;
    let mut call = tunnel.call(&post("/api/vms?x=1", BodyLength::Exact(4)), "four");
    let mut upstream = tunnel.connection().await;
    upstream.request().await.unwrap();
    upstream.send(HELLO).await;
    assert_eq!(body_of(&mut call).await, b"hello");
    assert_line(
        &log.one(&tunnel).await,
        &[
            ("call", "07070707070707070707070707070707"),
            ("tenant", "acme"),
            ("caller", "director-7"),
            ("endpoint", "api"),
            ("mode", "http"),
            ("method", "POST"),
            ("target", "/api/vms?x=1"),
            ("decision", "allow"),
            ("rule", "read"),
            ("status", "200"),
            ("bytes_in", "4"),
            ("bytes_out", "5"),
            ("outcome", "answered"),
        ],
    );
}

#[tokio::test(start_paused = true)]
async fn every_ending_leaves_exactly_one_line() {
    let (log, _guard) = Log::listen("culvert::audit");

    let tunnel = Tunnel::new(POLICY).await;
    refusal(&mut tunnel.call(&get("/api/secrets/1"), "")).await;
    assert_line(
        &log.one(&tunnel).await,
        &[
            ("decision", "deny"),
            ("rule", "secrets"),
            ("reason", "rule"),
            ("status", "403"),
            ("outcome", "refused"),
        ],
    );

    let mut tunnel = Tunnel::new(POLICY).await;
    let mut call = tunnel.call(&get("/api/1"), "");
    tunnel.connection().await.request().await.unwrap();
    refusal(&mut call).await;
    assert_line(
        &log.one(&tunnel).await,
        &[("status", "502"), ("outcome", "failed")],
    );

    let mut tunnel = Tunnel::new(POLICY).await;
    let mut call = tunnel.call(&get("/api/1"), "");
    let mut upstream = tunnel.connection().await;
    upstream.request().await.unwrap();
    upstream
        .send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")
        .await;
    answer(&mut call).await;
    drop(upstream);
    body(&mut call).await.1.unwrap_err();
    assert_line(
        &log.one(&tunnel).await,
        &[
            ("status", "200"),
            ("bytes_out", "5"),
            ("outcome", "truncated"),
        ],
    );

    let mut tunnel = Tunnel::new(POLICY).await;
    let call = tunnel.call(&get("/api/1"), "");
    let mut upstream = tunnel.connection().await;
    upstream.request().await.unwrap();
    drop(call);
    assert_line(&log.one(&tunnel).await, &[("outcome", "caller-gone")]);

    let mut tunnel = Tunnel::new(POLICY).await;
    let _call = tunnel.call(&get("/api/1"), "");
    let _upstream = tunnel.connection().await;
    tunnel.relay.close(GoawayCode::Internal, "gone");
    assert_line(&log.one(&tunnel).await, &[("outcome", "session-lost")]);

    let mut tunnel = Tunnel::new(POLICY).await;
    let _call = tunnel.call(&get("/api/1"), "");
    let _upstream = tunnel.connection().await;
    tunnel.policy.send_replace(policy(
        "version = 1\n[[rule]]\nid = \"no\"\naction = \"deny\"\n",
    ));
    assert_line(&log.one(&tunnel).await, &[("outcome", "withdrawn")]);
}

#[tokio::test(start_paused = true)]
async fn a_shadow_rule_is_logged_and_not_applied() {
    let (log, _guard) = Log::listen("culvert::audit");
    let rules = format!(
        "{POLICY}\n[[rule]]\nid = \"soon\"\naction = \"deny\"\npath = [\"/api/old/**\"]\nenforce = false\n"
    );
    let mut tunnel = Tunnel::new(&rules).await;
    let _call = tunnel.call(&get("/api/old/1"), "");
    tunnel.connection().await.request().await.unwrap();
    let lines = log.take();
    assert_eq!(lines.len(), 1);
    assert_line(&lines[0], &[("rule", "soon")]);
}

#[tokio::test(start_paused = true)]
async fn what_no_relay_in_good_order_sends_is_a_security_event() {
    let (log, _guard) = Log::listen("culvert::security");
    let tunnel = Tunnel::new(POLICY).await;
    refusal(&mut tunnel.call(&get("/api/../\"secrets"), "")).await;
    let lines = log.take();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_line(
        &lines[0],
        &[("relay", "relay-1"), ("target", "/api/../\\\"secrets")],
    );

    refusal(&mut tunnel.call(&get("/api/a;b"), "")).await;
    refusal(&mut tunnel.call(&get("/api/secrets/1"), "")).await;
    assert_eq!(
        log.take(),
        Vec::<Line>::new(),
        "callers' own doing is no security event"
    );
}
