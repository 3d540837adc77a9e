//! The head of a request, scanned line by line.

use culvert_proto::connect_name::ConnectName;
use culvert_proto::heads::is_method;
use memchr::{memchr, memchr2};

use super::{TARGET, TOKEN, Violation, is};

/// Longest head, from the first byte of the request line to the empty line.
pub(crate) const MAX_HEAD: usize = 64 * 1024;
/// Most header fields.
pub(crate) const MAX_FIELDS: usize = 100;
/// Longest request target.
pub(crate) const MAX_TARGET: usize = 16 * 1024;
/// Longest field name: none that anybody uses comes near.
const MAX_NAME: usize = 256;
/// Most digits of a length: 10^18 bytes are enough, and no number overflows.
const MAX_DIGITS: usize = 18;

/// How the body that follows a head is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Empty,
    Length(u64),
    Chunked,
}

/// What a scan found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scanned {
    /// No empty line yet.
    Partial,
    /// The head is whole.
    Whole {
        /// Its length in bytes, with the empty line.
        length: usize,
        /// What follows.
        framing: Framing,
        /// Whether it has an Upgrade field.
        upgrade: bool,
        /// Where the name of its Expect field begins.
        expect: Option<usize>,
    },
}

/// The scanner of one head. Each scan gets all bytes from the head's first on and goes on where
/// the last one stopped.
#[derive(Debug, Default)]
pub(crate) struct HeadScan {
    /// Where the first line begins that was not whole.
    line: usize,
    /// Up to where no line end was found.
    searched: usize,
    begun: Begun,
    fields: usize,
    http10: bool,
    connect: bool,
    host: bool,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    expect: Option<usize>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Begun {
    #[default]
    No,
    /// One empty line came before the request line, which some callers send behind a body.
    EmptyLine,
    Yes,
}

impl HeadScan {
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Result<Scanned, Violation> {
        while let Some(found) = memchr(b'\n', &bytes[self.searched..]) {
            let end = self.searched + found;
            if end >= MAX_HEAD {
                return Err(Violation::HeadTooLong);
            }
            let line = bytes[self.line..end]
                .strip_suffix(b"\r")
                .ok_or(Violation::BareLineFeed)?;
            let is_expect =
                line.len() > 6 && line[..6].eq_ignore_ascii_case(b"expect") && line[6] == b':';
            if is_expect && self.expect.replace(self.line).is_some() {
                return Err(Violation::SeveralExpects);
            }
            (self.line, self.searched) = (end + 1, end + 1);
            if self.on_line(line)? {
                let framing = match self.length {
                    Some(length @ 1..) => Framing::Length(length),
                    _ if self.chunked => Framing::Chunked,
                    _ => Framing::Empty,
                };
                let (length, upgrade, expect) = (self.line, self.upgrade, self.expect);
                return Ok(Scanned::Whole {
                    length,
                    framing,
                    upgrade,
                    expect,
                });
            }
        }
        if bytes.len() >= MAX_HEAD {
            return Err(Violation::HeadTooLong);
        }
        // A line that is not whole may still show that it never will be right: better to say so
        // now than when the timer runs out.
        match memchr(b'\r', &bytes[self.searched..]) {
            Some(at) if self.searched + at + 1 < bytes.len() => Err(Violation::BareCarriageReturn),
            Some(at) => {
                self.searched += at;
                Ok(Scanned::Partial)
            }
            None => {
                self.searched = bytes.len();
                Ok(Scanned::Partial)
            }
        }
    }

    /// Whether this line was the last one.
    fn on_line(&mut self, line: &[u8]) -> Result<bool, Violation> {
        match self.begun {
            Begun::No if line.is_empty() => self.begun = Begun::EmptyLine,
            Begun::No | Begun::EmptyLine => {
                (self.http10, self.connect) = request_line(line)?;
                self.begun = Begun::Yes;
            }
            Begun::Yes if line.is_empty() => {
                self.on_end()?;
                return Ok(true);
            }
            Begun::Yes => self.on_field(line)?,
        }
        Ok(false)
    }

    fn on_field(&mut self, line: &[u8]) -> Result<(), Violation> {
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err(Violation::TooManyFields);
        }
        let (name, value) = field(line)?;
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                if std::mem::replace(&mut self.host, true) {
                    return Err(Violation::SeveralHosts);
                }
                host(value)?;
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let before = self.length.replace(content_length(value)?);
                if before.is_some() {
                    return Err(Violation::SeveralContentLengths);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if std::mem::replace(&mut self.chunked, true) {
                    return Err(Violation::SeveralCodings);
                }
                if value != b"chunked" {
                    return Err(Violation::Coding);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn on_end(&self) -> Result<(), Violation> {
        if self.chunked && self.http10 {
            return Err(Violation::CodingInHttp10);
        }
        if self.chunked && self.length.is_some() {
            return Err(Violation::LengthAndCoding);
        }
        if self.connect && (self.chunked || self.length.is_some()) {
            return Err(Violation::ConnectBody);
        }
        // Tools that know HTTP/1.0 alone name the host in CONNECT's target and nowhere else.
        if self.host || (self.connect && self.http10) {
            Ok(())
        } else {
            Err(Violation::NoHost)
        }
    }
}

/// Checks the request line; says whether it is HTTP/1.0, and whether a CONNECT.
fn request_line(line: &[u8]) -> Result<(bool, bool), Violation> {
    let mut parts = line.splitn(3, |&byte| byte == b' ');
    let (method, target, version) = match (parts.next(), parts.next(), parts.next()) {
        (Some(method), Some(target), Some(version)) => (method, target, version),
        _ => return Err(line_error(line)),
    };
    let http10 = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        _ if version.starts_with(b"HTTP/") => return Err(Violation::Version),
        _ => return Err(line_error(line)),
    };
    check_method(method)?;
    match method {
        b"TRACE" => return Err(Violation::Trace),
        b"CONNECT" => {
            let target = std::str::from_utf8(target).map(ConnectName::parse);
            return match target {
                Ok(Ok(_)) => Ok((http10, true)),
                _ => Err(Violation::ConnectTarget),
            };
        }
        _ => {}
    }
    if target.len() > 7 && target[..7].eq_ignore_ascii_case(b"http://") {
        return Err(Violation::PlainProxying);
    }
    if target.first() != Some(&b'/') {
        return Err(Violation::TargetForm);
    }
    if target.len() > MAX_TARGET {
        return Err(Violation::TargetTooLong);
    }
    if let Some(&byte) = target.iter().find(|&&byte| !is(TARGET, byte)) {
        return Err(Violation::TargetCharacter(byte));
    }
    // hyper takes no backtick in a path, and would say nothing of why.
    if memchr2(b'`', b'?', target).is_some_and(|at| target[at] == b'`') {
        return Err(Violation::TargetCharacter(b'`'));
    }
    Ok((http10, false))
}

/// What to say of a line that is no request line.
fn line_error(line: &[u8]) -> Violation {
    if line.contains(&b'\r') {
        Violation::BareCarriageReturn
    } else {
        Violation::RequestLine
    }
}

/// Takes a field line apart; the value is without the white space around it.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Violation::Folded);
    }
    let Some(colon) = memchr(b':', line) else {
        return Err(if line.contains(&b'\r') {
            Violation::BareCarriageReturn
        } else {
            Violation::NoColon
        });
    };
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if !name.iter().all(|&byte| is(TOKEN, byte)) || name.is_empty() || name.len() > MAX_NAME {
        return Err(match name.last() {
            Some(b' ' | b'\t') => Violation::SpaceBeforeColon,
            _ if name.contains(&b'\r') => Violation::BareCarriageReturn,
            _ => Violation::FieldName,
        });
    }
    // Over the untrimmed value: trimming takes more than spaces and tabs off. Without a branch
    // for each byte: values are most of a head.
    let raw = &line[colon + 1..];
    let control = |byte: u8| (byte < b' ') & (byte != b'\t') | (byte == 0x7F);
    if raw.iter().fold(false, |found, &byte| found | control(byte)) {
        return Err(if raw.contains(&b'\r') {
            Violation::BareCarriageReturn
        } else {
            Violation::ControlCharacter
        });
    }
    Ok((name, value))
}

fn content_length(value: &[u8]) -> Result<u64, Violation> {
    if value.is_empty() || value.len() > MAX_DIGITS || !value.iter().all(u8::is_ascii_digit) {
        return Err(Violation::ContentLength);
    }
    Ok(value
        .iter()
        .fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

/// Checks a method: one that a head of the tunnel takes and that begins with a letter.
pub(crate) fn check_method(method: &[u8]) -> Result<(), Violation> {
    let begins = method.first().is_some_and(u8::is_ascii_uppercase);
    if begins && is_method(method) {
        Ok(())
    } else {
        Err(Violation::Method)
    }
}

/// Checks `name`, `name:port`, `[v6]` or `[v6]:port`. No user, nothing that needs escapes.
pub(crate) fn host(value: &[u8]) -> Result<(), Violation> {
    let (name, port) = match value.iter().rposition(|&byte| byte == b':' || byte == b']') {
        Some(colon) if value[colon] == b':' => (&value[..colon], Some(&value[colon + 1..])),
        _ => (value, None),
    };
    let named = |b: &u8| b.is_ascii_alphanumeric() || b"-._".contains(b);
    let good_name = match name {
        [b'[', address @ .., b']'] => {
            std::str::from_utf8(address).is_ok_and(|a| a.parse::<std::net::Ipv6Addr>().is_ok())
        }
        _ => !name.is_empty() && name.len() <= 255 && name.iter().all(named),
    };
    let good_port = port
        .is_none_or(|port| (1..=5).contains(&port.len()) && port.iter().all(u8::is_ascii_digit));
    if good_name && good_port {
        Ok(())
    } else {
        Err(Violation::Host)
    }
}
