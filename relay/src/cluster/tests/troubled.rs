//! Nodes whose registry is slow, down or written by somebody else.

use std::time::Duration;

use culvert_proto::names::{EndpointName, TenantName};

use super::conformance::{all, instance, route};
use super::nodes::{LEASE, NOWHERE, Node, entry, pass, publish};
use super::simulation::session;
use crate::cluster::memory::MemoryRegistry;
use crate::cluster::registry::{Entry, Load, Registry};
use crate::directory::{Service, SessionId};
use crate::place::Place;
use crate::testing::Lines;

fn route_names(tenant: &str, endpoint: &str) -> (TenantName, EndpointName) {
    let route = route(tenant, endpoint);
    (route.tenant, route.endpoint)
}

/// Renewed, a lie in this node's name would never end: one that is seen in the entry is noticed at the next look,
/// one about what the node serves within about a minute.
#[tokio::test(start_paused = true)]
async fn what_somebody_else_writes_in_a_node_s_name_does_not_last() {
    let registry = MemoryRegistry::default();
    let _node = Node::start(&registry);
    pass(1).await;
    let own = all(&registry).await.remove(0).0;
    let serves = vec![route("acme", "vcenter")];
    for (lie, within) in [
        (entry(999, &[("acme", "vcenter")]), 4),
        (
            Entry {
                address: "127.0.0.1:2".into(),
                ..own.clone()
            },
            4,
        ),
        (
            Entry {
                routes: serves,
                ..own.clone()
            },
            65,
        ),
    ] {
        // As the node has written it by now, but for the lie.
        let version = match lie.version == own.version {
            true => all(&registry).await[0].0.version,
            false => lie.version,
        };
        let instance = own.instance.clone();
        let lie = Entry {
            instance,
            version,
            ..lie
        };
        publish(&registry, &lie).await;
        pass(within).await;
        let found = all(&registry).await.remove(0).0;
        let truth = Entry {
            version: found.version,
            ..own.clone()
        };
        assert_eq!(found, truth, "{lie:?}");
    }
}

/// A node that serves more than others read says so, and does not take its own word for somebody else's.
#[tokio::test(start_paused = true)]
async fn a_node_that_serves_more_than_others_read_says_so_and_keeps_its_own_word() {
    let (lines, _guards) = Lines::listen();
    let registry = MemoryRegistry::default();
    let node = Node::start(&registry);
    let session = session();
    for number in 0..=MemoryRegistry::MAX_ROUTES {
        let (tenant, endpoint) = route_names("acme", &format!("esx-{number}"));
        let place = Place::Here(session.clone());
        let id = SessionId(number as u64);
        node.directory
            .register(&tenant, &endpoint, id, &place, Service::default());
    }
    pass(10).await;
    let said = all(&registry).await.remove(0).0;
    assert_eq!(said.routes.len(), MemoryRegistry::MAX_ROUTES);
    // It has looked at its own entry more than once.
    pass(200).await;
    assert_eq!(all(&registry).await.remove(0).0, said);
    let told = lines.text();
    let told: Vec<_> = told
        .lines()
        .filter(|line| line.contains("has room for"))
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains(r#""left_out":1"#), "{told:?}");
}

/// A look at a registry in which nothing has changed does no work for each of the endpoints.
#[tokio::test(start_paused = true)]
async fn what_has_not_changed_is_bound_again_only_where_a_call_found_nothing() {
    let registry = MemoryRegistry::default();
    let node = Node::start(&registry);
    publish(&registry, &entry(1, &[("acme", "vcenter")])).await;
    pass(1).await;
    let (tenant, endpoint) = route_names("acme", "vcenter");
    let places = node.directory.places(&tenant, &endpoint);
    let (id, Place::There(link)) = &places[0] else {
        panic!("{places:?}");
    };
    // Nobody but the test does so: it shows whether the next look binds it.
    node.directory.withdraw(&tenant, &endpoint, *id);
    pass(5).await;
    assert_eq!(node.finds("acme", "vcenter"), "offline");
    link.note_miss();
    pass(5).await;
    assert_eq!(node.finds("acme", "vcenter"), "moving");
}

/// One call at the wrong moment, while nobody can say whether it was right.
#[tokio::test(start_paused = true)]
async fn without_the_registry_a_node_that_had_no_session_once_is_asked_again() {
    let registry = MemoryRegistry::default();
    let node = Node::start(&registry);
    publish(&registry, &entry(1, &[("acme", "vcenter")])).await;
    pass(1).await;
    registry.set_down(true);
    for _ in 0..3 {
        pass(1).await;
        let (tenant, endpoint) = route_names("acme", "vcenter");
        for (id, place) in node.directory.places(&tenant, &endpoint) {
            node.directory.withdraw(&tenant, &endpoint, id);
            if let Place::There(link) = place {
                link.note_miss();
            }
        }
        assert_eq!(node.finds("acme", "vcenter"), "offline");
        pass(5).await;
        assert_eq!(node.finds("acme", "vcenter"), "moving");
    }
}

/// It has moved, or what was said of it before was a lie.
#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_answer_is_looked_for_where_it_is_said_to_be_now() {
    let registry = MemoryRegistry::default();
    let node = Node::start(&registry);
    let elsewhere = "127.0.0.1:2";
    for (version, address) in [(1, NOWHERE), (1, elsewhere), (2, NOWHERE)] {
        let entry = Entry {
            address: address.into(),
            ..entry(version, &[("acme", "vcenter")])
        };
        publish(&registry, &entry).await;
        pass(1).await;
        let nodes = node.neighbours.nodes();
        assert_eq!(nodes.len(), 1);
        assert_eq!(nodes[0].link.target().address, address);
        let (tenant, endpoint) = route_names("acme", "vcenter");
        let places = node.directory.places(&tenant, &endpoint);
        let ids: Vec<_> = places.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [nodes[0].link.id()], "by the new way, and no other");
    }
}

/// Each node's routes are an answer of their own, and the first counts before the last has come.
#[tokio::test(start_paused = true)]
async fn from_a_slow_registry_one_node_s_routes_are_learnt_after_the_other_s() {
    const NODES: u8 = 8;
    let registry = MemoryRegistry::default();
    for number in 0..NODES {
        let entry = Entry {
            instance: instance("b", 10 + number),
            ..entry(1, &[("acme", &format!("esx-{number}"))])
        };
        let said = registry.publish(&entry, Load::default(), 20 * LEASE);
        said.await.unwrap();
    }
    registry.set_pace(Duration::from_secs(3));
    let node = Node::start(&registry);
    let known = || {
        let found = |number: &u8| node.finds("acme", &format!("esx-{number}"));
        (0..NODES)
            .filter(|number| found(number) == "moving")
            .count()
    };
    pass(10).await;
    assert!((1..4).contains(&known()), "{}", known());
    pass(30).await;
    assert_eq!(known(), usize::from(NODES));
    assert_eq!(node.neighbours.trouble(), None);
}

/// The lease goes on while the engine takes its time: it is renewed in time for all that, not said again.
#[tokio::test(start_paused = true)]
async fn a_lease_is_kept_by_an_engine_that_takes_most_of_it_for_an_answer() {
    let registry = MemoryRegistry::default();
    registry.set_pace(LEASE * 4 / 5);
    let _node = Node::start(&registry);
    pass(20 * LEASE.as_secs()).await;
    registry.set_pace(Duration::ZERO);
    assert_eq!(registry.read().await.unwrap()[0].version, 1);
}

#[tokio::test(start_paused = true)]
async fn hints_are_taken_while_the_registry_is_read() {
    let registry = MemoryRegistry::default();
    let node = Node::start(&registry);
    pass(1).await;
    registry.set_pace(Duration::from_secs(60));
    pass(4).await;
    for _ in 0..100 {
        registry.hint_all();
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(registry.unheard(), 0);
    drop(node);
}

/// Sessions end just before their node leaves, so there is still something to say: it is not said behind
/// the farewell, where it would stand until its lease ends.
#[tokio::test(start_paused = true)]
async fn a_node_that_has_left_is_not_in_the_registry_however_slow_that_is() {
    for pace in [0, 20, 60, 200, 400] {
        let registry = MemoryRegistry::default();
        let mut node = Node::start(&registry);
        pass(1).await;
        registry.set_pace(Duration::from_millis(pace));
        let (tenant, endpoint) = route_names("acme", "vcenter");
        let place = Place::Here(session());
        node.directory
            .register(&tenant, &endpoint, SessionId(1), &place, Service::default());
        node.leave().await;
        // Whatever was on its way arrives.
        pass(1).await;
        registry.set_pace(Duration::ZERO);
        let left = registry.read().await.unwrap();
        assert!(left.is_empty(), "{pace} ms: {left:?}");
    }
}
