//! Path patterns: `*` within a segment, `**` for any number of segments.

use crate::canonical::{PathOptions, TargetError, canonical_path, is_left_raw};
use crate::decode;
use crate::glob::{Case, Glob};
use crate::rule::Action;

/// The segments of a canonical path, without the trailing slash.
pub(crate) fn inside(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.strip_suffix('/').unwrap_or(path)
}

/// The segments of what is [`inside`] a path: `split('/')` without its machinery, which costs
/// more than the segments do.
#[derive(Debug, Clone)]
pub(crate) struct Segments<'p> {
    rest: Option<&'p str>,
}

impl<'p> Segments<'p> {
    pub(crate) fn of(inside: &'p str) -> Self {
        Self { rest: Some(inside) }
    }
}

impl<'p> Iterator for Segments<'p> {
    type Item = &'p str;

    fn next(&mut self) -> Option<&'p str> {
        let rest = self.rest?;
        let end = rest.bytes().position(|byte| byte == b'/');
        self.rest = end.map(|end| &rest[end + 1..]);
        Some(&rest[..end.unwrap_or(rest.len())])
    }
}

/// A compiled path pattern, for one kind of rule: allow patterns match canonical paths, deny
/// patterns match folded ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathPattern {
    segments: Box<[Segment]>,
    action: Action,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// `**`
    Any,
    /// One segment: its name, and its path parameters where the pattern has some.
    One {
        name: Glob,
        parameters: Option<Glob>,
    },
}

/// One step of a pattern through the index.
#[derive(Debug)]
pub(crate) enum Edge<'p> {
    /// A segment that this glob matches.
    One(&'p Glob),
    /// From here on only [`PathPattern::matches`] knows.
    Open,
}

impl PathPattern {
    pub(crate) fn new(pattern: &str, action: Action) -> Result<Self, String> {
        let pattern = canonical_pattern(pattern)?;
        let glob = |text: &str| match action {
            Action::Allow => Glob::new(text),
            Action::Deny => Glob::with(text, |part| {
                decode::folded(part).unwrap_or_else(|| part.to_owned())
            }),
        };
        let segment = |text: &str| match text.split_once(';') {
            _ if text == "**" => Ok(Segment::Any),
            _ if text.contains("**") => {
                Err("\"**\" must be a whole segment, as in \"/api/**\"".to_owned())
            }
            None => Ok(Segment::One {
                name: glob(text),
                parameters: None,
            }),
            Some((name, parameters)) => Ok(Segment::One {
                name: glob(name),
                parameters: Some(glob(parameters)),
            }),
        };
        let segments = match inside(&pattern) {
            "" => Box::default(),
            inside => inside.split('/').map(segment).collect::<Result<_, _>>()?,
        };
        Ok(Self { segments, action })
    }

    /// Whether the pattern begins with `/sdk/vim25/` in so many words.
    pub(crate) fn names_twin(&self) -> bool {
        let is = |segment: &Segment, word| match segment {
            Segment::One { name, .. } => name.literal() == Some(word),
            Segment::Any => false,
        };
        match &*self.segments {
            [first, second, _, ..] => is(first, "sdk") && is(second, "vim25"),
            _ => false,
        }
    }

    /// The pattern's way through the index.
    pub(crate) fn edges(&self) -> impl Iterator<Item = Edge<'_>> {
        self.segments.iter().map(|segment| match segment {
            Segment::One {
                name,
                parameters: None,
            } => Edge::One(name),
            Segment::One { .. } | Segment::Any => Edge::Open,
        })
    }

    /// Whether the whole path matches; a trailing slash does not count. The path is canonical
    /// for allow patterns and folded for deny patterns.
    pub(crate) fn matches(&self, path: &str) -> bool {
        let inside = inside(path);
        let mut text = Segments::of(inside);
        if inside.is_empty() {
            text.next();
        }
        // Only the last `**` needs a second chance: what stands before it already matched as
        // early as possible.
        let mut pattern = self.segments.iter();
        let mut retry = None;
        loop {
            match pattern.next() {
                Some(Segment::Any) => {
                    retry = Some((pattern.clone(), text.clone()));
                    continue;
                }
                Some(Segment::One { name, parameters }) => {
                    if let Some(segment) = text.next()
                        && self.one_matches(name, parameters.as_ref(), segment)
                    {
                        continue;
                    }
                }
                None => {
                    if text.clone().next().is_none() {
                        return true;
                    }
                }
            }
            let Some((behind, from)) = &mut retry else {
                return false;
            };
            if from.next().is_none() {
                return false;
            }
            pattern = behind.clone();
            text = from.clone();
        }
    }

    /// Path parameters: an allow pattern names those that it accepts; a deny pattern that names
    /// none denies the segment with any.
    fn one_matches(&self, name: &Glob, parameters: Option<&Glob>, segment: &str) -> bool {
        let (found, behind) = match segment.split_once(';') {
            Some((found, behind)) => (found, Some(behind)),
            None => (segment, None),
        };
        let accepted = match (parameters, behind, self.action) {
            (None, None, _) | (None, Some(_), Action::Deny) => true,
            (None, Some(_), Action::Allow) => false,
            (Some(glob), behind, _) => behind.is_some_and(|text| glob.matches(text, Case::Exact)),
        };
        accepted && name.matches(found, Case::Exact)
    }
}

/// The pattern in the spelling that canonical paths have.
fn canonical_pattern(pattern: &str) -> Result<String, String> {
    if pattern.contains('?') {
        return Err(
            "a path pattern has no '?'; the parameters of a query go into the key `query`"
                .to_owned(),
        );
    }
    // What an endpoint accepts is for its options to say: a pattern may name all of it.
    let options = PathOptions::ALL;
    // `[ab]` and `{a,b}` are choices elsewhere. Taken for themselves, such a deny rule would deny nothing.
    let choice = pattern.bytes().position(is_left_raw);
    let canonical = match choice {
        Some(at) => Err(TargetError::PathByte {
            byte: pattern.as_bytes()[at],
            at,
        }),
        None if pattern.starts_with('/') => canonical_path(pattern, options, 0),
        None => Err(TargetError::NotOriginForm),
    };
    canonical.map_err(|error| {
        let what = error.to_string();
        let what = what
            .replace("the target", "a path pattern")
            .replace("the path", "the pattern");
        format!("no path can match {pattern:?}: {what}")
    })
}

#[cfg(test)]
mod tests;
