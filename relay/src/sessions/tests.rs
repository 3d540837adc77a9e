//! Agents that open sessions over a real HTTP/1.1 server in this process.

mod expiry;
mod lanes;
mod places;
mod quotas;
mod registration;
mod revoked;
pub(crate) mod rig;
mod upgrade;
