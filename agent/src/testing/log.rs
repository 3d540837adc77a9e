//! What is logged, for tests.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use tracing::Dispatch;
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// The fields of a line.
pub(crate) type Line = BTreeMap<String, String>;

/// The lines of one log target.
#[derive(Clone)]
pub(crate) struct Log {
    target: &'static str,
    lines: Arc<Mutex<Vec<Line>>>,
}

struct Fields<'a>(&'a mut Line);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(
            field.name().to_owned(),
            format!("{value:?}").trim_matches('"').to_owned(),
        );
    }
}

impl<S: tracing::Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == self.target {
            let mut line = Line::new();
            event.record(&mut Fields(&mut line));
            self.lines.lock().unwrap().push(line);
        }
    }
}

impl Log {
    /// Listens on this thread, which is where a test's tasks run, while the guards are there.
    pub(crate) fn listen(target: &'static str) -> (Self, (DefaultGuard, Dispatch)) {
        let log = Self {
            target,
            lines: Arc::default(),
        };
        let subscriber = tracing_subscriber::registry().with(log.clone());
        let guard = tracing::subscriber::set_default(subscriber);
        // Tests on other threads meet the line too, and nobody listens there. With a single dispatcher
        // in the process, tracing would take their word for everybody's.
        let other = Dispatch::new(tracing_subscriber::registry());
        tracing::callsite::rebuild_interest_cache();
        (log, (guard, other))
    }

    pub(crate) fn take(&self) -> Vec<Line> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }
}
