//! The policy against a model that is too simple to be wrong: every rule is looked at, one after
//! the other, with patterns that are tried out recursively.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// A path pattern, tried out: segment by segment, character by character.
fn path_matches(pattern: &str, path: &str) -> bool {
    fn segments(text: &str) -> Vec<&str> {
        text.split('/')
            .filter(|segment| !segment.is_empty())
            .collect()
    }
    fn all(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern, path) {
            ([], []) => true,
            (["**", rest @ ..], _) => (0..=path.len()).any(|skip| all(rest, &path[skip..])),
            ([one, rest @ ..], [segment, behind @ ..]) => glob(one, segment) && all(rest, behind),
            _ => false,
        }
    }
    all(&segments(pattern), &segments(path))
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => (0..=text.len()).any(|skip| glob(&pattern[1..], &text[skip..])),
        Some(first) => text.starts_with(first) && glob(&pattern[1..], &text[1..]),
    }
}

fn rule_matches(rule: &RuleSpec, call: &CallFacts<'_>) -> bool {
    let any = |items: &[String], matches: &dyn Fn(&str) -> bool| {
        items.is_empty() || items.iter().any(|item| matches(item))
    };
    let path = call.target.unwrap().path();
    any(&rule.endpoint, &|pattern| glob(pattern, call.endpoint))
        && any(&rule.method, &|method| method == call.method)
        && any(&rule.path, &|pattern| match rule.action {
            Action::Allow => path_matches(pattern, path),
            Action::Deny => path_matches(&pattern.to_lowercase(), &path.to_lowercase()),
        })
        && any(&rule.caller, &|pattern| glob(pattern, call.caller))
}

fn model(rules: &[RuleSpec], call: &CallFacts<'_>) -> (bool, Option<String>) {
    let first = |action| {
        let matching = |rule: &&RuleSpec| rule.action == action && rule_matches(rule, call);
        rules
            .iter()
            .filter(|rule| rule.enforce)
            .find(matching)
            .map(|rule| rule.id.clone())
    };
    match first(Action::Deny) {
        Some(rule) => (false, Some(rule)),
        None => match first(Action::Allow) {
            Some(rule) => (true, Some(rule)),
            None => (false, None),
        },
    }
}

fn some_of(items: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(select(items).prop_map(str::to_owned), 0..3)
}

fn pattern() -> impl Strategy<Value = String> {
    let segment = select(["a", "b", "A", "ab", "*", "a*", "*b", "**", "**"].as_slice());
    proptest::collection::vec(segment, 0..7).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn path() -> impl Strategy<Value = String> {
    let segment = select(["a", "b", "A", "ab", "aab", "B"].as_slice());
    let slash = select(["", "/"].as_slice());
    (proptest::collection::vec(segment, 1..8), slash)
        .prop_map(|(segments, slash)| format!("/{}{slash}", segments.join("/")))
}

fn rule() -> impl Strategy<Value = RuleSpec> {
    let action = prop_oneof![3 => Just(Action::Allow), 1 => Just(Action::Deny)];
    (
        action,
        some_of(&["x", "y", "x*", "*"]),
        some_of(&["GET", "PUT"]),
        proptest::collection::vec(pattern(), 0..3),
        some_of(&["c", "c*", "*d"]),
        prop::bool::weighted(0.8),
    )
        .prop_map(
            |(action, endpoint, method, path, caller, enforce)| RuleSpec {
                endpoint,
                method,
                path,
                caller,
                enforce,
                ..RuleSpec::new("", action)
            },
        )
}

proptest! {
    #[test]
    fn the_index_changes_no_decision(
        rules in proptest::collection::vec(rule(), 0..12),
        paths in proptest::collection::vec(path(), 1..8),
        endpoint in select(["x", "y", "xy", "z"].as_slice()),
        method in select(["GET", "PUT"].as_slice()),
        caller in select(["c", "cd", "e"].as_slice()),
    ) {
        let mut rules = rules;
        for (index, rule) in rules.iter_mut().enumerate() {
            rule.id = format!("rule {index}");
        }
        let policy = Policy::compile(rules.clone()).unwrap();
        for path in &paths {
            let path = target(path);
            let call = CallFacts { endpoint, method, caller, ..get(&path) };
            let decision = policy.decide(&call);
            let found = (decision.is_allow(), decision.rule().map(str::to_owned));
            prop_assert_eq!(&found, &model(&rules, &call));

            let explanation = policy.explain(&call);
            for (rule, explained) in rules.iter().zip(&explanation.rules) {
                prop_assert_eq!(explained.matches(), rule_matches(rule, &call));
                let reported = decision.shadow().iter().filter(|hit| *hit.rule == *rule.id).count();
                let expected = usize::from(!rule.enforce && explained.matches());
                prop_assert_eq!(reported, expected, "each shadow hit once");
            }
        }
    }

    /// Neither what is decided, nor what is looked into before.
    #[test]
    fn rules_that_are_not_enforced_change_nothing(
        rules in proptest::collection::vec((rule(), any::<bool>()), 0..8),
        path in path(),
        endpoint in select(["x", "y", "z"].as_slice()),
        method in select(["GET", "PUT"].as_slice()),
    ) {
        let rules = rules.into_iter().enumerate().map(|(index, (rule, soap))| RuleSpec {
            id: format!("rule {index}"),
            soap_op: soap.then_some(SoapOps::All),
            ..rule
        });
        let rules: Vec<_> = rules.collect();
        let enforced: Vec<_> = rules.iter().filter(|rule| rule.enforce).cloned().collect();
        let (all, enforced) = (policy(rules), policy(enforced));
        let path = target(&path);
        let call = CallFacts { endpoint, method, caller: "c", ..get(&path) };
        prop_assert_eq!(
            all.look(endpoint, method, &path),
            enforced.look(endpoint, method, &path)
        );
        let (found, expected) = (all.decide(&call), enforced.decide(&call));
        prop_assert_eq!(found.is_allow(), expected.is_allow());
        prop_assert_eq!(found.rule(), expected.rule());
    }
}
