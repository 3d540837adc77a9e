//! Entries as they are written in Redis: JSON, whose unknown members are passed over. What is read
//! there may be anybody's: names that are none are left out.

use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::Mode;
use culvert_proto::names::{EndpointName, TenantName};
use culvert_proto::priority::Priority;
use serde::{Deserialize, Serialize};

use super::room::MAX_ROUTES;
use crate::cluster::registry::{Entry, Instance, Load, Route, Routes, Seen};

/// An entry without its routes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) version: u64,
    address: String,
    leaving: bool,
    #[serde(default)]
    load: Option<Load>,
}

impl Meta {
    pub(super) fn of(entry: &Entry, load: Load) -> Self {
        Self {
            version: entry.version,
            address: entry.address.clone(),
            leaving: entry.leaving,
            load: Some(load),
        }
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub(super) fn seen(self, instance: Instance) -> Seen {
        Seen {
            instance,
            version: self.version,
            address: self.address,
            leaving: self.leaving,
            load: self.load,
        }
    }
}

/// The routes of an entry.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WrittenRoutes {
    version: u64,
    routes: Vec<WrittenRoute>,
}

#[derive(Debug, Serialize, Deserialize)]
struct WrittenRoute {
    tenant: String,
    endpoint: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tunnel: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<String>,
}

impl WrittenRoutes {
    pub(super) fn of(entry: &Entry) -> Self {
        let routes = entry.routes.iter().map(|route| WrittenRoute {
            tenant: route.tenant.to_string(),
            endpoint: route.endpoint.to_string(),
            names: route.names.iter().map(ToString::to_string).collect(),
            tunnel: route.tunnel.map(|mode| mode.as_str().to_owned()),
            priority: route.priority.map(|priority| priority.as_str().to_owned()),
        });
        Self {
            version: entry.version,
            routes: routes.collect(),
        }
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    pub(super) fn routes(self) -> Routes {
        let routes = self.routes.iter().take(MAX_ROUTES);
        Routes {
            version: self.version,
            routes: routes.filter_map(WrittenRoute::read).collect(),
        }
    }
}

impl WrittenRoute {
    fn read(&self) -> Option<Route> {
        let names = self.names.iter().map(|name| ConnectName::parse(name));
        let tunnel = [Mode::Connect, Mode::Terminate, Mode::Tcp].into_iter();
        let priority = Priority::ALL.into_iter();
        Some(Route {
            tenant: TenantName::new(&self.tenant).ok()?,
            endpoint: EndpointName::new(&self.endpoint).ok()?,
            names: names.collect::<Result<_, _>>().ok()?,
            tunnel: match &self.tunnel {
                Some(word) => Some(tunnel.into_iter().find(|mode| mode.as_str() == word)?),
                None => None,
            },
            // A class that is not known is a wish that is not heard, no reason not to serve.
            priority: self
                .priority
                .as_ref()
                .and_then(|word| priority.into_iter().find(|class| class.as_str() == word)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A neighbour of a later minor version writes members that this one does not know, and routes
    /// that it cannot serve: the rest is read. What this one writes has no member that an older one
    /// would need.
    #[test]
    fn entries_of_neighbours_of_another_minor_version_are_read() {
        let instance = Instance {
            node: "relay-1".into(),
            process: [7; 16],
        };
        let later = r#"{"version":4,"address":"a:1","leaving":true,"region":{"name":"fra"}}"#;
        let seen = Meta::parse(later).unwrap().seen(instance.clone());
        assert_eq!(
            (seen.version, &*seen.address, seen.leaving, seen.load),
            (4, "a:1", true, None)
        );

        let later = r#"{"version":4,"codec":"x","routes":[
            {"tenant":"acme","endpoint":"vcenter","weight":3},
            {"tenant":"acme","endpoint":"nsx","tunnel":"quantum"},
            {"tenant":"acme","endpoint":"esx","priority":"someday"}]}"#;
        let read = WrittenRoutes::parse(later.as_bytes()).unwrap().routes();
        let routes = read.routes;
        let names: Vec<_> = routes.iter().map(|route| route.endpoint.as_str()).collect();
        assert_eq!(names, ["vcenter", "esx"]);

        let plain = Entry {
            instance,
            version: read.version,
            address: seen.address,
            leaving: false,
            routes: vec![Route {
                names: Vec::new(),
                tunnel: None,
                priority: None,
                ..routes[0].clone()
            }],
        };
        assert_eq!(
            WrittenRoutes::of(&plain).to_json(),
            r#"{"version":4,"routes":[{"tenant":"acme","endpoint":"vcenter"}]}"#
        );
    }
}
