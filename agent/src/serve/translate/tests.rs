//! Names in headers, both ways.

use culvert_config::endpoint::Trust;

use super::*;
use crate::testing::endpoint;

fn names() -> LocalNames {
    let mut endpoints = [
        ("vc", "https://vc.sddc.local"),
        ("esx1", "https://esx1.sddc.local:8443"),
        ("old", "http://old.sddc.local"),
        ("same", "https://same.sddc.local"),
        ("way", "https://way.sddc.local"),
        ("also", "https://vc.sddc.local"),
    ]
    .map(|(name, upstream)| {
        let mut endpoint = endpoint(upstream, Trust::SystemRoots);
        endpoint.name = EndpointName::new(name).unwrap();
        endpoint
    });
    endpoints[3].host = HostHeader::Preserve;
    endpoints[4].modes = vec![Mode::Connect];
    LocalNames::of(&endpoints)
}

/// Translates a header of a call to `vc` of tenant acme.
fn translated(
    authority: &'static str,
    (name, value): (&'static str, &str),
    by: impl Fn(&mut Translation<'_>, &mut HeaderMap),
) -> String {
    let (endpoint, tenant) = (
        EndpointName::new("vc").unwrap(),
        TenantName::new("acme").unwrap(),
    );
    let (names, authority) = (names(), Bytes::from_static(authority.as_bytes()));
    let mut headers = HeaderMap::new();
    headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    by(
        &mut names.between(&endpoint, &tenant, &authority).unwrap(),
        &mut headers,
    );
    String::from_utf8(headers[name].as_bytes().to_vec()).unwrap()
}

const PUBLIC: &str = "VC--acme.relay.example:8443";

fn answer(authority: &'static str, name: &'static str, value: &str) -> String {
    translated(authority, (name, value), |by, headers| by.answer(headers))
}

fn request(authority: &'static str, name: &'static str, value: &str) -> String {
    translated(authority, (name, value), |by, headers| by.request(headers))
}

/// Older applications write what they like into cookies, and paths as they are shown.
#[test]
fn letters_beyond_ascii_stay_as_they_are() {
    for (name, from, to) in [
        (
            "set-cookie",
            "n=\u{e4}; Domain=vc.sddc.local; Path=/",
            "n=\u{e4}; Domain=VC--acme.relay.example; Path=/",
        ),
        (
            "location",
            "https://vc.sddc.local/x/\u{e4}",
            "https://vc--acme.relay.example:8443/x/\u{e4}",
        ),
    ] {
        let translated = answer(PUBLIC, name, from);
        assert_eq!(translated.to_lowercase(), to.to_lowercase());
    }
}

#[test]
fn a_redirect_leads_to_the_public_name_of_this_or_another_endpoint() {
    let public = "https://vc--acme.relay.example:8443";
    for (from, to) in [
        (
            "https://vc.sddc.local/ui?a=b#c",
            format!("{public}/ui?a=b#c"),
        ),
        ("HTTPS://VC.sddc.local", public.to_owned()),
        // An endpoint that takes no calls by its host name.
        (
            "https://way.sddc.local/x",
            "https://way.sddc.local/x".to_owned(),
        ),
        ("https://vc.sddc.local:443/", format!("{public}/")),
        // The same server, which does not know that TLS ends elsewhere.
        ("http://vc.sddc.local/ui", format!("{public}/ui")),
        (
            "//vc.sddc.local/ui",
            "//vc--acme.relay.example:8443/ui".into(),
        ),
        (
            "https://esx1.sddc.local:8443/nfc/1",
            "https://esx1--acme.relay.example:8443/nfc/1".into(),
        ),
        (
            "http://old.sddc.local/x",
            "https://old--acme.relay.example:8443/x".into(),
        ),
    ] {
        assert_eq!(answer(PUBLIC, "location", from), to, "{from}");
        assert_eq!(answer(PUBLIC, "content-location", from), to, "{from}");
    }
    let refresh = answer(PUBLIC, "refresh", "5; URL=https://vc.sddc.local/ui");
    assert_eq!(refresh, format!("5; URL={public}/ui"));
    let origin = answer(
        PUBLIC,
        "access-control-allow-origin",
        "https://vc.sddc.local",
    );
    assert_eq!(origin, public);
}

/// The page is another endpoint's with the same upstream, and only its own name opens the answer to it.
#[test]
fn an_origin_that_is_allowed_is_the_one_that_the_request_came_from() {
    let allowed = |from: &'static str, upstreams: &'static str| {
        let both = ("origin", from);
        translated(PUBLIC, both, |by, headers| {
            by.request(headers);
            let mut answer = HeaderMap::new();
            let value = HeaderValue::from_static(upstreams);
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
            by.answer(&mut answer);
            headers.insert(ORIGIN, answer.remove(ACCESS_CONTROL_ALLOW_ORIGIN).unwrap());
        })
    };
    let (own, also) = (
        "https://vc--acme.relay.example:8443",
        "https://also--acme.relay.example:8443",
    );
    let esx = "https://esx1--acme.relay.example:8443";
    for (from, upstreams, to) in [
        (own, "https://vc.sddc.local", own),
        (also, "https://vc.sddc.local", also),
        (also, "https://esx1.sddc.local:8443", esx),
        (esx, "https://vc.sddc.local", own),
        (esx, "https://esx1.sddc.local:8443", esx),
        ("https://elsewhere.example", "https://vc.sddc.local", own),
        (also, "*", "*"),
        (also, "null", "null"),
        (
            also,
            "https://elsewhere.example",
            "https://elsewhere.example",
        ),
    ] {
        assert_eq!(allowed(from, upstreams), to, "{from} {upstreams}");
    }
}

#[test]
fn what_is_not_this_agents_stays_as_it_is() {
    for value in [
        "/ui",
        "ui",
        "",
        "*",
        "null",
        "https://elsewhere.example/vc.sddc.local",
        "https://vc.sddc.local.evil.example/",
        "https://vc.sddc.local:5480/",
        "https://esx1.sddc.local/",
        "https://user@vc.sddc.local/",
        "https://vc.sddc.local\\@evil.example/",
        "https://same.sddc.local/",
        "ftp://vc.sddc.local/",
    ] {
        let to = answer(PUBLIC, "location", value);
        let changed = to.starts_with("https://vc--acme.relay.example:8443\\@evil");
        assert!(to == value || changed, "{value} became {to}");
    }
    // Under a name of another form nobody knows what the others are called.
    assert_eq!(
        answer(
            "vcenter.customer.example",
            "location",
            "https://vc.sddc.local/"
        ),
        "https://vcenter.customer.example/"
    );
    let other = "https://esx1.sddc.local:8443/";
    assert_eq!(answer("vcenter.customer.example", "location", other), other);
}

#[test]
fn a_cookie_of_the_local_name_or_its_domain_is_one_of_the_public_name() {
    for (from, to) in [
        (
            "a=b; Domain=vc.sddc.local; Path=/",
            "a=b; Domain=vc--acme.relay.example; Path=/",
        ),
        (
            "a=b; Path=/;domain=.SDDC.local",
            "a=b; Path=/; Domain=vc--acme.relay.example",
        ),
        ("a=b; Path=/; Secure", "a=b; Path=/; Secure"),
        (
            "a=b; Domain=elsewhere.example",
            "a=b; Domain=elsewhere.example",
        ),
        ("a=b; Domain=c.sddc.local", "a=b; Domain=c.sddc.local"),
        ("domain=vc.sddc.local", "domain=vc.sddc.local"),
        ("a=b; Domain=", "a=b; Domain="),
    ] {
        assert_eq!(answer(PUBLIC, "set-cookie", from), to, "{from}");
    }
}

#[test]
fn what_webdav_names_beside_its_target_is_at_the_local_name() {
    let destination = |from| request(PUBLIC, "destination", from);
    for (from, to) in [
        (
            "https://vc--acme.relay.example:8443/dav/a%20b",
            "https://vc.sddc.local/dav/a%20b",
        ),
        (
            "https://esx1--acme.relay.example:8443/dav/",
            "https://esx1.sddc.local:8443/dav/",
        ),
        ("/dav/b", "/dav/b"),
        ("https://elsewhere.example/b", "https://elsewhere.example/b"),
    ] {
        assert_eq!(destination(from), to);
    }
    let lock = "(<urn:uuid:1> [\"a<b>\"]) (Not <DAV:no-lock>)";
    let tagged = |name: &str| format!("<https://{name}/dav/a> {lock} <https://{name}/b> {lock}");
    assert_eq!(
        request(PUBLIC, "if", &tagged("vc--acme.relay.example:8443")),
        tagged("vc.sddc.local")
    );
    for same in [
        lock,
        "<https://elsewhere.example/a> (<urn:uuid:1>)",
        "<<>",
        "",
    ] {
        assert_eq!(request(PUBLIC, "if", same), same);
    }
}

#[test]
fn a_request_from_a_public_page_comes_from_the_local_one() {
    for (from, to) in [
        (
            "https://vc--acme.relay.example:8443",
            "https://vc.sddc.local",
        ),
        (
            "https://esx1--acme.relay.example:8443/a?b",
            "https://esx1.sddc.local:8443/a?b",
        ),
        ("null", "null"),
        ("https://elsewhere.example", "https://elsewhere.example"),
        (
            "http://vc--acme.relay.example:8443",
            "http://vc--acme.relay.example:8443",
        ),
        (
            "https://esx1--globex.relay.example:8443/",
            "https://esx1--globex.relay.example:8443/",
        ),
        (
            "https://vc--acme.relay.example/",
            "https://vc--acme.relay.example/",
        ),
    ] {
        assert_eq!(request(PUBLIC, "origin", from), to);
        assert_eq!(request(PUBLIC, "referer", from), to);
    }
    let default = "vc--acme.relay.example";
    let referer = request(default, "referer", "https://vc--acme.relay.example:443/x");
    assert_eq!(referer, "https://vc.sddc.local/x");
}
