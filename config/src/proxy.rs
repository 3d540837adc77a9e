//! Corporate proxies: `relay.proxy`, `HTTPS_PROXY`, `NO_PROXY`.

mod no_proxy;

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, Serializer};
use url::{Host, Url};

use self::no_proxy::NoProxy;

/// Which proxy leads to which host.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    proxy: Option<Proxy>,
    /// Named by the file, and not found in the environment.
    is_configured: bool,
    direct: NoProxy,
}

/// An HTTP proxy that opens connections for others (CONNECT; RFC 9110, 9.3.6).
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Its name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User name and password for Basic (RFC 7617).
    pub credential: Option<(String, SecretString)>,
}

impl Proxies {
    /// `configured` goes before the environment's `HTTPS_PROXY`, and `NO_PROXY` holds for both.
    /// The error names the variable.
    pub(crate) fn new(configured: Option<Proxy>, environment: Environment) -> Result<Self, String> {
        let is_configured = configured.is_some();
        let proxy = match configured {
            Some(proxy) => Some(proxy),
            None => environment.proxy?,
        };
        Ok(Self {
            proxy,
            is_configured,
            direct: environment.direct,
        })
    }

    /// The proxy on the way to `host`, a name or an address without brackets.
    ///
    /// What the environment says of proxies is never meant for this machine's own addresses.
    pub fn for_host(&self, host: &str, port: u16) -> Option<&Proxy> {
        let proxy = self.proxy.as_ref()?;
        let is_direct =
            self.direct.covers(host, port) || !self.is_configured && is_this_machine(host);
        (!is_direct).then_some(proxy)
    }

    /// Whether there is none for anybody.
    pub fn is_empty(&self) -> bool {
        self.proxy.is_none()
    }
}

impl Proxy {
    /// As a URL with the credential, for a client that wants it so. Not to be shown.
    pub fn to_url(&self) -> Option<Url> {
        let mut url = Url::parse("http://proxy/").ok()?;
        url.set_host(Some(&bracketed(&self.host))).ok()?;
        url.set_port(Some(self.port)).ok()?;
        if let Some((user, password)) = &self.credential {
            url.set_username(user).ok()?;
            url.set_password(Some(password.expose_secret())).ok()?;
        }
        Some(url)
    }

    /// Takes `http://[USER[:PASSWORD]@]HOST[:PORT]`; the scheme may be left out. User and
    /// password are percent-decoded. The error says what is expected and shows no password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = "expected http://[USER:PASSWORD@]HOST[:PORT], and nothing after it";
        let with_scheme = match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}"),
        };
        // The text itself is not shown: a password in it may be what made it unreadable.
        let url = Url::parse(&with_scheme).map_err(|error| format!("{error}; {expected}"))?;
        if url.scheme() != "http" {
            let scheme = url.scheme();
            return Err(format!("found a proxy of kind {scheme:?}; {expected}"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(expected.to_owned());
        }
        let host = match url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err(expected.to_owned()),
        };
        let decoded = |text: &str, what: &str| match percent_decode_str(text).decode_utf8() {
            Ok(text) if !text.contains(|c: char| c.is_control()) => Ok(text.into_owned()),
            _ => Err(format!(
                "the {what} is not readable text once percent-decoded"
            )),
        };
        let user = decoded(url.username(), "user name")?;
        if user.contains(':') {
            return Err("the user name has a colon, which Basic cannot carry".to_owned());
        }
        let password = decoded(url.password().unwrap_or_default(), "password")?;
        let has_credential = !user.is_empty() || !password.is_empty();
        Ok(Self {
            host,
            port: url.port().unwrap_or(80),
            credential: has_credential.then(|| (user, password.into())),
        })
    }
}

/// As a URL, the password masked.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("http://")?;
        if let Some((user, _)) = &self.credential {
            write!(f, "{user}:***@")?;
        }
        write!(f, "{}:{}", bracketed(&self.host), self.port)
    }
}

/// A host as URLs have it.
fn bracketed(host: &str) -> Cow<'_, str> {
    match host.contains(':') {
        true => format!("[{host}]").into(),
        false => host.into(),
    }
}

impl Serialize for Proxies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.proxy {
            Some(proxy) => serializer.collect_str(proxy),
            None => serializer.serialize_none(),
        }
    }
}

/// What the environment says of proxies.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    /// Or what is wrong with the variable.
    proxy: Result<Option<Proxy>, String>,
    direct: NoProxy,
}

impl Environment {
    /// Reads `HTTPS_PROXY` and `NO_PROXY`; in lower case they go first.
    pub(crate) fn read(variables: &[(String, String)]) -> Self {
        let value = |upper: &str| {
            let lower = upper.to_ascii_lowercase();
            let named = |name: &str| variables.iter().find(|(have, _)| have == name);
            let (name, value) = named(&lower).or_else(|| named(upper))?;
            (!value.trim().is_empty()).then(|| (name.clone(), value.trim()))
        };
        let proxy = value("HTTPS_PROXY").map(|(name, text)| {
            Proxy::parse(text).map_err(|error| format!("the environment's {name}: {error}"))
        });
        Self {
            proxy: proxy.transpose(),
            direct: value("NO_PROXY")
                .map_or_else(NoProxy::default, |(_, text)| NoProxy::parse(text)),
        }
    }
}

fn is_this_machine(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_with_their_credentials_and_never_show_a_password() {
        for (text, host, port, credential) in [
            ("http://proxy.corp:3128", "proxy.corp", 3128, None),
            ("proxy.corp:3128", "proxy.corp", 3128, None),
            ("http://proxy.corp", "proxy.corp", 80, None),
            ("http://[2001:db8::1]:3128/", "2001:db8::1", 3128, None),
            (
                "http://me:pass@10.0.0.1:8080",
                "10.0.0.1",
                8080,
                Some(("me", "pass")),
            ),
            (
                "http://a%40b:p%3A%2F%40%20%C3%A9@p:1",
                "p",
                1,
                Some(("a@b", "p:/@ \u{e9}")),
            ),
            ("http://me@p:1", "p", 1, Some(("me", ""))),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!((proxy.host.as_str(), proxy.port), (host, port), "{text}");
            let found = proxy.credential.as_ref();
            let found = found.map(|(user, pass)| (user.as_str(), pass.expose_secret()));
            assert_eq!(found, credential, "{text}");
            let again = Proxy::parse(proxy.to_url().unwrap().as_str()).unwrap();
            assert_eq!(format!("{again:?}"), format!("{proxy:?}"), "{text}");
            let again = again
                .credential
                .map(|(_, pass)| pass.expose_secret().to_owned());
            assert_eq!(again.as_deref(), credential.map(|(_, pass)| pass), "{text}");
        }
        let proxy = Proxy::parse("http://me:hunter2@proxy:3128").unwrap();
        assert_eq!(proxy.to_string(), "http://me:***@proxy:3128");
        assert!(!format!("{proxy:?}").contains("hunter2"));
    }

    #[test]
    fn what_is_no_http_proxy_is_refused_without_showing_it() {
        for text in [
            "",
            "http://",
            "socks5://me:hunter2@proxy:1080",
            "https://me:hunter2@proxy:3128",
            "http://me:hunter2@proxy:3128/path",
            "http://me:hunter2@proxy:99999",
            "http://me:hunter2@pro xy:1",
            "http://me:hunter2%0d%0aX: y@proxy:1",
            "http://me:hunter2%ff@proxy:1",
            "http://me%3A:hunter2@proxy:1",
        ] {
            let error = Proxy::parse(text).unwrap_err();
            assert!(!error.contains("hunter2"), "{text}: {error}");
        }
    }

    fn variables(pairs: &[(&str, &str)]) -> Environment {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Environment::read(&pairs)
    }

    #[test]
    fn the_file_goes_before_the_environment_and_no_proxy_holds_for_both() {
        let environment = variables(&[
            ("HTTPS_PROXY", "http://upper:1"),
            ("https_proxy", "http://lower:2"),
            ("no_proxy", "inside.example"),
        ]);
        let host =
            |proxies: &Proxies, host| proxies.for_host(host, 443).map(|proxy| proxy.host.clone());
        let from_environment = Proxies::new(None, environment.clone()).unwrap();
        assert_eq!(
            host(&from_environment, "relay.example").as_deref(),
            Some("lower")
        );
        assert_eq!(host(&from_environment, "inside.example"), None);
        for own in ["localhost", "127.0.0.1", "::1", "x.localhost"] {
            assert_eq!(host(&from_environment, own), None, "{own}");
        }
        let configured = Some(Proxy::parse("http://file:3").unwrap());
        let from_file = Proxies::new(configured, environment).unwrap();
        assert_eq!(host(&from_file, "relay.example").as_deref(), Some("file"));
        assert_eq!(host(&from_file, "localhost").as_deref(), Some("file"));
        assert_eq!(host(&from_file, "a.inside.example"), None);
        for none in [variables(&[]), variables(&[("HTTPS_PROXY", "")])] {
            assert!(Proxies::new(None, none).unwrap().is_empty());
        }
    }

    #[test]
    fn a_variable_that_is_no_proxy_is_named_where_it_is_needed() {
        let wrong = variables(&[
            ("HTTPS_PROXY", "socks5://me:hunter2@p:1"),
            ("NO_PROXY", "inside.example"),
        ]);
        let error = Proxies::new(None, wrong.clone()).unwrap_err();
        assert!(
            error.contains("HTTPS_PROXY") && !error.contains("hunter2"),
            "{error}"
        );
        let configured = Some(Proxy::parse("http://file:3").unwrap());
        let from_file = Proxies::new(configured, wrong).unwrap();
        assert!(from_file.for_host("relay.example", 443).is_some());
        assert!(from_file.for_host("inside.example", 443).is_none());
    }
}
