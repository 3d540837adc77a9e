//! Whether one rule matches everything that another matches. It says so only where it is
//! certain.

use crate::decode;
use crate::facts::Mode;
use crate::glob::{Case, Glob};
use crate::path::PathPattern;
use crate::rule::{Action, RuleSpec, SoapOps};

/// Whether `wide` matches every call that `narrow` matches.
pub(super) fn covers(wide: &RuleSpec, narrow: &RuleSpec) -> bool {
    let same = |a: &String, b: &String| match wide.action {
        Action::Allow => a == b,
        Action::Deny => a.eq_ignore_ascii_case(b),
    };
    let glob = |a: &String, b: &String| {
        // Read as text, the `*` of `narrow` is a character that only a `*` of `wide` stands for.
        Glob::new(a).matches(b, case(wide))
    };
    // A rule without `path` reaches what one with this reaches, and no more.
    let everywhere = ["/**".to_owned()];
    let paths = match &*wide.path {
        [] if !narrow.path.is_empty() => &everywhere,
        paths => paths,
    };
    all(&wide.endpoint, &narrow.endpoint, glob)
        && modes(wide, narrow)
        && all(&wide.method, &narrow.method, same)
        && all(paths, &narrow.path, |a, b| path(wide.action, a, b))
        && all(&wide.caller, &narrow.caller, glob)
        && all(&wide.scope, &narrow.scope, same)
        && query(wide, narrow)
        && soap(wide, narrow)
        && upgrade(wide, narrow)
        && all(&wide.host, &narrow.host, |a, b| {
            Glob::new(a).matches(b, Case::Ignore)
        })
        && all(&wide.port, &narrow.port, |a, b| a == b)
        && all(&wide.source, &narrow.source, |a, b| a.contains(b))
}

fn case(rule: &RuleSpec) -> Case {
    match rule.action {
        Action::Allow => Case::Exact,
        Action::Deny => Case::Ignore,
    }
}

/// Of lists that mean "any of", where an empty one means "any": everything that `narrow` names
/// is covered by something that `wide` names.
fn all<T>(wide: &[T], narrow: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    wide.is_empty()
        || (!narrow.is_empty()
            && narrow
                .iter()
                .all(|item| wide.iter().any(|other| covers(other, item))))
}

fn modes(wide: &RuleSpec, narrow: &RuleSpec) -> bool {
    let narrow = match narrow.mode.as_slice() {
        [] => Mode::ALL.as_slice(),
        modes => modes,
    };
    wide.mode.is_empty() || narrow.iter().all(|mode| wide.mode.contains(mode))
}

/// Tries `wide` on paths that stand for all that `narrow` matches: with each of its `**` as
/// nothing, as one segment, and as more segments than `wide` could count.
fn path(action: Action, wide: &str, narrow: &str) -> bool {
    let Ok(pattern) = PathPattern::new(wide, action) else {
        return false;
    };
    let Ok(narrow_pattern) = PathPattern::new(narrow, action) else {
        return false;
    };
    // An allow rule reaches the twin of SOAP only by name.
    if action == Action::Allow && narrow_pattern.names_twin() && !pattern.names_twin() {
        return false;
    }
    let many = wide.matches('/').count() + 1;
    [0, 1, many].into_iter().all(|count| {
        let segments = narrow.split('/').filter(|segment| !segment.is_empty());
        let mut text = String::new();
        for segment in segments {
            let (segment, count) = match segment {
                "**" => ("\u{1}", count),
                segment => (segment, 1),
            };
            for _ in 0..count {
                text.push('/');
                text.push_str(segment);
            }
        }
        if text.is_empty() {
            text.push('/');
        }
        match action {
            Action::Allow => pattern.matches(&text),
            Action::Deny => pattern.matches(&decode::folded(&text).unwrap_or(text)),
        }
    })
}

/// Every parameter that `wide` wants, `narrow` wants too, with no other values.
fn query(wide: &RuleSpec, narrow: &RuleSpec) -> bool {
    wide.query.iter().all(|(name, values)| {
        let wanted = narrow.query.iter().find(|(other, _)| other == name);
        wanted.is_some_and(|(_, wanted)| wanted.iter().all(|value| values.contains(value)))
    })
}

fn soap(wide: &RuleSpec, narrow: &RuleSpec) -> bool {
    let names = match (&wide.soap_op, &narrow.soap_op) {
        (None, None) => true,
        (None, Some(_)) => wide.action == Action::Deny,
        (Some(_), None) => false,
        (Some(SoapOps::All), Some(_)) => true,
        (Some(SoapOps::Names(_)), Some(SoapOps::All)) => false,
        (Some(SoapOps::Names(wide_names)), Some(SoapOps::Names(names))) => {
            names.iter().all(|name| {
                let mut wide_names = wide_names.iter();
                wide_names.any(|other| Glob::new(other).matches(name, case(wide)))
            })
        }
    };
    names && (wide.soap_ns.is_none() || wide.soap_ns == narrow.soap_ns)
}

fn upgrade(wide: &RuleSpec, narrow: &RuleSpec) -> bool {
    match (wide.upgrade.is_empty(), narrow.upgrade.is_empty()) {
        (true, true) => true,
        (true, false) => wide.action == Action::Deny,
        (false, true) => false,
        (false, false) => all(&wide.upgrade, &narrow.upgrade, |a, b| {
            a.eq_ignore_ascii_case(b)
        }),
    }
}
