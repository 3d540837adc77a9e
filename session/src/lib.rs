//! The driver of a session: everything between a socket and [`culvert_proto`]'s multiplexer.
//!
//! ```text
//!   Stream, SendStream, RecvStream      Session, Incoming, Controls      body: HTTP bodies
//!            │ lock briefly                     │
//!            ▼                                  ▼
//!       shared: one Mux (pure state machine) and who waits for it, under one lock
//!            ▲
//!            │ one turn: read what is ready, lock, let the core take it, fill a batch, write it
//!       driver: one task per connection
//!            │
//!       websocket ── upgrade ── tls ── socket     dial, race, proxy, backoff: how to get here
//! ```
//!
//! - [`dial::dial`] makes a connection to a relay; an acceptor makes its [`WebSocketIo`] from a
//!   connection that HTTP has upgraded. [`Session::spawn`] takes either.
//! - [`Session`] opens streams, [`Incoming`] accepts them, [`Controls`] hears what the peer says
//!   about the session itself. [`Session::closed`] says why it ended.
//! - [`Session::join`] makes a further connection a lane of a session: a stream lives on one lane,
//!   and a lane is everything above but the session's name.
//! - A [`Stream`] carries one call: heads and `Bytes` without copying, or plain
//!   `AsyncRead + AsyncWrite`. [`body`] makes HTTP bodies of streams and sends bodies on them;
//!   [`splice`] ties a stream to a connection.
//!
//! This room knows nothing of HTTP's meaning, of policy or of identity; a bearer token passes
//! through it once, unseen.
//!
//! **Whatever ends a session**, its streams learn it at once: the peer's GOAWAY, a broken rule,
//! a broken connection, a silent peer, [`Session::close`], the drop of the last handle, or of the
//! runtime. Data that arrived before can still be read; a stream that was not finished is never
//! taken for one that was.
//!
//! **Memory** of a session, beside its streams' windows and send queues (which the core bounds):
//! while busy one batch (32 KiB), the messages of one turn (128 KiB), and one message being
//! received ([`websocket::MAX_MESSAGE`] at most, 32 KiB from a peer of ours). An idle session
//! keeps none of these, whatever it carried before. `docs/memory.md` has the sums.

pub mod backoff;
pub mod body;
pub mod dial;
mod driver;
mod error;
mod lanes;
pub mod proxy;
pub mod race;
pub mod session;
mod shared;
pub mod socket;
pub mod splice;
pub mod stream;
pub mod tls;
pub mod upgrade;
pub mod websocket;

/// What streams give and how they fail: the words of the core, for rooms that do not know it.
pub use culvert_proto::mux::{ControlError, Item, OpenError, StreamError};
pub use error::SessionError;
pub use lanes::JoinError;
pub use session::{Controls, Incoming, Session, SessionEvent};
pub use stream::{RecvStream, SendStream, Stream};
pub use websocket::WebSocketIo;
