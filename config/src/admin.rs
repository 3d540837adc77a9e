//! Where relay and agent answer their operators, and what beyond this machine has to be shown for it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::address::Address;
use crate::document::Document;
use crate::error::ConfigError;

/// The agent's address where nothing is written.
pub const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9902);

/// Fewest characters of a token: others can try as many as they like.
const MIN_TOKEN: usize = 16;

/// The file with the token that whoever asks has to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdminToken {
    #[serde(rename = "token_file")]
    file: PathBuf,
    #[serde(skip)]
    written: PathBuf,
}

impl AdminToken {
    /// Reads the token as it is now.
    ///
    /// # Errors
    /// The file is not there, not its owner's alone, or has fewer than 16 characters.
    pub fn read(&self) -> Result<SecretString, String> {
        let token = crate::secret::read(&self.file, &self.written)?;
        match token.expose_secret().chars().count() {
            MIN_TOKEN.. => Ok(token),
            found => Err(format!(
                "the token in {} has {found} characters; expected at least {MIN_TOKEN} (openssl rand \
                 -hex 32)",
                self.file.display()
            )),
        }
    }

    fn check(document: &Document, file: &Spanned<PathBuf>) -> Result<Self, ConfigError> {
        let token = Self {
            file: document.path(file.get_ref()),
            written: file.get_ref().clone(),
        };
        match token.read() {
            Ok(_) => Ok(token),
            Err(message) => Err(document.error(file.span(), message)),
        }
    }
}

/// `[admin]` of `relay.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenToken {
    token_file: Spanned<PathBuf>,
}

impl WrittenToken {
    pub(crate) fn check(&self, document: &Document) -> Result<AdminToken, ConfigError> {
        AdminToken::check(document, &self.token_file)
    }
}

/// What an address that is not of this machine lacks.
pub(crate) fn beyond(address: SocketAddr, lacks: &str) -> String {
    format!(
        "found {address}; expected a loopback address, or {lacks}: beyond this machine the admin \
         listener speaks TLS and asks for a token"
    )
}

/// `[admin]` of `agent.toml`: where health, metrics and status are answered, and to whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentAdmin {
    /// Where.
    #[serde(flatten)]
    pub address: AdminAddress,
    /// The certificate; `None`: plain HTTP.
    #[serde(flatten)]
    pub tls: Option<AdminTls>,
    /// What has to be shown; `None`: whoever is on this machine may ask.
    #[serde(flatten)]
    pub token: Option<AdminToken>,
}

/// Where an agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminAddress {
    /// An address. If it is not a loopback address, there are a certificate and a token.
    Listen(SocketAddr),
    /// A socket in the file system: whoever may write to it may ask.
    Socket(PathBuf),
}

/// The certificate that an agent's admin listener shows: PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdminTls {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key (PKCS#8, PKCS#1 or SEC1).
    pub private_key: PathBuf,
}

impl AgentAdmin {
    /// Whoever may use the address may ask, in plain HTTP.
    pub fn open_at(address: AdminAddress) -> Self {
        Self {
            address,
            tls: None,
            token: None,
        }
    }
}

impl Default for AgentAdmin {
    fn default() -> Self {
        Self::open_at(AdminAddress::Listen(DEFAULT_ADMIN))
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenAdmin {
    listen: Option<Spanned<Address>>,
    socket: Option<Spanned<PathBuf>>,
    certificate: Option<Spanned<PathBuf>>,
    private_key: Option<Spanned<PathBuf>>,
    token_file: Option<Spanned<PathBuf>>,
}

pub(crate) fn check(
    document: &Document,
    written: &WrittenAdmin,
) -> Result<AgentAdmin, ConfigError> {
    let (tls, token) = (check_tls(document, written)?, &written.token_file);
    if let Some(socket) = &written.socket {
        let further = [&written.certificate, token].into_iter().flatten().next();
        return match (&written.listen, further) {
            (Some(_), _) => Err(document.error(
                socket.span(),
                "found listen and socket; expected one of them",
            )),
            (None, Some(further)) => Err(document.error(
                further.span(),
                "found beside socket; expected no such key: the socket's permissions say who may ask",
            )),
            (None, None) => Ok(AgentAdmin::open_at(AdminAddress::Socket(
                document.path(socket.get_ref()),
            ))),
        };
    }
    let token = token.as_ref().map(|file| AdminToken::check(document, file));
    let token = token.transpose()?;
    let address = written
        .listen
        .as_ref()
        .map_or(DEFAULT_ADMIN, |listen| listen.get_ref().0);
    if let (Some(listen), false) = (&written.listen, tls.is_some() && token.is_some())
        && !address.ip().is_loopback()
    {
        let message = beyond(address, "certificate, private_key and token_file");
        return Err(document.error(listen.span(), message));
    }
    Ok(AgentAdmin {
        address: AdminAddress::Listen(address),
        tls,
        token,
    })
}

fn check_tls(document: &Document, written: &WrittenAdmin) -> Result<Option<AdminTls>, ConfigError> {
    match (&written.certificate, &written.private_key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(private_key)) => Ok(Some(AdminTls {
            certificate: crate::check::file(document, certificate)?,
            private_key: crate::check::private_file(document, private_key)?,
        })),
        (Some(one), None) | (None, Some(one)) => Err(document.error(
            one.span(),
            "found one of certificate and private_key; expected both",
        )),
    }
}
