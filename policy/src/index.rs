//! Which rules can match a call at all: by endpoint, then by the segments of the path.
//!
//! Without this a decision costs a look at every rule. With it, it costs a walk along the path
//! and a look at the rules whose patterns fit, up to their first `**`.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::facts::CallFacts;
use crate::glob::{Case, Glob};
use crate::matching::Rule;
use crate::path::{Edge, Segments, inside};
use crate::rule::Action;

/// By a name that the policy's author wrote. Callers only look names up, so that a hash which
/// an attacker could foresee does no harm, and a short one is several times as fast.
type Names<T> = HashMap<Box<str>, T, BuildHasherDefault<Fnv>>;

/// FNV-1a with 64 bits.
#[derive(Debug)]
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The rules of a policy, by what they do.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) deny: Rules,
    pub(crate) allow: Rules,
    /// Rules that are not enforced.
    pub(crate) shadow_deny: Rules,
    pub(crate) shadow_allow: Rules,
}

/// Rules of one action, by endpoint. A rule may stand in several places.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// Under each endpoint that a rule names without a `*`.
    named: Names<Tree>,
    /// Those for any endpoint, and those with a `*` in one.
    others: Tree,
}

/// Rules by the segments of their paths.
#[derive(Debug, Default)]
struct Tree {
    /// Every rule of the tree, ascending.
    all: Vec<usize>,
    root: Node,
}

/// What follows one beginning of a path. Positions of rules are ascending.
#[derive(Debug, Default)]
struct Node {
    /// Rules with a pattern that ends here.
    ends: Vec<usize>,
    /// Rules with a pattern that only a look at the rule can decide from here on.
    open: Vec<usize>,
    literals: Names<Node>,
    globs: Vec<(Glob, Node)>,
}

impl Index {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (position, rule) in rules.iter().enumerate() {
            let kind = match (rule.spec.action, rule.spec.enforce) {
                (Action::Deny, true) => &mut index.deny,
                (Action::Allow, true) => &mut index.allow,
                (Action::Deny, false) => &mut index.shadow_deny,
                (Action::Allow, false) => &mut index.shadow_allow,
            };
            kind.add(position, rule);
        }
        index
    }
}

impl Rules {
    fn add(&mut self, position: usize, rule: &Rule) {
        for name in rule.endpoint.iter().filter_map(Glob::literal) {
            self.named
                .entry(name.into())
                .or_default()
                .add(position, rule);
        }
        if rule.endpoint.is_empty() || rule.endpoint.iter().any(|glob| glob.literal().is_none()) {
            self.others.add(position, rule);
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
        self.visit(path, call, &mut |positions| {
            let mut earlier = positions
                .iter()
                .take_while(|&&at| first.is_none_or(|found| at < found));
            if let Some(&at) = earlier.find(|&&at| rules[at].matches(call)) {
                first = Some(at);
            }
        });
        first
    }

    /// Shows `see` every group of rules that may match the call; a rule may be in several.
    pub(crate) fn visit(
        &self,
        path: Option<&str>,
        call: &CallFacts<'_>,
        see: &mut impl FnMut(&[usize]),
    ) {
        if let Some(tree) = self.named.get(call.endpoint) {
            tree.visit(path, see);
        }
        self.others.visit(path, see);
    }
}

impl Tree {
    fn add(&mut self, position: usize, rule: &Rule) {
        if self.all.last() != Some(&position) {
            self.all.push(position);
        }
        if rule.path.is_empty() {
            self.root.open.push(position);
        }
        for pattern in &rule.path {
            self.root.add(position, pattern.edges());
        }
    }

    fn visit(&self, path: Option<&str>, see: &mut impl FnMut(&[usize])) {
        if self.all.is_empty() {
            return;
        }
        match path.map(inside) {
            // Path parameters hide the segment that a pattern may still match.
            Some(path) if path.bytes().any(|byte| byte == b';') => see(&self.all),
            Some(path) if !path.is_empty() => self.root.visit(Segments::of(path), see),
            _ => {
                see(&self.root.open);
                see(&self.root.ends);
            }
        }
    }
}

impl Node {
    fn add<'e>(&mut self, position: usize, mut edges: impl Iterator<Item = Edge<'e>>) {
        match edges.next() {
            None => self.ends.push(position),
            Some(Edge::Open) => self.open.push(position),
            Some(Edge::One(Glob::Literal(text))) => {
                self.literals
                    .entry(text.clone())
                    .or_default()
                    .add(position, edges);
            }
            Some(Edge::One(glob)) => {
                let known = self.globs.iter().position(|(other, _)| other == glob);
                let known = known.unwrap_or_else(|| {
                    self.globs.push((glob.clone(), Self::default()));
                    self.globs.len() - 1
                });
                self.globs[known].1.add(position, edges);
            }
        }
    }

    /// As deep as the patterns go, however long the path is.
    fn visit(&self, mut segments: Segments<'_>, see: &mut impl FnMut(&[usize])) {
        see(&self.open);
        let Some(segment) = segments.next() else {
            return see(&self.ends);
        };
        if let Some(node) = self.literals.get(segment) {
            node.visit(segments.clone(), see);
        }
        for (_, node) in self
            .globs
            .iter()
            .filter(|(glob, _)| glob.matches(segment, Case::Exact))
        {
            node.visit(segments.clone(), see);
        }
    }
}
