//! What a process has used so far, and what it holds, from `/proc`.

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// CPU time of some processes together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
}

/// Memory of some processes together, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Pages in memory, the program's own among them.
    pub resident: u64,
    /// The same, pages that processes share divided among them.
    pub proportional: u64,
    /// Pages that no file backs: heap and stacks.
    pub anonymous: u64,
}

/// As many open files as this process may have, and those that it starts: each connection is one.
pub fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: maximum,
        maximum,
    };
    // Where it fails, the dial that finds no file says so.
    let _ = setrlimit(Resource::Nofile, most);
}

/// Adds up what `pids` have used. A process that is gone counts as nothing.
pub fn usage(pids: &[u32]) -> Usage {
    let mut sum = Usage::default();
    for pid in pids {
        sum.cpu += cpu(*pid).unwrap_or_default();
    }
    sum
}

/// `utime` and `stime` of `/proc/PID/stat` (proc(5)), in ticks of 10 ms.
fn cpu(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the numbers begin behind its end.
    let numbers: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 =
        numbers.get(11)?.parse::<u64>().ok()? + numbers.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// Resident bytes of `pids` together, from the cheapest source. A process that is gone counts as
/// nothing.
pub fn resident(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        kibibytes(&status, "VmRSS:")
    };
    pids.iter().filter_map(of).sum()
}

/// Adds up what `pids` hold; `None` if one of them cannot be looked at.
pub fn memory(pids: &[u32]) -> Option<Memory> {
    let mut sum = Memory::default();
    for pid in pids {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        sum.resident += kibibytes(&rollup, "Rss:")?;
        sum.proportional += kibibytes(&rollup, "Pss:")?;
        sum.anonymous += kibibytes(&rollup, "Anonymous:")?;
    }
    Some(sum)
}

/// The value of a line `KEY N kB`, in bytes.
fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// The children of a process: the workers of an nginx master.
pub fn children(pid: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_its_own_memory_and_none_of_one_that_is_gone() {
        let memory = memory(&[std::process::id()]).unwrap();
        assert!(memory.anonymous > 0);
        assert!(memory.resident >= memory.anonymous);
        assert!(super::memory(&[u32::MAX]).is_none());
        assert_eq!(kibibytes("Rss:   12 kB\nPss: 3 kB\n", "Pss:"), Some(3072));
    }
}
