//! Lower-case hexadecimal digits: ids are written with every call.

use std::fmt;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Writes each byte as two digits; `text` has room for them all.
pub(crate) fn encode(bytes: &[u8], text: &mut [u8]) {
    for (byte, pair) in bytes.iter().zip(text.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// Reads what [`encode`] writes; `text` has twice as many digits as there are bytes.
pub(crate) fn decode<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// The digits of an id.
pub(crate) fn digits(id: &[u8; 16]) -> [u8; 32] {
    let mut text = [0; 32];
    encode(id, &mut text);
    text
}

/// Shows an id as its digits.
pub(crate) fn show(id: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(std::str::from_utf8(&digits(id)).unwrap_or_default())
}
