//! A decision costs no memory: at any load, deciding never touches the allocator.

use culvert_policy::{
    Action, CallFacts, CanonicalTarget, Mode, PathOptions, Policy, RuleSpec, Soap,
};

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

#[test]
fn a_decision_without_shadow_hits_does_not_allocate() {
    let scopes = strings(&["vcenter.read"]);
    let mut rules: Vec<_> = (0..100)
        .map(|index| RuleSpec {
            endpoint: strings(&["vcenter", "esx-*"]),
            method: strings(&["GET"]),
            path: vec![
                format!("/api/vcenter/vm/*/kind-{index}/**"),
                format!("/**/{index}"),
            ],
            caller: strings(&["director-*"]),
            scope: scopes.clone(),
            query: vec![("action".to_owned(), strings(&["start"]))],
            source: vec!["10.0.0.0/8".parse().unwrap()],
            ..RuleSpec::new(format!("allow {index}"), Action::Allow)
        })
        .collect();
    rules.push(RuleSpec {
        path: strings(&["/api/appliance/**"]),
        ..RuleSpec::new("deny", Action::Deny)
    });
    rules.push(RuleSpec {
        path: strings(&["/rest/**"]),
        enforce: false,
        ..RuleSpec::new("shadow", Action::Deny)
    });
    let policy = Policy::compile(rules).unwrap();
    for (target, allowed) in [
        ("/api/vcenter/vm/VM-%C3%84/kind-99/x?action=start", true),
        ("/api/vcenter/vm/vm-1/kind-99/x?action=stop", false),
        ("/API/Appliance/health", false),
        ("/elsewhere", false),
    ] {
        let target = CanonicalTarget::parse(target, PathOptions::default()).unwrap();
        let call = CallFacts {
            endpoint: "vcenter",
            mode: Mode::Http,
            method: "GET",
            target: Some(&target),
            destination: None,
            caller: "director-7",
            scopes: &scopes,
            soap: Soap::No,
            upgrade: None,
            source: Some("10.1.2.3".parse().unwrap()),
            host: None,
            port: None,
        };
        let measured = allocation_counter::measure(|| {
            assert_eq!(policy.decide(&call).is_allow(), allowed);
        });
        assert_eq!(measured.count_total, 0, "{target}");
    }
    let measured = allocation_counter::measure(|| drop(String::from("seen")));
    assert_eq!(measured.count_total, 1, "the counter counts");
}
