//! What Culvert's programs have in common as processes: the [log], the tasks in the [background], the
//! [threads](workers) that carry connections, how many [files](descriptors) they may have open, which [files] have
//! changed since they were read, the [signals] that end them, what they [end with](exit_code), and how they put things into
//! [words].

pub mod background;
pub mod descriptors;
pub mod exit_code;
pub mod files;
pub mod log;
pub mod signals;
pub mod words;
pub mod workers;
