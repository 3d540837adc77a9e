//! Durations and sizes as people write them: `"15s"`, `"2m 30s"`, `"64 KiB"`.

use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest span that a file may have: more is a mistake, and some sums of it no clock can hold.
const MAX_SPAN: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// A time span, written with its unit (`"250ms"`, `"15s"`, `"2h"`); 100 years at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// So many seconds.
    pub const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

/// Reads the text that something is written as: whoever writes a number is told what it is that is `expected`.
pub(crate) fn text<'de, D: Deserializer<'de>>(
    deserializer: D,
    expected: &'static str,
) -> Result<String, D::Error> {
    struct Text(&'static str);

    impl Visitor<'_> for Text {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
    }

    deserializer.deserialize_str(Text(expected))
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = text(deserializer, "a time span with its unit, like \"15s\"")?;
        let span = humantime::parse_duration(&text).map_err(|error| {
            D::Error::custom(format!(
                "{text:?} is not a time span ({error}); expected a number with its unit, like \"15s\""
            ))
        })?;
        if span > MAX_SPAN {
            return Err(D::Error::custom(format!(
                "{text:?} is too long a time span; expected 100 years at most"
            )));
        }
        Ok(Self(span))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

/// A number of bytes, written with its unit (`"64 KiB"`) or as a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a size, like \"64 KiB\"")]
enum WrittenSize {
    Bytes(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match WrittenSize::deserialize(deserializer)? {
            WrittenSize::Bytes(bytes) => Ok(Self(bytes)),
            WrittenSize::Text(text) => match text.parse::<ByteSize>() {
                Ok(size) => Ok(Self(size.as_u64())),
                Err(_) => Err(Error::custom(format!(
                    "{text:?} is not a size; expected a number with its unit, like \"64 KiB\""
                ))),
            },
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&ByteSize(self.0).display().iec())
    }
}
