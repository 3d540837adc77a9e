//! Connections: calls without a target, and what may begin for the sake of calls on it.

use super::*;

#[test]
fn a_connection_is_allowed_by_name_port_and_caller_and_by_no_rule_about_paths() {
    let tunnel = |host, port, caller| CallFacts {
        mode: Mode::Connect,
        method: "CONNECT",
        target: None,
        host: Some(host),
        port: Some(port),
        caller,
        ..get(&TARGET)
    };
    let to = |rule: RuleSpec, action| RuleSpec {
        mode: vec![Mode::Connect],
        ..RuleSpec { action, ..rule }
    };
    for action in [Action::Allow, Action::Deny] {
        let rule = to(
            RuleSpec {
                host: strings(&["esx-*.sddc.local", "fd00::1"]),
                port: vec![443, 902],
                caller: strings(&["backup-*"]),
                ..allow("nfc")
            },
            action,
        );
        assert!(hits(&rule, &tunnel("esx-01.sddc.local", 902, "backup-1")));
        assert!(hits(&rule, &tunnel("fd00::1", 443, "backup-1")));
        for (key, other) in [
            (Key::Host, tunnel("vcenter.sddc.local", 902, "backup-1")),
            (Key::Host, tunnel("esx-01.sddc.local.evil", 902, "backup-1")),
            (Key::Port, tunnel("esx-01.sddc.local", 22, "backup-1")),
            (Key::Caller, tunnel("esx-01.sddc.local", 902, "director-1")),
        ] {
            assert!(!hits(&rule, &other));
            assert_eq!(missed(&rule, &other), [key]);
        }
        let by_path = to(
            RuleSpec {
                path: strings(&["/**"]),
                ..allow("path")
            },
            action,
        );
        assert!(!hits(
            &by_path,
            &tunnel("esx-01.sddc.local", 902, "backup-1")
        ));
        // A call that connects to nothing is none of those that such a rule is about.
        let anywhere = RuleSpec {
            port: vec![443],
            ..RuleSpec::new("port", action)
        };
        assert!(!hits(&anywhere, &get(&TARGET)));
    }
}

#[test]
fn a_connection_may_begin_where_some_call_on_it_could_be_allowed() {
    let rule = |id: &str, action, change: fn(&mut RuleSpec)| {
        let mut rule = RuleSpec::new(id, action);
        change(&mut rule);
        rule
    };
    let read = rule("read", Action::Allow, |rule| {
        rule.mode = vec![Mode::Terminate];
        rule.method = vec!["GET".into()];
        rule.path = vec!["/api/**".into()];
        rule.soap_op = Some(SoapOps::All);
        rule.upgrade = vec!["websocket".into()];
        rule.query = vec![("a".into(), vec!["b".into()])];
        rule.caller = vec!["director-*".into()];
        rule.host = vec!["vc.local".into()];
        rule.port = vec![443];
    });
    let connection = CallFacts {
        endpoint: "vcenter",
        mode: Mode::Terminate,
        method: "CONNECT",
        target: None,
        destination: None,
        caller: "director-7",
        scopes: &[],
        soap: Soap::No,
        upgrade: None,
        source: None,
        host: Some("vc.local"),
        port: Some(443),
    };
    assert!(connection.is_connection());
    let decide = |rules: &[&RuleSpec], connection: &CallFacts<'_>| {
        let rules = rules.iter().map(|&rule| rule.clone()).collect();
        let policy = Policy::compile(rules).unwrap();
        let decided = policy.decide_connection(connection);
        decided
            .map(ToString::to_string)
            .map_err(|denial| (denial.reason(), denial.rule().map(ToOwned::to_owned)))
    };
    assert_eq!(decide(&[&read], &connection), Ok("read".to_owned()));
    let nobody = Err((DenyReason::NoRule, None));
    for other in [
        CallFacts {
            caller: "intern",
            ..connection
        },
        CallFacts {
            host: Some("nsx.local"),
            ..connection
        },
        CallFacts {
            port: Some(444),
            ..connection
        },
        CallFacts {
            mode: Mode::Connect,
            ..connection
        },
    ] {
        assert_eq!(decide(&[&read], &other), nobody, "{other:?}");
    }
    // A shadow rule allows nothing.
    let shadow = RuleSpec {
        enforce: false,
        ..read.clone()
    };
    assert_eq!(decide(&[&shadow], &connection), nobody);
    // What denies some calls leaves the others; what denies all denies the connection.
    let some: [fn(&mut RuleSpec); 5] = [
        |rule| rule.method = vec!["PUT".into()],
        |rule| rule.path = vec!["/**".into()],
        |rule| rule.query = vec![("a".into(), vec!["c".into()])],
        |rule| rule.soap_op = Some(SoapOps::All),
        |rule| rule.upgrade = vec!["websocket".into()],
    ];
    for change in some {
        let some = rule("not-all", Action::Deny, change);
        assert_eq!(decide(&[&some, &read], &connection), Ok("read".to_owned()));
    }
    let elsewhere = rule("not-from-there", Action::Deny, |rule| {
        rule.source = vec!["192.0.2.0/24".parse().unwrap()]
    });
    for (source, begins) in [("192.0.2.1", false), ("198.51.100.1", true)] {
        let source = source.parse().ok();
        let from = CallFacts {
            source,
            ..connection
        };
        let decided = decide(&[&elsewhere, &read], &from);
        assert_eq!(decided.is_ok(), begins, "{source:?}");
    }
    let all = rule("not-him", Action::Deny, |rule| {
        rule.caller = vec!["DIRECTOR-7".into()]
    });
    assert_eq!(
        decide(&[&read, &all], &connection),
        Err((DenyReason::Rule, Some("not-him".to_owned())))
    );
}
