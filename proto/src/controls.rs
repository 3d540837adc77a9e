//! Control messages of a session on the wire: HELLO, REGISTER, REGISTERED, AUTH, NOTICE, GOAWAY.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::code::{ErrorCode, GoawayCode};
use crate::control::{Control, Hello, Lane, Offer, Registration, Slot};
use crate::frame::Kind;
use crate::heads::{mode_from, mode_number};
use crate::limits::{
    MAX_AUTHORITY, MAX_CONNECT_NAMES, MAX_CONTROL, MAX_OFFERS, MAX_PEER_NAME, MAX_REASON,
    MAX_REGISTERED_NAMES, MAX_SOFTWARE, MAX_TOKEN,
};
use crate::priority::Priority;
use crate::wire::{
    Fields, Malformed, Unencodable, array, malformed, name, pass_over, plain, put_field, put_text,
    text,
};

mod tag {
    // HELLO. VERSIONS never changes, in any version of the protocol.
    pub(super) const VERSIONS: u8 = 0x01;
    pub(super) const FEATURES: u8 = 0x02;
    pub(super) const NAME: u8 = 0x03;
    pub(super) const INSTANCE: u8 = 0x04;
    pub(super) const SOFTWARE: u8 = 0x05;
    pub(super) const MAX_STREAMS: u8 = 0x06;
    pub(super) const WINDOW: u8 = 0x07;
    pub(super) const LANE: u8 = 0x08;
    pub(super) const SLOT: u8 = 0x09;
    // REGISTER, REGISTERED.
    pub(super) const REQUEST: u8 = 0x01;
    pub(super) const ENTRY: u8 = 0x02;
    // An entry of them.
    pub(super) const ENDPOINT: u8 = 0x01;
    pub(super) const MODES: u8 = 0x02;
    pub(super) const CONNECT: u8 = 0x03;
    /// A receiver that does not know it serves the endpoint all the same.
    pub(super) const PRIORITY: u8 = 0x81;
    pub(super) const REFUSED: u8 = 0x02;
    // AUTH.
    pub(super) const TOKEN: u8 = 0x01;
    // NOTICE.
    pub(super) const CODE: u8 = 0x01;
    pub(super) const TEXT: u8 = 0x02;
}

fn u32_of(value: &Bytes) -> Result<u32, Malformed> {
    array(value, "a number that has not four bytes").map(u32::from_be_bytes)
}

/// Appends the payload of a HELLO. Texts that are too long are cut.
pub fn encode_hello(hello: &Hello, out: &mut BytesMut) {
    let versions = u32::from(hello.min_version) << 16 | u32::from(hello.max_version);
    put_field(out, tag::VERSIONS, &versions.to_be_bytes());
    put_field(out, tag::FEATURES, &hello.features.to_be_bytes());
    put_text(out, tag::NAME, &hello.name, MAX_PEER_NAME);
    put_field(out, tag::INSTANCE, &hello.instance);
    put_text(out, tag::SOFTWARE, &hello.software, MAX_SOFTWARE);
    put_field(out, tag::MAX_STREAMS, &hello.max_streams.to_be_bytes());
    put_field(out, tag::WINDOW, &hello.initial_window.to_be_bytes());
    if let Some(lane) = hello.lane {
        let (place, id) = match lane {
            Lane::First(id) => (0, id),
            Lane::Joins(id) => (1, id),
        };
        let mut value = [place; 17];
        value[1..].copy_from_slice(&id);
        put_field(out, tag::LANE, &value);
    }
    if let Some(slot) = hello.slot {
        put_field(out, tag::SLOT, &[slot.number, u8::from(slot.older_lives)]);
    }
}

fn lane_from(value: &Bytes) -> Result<Lane, Malformed> {
    let [place, id @ ..] = array::<17>(value, "a lane has 17 bytes")?;
    match place {
        0 => Ok(Lane::First(id)),
        1 => Ok(Lane::Joins(id)),
        _ => malformed("a lane that is neither the first nor one that joins"),
    }
}

fn slot_from(value: &Bytes) -> Result<Slot, Malformed> {
    let [number, older] = array(value, "a slot has two bytes")?;
    match older {
        0 | 1 => Ok(Slot {
            number,
            older_lives: older == 1,
        }),
        _ => malformed("a slot whose older session neither lives nor does not"),
    }
}

/// Reads the lowest and highest version of a HELLO, whatever version it is of.
pub fn decode_versions(from: Bytes) -> Result<(u16, u16), Malformed> {
    match Fields::new(from).take()? {
        Some((tag::VERSIONS, value)) => {
            let versions = u32_of(&value)?;
            let (min, max) = ((versions >> 16) as u16, versions as u16);
            if min > max {
                malformed("a version range that is empty")
            } else {
                Ok((min, max))
            }
        }
        _ => malformed("a greeting that does not begin with versions"),
    }
}

/// Reads the payload of a HELLO of this version. Fields of later ones are passed over, whatever
/// their tag: a greeting is sent before a version is agreed on.
pub fn decode_hello(from: Bytes) -> Result<Hello, Malformed> {
    let (min_version, max_version) = decode_versions(from.clone())?;
    let (mut features, mut name, mut instance, mut software) = (0, None, None, String::new());
    let (mut max_streams, mut window, mut lane, mut slot) = (None, None, None, None);
    let mut fields = Fields::new(from);
    while let Some((tag, value)) = fields.take()? {
        match tag {
            tag::FEATURES => features = u64::from_be_bytes(array(&value, "features are 8 bytes")?),
            tag::NAME => name = Some(text(&value, MAX_PEER_NAME, "a peer's name is plain text")?),
            tag::INSTANCE => instance = Some(array(&value, "an instance has 16 bytes")?),
            tag::SOFTWARE => software = text(&value, MAX_SOFTWARE, "a software is plain text")?,
            tag::MAX_STREAMS => max_streams = Some(u32_of(&value)?),
            tag::WINDOW => window = Some(u32_of(&value)?),
            tag::LANE => lane = Some(lane_from(&value)?),
            tag::SLOT => slot = Some(slot_from(&value)?),
            _ => {}
        }
    }
    const MISSING: Malformed = Malformed("a greeting lacks a field");
    Ok(Hello {
        min_version,
        max_version,
        features,
        name: name.ok_or(MISSING)?,
        instance: instance.ok_or(MISSING)?,
        software,
        max_streams: max_streams.ok_or(MISSING)?,
        initial_window: window.ok_or(MISSING)?,
        lane,
        slot,
    })
}

/// Appends the payload of a control message, if it is within the limits of [`crate::limits`],
/// and says its frame's kind. A notice's text and a refusal's reason are cut to them.
pub fn encode_control(control: &Control, out: &mut BytesMut) -> Result<Kind, Unencodable> {
    let start = out.len();
    let kind = match control {
        Control::Register { request, offers } => {
            if offers.len() > MAX_OFFERS {
                return Err(Unencodable("too many offers"));
            }
            if names_of(offers) > MAX_REGISTERED_NAMES {
                return Err(Unencodable("too many names to connect to"));
            }
            put_field(out, tag::REQUEST, &request.to_be_bytes());
            for offer in offers {
                put_field(out, tag::ENTRY, &encode_offer(offer)?);
            }
            Kind::Register
        }
        Control::Registered { request, results } => {
            if results.len() > MAX_OFFERS {
                return Err(Unencodable("too many results"));
            }
            put_field(out, tag::REQUEST, &request.to_be_bytes());
            // The reasons share what the frame has room for.
            let reason = (MAX_CONTROL / 2 / results.len().max(1)).min(MAX_REASON);
            for result in results {
                let mut entry = BytesMut::new();
                put_field(
                    &mut entry,
                    tag::ENDPOINT,
                    result.endpoint.as_str().as_bytes(),
                );
                if let Some(refused) = &result.refused {
                    put_text(&mut entry, tag::REFUSED, refused, reason);
                }
                put_field(out, tag::ENTRY, &entry);
            }
            Kind::Registered
        }
        Control::Auth { token } => {
            if token.len() > MAX_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(Unencodable("a token that is too long or not printable"));
            }
            put_field(out, tag::TOKEN, token.as_bytes());
            Kind::Auth
        }
        Control::Notice { code, text } => {
            if let Some(code) = code {
                put_field(out, tag::CODE, &code.number().to_be_bytes());
            }
            put_text(out, tag::TEXT, text, MAX_REASON);
            Kind::Notice
        }
    };
    if out.len() - start > MAX_CONTROL {
        return Err(Unencodable("a control message that is too long"));
    }
    Ok(kind)
}

/// Reads the payload of a control message of `kind`.
pub fn decode_control(kind: Kind, from: Bytes) -> Result<Control, Malformed> {
    match kind {
        Kind::Register => {
            let (request, offers) = take_entries(from, take_offer)?;
            if names_of(&offers) > MAX_REGISTERED_NAMES {
                return malformed("too many names to connect to");
            }
            Ok(Control::Register { request, offers })
        }
        Kind::Registered => {
            let (request, results) = take_entries(from, take_registration)?;
            Ok(Control::Registered { request, results })
        }
        Kind::Auth => take_auth(from),
        Kind::Notice => take_notice(from),
        _ => malformed("not a control message"),
    }
}

fn take_entries<T>(
    from: Bytes,
    take: fn(Bytes) -> Result<T, Malformed>,
) -> Result<(u32, Vec<T>), Malformed> {
    let (mut request, mut entries) = (None, Vec::new());
    let mut fields = Fields::with_repeated(from, &[tag::ENTRY]);
    while let Some((tag, value)) = fields.take()? {
        match tag {
            tag::REQUEST => request = Some(u32_of(&value)?),
            tag::ENTRY if entries.len() < MAX_OFFERS => entries.push(take(value)?),
            tag::ENTRY => return malformed("too many offers or results"),
            _ => pass_over(tag)?,
        }
    }
    Ok((
        request.ok_or(Malformed("a request without a number"))?,
        entries,
    ))
}

/// Names to connect to, of all offers together.
fn names_of(offers: &[Offer]) -> usize {
    offers.iter().map(|offer| offer.connect.len()).sum()
}

fn encode_offer(offer: &Offer) -> Result<BytesMut, Unencodable> {
    let mut entry = BytesMut::new();
    put_field(
        &mut entry,
        tag::ENDPOINT,
        offer.endpoint.as_str().as_bytes(),
    );
    let mut modes = [0; 4];
    let modes = modes
        .get_mut(..offer.modes.len())
        .ok_or(Unencodable("too many modes"))?;
    for (number, mode) in modes.iter_mut().zip(&offer.modes) {
        *number = mode_number(*mode);
    }
    put_field(&mut entry, tag::MODES, modes);
    if offer.connect.len() > MAX_CONNECT_NAMES {
        return Err(Unencodable("too many names to connect to"));
    }
    for name in &offer.connect {
        if !is_connect_name(name.as_bytes()) {
            return Err(Unencodable(
                "a name to connect to that is too long or not printable",
            ));
        }
        put_field(&mut entry, tag::CONNECT, name.as_bytes());
    }
    if let Some(priority) = offer.priority {
        put_field(&mut entry, tag::PRIORITY, &[priority.number()]);
    }
    Ok(entry)
}

fn is_connect_name(name: &[u8]) -> bool {
    (1..=MAX_AUTHORITY).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic)
}

fn take_offer(from: Bytes) -> Result<Offer, Malformed> {
    let (mut endpoint, mut modes, mut connect, mut priority) = (None, None, Vec::new(), None);
    let mut fields = Fields::with_repeated(from, &[tag::CONNECT]);
    while let Some((tag, value)) = fields.take()? {
        match tag {
            tag::ENDPOINT => endpoint = Some(name(&value)?),
            tag::MODES if value.len() <= 4 => {
                modes = Some(value.chunks(1).map(mode_from).collect::<Result<_, _>>()?);
            }
            tag::MODES => return malformed("an offer with too many modes"),
            tag::CONNECT if connect.len() < MAX_CONNECT_NAMES && is_connect_name(&value) => {
                connect.push(text(
                    &value,
                    MAX_AUTHORITY,
                    "a name to connect to is plain text",
                )?);
            }
            tag::CONNECT => return malformed("too many names to connect to, or one that is none"),
            // A class of a later version is none: its streams earn theirs.
            tag::PRIORITY => {
                let [number] = array(&value, "a priority has one byte")?;
                priority = Priority::from_number(number);
            }
            _ => pass_over(tag)?,
        }
    }
    let endpoint = endpoint.ok_or(Malformed("an offer without an endpoint"))?;
    Ok(Offer {
        endpoint,
        modes: modes.ok_or(Malformed("an offer without modes"))?,
        connect,
        priority,
    })
}

fn take_registration(from: Bytes) -> Result<Registration, Malformed> {
    let (mut endpoint, mut refused) = (None, None);
    let mut fields = Fields::new(from);
    while let Some((tag, value)) = fields.take()? {
        match tag {
            tag::ENDPOINT => endpoint = Some(name(&value)?),
            tag::REFUSED => refused = Some(text(&value, MAX_REASON, "a reason is plain text")?),
            _ => pass_over(tag)?,
        }
    }
    let endpoint = endpoint.ok_or(Malformed("a result without an endpoint"))?;
    Ok(Registration { endpoint, refused })
}

fn take_auth(from: Bytes) -> Result<Control, Malformed> {
    const WHAT: &str = "a token that is too long or not printable";
    let mut token = None;
    let mut fields = Fields::new(from);
    while let Some((tag, value)) = fields.take()? {
        match tag {
            tag::TOKEN if value.iter().all(u8::is_ascii_graphic) => {
                token = Some(text(&value, MAX_TOKEN, WHAT)?);
            }
            tag::TOKEN => return malformed(WHAT),
            _ => pass_over(tag)?,
        }
    }
    Ok(Control::Auth {
        token: token.ok_or(Malformed("AUTH without a token"))?,
    })
}

fn take_notice(from: Bytes) -> Result<Control, Malformed> {
    let (mut code, mut words) = (None, None);
    let mut fields = Fields::new(from);
    while let Some((tag, value)) = fields.take()? {
        match tag {
            // A code of a later version is none: the text says it.
            tag::CODE => {
                let number = u16::from_be_bytes(array(&value, "a code has two bytes")?);
                code = ErrorCode::from_number(number);
            }
            tag::TEXT => words = Some(text(&value, MAX_REASON, "a notice is plain text")?),
            _ => pass_over(tag)?,
        }
    }
    Ok(Control::Notice {
        code,
        text: words.ok_or(Malformed("a notice without text"))?,
    })
}

/// What a GOAWAY says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goaway {
    /// Why.
    pub code: GoawayCode,
    /// The highest id of the receiver's streams that the sender looked at; 0 for none.
    pub last: u32,
    /// When the receiver may come back, in milliseconds.
    pub retry_after: u32,
    /// Words for the log; at most [`MAX_REASON`] bytes.
    pub reason: String,
}

/// Appends the payload of a GOAWAY. A reason that is too long is cut.
pub fn encode_goaway(goaway: &Goaway, out: &mut BytesMut) {
    out.put_u32(goaway.code.number());
    out.put_u32(goaway.last);
    out.put_u32(goaway.retry_after);
    out.put_slice(plain(&goaway.reason, MAX_REASON).as_bytes());
}

/// Reads the payload of a GOAWAY.
pub fn decode_goaway(mut from: Bytes) -> Result<Goaway, Malformed> {
    if from.len() < 12 {
        return malformed("a GOAWAY that is cut short");
    }
    let (code, last, retry_after) = (from.get_u32(), from.get_u32(), from.get_u32());
    let reason = text(&from, MAX_REASON, "a reason is plain text")?;
    Ok(Goaway {
        code: GoawayCode::from_number(code),
        last,
        retry_after,
        reason,
    })
}

#[cfg(test)]
mod tests;
