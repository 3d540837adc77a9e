//! Which endpoints a session has: what the agent offers, within what its token allows.

use std::collections::HashSet;
use std::sync::Arc;

use culvert_identity::VerifiedToken;
use culvert_proto::connect_name::ConnectName;
use culvert_proto::control::{Offer, Registration};
use culvert_proto::head::Mode;
use culvert_proto::limits::MAX_OFFERS;
use culvert_proto::names::{EndpointName, MAX_NAME};

use super::{Agents, Record};
use crate::directory::Service;
use crate::metrics::QuotaKind;
use crate::place::Place;
use crate::tenants::Account;

/// Why nothing is registered while the token waits for its renewal.
pub(super) const SUSPENDED: &str = "the token expired: no new calls until it is renewed";

/// An endpoint and how it is served.
type Wanted = (EndpointName, Service);

/// The endpoints of one session. Dropped, all are withdrawn.
pub(crate) struct Registrations {
    agents: Arc<Agents>,
    record: Arc<Record>,
    account: Arc<Account>,
    /// What the agent offered last and its token allowed.
    wanted: Vec<Wanted>,
    /// What the directory has.
    bound: Vec<EndpointName>,
    /// Names of the last offers that are other endpoints', in words.
    contested: Vec<String>,
    suspended: bool,
}

impl Registrations {
    pub(crate) fn new(agents: Arc<Agents>, record: Arc<Record>, account: Arc<Account>) -> Self {
        Self {
            agents,
            record,
            account,
            wanted: Vec::new(),
            bound: Vec::new(),
            contested: Vec::new(),
            suspended: false,
        }
    }

    /// Takes offers in place of all earlier ones, and says of each what became of it.
    pub(crate) fn offer(&mut self, offers: &[Offer], token: &VerifiedToken) -> Vec<Registration> {
        let mut seen = HashSet::new();
        let mut named = HashSet::new();
        let mut results = Vec::with_capacity(offers.len());
        self.wanted.clear();
        self.contested.clear();
        for offer in offers {
            let endpoint = &offer.endpoint;
            let refused = if !seen.insert(endpoint) {
                Some("it is offered twice".to_owned())
            } else if seen.len() > MAX_OFFERS {
                Some("a session has no room for so many endpoints".to_owned())
            } else {
                refusal(endpoint, token).map(str::to_owned)
            };
            let service = match refused {
                Some(reason) => Err(reason),
                None => self.service(offer, &mut named),
            };
            let refused = match service {
                Ok(service) => {
                    self.wanted.push((endpoint.clone(), service));
                    None
                }
                Err(reason) => Some(reason),
            };
            results.push(Registration {
                endpoint: endpoint.clone(),
                refused,
            });
        }
        let without_room = self.bind();
        for result in results.iter_mut().filter(|result| result.refused.is_none()) {
            if self.suspended {
                result.refused = Some(SUSPENDED.to_owned());
            } else if let Some((_, what)) = without_room.iter().find(|it| it.0 == result.endpoint) {
                result.refused = Some(self.refuse(*what).to_owned());
            }
        }
        results
    }

    /// How an offer is to be served, with the names that callers may CONNECT to; `named` has those
    /// of the offers before it.
    ///
    /// A name that another endpoint has costs that name and no more: any agent of the tenant may declare
    /// any name, and none is to take another's endpoint out of service by it. The directory gives it to
    /// this endpoint once it is free.
    fn service(
        &mut self,
        offer: &Offer,
        named: &mut HashSet<ConnectName>,
    ) -> Result<Service, String> {
        let tunnel = [Mode::Terminate, Mode::Connect, Mode::Tcp];
        let tunnel = tunnel.into_iter().find(|mode| offer.modes.contains(mode));
        let mut names = Vec::with_capacity(offer.connect.len());
        let mut contested = Vec::new();
        for text in &offer.connect {
            let name = ConnectName::parse(text).map_err(|error| {
                format!("{} is no name to connect to: {error}", text.escape_debug())
            })?;
            if !named.insert(name.clone()) {
                return Err(format!("{name} is declared twice"));
            }
            let holder = self.agents.directory.server(&self.record.tenant, &name);
            if let Some(holder) = holder.filter(|holder| *holder != offer.endpoint) {
                contested.push((name.clone(), holder));
            }
            names.push(name);
        }
        // Without its names nothing of it could be called.
        let is_nothing_else = !offer.modes.contains(&Mode::Http);
        if let Some((name, holder)) = contested.first()
            && is_nothing_else
            && contested.len() == names.len()
        {
            return Err(format!("{name} belongs to the endpoint {holder} already"));
        }
        let endpoint = &offer.endpoint;
        let words = contested
            .iter()
            .map(|(name, holder)| format!("{name} of {endpoint} (belongs to {holder})"));
        self.contested.extend(words);
        Ok(Service {
            priority: offer.priority,
            names: names.into(),
            tunnel,
        })
    }

    /// Names that the agent declared last and other endpoints have, in words.
    pub(crate) fn contested(&self) -> &[String] {
        &self.contested
    }

    /// The session has a new token: gives up what it does not cover, takes back what waited for
    /// it. Says what was given up, and why.
    pub(crate) fn renew(&mut self, token: &VerifiedToken) -> Vec<(EndpointName, &'static str)> {
        let mut lost = Vec::new();
        self.wanted
            .retain(|(endpoint, _)| match refusal(endpoint, token) {
                Some(reason) => {
                    lost.push((endpoint.clone(), reason));
                    false
                }
                None => true,
            });
        self.suspended = false;
        for (endpoint, what) in self.bind() {
            lost.push((endpoint, self.refuse(what)));
        }
        lost
    }

    fn refuse(&self, what: QuotaKind) -> &'static str {
        let tenants = &self.agents.tenants;
        tenants.refuse_endpoint(&self.account, what).told()
    }

    /// Takes no calls until the token is renewed.
    pub(crate) fn suspend(&mut self) {
        self.suspended = true;
        self.bind();
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// The endpoints for which calls come to the session.
    pub(crate) fn bound(&self) -> &[EndpointName] {
        &self.bound
    }

    /// Makes the directory hold exactly what is wanted, or nothing while suspended. Says for which
    /// endpoints the tenant has no room, and of what; they are wanted no more.
    fn bind(&mut self) -> Vec<(EndpointName, QuotaKind)> {
        let account = self.account.clone();
        let _registering = account.registering();
        let directory = &self.agents.directory;
        let (tenant, id) = (&self.record.tenant, self.record.id);
        let is_wanted = |endpoint: &EndpointName| {
            !self.suspended && self.wanted.iter().any(|(wanted, _)| wanted == endpoint)
        };
        self.bound.retain(|endpoint| {
            let stays = is_wanted(endpoint);
            if !stays {
                directory.withdraw(tenant, endpoint, id);
            }
            stays
        });
        let mut left_out = Vec::new();
        if !self.suspended {
            let most = account.quota.max_endpoints as usize;
            let most_names = account.quota.max_names();
            let mut served = directory.served_of(tenant);
            self.wanted.retain(|(endpoint, service)| {
                let is_there = served.endpoints.contains(endpoint);
                let new = directory.count_new(tenant, endpoint, &service.names);
                let lacks = if !is_there && served.endpoints.len() >= most {
                    QuotaKind::Endpoints
                } else if new > 0 && served.names + new > most_names {
                    QuotaKind::Names
                } else {
                    served.endpoints.insert(endpoint.clone());
                    served.names += new;
                    let place = Place::Here(self.record.session.clone());
                    directory.register(tenant, endpoint, id, &place, service.clone());
                    return true;
                };
                // With fewer names it may have been there.
                directory.withdraw(tenant, endpoint, id);
                left_out.push((endpoint.clone(), lacks));
                false
            });
            let wanted = self.wanted.iter();
            self.bound = wanted.map(|(endpoint, _)| endpoint.clone()).collect();
        }
        self.record.state().endpoints.clone_from(&self.bound);
        left_out
    }
}

impl Drop for Registrations {
    fn drop(&mut self) {
        self.suspend();
    }
}

/// Why an endpoint may not be registered.
fn refusal(endpoint: &EndpointName, token: &VerifiedToken) -> Option<&'static str> {
    // The label of its host name (`ENDPOINT--TENANT`) would be too long for DNS.
    if endpoint.as_str().len() + 2 + token.principal.tenant.as_str().len() > MAX_NAME {
        return Some("its name and the tenant's have more than 61 characters together");
    }
    if !token.may_register_endpoint(endpoint) {
        return Some("the agent's token does not name it among the endpoints to register");
    }
    None
}
