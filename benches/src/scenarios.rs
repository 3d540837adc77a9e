//! What `culvert-bench local` and `run` can measure.

mod agents;
mod bulk;
mod cut_point;
mod failures;
mod link;
mod small;
mod soak;
mod waiting;

use crate::client::Version;
use crate::load::Failure;
use crate::suite::{Named, Suite};

/// A scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// Small calls over HTTP/1.1, at rising concurrency.
    CallsH1,
    /// Small calls over HTTP/2, at rising concurrency.
    CallsH2,
    /// A new connection for each call.
    Connections,
    /// Large answers, one and many at a time.
    Download,
    /// Large bodies, one and many at a time.
    Upload,
    /// Small calls beside transfers.
    Beside,
    /// WebSocket messages that come back.
    Websocket,
    /// Long polls by the thousand.
    Polls,
    /// Idle sessions by the thousand.
    Idle,
    /// All agents lose their connection at once.
    Storm,
    /// Agents come and go while calls are made.
    Churn,
    /// A long line between agent and relay: round trip, cap, stalls, cuts.
    Link,
    /// The relay is killed and started again.
    RelayKill,
    /// Everything together for a while.
    Soak,
}

impl Scenario {
    /// All but the soak, which takes its time.
    pub fn usual() -> Vec<Self> {
        let all = <Self as clap::ValueEnum>::value_variants();
        all.iter()
            .copied()
            .filter(|one| *one != Self::Soak)
            .collect()
    }

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::CallsH1 => "calls-h1",
            Self::CallsH2 => "calls-h2",
            Self::Connections => "connections",
            Self::Download => "download",
            Self::Upload => "upload",
            Self::Beside => "beside",
            Self::Websocket => "websocket",
            Self::Polls => "polls",
            Self::Idle => "idle",
            Self::Storm => "storm",
            Self::Churn => "churn",
            Self::Link => "link",
            Self::RelayKill => "relay-kill",
            Self::Soak => "soak",
        }
    }

    /// Whether it needs an installation of our own: its keys, its processes, its line.
    fn local_only(self) -> bool {
        use Scenario::{Churn, Idle, Link, RelayKill, Storm};
        matches!(self, Idle | Storm | Churn | Link | RelayKill)
    }

    /// Measures it.
    pub(crate) async fn run(self, suite: &mut Suite) -> Result<(), Failure> {
        if self.local_only() && suite.site.stack.is_none() {
            suite.skip(
                self.name(),
                "it needs an installation of its own: culvert-bench local",
            );
            return Ok(());
        }
        match self {
            Self::CallsH1 => small::calls(suite, self, Version::Http1).await,
            Self::CallsH2 => small::calls(suite, self, Version::Http2).await,
            Self::Connections => small::connections(suite, self).await,
            Self::Download => bulk::download(suite, self).await,
            Self::Upload => bulk::upload(suite, self).await,
            Self::Beside => bulk::beside(suite, self).await,
            Self::Websocket => waiting::websocket(suite, self).await,
            Self::Polls => waiting::polls(suite, self).await,
            Self::Idle => agents::idle(suite, self).await,
            Self::Storm => agents::storm(suite, self).await,
            Self::Churn => agents::churn(suite, self).await,
            Self::Link => link::run(suite, self).await,
            Self::RelayKill => failures::relay_kill(suite, self).await,
            Self::Soak => soak::run(suite, self).await,
        }
    }

    /// One of its cases.
    fn case(self, step: &str, what: impl Into<String>) -> Named {
        Named {
            name: format!("{}{step}", self.name()),
            what: what.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn a_scenario_is_called_in_the_report_as_on_the_command_line() {
        for scenario in Scenario::value_variants() {
            let value = scenario.to_possible_value().unwrap();
            assert_eq!(value.get_name(), scenario.name());
        }
        assert!(!Scenario::usual().contains(&Scenario::Soak));
    }
}
