//! Which rules can match a call at all: by endpoint, then by the first segments of the path.
//!
//! Without this a decision costs a look at every rule. With it, it costs a handful of map
//! look-ups and a look at the rules that share endpoint and beginning of the path.

use std::collections::{BTreeSet, HashMap};

use crate::facts::CallFacts;
use crate::glob::Case;
use crate::matching::Rule;
use crate::path::{PREFIX_SEGMENTS, inside};
use crate::rule::Action;

/// Positions of rules, ascending.
type Positions = Box<[usize]>;

/// The rules of a policy by endpoint.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Endpoints that some rule names without a `*`.
    named: HashMap<Box<str>, Shelf>,
    /// What applies to every other endpoint.
    others: Shelf,
}

/// The rules of one endpoint, by what they do.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    pub(crate) deny: Rules,
    pub(crate) allow: Rules,
    /// Rules that are not enforced.
    pub(crate) shadow_deny: Rules,
    pub(crate) shadow_allow: Rules,
}

/// Rules of one action, by the literal beginning of their paths.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    all: Positions,
    by_prefix: HashMap<Box<str>, Positions>,
    /// Whether some rule has more than the empty prefix.
    deep: bool,
}

impl Index {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let names = rules
            .iter()
            .flat_map(|rule| &rule.endpoint)
            .filter_map(|glob| glob.literal());
        let names: BTreeSet<&str> = names.collect();
        let named = names.into_iter().map(|name| {
            let applies = |rule: &Rule| {
                rule.endpoint.is_empty()
                    || rule
                        .endpoint
                        .iter()
                        .any(|glob| glob.matches(name, Case::Exact))
            };
            (name.into(), Shelf::new(rules, applies))
        });
        let globbed = |rule: &Rule| {
            rule.endpoint.is_empty() || rule.endpoint.iter().any(|glob| glob.literal().is_none())
        };
        Self {
            named: named.collect(),
            others: Shelf::new(rules, globbed),
        }
    }

    pub(crate) fn shelf(&self, endpoint: &str) -> &Shelf {
        self.named.get(endpoint).unwrap_or(&self.others)
    }
}

impl Shelf {
    fn new(rules: &[Rule], applies: impl Fn(&Rule) -> bool) -> Self {
        let of = |action: Action, enforce: bool| {
            Rules::new(rules, |rule| {
                rule.spec.action == action && rule.spec.enforce == enforce && applies(rule)
            })
        };
        Self {
            deny: of(Action::Deny, true),
            allow: of(Action::Allow, true),
            shadow_deny: of(Action::Deny, false),
            shadow_allow: of(Action::Allow, false),
        }
    }
}

impl Rules {
    fn new(rules: &[Rule], takes: impl Fn(&Rule) -> bool) -> Self {
        let mut all = Vec::new();
        let mut by_prefix: HashMap<Box<str>, BTreeSet<usize>> = HashMap::new();
        for (position, rule) in rules.iter().enumerate().filter(|(_, rule)| takes(rule)) {
            all.push(position);
            if rule.path.is_empty() {
                by_prefix.entry("".into()).or_default().insert(position);
            }
            for pattern in &rule.path {
                by_prefix
                    .entry(pattern.prefix().into())
                    .or_default()
                    .insert(position);
            }
        }
        let deep = by_prefix.keys().any(|prefix| !prefix.is_empty());
        let by_prefix = by_prefix
            .into_iter()
            .map(|(prefix, at)| (prefix, at.into_iter().collect()));
        Self {
            all: all.into(),
            by_prefix: by_prefix.collect(),
            deep,
        }
    }

    /// The first rule, in the order of the file, that matches the call. `path` is the path in
    /// the spelling that rules of this action match.
    pub(crate) fn first(
        &self,
        rules: &[Rule],
        path: Option<&str>,
        call: &CallFacts<'_>,
    ) -> Option<usize> {
        let mut first = None;
        self.visit(path, |positions| {
            let earlier = positions
                .iter()
                .take_while(|&&at| first.is_none_or(|found| at < found));
            if let Some(&at) = earlier.into_iter().find(|&&at| rules[at].matches(call)) {
                first = Some(at);
            }
        });
        first
    }

    /// Shows `see` every group of rules that may match a call to `path`.
    pub(crate) fn visit(&self, path: Option<&str>, mut see: impl FnMut(&Positions)) {
        if self.all.is_empty() {
            return;
        }
        let path = path.unwrap_or_default();
        // Path parameters hide the literal segment that a pattern may still match.
        if path.contains(';') {
            return see(&self.all);
        }
        let mut look = |prefix: &str| {
            if let Some(positions) = self.by_prefix.get(prefix) {
                see(positions);
            }
        };
        look("");
        let inside = inside(path);
        if self.deep && !inside.is_empty() {
            let ends = memchr::memchr_iter(b'/', inside.as_bytes()).chain([inside.len()]);
            ends.take(PREFIX_SEGMENTS)
                .for_each(|end| look(&inside[..end]));
        }
    }
}
