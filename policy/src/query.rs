//! Query parameters: found leniently, accepted strictly.
//!
//! Servers disagree on how a query splits (`&`, `;`), how names are decoded and compared, and
//! which of two parameters of one name counts. So a parameter that a rule names is looked for
//! under every such reading, and an allow rule accepts it only where all readings agree.

use crate::canonical::is_query_byte;
use crate::compile::MAX_ITEMS;
use crate::decode::{decoding, hex_pair};

/// Parameters by which some server lets the query replace the method.
const METHOD_OVERRIDES: [&str; 6] = [
    "_method",
    "~method",
    "_httpmethod",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

/// Whether the query has a parameter that overrides the method, under any spelling.
pub(crate) fn overrides_method(query: &str) -> bool {
    pieces(query).any(|piece| METHOD_OVERRIDES.iter().any(|name| piece.is_named(name)))
}

/// One `query` entry of a rule: a parameter and the values it may have.
#[derive(Debug)]
pub(crate) struct QueryMatcher {
    name: Box<str>,
    values: Box<[Box<str>]>,
}

impl QueryMatcher {
    /// Checks name and values; the error says what is wrong.
    pub(crate) fn new(name: &str, values: &[String]) -> Result<Self, String> {
        let plain = |byte| is_query_byte(byte) && !b"&;=+".contains(&byte);
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(format!("{name:?} is not a plain parameter name"));
        }
        if values.is_empty() {
            return Err(format!(
                "parameter {name:?} has no values; expected at least one"
            ));
        }
        if values.len() > MAX_ITEMS {
            let found = values.len();
            return Err(format!(
                "parameter {name:?} has {found} values; expected at most {MAX_ITEMS}"
            ));
        }
        for value in values {
            let bytes = value.as_bytes();
            let legal = bytes.iter().enumerate().all(|(at, &byte)| match byte {
                b'%' => hex_pair(bytes, at).is_some(),
                b'&' | b';' => false,
                byte => is_query_byte(byte),
            });
            if !legal {
                return Err(format!(
                    "value {value:?} cannot stand in a query; write it as the query does, escaped"
                ));
            }
        }
        Ok(Self {
            name: name.into(),
            values: values.iter().map(|value| (**value).into()).collect(),
        })
    }

    /// Whether the parameter is there exactly once, spelled exactly so, with one of the values.
    pub(crate) fn allows(&self, query: &str) -> bool {
        let mut named = pieces(query).filter(|piece| piece.is_named(&self.name));
        let (Some(piece), None) = (named.next(), named.next()) else {
            return false;
        };
        piece.is_exactly(&self.name, query)
            && piece
                .value
                .is_some_and(|found| self.values.iter().any(|value| **value == *found))
    }

    /// Whether some reading of the query finds the parameter with one of the values, or whether
    /// readings disagree about it.
    pub(crate) fn denies(&self, query: &str) -> bool {
        let mut named = pieces(query).filter(|piece| piece.is_named(&self.name));
        match (named.next(), named.next()) {
            (None, _) => false,
            (Some(piece), None) if piece.is_exactly(&self.name, query) => {
                let found = piece.value.unwrap_or_default();
                self.values.iter().any(|value| lenient_eq(found, value))
            }
            _ => true,
        }
    }
}

/// One parameter, split at every separator that any server knows.
#[derive(Clone, Copy)]
struct Piece<'a> {
    text: &'a str,
    name: &'a str,
    value: Option<&'a str>,
}

fn pieces(query: &str) -> impl Iterator<Item = Piece<'_>> {
    query
        .split(['&', ';'])
        .filter(|text| !text.is_empty())
        .map(|text| match text.split_once('=') {
            Some((name, value)) => Piece {
                text,
                name,
                value: Some(value),
            },
            None => Piece {
                text,
                name: text,
                value: None,
            },
        })
}

impl Piece<'_> {
    /// Whether some server takes this for the parameter `name`: escapes, double escapes, letter
    /// case, blanks around it and array suffixes do not count, and a dot or a blank within counts as
    /// the `_` that PHP makes of it.
    fn is_named(&self, name: &str) -> bool {
        let found = lenient(self.name).take_while(|byte| !matches!(byte, b'[' | 0));
        eq_but_blanks(found, name.bytes(), |byte| match byte {
            b'.' | b' ' => b'_',
            byte => byte.to_ascii_lowercase(),
        })
    }

    /// Whether name and separators are spelled in the one way that everybody reads alike.
    fn is_exactly(&self, name: &str, query: &str) -> bool {
        self.name == name && query.split('&').any(|text| text == self.text)
    }
}

/// Whether a server may take `found` for `value`: decoded once or twice, letter case and blanks
/// around it ignored.
fn lenient_eq(found: &str, value: &str) -> bool {
    let blank = |byte: u8| if byte == b'+' { b' ' } else { byte };
    let wanted = || decoding(value.bytes()).map(blank);
    let cut = |byte: &u8| *byte != 0;
    let lower = |byte: u8| byte.to_ascii_lowercase();
    let once = decoding(found.bytes()).take_while(cut).map(blank);
    let twice = lenient(found).take_while(cut).map(blank);
    eq_but_blanks(once, wanted(), lower) || eq_but_blanks(twice, wanted(), lower)
}

/// Whether two texts are the same once `fold` has made one of its spellings, blanks at their
/// beginnings and ends aside.
fn eq_but_blanks(
    found: impl Iterator<Item = u8>,
    wanted: impl Iterator<Item = u8>,
    fold: impl Fn(u8) -> u8,
) -> bool {
    let is_blank = |byte: &u8| byte.is_ascii_whitespace();
    let mut found = found.skip_while(is_blank);
    let mut wanted = wanted.skip_while(is_blank);
    loop {
        match (found.next(), wanted.next()) {
            (Some(one), Some(other)) if fold(one) == fold(other) => {}
            (None, None) => return true,
            (Some(rest), None) => return is_blank(&rest) && found.all(|byte| is_blank(&byte)),
            (None, Some(rest)) => return is_blank(&rest) && wanted.all(|byte| is_blank(&byte)),
            (Some(_), Some(_)) => return false,
        }
    }
}

/// The bytes that a server sees that decodes twice.
fn lenient(text: &str) -> impl Iterator<Item = u8> {
    let blanks = text
        .bytes()
        .map(|byte| if byte == b'+' { b' ' } else { byte });
    decoding(decoding(blanks))
}

#[cfg(test)]
mod tests;
