//! Control messages on the wire.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::code::{ErrorCode, GoawayCode};
use crate::control::{Control, Hello, Offer, Registration};
use crate::frame::Kind;
use crate::heads::{mode_from, mode_number};
use crate::limits::{MAX_NAME_TEXT, MAX_OFFERS, MAX_REASON, MAX_TOKEN};
use crate::mux::SessionError;
use crate::wire::{malformed, number, put_field, take_field, text};

mod tag {
    pub(super) const VERSIONS: u8 = 0x01;
    pub(super) const FEATURES: u8 = 0x02;
    pub(super) const NAME: u8 = 0x03;
    pub(super) const INSTANCE: u8 = 0x04;
    pub(super) const SOFTWARE: u8 = 0x05;
    pub(super) const MAX_STREAMS: u8 = 0x06;
    pub(super) const WINDOW: u8 = 0x07;
    pub(super) const REQUEST: u8 = 0x10;
    pub(super) const ENTRY: u8 = 0x11;
    pub(super) const ENDPOINT: u8 = 0x12;
    pub(super) const MODE: u8 = 0x13;
    pub(super) const CONNECT: u8 = 0x14;
    pub(super) const REFUSED: u8 = 0x15;
    pub(super) const TOKEN: u8 = 0x20;
    pub(super) const CODE: u8 = 0x21;
    pub(super) const TEXT: u8 = 0x22;
}

fn skip(tag: u8) -> Result<(), SessionError> {
    if tag & 0x80 == 0 {
        malformed("an unknown field")
    } else {
        Ok(())
    }
}

fn u32_of(value: &Bytes) -> Result<u32, SessionError> {
    number(value, "a number has four bytes").map(u32::from_be_bytes)
}

/// Appends the payload of a HELLO.
pub fn encode_hello(hello: &Hello, out: &mut BytesMut) {
    let versions = u32::from(hello.min_version) << 16 | u32::from(hello.max_version);
    put_field(out, tag::VERSIONS, &versions.to_be_bytes());
    put_field(out, tag::FEATURES, &hello.features.to_be_bytes());
    put_field(out, tag::NAME, hello.name.as_bytes());
    put_field(out, tag::INSTANCE, &hello.instance);
    put_field(out, tag::SOFTWARE, hello.software.as_bytes());
    put_field(out, tag::MAX_STREAMS, &hello.max_streams.to_be_bytes());
    put_field(out, tag::WINDOW, &hello.initial_window.to_be_bytes());
}

/// Reads the payload of a HELLO. Fields of later versions are passed over, whatever their tag:
/// a greeting must be readable before a version is agreed on.
pub fn decode_hello(mut from: Bytes) -> Result<Hello, SessionError> {
    let (mut versions, mut features, mut name, mut instance) = (None, 0, None, None);
    let (mut software, mut max_streams, mut window) = (String::new(), None, None);
    while let Some((tag, value)) = take_field(&mut from)? {
        match tag {
            tag::VERSIONS => versions = Some(u32_of(&value)?),
            tag::FEATURES => features = u64::from_be_bytes(number(&value, "features")?),
            tag::NAME => name = Some(text(&value, MAX_NAME_TEXT, "a name is not plain text")?),
            tag::INSTANCE => instance = Some(number(&value, "an instance has 16 bytes")?),
            tag::SOFTWARE => software = text(&value, 64, "a version is not plain text")?,
            tag::MAX_STREAMS => max_streams = Some(u32_of(&value)?),
            tag::WINDOW => window = Some(u32_of(&value)?),
            _ => {}
        }
    }
    match (versions, name, instance, max_streams, window) {
        (Some(versions), Some(name), Some(instance), Some(max_streams), Some(window)) => {
            Ok(Hello {
                min_version: (versions >> 16) as u16,
                max_version: versions as u16,
                features,
                name,
                instance,
                software,
                max_streams,
                initial_window: window,
            })
        }
        _ => malformed("a greeting lacks a field"),
    }
}

/// Appends the payload of a control message and says its frame's kind.
pub fn encode_control(control: &Control, out: &mut BytesMut) -> Kind {
    match control {
        Control::Register { request, offers } => {
            put_field(out, tag::REQUEST, &request.to_be_bytes());
            for offer in offers {
                let mut entry = BytesMut::new();
                put_field(
                    &mut entry,
                    tag::ENDPOINT,
                    offer.endpoint.as_str().as_bytes(),
                );
                for mode in &offer.modes {
                    put_field(&mut entry, tag::MODE, &[mode_number(*mode)]);
                }
                for name in &offer.connect {
                    put_field(&mut entry, tag::CONNECT, name.as_bytes());
                }
                put_field(out, tag::ENTRY, &entry);
            }
            Kind::Register
        }
        Control::Registered { request, results } => {
            put_field(out, tag::REQUEST, &request.to_be_bytes());
            for result in results {
                let mut entry = BytesMut::new();
                put_field(
                    &mut entry,
                    tag::ENDPOINT,
                    result.endpoint.as_str().as_bytes(),
                );
                if let Some(reason) = &result.refused {
                    put_field(&mut entry, tag::REFUSED, reason.as_bytes());
                }
                put_field(out, tag::ENTRY, &entry);
            }
            Kind::Registered
        }
        Control::Auth { token } => {
            put_field(out, tag::TOKEN, token.as_bytes());
            Kind::Auth
        }
        Control::Notice { code, text } => {
            if let Some(code) = code {
                put_field(out, tag::CODE, &code.number().to_be_bytes());
            }
            put_field(out, tag::TEXT, text.as_bytes());
            Kind::Notice
        }
    }
}

/// Reads the payload of a control message of `kind`.
pub fn decode_control(kind: Kind, mut from: Bytes) -> Result<Control, SessionError> {
    let (mut request, mut entries, mut token) = (None, Vec::new(), None);
    let (mut code, mut words) = (None, None);
    while let Some((tag, value)) = take_field(&mut from)? {
        match tag {
            tag::REQUEST => request = Some(u32_of(&value)?),
            tag::ENTRY if entries.len() == MAX_OFFERS => return malformed("too many offers"),
            tag::ENTRY => entries.push(value),
            tag::TOKEN => token = Some(text(&value, MAX_TOKEN, "a token is not plain text")?),
            tag::CODE => {
                code = ErrorCode::from_number(u16::from_be_bytes(number(&value, "a code")?));
            }
            tag::TEXT => words = Some(text(&value, MAX_REASON, "a notice is not plain text")?),
            _ => skip(tag)?,
        }
    }
    let lacks = SessionError::Protocol("a control message lacks a field");
    match kind {
        Kind::Register => Ok(Control::Register {
            request: request.ok_or(lacks)?,
            offers: entries
                .into_iter()
                .map(take_offer)
                .collect::<Result<_, _>>()?,
        }),
        Kind::Registered => Ok(Control::Registered {
            request: request.ok_or(lacks)?,
            results: entries
                .into_iter()
                .map(take_registration)
                .collect::<Result<_, _>>()?,
        }),
        Kind::Auth => Ok(Control::Auth {
            token: token.ok_or(lacks)?,
        }),
        Kind::Notice => Ok(Control::Notice {
            code,
            text: words.ok_or(lacks)?,
        }),
        _ => malformed("not a control message"),
    }
}

fn take_endpoint<T: std::str::FromStr>(value: &Bytes) -> Result<T, SessionError> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|name| name.parse().ok())
        .ok_or(SessionError::Protocol("an endpoint's name is not valid"))
}

fn take_offer(mut from: Bytes) -> Result<Offer, SessionError> {
    let (mut endpoint, mut modes, mut connect) = (None, Vec::new(), Vec::new());
    while let Some((tag, value)) = take_field(&mut from)? {
        match tag {
            tag::ENDPOINT => endpoint = Some(take_endpoint(&value)?),
            tag::MODE if modes.len() < 4 => modes.push(mode_from(&value)?),
            tag::CONNECT if connect.len() < 64 => {
                connect.push(text(
                    &value,
                    MAX_NAME_TEXT,
                    "a connect name is not plain text",
                )?);
            }
            tag::MODE | tag::CONNECT => return malformed("an offer has too many entries"),
            _ => skip(tag)?,
        }
    }
    let endpoint = endpoint.ok_or(SessionError::Protocol("an offer names no endpoint"))?;
    Ok(Offer {
        endpoint,
        modes,
        connect,
    })
}

fn take_registration(mut from: Bytes) -> Result<Registration, SessionError> {
    let (mut endpoint, mut refused) = (None, None);
    while let Some((tag, value)) = take_field(&mut from)? {
        match tag {
            tag::ENDPOINT => endpoint = Some(take_endpoint(&value)?),
            tag::REFUSED => refused = Some(text(&value, MAX_REASON, "a reason is not plain text")?),
            _ => skip(tag)?,
        }
    }
    let endpoint = endpoint.ok_or(SessionError::Protocol("a result names no endpoint"))?;
    Ok(Registration { endpoint, refused })
}

/// What a GOAWAY says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goaway {
    /// Why.
    pub code: GoawayCode,
    /// The highest stream id of the receiver that the sender has looked at.
    pub last: u32,
    /// When to open a replacement, in milliseconds from now.
    pub retry_after: u32,
    /// Words for the log.
    pub reason: String,
}

/// Appends the payload of a GOAWAY.
pub fn encode_goaway(goaway: &Goaway, out: &mut BytesMut) {
    out.put_u32(goaway.code.number());
    out.put_u32(goaway.last);
    out.put_u32(goaway.retry_after);
    out.put_slice(goaway.reason.as_bytes());
}

/// Reads the payload of a GOAWAY.
pub fn decode_goaway(mut from: Bytes) -> Result<Goaway, SessionError> {
    if from.len() < 12 {
        return malformed("a GOAWAY is cut short");
    }
    let (code, last, retry_after) = (from.get_u32(), from.get_u32(), from.get_u32());
    let reason = text(&from, MAX_REASON, "a GOAWAY's reason is not plain text")?;
    Ok(Goaway {
        code: GoawayCode::from_number(code),
        last,
        retry_after,
        reason,
    })
}
