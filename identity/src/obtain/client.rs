//! A client of an OAuth server: one request for a token, by client credentials (RFC 6749, 4.4) or
//! by a refresh token (RFC 6749, 6).

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use oauth2::basic::{BasicClient, BasicErrorResponse, BasicErrorResponseType, BasicTokenResponse};
use oauth2::{
    AsyncHttpClient, AuthType, ClientId, ClientSecret, RefreshToken, RequestTokenError, Scope,
    TokenResponse, TokenUrl,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::{AccessToken, Assertions, ObtainError};
use crate::fetch::{FetchError, Fetcher, Proxying, authorities, discover, shown, status_error};
use crate::keys::issuer_url;
use crate::verify::MAX_TOKEN;

/// The life that a token is taken to have when the issuer does not say (`expires_in` is only
/// recommended, RFC 6749, 5.1). Short: an early renewal costs one request, a late one the session.
pub const ASSUMED_LIFE: Duration = Duration::from_secs(300);

/// The longest life that is believed.
pub const MAX_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Longest `error_description` that is passed on, in characters.
const MAX_DESCRIPTION: usize = 256;

/// RFC 7523, 2.2.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A client whose token endpoint is known.
type Client = BasicClient<
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointSet,
>;

/// Where tokens are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenServer {
    /// The metadata of this issuer names the token endpoint.
    Issuer(String),
    /// The token endpoint itself.
    TokenUrl(Url),
}

/// How the client proves who it is (RFC 6749, 2.3).
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// `client_secret_basic`: every server has it.
    Basic(SecretString),
    /// `client_secret_post`: for servers that take nothing else.
    Post(SecretString),
    /// `private_key_jwt` (RFC 7523, 2.2): nothing that could be replayed crosses the line.
    PrivateKeyJwt(Assertions),
    /// Not at all: a public client, whose refresh token is all it has.
    Public,
}

/// A client of an OAuth server, and what its tokens shall be. `Debug` does not show secrets.
#[derive(Debug, Clone)]
pub struct OAuthClient {
    /// Where tokens are asked for.
    pub server: TokenServer,
    /// The client's id.
    pub client_id: String,
    /// How the client proves that it is.
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

/// What an issuer answered to a refresh token. It may replace that even where the rest of its answer
/// is of no use: the one that was sent is void then.
#[derive(Debug)]
pub(super) struct Refreshed {
    pub(super) token: Result<AccessToken, ObtainError>,
    /// The refresh token to use from now on, if that changed.
    pub(super) next: Option<SecretString>,
}

impl OAuthClient {
    /// Whether the CA's file can be used: it is read anew for each connection, which is late to be told.
    /// Blocks.
    pub fn check_ca(&self) -> Result<(), FetchError> {
        match &self.ca {
            Some(file) => authorities(Some(file)).map(drop),
            None => Ok(()),
        }
    }

    /// Asks for a token with the client's own credentials, once. Ends within half a minute.
    pub async fn client_credentials(&self) -> Result<AccessToken, ObtainError> {
        let (fetcher, client) = self.prepare().await?;
        let mut request = client.exchange_client_credentials();
        for scope in self.scopes() {
            request = request.add_scope(scope);
        }
        for (name, value) in self.parameters(client.token_uri().url())? {
            request = request.add_extra_param(name, value);
        }
        let asked_at = Instant::now();
        match request.request_async(&fetcher).await {
            Ok(answer) => accept(&answer, asked_at, &self.scope),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Asks for a token with a refresh token, once. Ends within half a minute; fails where the issuer
    /// was not asked.
    pub(super) async fn refresh(&self, token: &SecretString) -> Result<Refreshed, ObtainError> {
        let (fetcher, client) = self.prepare().await?;
        let sent = RefreshToken::new(token.expose_secret().to_owned());
        let mut request = client.exchange_refresh_token(&sent);
        for scope in self.scopes() {
            request = request.add_scope(scope);
        }
        for (name, value) in self.parameters(client.token_uri().url())? {
            request = request.add_extra_param(name, value);
        }
        let watching = Watching {
            fetcher,
            given: Mutex::default(),
        };
        let asked_at = Instant::now();
        let token = match request.request_async(&watching).await {
            Ok(answer) => accept(&answer, asked_at, &self.scope),
            Err(error) => Err(self.explain(error)),
        };
        let given = watching.given.into_inner();
        let next = given.unwrap_or_else(PoisonError::into_inner);
        let next = next.filter(|next| next != sent.secret());
        Ok(Refreshed {
            token,
            next: next.map(SecretString::from),
        })
    }

    async fn prepare(&self) -> Result<(Fetcher, Client), ObtainError> {
        let (fetcher, endpoint) = self.endpoint().await?;
        let client = BasicClient::new(ClientId::new(self.client_id.clone()))
            .set_token_uri(TokenUrl::from_url(endpoint))
            .set_auth_type(match self.auth {
                ClientAuth::Basic(_) => AuthType::BasicAuth,
                ClientAuth::Post(_) | ClientAuth::PrivateKeyJwt(_) | ClientAuth::Public => {
                    AuthType::RequestBody
                }
            });
        Ok(match self.secret() {
            Some(secret) => {
                let secret = ClientSecret::new(secret.expose_secret().to_owned());
                (fetcher, client.set_client_secret(secret))
            }
            None => (fetcher, client),
        })
    }

    fn secret(&self) -> Option<&SecretString> {
        match &self.auth {
            ClientAuth::Basic(secret) | ClientAuth::Post(secret) => Some(secret),
            ClientAuth::PrivateKeyJwt(_) | ClientAuth::Public => None,
        }
    }

    fn scopes(&self) -> impl Iterator<Item = Scope> {
        let words = self.scope.split_ascii_whitespace();
        words.map(|scope| Scope::new(scope.into()))
    }

    /// What a request for a token at `endpoint` says beside its grant, client and scopes.
    fn parameters(&self, endpoint: &Url) -> Result<Vec<(&'static str, String)>, ObtainError> {
        let mut parameters = Vec::new();
        if let Some(audience) = &self.audience {
            parameters.push(("audience", audience.clone()));
        }
        if let Some(resource) = self.resource() {
            parameters.push(("resource", resource.to_owned()));
        }
        if let ClientAuth::PrivateKeyJwt(assertions) = &self.auth {
            let assertion = assertions.make(&self.client_id, endpoint)?;
            parameters.push(("client_assertion_type", ASSERTION_TYPE.to_owned()));
            parameters.push(("client_assertion", assertion));
        }
        Ok(parameters)
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
                    BasicErrorResponseType::InvalidGrant => {
                        ObtainError::InvalidGrant { description }
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
        let secret = self.secret().map(ExposeSecret::expose_secret);
        if secret.is_some_and(|secret| text.contains(secret)) {
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

/// The same, with a look at the answer before anybody judges it.
struct Watching {
    fetcher: Fetcher,
    /// The refresh token in it.
    given: Mutex<Option<String>>,
}

impl<'c> AsyncHttpClient<'c> for Watching {
    type Error = FetchError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Vec<u8>>, FetchError>> + Send + 'c>>;

    fn call(&'c self, request: Request<Vec<u8>>) -> Self::Future {
        Box::pin(async move {
            let answer = self.fetcher.call(request).await?;
            let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
            *given = refresh_token_in(&answer);
            Ok(answer)
        })
    }
}

/// The refresh token in an answer that grants something, whatever else it holds or lacks.
fn refresh_token_in(answer: &Response<Vec<u8>>) -> Option<String> {
    #[derive(Deserialize)]
    struct Given {
        refresh_token: String,
    }
    if answer.status() != StatusCode::OK {
        return None;
    }
    let given: Given = serde_json::from_slice(answer.body()).ok()?;
    Some(given.refresh_token).filter(|token| !token.is_empty())
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
