//! Heads on the wire: fields, see [`crate::head`] for what they mean.

use std::net::IpAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};

use crate::code::ErrorCode;
use crate::head::{BodyLength, CallHead, CallId, CallerToken, Head, Mode, Refusal, ResponseHead};
use crate::headers::{put_headers, take_headers};
use crate::limits::{
    MAX_AUTHORITY, MAX_METHOD, MAX_PHRASE, MAX_PROOF, MAX_REASON, MAX_RULE, MAX_SCOPE_BYTES,
    MAX_SCOPES, MAX_SUBJECT, MAX_TARGET, MAX_TOKEN, MAX_UPGRADE,
};
use crate::principal::{Principal, PrincipalKind, Proof};
use crate::wire::{
    Fields, Malformed, Unencodable, array, malformed, name, pass_over, put_field, put_text, text,
};

mod tag {
    //! Fields of a call head.
    pub(super) const CALL: u8 = 0x01;
    pub(super) const ENDPOINT: u8 = 0x02;
    pub(super) const MODE: u8 = 0x03;
    pub(super) const METHOD: u8 = 0x04;
    pub(super) const TARGET: u8 = 0x05;
    pub(super) const AUTHORITY: u8 = 0x06;
    pub(super) const SOURCE: u8 = 0x07;
    pub(super) const TENANT: u8 = 0x08;
    pub(super) const SUBJECT: u8 = 0x09;
    pub(super) const SCOPES: u8 = 0x0a;
    pub(super) const PROOF: u8 = 0x0b;
    pub(super) const EXPIRES: u8 = 0x0c;
    pub(super) const UPGRADE: u8 = 0x0d;
    // Fields of a call head and of answers.
    pub(super) const BODY: u8 = 0x10;
    pub(super) const HEADERS: u8 = 0x11;
    // Of a call head again, for peers that ask for them.
    pub(super) const TOKEN: u8 = 0x81;
    pub(super) const TOKEN_PROOF: u8 = 0x82;
    // Fields of answers.
    pub(super) const STATUS: u8 = 0x01;
    pub(super) const CODE: u8 = 0x01;
    pub(super) const DETAIL: u8 = 0x02;
    pub(super) const RULE: u8 = 0x03;
    pub(super) const SOAP: u8 = 0x04;
    // Older peers pass over it.
    pub(super) const PHRASE: u8 = 0x81;
}

mod kind {
    //! The first byte of a HEAD.
    pub(super) const INTERIM: u8 = 1;
    pub(super) const RESPONSE: u8 = 2;
    pub(super) const REFUSAL: u8 = 3;
    pub(super) const TRAILERS: u8 = 4;
    pub(super) const TAKEN: u8 = 5;
}

/// Appends a call head, if it is within the limits of [`crate::limits`]. What it appended before
/// it noticed that it is not is of no use.
pub fn encode_call(head: &CallHead, out: &mut BytesMut) -> Result<(), Unencodable> {
    encode_call_without_token(head, out)?;
    head.token
        .as_ref()
        .map_or(Ok(()), |token| put_token(out, token))
}

/// Like [`encode_call`], for a peer that is not to have the caller's token.
pub fn encode_call_without_token(head: &CallHead, out: &mut BytesMut) -> Result<(), Unencodable> {
    let caller = &head.caller;
    if !is_method(head.method.as_str().as_bytes()) {
        return Err(Unencodable("a method that is not one"));
    }
    if !is_target(&head.target) || !is_printable(&head.authority, MAX_AUTHORITY) {
        return Err(Unencodable(
            "a target or authority that is too long or not printable",
        ));
    }
    if caller.subject.len() > MAX_SUBJECT || caller.subject.chars().any(char::is_control) {
        return Err(Unencodable("a subject that is too long or not plain text"));
    }
    let scopes = caller.scopes.join(" ");
    let words = caller.scopes.iter().all(|scope| is_scope(scope));
    if !words || caller.scopes.len() > MAX_SCOPES || scopes.len() > MAX_SCOPE_BYTES {
        return Err(Unencodable("too many scopes, or ones that are not words"));
    }
    put_field(out, tag::CALL, &head.call.0);
    put_field(out, tag::ENDPOINT, head.endpoint.as_str().as_bytes());
    put_field(out, tag::MODE, &[mode_number(head.mode)]);
    put_field(out, tag::METHOD, head.method.as_str().as_bytes());
    put_field(out, tag::TARGET, &head.target);
    put_field(out, tag::AUTHORITY, &head.authority);
    match head.source {
        Some(IpAddr::V4(ip)) => put_field(out, tag::SOURCE, &ip.octets()),
        Some(IpAddr::V6(ip)) => put_field(out, tag::SOURCE, &ip.octets()),
        None => {}
    }
    put_field(out, tag::TENANT, caller.tenant.as_str().as_bytes());
    put_field(out, tag::SUBJECT, caller.subject.as_bytes());
    put_field(out, tag::SCOPES, scopes.as_bytes());
    put_field(
        out,
        tag::PROOF,
        &[kind_number(caller.kind), proof_number(caller.proof)],
    );
    put_field(out, tag::EXPIRES, &caller.expires.to_be_bytes());
    if let Some(upgrade) = &head.upgrade {
        if !is_upgrade(upgrade.as_bytes()) {
            return Err(Unencodable("a protocol to switch to that is not one"));
        }
        put_field(out, tag::UPGRADE, upgrade.as_bytes());
    }
    put_body(out, head.body);
    put_headers(out, tag::HEADERS, &head.headers)
}

fn put_token(out: &mut BytesMut, token: &CallerToken) -> Result<(), Unencodable> {
    let proof = token.proof.as_deref().unwrap_or_default();
    if !is_printable(&token.token, MAX_TOKEN) || !is_printable(proof, MAX_PROOF) {
        return Err(Unencodable(
            "a token or proof that is too long or not printable",
        ));
    }
    put_field(out, tag::TOKEN, &token.token);
    if let Some(proof) = &token.proof {
        put_field(out, tag::TOKEN_PROOF, proof);
    }
    Ok(())
}

/// Reads a call head; `from` holds nothing else.
pub fn decode_call(from: Bytes) -> Result<CallHead, Malformed> {
    let (mut call, mut endpoint, mut mode, mut method, mut target) = (None, None, None, None, None);
    let (mut authority, mut source, mut tenant, mut subject) = (None, None, None, None);
    let (mut scopes, mut proof, mut expires, mut upgrade) = (None, None, None, None);
    let (mut body, mut headers) = (BodyLength::Unknown, HeaderMap::new());
    let mut token: Option<CallerToken> = None;
    let mut fields = Fields::new(from);
    while let Some((tag, value)) = fields.take()? {
        match tag {
            tag::CALL => call = Some(CallId(array(&value, "a call id has 16 bytes")?)),
            tag::ENDPOINT => endpoint = Some(name(&value)?),
            tag::MODE => mode = Some(mode_from(&value)?),
            tag::METHOD => method = Some(take_method(&value)?),
            tag::TARGET if is_target(&value) => target = Some(value),
            tag::TARGET => return malformed("a target that is too long or not printable"),
            tag::AUTHORITY if is_printable(&value, MAX_AUTHORITY) => authority = Some(value),
            tag::AUTHORITY => return malformed("an authority that is too long or not printable"),
            tag::SOURCE => source = Some(take_source(&value)?),
            tag::TENANT => tenant = Some(name(&value)?),
            tag::SUBJECT => subject = Some(text(&value, MAX_SUBJECT, "a subject is plain text")?),
            tag::SCOPES => scopes = Some(take_scopes(&value)?),
            tag::PROOF => proof = Some(take_proof(&value)?),
            tag::EXPIRES => {
                expires = Some(u64::from_be_bytes(array(&value, "an expiry has 8 bytes")?));
            }
            tag::UPGRADE => upgrade = Some(take_upgrade(&value)?),
            tag::BODY => body = take_body(&value)?,
            tag::HEADERS => headers = take_headers(value)?,
            tag::TOKEN if is_printable(&value, MAX_TOKEN) => {
                token = Some(CallerToken {
                    token: value,
                    proof: None,
                });
            }
            tag::TOKEN_PROOF if is_printable(&value, MAX_PROOF) => match &mut token {
                Some(token) => token.proof = Some(value),
                None => return malformed("a proof without the token that it is for"),
            },
            tag::TOKEN | tag::TOKEN_PROOF => {
                return malformed("a token or proof that is too long or not printable");
            }
            _ => pass_over(tag)?,
        }
    }
    const MISSING: Malformed = Malformed("a call head lacks a field");
    let (kind, proof) = proof.ok_or(MISSING)?;
    Ok(CallHead {
        call: call.ok_or(MISSING)?,
        endpoint: endpoint.ok_or(MISSING)?,
        mode: mode.ok_or(MISSING)?,
        method: method.ok_or(MISSING)?,
        target: target.ok_or(MISSING)?,
        headers,
        body,
        upgrade,
        authority: authority.ok_or(MISSING)?,
        source,
        caller: Principal {
            tenant: tenant.ok_or(MISSING)?,
            subject: subject.ok_or(MISSING)?,
            scopes: scopes.ok_or(MISSING)?,
            kind,
            expires: expires.ok_or(MISSING)?,
            proof,
        },
        token,
    })
}

/// Appends the payload of a HEAD frame, if it is within the limits of [`crate::limits`]. A
/// refusal's texts are cut to them.
pub fn encode_head(head: &Head, out: &mut BytesMut) -> Result<(), Unencodable> {
    match head {
        Head::Taken => {
            out.put_u8(kind::TAKEN);
            Ok(())
        }
        Head::Interim(head) if is_interim(head.status) => put_response(out, kind::INTERIM, head),
        Head::Response(head) if is_status(head.status) => put_response(out, kind::RESPONSE, head),
        Head::Interim(_) | Head::Response(_) => Err(Unencodable("a status where it cannot be")),
        Head::Trailers(headers) => {
            out.put_u8(kind::TRAILERS);
            put_headers(out, tag::HEADERS, headers)
        }
        Head::Refusal(refusal) => {
            out.put_u8(kind::REFUSAL);
            put_field(out, tag::CODE, &refusal.code.number().to_be_bytes());
            put_text(out, tag::DETAIL, &refusal.detail, MAX_REASON);
            if let Some(rule) = &refusal.rule {
                put_text(out, tag::RULE, rule, MAX_RULE);
            }
            if refusal.soap {
                put_field(out, tag::SOAP, &[]);
            }
            Ok(())
        }
    }
}

/// Reads the payload of a HEAD frame.
pub fn decode_head(mut from: Bytes) -> Result<Head, Malformed> {
    if from.is_empty() {
        return malformed("a head without a kind");
    }
    match from.get_u8() {
        kind::INTERIM => match take_response(from)? {
            head if is_interim(head.status) => Ok(Head::Interim(head)),
            _ => malformed("an interim head with a final status"),
        },
        kind::RESPONSE => take_response(from).map(Head::Response),
        kind::REFUSAL => take_refusal(from).map(Head::Refusal),
        kind::TRAILERS => take_trailers(from).map(Head::Trailers),
        kind::TAKEN => take_nothing(from).map(|()| Head::Taken),
        _ => malformed("a head of an unknown kind"),
    }
}

/// Any 1xx but 101, which ends the exchange of heads.
fn is_interim(status: StatusCode) -> bool {
    matches!(status.as_u16(), 100 | 102..=199)
}

/// Any status that HTTP has; whether an answer of it makes sense is for others to judge.
fn is_status(status: StatusCode) -> bool {
    status.as_u16() < 600
}

fn put_response(out: &mut BytesMut, kind: u8, head: &ResponseHead) -> Result<(), Unencodable> {
    out.put_u8(kind);
    put_field(out, tag::STATUS, &head.status.as_u16().to_be_bytes());
    put_body(out, head.body);
    put_headers(out, tag::HEADERS, &head.headers)?;
    if let Some(phrase) = &head.phrase {
        if !is_phrase(phrase) {
            return Err(Unencodable(NO_PHRASE));
        }
        put_field(out, tag::PHRASE, phrase);
    }
    Ok(())
}

const NO_PHRASE: &str = "a phrase beside a status that is too long or not plain ASCII";

/// Whether a head takes this phrase. HTTP would let bytes pass that are not ASCII: what they mean is anybody's
/// guess.
pub fn is_phrase(phrase: &[u8]) -> bool {
    let legal = |b: &u8| b.is_ascii_graphic() || matches!(b, b' ' | b'\t');
    (1..=MAX_PHRASE).contains(&phrase.len()) && phrase.iter().all(legal)
}

fn take_response(from: Bytes) -> Result<ResponseHead, Malformed> {
    let (mut status, mut body, mut headers) = (None, BodyLength::Unknown, HeaderMap::new());
    let mut phrase = None;
    let mut fields = Fields::new(from);
    while let Some((tag, value)) = fields.take()? {
        match tag {
            tag::STATUS => {
                let number = u16::from_be_bytes(array(&value, "a status has two bytes")?);
                status = StatusCode::from_u16(number)
                    .ok()
                    .filter(|status| is_status(*status));
            }
            tag::BODY => body = take_body(&value)?,
            tag::HEADERS => headers = take_headers(value)?,
            tag::PHRASE if is_phrase(&value) => phrase = Some(value),
            tag::PHRASE => return malformed(NO_PHRASE),
            _ => pass_over(tag)?,
        }
    }
    let status = status.ok_or(Malformed("a response head without a status that is one"))?;
    Ok(ResponseHead {
        status,
        phrase,
        headers,
        body,
    })
}

fn take_trailers(from: Bytes) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::new();
    let mut fields = Fields::new(from);
    while let Some((tag, value)) = fields.take()? {
        match tag {
            tag::HEADERS => headers = take_headers(value)?,
            _ => pass_over(tag)?,
        }
    }
    Ok(headers)
}

/// Fields that a later version may add.
fn take_nothing(from: Bytes) -> Result<(), Malformed> {
    let mut fields = Fields::new(from);
    while let Some((tag, _)) = fields.take()? {
        pass_over(tag)?;
    }
    Ok(())
}

fn take_refusal(from: Bytes) -> Result<Refusal, Malformed> {
    let (mut code, mut detail, mut rule, mut soap) = (None, None, None, false);
    let mut fields = Fields::new(from);
    while let Some((tag, value)) = fields.take()? {
        match tag {
            tag::CODE => {
                let number = u16::from_be_bytes(array(&value, "a code has two bytes")?);
                code = ErrorCode::from_number(number);
            }
            tag::DETAIL => detail = Some(text(&value, MAX_REASON, "a detail is plain text")?),
            tag::RULE => rule = Some(text(&value, MAX_RULE, "a rule id is plain text")?),
            tag::SOAP if value.is_empty() => soap = true,
            _ => pass_over(tag)?,
        }
    }
    match (code, detail) {
        (Some(code), Some(detail)) => Ok(Refusal {
            code,
            detail,
            rule,
            soap,
        }),
        _ => malformed("a refusal without a known code, or without a detail"),
    }
}

/// A body of unknown length is not mentioned.
fn put_body(out: &mut BytesMut, body: BodyLength) {
    match body {
        BodyLength::Unknown => {}
        BodyLength::Empty => put_field(out, tag::BODY, &[]),
        BodyLength::Exact(length) => put_field(out, tag::BODY, &length.to_be_bytes()),
    }
}

fn take_body(value: &Bytes) -> Result<BodyLength, Malformed> {
    if value.is_empty() {
        return Ok(BodyLength::Empty);
    }
    array(value, "a body's length has eight bytes")
        .map(|length| BodyLength::Exact(u64::from_be_bytes(length)))
}

/// Whether a head takes this method. Upper case: HTTP methods are case-sensitive, and every registered
/// one is spelled like this.
pub fn is_method(method: &[u8]) -> bool {
    (1..=MAX_METHOD).contains(&method.len())
        && method.iter().all(|b| b.is_ascii_uppercase() || *b == b'-')
}

fn take_method(value: &Bytes) -> Result<Method, Malformed> {
    match Method::from_bytes(value) {
        Ok(method) if is_method(value) => Ok(method),
        _ => malformed("a method that is not one"),
    }
}

fn is_printable(text: &[u8], most: usize) -> bool {
    text.len() <= most && text.iter().all(u8::is_ascii_graphic)
}

/// What a target means is for others to judge.
fn is_target(target: &[u8]) -> bool {
    is_printable(target, MAX_TARGET)
}

/// Lower case, so that it has one spelling: names of protocols are compared without regard to it.
fn is_upgrade(protocol: &[u8]) -> bool {
    let legal =
        |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~/".contains(b);
    (1..=MAX_UPGRADE).contains(&protocol.len()) && protocol.iter().all(legal)
}

fn take_upgrade(value: &Bytes) -> Result<String, Malformed> {
    const WHAT: &str = "a protocol to switch to that is not one";
    if !is_upgrade(value) {
        return malformed(WHAT);
    }
    text(value, MAX_UPGRADE, WHAT)
}

fn take_source(value: &Bytes) -> Result<IpAddr, Malformed> {
    if let Ok(v4) = <[u8; 4]>::try_from(value.as_ref()) {
        return Ok(v4.into());
    }
    array::<16>(value, "an address has 4 or 16 bytes").map(Into::into)
}

fn is_scope(scope: &str) -> bool {
    !scope.is_empty() && scope.bytes().all(|b| b.is_ascii_graphic())
}

fn take_scopes(value: &Bytes) -> Result<Vec<String>, Malformed> {
    const WHAT: &str = "too many scopes, or ones that are not words";
    let scopes = text(value, MAX_SCOPE_BYTES, WHAT)?;
    if scopes.is_empty() {
        return Ok(Vec::new());
    }
    let words: Vec<&str> = scopes.splitn(MAX_SCOPES + 1, ' ').collect();
    if words.len() > MAX_SCOPES || !words.iter().all(|word| is_scope(word)) {
        return malformed(WHAT);
    }
    Ok(words.into_iter().map(str::to_owned).collect())
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

/// The mode of a number on the wire.
pub(crate) fn mode_from(value: &[u8]) -> Result<Mode, Malformed> {
    match value {
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

fn proof_number(proof: Proof) -> u8 {
    match proof {
        Proof::Jwt => 0,
        Proof::Introspection => 1,
        Proof::Certificate => 2,
    }
}

fn take_proof(value: &Bytes) -> Result<(PrincipalKind, Proof), Malformed> {
    let [kind, proof] = array(value, "a proof has two bytes")?;
    let kind = match kind {
        0 => PrincipalKind::Caller,
        1 => PrincipalKind::Agent,
        2 => PrincipalKind::Node,
        _ => return malformed("an unknown kind of principal"),
    };
    match proof {
        0 => Ok((kind, Proof::Jwt)),
        1 => Ok((kind, Proof::Introspection)),
        2 => Ok((kind, Proof::Certificate)),
        _ => malformed("an unknown proof"),
    }
}

#[cfg(test)]
mod tests;
