//! Names that CONNECT asks for: with whom they are, and who waits for them.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_name_belongs_to_the_endpoint_that_had_it_first_until_that_is_forgotten() {
    let directory = Directory::new(MEMORY);
    let (one, two) = (Fake::default(), Fake::default());
    let names = ["vc.sddc.local:443", "VC.sddc.local.:5480"];
    directory.add_named("acme", "vc", 1, &one, &names);
    directory.add_named("acme", "other", 2, &two, &["vc.sddc.local:443", "nsx:443"]);
    assert_eq!(
        directory.held("acme", "VC.SDDC.local:443").as_deref(),
        Some("vc")
    );
    assert_eq!(
        directory.held("acme", "vc.sddc.local:5480").as_deref(),
        Some("vc")
    );
    assert_eq!(directory.held("acme", "nsx:443").as_deref(), Some("other"));
    assert_eq!(directory.held("acme", "vc.sddc.local:80"), None);
    assert_eq!(directory.held("globex", "vc.sddc.local:443"), None);

    directory.remove("acme", "vc", 1);
    assert_eq!(
        directory.held("acme", "vc.sddc.local:443").as_deref(),
        Some("vc")
    );
    assert!(matches!(
        directory.find_named("acme", "vc", "vc.sddc.local:443"),
        Lookup::Offline
    ));
    tokio::time::advance(MEMORY).await;
    assert_eq!(directory.held("acme", "vc.sddc.local:443"), None);
    directory.forget_old();
    directory.add_named("acme", "other", 2, &two, &["vc.sddc.local:443"]);
    assert_eq!(
        directory.held("acme", "vc.sddc.local:443").as_deref(),
        Some("other")
    );
    assert_eq!(
        directory.held("acme", "nsx:443"),
        None,
        "it is declared no more"
    );
}

/// Endpoints are renamed, and names are moved from one to another, with a restart of the agent.
#[test]
fn a_name_whose_endpoint_is_gone_goes_to_the_next_that_declares_it() {
    let directory = Directory::new(MEMORY);
    let fake = Fake::default();
    let (one, two) = ("one.sddc.local:443", "two.sddc.local:443");
    let server = |name: &str| directory.server(&tenant("acme"), &ConnectName::parse(name).unwrap());
    directory.add_named("acme", "a", 1, &fake, &[one]);
    directory.add_named("acme", "b", 1, &fake, &[two]);
    assert_eq!(server(one), Some(endpoint("a")));
    for name in ["a", "b"] {
        directory.remove("acme", name, 1);
    }
    assert_eq!(server(one), None, "nobody serves it");
    directory.add_named("acme", "a", 2, &fake, &[two]);
    directory.add_named("acme", "b", 2, &fake, &[one]);
    assert_eq!(directory.held("acme", one).as_deref(), Some("b"));
    assert_eq!(directory.held("acme", two).as_deref(), Some("a"));
    // What is forgotten takes nothing with it that is another's by now.
    directory.remove("acme", "a", 2);
    directory.add_named("acme", "c", 3, &fake, &[two]);
    directory.remove("acme", "b", 2);
    assert_eq!(directory.held("acme", two).as_deref(), Some("c"));
    assert_eq!(directory.held("acme", one).as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_free_again_goes_to_an_endpoint_that_waits_for_it_unless_its_own_comes_back()
{
    let directory = Directory::new(MEMORY);
    let fake = Fake::default();
    let (contested, own) = ("vc.sddc.local:443", "printer.sddc.local:443");
    let held = || directory.held("acme", contested);
    directory.add_named("acme", "printer", 1, &fake, &[contested]);
    directory.add_named("acme", "vcenter", 2, &fake, &[contested]);
    let announced = || {
        let routes = directory.routes_here();
        let names = routes.iter().map(|route| route.names.len());
        names.collect::<Vec<_>>()
    };
    assert_eq!(announced(), [1, 0], "other nodes hear of one");

    directory.remove("acme", "printer", 1);
    directory.forget_old();
    directory.add_named("acme", "printer", 3, &fake, &[contested]);
    tokio::time::advance(NAME_REST).await;
    directory.forget_old();
    assert_eq!(held().as_deref(), Some("printer"), "it came back at once");

    // It goes.
    directory.remove("acme", "printer", 3);
    tokio::time::advance(NAME_REST).await;
    let mut changes = directory.changes();
    changes.mark_unchanged();
    directory.forget_old();
    assert_eq!(held().as_deref(), Some("vcenter"));
    assert!(changes.has_changed().unwrap(), "other nodes are to hear");
    directory.add_named("acme", "printer", 4, &fake, &[contested, own]);
    assert_eq!(held().as_deref(), Some("vcenter"));
    assert_eq!(directory.held("acme", own).as_deref(), Some("printer"));

    // It declares the name no more.
    directory.add_named("acme", "vcenter", 2, &fake, &[]);
    directory.forget_old();
    assert_eq!(held().as_deref(), Some("printer"));
    assert_eq!(announced(), [2, 0]);
    directory.assert_counts();
}

#[test]
fn a_name_leads_to_a_session_that_declares_it() {
    let directory = Directory::new(MEMORY);
    let (old, new) = (Fake::default(), Fake::with_load(7));
    directory.add_named("acme", "vc", 1, &old, &["vc:443"]);
    directory.add_named("acme", "vc", 2, &new, &["vc:443", "vc:5480"]);
    for _ in 0..20 {
        let found = directory.find_named("acme", "vc", "vc:5480");
        assert!(matches!(found, Lookup::Session(found, _) if found.is(&new)));
    }
    directory.remove("acme", "vc", 2);
    assert_eq!(directory.held("acme", "vc:5480"), None);
    assert_eq!(directory.held("acme", "vc:443").as_deref(), Some("vc"));
}

/// What a tenant's sessions declare is its own affair: others wait for the directory while it is written.
/// That each registration looked at all names of the endpoint would keep this going for hours.
#[test]
fn the_names_of_one_session_are_registered_without_a_look_at_those_of_others() {
    let directory = Directory::new(MEMORY);
    let fake = Fake::default();
    let names: Vec<_> = (0..100_000)
        .map(|n| format!("h{n}.sddc.local:443"))
        .collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    for (id, names) in (1..).zip(names.chunks(50)) {
        directory.add_named("acme", "vc", id, &fake, names);
    }
    for name in [names[0], names[50_000], names[99_999]] {
        assert_eq!(directory.held("acme", name).as_deref(), Some("vc"));
    }
    for id in 2..=2000 {
        directory.remove("acme", "vc", id);
    }
    assert_eq!(directory.held("acme", names[49]).as_deref(), Some("vc"));
    assert_eq!(directory.held("acme", names[50]), None);
    assert_eq!(directory.routes_here()[0].names.len(), 50);
}

/// Whatever comes and goes in whatever order: a name is with one endpoint that declares it or was the last
/// to, and who declares it besides waits for it.
#[tokio::test(start_paused = true)]
async fn names_are_with_who_declares_them_whatever_comes_and_goes() {
    let mut random = fastrand::Rng::with_seed(7);
    let directory = Directory::new(MEMORY);
    let fake = Fake::default();
    let pool = ["a:1", "b:1", "c:1", "d:1"];
    let mut live = std::collections::BTreeMap::new();
    for step in 0..20_000 {
        let (of, id) = (random.usize(..3), random.u64(..4));
        let name = ["x", "y", "z"][of];
        match random.u8(..8) {
            0..4 => {
                let names: Vec<_> = pool.into_iter().filter(|_| random.bool()).collect();
                directory.add_named("acme", name, id, &fake, &names);
                live.insert((name, id), names);
            }
            4..7 => {
                directory.remove("acme", name, id);
                live.remove(&(name, id));
            }
            _ => {
                tokio::time::advance(NAME_REST / 2).await;
                directory.forget_old();
            }
        }
        let declares = |endpoint: &str, name: &str| {
            let of_it = live.iter().filter(|((of, _), _)| *of == endpoint);
            of_it.flat_map(|(_, names)| names).any(|it| *it == name)
        };
        for name in pool {
            let server = directory.server(&tenant("acme"), &ConnectName::parse(name).unwrap());
            if let Some(server) = &server {
                assert!(
                    declares(server.as_str(), name),
                    "{step}: {server} has {name}"
                );
            }
            for route in directory.routes_here() {
                let is_its = route.names.iter().any(|it| it.as_str() == name);
                let expected = server.as_ref() == Some(&route.endpoint);
                assert!(is_its == expected, "{step}: {name} of {}", route.endpoint);
            }
        }
        directory.assert_counts();
    }
    tokio::time::advance(MEMORY).await;
    directory.forget_old();
    for name in pool {
        let declaring = live.values().any(|names| names.contains(&name));
        assert_eq!(directory.held("acme", name).is_some(), declaring, "{name}");
    }
}
