//! Fields of payloads: a tag, a length (LEB128, at most four bytes, shortest form), the bytes.
//!
//! Tags of one payload rise, so that nothing occurs twice and everything has one spelling. A tag
//! with the high bit may be passed over by a receiver that does not know it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What is wrong with a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// A head or message that breaks a limit of [`crate::limits`], or has bytes that the peer would
/// refuse: it cannot be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unencodable(pub &'static str);

/// Bit of a tag: whoever does not know the tag passes over the field.
const SKIPPABLE: u8 = 0x80;

pub(crate) fn malformed<T>(what: &'static str) -> Result<T, Malformed> {
    Err(Malformed(what))
}

pub(crate) fn put_length(out: &mut BytesMut, mut length: usize) {
    while length >= 0x80 {
        out.put_u8(length as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
}

/// Bytes that [`put_length`] takes.
pub(crate) fn length_of_length(length: usize) -> usize {
    match length {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

pub(crate) fn put_field(out: &mut BytesMut, tag: u8, value: &[u8]) {
    out.put_u8(tag);
    put_length(out, value.len());
    out.put_slice(value);
}

/// Appends human text: without control characters, cut at `most` bytes.
pub(crate) fn put_text(out: &mut BytesMut, tag: u8, text: &str, most: usize) {
    put_field(out, tag, plain(text, most).as_bytes());
}

/// `text` without control characters, cut at `most` bytes.
pub(crate) fn plain(text: &str, most: usize) -> String {
    let mut plain: String = text.chars().filter(|c| !c.is_control()).collect();
    plain.truncate(plain.floor_char_boundary(most));
    plain
}

pub(crate) fn take_length(from: &mut Bytes) -> Result<usize, Malformed> {
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        if from.is_empty() {
            return malformed("a length is cut short");
        }
        let byte = from.get_u8();
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            if byte == 0 && shift > 0 {
                return malformed("a length is not in its shortest form");
            }
            return Ok(length);
        }
    }
    malformed("a length has more than four bytes")
}

pub(crate) fn take_bytes(from: &mut Bytes, length: usize) -> Result<Bytes, Malformed> {
    if from.len() < length {
        return malformed("a field is cut short");
    }
    Ok(from.split_to(length))
}

/// Reads the fields of a payload.
pub(crate) struct Fields {
    rest: Bytes,
    last: u8,
    repeated: &'static [u8],
}

impl Fields {
    pub(crate) fn new(payload: Bytes) -> Self {
        Self::with_repeated(payload, &[])
    }

    /// Fields of which some may occur more than once, in a row.
    pub(crate) fn with_repeated(payload: Bytes, repeated: &'static [u8]) -> Self {
        Self {
            rest: payload,
            last: 0,
            repeated,
        }
    }

    /// The next field, if there is one.
    pub(crate) fn take(&mut self) -> Result<Option<(u8, Bytes)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.rest.get_u8();
        if tag < self.last || tag == self.last && !self.repeated.contains(&tag) {
            return malformed("fields out of order, or one that occurs twice");
        }
        self.last = tag;
        let length = take_length(&mut self.rest)?;
        Ok(Some((tag, take_bytes(&mut self.rest, length)?)))
    }
}

/// What to do about a field that this version does not know.
pub(crate) fn pass_over(tag: u8) -> Result<(), Malformed> {
    if tag & SKIPPABLE == 0 {
        malformed("a field of an unknown kind")
    } else {
        Ok(())
    }
}

pub(crate) fn text(value: &Bytes, most: usize, what: &'static str) -> Result<String, Malformed> {
    match std::str::from_utf8(value) {
        Ok(text) if text.len() <= most && !text.chars().any(char::is_control) => {
            Ok(text.to_owned())
        }
        _ => malformed(what),
    }
}

pub(crate) fn array<const N: usize>(
    value: &Bytes,
    what: &'static str,
) -> Result<[u8; N], Malformed> {
    value.as_ref().try_into().or(malformed(what))
}

pub(crate) fn name<T: std::str::FromStr>(value: &Bytes) -> Result<T, Malformed> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|name| name.parse().ok())
        .ok_or(Malformed("a name that is not one"))
}
