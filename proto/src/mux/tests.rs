//! Tests of the core: two ends on a virtual clock, and single ends fed by hand.

mod drains;
mod floods;
mod growth;
mod hostile;
mod left_alone;
mod memory;
mod pair;
mod properties;
mod schedule;
mod skew;
mod states;
mod streams;
mod walks;

use http::{HeaderMap, StatusCode};

use super::model::*;
use super::*;
use crate::code::ResetCode;
use crate::frame::put_frame;
use crate::head::Head;

/// Everything that happened since it was last asked.
fn events(mux: &mut Mux) -> Vec<Event> {
    std::iter::from_fn(|| mux.poll_event()).collect()
}
