//! Heads on the wire: fields, and headers by a static table of names.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::code::ErrorCode;
use crate::head::{BodyLength, CallHead, CallId, Head, Mode, Refusal, ResponseHead};
use crate::limits::{
    MAX_HEADER_BYTES, MAX_HEADERS, MAX_REASON, MAX_SCOPES, MAX_SUBJECT, MAX_TARGET,
};
use crate::mux::SessionError;
use crate::name_table::{name_at, position_of};
use crate::names::{EndpointName, TenantName};
use crate::principal::{Principal, PrincipalKind, Proof};
use crate::wire::{
    malformed, number, put_field, put_length, take_bytes, take_field, take_length, text,
};

mod tag {
    //! Fields of heads. Receivers skip unknown tags with the high bit.
    pub(super) const CALL: u8 = 0x01;
    pub(super) const ENDPOINT: u8 = 0x02;
    pub(super) const MODE: u8 = 0x03;
    pub(super) const METHOD: u8 = 0x04;
    pub(super) const TARGET: u8 = 0x05;
    pub(super) const HEADERS: u8 = 0x06;
    pub(super) const BODY: u8 = 0x07;
    pub(super) const AUTHORITY: u8 = 0x08;
    pub(super) const SOURCE: u8 = 0x09;
    pub(super) const TENANT: u8 = 0x0a;
    pub(super) const SUBJECT: u8 = 0x0b;
    pub(super) const SCOPES: u8 = 0x0c;
    pub(super) const PRINCIPAL: u8 = 0x0d;
    pub(super) const STATUS: u8 = 0x10;
    pub(super) const CODE: u8 = 0x11;
    pub(super) const DETAIL: u8 = 0x12;
    pub(super) const RULE: u8 = 0x13;
    pub(super) const SOAP: u8 = 0x14;
}

/// The kinds of a HEAD frame: the first byte of its payload.
mod kind {
    pub(super) const INTERIM: u8 = 0;
    pub(super) const RESPONSE: u8 = 1;
    pub(super) const REFUSAL: u8 = 2;
    pub(super) const TRAILERS: u8 = 3;
}

/// Names that are not in the table follow with their length; this marks them.
const LITERAL: u8 = 0xff;
/// Bit of a value's flag byte: never index or log it (`HeaderValue::is_sensitive`).
const SENSITIVE: u8 = 1;

/// Appends a call head.
pub fn encode_call(head: &CallHead, out: &mut BytesMut) {
    put_field(out, tag::CALL, &head.call.0);
    put_field(out, tag::ENDPOINT, head.endpoint.as_str().as_bytes());
    put_field(out, tag::MODE, &[mode_number(head.mode)]);
    put_field(out, tag::METHOD, head.method.as_str().as_bytes());
    put_field(out, tag::TARGET, &head.target);
    put_headers(out, &head.headers);
    put_body(out, head.body);
    put_field(out, tag::AUTHORITY, &head.authority);
    match head.source {
        Some(std::net::IpAddr::V4(ip)) => put_field(out, tag::SOURCE, &ip.octets()),
        Some(std::net::IpAddr::V6(ip)) => put_field(out, tag::SOURCE, &ip.octets()),
        None => {}
    }
    let caller = &head.caller;
    put_field(out, tag::TENANT, caller.tenant.as_str().as_bytes());
    put_field(out, tag::SUBJECT, caller.subject.as_bytes());
    out.put_u8(tag::SCOPES);
    put_length(
        out,
        caller
            .scopes
            .iter()
            .map(|s| s.len() + 1)
            .sum::<usize>()
            .saturating_sub(1),
    );
    for (index, scope) in caller.scopes.iter().enumerate() {
        if index > 0 {
            out.put_u8(b' ');
        }
        out.put_slice(scope.as_bytes());
    }
    let mut principal = [0; 10];
    principal[0] = kind_number(caller.kind);
    principal[1] = proof_number(caller.proof);
    principal[2..].copy_from_slice(&caller.expires.to_be_bytes());
    put_field(out, tag::PRINCIPAL, &principal);
}

/// Reads a call head; `from` holds nothing else.
pub fn decode_call(mut from: Bytes) -> Result<CallHead, SessionError> {
    let (mut call, mut endpoint, mut mode, mut method, mut target) = (None, None, None, None, None);
    let (mut headers, mut body, mut authority, mut source) = (None, None, None, None);
    let (mut tenant, mut subject, mut scopes, mut principal) = (None, None, None, None);
    while let Some((tag, value)) = take_field(&mut from)? {
        match tag {
            tag::CALL => call = Some(CallId(number(&value, "a call id has 16 bytes")?)),
            tag::ENDPOINT => endpoint = Some(take_name::<EndpointName>(&value)?),
            tag::MODE => mode = Some(mode_from(&value)?),
            tag::METHOD => method = Some(take_method(&value)?),
            tag::TARGET => target = Some(printable(value, MAX_TARGET, "a target")?),
            tag::HEADERS => headers = Some(take_headers(value)?),
            tag::BODY => body = Some(take_body(&value)?),
            tag::AUTHORITY => authority = Some(printable(value, 512, "an authority")?),
            tag::SOURCE => source = Some(take_source(&value)?),
            tag::TENANT => tenant = Some(take_name::<TenantName>(&value)?),
            tag::SUBJECT => {
                subject = Some(text(&value, MAX_SUBJECT, "a subject is not plain text")?)
            }
            tag::SCOPES => scopes = Some(take_scopes(&value)?),
            tag::PRINCIPAL => principal = Some(number::<10>(&value, "a principal has 10 bytes")?),
            _ => skip(tag)?,
        }
    }
    let missing = SessionError::Protocol("a call head lacks a field");
    let principal = principal.ok_or(missing.clone())?;
    let expires: [u8; 8] = number(&Bytes::copy_from_slice(&principal[2..]), "")?;
    Ok(CallHead {
        call: call.ok_or(missing.clone())?,
        endpoint: endpoint.ok_or(missing.clone())?,
        mode: mode.ok_or(missing.clone())?,
        method: method.ok_or(missing.clone())?,
        target: target.ok_or(missing.clone())?,
        headers: headers.ok_or(missing.clone())?,
        body: body.ok_or(missing.clone())?,
        authority: authority.ok_or(missing.clone())?,
        source,
        caller: Principal {
            tenant: tenant.ok_or(missing.clone())?,
            subject: subject.ok_or(missing.clone())?,
            scopes: scopes.ok_or(missing)?,
            kind: kind_from(principal[0])?,
            expires: u64::from_be_bytes(expires),
            proof: proof_from(principal[1])?,
        },
    })
}

/// Appends the payload of a HEAD frame.
pub fn encode_head(head: &Head, out: &mut BytesMut) {
    match head {
        Head::Interim(head) => put_response(out, kind::INTERIM, head),
        Head::Response(head) => put_response(out, kind::RESPONSE, head),
        Head::Trailers(headers) => {
            out.put_u8(kind::TRAILERS);
            put_headers(out, headers);
        }
        Head::Refusal(refusal) => {
            out.put_u8(kind::REFUSAL);
            put_field(out, tag::CODE, &refusal.code.number().to_be_bytes());
            put_field(out, tag::DETAIL, refusal.detail.as_bytes());
            if let Some(rule) = &refusal.rule {
                put_field(out, tag::RULE, rule.as_bytes());
            }
            if refusal.soap {
                put_field(out, tag::SOAP, &[]);
            }
        }
    }
}

/// Reads the payload of a HEAD frame.
pub fn decode_head(mut from: Bytes) -> Result<Head, SessionError> {
    if from.is_empty() {
        return malformed("a head is empty");
    }
    match from.get_u8() {
        kind::INTERIM => {
            let head = take_response(from)?;
            match head.status.as_u16() {
                100..=199 => Ok(Head::Interim(head)),
                _ => malformed("an interim head has a final status"),
            }
        }
        kind::RESPONSE => take_response(from).map(Head::Response),
        kind::TRAILERS => {
            let mut headers = None;
            while let Some((tag, value)) = take_field(&mut from)? {
                match tag {
                    tag::HEADERS => headers = Some(take_headers(value)?),
                    _ => skip(tag)?,
                }
            }
            headers
                .map(Head::Trailers)
                .ok_or(SessionError::Protocol("trailers lack headers"))
        }
        kind::REFUSAL => take_refusal(from).map(Head::Refusal),
        _ => malformed("a head of an unknown kind"),
    }
}

fn put_response(out: &mut BytesMut, kind: u8, head: &ResponseHead) {
    out.put_u8(kind);
    put_field(out, tag::STATUS, &head.status.as_u16().to_be_bytes());
    put_headers(out, &head.headers);
    put_body(out, head.body);
}

fn take_response(mut from: Bytes) -> Result<ResponseHead, SessionError> {
    let (mut status, mut headers, mut body) = (None, None, None);
    while let Some((tag, value)) = take_field(&mut from)? {
        match tag {
            tag::STATUS => {
                let number = u16::from_be_bytes(number(&value, "a status has two bytes")?);
                status = StatusCode::from_u16(number)
                    .ok()
                    .filter(|s| s.as_u16() < 600);
            }
            tag::HEADERS => headers = Some(take_headers(value)?),
            tag::BODY => body = Some(take_body(&value)?),
            _ => skip(tag)?,
        }
    }
    match (status, headers, body) {
        (Some(status), Some(headers), Some(body)) => Ok(ResponseHead {
            status,
            headers,
            body,
        }),
        _ => malformed("a response head lacks a field"),
    }
}

fn take_refusal(mut from: Bytes) -> Result<Refusal, SessionError> {
    let (mut code, mut detail, mut rule, mut soap) = (None, String::new(), None, false);
    while let Some((tag, value)) = take_field(&mut from)? {
        match tag {
            tag::CODE => {
                let number = u16::from_be_bytes(number(&value, "a code has two bytes")?);
                code = ErrorCode::from_number(number);
            }
            tag::DETAIL => detail = text(&value, MAX_REASON, "a detail is not plain text")?,
            tag::RULE => rule = Some(text(&value, MAX_REASON, "a rule id is not plain text")?),
            tag::SOAP => soap = true,
            _ => skip(tag)?,
        }
    }
    let code = code.ok_or(SessionError::Protocol("a refusal has no known code"))?;
    Ok(Refusal {
        code,
        detail,
        rule,
        soap,
    })
}

fn put_headers(out: &mut BytesMut, headers: &HeaderMap) {
    let length = headers
        .iter()
        .map(|(name, value)| encoded_length(name, value))
        .sum();
    out.put_u8(tag::HEADERS);
    put_length(out, length);
    for (name, value) in headers {
        match position_of(name) {
            Some(position) => out.put_u8(position),
            None => {
                out.put_u8(LITERAL);
                put_length(out, name.as_str().len());
                out.put_slice(name.as_str().as_bytes());
            }
        }
        out.put_u8(if value.is_sensitive() { SENSITIVE } else { 0 });
        put_length(out, value.len());
        out.put_slice(value.as_bytes());
    }
}

fn length_of_length(length: usize) -> usize {
    match length {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

fn encoded_length(name: &HeaderName, value: &HeaderValue) -> usize {
    let name = match position_of(name) {
        Some(_) => 1,
        None => 1 + length_of_length(name.as_str().len()) + name.as_str().len(),
    };
    name + 1 + length_of_length(value.len()) + value.len()
}

fn take_headers(mut from: Bytes) -> Result<HeaderMap, SessionError> {
    if from.len() > MAX_HEADER_BYTES {
        return malformed("headers are too long");
    }
    // A header takes at least three bytes: a peer cannot make us reserve more than it sent.
    let mut headers = HeaderMap::with_capacity((from.len() / 24).min(MAX_HEADERS));
    while !from.is_empty() {
        if headers.len() == MAX_HEADERS {
            return malformed("too many headers");
        }
        let name = match from.get_u8() {
            LITERAL => {
                let length = take_length(&mut from)?;
                let name = take_bytes(&mut from, length)?;
                HeaderName::from_lowercase(&name).or(malformed("a header name is not valid"))?
            }
            position => name_at(position).ok_or(SessionError::Protocol("an unknown header"))?,
        };
        let flags = take_bytes(&mut from, 1)?[0];
        let length = take_length(&mut from)?;
        let value = take_bytes(&mut from, length)?;
        let mut value =
            HeaderValue::from_maybe_shared(value).or(malformed("a header value is not valid"))?;
        value.set_sensitive(flags & SENSITIVE != 0);
        headers.append(name, value);
    }
    Ok(headers)
}

fn put_body(out: &mut BytesMut, body: BodyLength) {
    match body {
        BodyLength::Empty => put_field(out, tag::BODY, &[0]),
        BodyLength::Unknown => put_field(out, tag::BODY, &[1]),
        BodyLength::Exact(length) => {
            out.put_u8(tag::BODY);
            put_length(out, 9);
            out.put_u8(2);
            out.put_u64(length);
        }
    }
}

fn take_body(value: &Bytes) -> Result<BodyLength, SessionError> {
    match value.as_ref() {
        [0] => Ok(BodyLength::Empty),
        [1] => Ok(BodyLength::Unknown),
        [2, rest @ ..] => match rest.try_into() {
            Ok(length) => Ok(BodyLength::Exact(u64::from_be_bytes(length))),
            Err(_) => malformed("a body length has eight bytes"),
        },
        _ => malformed("an unknown body length"),
    }
}

fn skip(tag: u8) -> Result<(), SessionError> {
    if tag & 0x80 == 0 {
        malformed("an unknown field")
    } else {
        Ok(())
    }
}

fn take_name<T: std::str::FromStr>(value: &Bytes) -> Result<T, SessionError> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|name| name.parse().ok())
        .ok_or(SessionError::Protocol("a name is not valid"))
}

fn take_method(value: &Bytes) -> Result<Method, SessionError> {
    let upper = !value.is_empty()
        && value.len() <= 32
        && value.iter().all(|b| b.is_ascii_uppercase() || *b == b'-');
    match Method::from_bytes(value) {
        Ok(method) if upper => Ok(method),
        _ => malformed("a method is not valid"),
    }
}

fn printable(value: Bytes, max: usize, _what: &str) -> Result<Bytes, SessionError> {
    if value.len() <= max && value.iter().all(u8::is_ascii_graphic) {
        Ok(value)
    } else {
        malformed("a target or authority is too long or not printable")
    }
}

fn take_source(value: &Bytes) -> Result<std::net::IpAddr, SessionError> {
    if let Ok(v4) = <[u8; 4]>::try_from(value.as_ref()) {
        return Ok(v4.into());
    }
    number::<16>(value, "an address has 4 or 16 bytes").map(Into::into)
}

fn take_scopes(value: &Bytes) -> Result<Vec<String>, SessionError> {
    let scopes = text(value, 16 * 1024, "scopes are not plain text")?;
    let scopes: Vec<String> = scopes.split_whitespace().map(str::to_owned).collect();
    if scopes.len() > MAX_SCOPES {
        malformed("too many scopes")
    } else {
        Ok(scopes)
    }
}

/// The number of a mode on the wire.
pub(crate) fn mode_number(mode: Mode) -> u8 {
    match mode {
        Mode::Http => 0,
        Mode::Connect => 1,
        Mode::Terminate => 2,
        Mode::Tcp => 3,
    }
}

pub(crate) fn mode_from(value: &Bytes) -> Result<Mode, SessionError> {
    match value.as_ref() {
        [0] => Ok(Mode::Http),
        [1] => Ok(Mode::Connect),
        [2] => Ok(Mode::Terminate),
        [3] => Ok(Mode::Tcp),
        _ => malformed("an unknown mode"),
    }
}

fn kind_number(kind: PrincipalKind) -> u8 {
    match kind {
        PrincipalKind::Caller => 0,
        PrincipalKind::Agent => 1,
        PrincipalKind::Node => 2,
    }
}

fn kind_from(number: u8) -> Result<PrincipalKind, SessionError> {
    match number {
        0 => Ok(PrincipalKind::Caller),
        1 => Ok(PrincipalKind::Agent),
        2 => Ok(PrincipalKind::Node),
        _ => malformed("an unknown kind of principal"),
    }
}

fn proof_number(proof: Proof) -> u8 {
    match proof {
        Proof::Jwt => 0,
        Proof::Introspection => 1,
        Proof::Certificate => 2,
    }
}

fn proof_from(number: u8) -> Result<Proof, SessionError> {
    match number {
        0 => Ok(Proof::Jwt),
        1 => Ok(Proof::Introspection),
        2 => Ok(Proof::Certificate),
        _ => malformed("an unknown proof"),
    }
}
