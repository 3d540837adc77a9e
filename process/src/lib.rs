//! What Culvert's programs have in common as processes: the [log] and the
//! [threads](workers) that carry connections.

pub mod log;
pub mod workers;
