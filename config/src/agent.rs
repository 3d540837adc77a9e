//! `agent.toml`: what an agent runs with.

use std::path::{Path, PathBuf};

use culvert_proto::limits::{MAX_LANES, MAX_OFFERS};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use toml::Spanned;
use url::Url;

use crate::admin::{AgentAdmin, WrittenAdmin};
use crate::audit::{AuditConfig, WrittenAudit};
use crate::document::Document;
use crate::endpoint::{Endpoint, WrittenEndpoint};
use crate::error::ConfigError;
use crate::oauth::{OAuth, SECRET_VARIABLE, WrittenOAuth};
use crate::proxy::{Environment, Proxies, Proxy};
use crate::units::{Size, Span};
use crate::verify_callers::{VerifyCallers, WrittenVerifyCallers};

/// A checked `agent.toml`.
#[derive(Debug, Clone, Serialize)]
pub struct AgentConfig {
    /// The way to the relay.
    pub relay: RelayLink,
    /// How tokens are obtained.
    pub oauth: OAuth,
    /// What the agent offers.
    #[serde(rename = "endpoint")]
    pub endpoints: Vec<Endpoint>,
    /// The allow/deny list.
    pub policy: PolicyFile,
    /// How callers are verified; `None`: the relay's word is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_callers: Option<VerifyCallers>,
    /// The audit log.
    pub audit: AuditConfig,
    /// Where operators are answered.
    pub admin: AgentAdmin,
    /// What a peer can make this agent hold or wait for.
    pub limits: AgentLimits,
}

/// The way to the relay.
#[derive(Debug, Clone, Serialize)]
pub struct RelayLink {
    /// `wss://HOST[:PORT]`, without a path.
    pub url: Url,
    /// How many sessions to hold, on different relay nodes where there are several.
    pub sessions: u8,
    /// How many connections each session has, 1 to 8.
    pub lanes: u8,
    /// The CA of the relay's certificate; system roots if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The corporate proxy on the way to the relay and to the token issuer.
    #[serde(skip_serializing_if = "Proxies::is_empty")]
    pub proxy: Proxies,
}

/// The allow/deny list.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyFile {
    /// The file.
    pub file: PathBuf,
}

/// What a peer can make an agent hold or wait for. Every limit has a default.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentLimits {
    /// Most calls at once on one connection of a session.
    pub streams_per_session: u32,
    /// How long a drain waits for calls in flight.
    pub drain: Span,
    /// Longest wait between two attempts to reach the relay.
    pub reconnect: Span,
    /// Bytes by which the receive windows of all sessions together may grow on long lines.
    pub receive_buffer: Size,
    /// Bytes that may wait to be sent or read in all sessions together; beyond it, a stream has
    /// 16 KiB each way.
    pub waiting_buffer: Size,
}

impl Default for AgentLimits {
    fn default() -> Self {
        Self {
            streams_per_session: 4_096,
            drain: Span::secs(30),
            reconnect: Span::secs(15),
            receive_buffer: Size(256 << 20),
            waiting_buffer: Size(256 << 20),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    relay: WrittenRelay,
    oauth: WrittenOAuth,
    #[serde(default)]
    endpoint: Vec<Spanned<WrittenEndpoint>>,
    policy: WrittenPolicy,
    verify_callers: Option<WrittenVerifyCallers>,
    #[serde(default)]
    audit: WrittenAudit,
    #[serde(default)]
    admin: WrittenAdmin,
    #[serde(default)]
    limits: AgentLimits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRelay {
    url: Spanned<String>,
    sessions: Option<Spanned<i64>>,
    lanes: Option<Spanned<i64>>,
    ca: Option<Spanned<PathBuf>>,
    proxy: Option<Spanned<String>>,
    proxy_password_file: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPolicy {
    file: Spanned<PathBuf>,
}

impl AgentConfig {
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
        let (secret, others): (Vec<_>, Vec<_>) =
            environment.partition(|(name, _)| name == SECRET_VARIABLE);
        let proxies = Environment::read(&others);
        // As in a file: one line, and not an empty one.
        let secret = secret.into_iter().next().map(|(_, value)| {
            let line = value.strip_suffix('\n').unwrap_or(&value);
            SecretString::from(line.strip_suffix('\r').unwrap_or(line))
        });
        if secret
            .as_ref()
            .is_some_and(|s| s.expose_secret().is_empty())
        {
            let message = format!("the environment variable {SECRET_VARIABLE} is empty");
            return Err(ConfigError::file(file, message));
        }
        let tables = [
            "relay",
            "oauth",
            "policy",
            "verify_callers",
            "audit",
            "admin",
            "limits",
        ];
        let mut document =
            Document::read(file)?.with_environment(&[], &tables, others.into_iter())?;
        let written: Written = document.parse()?;
        let endpoints = written
            .endpoint
            .iter()
            .map(|endpoint| crate::endpoint::check(&document, endpoint.get_ref()))
            .collect::<Result<Vec<_>, ConfigError>>()?;
        check_endpoints(&document, &written.endpoint)?;
        let names = written
            .endpoint
            .iter()
            .map(|e| e.get_ref().connect.as_ref());
        crate::proxied::check_all(&document, endpoints.iter().zip(names))?;
        check_limits(&document, &written.limits)?;
        Ok(Self {
            relay: check_relay(&document, &written.relay, proxies)?,
            oauth: crate::oauth::check(&document, &written.oauth, secret)?,
            endpoints,
            policy: PolicyFile {
                file: crate::check::file(&document, &written.policy.file)?,
            },
            verify_callers: written
                .verify_callers
                .map(|callers| crate::verify_callers::check(&document, callers, &written.oauth))
                .transpose()?,
            audit: crate::audit::check(&document, &written.audit)?,
            admin: crate::admin::check(&document, &written.admin)?,
            limits: written.limits,
        })
    }

    /// What the agent runs with, as TOML; secrets are masked.
    pub fn render(&self) -> String {
        crate::render(self)
    }
}

fn check_relay(
    document: &Document,
    written: &WrittenRelay,
    environment: Environment,
) -> Result<RelayLink, ConfigError> {
    let url = crate::check::origin(document, &written.url, &["wss"])?;
    let up_to = |most: u8, default: u8, written: &Option<Spanned<i64>>, what: &str| {
        let Some(count) = written else {
            return Ok(default);
        };
        let found = *count.get_ref();
        match u8::try_from(found) {
            Ok(count) if (1..=most).contains(&count) => Ok(count),
            _ => {
                let message = format!("found {found}; expected 1 to {most} {what}");
                Err(document.error(count.span(), message))
            }
        }
    };
    let sessions = up_to(8, 2, &written.sessions, "sessions")?;
    let lanes = up_to(MAX_LANES, 1, &written.lanes, "connections a session")?;
    let ca = written
        .ca
        .as_ref()
        .map(|ca| crate::check::file(document, ca))
        .transpose()?;
    Ok(RelayLink {
        url,
        sessions,
        lanes,
        ca,
        proxy: check_proxy(document, written, environment)?,
    })
}

/// `relay.proxy`, or what the environment says. An empty text is no proxy at all.
fn check_proxy(
    document: &Document,
    written: &WrittenRelay,
    environment: Environment,
) -> Result<Proxies, ConfigError> {
    let Some(text) = &written.proxy else {
        if let Some(file) = &written.proxy_password_file {
            let message = "found a password without relay.proxy; expected the proxy too";
            return Err(document.error(file.span(), message));
        }
        return Proxies::new(None, environment)
            .map_err(|error| ConfigError::file(&document.file, error));
    };
    if text.get_ref().is_empty() {
        return Ok(Proxies::default());
    }
    let mut proxy =
        Proxy::parse(text.get_ref()).map_err(|error| document.error(text.span(), error))?;
    if let Some(file) = &written.proxy_password_file {
        let wrong = |message| document.error(file.span(), message);
        proxy.credential = match proxy.credential {
            Some((user, password)) if password.expose_secret().is_empty() => {
                let path = document.path(file.get_ref());
                let password = crate::secret::read(&path, file.get_ref()).map_err(wrong)?;
                Some((user, password))
            }
            Some(_) => {
                let message = "found a password in relay.proxy too; expected it in one place";
                return Err(wrong(message.into()));
            }
            None => {
                let message = "found no user in relay.proxy; expected http://USER@HOST:PORT";
                return Err(wrong(message.into()));
            }
        };
    }
    Proxies::new(Some(proxy), environment).map_err(|error| document.error(text.span(), error))
}

/// A limit of zero would let no call through, leave no room, or dial the relay without a pause. To
/// drain for no time at all is to end at once.
fn check_limits(document: &Document, limits: &AgentLimits) -> Result<(), ConfigError> {
    let limits = [
        ("streams_per_session", limits.streams_per_session == 0),
        ("reconnect", limits.reconnect.0.is_zero()),
        ("receive_buffer", limits.receive_buffer.0 == 0),
        ("waiting_buffer", limits.waiting_buffer.0 == 0),
    ];
    crate::check::not_zero(document, &limits)
}

fn check_endpoints(
    document: &Document,
    written: &[Spanned<WrittenEndpoint>],
) -> Result<(), ConfigError> {
    if written.is_empty() || written.len() > MAX_OFFERS {
        return Err(document.error_of(
            "endpoint",
            format!(
                "found {} [[endpoint]]; expected 1 to {MAX_OFFERS}",
                written.len()
            ),
        ));
    }
    crate::check::unique(document, written.iter().map(|e| &e.get_ref().name), "name")
}
