//! Models of upstreams that are lenient about paths, each in its own way; what they see of a
//! forwarded target is compared with what the policy saw.

/// Segments as bytes, because a lenient upstream decodes to anything.
pub(super) type Segments = Vec<Vec<u8>>;

pub(super) type Model = (&'static str, fn(&str) -> Segments);

/// Every model, alone and all together.
pub(super) const MODELS: [Model; 12] = [
    ("dot segments, then decoding", |target| {
        segments(&decoded(&without_dots(cut(target, b"?").as_bytes())))
    }),
    ("decoding, then dot segments", |target| {
        segments(&without_dots(&decoded(cut(target, b"?").as_bytes())))
    }),
    ("merged slashes", |target| {
        segments(&merged(&decoded(cut(target, b"?").as_bytes())))
    }),
    ("double decoding", |target| {
        segments(&without_dots(&twice(target)))
    }),
    ("path parameters", |target| {
        segments(&without_dots(&decoded(&without_parameters(
            cut(target, b"?").as_bytes(),
        ))))
    }),
    ("path parameters after decoding", |target| {
        segments(&without_dots(&without_parameters(&decoded(
            cut(target, b"?").as_bytes(),
        ))))
    }),
    ("backslashes", |target| {
        segments(&without_dots(&slashed(decoded(
            cut(target, b"?").as_bytes(),
        ))))
    }),
    ("cut at NUL", |target| {
        segments(cut_bytes(&decoded(cut(target, b"?").as_bytes()), b"\0"))
    }),
    ("cut at a fragment", |target| {
        segments(&decoded(cut(target, b"#?").as_bytes()))
    }),
    ("cut at a decoded fragment or query", |target| {
        segments(cut_bytes(&decoded(target.as_bytes()), b"#?"))
    }),
    ("trailing dots of names", |target| {
        let mut segments = segments(&decoded(cut(target, b"?").as_bytes()));
        for segment in &mut segments {
            while segment.last() == Some(&b'.') {
                segment.pop();
            }
        }
        segments
    }),
    ("everything at once", |target| {
        let bytes = slashed(twice(target));
        let bytes = without_parameters(cut_bytes(&bytes, b"\0#?"));
        segments(&merged(&without_dots(&merged(&bytes))))
    }),
];

fn cut<'a>(target: &'a str, at: &[u8]) -> &'a str {
    target
        .split(|c: char| at.iter().any(|&byte| char::from(byte) == c))
        .next()
        .unwrap_or_default()
}

fn cut_bytes<'a>(bytes: &'a [u8], at: &[u8]) -> &'a [u8] {
    bytes
        .split(|byte| at.contains(byte))
        .next()
        .unwrap_or_default()
}

fn twice(target: &str) -> Vec<u8> {
    decoded(&decoded(cut(target, b"?").as_bytes()))
}

/// Decodes what can be decoded. Written apart from the crate's own decoding, to disagree with it.
fn decoded(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind
            .get(..2)
            .and_then(|pair| std::str::from_utf8(pair).ok());
        let byte = digits
            .filter(|pair| pair.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match byte {
            Some(byte) if first == b'%' => {
                out.push(byte);
                rest = &behind[2..];
            }
            _ => {
                out.push(first);
                rest = behind;
            }
        }
    }
    out
}

/// `remove_dot_segments` of RFC 3986, 5.2.4, step by step.
fn without_dots(path: &[u8]) -> Vec<u8> {
    let mut input = path.to_vec();
    let mut output: Vec<u8> = Vec::new();
    let up = |output: &mut Vec<u8>| {
        let slash = output.iter().rposition(|&byte| byte == b'/');
        output.truncate(slash.unwrap_or(0));
    };
    while !input.is_empty() {
        if input.starts_with(b"../") {
            input.drain(..3);
        } else if input.starts_with(b"./") || input.starts_with(b"/./") {
            input.drain(..2);
        } else if input == b"/." {
            input = b"/".to_vec();
        } else if input.starts_with(b"/../") {
            input.drain(..3);
            up(&mut output);
        } else if input == b"/.." {
            input = b"/".to_vec();
            up(&mut output);
        } else if input == b"." || input == b".." {
            input.clear();
        } else {
            let next = input.iter().skip(1).position(|&byte| byte == b'/');
            let end = next.map_or(input.len(), |at| at + 1);
            output.extend(input.drain(..end));
        }
    }
    output
}

fn merged(path: &[u8]) -> Vec<u8> {
    let mut out = path.to_vec();
    out.dedup_by(|a, b| *a == b'/' && *b == b'/');
    out
}

fn slashed(mut path: Vec<u8>) -> Vec<u8> {
    for byte in path.iter_mut().filter(|byte| **byte == b'\\') {
        *byte = b'/';
    }
    path
}

/// As Tomcat does: from each `;` to the end of the segment.
fn without_parameters(path: &[u8]) -> Vec<u8> {
    path.split(|&byte| byte == b'/')
        .map(|segment| cut_bytes(segment, b";"))
        .collect::<Vec<_>>()
        .join(&b'/')
}

fn segments(path: &[u8]) -> Segments {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path.is_empty() {
        return Vec::new();
    }
    path.split(|&byte| byte == b'/')
        .map(<[u8]>::to_vec)
        .collect()
}
