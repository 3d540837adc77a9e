//! File descriptors: enough for the connections that the configuration allows, or fewer
//! connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are not public connections: listeners, the admin listener's connections,
/// issuers, files. They must never run out because callers are many.
const RESERVE: usize = 256;

/// Raises this process's limit of open files as far as it may; says how many of `wanted`
/// connections fit.
pub(crate) fn make_room_for(wanted: usize) -> usize {
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
    let fit = fitting(wanted, files);
    if fit < wanted {
        tracing::warn!(
            files,
            connections = fit,
            "the system's limit of open files allows fewer connections than limits.connections"
        );
    }
    fit
}

fn fitting(wanted: usize, files: usize) -> usize {
    // However short files are, a few connections are better than none.
    wanted.min(files.saturating_sub(RESERVE).max(files / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        assert_eq!(fitting(16_000, usize::MAX), 16_000);
        assert_eq!(fitting(16_000, 20_000), 16_000);
        assert_eq!(fitting(16_000, 4096), 4096 - RESERVE);
        assert_eq!(fitting(16_000, 64), 32);
    }
}
