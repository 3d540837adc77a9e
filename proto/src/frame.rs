//! The frame header, and frames as they lie in a message.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::mux::SessionError;

/// Bytes of a frame header.
pub const HEADER: usize = 8;

/// Longest payload that the header can say.
pub const MAX_PAYLOAD: usize = (1 << 20) - 1;

/// A stream's id within its session: odd from the dialer, even from the acceptor, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $number:literal;)*) => {
        /// What a frame is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $variant = $number,)* }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

kinds! {
    /// Greeting: the first frame each way.
    Hello = 0x01;
    /// Offer endpoints.
    Register = 0x02;
    /// The outcome of an offer.
    Registered = 0x03;
    /// A renewed token.
    Auth = 0x04;
    /// Words for the log.
    Notice = 0x05;
    /// No new streams.
    Goaway = 0x06;
    /// Are you there?
    Ping = 0x07;
    /// I am.
    Pong = 0x08;
    /// A new stream, its call head, and the first bytes of its body.
    Open = 0x10;
    /// A head within a stream.
    Head = 0x11;
    /// Bytes of a body.
    Data = 0x12;
    /// The end of the sender's half.
    Finish = 0x13;
    /// Both halves are aborted.
    Reset = 0x14;
    /// Please send no more.
    Stop = 0x15;
    /// Credit.
    Window = 0x16;
}

/// Flag of OPEN, HEAD and DATA: the sender's half ends with this frame.
pub const FIN: u8 = 1;

/// Bit of the type byte: a receiver that does not know the type skips the frame.
pub const SKIPPABLE: u8 = 0x80;

/// Appends a header.
pub fn put_header(out: &mut BytesMut, kind: Kind, flags: u8, length: usize, stream: u32) {
    debug_assert!(length <= MAX_PAYLOAD && flags < 16);
    let word = u32::from(flags) << 20 | length as u32;
    out.put_u64(
        u64::from(kind as u8) << 56 | u64::from(word & 0x00ff_ffff) << 32 | u64::from(stream),
    );
}

/// One frame of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Four flag bits.
    pub flags: u8,
    /// The stream, 0 for the session.
    pub stream: u32,
    /// A slice of the message.
    pub payload: Bytes,
}

/// Takes the next frame off a message; skippable unknown ones are passed over.
/// `None`: the message is used up.
pub fn next(message: &mut Bytes) -> Result<Option<Frame>, SessionError> {
    loop {
        if message.is_empty() {
            return Ok(None);
        }
        if message.len() < HEADER {
            return Err(SessionError::Protocol("a frame header is cut short"));
        }
        let word = message.get_u64();
        let number = (word >> 56) as u8;
        let flags = (word >> 52) as u8 & 0x0f;
        let length = (word >> 32) as usize & MAX_PAYLOAD;
        let stream = word as u32;
        if message.len() < length {
            return Err(SessionError::Protocol("a frame is cut short"));
        }
        let payload = message.split_to(length);
        match Kind::from_number(number) {
            Some(kind) => {
                return Ok(Some(Frame {
                    kind,
                    flags,
                    stream,
                    payload,
                }));
            }
            None if number & SKIPPABLE != 0 => {}
            None => return Err(SessionError::Protocol("a frame of an unknown type")),
        }
    }
}
