//! From the host that a caller names to an endpoint.

use std::collections::HashMap;

use culvert_config::relay::Route;
use culvert_proto::names::{EndpointName, MAX_NAME, TenantName};

/// What separates endpoint and tenant in a host name.
const SEPARATOR: &str = "--";

/// The host names of a relay.
#[derive(Debug)]
pub(crate) struct Routes {
    domain: String,
    hosts: HashMap<String, Endpoint>,
}

/// An endpoint, by its tenant and its name. Whether it exists is another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) tenant: TenantName,
    pub(crate) name: EndpointName,
}

/// What a host name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The relay itself.
    Relay,
    /// An endpoint.
    Endpoint(Endpoint),
    /// Nothing.
    Unknown,
}

impl Routes {
    /// The routes of a relay of this domain, which is lower case, as are the routes' hosts.
    pub(crate) fn new(domain: &str, routes: &[Route]) -> Self {
        let hosts = routes.iter().map(|route| {
            let endpoint = Endpoint {
                tenant: route.tenant.clone(),
                name: route.endpoint.clone(),
            };
            (route.host.clone(), endpoint)
        });
        Self {
            domain: domain.to_owned(),
            hosts: hosts.collect(),
        }
    }

    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    /// Whether a host, in lower case, is the relay's own name or below it.
    pub(crate) fn is_own(&self, host: &str) -> bool {
        let before = host.strip_suffix(&self.domain);
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    }

    /// Resolves `HOST` or `HOST:PORT`, in any letter case. Any port will do: whoever got here
    /// found the right one.
    pub(crate) fn resolve(&self, authority: &str) -> Destination {
        let host = host(authority);
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.resolve_lower(&host.to_ascii_lowercase());
        }
        self.resolve_lower(host)
    }

    fn resolve_lower(&self, host: &str) -> Destination {
        if host == self.domain {
            return Destination::Relay;
        }
        if let Some(endpoint) = self.hosts.get(host) {
            return Destination::Endpoint(endpoint.clone());
        }
        let label = host
            .strip_suffix(&self.domain)
            .and_then(|rest| rest.strip_suffix('.'));
        label
            .and_then(endpoint)
            .map_or(Destination::Unknown, Destination::Endpoint)
    }
}

/// `ENDPOINT--TENANT`, one DNS label.
fn endpoint(label: &str) -> Option<Endpoint> {
    if label.len() > MAX_NAME {
        return None;
    }
    let (name, tenant) = label.split_once(SEPARATOR)?;
    let (name, tenant) = (EndpointName::new(name).ok()?, TenantName::new(tenant).ok()?);
    Some(Endpoint { tenant, name })
}

/// The host of `HOST` or `HOST:PORT`.
pub(crate) fn host(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str, tenant: &str) -> Destination {
        Destination::Endpoint(Endpoint {
            tenant: TenantName::new(tenant).unwrap(),
            name: EndpointName::new(name).unwrap(),
        })
    }

    #[test]
    fn the_domain_and_what_is_below_it_is_the_relays_own() {
        let routes = Routes::new("relay.example.com", &[]);
        for (host, own) in [
            ("relay.example.com", true),
            ("vc--acme.relay.example.com", true),
            ("a.b.relay.example.com", true),
            ("norelay.example.com", false),
            ("example.com", false),
            ("relay.example.com.evil", false),
        ] {
            assert_eq!(routes.is_own(host), own, "{host}");
        }
    }

    #[test]
    fn a_host_is_the_relay_an_endpoint_or_nothing() {
        let vcenter = Route {
            host: "vcenter.customer.example".into(),
            tenant: TenantName::new("acme").unwrap(),
            endpoint: EndpointName::new("vc").unwrap(),
        };
        let routes = Routes::new("relay.example.com", &[vcenter]);
        let long = format!("{}--{}.relay.example.com", "a".repeat(40), "b".repeat(40));
        let cases = [
            ("relay.example.com", Destination::Relay),
            ("relay.example.com:8443", Destination::Relay),
            ("RELAY.example.COM:443", Destination::Relay),
            ("vc--acme.relay.example.com", endpoint("vc", "acme")),
            ("vc--acme.relay.example.com:8443", endpoint("vc", "acme")),
            ("VC--Acme.Relay.Example.Com", endpoint("vc", "acme")),
            (
                "esx-01--acme-eu.relay.example.com",
                endpoint("esx-01", "acme-eu"),
            ),
            ("vcenter.customer.example", endpoint("vc", "acme")),
            ("VCenter.customer.example:1", endpoint("vc", "acme")),
            ("vcenter.customer.example.", Destination::Unknown),
            ("relay.example.com.", Destination::Unknown),
            ("relay.example", Destination::Unknown),
            ("example.com", Destination::Unknown),
            ("vc.relay.example.com", Destination::Unknown),
            ("vc-acme.relay.example.com", Destination::Unknown),
            ("vc--acme--x.relay.example.com", Destination::Unknown),
            ("vc---acme.relay.example.com", Destination::Unknown),
            ("--acme.relay.example.com", Destination::Unknown),
            ("vc--.relay.example.com", Destination::Unknown),
            ("a.vc--acme.relay.example.com", Destination::Unknown),
            ("vc--acme.a.relay.example.com", Destination::Unknown),
            ("vc--acmerelay.example.com", Destination::Unknown),
            ("vc--acme.relay.example.com.evil", Destination::Unknown),
            ("vc_1--acme.relay.example.com", Destination::Unknown),
            (&long, Destination::Unknown),
            ("[::1]:443", Destination::Unknown),
            ("", Destination::Unknown),
        ];
        for (authority, expected) in cases {
            assert_eq!(routes.resolve(authority), expected, "{authority}");
        }
    }
}
