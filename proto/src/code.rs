//! Codes: why a call failed (told to the caller) and why a stream or session ended (on the wire).

use std::fmt;

/// Which part of the path refused or failed a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layer {
    /// The cloud relay.
    Relay,
    /// The agent beside the upstream.
    Agent,
    /// The local API itself, or the way to it.
    Upstream,
}

impl Layer {
    /// The word used in answers, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Agent => "agent",
            Self::Upstream => "upstream",
        }
    }
}

macro_rules! call_errors {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $word:literal, $status:literal, $title:literal;)*) => {
        /// Why a call got no answer from its upstream; `docs/operations.md` says where to look.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorCode {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The number on the wire.
            pub fn number(self) -> u16 {
                match self { $(Self::$variant => $number,)* }
            }

            /// The code of a number on the wire, if this version knows it.
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }

            /// The public word: the fragment of the problem type, the metric label.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The HTTP status in host mode.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// A short summary that does not change from call to call.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

call_errors! {
    /// The request itself is malformed.
    BadRequest = 1, "bad-request", 400, "The request is malformed";
    /// No valid credential (401 in host mode, 407 in proxy mode).
    Unauthenticated = 2, "unauthenticated", 401, "A valid credential is required";
    /// The credential may not call.
    Forbidden = 3, "forbidden", 403, "The credential may not make this call";
    /// No such endpoint in the caller's tenant.
    UnknownEndpoint = 4, "unknown-endpoint", 404, "There is no such endpoint";
    /// The agent's policy denied the call.
    PolicyDenied = 5, "policy-denied", 403, "The policy of the data centre denied the call";
    /// The agent could not verify the caller itself.
    CallerUnverified = 6, "caller-unverified", 403, "The agent could not verify the caller";
    /// The endpoint was registered before and has no session now.
    EndpointOffline = 7, "endpoint-offline", 503, "The endpoint's agent is not connected";
    /// A limit of the relay or the agent is reached.
    Overloaded = 8, "overloaded", 503, "Too much work at the moment";
    /// A quota of the tenant, or the rate of a rule, is used up.
    QuotaExceeded = 9, "quota-exceeded", 429, "A quota is used up";
    /// The tunnel ended before the answer.
    SessionLost = 10, "session-lost", 502, "The tunnel ended before the answer";
    /// The upstream cannot be reached.
    UpstreamUnreachable = 11, "upstream-unreachable", 502, "The local API cannot be reached";
    /// TLS with the upstream failed.
    UpstreamTls = 12, "upstream-tls", 502, "TLS with the local API failed";
    /// The upstream's answer is not valid HTTP.
    UpstreamProtocol = 13, "upstream-protocol", 502, "The local API broke the HTTP protocol";
    /// The upstream took too long.
    UpstreamTimeout = 14, "upstream-timeout", 504, "The local API took too long";
    /// Too many wrong credentials came from the same source.
    RateLimited = 15, "rate-limited", 429, "Too many wrong credentials";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! wire_codes {
    ($(#[$top:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal, $word:literal;)* }) => {
        $(#[$top])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
            /// A number that this version does not know; treated like an internal error.
            Unknown(u32),
        }

        impl $name {
            /// The number on the wire.
            pub fn number(self) -> u32 {
                match self { $(Self::$variant => $number,)* Self::Unknown(number) => number }
            }

            /// The code of a number on the wire.
            pub fn from_number(number: u32) -> Self {
                match number { $($number => Self::$variant,)* other => Self::Unknown(other) }
            }

            /// A word from a bounded set: for logs and metric labels.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* Self::Unknown(_) => "unknown" }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    Self::Unknown(number) => write!(f, "unknown ({number})"),
                    known => f.write_str(known.as_str()),
                }
            }
        }
    };
}

wire_codes! {
    /// Why a stream was reset or stopped (RESET and STOP frames).
    ResetCode {
        /// The sender no longer wants the stream: the caller went away, the handle was dropped.
        Cancelled = 1, "cancelled";
        /// Never looked at by the receiver: safe to try elsewhere.
        Refused = 2, "refused";
        /// A defect on the sender's side.
        Internal = 3, "internal";
        /// The peer broke the rules of the stream.
        Protocol = 4, "protocol";
        /// The message body was cut short by the other leg: the answer or request is not complete.
        Truncated = 5, "truncated";
        /// A timer of the sender ran out.
        Timeout = 6, "timeout";
        /// A policy, token or operator no longer permits the stream.
        Withdrawn = 7, "withdrawn";
        /// Nothing more is wanted, without prejudice: the answer is complete (STOP only).
        NotNeeded = 8, "not-needed";
        /// The sender has no memory left for what the receiver sends and nobody reads.
        Overloaded = 9, "overloaded";
        /// Between relay nodes: the node has no session for the endpoint; nothing was looked at,
        /// and another node may have one.
        NotHere = 10, "not-here";
        /// Between relay nodes: the session that carried the call was lost.
        Lost = 11, "lost";
    }
}

impl ResetCode {
    /// Whether it says that the other leg broke, so that what came before a RESET with it is as good as
    /// it ever was: who opened the stream still reads it.
    pub fn keeps_data(self) -> bool {
        matches!(self, Self::Truncated | Self::Timeout | Self::Lost)
    }
}

wire_codes! {
    /// Why a session ends or takes no new streams (GOAWAY frame, session errors).
    GoawayCode {
        /// A drain: nothing is wrong; open a replacement session.
        Drain = 1, "drain";
        /// The peer broke the protocol.
        Protocol = 2, "protocol";
        /// The peer sent beyond its credit.
        FlowControl = 3, "flow-control";
        /// The peer flooded a bounded resource.
        Flood = 4, "flood";
        /// No version in common.
        Version = 5, "version";
        /// The session's token expired and was not renewed.
        TokenExpired = 6, "token-expired";
        /// An operator or a newer session withdrew this one.
        Replaced = 7, "replaced";
        /// The peer did not answer in time.
        Timeout = 8, "timeout";
        /// A defect on the sender's side.
        Internal = 9, "internal";
        /// Access was revoked.
        Revoked = 10, "revoked";
        /// Stream ids are used up; open a replacement session.
        Exhausted = 11, "exhausted";
        /// The connection cannot be a lane of the session that it names.
        NotJoined = 12, "not-joined";
    }
}
