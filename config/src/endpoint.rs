//! `[[endpoint]]` of `agent.toml`: a local API and how to reach it.

use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;

use culvert_policy::PathOptions;
use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::Mode;
use culvert_proto::names::{EndpointName, MAX_NAME};
use culvert_proto::priority::{Priority, UnknownPriority};
use ipnet::IpNet;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize};
use toml::Spanned;
use url::Url;

use crate::document::Document;
use crate::error::ConfigError;
use crate::terminate::{Terminate, WrittenTerminate};
use crate::units::Span;

/// Longest name of an endpoint: the shortest tenant's name and the two dashes before it have room beside
/// it.
const LONGEST_NAME: usize = MAX_NAME - 3;

/// A local API that the agent offers under a public name.
#[derive(Debug, Clone, Serialize)]
pub struct Endpoint {
    /// The public name, unique within the tenant.
    #[serde(serialize_with = "crate::display")]
    pub name: EndpointName,
    /// Where the API is: `http` or `https`, host and port, no path.
    pub upstream: Url,
    /// How calls may be carried: `http`, and at most one of the others.
    #[serde(rename = "mode", serialize_with = "crate::proxied::mode_words")]
    pub modes: Vec<Mode>,
    /// What callers may CONNECT to.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "crate::proxied::name_words"
    )]
    pub connect: Vec<ConnectName>,
    /// Whether a caller of mode `connect` or `terminate` may leave out which server it means.
    pub allow_no_sni: bool,
    /// What callers are shown in mode `terminate`, where the endpoint has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminate: Option<Terminate>,
    /// Whose certificate the upstream may have.
    #[serde(flatten, serialize_with = "trust_keys")]
    pub trust: Trust,
    /// Which HTTP the upstream is spoken to in.
    pub upstream_protocol: UpstreamProtocol,
    /// What the agent shows an upstream that asks for a client certificate.
    #[serde(flatten)]
    pub client_identity: Option<ClientIdentity>,
    /// The networks that the upstream's addresses must be in; none: any but this machine's own,
    /// link-local ones and metadata services.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "crate::networks::serialize"
    )]
    pub allow_networks: Vec<IpNet>,
    /// What the upstream sees as `Host`.
    pub host: HostHeader,
    /// How long each phase of a call may take.
    pub timeouts: Timeouts,
    /// Most calls at once.
    pub max_streams: u32,
    /// How urgent its calls are among those of a session; `None`: each earns its class.
    #[serde(serialize_with = "priority_word")]
    pub priority: Option<Priority>,
    /// Whether `;` may occur in paths (it is refused otherwise).
    pub allow_semicolon: bool,
    /// Whether `%2F` may occur in paths, where it never matches as `/`.
    pub allow_encoded_slash: bool,
    /// Whether `%25` may occur in paths, where it never matches as what it may begin.
    pub allow_encoded_percent: bool,
}

impl Endpoint {
    /// What its paths may hold beyond the strict form.
    pub fn paths(&self) -> PathOptions {
        PathOptions {
            allow_semicolon: self.allow_semicolon,
            allow_encoded_slash: self.allow_encoded_slash,
            allow_encoded_percent: self.allow_encoded_percent,
        }
    }
}

/// Whose certificate an upstream may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// A root of this machine signed it, for the upstream's name.
    SystemRoots,
    /// The CA in this file signed it, for the upstream's name.
    Ca(PathBuf),
    /// The SHA-256 of the certificate itself is one of these; names and dates do not matter.
    Pins(Vec<[u8; 32]>),
}

/// A certificate with its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClientIdentity {
    /// The certificate, and those between it and its CA.
    #[serde(rename = "client_certificate")]
    pub certificate: PathBuf,
    /// Its private key.
    #[serde(rename = "client_private_key")]
    pub private_key: PathBuf,
}

fn priority_word<S: serde::Serializer>(
    priority: &Option<Priority>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    priority.map(Priority::as_str).serialize(serializer)
}

/// As it is written: one of two keys, or neither.
fn trust_keys<S: serde::Serializer>(trust: &Trust, serializer: S) -> Result<S::Ok, S::Error> {
    let mut keys = serializer.serialize_map(None)?;
    match trust {
        Trust::SystemRoots => {}
        Trust::Ca(file) => keys.serialize_entry("ca", file)?,
        Trust::Pins(pins) => {
            let hex = |pin: &[u8; 32]| pin.iter().map(|byte| format!("{byte:02x}")).collect();
            let pins: Vec<String> = pins.iter().map(hex).collect();
            keys.serialize_entry("pin_sha256", &pins)?;
        }
    }
    keys.end()
}

/// Which HTTP an upstream is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    /// HTTP/2 for calls that need it (gRPC) and for upstreams that have nothing else, HTTP/1.1
    /// for all others.
    #[default]
    Auto,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only; without TLS by prior knowledge.
    H2,
}

/// What an upstream sees as `Host`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostHeader {
    /// Its own name, as in `upstream`.
    #[default]
    Rewrite,
    /// The public name that the caller used.
    Preserve,
}

/// How long each phase of a call may take.
#[derive(Debug, Clone, Serialize)]
pub struct Timeouts {
    /// Name resolution and TCP.
    pub connect: Span,
    /// The TLS handshake.
    pub tls: Span,
    /// From the request's end to the answer's head. Long polls wait here.
    pub head: Span,
    /// Between two bytes of a body.
    pub idle: Span,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Span::secs(5),
            tls: Span::secs(10),
            head: Span::secs(2 * 3600),
            idle: Span::secs(2 * 3600),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenEndpoint {
    pub(crate) name: Spanned<String>,
    upstream: Spanned<String>,
    mode: Option<Spanned<Vec<Spanned<String>>>>,
    pub(crate) connect: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    allow_no_sni: bool,
    terminate: Option<Spanned<WrittenTerminate>>,
    ca: Option<Spanned<PathBuf>>,
    pin_sha256: Option<Spanned<Vec<Spanned<String>>>>,
    client_certificate: Option<Spanned<PathBuf>>,
    client_private_key: Option<Spanned<PathBuf>>,
    allow_networks: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    upstream_protocol: UpstreamProtocol,
    #[serde(default)]
    host: HostHeader,
    #[serde(default)]
    timeouts: WrittenTimeouts,
    max_streams: Option<Spanned<u32>>,
    priority: Option<Spanned<String>>,
    #[serde(default)]
    allow_semicolon: bool,
    #[serde(default)]
    allow_encoded_slash: bool,
    #[serde(default)]
    allow_encoded_percent: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenTimeouts {
    connect: Option<Spanned<Span>>,
    tls: Option<Spanned<Span>>,
    head: Option<Spanned<Span>>,
    idle: Option<Spanned<Span>>,
}

pub(crate) fn check(
    document: &Document,
    written: &WrittenEndpoint,
) -> Result<Endpoint, ConfigError> {
    let upstream = crate::check::origin(document, &written.upstream, &["https", "http"])?;
    let is_tls = upstream.scheme() == "https";
    let modes = crate::proxied::modes(document, written.mode.as_ref())?;
    let place = written.mode.as_ref().map_or(0..0, Spanned::span);
    let connect = crate::proxied::names(
        document,
        written.connect.as_ref(),
        &Spanned::new(place.clone(), modes.as_slice()),
        &upstream,
    )?;
    let terminate = crate::terminate::check(
        document,
        written.terminate.as_ref(),
        &Spanned::new(place, modes.as_slice()),
        &connect,
        &upstream,
    )?;
    let max_streams = match &written.max_streams {
        None => 1_024,
        Some(max) if *max.get_ref() > 0 => *max.get_ref(),
        Some(max) => return Err(document.error(max.span(), "found 0; expected at least 1")),
    };
    let priority = match &written.priority {
        None => None,
        Some(word) => match word.get_ref().parse() {
            Ok(priority) => Some(priority),
            Err(UnknownPriority) => {
                let found = word.get_ref();
                return Err(
                    document.error(word.span(), format!("found {found:?}; {UnknownPriority}"))
                );
            }
        },
    };
    Ok(Endpoint {
        name: check_name(document, &written.name)?,
        client_identity: check_client(document, written, is_tls)?,
        allow_networks: check_networks(document, written, &upstream)?,
        upstream,
        modes,
        connect,
        allow_no_sni: written.allow_no_sni,
        terminate,
        trust: check_trust(document, written, is_tls)?,
        upstream_protocol: written.upstream_protocol,
        host: written.host,
        timeouts: check_timeouts(document, &written.timeouts)?,
        max_streams,
        priority,
        allow_semicolon: written.allow_semicolon,
        allow_encoded_slash: written.allow_encoded_slash,
        allow_encoded_percent: written.allow_encoded_percent,
    })
}

/// The name stands before `--` and the tenant's in one label of a host name.
fn check_name(document: &Document, written: &Spanned<String>) -> Result<EndpointName, ConfigError> {
    let name: EndpointName = crate::check::name(document, written)?;
    let length = name.as_str().len();
    if length > LONGEST_NAME {
        let message = format!(
            "found {length} characters; expected at most {LONGEST_NAME}: the name and the tenant's, with \
             -- between them, are one label of a host name"
        );
        return Err(document.error(written.span(), message));
    }
    Ok(name)
}

/// Who waits for nothing gets nothing.
fn check_timeouts(document: &Document, written: &WrittenTimeouts) -> Result<Timeouts, ConfigError> {
    let span = |written: &Option<Spanned<Span>>, default: Span| match written {
        None => Ok(default),
        Some(span) if span.get_ref().0.is_zero() => {
            Err(document.error(span.span(), "found 0; expected more"))
        }
        Some(span) => Ok(*span.get_ref()),
    };
    let default = Timeouts::default();
    Ok(Timeouts {
        connect: span(&written.connect, default.connect)?,
        tls: span(&written.tls, default.tls)?,
        head: span(&written.head, default.head)?,
        idle: span(&written.idle, default.idle)?,
    })
}

fn check_client(
    document: &Document,
    written: &WrittenEndpoint,
    is_tls: bool,
) -> Result<Option<ClientIdentity>, ConfigError> {
    let (certificate, key) = match (&written.client_certificate, &written.client_private_key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(one), None) | (None, Some(one)) => {
            let message = "found one of client_certificate and client_private_key; expected both";
            return Err(document.error(one.span(), message));
        }
    };
    if !is_tls {
        let found = "a client certificate";
        return Err(without_tls(document, found, certificate.span()));
    }
    Ok(Some(ClientIdentity {
        certificate: crate::check::file(document, certificate)?,
        private_key: crate::check::private_file(document, key)?,
    }))
}

fn check_networks(
    document: &Document,
    written: &WrittenEndpoint,
    upstream: &Url,
) -> Result<Vec<IpNet>, ConfigError> {
    let Some(list) = &written.allow_networks else {
        return Ok(Vec::new());
    };
    if list.get_ref().is_empty() {
        let message = "found an empty list; leave the key out, or name a network";
        return Err(document.error(list.span(), message));
    }
    let network = |text: &Spanned<String>| {
        let found = text.get_ref();
        crate::networks::parse(found).ok_or_else(|| {
            document.error(
                text.span(),
                format!("found {found:?}; expected a network like \"10.0.0.0/8\" or an address"),
            )
        })
    };
    let networks = list.get_ref().iter().map(network);
    let networks = networks.collect::<Result<Vec<_>, ConfigError>>()?;
    let address = match upstream.host() {
        Some(url::Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(url::Host::Ipv6(address)) => Some(IpAddr::V6(address).to_canonical()),
        _ => None,
    };
    match address {
        Some(address) if !networks.iter().any(|network| network.contains(&address)) => {
            let message = format!("found no network with the upstream's own address {address}");
            Err(document.error(list.span(), message))
        }
        _ => Ok(networks),
    }
}

/// Something to check TLS by, where there is none.
fn without_tls(document: &Document, found: &str, span: Range<usize>) -> ConfigError {
    let message = format!("found {found} for an upstream without TLS; expected https");
    document.error(span, message)
}

fn check_trust(
    document: &Document,
    written: &WrittenEndpoint,
    is_tls: bool,
) -> Result<Trust, ConfigError> {
    match (&written.ca, &written.pin_sha256) {
        (None, None) => Ok(Trust::SystemRoots),
        (Some(ca), None) if !is_tls => Err(without_tls(document, "ca", ca.span())),
        (Some(ca), None) => Ok(Trust::Ca(crate::check::file(document, ca)?)),
        (Some(_), Some(pins)) => Err(document.error(
            pins.span(),
            "found both ca and pin_sha256; expected one of them",
        )),
        (None, Some(pins)) if !is_tls => Err(without_tls(document, "pin_sha256", pins.span())),
        (None, Some(pins)) if pins.get_ref().is_empty() => Err(document.error(
            pins.span(),
            "found an empty list; expected at least one pin",
        )),
        (None, Some(pins)) => {
            let pins = pins.get_ref().iter().map(|pin| {
                parse_pin(pin.get_ref()).ok_or_else(|| {
                    document.error(
                        pin.span(),
                        format!(
                            "found {:?}; expected the SHA-256 of the certificate: 64 hex digits, \
                             with or without colons",
                            pin.get_ref()
                        ),
                    )
                })
            });
            Ok(Trust::Pins(pins.collect::<Result<_, ConfigError>>()?))
        }
    }
}

/// 64 hex digits in either case; colons between the bytes are dropped, as tools print them.
fn parse_pin(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| *byte != b':')
        .map(|byte| char::from(byte).to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |n, d| n * 16 + d))
        .collect();
    (digits.len() == 64)
        .then(|| bytes.try_into().ok())
        .flatten()
}
