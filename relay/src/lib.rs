//! relay

pub mod edge;
