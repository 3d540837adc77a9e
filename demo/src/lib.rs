//! Everything on one machine, for the first five minutes.
//!
//! `culvert-demo` makes development certificates, starts four programs and walks a few calls
//! through them, telling what happens:
//!
//! ```text
//! caller --https--> culvert-relay <==wss== culvert-agent --https--> sample SDDC API
//!      \                 |                     |
//!       `--------- development token issuer ---'
//! ```
//!
//! Relay and agent are the real programs, run as anybody would run them, with configuration
//! files that stay readable beside their logs. Issuer and API are this program, started again
//! under another name, so that each is a process of its own.
//!
//! | module | does |
//! |---|---|
//! | [`setup`] | the private folder: certificates, clients, configuration |
//! | [`program`] | finds, builds, starts and ends the programs |
//! | [`tour`] | the calls, what is expected of them, what is told about them |
//! | `cluster` | several relays instead of one, killed and replaced under load |
//! | [`load`], [`judge`] | callers all the time, and what they may not see; the product's tests use them too |
//! | [`issuer`], [`sddc`] | the two stand-ins, over [`https`] |
//! | [`port`] | free ports |
//! | [`certs`], [`tokens`] | the development authority and token key; the product's tests use them too |

pub mod certs;
mod cluster;
pub mod failure;
pub mod files;
pub mod https;
pub mod issuer;
pub mod judge;
pub mod load;
pub mod port;
pub mod program;
mod run;
pub mod screen;
pub mod sddc;
pub mod setup;
pub mod tokens;
pub mod tour;
pub mod web;

pub use run::main;
pub(crate) use screen::say;
