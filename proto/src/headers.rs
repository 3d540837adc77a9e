//! Header fields on the wire: a byte for a well-known name, values as slices of the message.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use crate::limits::{MAX_HEADER_LIST, MAX_HEADERS};
use crate::name_table::{name_of, number_of};
use crate::wire::{
    Malformed, Unencodable, length_of_length, malformed, put_length, take_bytes, take_length,
};

/// First byte of a header: the name follows as text.
const LITERAL: u8 = 0;

/// Bit of the first byte: the value is secret ([`HeaderValue::is_sensitive`]).
const SENSITIVE: u8 = 0x80;

/// What a header counts beside its name and value (RFC 9113, 6.5.2).
const OVERHEAD: usize = 32;

/// Appends `tag` and all headers, if they are within the limits.
pub(crate) fn put_headers(
    out: &mut BytesMut,
    tag: u8,
    headers: &HeaderMap,
) -> Result<(), Unencodable> {
    if headers.is_empty() {
        return Ok(());
    }
    let (mut list, mut length) = (0, 0);
    for (name, value) in headers {
        let (name_length, value_length) = (name.as_str().len(), value.len());
        list += name_length + value_length + OVERHEAD;
        length += 1 + length_of_length(value_length) + value_length;
        if number_of(name).is_none() {
            length += length_of_length(name_length) + name_length;
        }
    }
    if headers.len() > MAX_HEADERS || list > MAX_HEADER_LIST {
        return Err(Unencodable("too many headers, or too long ones"));
    }
    out.reserve(length + 4);
    out.put_u8(tag);
    put_length(out, length);
    for (name, value) in headers {
        let sensitive = if value.is_sensitive() { SENSITIVE } else { 0 };
        match number_of(name) {
            Some(number) => out.put_u8(number | sensitive),
            None => {
                out.put_u8(LITERAL | sensitive);
                put_length(out, name.as_str().len());
                out.put_slice(name.as_str().as_bytes());
            }
        }
        put_length(out, value.len());
        out.put_slice(value.as_bytes());
    }
    Ok(())
}

/// Reads all headers of a field.
pub(crate) fn take_headers(mut from: Bytes) -> Result<HeaderMap, Malformed> {
    if from.is_empty() {
        return malformed("a list of headers without any, which is left out");
    }
    // Most headers take more: a peer cannot make us reserve much more than it sent.
    let mut headers = HeaderMap::with_capacity((from.len() / 24).min(MAX_HEADERS));
    let mut list = 0;
    while !from.is_empty() {
        let first = from.get_u8();
        let name = match first & !SENSITIVE {
            LITERAL => {
                let length = take_length(&mut from)?;
                let name = take_bytes(&mut from, length)?;
                HeaderName::from_lowercase(&name).or(malformed("a header name is not one"))?
            }
            number => name_of(number).ok_or(Malformed("a header name of an unknown number"))?,
        };
        let length = take_length(&mut from)?;
        let value = take_bytes(&mut from, length)?;
        list += name.as_str().len() + value.len() + OVERHEAD;
        if headers.len() == MAX_HEADERS || list > MAX_HEADER_LIST {
            return malformed("too many headers, or too long ones");
        }
        let mut value =
            HeaderValue::from_maybe_shared(value).or(malformed("a header value is not one"))?;
        value.set_sensitive(first & SENSITIVE != 0);
        headers.append(name, value);
    }
    Ok(headers)
}
