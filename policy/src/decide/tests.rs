use std::net::IpAddr;

use super::*;
use crate::canonical::{CanonicalTarget, PathOptions};
use crate::facts::Mode;
use crate::matching::Key;
use crate::rule::SoapOps;

mod connections;
mod destination;
mod model;
mod soap;
mod twin;

pub(crate) fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

fn target(text: &str) -> CanonicalTarget {
    let options = PathOptions::ALL;
    CanonicalTarget::parse(text, options).unwrap()
}

static TARGET: std::sync::LazyLock<CanonicalTarget> = std::sync::LazyLock::new(|| target("/api"));

/// A `GET` that says as little as possible.
fn get(target: &CanonicalTarget) -> CallFacts<'_> {
    CallFacts {
        endpoint: "vcenter",
        mode: Mode::Http,
        method: "GET",
        target: Some(target),
        destination: None,
        caller: "director-7",
        scopes: &[],
        soap: Soap::No,
        upgrade: None,
        source: None,
        host: None,
        port: None,
    }
}

fn allow(id: &str) -> RuleSpec {
    RuleSpec::new(id, Action::Allow)
}

fn deny(id: &str) -> RuleSpec {
    RuleSpec::new(id, Action::Deny)
}

fn policy(rules: impl IntoIterator<Item = RuleSpec>) -> Policy {
    Policy::compile(rules.into_iter().collect()).unwrap()
}

/// What of a rule, alone in its policy, a call misses.
fn missed(rule: &RuleSpec, call: &CallFacts<'_>) -> Vec<Key> {
    let explanation = policy([rule.clone()]).explain(call);
    let missed = explanation.rules[0].mismatches.iter();
    missed.map(|mismatch| mismatch.key).collect()
}

/// Whether one rule matches the call, by either action.
fn hits(rule: &RuleSpec, call: &CallFacts<'_>) -> bool {
    let other = match rule.action {
        Action::Allow => None,
        Action::Deny => Some(RuleSpec {
            soap_op: (call.soap != Soap::No).then_some(SoapOps::All),
            upgrade: call
                .upgrade
                .map(|protocol| protocol.to_owned())
                .into_iter()
                .collect(),
            ..allow("everything else")
        }),
    };
    let policy = policy([rule.clone()].into_iter().chain(other));
    policy.decide(call).rule() == Some(&rule.id)
}

#[test]
fn what_no_rule_matches_is_denied() {
    let root = target("/");
    for policy in [
        Policy::deny_all(),
        policy([]),
        policy([deny("d")]),
        policy([RuleSpec {
            method: strings(&["PUT"]),
            ..allow("a")
        }]),
    ] {
        assert!(!policy.decide(&get(&root)).is_allow());
    }
    let policy = Policy::deny_all();
    let Decision::Deny(denial) = policy.decide(&get(&root)) else {
        panic!("allowed")
    };
    assert_eq!((denial.rule(), denial.reason()), (None, DenyReason::NoRule));
}

#[test]
fn deny_wins_wherever_it_stands() {
    let root = target("/");
    for rules in [[allow("a"), deny("d")], [deny("d"), allow("a")]] {
        let policy = policy(rules);
        let Decision::Deny(denial) = policy.decide(&get(&root)) else {
            panic!("allowed")
        };
        assert_eq!(
            (denial.rule(), denial.reason()),
            (Some("d"), DenyReason::Rule)
        );
    }
}

#[test]
fn the_first_matching_rule_of_the_file_decides_and_its_limits_count() {
    let path = target("/a/b/c");
    let rule = |id, path: &str, max_body| RuleSpec {
        path: strings(&[path]),
        max_body: Some(max_body),
        rate: Some("20/s".parse().unwrap()),
        ..allow(id)
    };
    let policy = policy([
        rule("elsewhere", "/b", 1),
        rule("deep", "/a/b/*", 2),
        rule("wide", "/**", 3),
        rule("exact", "/a/b/c", 4),
    ]);
    let Decision::Allow(permit) = policy.decide(&get(&path)) else {
        panic!("denied")
    };
    assert_eq!(&**permit.rule(), "deep");
    assert_eq!(permit.max_body(), Some(2));
    let rates: Vec<_> = permit.rates().collect();
    assert_eq!(rates, [(permit.rule(), "20/s".parse().unwrap())]);
    assert!(permit.shadow().is_empty());
}

#[test]
fn the_root_is_a_path_like_others() {
    let root = target("/");
    for (pattern, expected) in [("/", true), ("/**", true), ("/*", false), ("/a", false)] {
        for rule in [allow("a"), deny("d")] {
            let action = rule.action;
            let rule = RuleSpec {
                path: strings(&[pattern]),
                ..rule
            };
            let policy = policy([rule]);
            let decision = policy.decide(&get(&root));
            assert_eq!(decision.rule().is_some(), expected, "{action:?} {pattern}");
        }
    }
}

#[test]
fn every_key_that_is_given_must_match() {
    let (path, scopes) = (target("/api/vm?action=start"), strings(&["read", "write"]));
    let mut call = get(&path);
    call.scopes = &scopes;
    call.source = Some("10.1.2.3".parse().unwrap());
    let rule = |action| RuleSpec {
        endpoint: strings(&["esx-*", "vcenter"]),
        mode: vec![Mode::Http, Mode::Terminate],
        method: strings(&["GET", "HEAD"]),
        path: strings(&["/sdk", "/api/**"]),
        caller: strings(&["director-*"]),
        scope: strings(&["admin", "write"]),
        query: vec![("action".to_owned(), strings(&["start", "reset"]))],
        source: vec!["10.0.0.0/8".parse().unwrap()],
        ..RuleSpec::new("all keys", action)
    };
    type Change = fn(&mut CallFacts<'_>);
    let changes: [(Key, Change); 6] = [
        (Key::Endpoint, |call| call.endpoint = "nsx"),
        (Key::Mode, |call| call.mode = Mode::Connect),
        (Key::Method, |call| call.method = "POST"),
        (Key::Caller, |call| call.caller = "admin"),
        (Key::Scope, |call| call.scopes = &[]),
        (Key::Source, |call| {
            call.source = Some("192.0.2.1".parse().unwrap())
        }),
    ];
    for action in [Action::Allow, Action::Deny] {
        let rule = rule(action);
        assert!(hits(&rule, &call));
        for (key, change) in changes {
            let mut other = call;
            change(&mut other);
            assert!(!hits(&rule, &other), "{key:?}");
            assert_eq!(missed(&rule, &other), [key]);
        }
        for (key, text) in [(Key::Path, "/rest?action=start"), (Key::Query, "/api/vm")] {
            let path = target(text);
            let other = CallFacts {
                target: Some(&path),
                ..call
            };
            assert!(!hits(&rule, &other), "{key:?}");
            assert_eq!(missed(&rule, &other), [key]);
        }
    }
}

#[test]
fn scopes_are_whole_words() {
    let root = target("/");
    let rule = RuleSpec {
        scope: strings(&["read"]),
        ..allow("a")
    };
    for (granted, expected) in [
        ("read", true),
        ("reader", false),
        ("re", false),
        ("READ", false),
    ] {
        let scopes = strings(&[granted]);
        assert_eq!(
            hits(
                &rule,
                &CallFacts {
                    scopes: &scopes,
                    ..get(&root)
                }
            ),
            expected
        );
    }
}

#[test]
fn only_deny_rules_ignore_letter_case() {
    let (path, scopes) = (target("/API/Vm"), strings(&["Read"]));
    let call = CallFacts {
        method: "get",
        caller: "DIRECTOR-7",
        scopes: &scopes,
        ..get(&path)
    };
    let narrow = |action| {
        [
            RuleSpec {
                path: strings(&["/api/vm"]),
                ..RuleSpec::new("p", action)
            },
            RuleSpec {
                method: strings(&["GET"]),
                ..RuleSpec::new("m", action)
            },
            RuleSpec {
                caller: strings(&["director-*"]),
                ..RuleSpec::new("c", action)
            },
            RuleSpec {
                scope: strings(&["read"]),
                ..RuleSpec::new("s", action)
            },
        ]
    };
    for rule in narrow(Action::Deny) {
        assert!(hits(&rule, &call), "{}", rule.id);
    }
    for rule in narrow(Action::Allow) {
        assert!(!hits(&rule, &call), "{}", rule.id);
    }
}

#[test]
fn an_upgrade_is_allowed_only_by_a_rule_that_says_so() {
    let root = target("/");
    let plain = get(&root);
    let upgrade = |protocol| CallFacts {
        upgrade: Some(protocol),
        ..plain
    };
    let says = RuleSpec {
        upgrade: strings(&["websocket"]),
        ..allow("a")
    };
    assert!(!hits(&allow("a"), &upgrade("websocket")));
    assert!(hits(&says, &upgrade("websocket")));
    assert!(
        hits(&says, &upgrade("WebSocket")),
        "protocol names have no case"
    );
    assert!(!hits(&says, &upgrade("h2c")));
    assert!(!hits(&says, &plain), "every key that is given must match");
    assert!(
        hits(&deny("d"), &upgrade("websocket")),
        "a deny rule is about upgrades too"
    );
}

#[test]
fn an_unknown_address_is_in_no_allowed_network_and_in_every_denied_one() {
    let root = target("/");
    let networks = || vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let from = |address: &str| CallFacts {
        source: address.parse::<IpAddr>().ok(),
        ..get(&root)
    };
    for (address, allowed, denied) in [
        ("10.255.0.1", true, true),
        ("fd00::1", true, true),
        ("::ffff:10.0.0.1", true, true),
        ("11.0.0.1", false, false),
        ("::1", false, false),
        ("unknown", false, true),
    ] {
        let rule = RuleSpec {
            source: networks(),
            ..allow("a")
        };
        assert_eq!(hits(&rule, &from(address)), allowed, "allow {address}");
        let rule = RuleSpec {
            source: networks(),
            ..deny("d")
        };
        assert_eq!(hits(&rule, &from(address)), denied, "deny {address}");
    }
}

#[test]
fn a_network_of_mapped_addresses_is_the_ipv4_network_that_it_maps() {
    let root = target("/");
    for (network, address, is_in) in [
        ("::ffff:10.0.0.0/104", "10.1.2.3", true),
        ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", true),
        ("::ffff:10.0.0.0/104", "11.1.2.3", false),
        ("::ffff:10.1.2.3/128", "10.1.2.3", true),
        ("::ffff:10.1.2.3/128", "10.1.2.4", false),
        ("::ffff:0:0/96", "192.0.2.1", true),
        ("::ffff:0:0/96", "2001:db8::1", false),
        ("::/0", "2001:db8::1", true),
        ("::/0", "10.1.2.3", false),
    ] {
        let rule = RuleSpec {
            source: vec![network.parse().unwrap()],
            ..deny("d")
        };
        let call = CallFacts {
            source: address.parse::<IpAddr>().ok(),
            ..get(&root)
        };
        assert_eq!(hits(&rule, &call), is_in, "{network} {address}");
    }
}

#[test]
fn a_rule_about_paths_says_nothing_about_calls_without_one() {
    let call = CallFacts {
        mode: Mode::Connect,
        method: "CONNECT",
        target: None,
        ..get_without_target()
    };
    assert!(hits(&allow("any"), &call));
    assert!(!hits(
        &RuleSpec {
            path: strings(&["/**"]),
            ..allow("path")
        },
        &call
    ));
    let query = vec![("a".to_owned(), strings(&["b"]))];
    assert!(!hits(
        &RuleSpec {
            query,
            ..allow("query")
        },
        &call
    ));
}

fn get_without_target() -> CallFacts<'static> {
    CallFacts {
        endpoint: "vcenter",
        mode: Mode::Http,
        method: "GET",
        target: None,
        destination: None,
        caller: "",
        scopes: &[],
        soap: Soap::No,
        upgrade: None,
        source: None,
        host: None,
        port: None,
    }
}

#[test]
fn a_call_that_lost_its_target_is_denied() {
    let policy = policy([allow("any")]);
    let call = get_without_target();
    let Decision::Deny(denial) = policy.decide(&call) else {
        panic!("allowed")
    };
    assert_eq!(denial.reason(), DenyReason::NoTarget);
}

#[test]
fn a_deny_rule_holds_behind_path_parameters_and_for_every_spelling() {
    let policy = policy([
        allow("everything"),
        RuleSpec {
            path: strings(&["/admin/vm:stop"]),
            ..deny("no")
        },
    ]);
    for path in [
        "/admin/vm:stop",
        "/ADMIN/vm%3aSTOP",
        "/admin;x=1/vm:stop;y",
        "/admin/vm:stop/",
    ] {
        assert_eq!(
            policy.decide(&get(&target(path))).rule(),
            Some("no"),
            "{path}"
        );
    }
    assert!(policy.decide(&get(&target("/admin/vm:stopped"))).is_allow());
}

#[test]
fn a_shadow_rule_is_reported_and_changes_nothing() {
    let path = target("/rest/vm");
    let shadow = |rule| RuleSpec {
        enforce: false,
        ..rule
    };
    let policy = policy([
        shadow(RuleSpec {
            path: strings(&["/rest/**"]),
            ..deny("no rest")
        }),
        shadow(RuleSpec {
            path: strings(&["/api/**"]),
            ..deny("no api")
        }),
        RuleSpec {
            method: strings(&["GET"]),
            ..allow("read")
        },
        shadow(allow("all")),
    ]);
    let decision = policy.decide(&get(&path));
    assert_eq!(decision.rule(), Some("read"));
    let found: Vec<_> = decision
        .shadow()
        .iter()
        .map(|hit| (&*hit.rule, hit.action))
        .collect();
    assert_eq!(found, [("no rest", Action::Deny), ("all", Action::Allow)]);

    let put = CallFacts {
        method: "PUT",
        ..get(&path)
    };
    let decision = policy.decide(&put);
    assert!(!decision.is_allow(), "a shadow rule allows nothing");
    assert_eq!(decision.shadow().len(), 2);
}

#[test]
fn an_explanation_says_of_every_rule_what_did_not_match() {
    let path = target("/api/vm");
    let policy = policy([
        RuleSpec {
            method: strings(&["POST"]),
            caller: strings(&["admin"]),
            ..allow("write")
        },
        RuleSpec {
            path: strings(&["/api/**"]),
            ..allow("read")
        },
        RuleSpec {
            path: strings(&["/sdk"]),
            enforce: false,
            ..deny("later")
        },
    ]);
    let text = policy.explain(&get(&path)).to_string();
    let expected = r#"allow, by rule "read"
  "write" (allow) does not match
    method: the call has "GET", the rule wants ["POST"]
    caller: the call has "director-7", the rule wants ["admin"]
  "read" (allow) matches
  "later" (deny, not enforced) does not match
    path: the call has "/api/vm", the rule wants ["/sdk"]
"#;
    assert_eq!(text, expected);
    let denied = policy.explain(&CallFacts {
        endpoint: "x",
        method: "PUT",
        ..get(&target("/"))
    });
    assert!(
        denied
            .to_string()
            .starts_with("deny: no rule allows the call\n")
    );
}
