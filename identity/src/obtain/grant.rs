//! One request for a token: the client-credentials grant (RFC 6749, 4.4).

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use http::{Request, Response};
use oauth2::basic::{BasicClient, BasicErrorResponse, BasicErrorResponseType, BasicTokenResponse};
use oauth2::{
    AsyncHttpClient, AuthType, ClientId, ClientSecret, RequestTokenError, Scope, TokenResponse,
    TokenUrl,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use url::Url;

use super::{AccessToken, ObtainError};
use crate::fetch::{FetchError, Fetcher, Proxying, discover, shown, status_error};
use crate::keys::issuer_url;
use crate::verify::MAX_TOKEN;

/// The life that a token is taken to have when the issuer does not say (`expires_in` is only
/// recommended, RFC 6749, 5.1). Short: an early renewal costs one request, a late one the session.
pub const ASSUMED_LIFE: Duration = Duration::from_secs(300);

/// The longest life that is believed.
pub const MAX_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Longest `error_description` that is passed on, in characters.
const MAX_DESCRIPTION: usize = 256;

/// Where tokens are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenServer {
    /// The metadata of this issuer names the token endpoint.
    Issuer(String),
    /// The token endpoint itself.
    TokenUrl(Url),
}

/// How the client proves who it is (RFC 6749, 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// `client_secret_basic`: every server has it.
    #[default]
    Basic,
    /// `client_secret_post`: for servers that take nothing else.
    Post,
}

/// What the client-credentials grant needs. `Debug` does not show the secret.
#[derive(Debug, Clone)]
pub struct ClientCredentials {
    /// Where tokens are asked for.
    pub server: TokenServer,
    /// The client's id.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: SecretString,
    /// How it is sent.
    pub auth: ClientAuth,
    /// For whom the token shall be. Sent as `audience` (Auth0 and others); where it is an
    /// absolute URI, also as `resource` (RFC 8707). Servers ignore what they do not know.
    pub audience: Option<String>,
    /// Sent as `resource` instead of the audience.
    pub resource: Option<String>,
    /// The scopes to ask for, with spaces between them.
    pub scope: String,
    /// The CA for connections to the issuer; the system's if none.
    pub ca: Option<PathBuf>,
    /// The proxy on the way to the issuer.
    pub proxying: Proxying,
}

impl ClientCredentials {
    /// Asks for a token, once. Ends within half a minute.
    pub async fn obtain(&self) -> Result<AccessToken, ObtainError> {
        let (fetcher, endpoint) = self.endpoint().await?;
        let mut client = BasicClient::new(ClientId::new(self.client_id.clone()))
            .set_token_uri(TokenUrl::from_url(endpoint))
            .set_auth_type(match self.auth {
                ClientAuth::Basic => AuthType::BasicAuth,
                ClientAuth::Post => AuthType::RequestBody,
            });
        client = client.set_client_secret(ClientSecret::new(
            self.client_secret.expose_secret().to_owned(),
        ));
        let mut request = client.exchange_client_credentials();
        for scope in self.scope.split_ascii_whitespace() {
            request = request.add_scope(Scope::new(scope.into()));
        }
        if let Some(audience) = &self.audience {
            request = request.add_extra_param("audience", audience.clone());
        }
        if let Some(resource) = self.resource() {
            request = request.add_extra_param("resource", resource.to_owned());
        }
        let asked_at = Instant::now();
        match request.request_async(&fetcher).await {
            Ok(answer) => accept(&answer, asked_at, &self.scope),
            Err(error) => Err(self.explain(error)),
        }
    }

    async fn endpoint(&self) -> Result<(Fetcher, Url), ObtainError> {
        match &self.server {
            TokenServer::TokenUrl(url) => Ok((
                Fetcher::open(self.ca.clone(), url.clone(), self.proxying.clone()).await?,
                url.clone(),
            )),
            TokenServer::Issuer(issuer) => {
                let (issuer_url, proxying) = (issuer_url(issuer)?, self.proxying.clone());
                let fetcher = Fetcher::open(self.ca.clone(), issuer_url, proxying).await?;
                let endpoint = discover(&fetcher, issuer).await?.token_endpoint()?;
                Ok((fetcher, endpoint))
            }
        }
    }

    fn resource(&self) -> Option<&str> {
        let absolute = |text: &&str| Url::parse(text).is_ok_and(|url| url.fragment().is_none());
        self.resource
            .as_deref()
            .or_else(|| self.audience.as_deref().filter(absolute))
    }

    /// What an error of the grant means. Bodies are dropped: they may hold a token.
    fn explain(&self, error: RequestTokenError<FetchError, BasicErrorResponse>) -> ObtainError {
        match error {
            RequestTokenError::Request(error) => ObtainError::Exchange(error),
            RequestTokenError::ServerResponse(answer) => {
                let description = answer.error_description().and_then(|text| self.fit(text));
                match answer.error() {
                    BasicErrorResponseType::InvalidClient => {
                        ObtainError::InvalidClient { description }
                    }
                    code => ObtainError::Refused {
                        code: self.fit(code.as_ref()).unwrap_or_else(|| "no code".into()),
                        description,
                    },
                }
            }
            RequestTokenError::Parse(..) => {
                ObtainError::BadAnswer("it is not the JSON of RFC 6749, section 5")
            }
            RequestTokenError::Other(_) => {
                ObtainError::BadAnswer("it is empty, or its Content-Type is not JSON")
            }
        }
    }

    /// A text of the issuer's as it may go to logs: short, plain, and without the secret.
    fn fit(&self, text: &str) -> Option<String> {
        if text.contains(self.client_secret.expose_secret()) {
            return None;
        }
        Some(
            text.chars()
                .filter(|c| !c.is_control())
                .take(MAX_DESCRIPTION)
                .collect(),
        )
    }
}

/// The HTTP client of the `oauth2` crate: passes on what OAuth gives a meaning (RFC 6749, 5).
impl<'c> AsyncHttpClient<'c> for Fetcher {
    type Error = FetchError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Vec<u8>>, FetchError>> + Send + 'c>>;

    fn call(&'c self, request: Request<Vec<u8>>) -> Self::Future {
        Box::pin(async move {
            let url = Url::parse(&request.uri().to_string());
            let response = self.send(request).await?;
            match response.status().as_u16() {
                200 | 400 | 401 | 403 => Ok(response),
                _ => Err(status_error(
                    url.as_ref().map(shown).unwrap_or_default(),
                    &response,
                )),
            }
        })
    }
}

fn accept(
    answer: &BasicTokenResponse,
    asked_at: Instant,
    scope: &str,
) -> Result<AccessToken, ObtainError> {
    if !answer.token_type().as_ref().eq_ignore_ascii_case("bearer") {
        return Err(ObtainError::BadAnswer("its token is not a bearer token"));
    }
    let secret = answer.access_token().secret();
    if secret.is_empty() || secret.len() > MAX_TOKEN {
        return Err(ObtainError::BadAnswer(
            "its token is empty or longer than 16 KiB",
        ));
    }
    if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ObtainError::BadAnswer(
            "its token does not fit into a header",
        ));
    }
    let lifetime = answer.expires_in().unwrap_or(ASSUMED_LIFE).min(MAX_LIFE);
    if lifetime.is_zero() {
        return Err(ObtainError::BadAnswer("its token is expired already"));
    }
    let lacks = |wanted: &&str| {
        answer
            .scopes()
            .is_some_and(|granted| !granted.iter().any(|scope| scope.as_str() == *wanted))
    };
    if let Some(missing) = scope.split_ascii_whitespace().find(lacks) {
        tracing::warn!(
            scope = missing,
            "the issuer gave a token without a scope that was asked for"
        );
    }
    Ok(AccessToken {
        secret: secret.as_str().into(),
        expires_at: asked_at + lifetime,
        lifetime,
    })
}
