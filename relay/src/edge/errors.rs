//! The page that problem types point to: what each code means and what to do.

use bytes::Bytes;
use culvert_proto::code::ErrorCode;

/// The page of a relay of this domain, as HTML; one heading per code.
pub(crate) fn page(domain: &str) -> Bytes {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>Errors of {domain}</title><style>{STYLE}</style></head><body><main>\n\
         <h1>Errors of {domain}</h1>\n\
         <p>A call that got no answer from its upstream gets one of these. Its id \
         (<code>Culvert-Call</code>) is the same in the logs of relay and agent. A SOAP call that the agent refuses \
         gets a fault with status 500 in its place, and gRPC over HTTP/2 an answer of its own kind with status \
         200: both say the same in words.</p>\n"
    );
    for code in ErrorCode::ALL {
        page += &format!(
            "<h2 id=\"{code}\">{code}: {}</h2>\n<p>Status {}{}. {}</p>\n",
            code.title(),
            code.status(),
            match code {
                ErrorCode::Unauthenticated => " (407 to a CONNECT)",
                _ => "",
            },
            advice(*code),
        );
    }
    page += "</main></body></html>\n";
    page.into()
}

/// As wide as is good to read, in the browser's own light or dark colours; the heading that a problem's
/// type leads to is marked.
const STYLE: &str = "\
    :root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}\
    main{max-width:45rem;margin:0 auto;padding:0 1rem;overflow-wrap:anywhere}\
    h2{font-size:1.15rem;margin:1.75rem 0 .25rem}h2+p{margin-top:0}\
    :target{border-left:.25rem solid;padding-left:.5rem}";

fn advice(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BadRequest => {
            "The request itself cannot pass, and the detail says which part of it is wrong: repeated as it \
             is, it gets the same again. Mostly it is a character of the URL that must be escaped or that \
             the endpoint does not accept, an endpoint that takes no calls in this way (by its host name, \
             or by CONNECT), or a body that stopped coming or broke off. Nothing of it reached the data \
             centre, unless the error is in a body that was long under way."
        }
        ErrorCode::Unauthenticated => {
            "Send an access token of a trusted issuer as <code>Proxy-Authorization: Bearer \
             TOKEN</code> or <code>Culvert-Authorization: Bearer TOKEN</code>. \
             <code>Authorization</code> belongs to the upstream."
        }
        ErrorCode::Forbidden => {
            "The credential is valid, and not good for this call; the detail says why. It lacks the scope of \
             calling, or the endpoint is none of those that it is for: ask whoever issues it for another \
             one. Or the relay's operator has revoked its subject, its tenant or the endpoint, perhaps while \
             the call was in progress: ask that operator. To try again does not help."
        }
        ErrorCode::UnknownEndpoint => {
            "By host name: the host is ENDPOINT--TENANT of this domain, with an endpoint that an agent of \
             your tenant has registered. By CONNECT: NAME:PORT is one that such an endpoint declares as \
             <code>connect</code>; a tool with this relay as its proxy asks for every name, so except others \
             with <code>NO_PROXY</code>. Endpoints of other tenants look the same as none, and so do those \
             whose agent has been away for longer than the relay remembers. Under this domain itself there is \
             no other page."
        }
        ErrorCode::PolicyDenied => {
            "The data centre's own policy does not allow this call. Ask those who run the agent; \
             <code>culvert-agent policy explain</code> shows them why."
        }
        ErrorCode::CallerUnverified => {
            "The agent could not verify who calls, although the relay could. It checks callers' tokens itself \
             and did not accept this one, or there was a client certificate in its place: the detail says \
             what to change, and the agent's audit log has the reason. Or the credential expired while the \
             call was in progress: call again with a new one; if that was new, the agent's clock is ahead."
        }
        ErrorCode::EndpointOffline => {
            "The endpoint is known, and its agent is not connected now; or this relay has just started, and \
             none of your agents has come back yet. Try again after the time in Retry-After; if it stays, \
             those who run the agent find the reason in its log and by <code>culvert-agent diagnose</code>."
        }
        ErrorCode::Overloaded => {
            "There is no room for the call at the moment; layer and detail say where. At the relay: calls of \
             the node or of the connection, calls that the agent takes at once, memory, or an issuer that it \
             cannot ask about the token. At the agent: <code>max_streams</code> of the endpoint, an audit log \
             that cannot be written, files that it may open, or an issuer whose keys it cannot get. Try again \
             after the time in Retry-After; if it stays, tell the operator of that layer."
        }
        ErrorCode::QuotaExceeded => {
            "From the relay: your tenant has as many calls in progress, or makes as many a second, as its \
             quota allows; calls of others of the tenant count too. From the agent: the <code>rate</code> of \
             the rule in the data centre's policy that allows the call is used up; the detail says for how \
             long. Try again after that or the time in Retry-After; for more, ask the relay's operator, or \
             those who run the agent."
        }
        ErrorCode::SessionLost => {
            "The tunnel ended before the answer; or, from the layer agent, the agent broke the call off. Where \
             the detail names a defect, tell those who run that layer. Whether the upstream has seen the call is not \
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
    fn the_page_is_for_any_screen_and_says_which_part_of_it_is_the_text() {
        let page = page("relay.example.com");
        let page = std::str::from_utf8(&page).unwrap();
        for what in [
            "<html lang=\"en\">",
            "<meta name=\"viewport\"",
            "color-scheme:light dark",
            "<main>",
            "Status 401 (407 to a CONNECT).",
        ] {
            assert!(page.contains(what), "{what}");
        }
    }

    #[test]
    fn every_problem_type_points_to_a_heading_with_advice() {
        let page = page("relay.example.com");
        let page = std::str::from_utf8(&page).unwrap();
        for code in ErrorCode::ALL {
            assert!(page.contains(&format!("<h2 id=\"{code}\">")), "{code}");
            assert_ne!(advice(*code), "See the detail of the answer.", "{code}");
        }
    }

    /// Codes that are given in several places, and a word for each of these.
    #[test]
    fn each_cause_of_a_code_is_among_its_advice() {
        for (code, words) in [
            (
                ErrorCode::BadRequest,
                &["escaped", "host name", "CONNECT", "stopped coming"][..],
            ),
            (ErrorCode::Forbidden, &["scope", "endpoint", "revoked"]),
            (ErrorCode::SessionLost, &["tunnel", "defect"]),
            (
                ErrorCode::UnknownEndpoint,
                &["ENDPOINT--TENANT", "NAME:PORT", "NO_PROXY", "remembers"],
            ),
            (
                ErrorCode::CallerUnverified,
                &["checks callers", "certificate", "expired", "clock"],
            ),
            (
                ErrorCode::EndpointOffline,
                &["not connected", "just started"],
            ),
            (
                ErrorCode::Overloaded,
                &["node", "issuer", "max_streams", "audit log", "files"],
            ),
            (
                ErrorCode::QuotaExceeded,
                &["in progress", "a second", "rate", "rule"],
            ),
        ] {
            for word in words {
                assert!(advice(code).contains(word), "{code}: {word}");
            }
        }
    }
}
