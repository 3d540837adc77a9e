//! Fields of payloads: a tag, a length (LEB128, at most four bytes), the bytes.
//!
//! A tag with the high bit may be skipped by a receiver that does not know it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::mux::SessionError;

/// A payload that ends too early, or a field that is not what its tag says.
pub(crate) fn malformed<T>(what: &'static str) -> Result<T, SessionError> {
    Err(SessionError::Protocol(what))
}

pub(crate) fn put_length(out: &mut BytesMut, mut length: usize) {
    while length >= 0x80 {
        out.put_u8(length as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
}

pub(crate) fn put_field(out: &mut BytesMut, tag: u8, value: &[u8]) {
    out.put_u8(tag);
    put_length(out, value.len());
    out.put_slice(value);
}

pub(crate) fn take_length(from: &mut Bytes) -> Result<usize, SessionError> {
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        if from.is_empty() {
            return malformed("a length is cut short");
        }
        let byte = from.get_u8();
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(length);
        }
    }
    malformed("a length has more than four bytes")
}

pub(crate) fn take_bytes(from: &mut Bytes, length: usize) -> Result<Bytes, SessionError> {
    if from.len() < length {
        return malformed("a field is cut short");
    }
    Ok(from.split_to(length))
}

/// The next field, if there is one.
pub(crate) fn take_field(from: &mut Bytes) -> Result<Option<(u8, Bytes)>, SessionError> {
    if from.is_empty() {
        return Ok(None);
    }
    let tag = from.get_u8();
    let length = take_length(from)?;
    Ok(Some((tag, take_bytes(from, length)?)))
}

pub(crate) fn text(value: &Bytes, max: usize, what: &'static str) -> Result<String, SessionError> {
    match std::str::from_utf8(value) {
        Ok(text) if text.len() <= max && !text.chars().any(char::is_control) => Ok(text.to_owned()),
        _ => malformed(what),
    }
}

pub(crate) fn number<const N: usize>(
    value: &Bytes,
    what: &'static str,
) -> Result<[u8; N], SessionError> {
    value.as_ref().try_into().or(malformed(what))
}
