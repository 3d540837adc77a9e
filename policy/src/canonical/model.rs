//! What must hold of every target, and targets to try it with: for tests and fuzzers.

use super::lenient::{MODELS, Model, Segments};
use super::{CanonicalTarget, PathOptions};
use crate::decode;

pub(super) const STRICT: PathOptions = PathOptions {
    allow_semicolon: false,
    allow_encoded_slash: false,
    allow_encoded_percent: false,
};
pub(super) const SEMICOLON: PathOptions = PathOptions {
    allow_semicolon: true,
    ..STRICT
};
pub(super) const SLASH: PathOptions = PathOptions {
    allow_encoded_slash: true,
    ..STRICT
};
pub(super) const PERCENT: PathOptions = PathOptions {
    allow_encoded_percent: true,
    ..STRICT
};

/// What a path means to whoever reads the canonical form as it is meant.
fn seen_by_policy(target: &CanonicalTarget) -> Segments {
    let inside = target.path().trim_matches('/');
    if inside.is_empty() {
        return Vec::new();
    }
    inside.split('/').map(decode::once).collect()
}

/// The same without path parameters: the names that rules match.
fn names_seen_by_policy(target: &CanonicalTarget) -> Segments {
    let mut segments = seen_by_policy(target);
    for segment in &mut segments {
        let end = segment.iter().position(|&byte| byte == b';');
        segment.truncate(end.unwrap_or(segment.len()));
    }
    segments
}

/// Checks one target against every model; panics where the policy and an upstream disagree.
pub(crate) fn check(input: &str) {
    if let Ok(target) = CanonicalTarget::parse(input, STRICT) {
        let seen = seen_by_policy(&target);
        for (name, model) in MODELS {
            assert_eq!(
                model(target.as_str()),
                seen,
                "{name} sees {input:?} differently"
            );
        }
        let again = CanonicalTarget::parse(target.as_str(), STRICT);
        assert_eq!(again.as_ref(), Ok(&target), "not idempotent: {input:?}");
        assert!(target.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
        let (path, query) = match input.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (input, None),
        };
        assert_eq!(
            decode::once(path),
            decode::once(target.path()),
            "another path: {input:?}"
        );
        assert_eq!(
            query.map(decode::once),
            target.query().map(decode::once),
            "another query: {input:?}"
        );
    }
    // Path parameters, where accepted, hide nothing but themselves.
    if let Ok(target) = CanonicalTarget::parse(input, SEMICOLON) {
        let names = names_seen_by_policy(&target);
        for (name, model) in MODELS
            .iter()
            .filter(|(name, _)| name.contains("parameters"))
        {
            assert_eq!(
                model(target.as_str()),
                names,
                "{name} sees {input:?} differently"
            );
        }
    }
    if let Ok(target) = CanonicalTarget::parse(input, PERCENT) {
        check_double_escapes(&target, &MODELS);
    }
    // The options refuse or accept; they never change the spelling.
    let spellings = [STRICT, SEMICOLON, SLASH, PERCENT, PathOptions::ALL]
        .map(|options| CanonicalTarget::parse(input, options));
    if let Ok(strict) = &spellings[0] {
        assert!(
            spellings
                .iter()
                .all(|spelling| spelling.as_ref() == Ok(strict))
        );
    }
}

/// A server that decodes once sees what the policy saw. One that decodes again and again sees at most more
/// slashes, and none of what it would take something else for.
fn check_double_escapes(target: &CanonicalTarget, models: &[Model]) {
    let seen = seen_by_policy(target);
    let twice = ["double decoding", "everything at once"];
    for (name, model) in models.iter().filter(|(name, _)| !twice.contains(name)) {
        assert_eq!(
            model(target.as_str()),
            seen,
            "{name} sees {target} differently"
        );
    }
    let mut path = target.path().as_bytes().to_vec();
    loop {
        let again = decode::decoding(path.iter().copied()).collect::<Vec<_>>();
        if again == path {
            break;
        }
        path = again;
        let harmless = |byte: &u8| !byte.is_ascii_control() && !b";#?".contains(byte);
        assert!(path.iter().all(harmless), "{target} becomes {path:?}");
        let slash = |byte: &u8| matches!(byte, b'/' | b'\\');
        let inside = path.strip_prefix(b"/").unwrap_or(&path);
        let inside = inside.strip_suffix(b"/").unwrap_or(inside);
        let mut names = inside.split(slash);
        let is_name = |name: &[u8]| !name.is_empty() && !name.ends_with(b".");
        assert!(
            inside.is_empty() || names.all(is_name),
            "{target} becomes {path:?}"
        );
    }
}

/// Pieces of which targets are made: the harmless, and what lenient servers trip over.
#[cfg(test)]
const HARMLESS: [&str; 12] = [
    "/", "/", "/", "a", "sdk", "Api", "%41", "%7e", "%c3%a9", "%20", "v1.0", "-",
];
#[cfg(test)]
pub(super) const NASTY: [&str; 48] = [
    "//",
    "/./",
    "/../",
    ".",
    "..",
    "...",
    "%2e",
    "%2E%2e",
    "%252e",
    "%25",
    "%2f",
    "%2F",
    "%252f",
    "%5c",
    "%5C",
    "\\",
    ";",
    ";x=1",
    "..;/",
    "%3b",
    "%00",
    "%2500",
    "\0",
    "#",
    "%23",
    "?",
    "%3f",
    "%",
    "%2",
    "%zz",
    "%u002e",
    " ",
    "\"",
    "{",
    "[",
    "]",
    "|",
    "`",
    "é",
    "%c0%ae",
    "%c0%af",
    "%ff",
    "%e0%80%ae",
    "%c3",
    "%0d%0a",
    "%c2%85",
    "+",
    "*",
];

/// Made-up targets without end, the same for the same seed.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct Targets {
    state: u64,
    text: String,
}

#[cfg(test)]
impl Targets {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15),
            text: String::new(),
        }
    }

    /// Up to a dozen pieces behind a slash, one in nine of them nasty.
    pub(super) fn draw(&mut self) -> &str {
        self.text.clear();
        if self.below(21) > 0 {
            self.text.push('/');
        }
        for _ in 0..self.below(12) {
            let piece = match self.below(9) {
                0 => NASTY[self.below(NASTY.len())],
                _ => HARMLESS[self.below(HARMLESS.len())],
            };
            self.text.push_str(piece);
        }
        &self.text
    }

    /// SplitMix64: even enough for choosing, and no dependency.
    fn below(&mut self, end: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap_or_default()
    }
}
