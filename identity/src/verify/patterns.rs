//! Patterns of endpoint names that a token carries.

use std::fmt;

use culvert_proto::names::{EndpointName, MAX_NAME};

/// Most patterns in one token.
pub const MAX_PATTERNS: usize = 64;

/// The endpoint names that a token speaks for, as patterns: lower-case names in which `*` stands
/// for any run of characters, also none.
///
/// At most [`MAX_PATTERNS`] of at most [`MAX_NAME`] bytes. The default matches nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EndpointPatterns(Vec<String>);

/// Why a claim is not a list of endpoint patterns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// More than [`MAX_PATTERNS`].
    #[error("more than {MAX_PATTERNS} patterns")]
    TooMany,
    /// A pattern that is empty or longer than any name.
    #[error("a pattern has 1 to {MAX_NAME} bytes")]
    Length,
    /// A pattern with a byte that no name has: it could never match, so the issuer means
    /// something that it did not say.
    #[error("a pattern has only lower-case letters, digits, '-' and '*'")]
    Byte,
}

impl EndpointPatterns {
    /// Checks and takes patterns.
    pub fn new(patterns: Vec<String>) -> Result<Self, PatternError> {
        if patterns.len() > MAX_PATTERNS {
            return Err(PatternError::TooMany);
        }
        for pattern in &patterns {
            if pattern.is_empty() || pattern.len() > MAX_NAME {
                return Err(PatternError::Length);
            }
            let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-*".contains(&b);
            if !pattern.bytes().all(legal) {
                return Err(PatternError::Byte);
            }
        }
        Ok(Self(patterns))
    }

    /// Whether any pattern matches the whole name.
    pub fn matches(&self, endpoint: &EndpointName) -> bool {
        self.0
            .iter()
            .any(|pattern| glob(pattern.as_bytes(), endpoint.as_str().as_bytes()))
    }

    /// Whether nothing matches.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for EndpointPatterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

/// Greedy matching that remembers the last `*` only: at most pattern times name steps.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                // Let the last star take one byte more, and try again behind it.
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        EndpointPatterns::new(vec![pattern.into()])
            .unwrap()
            .matches(&EndpointName::new(name).unwrap())
    }

    #[test]
    fn a_pattern_matches_whole_names_only() {
        assert!(matches("vcenter", "vcenter"));
        assert!(!matches("vcenter", "vcenter2"));
        assert!(!matches("center", "vcenter"));
        assert!(matches("*", "nsx"));
        assert!(matches("esx-*", "esx-01"));
        assert!(!matches("esx-*", "esx01"));
        assert!(matches("*-01", "esx-01"));
        assert!(matches("e*-*1", "esx-01"));
        assert!(matches("**a**", "a"));
        assert!(!matches("*a*b*", "ba"));
        assert!(matches("*ab", "aab"));
        assert!(!matches("a*a", "a"));
    }

    #[test]
    fn no_patterns_match_nothing() {
        assert!(!EndpointPatterns::default().matches(&EndpointName::new("a").unwrap()));
    }

    #[test]
    fn a_pattern_that_no_name_can_match_is_refused() {
        let refused = |pattern: &str| EndpointPatterns::new(vec![pattern.into()]).unwrap_err();
        assert_eq!(refused("VCenter"), PatternError::Byte);
        assert_eq!(refused("v?"), PatternError::Byte);
        assert_eq!(refused("a b"), PatternError::Byte);
        assert_eq!(refused("vcénter"), PatternError::Byte);
        assert_eq!(refused(""), PatternError::Length);
        assert_eq!(refused(&"a".repeat(64)), PatternError::Length);
        let many = vec!["a".to_owned(); MAX_PATTERNS + 1];
        assert_eq!(
            EndpointPatterns::new(many).unwrap_err(),
            PatternError::TooMany
        );
    }

    #[test]
    fn many_stars_cost_no_more_than_pattern_times_name() {
        let pattern = "*a".repeat(31);
        assert!(!matches(&pattern, &format!("{}b", "a".repeat(62))));
    }

    /// What a pattern means, said as simply as possible.
    fn model(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => {
                model(rest, name) || (!name.is_empty() && model(pattern, &name[1..]))
            }
            ([p, pattern @ ..], [n, name @ ..]) => p == n && model(pattern, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_match_what_they_mean(pattern in "[ab*]{0,8}", name in "[ab]{0,10}") {
            let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(glob(pattern, name), model(pattern, name));
        }
    }
}
