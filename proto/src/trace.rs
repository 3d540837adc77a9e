//! The trace that a call belongs to: `traceparent` of W3C Trace Context
//! (<https://www.w3.org/TR/trace-context/>), as far as one who passes it on needs it.

use std::fmt;

use crate::hex;

/// Bytes of `00-TRACE-PARENT-FLAGS`.
const LENGTH: usize = 55;

/// The id of a trace: 16 bytes, not all of them 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

impl TraceId {
    /// The trace of this id; `None` for all zeros, which means none.
    pub fn new(id: [u8; 16]) -> Option<Self> {
        (id != [0; 16]).then_some(Self(id))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::show(&self.0, f)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a `traceparent` says to those behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// Flags: bit 0 says that the caller may have recorded its part. The others pass as they are
    /// in version 00, and are dropped of later ones.
    pub flags: u8,
}

impl TraceContext {
    /// Reads a `traceparent`. `None` where it is not one, which begins another trace
    /// (section 3.2.2.1 of the recommendation). Of versions to come the known part counts.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let known = value.get(..LENGTH)?;
        let [version] = hex::decode(&known[..2])?;
        let trace = TraceId::new(hex::decode(&known[3..35])?)?;
        let parent: [u8; 8] = hex::decode(&known[36..52])?;
        let [flags] = hex::decode(&known[53..])?;
        let dashes = known[2] == b'-' && known[35] == b'-' && known[52] == b'-';
        let rest = match (version, value.get(LENGTH)) {
            (0xff, _) => false,
            (_, None) => true,
            (0, Some(_)) => false,
            (_, Some(next)) => *next == b'-',
        };
        (dashes && rest && parent != [0; 8]).then_some(Self {
            trace,
            flags: if version == 0 { flags } else { flags & 1 },
        })
    }

    /// The `traceparent` for those behind `parent`, which must not be 0.
    pub fn traceparent(&self, parent: u64) -> [u8; LENGTH] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        hex::encode(&self.trace.0, &mut text[3..35]);
        hex::encode(&parent.to_be_bytes(), &mut text[36..52]);
        hex::encode(&[self.flags], &mut text[53..]);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parse(value: &str) -> Option<(String, u8)> {
        let context = TraceContext::parse(value.as_bytes())?;
        Some((context.trace.to_string(), context.flags))
    }

    #[test]
    fn a_trace_is_read_and_goes_on_under_another_parent() {
        assert_eq!(parse(GOOD), Some((TRACE.into(), 1)));
        let context = TraceContext::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(
            &context.traceparent(0xbad),
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000bad-01"
        );
        // A version that is not known yet: what comes behind the known part has no meaning here.
        let later = GOOD.replacen("00-", "cc-", 1);
        assert_eq!(parse(&later), Some((TRACE.into(), 1)));
        assert_eq!(parse(&format!("{later}-what")), Some((TRACE.into(), 1)));
        assert_eq!(parse(&later.replace("-01", "-ff")), Some((TRACE.into(), 1)));
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        let bad = [
            String::new(),
            GOOD[..54].to_owned(),
            format!("{GOOD}-"),
            format!("{GOOD}0"),
            GOOD.to_uppercase(),
            GOOD.replacen("00-", "ff-", 1),
            GOOD.replacen("00-", "cc-", 1) + ".x",
            GOOD.replace(TRACE, &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", "0000000000000000"),
            GOOD.replace('-', "_"),
            GOOD.replace("4bf9", "4bg9"),
            format!(" {GOOD}"),
        ];
        for value in bad {
            assert_eq!(parse(&value), None, "{value:?}");
        }
    }
}
