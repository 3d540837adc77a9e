//! From `[oauth]` to the grant that obtains access tokens.

use std::path::PathBuf;

use culvert_config::oauth::{self, OAuth};
use culvert_identity::fetch::FetchError;
use culvert_identity::obtain::BadSigningKey;
use culvert_identity::{
    Assertions, ClientAuth, Grant, OAuthClient, Proxying, RefreshTokenFile, TokenServer,
};

/// Why tokens cannot be obtained as configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrantError {
    /// The client's key cannot sign.
    #[error("{}: {source}", .file.display())]
    Key {
        file: PathBuf,
        source: BadSigningKey,
    },
    /// The issuer's CA.
    #[error(transparent)]
    Ca(#[from] FetchError),
    /// The refresh token's file.
    #[error(transparent)]
    RefreshToken(#[from] std::io::Error),
}

impl GrantError {
    /// The key of the configuration that it is about.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::Key { .. } => "oauth.private_key_jwt",
            Self::Ca(_) => "oauth.ca",
            Self::RefreshToken(_) => "oauth.refresh_token_file",
        }
    }
}

/// Whether what `[oauth]` holds can be used. Claims nothing: an agent may be running with it.
pub(crate) fn check(oauth: &OAuth) -> Result<(), GrantError> {
    match oauth {
        OAuth::ClientCredentials(client) | OAuth::RefreshToken { client, .. } => {
            self::client(client, Proxying::default())?.check_ca()?;
            Ok(())
        }
        OAuth::TokenFile { .. } => Ok(()),
    }
}

/// The grant that `[oauth]` asks for, by way of `proxying`. Claims the file of a refresh token.
pub(crate) fn grant(oauth: &OAuth, proxying: Proxying) -> Result<Grant, GrantError> {
    Ok(match oauth {
        OAuth::ClientCredentials(client) => {
            Grant::ClientCredentials(self::client(client, proxying)?)
        }
        OAuth::RefreshToken {
            client,
            refresh_token_file,
        } => {
            let file = RefreshTokenFile::claim(refresh_token_file.clone())?;
            Grant::RefreshToken(self::client(client, proxying)?, file)
        }
        OAuth::TokenFile { token_file, .. } => Grant::TokenFile(token_file.clone()),
    })
}

fn client(client: &oauth::OAuthClient, proxying: Proxying) -> Result<OAuthClient, GrantError> {
    Ok(OAuthClient {
        server: match &client.server {
            oauth::TokenServer::Issuer(issuer) => TokenServer::Issuer(issuer.clone()),
            oauth::TokenServer::TokenUrl(url) => TokenServer::TokenUrl(url.clone()),
        },
        client_id: client.client_id.clone(),
        auth: match &client.auth {
            oauth::ClientAuth::Basic { client_secret } => ClientAuth::Basic(client_secret.clone()),
            oauth::ClientAuth::Post { client_secret } => ClientAuth::Post(client_secret.clone()),
            oauth::ClientAuth::PrivateKeyJwt(key) => ClientAuth::PrivateKeyJwt(
                Assertions::new(
                    &key.private_key,
                    culvert_trust::algorithm(key.algorithm),
                    key.key_id.clone(),
                    key.audience.clone(),
                )
                .map_err(|source| GrantError::Key {
                    file: key.key_file.clone(),
                    source,
                })?,
            ),
            oauth::ClientAuth::Public => ClientAuth::Public,
        },
        audience: client.audience.clone(),
        resource: None,
        scope: client.scope.clone(),
        ca: client.ca.clone(),
        proxying,
    })
}
