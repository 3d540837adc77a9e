//! Heads: the parsed beginnings of calls and answers, as they cross the tunnel.
//!
//! A head is parsed once, at the edge. What crosses is the result, never HTTP text that the
//! other side would have to parse again.

use std::fmt;
use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use crate::code::ErrorCode;
use crate::hex;
use crate::names::EndpointName;
use crate::principal::Principal;

/// The id of a call: 128 random bits, shown as 32 hex digits in `Culvert-Call` and both audit logs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallId(pub [u8; 16]);

impl CallId {
    /// The 32 digits that it is shown as.
    pub fn digits(self) -> [u8; 32] {
        hex::digits(&self.0)
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::show(&self.0, f)
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a call is carried (`docs/security.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Host mode: the relay ends the caller's TLS; the policy sees the whole call.
    Http,
    /// Proxy mode: bytes, TLS ends at the upstream.
    Connect,
    /// Proxy mode, TLS ends at the agent.
    Terminate,
    /// Bytes that are not TLS.
    Tcp,
}

impl Mode {
    /// The word used in configuration, policy, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Connect => "connect",
            Self::Terminate => "terminate",
            Self::Tcp => "tcp",
        }
    }
}

/// What the head says about the body that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BodyLength {
    /// There is no body.
    Empty,
    /// Exactly so many bytes.
    Exact(u64),
    /// Until FINISH.
    Unknown,
}

/// The head of a call, in the OPEN frame.
#[derive(Debug, Clone)]
pub struct CallHead {
    /// The call's id.
    pub call: CallId,
    /// The endpoint; its tenant is `caller.tenant`.
    pub endpoint: EndpointName,
    /// How the call is carried.
    pub mode: Mode,
    /// The method, upper case.
    pub method: Method,
    /// Origin-form target (`/path?query`), canonical; for proxy modes the declared `NAME:PORT`.
    /// Always printable ASCII. At most [`crate::limits::MAX_TARGET`] bytes.
    pub target: Bytes,
    /// End-to-end headers, already free of hop-by-hop ones.
    pub headers: HeaderMap,
    /// What the head says about the body.
    pub body: BodyLength,
    /// The protocol that the call asks to switch to (`websocket`), lower case; `None`: HTTP all the
    /// way. Such a call has no body: its half stays open, and carries the other protocol's bytes
    /// once the answer is a 101. At most [`crate::limits::MAX_UPGRADE`] bytes.
    pub upgrade: Option<String>,
    /// The public host name under which the caller called.
    pub authority: Bytes,
    /// The caller's address as the relay saw it.
    pub source: Option<IpAddr>,
    /// Who calls.
    pub caller: Principal,
    /// What the caller has shown for it, if it was a token. It crosses to peers alone that ask for
    /// it with the feature [`CALLER_TOKENS`](crate::mux::CALLER_TOKENS).
    pub token: Option<CallerToken>,
}

/// A caller's own token, for an agent that does not take the relay's word. A secret: `Debug` shows
/// nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct CallerToken {
    /// The token, printable ASCII. At most [`crate::limits::MAX_TOKEN`] bytes.
    pub token: Bytes,
    /// The proof that the caller has the token's key (RFC 9449), printable ASCII. At most
    /// [`crate::limits::MAX_PROOF`] bytes.
    pub proof: Option<Bytes>,
}

impl fmt::Debug for CallerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallerToken").finish_non_exhaustive()
    }
}

/// What a HEAD frame carries, towards the caller (all but trailers) or either way (trailers).
#[derive(Debug, Clone)]
pub enum Head {
    /// Between relay nodes: the node has found a session for the call, and the rest of its body
    /// may come. Until then the call may be taken elsewhere.
    Taken,
    /// An interim answer (1xx).
    Interim(ResponseHead),
    /// The answer.
    Response(ResponseHead),
    /// No answer: the agent refused the call or could not get one.
    Refusal(Refusal),
    /// Trailers; FINISH follows.
    Trailers(HeaderMap),
}

/// The head of an answer.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    /// The upstream's status.
    pub status: StatusCode,
    /// What it says beside the status, where that is not what everybody says: printable ASCII and blanks, at
    /// least one byte and at most [`crate::limits::MAX_PHRASE`].
    pub phrase: Option<Bytes>,
    /// End-to-end headers, already free of hop-by-hop ones.
    pub headers: HeaderMap,
    /// What the head says about the body.
    pub body: BodyLength,
}

/// Why the agent has no answer for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What happened.
    pub code: ErrorCode,
    /// What the caller can do about it; at most 1 KiB of text without control characters.
    pub detail: String,
    /// The rule that denied the call, where the policy reveals it.
    pub rule: Option<String>,
    /// Answer as a SOAP fault: the refused call was SOAP.
    pub soap: bool,
}
