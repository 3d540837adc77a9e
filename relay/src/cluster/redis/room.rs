//! What an entry has room for: a node that serves more says so, and which of its endpoints others hear of
//! does not depend on what other tenants have.

use std::collections::HashMap;

use culvert_proto::connect_name::ConnectName;
use culvert_proto::names::TenantName;

use crate::cluster::registry::Route;

/// Most endpoints of one node.
pub(super) const MAX_ROUTES: usize = 200_000;

/// A node's routes as they are written take fewer bytes, and no more of them are read.
pub(super) const MAX_BYTES: usize = 64 << 20;

/// What is left for the routes themselves.
const ROOM: usize = MAX_BYTES - r#"{"version":18446744073709551615,"routes":[]}"#.len();

/// What stands around the names of a route, at most.
const AROUND: usize =
    r#"{"tenant":"","endpoint":"","names":[],"tunnel":"terminate","priority":"interactive"},"#
        .len();

/// Leaves out routes for which there is no room. Where there is not enough for all, tenants with few keep
/// theirs, and the others have equal parts of the rest.
pub(super) fn fit(routes: Vec<Route>) -> Vec<Route> {
    fit_in(routes, ROOM, ROOM / MAX_ROUTES)
}

/// The same within this many bytes, where no route counts as fewer than `least`.
fn fit_in(mut routes: Vec<Route>, room: usize, least: usize) -> Vec<Route> {
    let size = |route: &Route| written(route).max(least);
    if routes.iter().map(size).sum::<usize>() <= room {
        return routes;
    }
    let mut parts: HashMap<TenantName, usize> = HashMap::new();
    for route in &routes {
        *parts.entry(route.tenant.clone()).or_default() += size(route);
    }
    let mut smallest_first: Vec<&mut usize> = parts.values_mut().collect();
    smallest_first.sort_unstable();
    let (mut left, mut tenants) = (room, smallest_first.len());
    for part in smallest_first {
        *part = (*part).min(left / tenants);
        left -= *part;
        tenants -= 1;
    }
    routes.retain(|route| {
        let part = parts.get_mut(&route.tenant);
        part.is_some_and(|part| match part.checked_sub(size(route)) {
            Some(rest) => {
                *part = rest;
                true
            }
            None => false,
        })
    });
    routes
}

/// Most bytes that a route takes as it is written. Names have no letter that JSON escapes.
fn written(route: &Route) -> usize {
    let names = route.names.iter().map(ConnectName::as_str);
    let names: usize = names.map(|name| r#""","#.len() + name.len()).sum();
    AROUND + route.tenant.as_str().len() + route.endpoint.as_str().len() + names
}

#[cfg(test)]
mod tests {
    use culvert_proto::head::Mode;
    use culvert_proto::names::EndpointName;
    use culvert_proto::priority::Priority;

    use super::super::written::WrittenRoutes;
    use super::*;
    use crate::cluster::registry::{Entry, Instance};

    fn route(tenant: &str, endpoint: &str, names: usize) -> Route {
        let name = |number| format!("[fd00::{number:x}]:443");
        let names = (1..=names).map(|number| ConnectName::parse(&name(number)).unwrap());
        Route {
            tenant: TenantName::new(tenant).unwrap(),
            endpoint: EndpointName::new(endpoint).unwrap(),
            names: names.collect(),
            tunnel: Some(Mode::Terminate),
            priority: Some(Priority::Interactive),
        }
    }

    fn length(routes: &[Route]) -> usize {
        let entry = Entry {
            instance: Instance {
                node: "relay-1".into(),
                process: [7; 16],
            },
            version: u64::MAX,
            address: "a:1".into(),
            leaving: false,
            routes: routes.to_vec(),
        };
        WrittenRoutes::of(&entry).to_json().len()
    }

    #[test]
    fn a_route_takes_no_more_than_is_counted() {
        let plain = Route {
            tunnel: None,
            priority: None,
            ..route("a", "b", 0)
        };
        for (route, spare) in [
            (route("acme", "vcenter", 0), 11),
            (route("acme", "vcenter", 1), 1),
            (route("acme", "vcenter", 64), 1),
            (plain, 60),
        ] {
            let frame = MAX_BYTES - ROOM;
            let (counted, taken) = (written(&route), length(&[route]) - frame);
            assert!(counted > taken, "{counted} for {taken}");
            assert!(counted <= taken + spare + 1, "{counted} for {taken}");
        }
    }

    #[test]
    fn what_has_no_room_is_of_those_who_have_most() {
        let many = |tenant: &str, count| {
            let route = |number| route(tenant, &format!("esx-{number:04}"), 10);
            (0..count).map(route).collect::<Vec<_>>()
        };
        let all = [many("acme", 500), many("few", 3), many("globex", 400)].concat();
        let of = |routes: &[Route], tenant: &str| {
            let routes = routes.iter();
            routes
                .filter(|route| route.tenant.as_str() == tenant)
                .count()
        };
        let room = written(&all[0]) * 203;
        let fitting = fit_in(all.clone(), room, 1);
        assert!(length(&fitting) < room + (MAX_BYTES - ROOM));
        assert_eq!(of(&fitting, "few"), 3);
        let (acme, globex) = (of(&fitting, "acme"), of(&fitting, "globex"));
        assert!((99..=101).contains(&acme), "{acme}");
        assert!((98..=100).contains(&globex), "{globex}");

        // However short they are, there are no more than so many.
        let counted = fit_in(all.clone(), 99_000, 9_000);
        assert_eq!(counted.len(), 11);
        assert_eq!(of(&counted, "few"), 3);
        assert_eq!(fit_in(all.clone(), usize::MAX, 1), all);
    }
}
