use super::*;

fn action(values: &[&str]) -> QueryMatcher {
    let values: Vec<_> = values.iter().map(|value| (*value).to_owned()).collect();
    QueryMatcher::new("action", &values).unwrap()
}

#[test]
fn an_allow_rule_takes_a_parameter_once_in_one_spelling_with_a_listed_value() {
    let matcher = action(&["start", "a+b", "a%20b"]);
    for query in [
        "action=start",
        "x=1&action=start&y",
        "action=a+b",
        "action=a%20b",
        "&&action=start&",
    ] {
        assert!(matcher.allows(query), "{query}");
    }
    for query in [
        "",
        "x=start",
        "action",
        "action=",
        "action=stop",
        "action=Start",
        "action=start%20",
        "action=%73tart",
        "Action=start",
        "%61ction=start",
        "action%20=start",
        "action=start&action=start",
        "action=start&action=stop",
        "action=start&ACTION=stop",
        "action=start&%61ction=stop",
        "action=start&%2561ction=stop",
        "action=start&+action=stop",
        "action=start&action%5B%5D=stop",
        "action=start&action%00=stop",
        "action=start;action=stop",
        "action=start;x=1",
        "x=1;action=start",
        "action=start&action",
        "action=a%2bb",
    ] {
        assert!(!matcher.allows(query), "{query}");
    }
}

#[test]
fn a_deny_rule_finds_a_parameter_under_every_reading() {
    let matcher = action(&["stop"]);
    for query in [
        "action=stop",
        "action=STOP",
        "action=%73top",
        "action=%2573top",
        "action=stop%00x",
        "x=1&action=stop",
        "x=1;action=stop",
        "Action=stop",
        "%61ction=stop",
        "action=start&action=stop",
        "action=stop&action=start",
        "action%5B%5D=stop",
        "action=stop%20",
        "action=+stop",
        "action=%2520stop%09",
        "action%20=stop",
    ] {
        assert!(matcher.denies(query), "{query}");
    }
    for query in [
        "",
        "x=stop",
        "action=start",
        "action=stopper",
        "actions=stop",
        "action=st+op",
        "x=action=stop",
    ] {
        assert!(!matcher.denies(query), "{query}");
    }
}

#[test]
fn a_deny_rule_does_not_guess_which_reading_counts() {
    let matcher = action(&["stop"]);
    for query in [
        "action=start&action=start",
        "ACTION=start",
        "action=start;action=x",
    ] {
        assert!(matcher.denies(query), "{query}");
    }
}

#[test]
fn blanks_and_dots_within_a_name_are_what_php_makes_of_them() {
    let matcher = QueryMatcher::new("a_b", &["stop".to_owned()]).unwrap();
    for query in ["a_b=stop", "a.b=stop", "a+b=stop", "a%20b=stop", "A%2eB=x"] {
        assert!(matcher.denies(query), "{query}");
    }
    for query in ["ab=stop", "a-b=stop"] {
        assert!(!matcher.denies(query), "{query}");
    }
}

/// Whatever an allow rule takes, no reading of the query finds a deny rule's value in it.
#[test]
fn what_is_allowed_by_name_is_not_denied_by_another_value() {
    let (start, stop) = (action(&["start"]), action(&["stop"]));
    let names = [
        "action",
        "Action",
        "%61ction",
        "%2561ction",
        "action%5B%5D",
        "x",
    ];
    let values = ["start", "stop", "%73top", "STOP", "start;action=stop"];
    for first in names {
        for second in names {
            for one in values {
                for other in values {
                    for separator in ["&", ";", "&&", "&;"] {
                        let query = format!("{first}={one}{separator}{second}={other}");
                        let both = start.allows(&query) && stop.denies(&query);
                        assert!(!both, "{query}");
                    }
                }
            }
        }
    }
}
