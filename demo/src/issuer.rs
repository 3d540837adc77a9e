//! The development token issuer: discovery, a key set, and the client credentials grant.
//!
//! A stand-in for a real OAuth server, with what relay and agent need of one: metadata
//! (RFC 8414), JWKS (RFC 7517), and access tokens as JWTs (RFC 9068) that carry the tenant and,
//! for agents, the endpoints that they may register. Its key lives as long as the process.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::failure::{Doing, Result};
use crate::https::{self, Reply};
use crate::tokens::{self, SigningKey};

/// The audience of every token: what the relay's configuration expects.
pub const AUDIENCE: &str = "culvert";

/// How long a token is valid, in seconds. Short, so that a demo that stays up shows renewal.
pub const TOKEN_LIFE: u64 = 15 * 60;

/// A client that may ask for tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Client {
    /// Its id, and the subject of its tokens.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// The tenant that its tokens speak for.
    pub tenant: String,
    /// Names of endpoints that it may register; empty for callers.
    pub endpoints: Vec<String>,
    /// The scopes that it may ask for, and gets if it asks for none.
    pub scopes: Vec<String>,
}

/// What the issuer knows.
struct Issuer {
    url: String,
    key: SigningKey,
    clients: HashMap<String, Client>,
}

/// Runs the issuer: certificate and `clients.json` come from `folder`.
pub async fn run(folder: &Path) -> Result<()> {
    let file = folder.join("clients.json");
    let clients = std::fs::read(&file).doing(|| format!("cannot read {}", file.display()))?;
    let clients: Vec<Client> = serde_json::from_slice(&clients).doing(|| "cannot read clients")?;
    https::serve(folder, "issuer", |url| {
        let issuer = Arc::new(Issuer {
            url: url.to_owned(),
            key: SigningKey::generate("demo-1")?,
            clients: clients
                .into_iter()
                .map(|client| (client.id.clone(), client))
                .collect(),
        });
        Ok(move |request| handle(issuer.clone(), request))
    })
    .await
}

async fn handle(issuer: Arc<Issuer>, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    match (&head.method, head.uri.path()) {
        (
            &Method::GET,
            "/.well-known/openid-configuration" | "/.well-known/oauth-authorization-server",
        ) => https::json(StatusCode::OK, &issuer.metadata()),
        (&Method::GET, "/jwks") => https::json(
            StatusCode::OK,
            &json!({ "keys": [issuer.key.public_jwk()] }),
        ),
        (&Method::POST, "/token") => {
            let form = https::small_body(body).await.unwrap_or_default();
            let form: HashMap<String, String> =
                url::form_urlencoded::parse(&form).into_owned().collect();
            match issuer.token(&head.headers, &form) {
                Ok(answer) => https::json(StatusCode::OK, &answer),
                Err(error) => https::json(
                    match error {
                        "invalid_client" => StatusCode::UNAUTHORIZED,
                        "server_error" => StatusCode::INTERNAL_SERVER_ERROR,
                        _ => StatusCode::BAD_REQUEST,
                    },
                    &json!({ "error": error }),
                ),
            }
        }
        _ => https::json(StatusCode::NOT_FOUND, &json!({ "error": "not found" })),
    }
}

impl Issuer {
    fn metadata(&self) -> Value {
        json!({
            "issuer": self.url,
            "token_endpoint": format!("{}/token", self.url),
            "jwks_uri": format!("{}/jwks", self.url),
            "grant_types_supported": ["client_credentials"],
            "response_types_supported": [],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        })
    }

    /// The token endpoint's answer (RFC 6749, 4.4), or its error code (5.2).
    fn token(
        &self,
        headers: &HeaderMap,
        form: &HashMap<String, String>,
    ) -> Result<Value, &'static str> {
        if form.get("grant_type").map(String::as_str) != Some("client_credentials") {
            return Err("unsupported_grant_type");
        }
        let (id, secret) = basic_credentials(headers)
            .or_else(|| {
                Some((
                    form.get("client_id")?.clone(),
                    form.get("client_secret")?.clone(),
                ))
            })
            .ok_or("invalid_client")?;
        let client = self.clients.get(&id).ok_or("invalid_client")?;
        aws_lc_rs::constant_time::verify_slices_are_equal(
            client.secret.as_bytes(),
            secret.as_bytes(),
        )
        .map_err(|_| "invalid_client")?;
        if form
            .get("audience")
            .is_some_and(|audience| audience != AUDIENCE)
        {
            return Err("invalid_target");
        }
        let scopes: Vec<&str> = match form.get("scope") {
            Some(scope) => scope.split_ascii_whitespace().collect(),
            None => client.scopes.iter().map(String::as_str).collect(),
        };
        if !scopes
            .iter()
            .all(|scope| client.scopes.iter().any(|allowed| allowed == scope))
        {
            return Err("invalid_scope");
        }
        let scope = scopes.join(" ");
        let mut claims = json!({
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": client.id,
            "client_id": client.id,
            "iat": tokens::now(),
            "exp": tokens::now() + TOKEN_LIFE,
            "jti": format!("{:016x}", fastrand::u64(..)),
            "scope": scope,
            "tenant": client.tenant,
        });
        if !client.endpoints.is_empty() {
            claims["culvert_endpoints"] = json!(client.endpoints);
        }
        let token = self.key.sign(&claims).map_err(|_| "server_error")?;
        Ok(json!({
            "access_token": token, "token_type": "Bearer", "expires_in": TOKEN_LIFE,
            "scope": scope,
        }))
    }
}

/// Id and secret of an `Authorization: Basic` header, which OAuth form-encodes first
/// (RFC 6749, 2.3.1).
fn basic_credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let decoded = BASE64_STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    let decode = |text: &str| {
        url::form_urlencoded::parse(text.as_bytes())
            .next()
            .map(|(text, _)| text.into_owned())
    };
    Some((decode(id)?, decode(secret)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer() -> Issuer {
        let client = Client {
            id: "agent".into(),
            secret: "s3cret+&=".into(),
            tenant: "acme".into(),
            endpoints: vec!["vcenter".into()],
            scopes: vec!["culvert:register".into()],
        };
        Issuer {
            url: "https://localhost:1".into(),
            key: SigningKey::generate("k").unwrap(),
            clients: [(client.id.clone(), client)].into(),
        }
    }

    fn form(fields: &[(&str, &str)]) -> HashMap<String, String> {
        fields
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    #[test]
    fn the_secret_may_come_in_the_header_or_the_form() {
        let encoded = BASE64_STANDARD.encode("agent:s3cret%2B%26%3D");
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Basic {encoded}").parse().unwrap());
        let grant = ("grant_type", "client_credentials");
        assert!(issuer().token(&headers, &form(&[grant])).is_ok());
        let post = [
            grant,
            ("client_id", "agent"),
            ("client_secret", "s3cret+&="),
        ];
        assert!(issuer().token(&HeaderMap::new(), &form(&post)).is_ok());
    }

    #[test]
    fn a_wrong_secret_scope_or_audience_gets_no_token() {
        let grant = ("grant_type", "client_credentials");
        let id = ("client_id", "agent");
        let secret = ("client_secret", "s3cret+&=");
        for (fields, error) in [
            (vec![id, secret], "unsupported_grant_type"),
            (
                vec![grant, id, ("client_secret", "wrong")],
                "invalid_client",
            ),
            (vec![grant, secret], "invalid_client"),
            (
                vec![grant, id, secret, ("scope", "culvert:call")],
                "invalid_scope",
            ),
            (
                vec![grant, id, secret, ("audience", "elsewhere")],
                "invalid_target",
            ),
        ] {
            assert_eq!(
                issuer().token(&HeaderMap::new(), &form(&fields)),
                Err(error)
            );
        }
    }
}
