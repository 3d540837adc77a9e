//! The edge from end to end, in this process: real HTTP on one side, a real session on the other.

mod bodies;
mod calls;
mod connect;
mod expiry;
mod failures;
mod farewell;
mod frames;
mod hostile;
mod interim;
mod quotas;
mod record;
mod refused_uploads;
mod revoked;
mod rig;
mod strangers;
mod switch;
