//! Percent-decoding, as lenient servers do it, for comparing; nothing decoded is ever forwarded.

/// The byte that the escape at `at` stands for; `None` if there is no whole escape.
pub(crate) fn hex_pair(bytes: &[u8], at: usize) -> Option<u8> {
    match bytes.get(at..)? {
        [b'%', digits @ ..] => digit_pair(digits),
        _ => None,
    }
}

/// The byte that the two hex digits at the beginning stand for; `None` if there are no two.
pub(crate) fn digit_pair(bytes: &[u8]) -> Option<u8> {
    match *bytes {
        [high, low, ..] => nibble(high)
            .zip(nibble(low))
            .map(|(high, low)| high << 4 | low),
        _ => None,
    }
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// `text` with each escape decoded once. Broken escapes stay as they are.
pub(crate) fn once(text: &str) -> Vec<u8> {
    decoding(text.bytes()).collect()
}

/// Decodes escapes of a byte stream; broken ones pass unchanged. Stacks for double decoding.
pub(crate) fn decoding<I: Iterator<Item = u8> + Clone>(bytes: I) -> Decoding<I> {
    Decoding { bytes }
}

#[derive(Clone)]
pub(crate) struct Decoding<I> {
    bytes: I,
}

impl<I: Iterator<Item = u8> + Clone> Iterator for Decoding<I> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let first = self.bytes.next()?;
        if first == b'%' {
            let mut ahead = self.bytes.clone();
            let digits = ahead
                .next()
                .and_then(nibble)
                .zip(ahead.next().and_then(nibble));
            if let Some((high, low)) = digits {
                self.bytes = ahead;
                return Some(high << 4 | low);
            }
        }
        Some(first)
    }
}

/// A canonical path without the differences that a lenient upstream may not see: escapes are
/// decoded, letter case is folded. `%2F` stays, which is no separator, and so does `%25`, which makes
/// another name of what follows. `None` where nothing changes.
pub(crate) fn folded(path: &str) -> Option<String> {
    if !path
        .bytes()
        .any(|byte| byte == b'%' || byte.is_ascii_uppercase())
    {
        return None;
    }
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = hex_pair(bytes, at).filter(|byte| !matches!(byte, b'/' | b'%'));
        decoded.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    let text = String::from_utf8_lossy(&decoded);
    // Upper-casing first also folds letters that have no lower-case partner of their own, such
    // as the long s.
    Some(
        text.chars()
            .flat_map(char::to_uppercase)
            .flat_map(char::to_lowercase)
            .collect(),
    )
}
