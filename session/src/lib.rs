//! The driver of a session: WebSocket, TLS, dial and accept, stream handles, backoff.

pub mod backoff;
pub mod dial;
pub mod socket;
pub mod tls;
pub mod upgrade;
pub mod websocket;
