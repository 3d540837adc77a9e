//! The callers' side: an HTTPS client that trusts the development authority alone.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use crate::certs;
use crate::failure::{Doing, Failure, Result};
use crate::issuer;
use crate::setup::{NO_TENANT, OTHER_TENANT, Setup, TENANT};

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// What a refusal says of itself (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The code: the fragment of `type`.
    pub code: String,
    /// Who refused: `relay`, `agent` or `upstream`.
    pub layer: String,
    /// What to do about it.
    pub detail: String,
    /// The rule that denied the call, where the policy reveals it.
    pub rule: Option<String>,
}

impl Answer {
    /// Reads the answer to its end.
    pub async fn read(response: Response) -> Result<Self> {
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response
            .bytes()
            .await
            .doing(|| "the answer was cut short")?;
        Ok(Self {
            status,
            headers,
            body,
        })
    }

    /// A header's value, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The refusal, if this is one.
    pub fn problem(&self) -> Option<Problem> {
        if self.header(CONTENT_TYPE.as_str()) != "application/problem+json" {
            return None;
        }
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        let text = |key: &str| body[key].as_str().map(str::to_owned);
        Some(Problem {
            code: text("type")?.split_once('#')?.1.to_owned(),
            layer: text("layer")?,
            detail: text("detail").unwrap_or_default(),
            rule: text("rule"),
        })
    }
}

/// The client.
#[derive(Debug)]
pub struct Web {
    client: Client,
}

impl Web {
    /// A client that finds the relay's names on loopback, whatever DNS says.
    pub fn new(setup: &Setup) -> Result<Self> {
        let mut hosts = Vec::new();
        for tenant in [TENANT, OTHER_TENANT, NO_TENANT] {
            let url = url::Url::parse(&setup.url(tenant, "/")).doing(|| "cannot form a URL")?;
            hosts.push(url.host_str().unwrap_or_default().to_owned());
        }
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        Self::reaching(&setup.authority, &hosts, &["h2", "http/1.1"])
    }

    /// A client that trusts `authority` (PEM) alone, finds these hosts on loopback, and speaks one of
    /// these protocols.
    pub fn reaching(authority: &str, hosts: &[&str], alpn: &[&str]) -> Result<Self> {
        let tls = certs::client_config(authority, alpn)?;
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut client = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(Duration::from_secs(30));
        for host in hosts {
            client = client.resolve(host, loopback);
        }
        Ok(Self {
            client: client.build().doing(|| "cannot set up the HTTPS client")?,
        })
    }

    /// Starts a request.
    pub fn request(&self, method: Method, url: &str) -> RequestBuilder {
        self.client.request(method, url)
    }

    /// Sends a request and reads the answer.
    pub async fn send(&self, request: RequestBuilder) -> Result<Answer> {
        Answer::read(request.send().await.doing(|| "the request failed")?).await
    }

    /// Asks the issuer for an access token of the client with this id.
    pub async fn token_of(&self, setup: &Setup, issuer: &str, id: &str) -> Result<String> {
        let client = setup.clients.iter().find(|client| client.id == id);
        let client = client.ok_or_else(|| Failure::new(format!("no client {id}")))?;
        self.token(issuer, client).await
    }

    /// Asks the issuer for an access token.
    pub async fn token(&self, issuer: &str, client: &issuer::Client) -> Result<String> {
        let request = self
            .request(Method::POST, &format!("{issuer}/token"))
            .basic_auth(&client.id, Some(&client.secret))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body("grant_type=client_credentials");
        let answer = self.send(request).await?;
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let none = || Failure::new(format!("the issuer gave {} no token: {body}", client.id));
        Ok(body["access_token"].as_str().ok_or_else(none)?.to_owned())
    }
}
