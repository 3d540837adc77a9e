//! Tasks that run for as long as a program does: that one fails does not go unnoticed.

use std::collections::HashMap;
use std::future::pending;

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, Id, JoinSet};

/// Tasks with names. Dropped, all of them end.
#[derive(Debug, Default)]
pub struct Background {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Background {
    /// Starts a task.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.note(name, &handle);
    }

    /// Starts a task on the threads of another runtime.
    pub fn spawn_on(
        &mut self,
        runtime: &Handle,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let handle = self.tasks.spawn_on(task, runtime);
        self.note(name, &handle);
    }

    fn note(&mut self, name: &'static str, handle: &AbortHandle) {
        self.names.insert(handle.id(), name);
    }

    /// Completes once a task has panicked, which the log says; gives its name. Such a program lacks a part
    /// and had better end, so that its service manager starts it again. Cancel safe.
    pub async fn failed(&mut self) -> &'static str {
        loop {
            match self.tasks.join_next_with_id().await {
                Some(Ok((id, ()))) => _ = self.names.remove(&id),
                Some(Err(error)) => {
                    let name = self.names.remove(&error.id()).unwrap_or("unnamed");
                    if error.is_panic() {
                        tracing::error!(task = name, %error, "a task has failed: that is a defect");
                        return name;
                    }
                }
                None => pending().await,
            }
        }
    }

    /// Completes once all tasks have ended, however they did.
    pub async fn ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_named_and_one_that_ends_is_not() {
        let mut background = Background::default();
        background.spawn("good", async {});
        background.spawn("lasting", pending());
        background.spawn("bad", async { panic!("as the test wants it") });
        assert_eq!(background.failed().await, "bad");
        let runtime = Handle::current();
        background.spawn_on(&runtime, "also bad", async { panic!("again") });
        assert_eq!(background.failed().await, "also bad");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_said_where_nothing_fails() {
        let mut background = Background::default();
        background.spawn("good", async {});
        let second = std::time::Duration::from_secs(1);
        let failed = tokio::time::timeout(second, background.failed()).await;
        assert!(failed.is_err());
        background.spawn("good", async {});
        background.ended().await;
    }
}
