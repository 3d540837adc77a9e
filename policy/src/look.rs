//! Which calls are looked into before they are decided on: SOAP, and its twin in JSON.
//!
//! All of vSphere's SOAP calls go to one path, so that method and path say nothing about them.
//! Newer servers offer the same operations as JSON under `/sdk/vim25/RELEASE/TYPE/ID/OPERATION`.
//! Whoever writes `/sdk/**` means neither of them: SOAP takes a `soap_op`, and the twin a path
//! pattern that begins with `/sdk/vim25/` in so many words.

use crate::canonical::CanonicalTarget;
use crate::glob::{Case, Glob};
use crate::matching::Rule;
use crate::path::{PathPattern, inside};
use crate::rule::Action;

/// How the body of a call is looked into before anybody decides on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Look {
    /// Not at all.
    No,
    /// As a SOAP envelope ([`crate::soap::operation`]).
    Soap,
    /// As a call of the JSON twin, which is empty or begins with `{`
    /// ([`crate::soap::is_json`]); what is something else is undetermined.
    Json,
}

/// Paths beside `/sdk` whose calls are SOAP, because an enforced rule with `soap_op` names them.
#[derive(Debug, Default)]
pub(crate) struct SoapPaths {
    paths: Vec<(Box<[Glob]>, PathPattern)>,
}

impl SoapPaths {
    pub(crate) fn of(rules: &[Rule]) -> Self {
        let mut paths: Vec<(Box<[Glob]>, PathPattern)> = Vec::new();
        // A shadow rule decides nothing, and what is SOAP decides a lot.
        let named = |rule: &&Rule| rule.soap.is_some() && rule.spec.enforce;
        for rule in rules.iter().filter(named) {
            for text in &rule.spec.path {
                // Whatever the rule does: a call that an upstream may take for SOAP is looked
                // into in every spelling, as a deny rule sees it.
                let Ok(pattern) = PathPattern::new(text, Action::Deny) else {
                    continue;
                };
                let path = (rule.endpoint.clone(), pattern);
                if !is_under_sdk(text) && !paths.contains(&path) {
                    paths.push(path);
                }
            }
        }
        Self { paths }
    }

    /// How a call with a body has to be looked into.
    pub(crate) fn look(&self, endpoint: &str, method: &str, target: &CanonicalTarget) -> Look {
        let path = target.folded_path();
        // Most calls are not about SOAP, and every decision asks.
        let sdk = path.starts_with("/sdk");
        if sdk && twin_operation(path).is_some() {
            return Look::Json;
        }
        let reads = matches!(method, "GET" | "HEAD" | "OPTIONS");
        let named = || {
            self.paths.iter().any(|(endpoints, pattern)| {
                let here = |glob: &Glob| glob.matches(endpoint, Case::Exact);
                (endpoints.is_empty() || endpoints.iter().any(here)) && pattern.matches(path)
            })
        };
        if !reads && ((sdk && is_under_sdk(path)) || named()) {
            Look::Soap
        } else {
            Look::No
        }
    }
}

/// The segments of a path without their path parameters.
fn names(path: &str) -> impl Iterator<Item = &str> {
    inside(path)
        .split('/')
        .map(|segment| segment.split(';').next().unwrap_or_default())
}

/// Whether the path is `/sdk` or under it, in any letter case.
fn is_under_sdk(path: &str) -> bool {
    names(path)
        .next()
        .is_some_and(|first| first.eq_ignore_ascii_case("sdk"))
}

/// What a path of the JSON twin calls: its last segment. `None` for other paths.
pub(crate) fn twin_operation(path: &str) -> Option<&str> {
    let mut names = names(path);
    let twin =
        names.next()?.eq_ignore_ascii_case("sdk") && names.next()?.eq_ignore_ascii_case("vim25");
    names.last().filter(|_| twin)
}

impl CanonicalTarget {
    /// The operation that a call of SOAP's JSON twin names: the last segment of
    /// `/sdk/vim25/RELEASE/TYPE/ID/OPERATION`. `None` for other targets.
    pub fn twin_operation(&self) -> Option<&str> {
        // The folded path decides, as everywhere where rules deny; the name is the real one.
        twin_operation(self.folded_path())?;
        names(self.path()).last()
    }
}

#[cfg(test)]
mod tests;
