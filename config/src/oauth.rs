//! `[oauth]` of `agent.toml`: how the agent obtains access tokens.

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use toml::Spanned;
use url::Url;

use crate::document::Document;
use crate::error::ConfigError;
use crate::issuer::Algorithm;

/// The variable that carries the client's secret where no file does.
pub(crate) const SECRET_VARIABLE: &str = "CULVERT_OAUTH__CLIENT_SECRET";

/// How the agent obtains access tokens (OAuth 2.0, RFC 6749).
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "grant", rename_all = "snake_case")]
pub enum OAuth {
    /// RFC 6749, 4.4: the agent asks for itself.
    ClientCredentials(OAuthClient),
    /// RFC 6749, 6: somebody consented once.
    RefreshToken {
        /// The client that the refresh token was given to.
        #[serde(flatten)]
        client: OAuthClient,
        /// Where the refresh token is; replaced whenever the issuer gives another.
        refresh_token_file: PathBuf,
    },
    /// Somebody else keeps the current token in a file.
    TokenFile {
        /// The file.
        token_file: PathBuf,
        /// What the agent calls itself.
        client_id: String,
    },
}

/// A client of an OAuth server, and what its tokens shall be.
#[derive(Debug, Clone, Serialize)]
pub struct OAuthClient {
    /// The issuer, whose metadata names the token endpoint; or that endpoint itself.
    #[serde(flatten)]
    pub server: TokenServer,
    /// The client's id.
    pub client_id: String,
    /// How it proves that it is.
    #[serde(flatten, serialize_with = "auth_keys")]
    pub auth: ClientAuth,
    /// The audience to ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The scope to ask for.
    pub scope: String,
    /// The CA for connections to the issuer; system roots if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// Where tokens are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenServer {
    /// The issuer's metadata names the endpoint.
    Issuer(String),
    /// The token endpoint itself.
    TokenUrl(Url),
}

/// How a client proves that it is itself.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// Its secret, in a header.
    Basic {
        /// The secret.
        client_secret: SecretString,
    },
    /// Its secret, in the request's body.
    Post {
        /// The secret.
        client_secret: SecretString,
    },
    /// Assertions that its own key signs (RFC 7523).
    PrivateKeyJwt(ClientKey),
    /// Not at all: a public client with a refresh token.
    Public,
}

/// A client's own key, and the assertions that it signs.
#[derive(Debug, Clone, Serialize)]
pub struct ClientKey {
    /// The file that the key is in.
    pub key_file: PathBuf,
    /// The key, as PEM. Never shown: its file says where it is.
    #[serde(skip)]
    pub private_key: SecretString,
    /// What it signs with.
    pub algorithm: Algorithm,
    /// The `kid` of the assertions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The `aud` of the assertions; the token endpoint if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

/// As it is written; of a secret, that there is one.
fn auth_keys<S: Serializer>(auth: &ClientAuth, serializer: S) -> Result<S::Ok, S::Error> {
    let mut keys = serializer.serialize_map(None)?;
    let place = match auth {
        ClientAuth::Basic { .. } => Some("basic"),
        ClientAuth::Post { .. } => Some("post"),
        ClientAuth::PrivateKeyJwt(_) | ClientAuth::Public => None,
    };
    if let Some(place) = place {
        keys.serialize_entry("client_auth", place)?;
        keys.serialize_entry("client_secret", crate::secret::MASK)?;
    }
    if let ClientAuth::PrivateKeyJwt(key) = auth {
        keys.serialize_entry("private_key_jwt", key)?;
    }
    keys.end()
}

impl OAuth {
    /// What the agent calls itself: its client id.
    pub fn client_id(&self) -> &str {
        match self {
            Self::ClientCredentials(client) | Self::RefreshToken { client, .. } => {
                &client.client_id
            }
            Self::TokenFile { client_id, .. } => client_id,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenOAuth {
    grant: Spanned<Grant>,
    pub(crate) issuer: Option<Spanned<String>>,
    token_url: Option<Spanned<String>>,
    client_id: Spanned<String>,
    client_auth: Option<Spanned<SecretPlace>>,
    client_secret_file: Option<Spanned<PathBuf>>,
    private_key_jwt: Option<Spanned<WrittenKey>>,
    refresh_token_file: Option<Spanned<PathBuf>>,
    token_file: Option<Spanned<PathBuf>>,
    pub(crate) audience: Option<Spanned<String>>,
    scope: Option<Spanned<String>>,
    pub(crate) ca: Option<Spanned<PathBuf>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Grant {
    ClientCredentials,
    RefreshToken,
    TokenFile,
}

/// Where a client's secret goes.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SecretPlace {
    Basic,
    Post,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKey {
    key_file: Spanned<PathBuf>,
    #[serde(default = "es256")]
    algorithm: Algorithm,
    key_id: Option<String>,
    audience: Option<String>,
}

fn es256() -> Algorithm {
    Algorithm::ES256
}

/// `secret` is what the environment gives.
pub(crate) fn check(
    document: &Document,
    written: &WrittenOAuth,
    secret: Option<SecretString>,
) -> Result<OAuth, ConfigError> {
    if written.client_id.get_ref().is_empty() {
        return Err(document.error(written.client_id.span(), "found an empty client id"));
    }
    let grant = *written.grant.get_ref();
    let needs = |file: &Option<Spanned<PathBuf>>, key: &str| match file {
        Some(file) => crate::check::file(document, file),
        None => Err(missing(document, key, "this grant needs it")),
    };
    let unused = |file: &Option<Spanned<PathBuf>>, grant: &str| match file {
        Some(file) => Err(document.error(
            file.span(),
            format!("only grant = {grant:?} uses it; expected no such key"),
        )),
        None => Ok(()),
    };
    if !matches!(grant, Grant::TokenFile) {
        unused(&written.token_file, "token_file")?;
    }
    if !matches!(grant, Grant::RefreshToken) {
        unused(&written.refresh_token_file, "refresh_token")?;
    }
    Ok(match grant {
        Grant::ClientCredentials => {
            let client = check_client(document, written, secret)?;
            if matches!(client.auth, ClientAuth::Public) {
                let why = format!(
                    "neither it nor private_key_jwt is given, and {SECRET_VARIABLE} is not set; \
                     expected one of them"
                );
                return Err(missing(document, "oauth.client_secret_file", &why));
            }
            OAuth::ClientCredentials(client)
        }
        Grant::RefreshToken => OAuth::RefreshToken {
            client: check_client(document, written, secret)?,
            refresh_token_file: {
                let path = needs(&written.refresh_token_file, "oauth.refresh_token_file")?;
                private(document, &written.refresh_token_file, &path)?;
                path
            },
        },
        Grant::TokenFile => {
            refuse_client(document, written)?;
            OAuth::TokenFile {
                token_file: needs(&written.token_file, "oauth.token_file")?,
                client_id: written.client_id.get_ref().clone(),
            }
        }
    })
}

fn missing(document: &Document, key: &str, why: &str) -> ConfigError {
    document.error_of(key, format!("not given; {why}"))
}

/// Refuses a token's file that others may use.
fn private(
    document: &Document,
    written: &Option<Spanned<PathBuf>>,
    path: &Path,
) -> Result<(), ConfigError> {
    let Some(written) = written else {
        return Ok(());
    };
    crate::secret::check_private(path).map_err(|message| document.error(written.span(), message))
}

/// Refuses what says how to ask an issuer where nobody asks one.
fn refuse_client(document: &Document, written: &WrittenOAuth) -> Result<(), ConfigError> {
    let spans = [
        written.issuer.as_ref().map(Spanned::span),
        written.token_url.as_ref().map(Spanned::span),
        written.client_auth.as_ref().map(Spanned::span),
        written.client_secret_file.as_ref().map(Spanned::span),
        written.private_key_jwt.as_ref().map(Spanned::span),
        written.audience.as_ref().map(Spanned::span),
        written.scope.as_ref().map(Spanned::span),
        written.ca.as_ref().map(Spanned::span),
    ];
    match spans.into_iter().flatten().next() {
        Some(span) => Err(document.error(
            span,
            "grant = \"token_file\" asks no issuer; expected no such key",
        )),
        None => Ok(()),
    }
}

fn check_client(
    document: &Document,
    written: &WrittenOAuth,
    secret: Option<SecretString>,
) -> Result<OAuthClient, ConfigError> {
    let server = match (&written.issuer, &written.token_url) {
        (Some(issuer), None) => {
            crate::check::http_url(document, issuer)?;
            TokenServer::Issuer(issuer.get_ref().clone())
        }
        (None, Some(url)) => TokenServer::TokenUrl(crate::check::http_url(document, url)?),
        (Some(_), Some(url)) => {
            return Err(document.error(
                url.span(),
                "found both issuer and token_url; expected one of them",
            ));
        }
        (None, None) => {
            return Err(document.error_of(
                "oauth",
                "found neither issuer nor token_url; expected one of them",
            ));
        }
    };
    let ca = written.ca.as_ref();
    Ok(OAuthClient {
        server,
        client_id: written.client_id.get_ref().clone(),
        auth: check_auth(document, written, secret)?,
        audience: written.audience.as_ref().map(|text| text.get_ref().clone()),
        scope: match &written.scope {
            Some(scope) => scope.get_ref().clone(),
            None => "culvert:register".into(),
        },
        ca: ca.map(|ca| crate::check::file(document, ca)).transpose()?,
    })
}

fn check_auth(
    document: &Document,
    written: &WrittenOAuth,
    secret: Option<SecretString>,
) -> Result<ClientAuth, ConfigError> {
    let read = |file: &Spanned<PathBuf>| {
        crate::secret::read(&document.path(file.get_ref()), file.get_ref())
            .map_err(|message| document.error(file.span(), message))
    };
    let secret = match (&written.client_secret_file, secret) {
        (_, Some(secret)) => Some(secret),
        (Some(file), None) => Some(read(file)?),
        (None, None) => None,
    };
    match (&written.private_key_jwt, secret) {
        (Some(key), Some(_)) => Err(document.error(
            key.span(),
            "found a client secret as well; expected one of the two",
        )),
        (Some(key), None) => {
            let written = key.get_ref();
            Ok(ClientAuth::PrivateKeyJwt(ClientKey {
                key_file: document.path(written.key_file.get_ref()),
                private_key: read(&written.key_file)?,
                algorithm: written.algorithm,
                key_id: written.key_id.clone(),
                audience: written.audience.clone(),
            }))
        }
        (None, Some(client_secret)) => {
            Ok(match written.client_auth.as_ref().map(Spanned::get_ref) {
                None | Some(SecretPlace::Basic) => ClientAuth::Basic { client_secret },
                Some(SecretPlace::Post) => ClientAuth::Post { client_secret },
            })
        }
        (None, None) => Ok(ClientAuth::Public),
    }
}
