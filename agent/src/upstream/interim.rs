//! Interim answers (1xx) on their way to the caller.

use std::sync::{Arc, Mutex, PoisonError};

use culvert_proto::head::{BodyLength, ResponseHead};
use http::{HeaderMap, StatusCode};

use super::connection::MAX_INTERIM;
use super::headers::strip_answer;

/// The interim answers to one request, from the connection to the call. Travels in the request's
/// extensions; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interims(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    count: usize,
    waiting: Vec<ResponseHead>,
}

impl Interims {
    /// The upstream has sent one.
    pub(super) fn on_interim(&self, status: StatusCode, headers: &HeaderMap) {
        self.with(|state| {
            state.count += 1;
            if state.count > MAX_INTERIM {
                return;
            }
            let mut headers = headers.clone();
            strip_answer(&mut headers);
            state.waiting.push(ResponseHead {
                status,
                phrase: None,
                headers,
                body: BodyLength::Empty,
            });
        });
    }

    /// Whether there were more of them than anybody needs.
    pub(super) fn are_too_many(&self) -> bool {
        self.with(|state| state.count > MAX_INTERIM)
    }

    /// Takes those that came since the last look.
    pub(crate) fn take(&self) -> Vec<ResponseHead> {
        self.with(|state| std::mem::take(&mut state.waiting))
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
