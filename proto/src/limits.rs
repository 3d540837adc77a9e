//! Every number that bounds what a peer can make this side hold or do.

/// Longest target of a call, in bytes (`threats.md`, "Policy and path").
pub const MAX_TARGET: usize = 16 * 1024;

/// Most offers in one REGISTER.
pub const MAX_OFFERS: usize = 256;
