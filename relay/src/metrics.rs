//! What the node counts: OpenMetrics, read from the admin listener.
//!
//! Every handle is made once, here: to count is one atomic addition, no look-up of labels. Labels
//! come from closed sets, never from what a peer sends.

mod connections;
mod handshakes;
mod peers;
mod rights;
mod sessions;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use culvert_http::Carried;
use culvert_proto::code::ErrorCode;
use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub(crate) use self::connections::{Arrival, Connections};
pub(crate) use self::handshakes::HandshakeCounts;
pub(crate) use self::peers::{Peers, RegistryWork};
pub(crate) use self::rights::{Issuers, QuotaKind, Quotas, Revoked, StrangerCounts};
pub(crate) use self::sessions::{Lanes, Refused, Sessions};
use crate::cluster::Load;

/// Bounds of the duration histogram: from a call beside the relay to a long poll.
const DURATIONS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 1800.0,
];

/// Every count of one node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// When the first of the public certificates expires, in seconds since the Unix epoch.
    pub(crate) certificate_expiry: Gauge,
    pub(crate) connections: Connections,
    pub(crate) handshakes: HandshakeCounts,
    pub(crate) sessions: Sessions,
    pub(crate) lanes: Lanes,
    pub(crate) revocations: Revoked,
    pub(crate) quotas: Quotas,
    pub(crate) strangers: StrangerCounts,
    pub(crate) issuers: Issuers,
    pub(crate) peers: Peers,
    calls: Calls,
}

/// How a call ended, as far as its caller could see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream's answer was passed on to its end.
    Answered(StatusCode),
    /// The relay answered in the upstream's place: a refusal or a failure.
    Refused(ErrorCode),
    /// The caller went away before the end, or was too slow.
    CallerGone,
    /// The answer broke off after its head had been passed on.
    CutShort,
    /// A defect of this relay ended it.
    Defect,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    outcome: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

impl Metrics {
    /// A node's counts, all zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("culvert_relay");
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version that runs", version);
        let certificate_expiry = Gauge::default();
        let name = "certificate_expiry_timestamp";
        let help = "When the first of the certificates of [tls] expires, in Unix time; 0 before they are known";
        registry.register_with_unit(name, help, Unit::Seconds, certificate_expiry.clone());
        Self {
            certificate_expiry,
            connections: Connections::new(&mut registry),
            handshakes: HandshakeCounts::new(&mut registry),
            sessions: Sessions::new(&mut registry),
            lanes: Lanes::new(&mut registry),
            revocations: Revoked::new(&mut registry),
            quotas: Quotas::new(&mut registry),
            strangers: StrangerCounts::new(&mut registry),
            issuers: Issuers::new(&mut registry),
            peers: Peers::new(&mut registry),
            calls: Calls::new(&mut registry),
            registry,
        }
    }

    /// A call begins. [`call_finished`](Self::call_finished) must follow, or
    /// [`call_withdrawn`](Self::call_withdrawn).
    pub fn call_started(&self) {
        self.calls.in_flight.inc();
    }

    /// Where the bytes of bodies are counted as they go.
    pub(crate) fn carried(&self) -> Arc<Carried> {
        self.calls.carried.clone()
    }

    /// What began is no call.
    pub(crate) fn call_withdrawn(&self) {
        self.calls.in_flight.dec();
    }

    /// A call is over, however it ended.
    pub fn call_finished(&self, outcome: Outcome, duration: Duration) {
        let calls = &self.calls;
        calls.in_flight.dec();
        match outcome {
            Outcome::Answered(status) => {
                let class = usize::from(status.as_u16() / 100).clamp(1, 5);
                calls.answered[class - 1].inc();
            }
            Outcome::Refused(code) => {
                if let Some(at) = ErrorCode::ALL.iter().position(|known| *known == code) {
                    calls.refused[at].inc();
                }
            }
            Outcome::CallerGone => _ = calls.caller_gone.inc(),
            Outcome::CutShort => _ = calls.cut_short.inc(),
            Outcome::Defect => _ = calls.defect.inc(),
        }
        calls.duration.observe(duration.as_secs_f64());
    }

    /// When the first of the public certificates expires, once that is known.
    pub(crate) fn certificate_expires(&self) -> Option<u64> {
        let expires = u64::try_from(self.certificate_expiry.get()).ok();
        expires.filter(|expires| *expires > 0)
    }

    /// Public connections, agents' included.
    pub(crate) fn open_connections(&self) -> u64 {
        u64::try_from(self.connections.open.get()).unwrap_or(0)
    }

    /// How busy the node is.
    pub(crate) fn load(&self) -> Load {
        Load {
            sessions: u64::try_from(self.sessions.open.get()).unwrap_or(0),
            connections: self.open_connections(),
            calls: self.calls_in_flight(),
        }
    }

    /// Calls that are not over.
    pub fn calls_in_flight(&self) -> u64 {
        u64::try_from(self.calls.in_flight.get()).unwrap_or(0)
    }

    /// Everything as OpenMetrics text.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug)]
struct Calls {
    in_flight: Gauge,
    answered: [Counter; 5],
    refused: Vec<Counter>,
    caller_gone: Counter,
    cut_short: Counter,
    defect: Counter,
    duration: Histogram,
    carried: Arc<Carried>,
}

impl Calls {
    fn new(registry: &mut Registry) -> Self {
        let calls = Family::<CallLabels, Counter>::default();
        let counter = |outcome, code| calls.get_or_create_owned(&CallLabels { outcome, code });
        let new = Self {
            in_flight: Gauge::default(),
            answered: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| counter("answered", class)),
            refused: ErrorCode::ALL
                .iter()
                .map(|code| counter("refused", code.as_str()))
                .collect(),
            caller_gone: counter("caller-gone", ""),
            cut_short: counter("cut-short", ""),
            defect: counter("defect", ""),
            duration: Histogram::new(DURATIONS),
            carried: Arc::default(),
        };
        registry.register(
            "calls_in_flight",
            "Calls that are not over",
            new.in_flight.clone(),
        );
        registry.register("calls", "Calls that are over", calls);
        let help = "From a request's head to the end of its answer";
        registry.register_with_unit("call_duration", help, Unit::Seconds, new.duration.clone());
        registry.register_collector(Box::new(BodyBytes(new.carried.clone())));
        new
    }
}

/// What the bodies of all calls have been, read when somebody asks.
#[derive(Debug)]
struct BodyBytes(Arc<Carried>);

impl Collector for BodyBytes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (received, sent) = (self.0.received(), self.0.sent());
        for (name, help, bytes) in [
            ("received", "Body bytes that callers sent", received),
            ("sent", "Body bytes that callers were sent", sent),
        ] {
            let counter = ConstCounter::new(bytes);
            let kind = counter.metric_type();
            counter.encode(encoder.encode_descriptor(name, help, Some(&Unit::Bytes), kind)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_millis(20);

    #[test]
    fn each_call_is_counted_once_under_its_outcome() {
        let metrics = Metrics::new();
        let outcomes = [
            (
                Outcome::Answered(StatusCode::NO_CONTENT),
                "outcome=\"answered\",code=\"2xx\"",
            ),
            (
                Outcome::Refused(ErrorCode::PolicyDenied),
                "outcome=\"refused\",code=\"policy-denied\"",
            ),
            (Outcome::CallerGone, "outcome=\"caller-gone\",code=\"\""),
            (Outcome::CutShort, "outcome=\"cut-short\",code=\"\""),
            (Outcome::Defect, "outcome=\"defect\",code=\"\""),
        ];
        for (outcome, _) in outcomes {
            metrics.call_started();
            assert_eq!(metrics.calls_in_flight(), 1);
            metrics.call_finished(outcome, DURATION);
            assert_eq!(metrics.calls_in_flight(), 0);
        }
        let text = metrics.render().unwrap();
        for (_, labels) in outcomes {
            assert!(
                text.contains(&format!("culvert_relay_calls_total{{{labels}}} 1\n")),
                "{text}"
            );
        }
        assert!(
            text.contains("culvert_relay_call_duration_seconds_count 5\n"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_error_code_has_a_counter() {
        let metrics = Metrics::new();
        for code in ErrorCode::ALL {
            metrics.call_started();
            metrics.call_finished(Outcome::Refused(*code), DURATION);
        }
        let text = metrics.render().unwrap();
        for code in ErrorCode::ALL {
            let line =
                format!("culvert_relay_calls_total{{outcome=\"refused\",code=\"{code}\"}} 1\n");
            assert!(text.contains(&line), "{line}: {text}");
        }
    }
}
