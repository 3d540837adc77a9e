//! What every registry must do, over memory on a virtual clock and over a real Redis; and nodes that
//! follow each other over one that fails, by hand and by seeds.

mod conformance;
mod engine;
mod nodes;
mod simulation;
mod troubled;
mod withdrawals;
