use super::*;
use crate::rule::{RuleSpec, SoapOps};

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

fn vcenter() -> LintEndpoint {
    LintEndpoint {
        name: "vcenter".to_owned(),
        modes: vec![Mode::Http],
        paths: PathOptions::default(),
    }
}

/// A rule that nobody could mind.
fn plain(id: &str) -> RuleSpec {
    RuleSpec {
        method: strings(&["GET"]),
        path: strings(&["/api/x"]),
        ..RuleSpec::new(id, Action::Allow)
    }
}

fn deny(id: &str, path: &str) -> RuleSpec {
    RuleSpec {
        path: strings(&[path]),
        ..RuleSpec::new(id, Action::Deny)
    }
}

fn soap(id: &str, names: &[&str]) -> RuleSpec {
    RuleSpec {
        path: strings(&["/sdk"]),
        soap_op: Some(SoapOps::Names(strings(names))),
        ..RuleSpec::new(id, Action::Allow)
    }
}

fn lint(rules: Vec<RuleSpec>) -> Vec<(&'static str, String)> {
    let own = rules.len();
    let policy = Policy::compile(rules).unwrap();
    let findings = policy.lint(own, &[vcenter()]);
    let found = findings.into_iter().map(|finding| {
        assert!(finding.to_string().starts_with(finding.code.as_str()));
        (finding.code.as_str(), finding.message)
    });
    found.collect()
}

fn codes(rules: Vec<RuleSpec>) -> Vec<&'static str> {
    lint(rules).into_iter().map(|(code, _)| code).collect()
}

#[test]
fn a_sound_policy_has_no_findings() {
    let rules = vec![
        plain("a"),
        deny("d", "/api/appliance/**"),
        soap("s", &["Login", "Retrieve*"]),
        RuleSpec {
            soap_op: Some(SoapOps::Names(strings(&["PowerOnVM_Task"]))),
            path: strings(&["/sdk/vim25/**"]),
            ..RuleSpec::new("twin", Action::Allow)
        },
    ];
    assert_eq!(lint(rules), []);
}

#[test]
fn a_rule_that_no_call_can_match_is_found() {
    type Change = fn(&mut RuleSpec);
    let table: [(&str, Change); 9] = [
        ("show no request", |rule| {
            rule.mode = vec![Mode::Tcp, Mode::Connect]
        }),
        ("called in a mode", |rule| rule.mode = vec![Mode::Terminate]),
        ("SOAP calls are POSTs", |rule| {
            rule.soap_op = Some(SoapOps::Names(strings(&["Login"])))
        }),
        ("SOAP calls are POSTs", |rule| {
            rule.method = strings(&["PUT", "PATCH"]);
            rule.soap_op = Some(SoapOps::All);
            rule.enforce = false;
        }),
        ("at once", |rule| {
            rule.method = strings(&["POST"]);
            rule.soap_op = Some(SoapOps::Names(strings(&["Login"])));
            rule.upgrade = strings(&["websocket"]);
        }),
        ("add soap_op", |rule| {
            rule.method = strings(&["POST"]);
            rule.path = strings(&["/sdk", "/sdk/**"]);
        }),
        ("allow_semicolon", |rule| rule.path = strings(&["/a;b"])),
        ("allow_encoded_slash", |rule| {
            rule.path = strings(&["/a%2Fb"])
        }),
        ("allow_encoded_percent", |rule| {
            rule.path = strings(&["/a%252fb"])
        }),
    ];
    for (words, change) in table {
        let mut rule = plain("r");
        change(&mut rule);
        let found = lint(vec![plain("other"), rule]);
        let [("never-matches", message)] = &*found else {
            panic!("{words}: {found:?}")
        };
        assert!(message.contains(words), "{words}: {message}");
    }
}

#[test]
fn a_rule_that_leaves_nothing_to_another_is_found() {
    let path = |id: &str, path: &str| RuleSpec {
        path: strings(&[path]),
        ..plain(id)
    };
    let limited = RuleSpec {
        caller: strings(&["director-*"]),
        ..path("wide", "/api/**")
    };
    for (first, second, expected) in [
        (path("a", "/api/**"), path("b", "/api/x/*"), true),
        (path("a", "/api/**"), path("b", "/api/**/x"), true),
        (path("a", "/**/x"), path("b", "/a/**/x"), true),
        (path("a", "/api/*"), path("b", "/api/**"), false),
        (path("a", "/api/*/*"), path("b", "/api/**"), false),
        (path("a", "/api/**/*"), path("b", "/api/**"), false),
        (path("a", "/api/*"), path("b", "/api/a*"), true),
        (path("a", "/api/a*"), path("b", "/api/*"), false),
        (path("a", "/API/**"), path("b", "/api/x"), false),
        (limited.clone(), path("b", "/api/x"), false),
        (
            limited.clone(),
            RuleSpec {
                caller: strings(&["director-7"]),
                ..path("b", "/api/x")
            },
            true,
        ),
        (
            path("a", "/**"),
            RuleSpec {
                method: strings(&["PUT"]),
                ..path("b", "/x")
            },
            false,
        ),
        (
            path("a", "/**"),
            RuleSpec {
                upgrade: strings(&["websocket"]),
                ..path("b", "/x")
            },
            false,
        ),
        // Only a rule that names the twin reaches it.
        (
            RuleSpec::new("a", Action::Allow),
            path("b", "/sdk/vim25/*/*/*/PowerOnVM_Task"),
            false,
        ),
        (
            RuleSpec::new("a", Action::Allow),
            path("b", "/api/**"),
            true,
        ),
        (
            RuleSpec::new("d", Action::Deny),
            path("b", "/sdk/vim25/*/*/*/PowerOnVM_Task"),
            true,
        ),
        (deny("d", "/a/b"), deny("e", "/a%2fb"), false),
        (path("b", "/api/x"), deny("d", "/API/**"), true),
        (deny("d", "/API/**"), path("b", "/api/x"), true),
        (deny("d", "/api/**"), deny("e", "/Api/x"), true),
        (deny("e", "/api/x"), deny("d", "/api/**"), false),
        (
            RuleSpec {
                enforce: false,
                ..deny("d", "/**")
            },
            path("b", "/api/x"),
            false,
        ),
        (
            RuleSpec {
                method: strings(&["get"]).iter().map(|m| m.to_uppercase()).collect(),
                ..deny("d", "/**")
            },
            path("b", "/api/x"),
            true,
        ),
        (soap("a", &["Login*"]), soap("b", &["LoginByToken"]), true),
        (
            soap("a", &["Login"]),
            soap("b", &["Login", "Logout"]),
            false,
        ),
        (deny("d", "/sdk"), soap("b", &["Login"]), true),
    ] {
        let found = codes(vec![first.clone(), second.clone()]);
        assert_eq!(
            found.contains(&"shadowed"),
            expected,
            "{first:?} {second:?} {found:?}"
        );
    }
}

/// Whatever key the first rule has more than the second, it leaves calls to it; and none where both have it.
#[test]
fn a_rule_that_asks_for_more_leaves_something_to_the_next() {
    type Change = fn(&mut RuleSpec);
    let table: [Change; 10] = [
        |rule| rule.mode = vec![Mode::Http],
        |rule| rule.method = strings(&["GET"]),
        |rule| rule.caller = strings(&["director-*"]),
        |rule| rule.scope = strings(&["read"]),
        |rule| rule.query = vec![("action".to_owned(), strings(&["start"]))],
        |rule| rule.soap_op = Some(SoapOps::Names(strings(&["Login"]))),
        |rule| rule.upgrade = strings(&["websocket"]),
        |rule| rule.source = vec!["10.0.0.0/8".parse().unwrap()],
        |rule| rule.host = strings(&["vcenter"]),
        |rule| rule.port = vec![443],
    ];
    let rule = |id: &str, changes: &[Change]| {
        let mut rule = RuleSpec {
            path: strings(&["/api/**"]),
            ..RuleSpec::new(id, Action::Allow)
        };
        changes.iter().for_each(|change| change(&mut rule));
        rule
    };
    let shadowed = |first: &[Change], second: &[Change]| {
        codes(vec![rule("a", first), rule("b", second)]).contains(&"shadowed")
    };
    for (at, change) in table.into_iter().enumerate() {
        assert!(!shadowed(&[change], &[]), "key {at} in the first alone");
        assert!(shadowed(&[change], &[change]), "key {at} in both");
    }
    let login: Change = |rule| rule.soap_op = Some(SoapOps::Names(strings(&["Login"])));
    let all: Change = |rule| rule.soap_op = Some(SoapOps::All);
    let ns: Change = |rule| rule.soap_ns = Some("urn:vim25".to_owned());
    assert!(shadowed(&[all], &[login]));
    assert!(!shadowed(&[login], &[all]));
    assert!(!shadowed(&[], &[login]), "it allows no SOAP");
    assert!(shadowed(&[login], &[login, ns]));
    assert!(!shadowed(&[login, ns], &[login]));
    let never: Change = |rule| {
        rule.action = Action::Deny;
        rule.soap_op = Some(SoapOps::Names(strings(&["LOGIN"])));
    };
    assert!(
        shadowed(&[never], &[login]),
        "deny rules see no letter case"
    );
}

#[test]
fn a_rule_that_opens_everything_is_found() {
    let everything = RuleSpec::new("a", Action::Allow);
    assert_eq!(codes(vec![everything.clone()]), ["allow-all"]);
    let stars = RuleSpec {
        path: strings(&["/**"]),
        ..everything.clone()
    };
    assert_eq!(codes(vec![stars]), ["allow-all"]);
    let all = RuleSpec {
        soap_op: Some(SoapOps::All),
        ..soap("s", &[])
    };
    assert_eq!(codes(vec![all]), ["all-operations"]);
    let twin = RuleSpec {
        path: strings(&["/sdk/vim25/**"]),
        method: strings(&["POST"]),
        ..everything.clone()
    };
    assert_eq!(codes(vec![twin.clone()]), ["json-twin"]);
    let one = RuleSpec {
        path: strings(&["/sdk/vim25/*/*/*/PowerOnVM_Task"]),
        ..twin
    };
    assert_eq!(codes(vec![one]), [""; 0]);
    let wide = RuleSpec {
        path: strings(&["/**"]),
        ..soap("s", &["Login"])
    };
    assert_eq!(codes(vec![wide]), ["soap-everywhere"]);
}

#[test]
fn methods_and_upgrades_that_never_come_are_found() {
    let methods = |methods: &[&str]| RuleSpec {
        method: strings(methods),
        ..plain("m")
    };
    assert_eq!(codes(vec![methods(&["GET", "PROPFIND", "QUERY"])]), [""; 0]);
    let found = lint(vec![methods(&["GET", "GTE"])]);
    assert_eq!(found[0].0, "unknown-method");
    assert!(found[0].1.contains("\"GTE\""), "{found:?}");
    assert_eq!(codes(vec![methods(&["TRACE"])]), ["never-matches"]);
    assert_eq!(codes(vec![methods(&["TRACE", "GET"])]), [""; 0]);

    let upgrade = |upgrade: &[&str], method: &[&str]| RuleSpec {
        upgrade: strings(upgrade),
        ..methods(method)
    };
    for (to, method, expected) in [
        (&["websocket"][..], &["GET"][..], &[][..]),
        (&["websocket"], &[], &[]),
        (&["h2c", "websocket"], &["GET"], &[]),
        (&["h2c"], &["GET"], &["never-matches"]),
        (&["websocket"], &["POST"], &["never-matches"]),
    ] {
        assert_eq!(
            codes(vec![upgrade(to, method)]),
            expected,
            "{to:?} {method:?}"
        );
    }
    // Where it sees bytes, CONNECT is what the agent takes.
    let way = |mode| RuleSpec {
        mode: vec![mode],
        path: Vec::new(),
        ..methods(&["CONNECT"])
    };
    let connect = LintEndpoint {
        modes: vec![Mode::Http, Mode::Connect],
        ..vcenter()
    };
    for (mode, expected) in [(Mode::Connect, &[][..]), (Mode::Http, &["never-matches"])] {
        let policy = Policy::compile(vec![way(mode)]).unwrap();
        let found = policy.lint(1, std::slice::from_ref(&connect));
        let codes: Vec<_> = found.iter().map(|finding| finding.code.as_str()).collect();
        assert_eq!(codes, expected, "{mode:?}: {found:?}");
    }
}

#[test]
fn operations_that_are_not_there_or_more_than_meant_are_found() {
    let found = lint(vec![soap(
        "s",
        &["PowerOnVM", "RetreivePropertiesEx", "Foo*", "Destroy*"],
    )]);
    let words = [
        "\"PowerOnVM_Task\"",
        "\"RetrievePropertiesEx\"",
        "soap_ns",
        "DestroyView",
    ];
    let expected = [
        "unknown-operation",
        "unknown-operation",
        "unknown-operation",
        "broad-glob",
    ];
    assert_eq!(found.len(), 4, "{found:?}");
    for ((code, message), (expected, word)) in found.iter().zip(expected.iter().zip(words)) {
        assert_eq!(code, expected);
        assert!(message.contains(word) || word == "DestroyView", "{message}");
    }
    assert!(
        found[3].1.contains("Destroy_Task") || found[3].1.contains("more"),
        "{}",
        found[3].1
    );
    for other in [
        RuleSpec {
            soap_ns: Some("urn:pbm".to_owned()),
            ..soap("s", &["PbmQueryProfile"])
        },
        RuleSpec {
            path: strings(&["/pbm/sdk"]),
            ..soap("s", &["PbmQueryProfile"])
        },
    ] {
        assert_eq!(lint(vec![other]), []);
    }
}

#[test]
fn endpoints_and_rules_that_do_not_meet_are_found() {
    let elsewhere = RuleSpec {
        endpoint: strings(&["esx-*"]),
        ..plain("a")
    };
    assert_eq!(
        codes(vec![elsewhere]),
        ["unknown-endpoint", "endpoint-without-rules"]
    );
    assert_eq!(codes(vec![deny("d", "/x")]), ["endpoint-without-rules"]);
    let shadow = RuleSpec {
        enforce: false,
        ..plain("a")
    };
    assert_eq!(codes(vec![shadow]), ["endpoint-without-rules"]);
    let preset = |id: &str| RuleSpec {
        endpoint: strings(&["nsx"]),
        ..plain(id)
    };
    let policy = Policy::compile(vec![plain("own"), preset("p:a"), preset("p:b")]).unwrap();
    let found = policy.lint(1, &[vcenter()]);
    assert_eq!(found.len(), 1, "once for a preset: {found:?}");
    assert_eq!(found[0].subject, "p");
}
