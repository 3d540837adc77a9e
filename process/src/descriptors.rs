//! File descriptors: enough for the connections that a program may have, or fewer connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are not those of many: listeners, the admin listener's connections, sessions,
/// issuers, files. They must never run out because connections are many.
const RESERVE: usize = 256;

/// What a process has descriptors for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Files that it may have open.
    pub files: usize,
    /// Connections that fit, of those that were wanted.
    pub connections: usize,
}

/// Raises this process's limit of open files as far as it may; says how many of `wanted` connections,
/// each with `each` descriptors, fit.
pub fn make_room_for(wanted: usize, each: usize) -> Room {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    ) {
        tracing::debug!(%error, "the limit of open files cannot be raised");
    }
    let files = getrlimit(Resource::Nofile).current;
    let files = files.map_or(usize::MAX, |files| {
        usize::try_from(files).unwrap_or(usize::MAX)
    });
    Room {
        files,
        connections: fitting(wanted, each, files),
    }
}

fn fitting(wanted: usize, each: usize, files: usize) -> usize {
    // However short files are, a few connections are better than none.
    let free = files.saturating_sub(RESERVE).max(files / 2);
    wanted.min(free / each.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        assert_eq!(fitting(16_000, 1, usize::MAX), 16_000);
        assert_eq!(fitting(16_000, 1, 20_000), 16_000);
        assert_eq!(fitting(16_000, 1, 4096), 4096 - RESERVE);
        assert_eq!(fitting(16_000, 1, 64), 32);
        assert_eq!(fitting(4096, 2, 1024), (1024 - RESERVE) / 2);
    }

    #[test]
    fn a_process_may_open_as_many_files_as_its_hard_limit_allows() {
        let room = make_room_for(1, 1);
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
        let files = current.map_or(usize::MAX, |files| files.try_into().unwrap());
        assert_eq!((room.files, room.connections), (files, 1));
    }
}
