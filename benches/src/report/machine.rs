//! Where a run took place.

use std::fs;

use serde::{Deserialize, Serialize};

/// What of the machine the figures depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// The processor's name.
    pub cpu: String,
    /// The kernel's name and release.
    pub kernel: String,
    /// Bytes of memory.
    pub memory: u64,
}

impl Machine {
    /// This one. What cannot be read is `unknown`, or 0.
    pub fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu = field(&read("/proc/cpuinfo"), "model name");
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kibibytes = memory.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        let release = read("/proc/sys/kernel/osrelease");
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: cpu.unwrap_or_else(|| "unknown".into()),
            kernel: format!("{} {}", std::env::consts::OS, release.trim()),
            memory: kibibytes.unwrap_or(0) * 1024,
        }
    }
}

/// What stands behind `key:` in a file of `/proc`.
fn field(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
