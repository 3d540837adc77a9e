//! Load that would come from other machines, and here must take its time from nobody.

use std::future::Future;

use rustix::process::setpriority_process;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::block_in_place;

use crate::load::Failure;

/// The lowest priority (`nice`): a thread of it gets what no other wants.
const LOWEST: i32 = 19;

/// A runtime whose threads have the lowest priority. Dropped, it drops what it runs.
#[derive(Debug)]
pub struct Background {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Background {
    /// Starts as many threads as there are processors.
    pub fn start() -> Result<Self, Failure> {
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .thread_name("background")
            .on_thread_start(|| {
                // Of the thread that asks: a process has no priority of its own on Linux. Where it
                // is not to be had, the control of a measurement shows the difference.
                let _ = setpriority_process(None, LOWEST);
            })
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// Completes `work`, blocking. What it spawns stays behind, in the background.
    ///
    /// # Panics
    /// On a runtime with one thread.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        block_in_place(|| self.handle.block_on(work))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime must not wait for its threads on another one's.
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_spawned_there_has_the_lowest_priority_and_nothing_else_has() {
        let ours = getpriority_process(None).unwrap();
        let background = Background::start().unwrap();
        let there = background.run(async {
            let work = tokio::spawn(async { getpriority_process(None).unwrap() });
            work.await.unwrap()
        });
        assert_eq!(there, LOWEST);
        assert_eq!(getpriority_process(None).unwrap(), ours);
    }
}
