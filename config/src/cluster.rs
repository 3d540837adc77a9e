//! Where endpoints are looked up, and how the relay nodes of a cluster reach each other.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::document::Document;
use crate::error::ConfigError;
use crate::units::Span;

/// Where endpoints are looked up.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Directory {
    /// In this process: a single node.
    Memory,
    /// In this process, and what the other nodes of the cluster leave in Redis or Valkey.
    Redis(RedisDirectory),
}

/// A registry of nodes in Redis or Valkey.
#[derive(Debug, Clone, Serialize)]
pub struct RedisDirectory {
    /// `redis://HOST:PORT` or `rediss://HOST:PORT` (TLS): the server, the Sentinels, or some
    /// servers of the Cluster. At least one.
    #[serde(rename = "url")]
    pub urls: Vec<String>,
    /// What is behind the URLs.
    #[serde(flatten)]
    pub topology: Topology,
    /// What the keys begin with: another one for each cluster that shares the engine.
    pub prefix: String,
    /// How long what a node says counts without being renewed.
    pub lease: Span,
    /// The user of an ACL; without one, the default user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The user's password.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "masked",
        rename = "password_file"
    )]
    pub password: Option<SecretString>,
    /// The authorities of a `rediss` server, as PEM; without them, the system's.
    #[serde(skip)]
    pub ca: Option<Vec<u8>>,
}

/// What is behind the URLs of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "topology")]
pub enum Topology {
    /// One server.
    Single,
    /// Sentinels, which know the primary of this name.
    Sentinel {
        /// The name that the Sentinels watch it under.
        primary: String,
    },
    /// A Redis Cluster.
    Cluster,
}

/// How this node and the others of its cluster reach each other.
#[derive(Debug, Clone, Serialize)]
pub struct Peer {
    /// Where it listens for other nodes.
    #[serde(skip)]
    pub listen: SocketAddr,
    /// `HOST:PORT` at which others reach it.
    pub address: String,
    /// Who it is to them, and whom it takes for one of them.
    #[serde(flatten)]
    pub tls: PeerTls,
}

/// The certificate of a node, and what it expects of others.
#[derive(Debug, Clone, Serialize)]
pub struct PeerTls {
    /// The DNS name that the certificate of every node of the cluster is for.
    pub name: String,
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key.
    pub private_key: PathBuf,
    /// The authorities of the nodes' certificates.
    pub ca: PathBuf,
}

impl PeerTls {
    /// Whether the private key is still the program's alone, as it must be whenever it is read.
    pub fn check_key(&self) -> Result<(), String> {
        crate::check::key_mode(&self.private_key)
    }
}

fn masked<S: serde::Serializer>(
    secret: &Option<SecretString>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => crate::secret::masked(secret, serializer),
        None => serializer.serialize_none(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenDirectory {
    kind: Spanned<String>,
    #[serde(default)]
    url: Option<Spanned<Urls>>,
    #[serde(default)]
    sentinel: Option<Spanned<String>>,
    #[serde(default)]
    cluster: Option<Spanned<bool>>,
    #[serde(default)]
    prefix: Option<Spanned<String>>,
    #[serde(default)]
    lease: Option<Spanned<Span>>,
    #[serde(default)]
    username: Option<Spanned<String>>,
    #[serde(default)]
    password_file: Option<Spanned<PathBuf>>,
    #[serde(default)]
    ca: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Urls {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenPeer {
    name: Spanned<String>,
    certificate: Spanned<PathBuf>,
    private_key: Spanned<PathBuf>,
    ca: Spanned<PathBuf>,
    #[serde(default)]
    address: Option<Spanned<String>>,
}

/// Leases that are shorter would end while an engine changes its primary, longer ones send calls to
/// nodes that are long gone.
const LEASES: std::ops::RangeInclusive<u64> = 3..=300;

impl WrittenDirectory {
    pub(crate) fn check(&self, document: &Document) -> Result<Directory, ConfigError> {
        match self.kind.get_ref().as_str() {
            "memory" => match self.of_redis() {
                Some((key, span)) => Err(document.error(
                    span,
                    format!("found {key}; expected none with kind = \"memory\""),
                )),
                None => Ok(Directory::Memory),
            },
            "redis" => self.check_redis(document).map(Directory::Redis),
            other => Err(document.error(
                self.kind.span(),
                format!("found {other:?}; expected \"memory\" or \"redis\""),
            )),
        }
    }

    /// The first key that only a registry in Redis has a use for, and where its value stands.
    fn of_redis(&self) -> Option<(&'static str, Range<usize>)> {
        fn place<T>(written: &Option<Spanned<T>>) -> Option<Range<usize>> {
            written.as_ref().map(Spanned::span)
        }
        let keys = [
            ("url", place(&self.url)),
            ("sentinel", place(&self.sentinel)),
            ("cluster", place(&self.cluster)),
            ("prefix", place(&self.prefix)),
            ("lease", place(&self.lease)),
            ("username", place(&self.username)),
            ("password_file", place(&self.password_file)),
            ("ca", place(&self.ca)),
        ];
        let mut given = keys.into_iter();
        given.find_map(|(key, place)| Some((key, place?)))
    }

    fn check_redis(&self, document: &Document) -> Result<RedisDirectory, ConfigError> {
        let (urls, span) = match &self.url {
            Some(url) => (url.get_ref().all(), url.span()),
            None => (&[][..], self.kind.span()),
        };
        if urls.is_empty() {
            return Err(document.error(
                span,
                "found no url; expected url = \"rediss://HOST:6379\", or a list of them",
            ));
        }
        for url in urls {
            check_url(url).map_err(|message| document.error(span.clone(), message))?;
        }
        let is_cluster = self.cluster.as_ref().is_some_and(|given| *given.get_ref());
        let topology = match (&self.sentinel, is_cluster) {
            (None, false) if urls.len() > 1 => {
                return Err(document.error(
                    span,
                    "found several URLs; expected one, or sentinel = \"PRIMARY\", or cluster = true",
                ));
            }
            (None, false) => Topology::Single,
            (None, true) => Topology::Cluster,
            (Some(name), false) => Topology::Sentinel {
                primary: name.get_ref().clone(),
            },
            (Some(name), true) => {
                return Err(document.error(
                    name.span(),
                    "found sentinel beside cluster = true; expected one of them",
                ));
            }
        };
        let prefix = match &self.prefix {
            Some(prefix) if !is_prefix(prefix.get_ref()) => {
                return Err(document.error(
                    prefix.span(),
                    format!(
                        "found {:?}; expected letters, digits, '-', '_', ':', '.', at most 64 of them",
                        prefix.get_ref()
                    ),
                ));
            }
            Some(prefix) => prefix.get_ref().clone(),
            None => "culvert".to_owned(),
        };
        let lease = match &self.lease {
            Some(lease) if !LEASES.contains(&lease.get_ref().0.as_secs()) => {
                return Err(document.error(
                    lease.span(),
                    format!("found {:?}; expected 3s to 5m", lease.get_ref().0),
                ));
            }
            Some(lease) => *lease.get_ref(),
            None => Span(Duration::from_secs(15)),
        };
        let password = match &self.password_file {
            None => None,
            Some(file) => {
                let path = document.path(file.get_ref());
                let read = crate::secret::read(&path, file.get_ref());
                Some(read.map_err(|why| document.error(file.span(), why))?)
            }
        };
        let ca = match &self.ca {
            None => None,
            Some(file) => {
                let path = crate::check::file(document, file)?;
                let read = std::fs::read(&path);
                Some(read.map_err(|error| document.error(file.span(), error.to_string()))?)
            }
        };
        Ok(RedisDirectory {
            urls: urls.to_vec(),
            topology,
            prefix,
            lease,
            username: self.username.as_ref().map(|name| name.get_ref().clone()),
            password,
            ca,
        })
    }
}

impl Urls {
    fn all(&self) -> &[String] {
        match self {
            Self::One(url) => std::slice::from_ref(url),
            Self::Several(urls) => urls,
        }
    }
}

fn is_prefix(prefix: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_:.".contains(&b);
    (1..=64).contains(&prefix.len()) && prefix.bytes().all(legal)
}

/// `redis` or `rediss`, a host, no credentials.
fn check_url(text: &str) -> Result<(), String> {
    let url = match url::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "redis" | "rediss") && url.host().is_some() => url,
        _ => {
            return Err(format!(
                "found {text:?}; expected redis://HOST:PORT, or rediss://HOST:PORT for TLS"
            ));
        }
    };
    if url.password().is_some() || !url.username().is_empty() {
        return Err(
            "the URL has credentials; expected none: use username and password_file".into(),
        );
    }
    Ok(())
}

impl WrittenPeer {
    pub(crate) fn check(
        &self,
        document: &Document,
        node: &str,
        listen: SocketAddr,
    ) -> Result<Peer, ConfigError> {
        let address = match &self.address {
            None => format!("{node}:{}", listen.port()),
            Some(address) if is_host_and_port(address.get_ref()) => address.get_ref().clone(),
            Some(address) => {
                return Err(document.error(
                    address.span(),
                    format!("found {:?}; expected HOST:PORT", address.get_ref()),
                ));
            }
        };
        Ok(Peer {
            listen,
            address,
            tls: PeerTls {
                name: crate::check::host(document, &self.name)?,
                certificate: crate::check::file(document, &self.certificate)?,
                private_key: crate::check::private_file(document, &self.private_key)?,
                ca: crate::check::file(document, &self.ca)?,
            },
        })
    }
}

fn is_host_and_port(address: &str) -> bool {
    let parts = address.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}
