use super::*;

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
        .collect()
}

#[test]
fn soap_1_2_is_known_by_its_media_type() {
    for (media, is) in [
        ("application/soap+xml", true),
        ("Application/SOAP+xml; charset=utf-8; action=\"a\"", true),
        ("application/soap+xml-not", false),
        ("application/soap", false),
        ("text/xml", false),
    ] {
        assert_eq!(is_soap12(&map(&[("content-type", media)])), is, "{media}");
    }
    assert!(!is_soap12(&HeaderMap::new()));
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    headers.keys().map(HeaderName::as_str).collect()
}

#[test]
fn what_belongs_to_one_connection_or_speaks_for_a_proxy_does_not_reach_the_upstream() {
    let dropped = [
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authorization",
        "Proxy-Authenticate",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
        "HTTP2-Settings",
        "Content-Length",
        "Host",
        "Expect",
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Anything",
        "X_Forwarded_For",
        "X-Forwarded",
        "X-Real-IP",
        "X-Original-URL",
        "X_Original_Url",
        "X-Rewrite-URL",
        "X-HTTP-Method",
        "X-HTTP-Method-Override",
        "X-Method-Override",
        "X-Method",
        "X-Host",
        "X-HTTP-Host-Override",
        "Client-IP",
        "Fastly-Client-IP",
        "Forwarded-For",
        "Culvert-Authorization",
        "Culvert-Call",
        "Culvert-Anything",
        "Culvert_Call",
    ];
    for name in dropped {
        let headers = of_request(map(&[(name, "x"), ("Accept", "y")]), false);
        assert_eq!(names(&headers), ["accept"], "{name}");
    }
}

#[test]
fn what_belongs_to_the_upstream_passes_untouched_and_in_order() {
    let fields = [
        ("authorization", "Basic eDp5"),
        ("cookie", "a=b"),
        ("cookie", "c=d"),
        ("vmware-api-session-id", "s"),
        ("x-xsrf-token", "t"),
        ("soapaction", "urn:vim25/8.0"),
        ("x-forward", "x"),
        ("teapot", "x"),
        ("via", "1.1 x"),
    ];
    assert_eq!(of_request(map(&fields), true), map(&fields));
    let answer = [
        ("set-cookie", "a=b; Path=/"),
        ("set-cookie", "c=d"),
        ("date", "x"),
    ];
    let mut passed = of_response(map(&answer), true, Some("a--b.c"));
    assert_eq!(passed.remove("via").unwrap(), "1.1 culvert");
    assert_eq!(passed, map(&answer));
    let teed = of_request(map(&[("te", "gzip, Trailers")]), false);
    assert_eq!(teed, map(&[("te", "trailers")]));
}

#[test]
fn what_connection_names_is_removed_wherever_and_however_it_is_named() {
    let fields = [
        ("connection", "close, X-One ,"),
        ("connection", "x-TWO"),
        ("x-one", "1"),
        ("x-two", "2"),
        ("x-three", "3"),
    ];
    assert_eq!(names(&of_request(map(&fields), false)), ["x-three"]);
    assert_eq!(
        names(&of_response(map(&fields), false, Some("a"))),
        ["x-three", "via"]
    );
}

/// What is kept of such a head is what it has, not what it names: each word and each field is looked up
/// once.
#[test]
fn thousands_of_names_in_connection_take_no_more_room_than_the_fields_that_are_there() {
    let words = (0..10_000).map(|number| format!("x-{number},X-ONE,@"));
    let words = words.collect::<Vec<_>>().join(", ");
    let fields = map(&[("connection", &words), ("x-one", "1"), ("x-three", "3")]);
    assert_eq!(Named::of(&fields).0.len(), 1);
    assert_eq!(names(&of_request(fields, false)), ["x-three"]);
}

#[test]
fn an_answer_cannot_speak_for_the_relay_or_lead_the_caller_elsewhere() {
    for name in [
        "Culvert-Call",
        "Alt-Svc",
        "Proxy-Authenticate",
        "Proxy-Status",
        "Connection",
        "Upgrade",
    ] {
        let headers = of_response(map(&[(name, "x"), ("ETag", "y")]), false, None);
        assert_eq!(names(&headers), ["etag", "via"], "{name}");
    }
}

#[test]
fn trailer_passes_only_where_trailers_can_follow() {
    let fields = map(&[("trailer", "x-sum")]);
    assert_eq!(names(&of_request(fields.clone(), true)), ["trailer"]);
    assert_eq!(names(&of_request(fields, false)), [""; 0]);
}

#[test]
fn a_cookie_stays_with_the_host_that_was_called() {
    let cookies = map(&[
        ("set-cookie", "a=1; Domain=relay.example.com; Path=/"),
        ("set-cookie", "b=2; domain = .Example.com"),
        ("set-cookie", "c=3; Domain=vc--acme.relay.example.com"),
        ("set-cookie", "d=4; Secure"),
        ("set-cookie", "e=domain=x; Path=/"),
    ]);
    let own = of_response(cookies.clone(), true, None);
    assert_eq!(own.get_all(SET_COOKIE).iter().count(), 5);
    let headers = of_response(cookies, true, Some("VC--acme.relay.example.com"));
    let kept: Vec<_> = headers
        .get_all(SET_COOKIE)
        .iter()
        .map(|c| &c.as_bytes()[..1])
        .collect();
    assert_eq!(kept, [b"c", b"d", b"e"]);
}

#[test]
fn trailers_cannot_say_what_only_a_head_may() {
    let fields = [
        ("x-checksum", "1"),
        ("grpc-status", "0"),
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        ("authorization", "x"),
        ("host", "x"),
        ("set-cookie", "x"),
        ("x-forwarded-for", "x"),
        ("culvert-call", "x"),
        ("trailer", "x"),
    ];
    assert_eq!(
        names(&of_trailers(map(&fields))),
        ["x-checksum", "grpc-status"]
    );
}
