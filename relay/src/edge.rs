//! The caller-facing edge (being built).

mod guard;
mod pace;
mod traffic;
