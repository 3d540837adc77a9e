//! `relay.toml`: what a relay node runs with.

mod limits;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use culvert_proto::names::{EndpointName, TenantName};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::admin::{self, AdminToken};
use crate::caller::{Caller, WrittenCaller};
use crate::cluster::{Directory, Peer, WrittenDirectory, WrittenPeer};
use crate::document::Document;
use crate::error::ConfigError;
use crate::issuer::{Issuer, WrittenIssuer};
use crate::quota::{Tenant, WrittenTenant};

pub use self::limits::RelayLimits;

/// A checked `relay.toml`.
#[derive(Debug, Clone, Serialize)]
pub struct RelayConfig {
    /// The public domain: callers use `ENDPOINT--TENANT.DOMAIN`, agents `wss://DOMAIN/...`.
    pub domain: String,
    /// The name of this node, told to agents and shown in logs.
    pub node: String,
    /// Where the node listens.
    pub listen: Listen,
    /// The certificate of the public address.
    pub tls: RelayTls,
    /// What whoever asks the admin listener has to show; `None`: only this machine may ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<AdminToken>,
    /// Who may issue tokens.
    #[serde(rename = "issuer")]
    pub issuers: Vec<Issuer>,
    /// Who calls with a client certificate.
    #[serde(rename = "caller", skip_serializing_if = "Vec::is_empty")]
    pub callers: Vec<Caller>,
    /// Further host names of endpoints.
    #[serde(rename = "route", skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Tenants with quotas of their own.
    #[serde(rename = "tenant", skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<Tenant>,
    /// Where endpoints are looked up.
    pub directory: Directory,
    /// The other nodes of the cluster; `None`: there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
    /// What a peer can make this node hold or wait for.
    pub limits: RelayLimits,
}

/// Where a relay listens.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Agents and callers: TLS.
    #[serde(
        default = "default_public",
        deserialize_with = "crate::address::deserialize"
    )]
    pub public: SocketAddr,
    /// Health, metrics, API: plain HTTP on a loopback address; on another one TLS with the public
    /// address's certificate, and a token (`[admin]`).
    #[serde(
        default = "default_admin",
        deserialize_with = "crate::address::deserialize"
    )]
    pub admin: SocketAddr,
    /// Callers that CONNECT in plain text; none unless it is given. A private address.
    #[serde(
        default,
        deserialize_with = "crate::address::deserialize",
        skip_serializing_if = "Option::is_none"
    )]
    pub proxy: Option<SocketAddr>,
    /// Balancers whose connections begin with a PROXY protocol header, which gives the caller's
    /// address.
    #[serde(
        default,
        with = "crate::networks",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub proxy_protocol: Vec<IpNet>,
    /// Other nodes of the cluster: TLS with certificates on both sides.
    #[serde(
        default,
        deserialize_with = "crate::address::deserialize",
        skip_serializing_if = "Option::is_none"
    )]
    pub peer: Option<SocketAddr>,
}

fn default_public() -> SocketAddr {
    SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 443))
}

fn default_admin() -> SocketAddr {
    SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 9901))
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            public: default_public(),
            admin: default_admin(),
            proxy: None,
            proxy_protocol: Vec::new(),
            peer: None,
        }
    }
}

/// A certificate chain, its private key, and whose certificates callers may show: all PEM.
#[derive(Debug, Clone, Serialize)]
pub struct RelayTls {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key (PKCS#8, PKCS#1 or SEC1).
    pub private_key: PathBuf,
    /// The authority of callers' certificates; none are asked for if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// Further certificates, each for the names that are in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sni: Vec<SniCertificate>,
}

impl RelayTls {
    /// Refuses private keys that others may use: as when the configuration was read, for whoever reads
    /// them again.
    pub fn check_keys(&self) -> Result<(), String> {
        let further = self.sni.iter().map(|further| &further.private_key);
        std::iter::once(&self.private_key)
            .chain(further)
            .try_for_each(|key| crate::check::key_mode(key))
    }
}

/// A further certificate of the public address, shown to whoever asks for one of its names: PEM.
#[derive(Debug, Clone, Serialize)]
pub struct SniCertificate {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key (PKCS#8, PKCS#1 or SEC1).
    pub private_key: PathBuf,
}

/// A further host name for an endpoint.
#[derive(Debug, Clone, Serialize)]
pub struct Route {
    /// The host name, lower case.
    pub host: String,
    /// The endpoint's tenant.
    #[serde(serialize_with = "crate::display")]
    pub tenant: TenantName,
    /// The endpoint.
    #[serde(serialize_with = "crate::display")]
    pub endpoint: EndpointName,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    domain: Spanned<String>,
    node: Option<Spanned<String>>,
    #[serde(default)]
    listen: Listen,
    tls: WrittenTls,
    #[serde(default)]
    admin: Option<admin::WrittenToken>,
    #[serde(default)]
    issuer: Vec<Spanned<WrittenIssuer>>,
    #[serde(default)]
    caller: Vec<WrittenCaller>,
    #[serde(default)]
    route: Vec<WrittenRoute>,
    #[serde(default)]
    tenant: Vec<WrittenTenant>,
    #[serde(default)]
    directory: Option<WrittenDirectory>,
    #[serde(default)]
    peer: Option<WrittenPeer>,
    #[serde(default)]
    limits: RelayLimits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTls {
    certificate: Spanned<PathBuf>,
    private_key: Spanned<PathBuf>,
    client_ca: Option<Spanned<PathBuf>>,
    #[serde(default)]
    sni: Vec<WrittenSni>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSni {
    certificate: Spanned<PathBuf>,
    private_key: Spanned<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRoute {
    host: Spanned<String>,
    tenant: Spanned<String>,
    endpoint: Spanned<String>,
}

impl RelayConfig {
    /// Reads and checks `file`, with the process's environment on top.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let environment = crate::environment::read(file, std::env::vars_os())?;
        Self::load_with(file, environment.into_iter())
    }

    /// Reads and checks `file`, with `environment` on top.
    pub fn load_with(
        file: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let tables = ["listen", "tls", "admin", "directory", "peer", "limits"];
        let mut document =
            Document::read(file)?.with_environment(&["domain", "node"], &tables, environment)?;
        let written: Written = document.parse()?;
        Self::check(&document, written)
    }

    fn check(document: &Document, written: Written) -> Result<Self, ConfigError> {
        let domain = crate::check::host(document, &written.domain)?;
        let node = match &written.node {
            Some(node) => crate::check::node_name(document, node)?,
            None => host_name(document)?,
        };
        let admin = match &written.admin {
            Some(written) => Some(written.check(document)?),
            None => None,
        };
        if !written.listen.admin.ip().is_loopback() && admin.is_none() {
            return Err(document.error_of(
                "listen.admin",
                admin::beyond(written.listen.admin, "[admin] with token_file"),
            ));
        }
        if let Some(proxy) = written.listen.proxy.filter(|proxy| !is_private(proxy.ip())) {
            return Err(document.error_of(
                "listen.proxy",
                format!(
                    "found {proxy}; expected a loopback or private address (10.0.0.0/8, \
                     172.16.0.0/12, 192.168.0.0/16, fc00::/7): tokens pass there in plain text"
                ),
            ));
        }
        let tls = written.tls.check(document)?;
        if written.issuer.is_empty() {
            return Err(document.error_of(
                "issuer",
                "found no [[issuer]]; expected at least one: without it nobody can register or call",
            ));
        }
        let issuers = crate::issuer::check_all(document, &written.issuer)?;
        let callers = crate::caller::check_all(document, &written.caller, tls.client_ca.is_some())?;
        let routes = written.route.iter();
        let routes = routes.map(|route| route.check(document, &domain));
        let routes = routes.collect::<Result<Vec<_>, ConfigError>>()?;
        crate::check::unique(
            document,
            written.route.iter().map(|route| &route.host),
            "host",
        )?;
        let directory = match &written.directory {
            Some(directory) => directory.check(document)?,
            None => Directory::Memory,
        };
        let peer = check_peer(document, &written, &node, &directory)?;
        let mut limits = written.limits;
        limits::check(document, &limits)?;
        let everybody = limits.quota();
        limits.tenant_max_sessions = Some(everybody.max_sessions);
        limits.tenant_max_calls = Some(everybody.max_calls);
        let tenants = written.tenant.iter();
        let tenants = tenants.map(|tenant| tenant.check(document, &everybody));
        let tenants = tenants.collect::<Result<Vec<_>, ConfigError>>()?;
        let names = written.tenant.iter().map(|tenant| &tenant.name);
        crate::check::unique(document, names, "tenant")?;
        Ok(Self {
            domain,
            node,
            listen: written.listen,
            tls,
            admin,
            issuers,
            callers,
            routes,
            tenants,
            directory,
            peer,
            limits,
        })
    }

    /// What the node runs with, as TOML; holds no secret.
    pub fn render(&self) -> String {
        crate::render(self)
    }
}

impl WrittenRoute {
    fn check(&self, document: &Document, domain: &str) -> Result<Route, ConfigError> {
        let host = crate::check::host(document, &self.host)?;
        let label = host.strip_suffix(domain);
        let label = label.and_then(|label| label.strip_suffix('.'));
        let is_own = host == domain
            || label.is_some_and(|label| label.contains("--") && !label.contains('.'));
        if is_own {
            return Err(document.error(
                self.host.span(),
                format!(
                    "found {host:?}; expected another name: {domain} and ENDPOINT--TENANT.{domain} \
                     have their meaning"
                ),
            ));
        }
        Ok(Route {
            host,
            tenant: crate::check::name(document, &self.tenant)?,
            endpoint: crate::check::name(document, &self.endpoint)?,
        })
    }
}

impl WrittenTls {
    fn check(&self, document: &Document) -> Result<RelayTls, ConfigError> {
        let client_ca = self.client_ca.as_ref();
        let sni = self.sni.iter().map(|further| {
            Ok(SniCertificate {
                certificate: crate::check::file(document, &further.certificate)?,
                private_key: crate::check::private_file(document, &further.private_key)?,
            })
        });
        Ok(RelayTls {
            certificate: crate::check::file(document, &self.certificate)?,
            private_key: crate::check::private_file(document, &self.private_key)?,
            client_ca: client_ca
                .map(|ca| crate::check::file(document, ca))
                .transpose()?,
            sni: sni.collect::<Result<_, ConfigError>>()?,
        })
    }
}

/// A node of a cluster has a registry, an address for the others, and a certificate; a node alone
/// has none of them.
fn check_peer(
    document: &Document,
    written: &Written,
    node: &str,
    directory: &Directory,
) -> Result<Option<Peer>, ConfigError> {
    let missing = |key: &str, message: &str| document.error_of(key, message);
    match (directory, &written.peer, written.listen.peer) {
        // An address alone is none that anything listens on: whoever runs the node is warned.
        (Directory::Memory, None, _) => Ok(None),
        (Directory::Memory, Some(_), _) => Err(missing(
            "directory.kind",
            "found [peer] beside kind = \"memory\"; expected kind = \"redis\": nodes find each other there",
        )),
        (Directory::Redis(_), None, _) => Err(missing(
            "peer",
            "not given; expected [peer] with name, certificate, private_key and ca: nodes show \
             certificates to each other",
        )),
        (Directory::Redis(_), _, None) => Err(missing(
            "listen.peer",
            "not given; expected an address for the other nodes, like \"[::]:9443\"",
        )),
        (Directory::Redis(_), Some(peer), Some(listen)) => {
            peer.check(document, node, listen).map(Some)
        }
    }
}

/// Whether an address is one of a private network or of this machine.
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local(),
    }
}

/// The kernel's name for this machine; `/proc` may be hidden from a service.
fn host_name(document: &Document) -> Result<String, ConfigError> {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_ascii_lowercase();
    if name.is_empty() {
        let message = "not given, and this machine has no host name";
        return Err(document.error_of("node", message));
    }
    Ok(name)
}
