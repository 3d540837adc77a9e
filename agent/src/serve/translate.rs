//! Public names for local ones and back, where an upstream is called by its own name.
//!
//! Such an upstream knows nothing of the name under which it is called: it puts its own into
//! redirects and cookies, and refuses requests that come from pages of another origin. Names are
//! translated in headers, never in bodies, and only those of endpoints of this agent.

#[cfg(test)]
mod tests;

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
