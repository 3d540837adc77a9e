//! The framing of a request's body, byte by byte.

use super::head::Framing;
use super::{TOKEN, VALUE, Violation, is};

/// Most bytes of chunk extensions in one body. hyper takes 16 KiB.
const MAX_EXTENSIONS: u32 = 4 * 1024;
/// Most bytes of trailers.
const MAX_TRAILERS: u32 = 8 * 1024;
/// Most trailer fields.
const MAX_TRAILER_FIELDS: u32 = 64;
/// Most digits of a chunk's size: no number overflows.
const MAX_DIGITS: u8 = 15;

/// The scanner of one body.
#[derive(Debug)]
pub(crate) struct BodyScan {
    state: State,
    /// Bytes of extensions or trailers so far.
    extra: u32,
    /// Trailer fields so far.
    fields: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Bytes that need no look: so many until the end.
    Length(u64),
    Size {
        digits: u8,
        size: u64,
    },
    /// Behind `;`: an extension's name, with at least one byte of it or none yet.
    ExtensionName {
        begun: bool,
        size: u64,
    },
    /// Behind `=`.
    ExtensionValue {
        begun: bool,
        size: u64,
    },
    Quoted {
        size: u64,
    },
    Escaped {
        size: u64,
    },
    Unquoted {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
}

impl BodyScan {
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { digits: 0, size: 0 },
        };
        Self {
            state,
            extra: 0,
            fields: 0,
        }
    }

    /// Whether the body is whole.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Looks at the next bytes; gives how many of them belong to this body.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let mut at = 0;
        while at < bytes.len() {
            match self.state {
                State::Done => break,
                State::Length(left) => {
                    let taken = take(left, bytes.len() - at);
                    at += taken;
                    let left = left - taken as u64;
                    self.state = if left == 0 {
                        State::Done
                    } else {
                        State::Length(left)
                    };
                }
                State::Data(left) => {
                    let taken = take(left, bytes.len() - at);
                    at += taken;
                    let left = left - taken as u64;
                    self.state = if left == 0 {
                        State::DataCr
                    } else {
                        State::Data(left)
                    };
                }
                state => {
                    self.state = self.on_byte(state, bytes[at])?;
                    at += 1;
                }
            }
        }
        Ok(at)
    }

    fn on_byte(&mut self, state: State, byte: u8) -> Result<State, Violation> {
        match state {
            State::Size { digits, size } => match (byte, char::from(byte).to_digit(16)) {
                (_, Some(digit)) if digits < MAX_DIGITS => Ok(State::Size {
                    digits: digits + 1,
                    size: size << 4 | u64::from(digit),
                }),
                (b'\r', _) if digits > 0 => Ok(State::SizeLf { size }),
                (b';', _) if digits > 0 => {
                    self.on_extension(State::ExtensionName { begun: false, size })
                }
                _ => Err(Violation::ChunkSize),
            },
            State::ExtensionName { begun, size } => match byte {
                b'=' if begun => self.on_extension(State::ExtensionValue { begun: false, size }),
                _ if is(TOKEN, byte) => {
                    self.on_extension(State::ExtensionName { begun: true, size })
                }
                _ if begun => self.on_extension_end(byte, size),
                _ => Err(Violation::ChunkExtension),
            },
            State::ExtensionValue { begun, size } => match byte {
                b'"' if !begun => self.on_extension(State::Quoted { size }),
                _ if is(TOKEN, byte) => {
                    self.on_extension(State::ExtensionValue { begun: true, size })
                }
                _ if begun => self.on_extension_end(byte, size),
                _ => Err(Violation::ChunkExtension),
            },
            State::Quoted { size } => match byte {
                b'"' => self.on_extension(State::Unquoted { size }),
                b'\\' => self.on_extension(State::Escaped { size }),
                _ if is(VALUE, byte) => self.on_extension(State::Quoted { size }),
                _ => Err(Violation::ChunkExtension),
            },
            State::Escaped { size } if is(VALUE, byte) => self.on_extension(State::Quoted { size }),
            State::Escaped { .. } => Err(Violation::ChunkExtension),
            State::Unquoted { size } => self.on_extension_end(byte, size),
            State::SizeLf { size } => match (byte, size) {
                (b'\n', 0) => {
                    self.extra = 0;
                    Ok(State::TrailerStart)
                }
                (b'\n', _) => Ok(State::Data(size)),
                _ => Err(Violation::ChunkSize),
            },
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => Ok(State::Size { digits: 0, size: 0 }),
            State::DataCr | State::DataLf => Err(Violation::ChunkEnd),
            State::LastLf if byte == b'\n' => Ok(State::Done),
            State::LastLf => Err(Violation::Trailers),
            State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf => {
                self.on_trailer(state, byte)
            }
            State::Length(_) | State::Data(_) | State::Done => Ok(state),
        }
    }

    fn on_extension(&mut self, next: State) -> Result<State, Violation> {
        self.extra += 1;
        if self.extra > MAX_EXTENSIONS {
            Err(Violation::ChunkExtension)
        } else {
            Ok(next)
        }
    }

    fn on_extension_end(&mut self, byte: u8, size: u64) -> Result<State, Violation> {
        match byte {
            b';' => self.on_extension(State::ExtensionName { begun: false, size }),
            b'\r' => Ok(State::SizeLf { size }),
            _ => Err(Violation::ChunkExtension),
        }
    }

    fn on_trailer(&mut self, state: State, byte: u8) -> Result<State, Violation> {
        self.extra += 1;
        if self.extra > MAX_TRAILERS {
            return Err(Violation::Trailers);
        }
        match (state, byte) {
            (State::TrailerStart, b'\r') => Ok(State::LastLf),
            (State::TrailerStart, _) if is(TOKEN, byte) => {
                self.fields += 1;
                if self.fields > MAX_TRAILER_FIELDS {
                    return Err(Violation::Trailers);
                }
                Ok(State::TrailerName)
            }
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerName, _) if is(TOKEN, byte) => Ok(State::TrailerName),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, _) if is(VALUE, byte) => Ok(State::TrailerValue),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            _ => Err(Violation::Trailers),
        }
    }
}

/// How many of `there` bytes lie within the `left` ones.
fn take(left: u64, there: usize) -> usize {
    usize::try_from(left).map_or(there, |left| left.min(there))
}
