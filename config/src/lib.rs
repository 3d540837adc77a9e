//! The files that people write for Culvert: `relay.toml`, `agent.toml`, `policy.toml`.
//!
//! Each file is read in two steps. A private `Written` struct mirrors the file, refuses unknown
//! keys, and remembers where each value stands; the checked struct ([`RelayConfig`],
//! [`AgentConfig`], [`PolicyFile`](policy_file::PolicyFile)) is what it means: names that are
//! names, files that are there, secrets that are masked. Programs run on checked structs only.
//!
//! Every refusal is a [`ConfigError`]: file, line, column, key, what was found, what was
//! expected. Environment variables override single keys (`CULVERT_RELAY__URL` for `relay.url`);
//! arrays of tables are the file's alone.

mod address;
pub mod admin;
pub mod agent;
pub mod audit;
pub mod caller;
mod check;
pub mod cluster;
mod document;
pub mod endpoint;
mod environment;
mod error;
pub mod issuer;
mod networks;
pub mod oauth;
pub mod policy_file;
mod proxied;
pub mod proxy;
pub mod quota;
pub mod relay;
pub mod secret;
pub mod terminate;
pub mod units;
pub mod verify_callers;
mod words;

pub use agent::AgentConfig;
pub use error::ConfigError;
pub use relay::RelayConfig;

/// Serialises a name as its text.
fn display<T: std::fmt::Display, S: serde::Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A checked configuration as TOML.
fn render<T: serde::Serialize>(config: &T) -> String {
    toml::to_string(config).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"))
}
