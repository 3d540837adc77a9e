//! File descriptors for the connections that the configuration allows, or fewer connections.

use culvert_process::descriptors::{self, Room};

/// Raises this process's limit of open files as far as it may; says how many of `wanted`
/// connections fit.
pub(crate) fn make_room_for(wanted: usize) -> usize {
    let Room { files, connections } = descriptors::make_room_for(wanted, 1);
    if connections < wanted {
        tracing::warn!(
            files,
            connections,
            "the system's limit of open files allows fewer connections than limits.connections"
        );
    }
    connections
}
