//! What a session is for: the endpoints that the agent offers on it, and what the relay says.

use std::time::Duration;

use culvert_config::endpoint::Endpoint;
use culvert_identity::AccessToken;
use culvert_process::words::{first, sentence};
use culvert_proto::control::{Control, Offer, Registration};
use culvert_proto::mux::ControlError;
use culvert_session::Session;
use serde::{Deserialize, Serialize};

/// How long a relay may take to answer a REGISTER.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Most endpoints that a log line names; `status` has them all.
const MOST_NAMED: usize = 16;

/// The offers for the endpoints of a configuration.
pub(crate) fn offers(endpoints: &[Endpoint]) -> Vec<Offer> {
    let offer = |endpoint: &Endpoint| Offer {
        endpoint: endpoint.name.clone(),
        modes: endpoint.modes.clone(),
        connect: endpoint.connect.iter().map(ToString::to_string).collect(),
        priority: endpoint.priority,
    };
    endpoints.iter().map(offer).collect()
}

/// What a relay said of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registered {
    /// The endpoint.
    pub(crate) endpoint: String,
    /// Why it is not registered.
    pub(crate) refused: Option<String>,
}

/// The registrations of one session.
#[derive(Debug)]
pub(crate) struct Registrations<'a> {
    offers: &'a [Offer],
    node: &'a str,
    request: u32,
    results: Vec<Registered>,
    answered: bool,
}

impl<'a> Registrations<'a> {
    /// For a session with the relay node `node`; nothing is sent yet.
    pub(crate) fn new(offers: &'a [Offer], node: &'a str) -> Self {
        Self {
            offers,
            node,
            request: 0,
            results: Vec::new(),
            answered: false,
        }
    }

    /// Offers every endpoint.
    pub(crate) fn offer(&mut self, session: &Session) -> Result<(), ControlError> {
        self.request = self.request.wrapping_add(1);
        self.answered = false;
        let offers = self.offers.to_vec();
        session.send_control(&Control::Register {
            request: self.request,
            offers,
        })
    }

    /// Passes a renewed token on, so that the session outlives the old one, and offers every endpoint
    /// again: the new token may cover more than the old one did, or less.
    pub(crate) fn renew(
        &mut self,
        session: &Session,
        token: &AccessToken,
    ) -> Result<(), ControlError> {
        session.send_control(&Control::Auth {
            token: token.expose().to_owned(),
        })?;
        tracing::debug!(relay = self.node, "passed the renewed token on");
        self.offer(session)
    }

    /// Takes note of the relay's answer to the last REGISTER. There is one to each: further ones would
    /// only fill the log.
    pub(crate) fn on_registered(&mut self, request: u32, results: &[Registration]) {
        if request != self.request || self.answered {
            tracing::debug!(
                relay = self.node,
                request,
                "an answer to an earlier registration"
            );
            return;
        }
        self.answered = true;
        let before = std::mem::take(&mut self.results);
        for offer in self.offers {
            let endpoint = offer.endpoint.as_str();
            let result = results.iter().find(|r| r.endpoint == offer.endpoint);
            let refused = match result {
                Some(result) => result.refused.as_deref().map(sentence),
                None => Some("the relay's answer does not mention it".to_owned()),
            };
            self.results.push(Registered {
                endpoint: endpoint.to_owned(),
                refused,
            });
        }
        self.log_news(&before);
    }

    /// Says what has changed since `before`, in two lines at most: a relay may say something else of all
    /// endpoints each time.
    fn log_news(&self, before: &[Registered]) {
        let relay = self.node;
        let (mut registered, mut refused) = (Vec::new(), Vec::new());
        for result in self.results.iter().filter(|it| !before.contains(it)) {
            match &result.refused {
                None => registered.push(&*result.endpoint),
                Some(reason) => refused.push(format!("{} ({reason})", result.endpoint)),
            }
        }
        if !registered.is_empty() {
            let (count, names) = (registered.len(), first(MOST_NAMED, registered));
            tracing::info!(relay, count, "registered: {names}");
        }
        if !refused.is_empty() {
            let (count, names) = (refused.len(), first(MOST_NAMED, refused));
            tracing::warn!(relay, count, "registration refused: {names}");
        }
    }

    /// What the relay said of each endpoint.
    pub(crate) fn results(&self) -> &[Registered] {
        &self.results
    }

    /// Whether the relay has answered the last REGISTER.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered
    }

    /// Endpoints that are registered on this session.
    pub(crate) fn registered(&self) -> usize {
        let registered = |result: &&Registered| result.refused.is_none();
        self.results.iter().filter(registered).count()
    }
}

#[cfg(test)]
mod tests {
    use culvert_proto::head::Mode;
    use culvert_proto::names::EndpointName;

    use super::*;
    use crate::testing::log::Log;

    fn offer(name: &str) -> Offer {
        Offer {
            endpoint: EndpointName::new(name).unwrap(),
            modes: vec![Mode::Http],
            connect: Vec::new(),
            priority: None,
        }
    }

    fn result(name: &str, refused: Option<&str>) -> Registration {
        Registration {
            endpoint: EndpointName::new(name).unwrap(),
            refused: refused.map(ToOwned::to_owned),
        }
    }

    #[test]
    fn only_what_was_offered_and_not_refused_is_registered() {
        let offers = [offer("vcenter"), offer("nsx"), offer("esx")];
        let mut registrations = Registrations::new(&offers, "relay-1");
        registrations.request = 7;
        registrations.on_registered(6, &[result("vcenter", None)]);
        assert!(!registrations.is_answered(), "an answer to something else");
        registrations.on_registered(
            7,
            &[
                result("vcenter", None),
                result("nsx", Some("not yours")),
                result("other", None),
            ],
        );
        assert!(registrations.is_answered());
        assert_eq!(registrations.registered(), 1);
        // There is one answer to a request.
        registrations.on_registered(7, &[]);
        assert_eq!(registrations.registered(), 1);
    }

    #[test]
    fn an_answer_is_two_lines_however_many_endpoints_it_changes() {
        let (log, _guards) = Log::listen("culvert_agent::register");
        let names: Vec<_> = (0..100).map(|number| format!("esx-{number}")).collect();
        let offers: Vec<_> = names.iter().map(|name| offer(name)).collect();
        let mut registrations = Registrations::new(&offers, "relay-1");
        for round in 0..3 {
            // Each time it is the other half.
            let results = names.iter().enumerate();
            let refused = |number: usize| (number % 2 == round % 2).then_some("not yours");
            let results = results.map(|(number, name)| result(name, refused(number)));
            registrations.answered = false;
            registrations.on_registered(0, &results.collect::<Vec<_>>());
            let lines = log.take();
            assert_eq!(lines.len(), 2, "{lines:?}");
            for line in &lines {
                assert_eq!(line["count"], "50");
                assert!(line["message"].ends_with(" and 34 more"), "{line:?}");
            }
        }
        assert!(registrations.results[1].refused.is_none());
        // What is as before is no news.
        registrations.answered = false;
        let same = registrations.results.clone();
        let same = same.iter();
        let same = same.map(|it| result(&it.endpoint, it.refused.as_deref()));
        registrations.on_registered(0, &same.collect::<Vec<_>>());
        assert!(log.take().is_empty());
    }
}
