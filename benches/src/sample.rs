//! Looks at counters and processes while something runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::process;
use crate::progress::Progress;
use crate::record::{Count, Recorder};
use crate::report::{Point, Use};

/// Processes by name, each with its children. One that is started anew changes here.
pub type Processes = Arc<Mutex<BTreeMap<String, Vec<u32>>>>;

/// Most points of a series: what a chart can show.
const POINTS: u32 = 400;

/// Shortest interval.
const SHORTEST: Duration = Duration::from_millis(250);

/// A sampler at work.
#[derive(Debug)]
pub struct Sampler {
    end: CancellationToken,
    task: JoinHandle<(Vec<Point>, BTreeMap<String, Use>)>,
}

impl Sampler {
    /// Looks at once, and then so often that `time` gives no more points than a chart shows.
    pub fn start(
        recorder: Arc<Recorder>,
        processes: Processes,
        progress: Arc<Progress>,
        time: Duration,
    ) -> Self {
        let end = CancellationToken::new();
        let every = SHORTEST.max(time / POINTS);
        let mut state = State::new(recorder, processes);
        let ended = end.clone();
        let task = tokio::spawn(async move {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks.tick().await;
            loop {
                tokio::select! {
                    _ = ticks.tick() => state.look(&progress),
                    () = ended.cancelled() => {
                        state.look(&progress);
                        return (state.series, state.used);
                    }
                }
            }
        });
        Self { end, task }
    }

    /// Looks a last time; gives the series and what each process used.
    pub async fn stop(self) -> (Vec<Point>, BTreeMap<String, Use>) {
        self.end.cancel();
        self.task.await.unwrap_or_default()
    }
}

struct State {
    recorder: Arc<Recorder>,
    processes: Processes,
    start: Instant,
    last: Count,
    /// What each process had used when it was last looked at.
    cpu: BTreeMap<u32, Duration>,
    series: Vec<Point>,
    used: BTreeMap<String, Use>,
}

impl State {
    fn new(recorder: Arc<Recorder>, processes: Processes) -> Self {
        let mut state = Self {
            last: recorder.count(),
            recorder,
            processes,
            start: Instant::now(),
            cpu: BTreeMap::new(),
            series: Vec::new(),
            used: BTreeMap::new(),
        };
        for pids in state.watched().values() {
            for pid in pids {
                state.cpu.insert(*pid, process::usage(&[*pid]).cpu);
            }
        }
        state
    }

    fn watched(&self) -> BTreeMap<String, Vec<u32>> {
        let processes = self.processes.lock();
        processes.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn look(&mut self, progress: &Progress) {
        let now = self.recorder.count();
        let mut point = Point {
            at_s: self.start.elapsed().as_secs_f64(),
            calls: now.calls - self.last.calls,
            errors: now.errors - self.last.errors,
            bytes: now.bytes.saturating_sub(self.last.bytes),
            ..Point::default()
        };
        self.last = now;
        for (name, pids) in self.watched() {
            let memory = process::resident(&pids);
            let mut cpu = Duration::ZERO;
            for pid in pids {
                // One that is gone has no figure; one that is new began at nothing.
                let used = process::usage(&[pid]).cpu;
                let before = self.cpu.entry(pid).or_default();
                cpu += used.saturating_sub(*before);
                *before = used.max(*before);
            }
            let used = self.used.entry(name.clone()).or_default();
            used.cpu_s += cpu.as_secs_f64();
            used.memory_most = used.memory_most.max(memory);
            used.memory_end = memory;
            // What has ended has no memory, waited for or not.
            used.gone = memory == 0;
            point.memory.insert(name.clone(), memory);
            point.cpu_s.insert(name, cpu.as_secs_f64());
        }
        let since = self.series.last().map_or(0.0, |last| last.at_s);
        let time = (point.at_s - since).max(1e-3);
        progress.show(&format!(
            "{:>5.1} s  {:>7.0} calls/s  {:>7.1} MB/s  {} errors",
            point.at_s,
            point.calls as f64 / time,
            point.bytes as f64 / 1e6 / time,
            now.errors
        ));
        match self.series.last_mut() {
            // The last look may follow another one at once: too short a time for a rate.
            Some(last) if time < SHORTEST.as_secs_f64() / 2.0 => {
                last.at_s = point.at_s;
                last.calls += point.calls;
                last.errors += point.errors;
                last.bytes += point.bytes;
                last.memory = point.memory;
                for (name, cpu) in point.cpu_s {
                    *last.cpu_s.entry(name).or_default() += cpu;
                }
            }
            _ => self.series.push(point),
        }
    }
}

#[cfg(test)]
mod tests {
    use culvert_process::log::LogFormat;

    use super::*;

    #[test]
    fn a_process_that_is_gone_is_said_to_be() {
        let known = [("here", std::process::id()), ("gone", u32::MAX)];
        let known = known.map(|(name, pid)| (name.to_owned(), vec![pid]));
        let processes = Arc::new(Mutex::new(BTreeMap::from(known)));
        let mut state = State::new(Arc::new(Recorder::new().unwrap()), processes);
        state.look(&Progress::new(LogFormat::Json));
        assert!(state.used["gone"].gone && !state.used["here"].gone);
    }
}
