//! WebSocket framing (RFC 6455, section 5), as far as a session needs it: binary messages, whole
//! or in fragments, ping, pong and close.
//!
//! Written here and not taken from a library because a session lives in it: messages are slices
//! of the buffer they were read into, a batch gets its header in place, and an idle connection
//! holds nothing (`docs/adr/0002-own-websocket-framing.md` has the measurements).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-------+-+-------------+-------------------------------+
//! |F|R|R|R| opcode|M| length (7)  |  length (16 or 64, if 126, 127)
//! |I|S|S|S|  (4)  |A|             |                               |
//! |N|V|V|V|       |S|             |  mask (32, if MASK)           |
//! |1|1|2|3|       |K|             |  payload                      |
//! ```

use bytes::{Buf, Bytes, BytesMut};

use crate::mux::Side;

/// Most bytes that the header of a frame takes.
pub const MAX_HEADER: usize = 14;

/// Longest payload of a ping, pong or close (RFC 6455, 5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;

/// Most fragments of one message. Peers of ours send none; what lies between may split a message
/// into pieces of a kilobyte, but not into crumbs without end.
pub const MAX_FRAGMENTS: u32 = 1024;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASK: u8 = 0x80;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// A rule of WebSocket that the peer broke, or something that a session does not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Bits that belong to extensions (compression); none was agreed on.
    #[error("a frame with reserved bits: no extension was agreed on")]
    Reserved,
    /// An opcode that RFC 6455 does not have.
    #[error("a frame of the unknown opcode {0:#x}")]
    Opcode(u8),
    /// A text message.
    #[error("a text message; sessions send binary ones")]
    Text,
    /// A frame of a dialer that is not masked, or one of an acceptor that is.
    #[error("a frame that is not masked as its sender must")]
    Mask,
    /// A ping, pong or close in fragments, or longer than 125 bytes.
    #[error("a control frame in fragments or over 125 bytes")]
    Control,
    /// A length in more bytes than it needs, or beyond 2^63.
    #[error("a length that is not in its shortest form")]
    Length,
    /// A message over the limit; so many bytes at least.
    #[error("a message of {0} bytes")]
    TooLong(u64),
    /// A continuation of nothing, or a new message within one.
    #[error("fragments out of order")]
    Order,
    /// More than [`MAX_FRAGMENTS`].
    #[error("a message in more than {MAX_FRAGMENTS} fragments")]
    Fragments,
    /// A close with half a code.
    #[error("a close that is malformed")]
    Close,
}

/// What came from the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A binary message.
    Message(Bytes),
    /// Wants a pong with the same payload.
    Ping(Bytes),
    /// Answers a ping, or nothing.
    Pong,
    /// The peer sends nothing more.
    Close,
}

/// What a frame of ours is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// A whole binary message.
    Binary,
    /// Nothing more follows.
    Close,
    /// Asks for a pong.
    Ping,
    /// Answers a ping.
    Pong,
}

impl Opcode {
    fn number(self) -> u8 {
        match self {
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }
}

/// Takes frames off a buffer and puts messages together. After an error it is not used again.
#[derive(Debug)]
pub struct Decoder {
    /// Whether the peer must mask: dialers must, acceptors must not.
    masked: bool,
    /// Longest message, in bytes.
    limit: usize,
    /// The header of the frame under way.
    header: Option<Header>,
    /// The message under way, if it comes in fragments.
    fragments: Option<Fragments>,
}

#[derive(Debug, Clone, Copy)]
struct Header {
    kind: Kind,
    fin: bool,
    length: usize,
    mask: Option<[u8; 4]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Continuation,
    Binary,
    Close,
    Ping,
    Pong,
}

#[derive(Debug, Default)]
struct Fragments {
    bytes: BytesMut,
    count: u32,
}

impl Decoder {
    /// A decoder for what `peer` sends; a message has `limit` bytes at most.
    pub fn new(peer: Side, limit: usize) -> Self {
        Self {
            masked: peer == Side::Dialer,
            limit,
            header: None,
            fragments: None,
        }
    }

    /// Takes the next message or control frame off `input`, without copying it where it came in
    /// one frame. `None`: more input is needed.
    ///
    /// # Errors
    /// The peer broke a rule. A length over the limit is one before its payload has come.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Received>, Violation> {
        loop {
            let header = match self.header {
                Some(header) => header,
                None => match self.header(input)? {
                    Some(header) => *self.header.insert(header),
                    None => return Ok(None),
                },
            };
            if input.len() < header.length {
                return Ok(None);
            }
            self.header = None;
            let mut payload = input.split_to(header.length);
            if let Some(key) = header.mask {
                mask(&mut payload, key);
            }
            if let Some(received) = self.on_frame(header, payload)? {
                return Ok(Some(received));
            }
        }
    }

    /// How many bytes the frame under way lacks, beyond those in `input`; `None` while not even
    /// its header is known.
    pub fn missing(&self, input: &BytesMut) -> Option<usize> {
        self.header
            .map(|header| header.length.saturating_sub(input.len()))
    }

    /// Takes a header off `input`, once it is there in full; judges each part as soon as it is
    /// there.
    fn header(&self, input: &mut BytesMut) -> Result<Option<Header>, Violation> {
        let &[first, second, ..] = &input[..] else {
            return Ok(None);
        };
        if first & RESERVED != 0 {
            return Err(Violation::Reserved);
        }
        let fin = first & FIN != 0;
        let kind = match first & 0x0f {
            0x0 => Kind::Continuation,
            0x1 => return Err(Violation::Text),
            0x2 => Kind::Binary,
            0x8 => Kind::Close,
            0x9 => Kind::Ping,
            0xa => Kind::Pong,
            other => return Err(Violation::Opcode(other)),
        };
        if (second & MASK != 0) != self.masked {
            return Err(Violation::Mask);
        }
        let short = second & !MASK;
        match kind {
            Kind::Close | Kind::Ping | Kind::Pong if !fin || short >= LENGTH_16 => {
                return Err(Violation::Control);
            }
            Kind::Continuation if self.fragments.is_none() => return Err(Violation::Order),
            Kind::Binary if self.fragments.is_some() => return Err(Violation::Order),
            _ => {}
        }
        let length_bytes = match short {
            LENGTH_16 => 2,
            LENGTH_64 => 8,
            _ => 0,
        };
        let Some(long) = input[2..].get(..length_bytes) else {
            return Ok(None);
        };
        let length = match short {
            LENGTH_16 | LENGTH_64 => long
                .iter()
                .fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte)),
            short => short.into(),
        };
        let shortest = match short {
            LENGTH_16 => length >= LENGTH_16.into(),
            LENGTH_64 => length > u16::MAX.into() && length >> 63 == 0,
            _ => true,
        };
        if !shortest {
            return Err(Violation::Length);
        }
        let before = self.fragments.as_ref().map_or(0, |f| f.bytes.len());
        if !matches!(kind, Kind::Close | Kind::Ping | Kind::Pong)
            && length > (self.limit - before) as u64
        {
            return Err(Violation::TooLong(length.saturating_add(before as u64)));
        }
        let start = 2 + length_bytes;
        let mask = if self.masked {
            let Some(key) = input[start..].first_chunk::<4>() else {
                return Ok(None);
            };
            Some(*key)
        } else {
            None
        };
        input.advance(start + if self.masked { 4 } else { 0 });
        Ok(Some(Header {
            kind,
            fin,
            length: length as usize,
            mask,
        }))
    }

    fn on_frame(
        &mut self,
        header: Header,
        payload: BytesMut,
    ) -> Result<Option<Received>, Violation> {
        Ok(match header.kind {
            Kind::Ping => Some(Received::Ping(payload.freeze())),
            Kind::Pong => Some(Received::Pong),
            Kind::Close if payload.len() == 1 => return Err(Violation::Close),
            Kind::Close => Some(Received::Close),
            Kind::Binary if header.fin => Some(Received::Message(payload.freeze())),
            Kind::Binary | Kind::Continuation => {
                let fragments = self.fragments.get_or_insert_default();
                fragments.bytes.extend_from_slice(&payload);
                fragments.count += 1;
                if fragments.count > MAX_FRAGMENTS {
                    return Err(Violation::Fragments);
                }
                if header.fin {
                    self.fragments
                        .take()
                        .map(|whole| Received::Message(whole.bytes.freeze()))
                } else {
                    None
                }
            }
        })
    }
}

/// Makes room for a frame's header in front of a payload that is yet to be appended to `frame`,
/// which must be empty. [`seal`] puts it there.
pub fn leave_room(frame: &mut BytesMut) {
    debug_assert!(frame.is_empty());
    // A few small frames need no more than this.
    frame.reserve(512);
    frame.resize(MAX_HEADER, 0);
}

/// Makes a frame of a buffer that begins with the room that [`leave_room`] left. With `key` the
/// payload is masked (dialers must; RFC 6455, 5.3: the key is not to be guessed).
pub fn seal(frame: &mut BytesMut, opcode: Opcode, key: Option<[u8; 4]>) {
    let payload = frame.len() - MAX_HEADER;
    let mut header = [0; MAX_HEADER];
    header[0] = FIN | opcode.number();
    let mut end = match payload {
        0..126 => {
            header[1] = payload as u8;
            2
        }
        126..0x1_0000 => {
            header[1] = LENGTH_16;
            header[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = LENGTH_64;
            header[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
            10
        }
    };
    if let Some(key) = key {
        header[1] |= MASK;
        header[end..end + 4].copy_from_slice(&key);
        end += 4;
        mask(&mut frame[MAX_HEADER..], key);
    }
    frame.advance(MAX_HEADER - end);
    frame[..end].copy_from_slice(&header[..end]);
}

/// Masks, or unmasks: the same (RFC 6455, 5.3). Eight bytes at a time.
fn mask(payload: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = payload.chunks_exact_mut(8);
    for word in &mut words {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        word.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ wide).to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests;
