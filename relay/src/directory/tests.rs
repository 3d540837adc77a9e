//! The directory over stand-ins for sessions.

mod names;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

const MEMORY: Duration = Duration::from_secs(3600);

/// A session that tests steer.
#[derive(Debug, Clone, Default)]
struct Fake {
    closing: Arc<AtomicBool>,
    load: Arc<AtomicUsize>,
    /// The way to another node.
    elsewhere: bool,
    /// Carried by the thread that asks.
    near: bool,
}

impl Fake {
    fn with_load(load: usize) -> Self {
        let fake = Self::default();
        fake.load.store(load, Ordering::Relaxed);
        fake
    }

    fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.load, &other.load)
    }
}

impl Target for Fake {
    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    fn is_here(&self) -> bool {
        !self.elsewhere
    }

    fn is_near(&self) -> bool {
        self.near
    }
}

fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

fn endpoint(name: &str) -> EndpointName {
    EndpointName::new(name).unwrap()
}

/// What tests say about directories.
impl Directory<Fake> {
    fn add(&self, of: &str, name: &str, id: u64, session: &Fake) {
        self.add_named(of, name, id, session, &[]);
    }

    fn add_named(&self, of: &str, name: &str, id: u64, session: &Fake, names: &[&str]) {
        let names = names.iter().map(|name| ConnectName::parse(name).unwrap());
        let service = Service {
            priority: None,
            names: names.collect(),
            tunnel: Some(Mode::Connect),
        };
        self.register(
            &tenant(of),
            &endpoint(name),
            SessionId(id),
            session,
            service,
        );
    }

    /// Which endpoint a name belongs to.
    fn held(&self, of: &str, name: &str) -> Option<String> {
        let name = ConnectName::parse(name).unwrap();
        let holder = self.holder(&tenant(of), &name);
        holder.map(|(endpoint, _)| endpoint.as_str().to_owned())
    }

    /// A session of an endpoint that declares a name.
    fn find_named(&self, of: &str, endpoint_name: &str, name: &str) -> Lookup<Fake> {
        let name = ConnectName::parse(name).unwrap();
        self.lookup_name(&tenant(of), &endpoint(endpoint_name), &name)
    }

    fn remove(&self, of: &str, name: &str, id: u64) {
        self.withdraw(&tenant(of), &endpoint(name), SessionId(id));
    }

    fn find(&self, of: &str, name: &str) -> Lookup<Fake> {
        self.lookup(&tenant(of), &endpoint(name))
    }

    fn assert_counts(&self) {
        let tenants = self.read();
        let entries = || {
            tenants
                .by_name
                .values()
                .flat_map(|tenant| tenant.endpoints.values())
        };
        let empty = entries().filter(|entry| entry.sessions.is_empty()).count();
        assert_eq!(tenants.remembered, empty);
        assert_eq!(tenants.served, entries().count() - empty);
        assert!(entries().all(|entry| {
            let at = entry
                .sessions
                .iter()
                .position(|served| !served.session.is_here());
            at.unwrap_or(entry.sessions.len()) == entry.here
        }));
        assert!(
            tenants
                .by_name
                .values()
                .all(|tenant| !tenant.endpoints.is_empty())
        );
    }
}

#[test]
fn an_endpoint_that_nobody_registered_is_unknown() {
    let directory = Directory::<Fake>::new(MEMORY);
    directory.add("acme", "vcenter", 1, &Fake::default());
    assert!(matches!(directory.find("acme", "nsx"), Lookup::Unknown));
    assert!(matches!(
        directory.find("acme", "vcenter"),
        Lookup::Session(..)
    ));
}

#[test]
fn another_tenants_endpoint_is_like_one_that_does_not_exist() {
    let directory = Directory::new(MEMORY);
    let (ours, theirs) = (Fake::default(), Fake::default());
    directory.add("acme", "vcenter", 1, &ours);
    assert!(matches!(
        directory.find("globex", "vcenter"),
        Lookup::Unknown
    ));
    directory.add("globex", "vcenter", 2, &theirs);
    for _ in 0..100 {
        assert!(
            matches!(directory.find("acme", "vcenter"), Lookup::Session(found, _) if found.is(&ours))
        );
    }
    directory.remove("acme", "vcenter", 2);
    assert!(matches!(
        directory.find("globex", "vcenter"),
        Lookup::Session(..)
    ));
    directory.remove("globex", "vcenter", 2);
    assert!(matches!(
        directory.find("globex", "vcenter"),
        Lookup::Offline
    ));
    assert!(matches!(
        directory.find("acme", "vcenter"),
        Lookup::Session(..)
    ));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_was_there_is_offline_until_it_is_forgotten() {
    let directory = Directory::new(MEMORY);
    directory.add("acme", "vcenter", 1, &Fake::default());
    directory.remove("acme", "vcenter", 1);
    tokio::time::advance(MEMORY - Duration::from_secs(1)).await;
    directory.forget_old();
    assert!(matches!(directory.find("acme", "vcenter"), Lookup::Offline));
    assert_eq!(directory.list().len(), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(matches!(directory.find("acme", "vcenter"), Lookup::Unknown));
    assert_eq!(directory.list(), []);
    directory.forget_old();
    directory.assert_counts();
    assert!(directory.read().by_name.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_comes_back_is_remembered_from_when_it_last_left() {
    let directory = Directory::new(MEMORY);
    directory.add("acme", "vcenter", 1, &Fake::default());
    directory.remove("acme", "vcenter", 1);
    tokio::time::advance(MEMORY / 2).await;
    directory.add("acme", "vcenter", 2, &Fake::default());
    directory.assert_counts();
    tokio::time::advance(MEMORY).await;
    directory.forget_old();
    assert!(matches!(
        directory.find("acme", "vcenter"),
        Lookup::Session(..)
    ));
    directory.remove("acme", "vcenter", 2);
    tokio::time::advance(MEMORY / 2).await;
    directory.forget_old();
    assert!(matches!(directory.find("acme", "vcenter"), Lookup::Offline));
    directory.assert_counts();
}

#[test]
fn what_is_remembered_of_a_tenant_is_bounded_and_the_newest_stay() {
    let directory = Directory::new(MEMORY);
    directory.add("globex", "vcenter", 1, &Fake::default());
    directory.remove("globex", "vcenter", 1);
    let names = 3 * MAX_REMEMBERED_OF_TENANT;
    for n in 0..names {
        let name = format!("e{n}");
        directory.add("acme", &name, 7, &Fake::default());
        directory.remove("acme", &name, 7);
    }
    directory.assert_counts();
    assert_eq!(directory.read().remembered, MAX_REMEMBERED_OF_TENANT + 1);
    assert!(matches!(directory.find("acme", "e0"), Lookup::Unknown));
    let newest = format!("e{}", names - 1);
    assert!(matches!(directory.find("acme", &newest), Lookup::Offline));
    assert!(matches!(
        directory.find("globex", "vcenter"),
        Lookup::Offline
    ));
}

#[test]
fn an_endpoint_that_flaps_takes_no_more_room() {
    let directory = Directory::new(MEMORY);
    for n in 0..3 * MAX_REMEMBERED_OF_TENANT as u64 {
        directory.add("acme", "vcenter", n, &Fake::default());
        directory.remove("acme", "vcenter", n);
    }
    directory.assert_counts();
    let tenants = directory.read();
    assert!(tenants.by_name[&tenant("acme")].gone.len() <= MAX_REMEMBERED_OF_TENANT);
    drop(tenants);
    assert!(matches!(directory.find("acme", "vcenter"), Lookup::Offline));
}

#[test]
fn an_endpoint_that_flaps_does_not_make_another_forgotten() {
    let directory = Directory::new(MEMORY);
    directory.add("acme", "nsx", 1, &Fake::default());
    directory.remove("acme", "nsx", 1);
    for n in 0..3 * MAX_REMEMBERED_OF_TENANT as u64 {
        directory.add("acme", "vcenter", n, &Fake::default());
        directory.remove("acme", "vcenter", n);
    }
    directory.assert_counts();
    assert!(matches!(directory.find("acme", "nsx"), Lookup::Offline));
}

#[test]
fn what_is_remembered_of_all_tenants_is_bounded() {
    let directory = Directory::new(MEMORY);
    let tenants = MAX_REMEMBERED / MAX_REMEMBERED_OF_TENANT + 2;
    for t in 0..tenants {
        for n in 0..MAX_REMEMBERED_OF_TENANT {
            let (of, name) = (format!("t{t}"), format!("e{n}"));
            directory.add(&of, &name, 7, &Fake::default());
            directory.remove(&of, &name, 7);
        }
    }
    directory.assert_counts();
    assert_eq!(directory.read().remembered, MAX_REMEMBERED);
}

#[test]
fn a_session_of_the_same_thread_is_chosen_unless_it_is_much_busier() {
    for (load, is_chosen) in [(0, true), (9, true), (11, false)] {
        let directory = Directory::new(MEMORY);
        let (far, near) = (Fake::with_load(2), Fake::with_load(load));
        let near = Fake { near: true, ..near };
        directory.add("acme", "vcenter", 1, &far);
        directory.add("acme", "vcenter", 2, &near);
        for _ in 0..50 {
            let Lookup::Session(found, _) = directory.find("acme", "vcenter") else {
                panic!("no session")
            };
            assert_eq!(found.is(&near), is_chosen, "{load}");
        }
    }
}

#[test]
fn the_session_with_fewer_calls_is_chosen_of_two() {
    let directory = Directory::new(MEMORY);
    let (busy, idle) = (Fake::with_load(10), Fake::with_load(1));
    directory.add("acme", "vcenter", 1, &busy);
    directory.add("acme", "vcenter", 2, &idle);
    for _ in 0..100 {
        assert!(
            matches!(directory.find("acme", "vcenter"), Lookup::Session(found, _) if found.is(&idle))
        );
    }
}

#[test]
fn the_busiest_of_many_sessions_gets_nothing_and_the_others_share() {
    let directory = Directory::new(MEMORY);
    let sessions = [Fake::with_load(10), Fake::with_load(1), Fake::with_load(1)];
    for (id, session) in sessions.iter().enumerate() {
        directory.add("acme", "vcenter", id as u64, session);
    }
    let mut chosen = [0; 3];
    for _ in 0..1000 {
        let Lookup::Session(found, _) = directory.find("acme", "vcenter") else {
            panic!("no session")
        };
        chosen[sessions
            .iter()
            .position(|session| session.is(&found))
            .unwrap()] += 1;
    }
    assert_eq!(chosen[0], 0);
    assert!(chosen[1] > 300 && chosen[2] > 300, "{chosen:?}");
}

#[test]
fn sessions_that_drain_or_ended_get_no_calls() {
    let directory = Directory::new(MEMORY);
    let sessions: Vec<Fake> = (0..8).map(|_| Fake::default()).collect();
    for (id, session) in sessions.iter().enumerate() {
        directory.add("acme", "vcenter", id as u64, session);
    }
    for session in &sessions[1..] {
        session.close();
    }
    for _ in 0..100 {
        let found = directory.find("acme", "vcenter");
        assert!(matches!(found, Lookup::Session(found, _) if found.is(&sessions[0])));
    }
    sessions[0].close();
    assert!(matches!(directory.find("acme", "vcenter"), Lookup::Moving));
}

/// One hop at most: what comes from another node is never sent on to a third.
#[test]
fn calls_stay_here_while_they_can_and_calls_of_other_nodes_always() {
    let directory = Directory::new(MEMORY);
    let elsewhere = || Fake {
        elsewhere: true,
        ..Fake::default()
    };
    let (here, busy, there) = (Fake::default(), Fake::with_load(9), elsewhere());
    directory.add("acme", "vcenter", 1, &there);
    let lookup_here = || directory.lookup_here(&tenant("acme"), &endpoint("vcenter"), None);
    let is = |found: Lookup<Fake>, session: &Fake| matches!(found, Lookup::Session(found, _) if found.is(session));
    assert!(is(directory.find("acme", "vcenter"), &there));
    assert!(matches!(lookup_here(), Lookup::Offline));
    assert!(directory.routes_here().is_empty());
    assert_eq!(directory.served_here(), 0);

    let mut changes = directory.changes();
    directory.add("acme", "vcenter", 2, &busy);
    directory.add("acme", "vcenter", 3, &here);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    for _ in 0..100 {
        assert!(is(directory.find("acme", "vcenter"), &here));
        assert!(is(lookup_here(), &here));
    }
    here.close();
    assert!(is(directory.find("acme", "vcenter"), &busy));
    busy.close();
    assert!(is(directory.find("acme", "vcenter"), &there));
    assert!(matches!(lookup_here(), Lookup::Moving));
    let listed = &directory.list()[0];
    assert_eq!(
        (listed.sessions, listed.draining, listed.elsewhere),
        (0, 2, 1)
    );

    directory.remove("acme", "vcenter", 1);
    assert!(
        !changes.has_changed().unwrap(),
        "other nodes know that themselves"
    );
    directory.remove("acme", "vcenter", 2);
    assert_eq!(directory.routes_here().len(), 1);
    directory.remove("acme", "vcenter", 3);
    assert!(directory.routes_here().is_empty());
    assert!(changes.has_changed().unwrap());
    directory.assert_counts();
}

#[test]
fn the_newest_sessions_of_this_node_are_found_and_no_more_than_asked_for() {
    let directory = Directory::new(MEMORY);
    let elsewhere = Fake {
        elsewhere: true,
        ..Fake::default()
    };
    directory.add("acme", "vcenter", 1 << 63, &elsewhere);
    for id in 1..=5 {
        directory.add("acme", "vcenter", id, &Fake::default());
    }
    let newest = |most| {
        let found = directory.newest_here(&tenant("acme"), &endpoint("vcenter"), most);
        found.into_iter().map(|id| id.0).collect::<Vec<_>>()
    };
    assert_eq!(newest(2), [5, 4]);
    assert_eq!(newest(10), [5, 4, 3, 2, 1]);
}

#[test]
fn an_endpoint_is_listed_with_its_sessions() {
    let directory = Directory::new(MEMORY);
    directory.add("acme", "vcenter", 1, &Fake::with_load(2));
    // As busy as nodes that are about to leave are said to be.
    directory.add("acme", "vcenter", 2, &Fake::with_load(usize::MAX));
    directory.add("acme", "vcenter", 2, &Fake::with_load(usize::MAX));
    directory.add("acme", "nsx", 1, &Fake::default());
    directory.remove("acme", "nsx", 1);
    let listed = |endpoint_name: &str, sessions| Listed {
        tenant: tenant("acme"),
        endpoint: endpoint(endpoint_name),
        sessions,
        draining: 0,
        elsewhere: 0,
    };
    assert_eq!(directory.list(), [listed("nsx", 0), listed("vcenter", 2)]);
    assert_eq!(directory.served_here(), 1);
}

#[test]
fn an_endpoint_whose_sessions_here_all_drain_is_not_counted_as_served() {
    let directory = Directory::new(MEMORY);
    let (leaving, staying) = (Fake::default(), Fake::default());
    directory.add("acme", "vcenter", 1, &leaving);
    directory.add("acme", "vcenter", 2, &staying);
    let counts = || {
        let listed = &directory.list()[0];
        (listed.sessions, listed.draining, directory.served_here())
    };
    assert_eq!(counts(), (2, 0, 1));
    leaving.close();
    assert_eq!(counts(), (1, 1, 1));
    staying.close();
    assert_eq!(counts(), (0, 2, 0));
}
