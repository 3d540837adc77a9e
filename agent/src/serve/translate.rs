//! Public names for local ones and back, where an upstream is called by its own name.
//!
//! Such an upstream knows nothing of the name under which it is called: it puts its own into
//! redirects and cookies, and refuses requests that come from pages of another origin. Names are
//! translated in headers, never in bodies, and only those of endpoints of this agent.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;
use culvert_config::endpoint::{Endpoint, HostHeader};
use culvert_proto::head::Mode;
use culvert_proto::names::{EndpointName, TenantName};
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_LOCATION, HeaderMap, HeaderName, HeaderValue,
    InvalidHeaderValue, LOCATION, ORIGIN, REFERER, SET_COOKIE,
};

use super::call::Call;

const REFRESH: HeaderName = HeaderName::from_static("refresh");
/// WebDAV's: where a COPY or MOVE leads, and conditions on resources (RFC 4918, 10.3 and 10.4).
pub(super) const DESTINATION: HeaderName = HeaderName::from_static("destination");
const IF: HeaderName = HeaderName::from_static("if");

/// What the endpoints of an agent are called in the data centre: those that are called by that
/// name.
#[derive(Debug)]
pub(super) struct LocalNames(HashMap<EndpointName, LocalName>);

#[derive(Debug)]
struct LocalName {
    scheme: &'static str,
    host: String,
    port: u16,
}

impl LocalNames {
    pub(super) fn of(endpoints: &[Endpoint]) -> Self {
        let local = |endpoint: &Endpoint| {
            let url = &endpoint.upstream;
            let local = LocalName {
                scheme: if url.scheme() == "http" {
                    "http"
                } else {
                    "https"
                },
                host: url.host_str()?.to_ascii_lowercase(),
                port: url.port_or_known_default()?,
            };
            Some((endpoint.name.clone(), local))
        };
        // A name by which nobody is served leads nowhere.
        let by_own_name = |endpoint: &&Endpoint| {
            endpoint.host == HostHeader::Rewrite && endpoint.modes.contains(&Mode::Http)
        };
        Self(
            endpoints
                .iter()
                .filter(by_own_name)
                .filter_map(local)
                .collect(),
        )
    }

    /// What a call must be translated by; `None` where its caller and its upstream use one name.
    pub(super) fn for_call<'c>(
        &'c self,
        call: &'c Call,
        authority: &Bytes,
    ) -> Option<Translation<'c>> {
        if call.is_inside() {
            return None;
        }
        self.between(&call.endpoint, &call.caller.tenant, authority)
    }

    fn between<'c>(
        &'c self,
        endpoint: &'c EndpointName,
        tenant: &'c TenantName,
        authority: &Bytes,
    ) -> Option<Translation<'c>> {
        Some(Translation {
            names: self,
            own: self.0.get(endpoint)?,
            endpoint,
            tenant,
            authority: authority.clone(),
            origin: None,
        })
    }
}

/// The names of one call. Costs nothing where there is nothing to translate.
#[derive(Debug)]
pub(super) struct Translation<'c> {
    names: &'c LocalNames,
    own: &'c LocalName,
    endpoint: &'c EndpointName,
    tenant: &'c TenantName,
    /// The name under which the caller called.
    authority: Bytes,
    /// The origin that the request named, where it is a public name of this agent's, and the local one.
    origin: Option<(String, &'c LocalName)>,
}

impl<'c> Translation<'c> {
    /// Lets a request come from where the upstream thinks that it comes from.
    pub(super) fn request(&mut self, headers: &mut HeaderMap) {
        const NAMES: [HeaderName; 3] = [ORIGIN, REFERER, DESTINATION];
        if let Some(words) = self.words(headers, &NAMES) {
            let origin = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
            self.origin = origin.and_then(|origin| {
                let local = words.local(&Authority::of(origin)?)?;
                Some((origin.to_owned(), local))
            });
            for name in NAMES {
                translate(headers, &name, |value| words.to_local(value));
            }
        }
        if let Some(words) = self.words(headers, &[IF]) {
            translate(headers, &IF, |value| words.conditions(value));
        }
    }

    /// Lets an answer lead to where the caller can go.
    pub(super) fn answer(&self, headers: &mut HeaderMap) {
        const NAMES: [HeaderName; 3] = [LOCATION, CONTENT_LOCATION, ACCESS_CONTROL_ALLOW_ORIGIN];
        if let Some(words) = self.words(headers, &NAMES) {
            translate(headers, &ACCESS_CONTROL_ALLOW_ORIGIN, |value| {
                self.allowed_origin(value)
                    .or_else(|| words.to_public(value))
            });
            for name in [LOCATION, CONTENT_LOCATION] {
                translate(headers, &name, |value| words.to_public(value));
            }
        }
        if let Some(words) = self.words(headers, &[REFRESH, SET_COOKIE]) {
            translate(headers, &REFRESH, |value| words.refresh(value));
            translate(headers, &SET_COOKIE, |value| words.cookie(value));
        }
    }

    /// The request's own origin, if this is a local name for it. Other endpoints may have the same upstream,
    /// and a browser lets in no page but the one that is named.
    fn allowed_origin(&self, value: &str) -> Option<String> {
        let (public, local) = self.origin.as_ref()?;
        local.is_at(&Authority::of(value)?).then(|| public.clone())
    }

    /// The names, if any of these headers is there.
    fn words(&self, headers: &HeaderMap, wanted: &[HeaderName]) -> Option<Words<'c>> {
        if !wanted.iter().any(|name| headers.contains_key(name)) {
            return None;
        }
        let Self {
            endpoint, tenant, ..
        } = self;
        let public = std::str::from_utf8(&self.authority)
            .ok()?
            .to_ascii_lowercase();
        // Names of other endpoints follow from this one only where it has the usual form.
        let rest = public.strip_prefix(&format!("{endpoint}--{tenant}."));
        Some(Words {
            names: self.names,
            own: self.own,
            siblings: rest.map(|rest| format!("--{tenant}.{rest}")),
            public,
        })
    }
}

impl LocalName {
    fn is_at(&self, url: &Authority<'_>) -> bool {
        let default = if self.scheme == "http" { 80 } else { 443 };
        self.host.eq_ignore_ascii_case(url.host)
            && match url.port {
                Some(port) => port == self.port,
                // http:// or https:// without a port: the same server, as it sees itself.
                None => self.port == default,
            }
    }

    fn origin(&self) -> String {
        let Self {
            scheme, host, port, ..
        } = self;
        match (*scheme, port) {
            ("http", 80) | ("https", 443) => format!("{scheme}://{host}"),
            _ => format!("{scheme}://{host}:{port}"),
        }
    }
}

struct Words<'c> {
    names: &'c LocalNames,
    own: &'c LocalName,
    /// The name under which the caller called, with the port if there is one.
    public: String,
    /// What follows the endpoint's name in the public names of this agent's others.
    siblings: Option<String>,
}

impl<'c> Words<'c> {
    /// What a URL at a public name of this agent's stands for.
    fn local(&self, url: &Authority<'_>) -> Option<&'c LocalName> {
        if url.scheme == Some("http") {
            return None;
        }
        let called = |name: &str| Authority::of(&format!("//{name}")).map(|own| own.is(url));
        if called(&self.public)? {
            return Some(self.own);
        }
        let siblings = self.siblings.as_ref()?;
        let named = |(endpoint, _): &(&EndpointName, &LocalName)| {
            called(&format!("{endpoint}{siblings}")) == Some(true)
        };
        self.names.0.iter().find(named).map(|(_, local)| local)
    }

    /// A URL at a public name of this agent's, at the local one.
    fn to_local(&self, url: &str) -> Option<String> {
        let url = Authority::of(url)?;
        Some(self.local(&url)?.origin() + url.rest)
    }

    /// `<https://...> (<urn:uuid:...>)`: what is not a URL at a public name stays.
    fn conditions(&self, value: &str) -> Option<String> {
        let mut parts = value.split('<').map(ToOwned::to_owned).collect::<Vec<_>>();
        let mut changed = false;
        for part in parts.iter_mut().skip(1) {
            if let Some((url, behind)) = part.split_once('>')
                && let Some(local) = self.to_local(url)
            {
                *part = format!("{local}>{behind}");
                changed = true;
            }
        }
        changed.then(|| parts.join("<"))
    }

    /// A URL at a local name of this agent's, at the public one.
    fn to_public(&self, url: &str) -> Option<String> {
        let found = Authority::of(url)?;
        let scheme = if found.scheme.is_some() { "https:" } else { "" };
        let rest = found.rest;
        if self.own.is_at(&found) {
            return Some(format!("{scheme}//{}{rest}", self.public));
        }
        let siblings = self.siblings.as_ref()?;
        // The first by name, where several have the same upstream.
        let at = self.names.0.iter().filter(|(_, local)| local.is_at(&found));
        let endpoint = at.map(|(endpoint, _)| endpoint).min()?;
        Some(format!("{scheme}//{endpoint}{siblings}{rest}"))
    }

    /// `5; url=https://...`
    fn refresh(&self, value: &str) -> Option<String> {
        let at = value.to_ascii_lowercase().find("url=")? + 4;
        let quoted = usize::from(value[at..].starts_with(['"', '\'']));
        let (before, url) = value.split_at(at + quoted);
        Some(before.to_owned() + &self.to_public(url)?)
    }

    /// A cookie for the upstream's own name, or for a domain that it lies in, is one for the
    /// public name: no other host of that domain is reached under it.
    fn cookie(&self, cookie: &str) -> Option<String> {
        let mut parts = cookie.split(';').map(ToOwned::to_owned).collect::<Vec<_>>();
        let mut changed = false;
        for part in parts.iter_mut().skip(1) {
            let Some((name, domain)) = part.split_once('=') else {
                continue;
            };
            let domain = domain.trim().trim_start_matches('.').to_ascii_lowercase();
            let above = self.own.host.strip_suffix(&domain);
            let covers = above.is_some_and(|above| above.is_empty() || above.ends_with('.'));
            if name.trim().eq_ignore_ascii_case("domain") && !domain.is_empty() && covers {
                let host = Authority::of(&format!("//{}", self.public))?
                    .host
                    .to_owned();
                *part = format!(" Domain={host}");
                changed = true;
            }
        }
        changed.then(|| parts.join(";"))
    }
}

/// Replaces the values of a header that `change` has something else for.
fn translate(headers: &mut HeaderMap, name: &HeaderName, change: impl Fn(&str) -> Option<String>) {
    let http::header::Entry::Occupied(mut entry) = headers.entry(name) else {
        return;
    };
    for value in entry.iter_mut() {
        let changed = change(&to_text(value));
        if let Some(Ok(mut changed)) = changed.map(|text| from_text(&text)) {
            changed.set_sensitive(value.is_sensitive());
            *value = changed;
        }
    }
}

/// A value's bytes as characters, one each: those that are not ASCII are nothing to translate, and stay as
/// they are.
fn to_text(value: &HeaderValue) -> Cow<'_, str> {
    match value.to_str() {
        Ok(text) => text.into(),
        Err(_) => value
            .as_bytes()
            .iter()
            .map(|byte| char::from(*byte))
            .collect(),
    }
}

/// The way back.
fn from_text(text: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    // What is put in are names and numbers.
    let byte = |character| u8::try_from(character).unwrap_or(b'?');
    HeaderValue::from_maybe_shared(text.chars().map(byte).collect::<Bytes>())
}

/// Where an absolute URL, or one without a scheme (`//host/path`), leads.
#[derive(Debug)]
pub(super) struct Authority<'u> {
    scheme: Option<&'static str>,
    host: &'u str,
    port: Option<u16>,
    /// What follows the authority.
    pub(super) rest: &'u str,
}

impl<'u> Authority<'u> {
    /// `None` for everything else, and for URLs with a user in them.
    pub(super) fn of(url: &'u str) -> Option<Self> {
        let begins = |prefix: &str| {
            url.get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        let (scheme, after) = if begins("https://") {
            (Some("https"), &url[8..])
        } else if begins("http://") {
            (Some("http"), &url[7..])
        } else {
            (None, url.strip_prefix("//")?)
        };
        let end = after.find(['/', '?', '#', '\\']).unwrap_or(after.len());
        let (authority, rest) = after.split_at(end);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, Some(port.parse().ok()?))
            }
            _ => (authority, None),
        };
        (!host.is_empty() && !host.contains('@')).then_some(Self {
            scheme,
            host,
            port,
            rest,
        })
    }

    /// Whether both lead to the same public name; 443 may be left out.
    fn is(&self, other: &Self) -> bool {
        self.host.eq_ignore_ascii_case(other.host)
            && self.port.unwrap_or(443) == other.port.unwrap_or(443)
    }
}

#[cfg(test)]
mod tests {
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
        let tagged =
            |name: &str| format!("<https://{name}/dav/a> {lock} <https://{name}/b> {lock}");
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
}
