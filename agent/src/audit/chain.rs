//! The hash chain: how a line is sealed, and how a sealed line is read. Pure.
//!
//! A line is `{"seq":N,` + fields + `,"hash":"H"}`, where `H` is the SHA-256 of the hash of the
//! line before (as 64 hex characters) and of the line up to `,"hash":`.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};

const BEGIN: &str = "{\"seq\":";
const HASH: &str = ",\"hash\":\"";
const END: &str = "\"}";

/// A SHA-256, as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Hash([u8; 64]);

impl Hash {
    /// Before the very first line.
    pub(crate) const ZERO: Self = Self([b'0'; 64]);

    /// The hash of a line of which `signed` is everything before its own hash.
    pub(crate) fn link(previous: &Self, signed: &[u8]) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut context = Context::new(&SHA256);
        context.update(&previous.0);
        context.update(signed);
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(context.finish().as_ref()) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        Self(hex)
    }

    /// Reads 64 characters of lower-case hex.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let hex = <[u8; 64]>::try_from(text).ok()?;
        let good = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        hex.iter().all(good).then_some(Self(hex))
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The last line of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) seq: u64,
    pub(crate) hash: Hash,
}

impl Head {
    /// Of a chain without lines.
    pub(crate) const NONE: Self = Self {
        seq: 0,
        hash: Hash::ZERO,
    };

    /// Appends a line with `fields` (JSON members, without braces) to `out`, its end included;
    /// gives the chain's new head.
    pub(crate) fn seal(&self, fields: &str, out: &mut Vec<u8>) -> Self {
        let start = out.len();
        let seq = self.seq + 1;
        out.extend_from_slice(format!("{BEGIN}{seq},").as_bytes());
        out.extend_from_slice(fields.as_bytes());
        let hash = Hash::link(&self.hash, &out[start..]);
        for part in [HASH, hash.as_str(), END, "\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        Self { seq, hash }
    }
}

/// A line as it was read; nothing is said yet of whether it is where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sealed<'l> {
    /// Everything before the line's own hash.
    pub(crate) signed: &'l [u8],
    /// Number and hash that the line gives itself.
    pub(crate) head: Head,
}

impl<'l> Sealed<'l> {
    /// Reads a line without its end. `None`: no such line was ever written.
    pub(crate) fn parse(line: &'l [u8]) -> Option<Self> {
        let (signed, tail) = line.split_at_checked(line.len().checked_sub(TAIL)?)?;
        let hash = tail.strip_prefix(HASH.as_bytes())?;
        let hash = Hash::parse(hash.strip_suffix(END.as_bytes())?)?;
        let rest = signed.strip_prefix(BEGIN.as_bytes())?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        // No sign, no leading zero, and a comma behind it: the number has one spelling.
        let good = digits > 0 && rest.get(digits) == Some(&b',') && rest[0] != b'0';
        let seq = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
        good.then_some(Self {
            signed,
            head: Head { seq, hash },
        })
    }

    /// Whether the line follows one with the hash `previous`.
    pub(crate) fn follows(&self, previous: &Hash) -> bool {
        Hash::link(previous, self.signed) == self.head.hash
    }
}

const TAIL: usize = HASH.len() + 64 + END.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_documented_form_and_hash() {
        let mut out = Vec::new();
        let first = Head::NONE.seal("\"event\":\"start\"", &mut out);
        let text = String::from_utf8(out.clone()).unwrap();
        let signed = "{\"seq\":1,\"event\":\"start\"";
        assert!(text.starts_with(&format!("{signed},\"hash\":\"")), "{text}");
        // printf '%064d{"seq":1,"event":"start"' 0 | sha256sum
        assert_eq!(
            first.hash.as_str(),
            "2cfc019397e39a4577378138adc9e61bd2c271f6a6b97a40fead59a5f73b83e4"
        );
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
        out.clear();
        let second = first.seal("\"event\":\"stop\"", &mut out);
        let read = Sealed::parse(out.strip_suffix(b"\n").unwrap()).unwrap();
        assert_eq!(read.head, second);
        assert!(read.follows(&first.hash) && !read.follows(&Hash::ZERO));
    }

    #[test]
    fn what_was_never_written_is_no_line() {
        let mut out = Vec::new();
        Head::NONE.seal("\"a\":1", &mut out);
        let good = String::from_utf8(out).unwrap().trim_end().to_owned();
        assert!(Sealed::parse(good.as_bytes()).is_some());
        let bad = [
            String::new(),
            good[..good.len() - 1].to_owned(),
            good[1..].to_owned(),
            format!("{good} "),
            good.replace("\"seq\":1", "\"seq\":01"),
            good.replace("\"seq\":1", "\"seq\":+1"),
            good.replace("\"seq\":1", "\"seq\":"),
            good.replace("\"seq\":1", "\"seq\":99999999999999999999"),
            good.replace("\"hash\":\"", "\"hash\":\"A"),
        ];
        for bad in bad {
            assert_eq!(Sealed::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
