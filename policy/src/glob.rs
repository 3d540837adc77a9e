//! Text with `*` for any characters, none included.

/// Whether letter case counts (ASCII).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    /// `a` is not `A`.
    Exact,
    /// `a` is `A`.
    Ignore,
}

/// A compiled glob. Matching is greedy from the left, which is right for `*` alone, and does
/// not allocate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Glob {
    /// Without a `*`.
    Literal(Box<str>),
    /// With at least one.
    Pattern {
        /// Before the first `*`.
        first: Box<str>,
        /// Between two, in order; never empty texts.
        middle: Box<[Box<str>]>,
        /// Behind the last.
        last: Box<str>,
    },
}

impl Glob {
    pub(crate) fn new(pattern: &str) -> Self {
        Self::with(pattern, |part| part.to_owned())
    }

    /// Compiles `pattern` with each text between two `*` translated.
    pub(crate) fn with(pattern: &str, translate: impl Fn(&str) -> String) -> Self {
        let mut parts = pattern
            .split('*')
            .map(|part| translate(part).into_boxed_str());
        let first = parts.next().unwrap_or_default();
        let mut middle: Vec<Box<str>> = parts.collect();
        match middle.pop() {
            None => Self::Literal(first),
            Some(last) => {
                middle.retain(|part| !part.is_empty());
                Self::Pattern {
                    first,
                    middle: middle.into(),
                    last,
                }
            }
        }
    }

    pub(crate) fn literal(&self) -> Option<&str> {
        match self {
            Self::Literal(text) => Some(text),
            Self::Pattern { .. } => None,
        }
    }

    pub(crate) fn matches(&self, text: &str, case: Case) -> bool {
        let text = text.as_bytes();
        match self {
            Self::Literal(literal) => same(text, literal.as_bytes(), case),
            Self::Pattern {
                first,
                middle,
                last,
            } => {
                let (first, last) = (first.as_bytes(), last.as_bytes());
                if text.len() < first.len() + last.len() {
                    return false;
                }
                let (head, rest) = text.split_at(first.len());
                let (mut rest, tail) = rest.split_at(rest.len() - last.len());
                same(head, first, case)
                    && same(tail, last, case)
                    && middle
                        .iter()
                        .all(|part| match behind(rest, part.as_bytes(), case) {
                            Some(behind) => {
                                rest = behind;
                                true
                            }
                            None => false,
                        })
            }
        }
    }
}

fn same(a: &[u8], b: &[u8], case: Case) -> bool {
    match case {
        Case::Exact => a == b,
        Case::Ignore => a.eq_ignore_ascii_case(b),
    }
}

/// What follows the first `part` in `text`. `part` is not empty.
fn behind<'a>(text: &'a [u8], part: &[u8], case: Case) -> Option<&'a [u8]> {
    let at = match case {
        Case::Exact => memchr::memmem::find(text, part),
        Case::Ignore => text
            .windows(part.len())
            .position(|window| same(window, part, case)),
    }?;
    Some(&text[at + part.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_nothing_else_does() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "A", false),
            ("a", "ab", false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("director-*", "director-7", true),
            ("director-*", "director-", true),
            ("director-*", "director", false),
            ("*-7", "director-7", true),
            ("*-7", "director-77", false),
            ("a*b", "ab", true),
            ("ab*b", "ab", false),
            ("a*a", "a", false),
            ("a*b*c", "axbxbxc", true),
            ("a*b*c", "acb", false),
            ("*b*b*", "b", false),
            ("*b**b*", "xbxbx", true),
            ("a?c", "abc", false),
            ("[ab]", "a", false),
        ] {
            assert_eq!(
                Glob::new(pattern).matches(text, Case::Exact),
                expected,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn letter_case_counts_only_where_asked() {
        let glob = Glob::new("Dir*-X*z");
        assert!(glob.matches("dIRector-xYZ", Case::Ignore));
        assert!(!glob.matches("dIRector-xYZ", Case::Exact));
    }
}
