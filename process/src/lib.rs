//! What Culvert's programs have in common as processes: the [log], the [threads](workers) that carry
//! connections, and the [files](descriptors) that they may have open.

pub mod descriptors;
pub mod log;
pub mod workers;
