//! The frame header, and frames as they lie in a message.
//!
//! ```text
//!  0               1               2               3
//! +---------------+-------+---------------------------------------+
//! |     type      | flags |            length (20 bits)           |
//! +---------------+-------+---------------------------------------+
//! |                           stream id                           |
//! +---------------------------------------------------------------+
//! |                     payload (length bytes)                    |
//! ```

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::mux::Violation;

/// Bytes of a frame header.
pub const HEADER: usize = 8;

/// Longest payload that a header can announce.
pub const MAX_PAYLOAD: usize = (1 << 20) - 1;

/// A stream's id within its session: odd from the dialer, even from the acceptor, rising, never
/// used twice, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $word:literal;)*) => {
        /// What a frame is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $variant = $number,)* }

        impl Kind {
            /// Every kind, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The kind of a type byte.
            pub fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }

            /// The name in the documentation.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

kinds! {
    /// Greeting: the first frame each way.
    Hello = 0x01, "HELLO";
    /// Asks for a PONG.
    Ping = 0x02, "PING";
    /// Answers a PING.
    Pong = 0x03, "PONG";
    /// No new streams, or no session any more.
    Goaway = 0x04, "GOAWAY";
    /// A new stream, its call head, and the first bytes of its body.
    Open = 0x10, "OPEN";
    /// A head within a stream.
    Head = 0x11, "HEAD";
    /// Bytes of a body.
    Data = 0x12, "DATA";
    /// The end of the sender's half.
    Finish = 0x13, "FINISH";
    /// Both halves are aborted.
    Reset = 0x14, "RESET";
    /// Please send no more.
    Stop = 0x15, "STOP";
    /// Credit for one stream.
    Window = 0x16, "WINDOW";
    /// Offers endpoints.
    Register = 0x20, "REGISTER";
    /// The outcome of a REGISTER.
    Registered = 0x21, "REGISTERED";
    /// A renewed token.
    Auth = 0x22, "AUTH";
    /// Words for the log.
    Notice = 0x23, "NOTICE";
}

impl Kind {
    /// Whether frames of this kind belong to a stream (id not 0) or to the session (id 0).
    pub fn is_stream(self) -> bool {
        (self as u8) & 0xf0 == 0x10
    }

    /// The flags that frames of this kind may have.
    pub fn flags(self) -> u8 {
        match self {
            Self::Open | Self::Head | Self::Data => FIN,
            Self::Goaway => CLOSE,
            _ => 0,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Flag of OPEN, HEAD and DATA: the sender's half ends with this frame.
pub const FIN: u8 = 0b0001;

/// Flag of GOAWAY: the session ends with this frame.
pub const CLOSE: u8 = 0b0001;

/// Bit of the type byte: a receiver that does not know the type skips the frame.
pub const SKIPPABLE: u8 = 0x80;

/// One frame of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Four bits; only those that [`Kind::flags`] allows.
    pub flags: u8,
    /// The stream, or 0 for the session.
    pub stream: u32,
    /// A slice of the message.
    pub payload: Bytes,
}

/// Appends a frame header.
pub fn put_header(out: &mut BytesMut, kind: Kind, flags: u8, length: usize, stream: u32) {
    debug_assert!(length <= MAX_PAYLOAD && flags & !kind.flags() == 0);
    out.put_u32(u32::from(kind as u8) << 24 | u32::from(flags) << 20 | length as u32);
    out.put_u32(stream);
}

/// Appends a whole frame.
pub fn put_frame(out: &mut BytesMut, kind: Kind, flags: u8, stream: u32, payload: &[u8]) {
    put_header(out, kind, flags, payload.len(), stream);
    out.put_slice(payload);
}

/// Takes the next frame off a message, passing over unknown ones that may be skipped.
/// `None`: the message is used up.
pub fn next(message: &mut Bytes) -> Result<Option<Frame>, Violation> {
    while !message.is_empty() {
        if message.len() < HEADER {
            return Err(Violation::CutShort);
        }
        let word = message.get_u32();
        let stream = message.get_u32();
        let number = (word >> 24) as u8;
        let flags = (word >> 20) as u8 & 0x0f;
        let length = word as usize & MAX_PAYLOAD;
        if message.len() < length {
            return Err(Violation::CutShort);
        }
        let payload = message.split_to(length);
        let Some(kind) = Kind::from_number(number) else {
            if number & SKIPPABLE != 0 {
                continue;
            }
            return Err(Violation::UnknownFrame(number));
        };
        if flags & !kind.flags() != 0 {
            return Err(Violation::Flags(kind));
        }
        if kind.is_stream() != (stream != 0) {
            return Err(Violation::StreamNumber(kind));
        }
        return Ok(Some(Frame {
            kind,
            flags,
            stream,
            payload,
        }));
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
