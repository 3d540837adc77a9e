//! The agent: dials out from a private data centre and serves calls to its local APIs.
//!
//! It trusts nobody beyond what its own files say: the relay names endpoints and calls, never
//! addresses, configuration or rules.
//!
//! The life of a call, room by room:
//!
//! 1. `connect` keeps sessions with the relay; `register` offers the endpoints on each of them.
//! 2. `serve` takes the streams. Every call is a task of its own that runs top to bottom through
//!    `serve::exchange`: the head is checked, the target canonicalised again, the operation of a
//!    SOAP call read from its body.
//! 3. `policy` holds the rules in force. The decision gives a permit, or the call is refused.
//!    A new policy asks every live call again.
//! 4. `upstream` takes the permit and the request, and gives an answer that was checked, on a
//!    connection that the call itself drives: when the call goes, the connection goes.
//! 5. `serve::pump` passes the answer on as the tunnel gives credit; `serve::audit` records what
//!    becomes of the call, and hands the one line to `audit`, which chains and writes it.
//!
//! Where an endpoint has the mode `terminate`, `terminate` ends the caller's TLS and reads its HTTP; each
//! call on it goes the same way from 2 on.
//!
//! Beside the calls: `reload` brings a new policy into force, and `files` new certificates; `admin`
//! answers operators, and `metrics` counts.
//!
//! `tokens` says how the agent proves to the relay who it is; `cli` is what the administrator
//! types, `policy_tools` answers questions about a policy, `diagnose` walks the way to the relay
//! and to each upstream, `pin` shows a server's certificates, `app` only wires, `drain` ends it
//! all in good order.

mod admin;
mod app;
mod audit;
mod certificate;
pub mod cli;
mod connect;
mod diagnose;
mod drain;
mod files;
mod metrics;
mod pin;
mod policy;
mod policy_tools;
mod register;
mod reload;
mod serve;
mod terminate;
#[cfg(test)]
mod testing;
mod tokens;
mod upstream;
