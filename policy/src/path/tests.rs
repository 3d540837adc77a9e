use super::*;
use crate::canonical::CanonicalTarget;

fn matches(pattern: &str, path: &str, action: Action) -> bool {
    let options = PathOptions::ALL;
    let target = CanonicalTarget::parse(path, options).unwrap();
    let path = match action {
        Action::Allow => target.path(),
        Action::Deny => target.folded_path(),
    };
    PathPattern::new(pattern, action).unwrap().matches(path)
}

#[test]
fn patterns_match_whole_segments_with_or_without_a_trailing_slash() {
    for (pattern, path, expected) in [
        ("/", "/", true),
        ("/", "/a", false),
        ("/a", "/a", true),
        ("/a", "/a/", true),
        ("/a/", "/a", true),
        ("/a", "/", false),
        ("/a", "/ab", false),
        ("/ab", "/a", false),
        ("/a", "/a/b", false),
        ("/a/b", "/a", false),
        ("/*", "/a", true),
        ("/*", "/", false),
        ("/*", "/a/b", false),
        ("/a/*/c", "/a/b/c", true),
        ("/a/*/c", "/a/c", false),
        ("/a/*/c", "/a/b/b/c", false),
        ("/a/v*.0", "/a/v1.0", true),
        ("/a/v*.0", "/a/v1.01", false),
        ("/**", "/", true),
        ("/**", "/a/b/c", true),
        ("/a/**", "/a", true),
        ("/a/**", "/a/", true),
        ("/a/**", "/a/b/c", true),
        ("/a/**", "/ab", false),
        ("/a/**", "/b/a", false),
        ("/**/c", "/c", true),
        ("/**/c", "/a/b/c", true),
        ("/**/c", "/a/c/b", false),
        ("/a/**/c/*", "/a/c/c/c/d", true),
        ("/a/**/c/*", "/a/b/c", false),
        ("/**/a/**/b", "/x/a/a/y/b", true),
        ("/**/a/**/b", "/x/b/a/y", false),
        ("/a/**/**/b", "/a/b", true),
        ("/a%20b", "/a%20b", true),
        ("/a%5Bb%5d", "/a[b]", true),
        ("/a*", "/a[b]", true),
        ("/a%2fb", "/a%2Fb", true),
        ("/a/b", "/a%2Fb", false),
        ("/a/*", "/a/b%2Fc", true),
        ("/a/*", "/a/b%252fc", true),
        ("/a/b%25*", "/a/b%252fc", true),
        ("/a/b%252fc", "/a/b%252fc", true),
        ("/a/b%2Fc", "/a/b%252fc", false),
        ("/a/b%252fc", "/a/b%2Fc", false),
        ("/a/b/c", "/a/b%252fc", false),
    ] {
        for action in [Action::Allow, Action::Deny] {
            assert_eq!(
                matches(pattern, path, action),
                expected,
                "{action:?} {pattern} {path}"
            );
        }
    }
}

#[test]
fn only_deny_patterns_ignore_letter_case_and_escapes() {
    for (pattern, path) in [
        ("/api/vm", "/API/vm"),
        ("/API/vm", "/api/vm"),
        ("/api/vm:stop", "/api/vm%3Astop"),
        ("/api/vm%3Astop", "/api/vm:stop"),
        ("/api/v*m", "/api/V-M"),
        ("/folder/%C3%84", "/folder/%C3%A4"),
        ("/sdk", "/%C5%BFdk"),
        ("/a%2Ab", "/a*b"),
        ("/a%252fb", "/a%252Fb"),
    ] {
        assert!(matches(pattern, path, Action::Deny), "{pattern} {path}");
        assert!(!matches(pattern, path, Action::Allow), "{pattern} {path}");
    }
    assert!(
        !matches("/a%2Ab", "/axb", Action::Deny),
        "an escaped star is a star"
    );
}

#[test]
fn path_parameters_never_hide_a_segment_from_a_deny_pattern() {
    assert!(matches("/admin", "/admin;x=1", Action::Deny));
    assert!(matches("/admin/**", "/admin;x=1/users;y", Action::Deny));
    assert!(matches("/admin;x", "/Admin;X", Action::Deny));
    assert!(!matches("/admin;x", "/admin", Action::Deny));
}

#[test]
fn an_allow_pattern_names_the_path_parameters_that_it_accepts() {
    assert!(!matches("/a", "/a;x=1", Action::Allow));
    assert!(!matches("/*", "/a;x=1", Action::Allow));
    assert!(!matches("/*b", "/a;b", Action::Allow));
    assert!(matches("/a;x=*", "/a;x=1", Action::Allow));
    assert!(!matches("/a;x=*", "/a", Action::Allow));
    assert!(!matches("/a;x=*", "/a;y=1", Action::Allow));
    assert!(matches("/a/**", "/a/b;x=1", Action::Allow));
}

#[test]
fn a_pattern_that_no_path_can_match_is_refused() {
    for (pattern, words) in [
        ("", "must begin with '/'"),
        ("api", "must begin with '/'"),
        ("**", "must begin with '/'"),
        ("/a//b", "empty segment"),
        ("/a/../b", "ends in '.'"),
        ("/a/*.", "ends in '.'"),
        ("/a?b=c", "key `query`"),
        ("/a b", "0x20"),
        ("/api/{vm,host}", "0x7B at 5"),
        ("/vm-[0-9]", "0x5B at 4"),
        ("/a%", "hex digits"),
        ("/a%00", "%00"),
        ("/a%2541", "%2541"),
        ("/a**", "whole segment"),
        ("/a/***", "whole segment"),
    ] {
        for action in [Action::Allow, Action::Deny] {
            let error = PathPattern::new(pattern, action).unwrap_err();
            assert!(error.contains(words), "{pattern:?}: {error}");
        }
    }
}
