//! `mode` and `connect` of an endpoint: how its calls are carried, and the names that callers may
//! CONNECT to.

use std::collections::HashMap;

use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::Mode;
use culvert_proto::limits::{MAX_CONNECT_NAMES, MAX_REGISTERED_NAMES};
use serde::Serializer;
use toml::Spanned;
use url::{Host, Url};

use crate::document::Document;
use crate::endpoint::Endpoint;
use crate::error::ConfigError;

type Words = Spanned<Vec<Spanned<String>>>;

impl Endpoint {
    /// The mode of CONNECTs to its names; none where it has none.
    pub fn proxied(&self) -> Option<Mode> {
        self.modes.iter().copied().find(|mode| *mode != Mode::Http)
    }

    /// The port of the upstream that a name leads to: the name's own where the name is that of the
    /// upstream's host, and the upstream's where it is another name for it.
    pub fn port_of(&self, name: &ConnectName) -> u16 {
        if is_host_of(&self.upstream, name) {
            name.port()
        } else {
            self.upstream.port_or_known_default().unwrap_or(443)
        }
    }
}

/// Whether a name is that of the upstream's host.
pub(crate) fn is_host_of(upstream: &Url, name: &ConnectName) -> bool {
    match upstream.host() {
        Some(Host::Domain(host)) => host.trim_end_matches('.').eq_ignore_ascii_case(name.host()),
        Some(Host::Ipv4(address)) => name.address() == Some(address.into()),
        Some(Host::Ipv6(address)) => name.address() == Some(address.into()),
        None => false,
    }
}

/// How the calls of an endpoint may be carried: `http` where nothing is said.
pub(crate) fn modes(
    document: &Document,
    written: Option<&Words>,
) -> Result<Vec<Mode>, ConfigError> {
    let Some(written) = written else {
        return Ok(vec![Mode::Http]);
    };
    if written.get_ref().is_empty() {
        let message = "found an empty list; expected \"http\", \"connect\", \"terminate\", \"tcp\"";
        return Err(document.error(written.span(), message));
    }
    let mut modes = Vec::new();
    for word in written.get_ref() {
        let found = word.get_ref();
        let mode = match found.as_str() {
            "http" => Mode::Http,
            "connect" => Mode::Connect,
            "terminate" => Mode::Terminate,
            "tcp" => Mode::Tcp,
            _ => {
                let message = format!(
                    "found {found:?}; expected \"http\", \"connect\", \"terminate\" or \"tcp\""
                );
                return Err(document.error(word.span(), message));
            }
        };
        if modes.contains(&mode) {
            return Err(document.error(word.span(), format!("{found:?} occurs twice")));
        }
        if mode != Mode::Http && modes.iter().any(|mode| *mode != Mode::Http) {
            let message = format!(
                "found {found:?} as a second mode for CONNECT; expected one beside \"http\": write \
                 another [[endpoint]] for names that are carried otherwise"
            );
            return Err(document.error(word.span(), message));
        }
        modes.push(mode);
    }
    Ok(modes)
}

/// The names of an endpoint that callers may CONNECT to.
pub(crate) fn names(
    document: &Document,
    written: Option<&Words>,
    modes: &Spanned<&[Mode]>,
    upstream: &Url,
) -> Result<Vec<ConnectName>, ConfigError> {
    let proxied = modes.get_ref().iter().any(|mode| *mode != Mode::Http);
    let Some(written) = written.filter(|written| !written.get_ref().is_empty()) else {
        return match proxied {
            false => Ok(Vec::new()),
            true => Err(document.error(
                modes.span(),
                "found a mode for CONNECT and no names; expected connect = [\"NAME:PORT\"]",
            )),
        };
    };
    if !proxied {
        let message = "found names to CONNECT to, and no mode for it; expected mode = [\"http\", \
                       \"connect\"] or the like";
        return Err(document.error(written.span(), message));
    }
    let count = written.get_ref().len();
    if count > MAX_CONNECT_NAMES {
        let message = format!("found {count} names; expected at most {MAX_CONNECT_NAMES}");
        return Err(document.error(written.span(), message));
    }
    let mut names: Vec<ConnectName> = Vec::new();
    for text in written.get_ref() {
        let found = text.get_ref();
        let name = ConnectName::parse(found)
            .map_err(|error| document.error(text.span(), format!("found {found:?}; {error}")))?;
        // All other names lead to the upstream's one port.
        let other = |known: &ConnectName| !is_host_of(upstream, known);
        if other(&name)
            && let Some(known) = names.iter().find(|known| other(known))
            && known.port() != name.port()
        {
            let message = format!(
                "{name} and {known} both lead to {upstream}, though their ports differ; write an \
                 [[endpoint]] for each"
            );
            return Err(document.error(text.span(), message));
        }
        names.push(name);
    }
    Ok(names)
}

/// No name occurs twice in the file, and there are no more than one registration takes.
pub(crate) fn check_all<'a>(
    document: &Document,
    endpoints: impl Iterator<Item = (&'a Endpoint, Option<&'a Words>)>,
) -> Result<(), ConfigError> {
    let mut holders = HashMap::new();
    for (endpoint, written) in endpoints {
        let places = written.map(|written| written.get_ref().as_slice());
        for (name, place) in endpoint.connect.iter().zip(places.unwrap_or_default()) {
            if let Some(holder) = holders.insert(name, &endpoint.name) {
                let message = format!("{name} is a name of the endpoint {holder} already");
                return Err(document.error(place.span(), message));
            }
            if holders.len() > MAX_REGISTERED_NAMES {
                let message =
                    format!("expected at most {MAX_REGISTERED_NAMES} names in all endpoints");
                return Err(document.error(place.span(), message));
            }
        }
    }
    Ok(())
}

pub(crate) fn mode_words<S: Serializer>(modes: &[Mode], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(modes.iter().map(|mode| mode.as_str()))
}

pub(crate) fn name_words<S: Serializer>(
    names: &[ConnectName],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names.iter().map(ConnectName::as_str))
}
