//! A token issuer for the bench: one key, made at start, and the one token that its endpoint
//! gives.

use std::convert::Infallible;
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::json;
use tokio::net::TcpListener;

use crate::load::Failure;

/// The issuer's name in every token.
pub const ISSUER: &str = "https://issuer.localhost";

/// The issuer's key.
#[derive(Debug)]
pub struct Keys {
    pair: KeyPair,
}

impl Keys {
    /// A fresh P-256 key.
    pub fn new() -> Result<Self, Failure> {
        Ok(Self {
            pair: KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?,
        })
    }

    /// The key set (RFC 7517) that the relay verifies with.
    pub fn jwks(&self) -> String {
        // An uncompressed point (SEC 1, 2.3.3): 04, x, y.
        let point = self.pair.der_bytes();
        let part = |range: Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "bench",
            "x": part(1..33), "y": part(33..65),
        }]})
        .to_string()
    }

    /// A token of a tenant, good for a day.
    pub fn sign(&self, tenant: &str, subject: &str, scope: &str) -> Result<String, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let claims = json!({
            "iss": ISSUER, "aud": "culvert", "sub": subject, "iat": now, "exp": now + 86_400,
            "jti": subject, "client_id": subject,
            "tenant": tenant, "scope": scope, "culvert_endpoints": ["*"],
        });
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some("at+jwt".into());
        header.kid = Some("bench".into());
        let key = EncodingKey::from_ec_der(self.pair.serialized_der());
        Ok(jsonwebtoken::encode(&header, &claims, &key)?)
    }
}

/// A token endpoint that answers every POST with `token`.
pub fn serve(listener: std::net::TcpListener, token: String) -> Result<(), Failure> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let answer = json!({ "access_token": token, "token_type": "Bearer", "expires_in": 86_400 });
    let answer = Bytes::from(answer.to_string());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |_: Request<Incoming>| {
                let response = Response::builder()
                    .header("content-type", "application/json")
                    .body(Full::new(answer.clone()));
                async move { Ok::<_, Infallible>(response.unwrap_or_default()) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    Ok(())
}
