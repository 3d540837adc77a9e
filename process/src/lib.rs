//! What Culvert's programs have in common as processes: the [log](log).

pub mod log;
