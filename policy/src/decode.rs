//! Percent-decoding, as lenient servers do it, for comparing; nothing decoded is ever forwarded.

/// The byte that the escape at `at` stands for; `None` if there is no whole escape.
pub(crate) fn hex_pair(bytes: &[u8], at: usize) -> Option<u8> {
    match bytes.get(at..at + 3)? {
        &[b'%', high, low] => nibble(high)
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
/// decoded (`%2F` stays, it is no separator), letter case is folded. `None` where nothing changes.
pub(crate) fn folded(path: &str) -> Option<String> {
    if !path
        .bytes()
        .any(|byte| byte == b'%' || byte.is_ascii_uppercase())
    {
        return None;
    }
    let mut decoded = Vec::with_capacity(path.len());
    for (index, part) in path.split("%2F").enumerate() {
        if index > 0 {
            decoded.extend_from_slice(b"%2f");
        }
        decoded.extend(decoding(part.bytes()));
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
