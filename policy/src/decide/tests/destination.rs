//! A COPY or MOVE leads only where the same call would be allowed.

use super::*;

/// What may be moved, where nothing may go, and what is watched.
fn files() -> Policy {
    policy([
        RuleSpec {
            path: strings(&["/files/**"]),
            max_body: Some(7),
            rate: Some("7/s".parse().unwrap()),
            ..allow("files")
        },
        RuleSpec {
            path: strings(&["/bin/**"]),
            max_body: Some(1),
            rate: Some("1/s".parse().unwrap()),
            ..allow("bin")
        },
        RuleSpec {
            path: strings(&["/files/secret/**"]),
            ..deny("secret")
        },
        RuleSpec {
            path: strings(&["/**"]),
            enforce: false,
            ..deny("all")
        },
        RuleSpec {
            path: strings(&["/bin/**", "/files/secret/**"]),
            enforce: false,
            ..deny("there")
        },
    ])
}

fn move_to<'a>(target: &'a CanonicalTarget, destination: &'a CanonicalTarget) -> CallFacts<'a> {
    CallFacts {
        method: "MOVE",
        destination: Some(destination),
        ..get(target)
    }
}

#[test]
fn a_call_must_be_allowed_where_it_leads_too() {
    let policy = files();
    for (from, to, allowed, rule, at_destination) in [
        ("/files/a", "/files/b", true, Some("files"), false),
        ("/files/a", "/bin/b", true, Some("files"), false),
        ("/files/a", "/files/Secret/b", false, Some("secret"), true),
        ("/files/a", "/elsewhere", false, None, true),
        ("/files/secret/a", "/files/b", false, Some("secret"), false),
        ("/elsewhere", "/files/secret/b", false, None, false),
        // Nobody has looked whether it is SOAP there.
        ("/files/a", "/sdk", false, None, true),
    ] {
        let (target, destination) = (target(from), target(to));
        let decision = policy.decide(&move_to(&target, &destination));
        let found = match &decision {
            Decision::Allow(permit) => (true, Some(&**permit.rule()), false),
            Decision::Deny(denial) => (false, denial.rule(), denial.is_at_destination()),
        };
        assert_eq!(found, (allowed, rule, at_destination), "{from} to {to}");
    }
}

/// Nobody gets around a rule's limits by a MOVE to where it allows one.
#[test]
fn limits_are_those_of_both_rules_and_one_rule_counts_once() {
    let policy = files();
    for (from, to, max_body, rates) in [
        ("/files/a", "/bin/b", 1, &["files 7/s", "bin 1/s"][..]),
        ("/bin/b", "/files/a", 1, &["bin 1/s", "files 7/s"]),
        ("/files/a", "/files/b", 7, &["files 7/s"]),
    ] {
        let (target, destination) = (target(from), target(to));
        let Decision::Allow(permit) = policy.decide(&move_to(&target, &destination)) else {
            panic!("{from} to {to} is denied")
        };
        let found = permit.rates().map(|(rule, rate)| format!("{rule} {rate}"));
        assert_eq!(found.collect::<Vec<_>>(), rates, "{from} to {to}");
        assert_eq!(permit.max_body(), Some(max_body), "{from} to {to}");
    }
}

#[test]
fn shadow_rules_of_both_paths_are_noted_once() {
    let policy = files();
    for (to, allowed) in [("/bin/b", true), ("/files/secret/b", false)] {
        let (target, destination) = (target("/files/a"), target(to));
        let decision = policy.decide(&move_to(&target, &destination));
        let noted: Vec<&str> = decision.shadow().iter().map(|hit| &*hit.rule).collect();
        assert_eq!(noted, ["all", "there"]);
        assert_eq!(decision.is_allow(), allowed);
    }
}

#[test]
fn an_explanation_has_the_rules_at_the_destination_too() {
    let policy = policy([RuleSpec {
        path: strings(&["/files/**"]),
        ..allow("files")
    }]);
    let (target, destination) = (target("/files/a"), target("/b"));
    let text = policy.explain(&move_to(&target, &destination)).to_string();
    let expected = r#"deny: no rule allows the call (at the destination)
  "files" (allow) matches
at the destination:
  "files" (allow) does not match
    path: the call has "/b", the rule wants ["/files/**"]
"#;
    assert_eq!(text, expected);

    let (policy, destination) = (files(), self::target("/bin/b"));
    let text = policy.explain(&move_to(&target, &destination)).to_string();
    let expected = "allow, by rule \"files\", and by \"bin\" at the destination\n";
    assert!(text.starts_with(expected), "{text}");
}
