//! What every registry must do, over memory on a virtual clock and over a real Redis; and nodes that
//! follow each other over one that fails.

mod conformance;
mod nodes;
mod withdrawals;
