//! Asking the issuer about a token that says nothing itself (RFC 7662).
//!
//! Fails closed: no answer, no call. An answer is remembered for [`MEMORY`] at most and never past
//! the token's `exp`, so that a token that its issuer withdraws is refused within that time.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{Request, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};

use crate::fetch::{FetchError, Fetcher, Proxying, shown, status_error};
use crate::verify::{IssuerRules, TokenError, VerifiedToken, judge_introspected};

/// How long an answer counts.
pub const MEMORY: Duration = Duration::from_secs(30);

/// Most answers that are remembered. Beyond it tokens are asked about each time.
pub const MAX_REMEMBERED: usize = 10_000;

/// Most questions at once; further tokens wait for their turn, at most five seconds.
pub const MAX_QUESTIONS: usize = 32;
const PATIENCE: Duration = Duration::from_secs(5);

/// Where and as whom an issuer is asked about tokens.
#[derive(Debug, Clone)]
pub struct Introspection {
    /// The introspection endpoint.
    pub url: Url,
    /// The client that this program is at the issuer.
    pub client_id: String,
    /// Its secret.
    pub client_secret: SecretString,
    /// The CA of the endpoint's certificate; the system's if none.
    pub ca: Option<PathBuf>,
}

/// How old what connects to an issuer gets: then the CA file is read again, as it is for its keys.
const CA_MEMORY: Duration = Duration::from_secs(300);

/// Asks one issuer.
pub(crate) struct Introspector {
    settings: Introspection,
    proxying: Proxying,
    fetcher: Mutex<Kept>,
    questions: Semaphore,
    /// By the SHA-256 of the token: secrets are not kept.
    answers: Mutex<HashMap<[u8; 32], Answer>>,
}

/// What connects to the issuer, with the CA file as it was when this was made.
struct Kept {
    fetcher: Arc<Fetcher>,
    /// From then on another one is made, if the CA file is good.
    until: Instant,
}

struct Answer {
    until: Instant,
    judged: Result<VerifiedToken, TokenError>,
}

impl Introspector {
    /// Checks what can be checked without the network.
    pub(crate) fn new(settings: Introspection, proxying: Proxying) -> Result<Self, FetchError> {
        let fetcher = Fetcher::new(settings.ca.as_deref(), &settings.url, proxying.clone())?;
        Ok(Self {
            settings,
            proxying,
            fetcher: Mutex::new(Kept::new(Arc::new(fetcher))),
            questions: Semaphore::new(MAX_QUESTIONS),
            answers: Mutex::default(),
        })
    }

    /// What is remembered of a token that the issuer calls good: without a question.
    pub(crate) fn known(&self, token: &str) -> Option<VerifiedToken> {
        self.recall(&key(token))?.ok()
    }

    /// Judges a token by what the issuer says of it and by the issuer's rules.
    pub(crate) async fn judge(
        &self,
        token: &str,
        rules: &IssuerRules,
    ) -> Result<VerifiedToken, TokenError> {
        let key = key(token);
        if let Some(judged) = self.recall(&key) {
            return judged;
        }
        let unavailable = || TokenError::NoIntrospection {
            issuer: rules.issuer.clone(),
        };
        let turn = timeout(PATIENCE, self.questions.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(unavailable());
        };
        // Whoever went before may have asked the same.
        if let Some(judged) = self.recall(&key) {
            return judged;
        }
        let answer = self.ask(token).await.map_err(|error| {
            tracing::warn!(issuer = rules.issuer, %error, "introspection failed");
            unavailable()
        })?;
        let judged = judge_introspected(&answer, rules, SystemTime::now());
        match &judged {
            Err(error) if error.is_unavailable() => tracing::warn!(
                issuer = rules.issuer,
                "introspection failed: the answer is no JSON object that says whether the token is active"
            ),
            judged => self.remember(key, judged),
        }
        judged
    }

    async fn ask(&self, token: &str) -> Result<Vec<u8>, FetchError> {
        let fetcher = self.fetcher().await;
        let answer = self.exchange(&fetcher, token).await;
        if answer.is_err() {
            lock(&self.fetcher).until = Instant::now();
        }
        answer
    }

    async fn exchange(&self, fetcher: &Fetcher, token: &str) -> Result<Vec<u8>, FetchError> {
        let url = &self.settings.url;
        let body = Serializer::new(String::new())
            .append_pair("token", token)
            .append_pair("token_type_hint", "access_token")
            .finish();
        // RFC 6749, 2.3.1: form-encoded, then joined.
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let credential = BASE64_STANDARD.encode(format!(
            "{}:{}",
            encoded(&self.settings.client_id),
            encoded(self.settings.client_secret.expose_secret())
        ));
        let request = Request::post(url.as_str())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(AUTHORIZATION, format!("Basic {credential}"))
            .body(body.into_bytes())
            .map_err(|_| FetchError::Address { url: shown(url) })?;
        let response = fetcher.send(request).await?;
        if response.status() == StatusCode::OK {
            Ok(response.into_body())
        } else {
            Err(status_error(shown(url), &response))
        }
    }

    async fn fetcher(&self) -> Arc<Fetcher> {
        let old = {
            let mut kept = lock(&self.fetcher);
            let old = kept.fetcher.clone();
            if Instant::now() < kept.until {
                return old;
            }
            // Whoever comes meanwhile goes on with the old one.
            kept.until = Instant::now() + CA_MEMORY;
            old
        };
        let (ca, url) = (self.settings.ca.clone(), self.settings.url.clone());
        match Fetcher::open(ca, url, self.proxying.clone()).await {
            Ok(fetcher) => {
                let fetcher = Arc::new(fetcher);
                *lock(&self.fetcher) = Kept::new(fetcher.clone());
                fetcher
            }
            Err(error) => {
                tracing::warn!(%error, "the CA file for introspection is not read again; the old one counts");
                old
            }
        }
    }

    fn recall(&self, key: &[u8; 32]) -> Option<Result<VerifiedToken, TokenError>> {
        let mut answers = lock(&self.answers);
        let answer = answers.get(key)?;
        if answer.until > Instant::now() {
            return Some(answer.judged.clone());
        }
        answers.remove(key);
        None
    }

    fn remember(&self, key: [u8; 32], judged: &Result<VerifiedToken, TokenError>) {
        let now = Instant::now();
        let left = match judged {
            Ok(verified) => {
                let left = verified.principal.expires_at();
                left.duration_since(SystemTime::now()).unwrap_or_default()
            }
            Err(_) => MEMORY,
        };
        let answer = Answer {
            until: now + left.min(MEMORY),
            judged: judged.clone(),
        };
        let mut answers = lock(&self.answers);
        if answers.len() >= MAX_REMEMBERED {
            answers.retain(|_, answer| answer.until > now);
        }
        if answers.len() >= MAX_REMEMBERED && judged.is_ok() {
            // Anybody can make up tokens that are not good.
            answers.retain(|_, answer| answer.judged.is_ok());
        }
        if answers.len() < MAX_REMEMBERED {
            answers.insert(key, answer);
        }
    }
}

impl Kept {
    fn new(fetcher: Arc<Fetcher>) -> Self {
        Self {
            fetcher,
            until: Instant::now() + CA_MEMORY,
        }
    }
}

/// What an answer is remembered by.
fn key(token: &str) -> [u8; 32] {
    let hash = digest(&SHA256, token.as_bytes());
    hash.as_ref().try_into().unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Introspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introspector")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
