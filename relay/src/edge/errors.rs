//! The page that problem types point to: what each code means and what to do.

use bytes::Bytes;
use culvert_proto::code::ErrorCode;

/// The page of a relay of this domain, as HTML; one heading per code.
pub(crate) fn page(domain: &str) -> Bytes {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>Errors of {domain}</title></head><body>\n<h1>Errors of {domain}</h1>\n\
         <p>A call that got no answer from its upstream gets one of these. Its id \
         (<code>Culvert-Call</code>) is the same in the logs of relay and agent.</p>\n"
    );
    for code in ErrorCode::ALL {
        page += &format!(
            "<h2 id=\"{code}\">{code}: {}</h2>\n<p>Status {}. {}</p>\n",
            code.title(),
            code.status(),
            advice(*code),
        );
    }
    page += "</body></html>\n";
    page.into()
}

fn advice(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BadRequest => {
            "The detail says which part of the request is wrong. Nothing of it reached the data \
             centre, unless the error is in a body that was long under way."
        }
        ErrorCode::Unauthenticated => {
            "Send an access token of a trusted issuer as <code>Proxy-Authorization: Bearer \
             TOKEN</code> or <code>Culvert-Authorization: Bearer TOKEN</code>. \
             <code>Authorization</code> belongs to the upstream."
        }
        ErrorCode::Forbidden => {
            "The token is valid, and not good for this call: it lacks the scope, or the endpoint."
        }
        ErrorCode::UnknownEndpoint => {
            "The host is ENDPOINT--TENANT of this domain, with an endpoint that an agent of your \
             tenant has registered. Endpoints of other tenants look the same as none."
        }
        ErrorCode::PolicyDenied => {
            "The data centre's own policy does not allow this call. Ask those who run the agent; \
             <code>culvert-agent policy explain</code> shows them why."
        }
        ErrorCode::CallerUnverified => {
            "The agent checks callers' tokens itself and did not accept this one."
        }
        ErrorCode::EndpointOffline => {
            "The endpoint is known, and its agent is not connected now. Try again after the time \
             in Retry-After; if it stays, look at the agent."
        }
        ErrorCode::Overloaded => "A limit is reached. Try again after the time in Retry-After.",
        ErrorCode::QuotaExceeded => {
            "The tenant uses all that it may. Try again after the time in Retry-After."
        }
        ErrorCode::SessionLost => {
            "The tunnel ended before the answer. Whether the upstream has seen the call is not \
             known: repeat it only if that does no harm."
        }
        ErrorCode::UpstreamUnreachable => {
            "The agent cannot connect to the local API; <code>culvert-agent diagnose</code> says \
             why."
        }
        ErrorCode::UpstreamTls => {
            "The agent does not accept the certificate of the local API: look at its \
             <code>ca</code> or <code>pin_sha256</code>."
        }
        ErrorCode::UpstreamProtocol => {
            "What the local API sent is not a whole HTTP answer; nothing of it was passed on."
        }
        ErrorCode::UpstreamTimeout => "The local API did not answer within the endpoint's limit.",
        ErrorCode::RateLimited => {
            "Too many wrong credentials came from this address, perhaps from somebody else behind it, or \
             too many at once. Connections and tokens that were good before go on; anything else waits for the time in \
             Retry-After."
        }
        _ => "See the detail of the answer.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_type_points_to_a_heading_with_advice() {
        let page = page("relay.example.com");
        let page = std::str::from_utf8(&page).unwrap();
        for code in ErrorCode::ALL {
            assert!(page.contains(&format!("<h2 id=\"{code}\">")), "{code}");
            assert_ne!(advice(*code), "See the detail of the answer.", "{code}");
        }
    }
}
