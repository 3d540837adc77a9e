//! The trace that a call belongs to (W3C Trace Context): the caller's goes on, or one begins.

use culvert_proto::head::CallId;
use culvert_proto::trace::{TraceContext, TraceId};
use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Names the relay as the parent of whatever comes behind it, in the caller's trace. Where there
/// is none, or one that cannot be read, a trace begins that has the call's id; what such a caller
/// says of the state of its trace is dropped with it.
pub fn carry_on(headers: &mut HeaderMap, call: CallId) -> Option<TraceId> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let context = match (given.next(), given.next()) {
        (Some(only), None) => TraceContext::parse(only.as_bytes()),
        _ => None,
    };
    let context = match context {
        Some(context) => context,
        None => {
            headers.remove(TRACESTATE);
            let trace = TraceId::new(call.0)?;
            TraceContext { trace, flags: 0 }
        }
    };
    let parent = context.traceparent(fastrand::u64(1..));
    headers.insert(TRACEPARENT, HeaderValue::from_bytes(&parent).ok()?);
    Some(context.trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: CallId = CallId([0x11; 16]);
    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn carried(fields: &[(HeaderName, &'static str)]) -> (String, String, HeaderMap) {
        let fields = fields.iter().cloned();
        let mut headers: HeaderMap = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        let trace = carry_on(&mut headers, CALL).unwrap().to_string();
        let parents = headers.get_all(TRACEPARENT).iter().collect::<Vec<_>>();
        assert_eq!(parents.len(), 1);
        let parent = parents[0].to_str().unwrap().to_owned();
        assert!(TraceContext::parse(parent.as_bytes()).is_some(), "{parent}");
        (trace, parent, headers)
    }

    #[test]
    fn a_callers_trace_goes_on_with_the_relay_as_parent() {
        let (trace, parent, headers) = carried(&[
            (TRACEPARENT, GIVEN),
            (TRACESTATE, "a=1"),
            (TRACESTATE, "b=2"),
        ]);
        assert_eq!(trace, &GIVEN[3..35]);
        assert_eq!(parent[..35], GIVEN[..35]);
        assert_ne!(parent[36..52], GIVEN[36..52]);
        assert_eq!(parent[52..], GIVEN[52..]);
        assert_eq!(headers.get_all(TRACESTATE).iter().count(), 2);
    }

    #[test]
    fn a_trace_begins_where_there_is_none_that_can_be_read() {
        for given in [
            &[(TRACESTATE, "a=1")][..],
            &[(TRACEPARENT, "garbage"), (TRACESTATE, "a=1")],
            &[(TRACEPARENT, GIVEN), (TRACEPARENT, GIVEN)],
        ] {
            let (trace, _, headers) = carried(given);
            assert_eq!(trace, CALL.to_string());
            assert!(!headers.contains_key(TRACESTATE));
        }
    }
}
