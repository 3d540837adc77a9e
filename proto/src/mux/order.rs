//! The order of heads and data in one direction of a stream.
//!
//! ```text
//!  opener:                          Data* [Trailers] end
//!  acceptor:  [Taken] Interim{0..=10} (Response | Refusal)  Data* [Trailers] end
//! ```
//! A refusal is followed by nothing but the end. A direction without any head is a plain flow of
//! bytes: whether a call needs a head is not the multiplexer's to say.

use crate::head::Head;
use crate::limits::MAX_INTERIM;

/// What came last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    Taken,
    Interim(u8),
    Answer,
    Data,
    /// Refusal or trailers: nothing but the end follows.
    Final,
}

/// Where a direction stands.
#[derive(Debug)]
pub(super) struct Order {
    /// The sender opened the stream: it has no answers to give.
    opener: bool,
    last: Last,
}

/// A head, or data, where it cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfOrder;

impl Order {
    pub(super) fn new(opener: bool) -> Self {
        Self {
            opener,
            last: Last::Nothing,
        }
    }

    pub(super) fn on_head(&mut self, head: &Head) -> Result<(), OutOfOrder> {
        self.last = match (head, self.last) {
            (_, Last::Final) => return Err(OutOfOrder),
            (Head::Trailers(_), Last::Taken | Last::Interim(_)) => return Err(OutOfOrder),
            (Head::Trailers(_), Last::Nothing) if !self.opener => return Err(OutOfOrder),
            (Head::Trailers(_), _) => Last::Final,
            _ if self.opener => return Err(OutOfOrder),
            (_, Last::Answer | Last::Data) => return Err(OutOfOrder),
            (Head::Taken, Last::Nothing) => Last::Taken,
            (Head::Taken, _) => return Err(OutOfOrder),
            (Head::Interim(_), Last::Nothing | Last::Taken) => Last::Interim(1),
            (Head::Interim(_), Last::Interim(count)) if count < MAX_INTERIM => {
                Last::Interim(count + 1)
            }
            (Head::Interim(_), Last::Interim(_)) => return Err(OutOfOrder),
            (Head::Response(_), _) => Last::Answer,
            (Head::Refusal(_), _) => Last::Final,
        };
        Ok(())
    }

    pub(super) fn on_data(&mut self) -> Result<(), OutOfOrder> {
        match self.last {
            Last::Final | Last::Taken | Last::Interim(_) => Err(OutOfOrder),
            Last::Nothing | Last::Answer | Last::Data => {
                self.last = Last::Data;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::code::ErrorCode;
    use crate::head::{BodyLength, Refusal, ResponseHead};

    /// `k`: taken, `i`: interim, `a`: answer, `r`: refusal, `t`: trailers, `d`: data.
    fn take(opener: bool, steps: &str) -> bool {
        let response = |status| ResponseHead {
            status,
            phrase: None,
            headers: HeaderMap::new(),
            body: BodyLength::Unknown,
        };
        let refusal = || Refusal {
            code: ErrorCode::PolicyDenied,
            detail: String::new(),
            rule: None,
            soap: false,
        };
        let mut order = Order::new(opener);
        steps.chars().all(|step| {
            match step {
                'k' => order.on_head(&Head::Taken),
                'i' => order.on_head(&Head::Interim(response(StatusCode::PROCESSING))),
                'a' => order.on_head(&Head::Response(response(StatusCode::OK))),
                'r' => order.on_head(&Head::Refusal(refusal())),
                't' => order.on_head(&Head::Trailers(HeaderMap::new())),
                _ => order.on_data(),
            }
            .is_ok()
        })
    }

    #[test]
    fn heads_and_data_have_one_order() {
        let acceptor = [
            ("", true),
            ("a", true),
            ("ad", true),
            ("addd", true),
            ("addt", true),
            ("at", true),
            ("ia", true),
            ("iiiiiiiiiia", true),
            ("r", true),
            ("iir", true),
            ("d", true),
            ("dt", true),
            ("kad", true),
            ("kir", true),
            ("kk", false),
            ("ik", false),
            ("ak", false),
            ("kd", false),
            ("kt", false),
            ("iiiiiiiiiii", false),
            ("aa", false),
            ("ar", false),
            ("ra", false),
            ("rd", false),
            ("rt", false),
            ("id", false),
            ("it", false),
            ("t", false),
            ("ai", false),
            ("atd", false),
            ("att", false),
            ("da", false),
            ("dr", false),
            ("di", false),
        ];
        for (steps, allowed) in acceptor {
            assert_eq!(take(false, steps), allowed, "acceptor: {steps}");
        }
        let opener = [
            ("", true),
            ("d", true),
            ("dd", true),
            ("ddt", true),
            ("t", true),
            ("k", false),
            ("i", false),
            ("a", false),
            ("r", false),
            ("da", false),
            ("td", false),
            ("tt", false),
        ];
        for (steps, allowed) in opener {
            assert_eq!(take(true, steps), allowed, "opener: {steps}");
        }
    }
}
