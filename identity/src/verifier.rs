//! The verifier of a running program: several issuers, each with its rules and fresh keys.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;

use crate::fetch::{FetchError, Proxying};
use crate::introspection::{Introspection, Introspector};
use crate::keys::{KeySource, Keys, KeysError};
use crate::verify::{IssuerRules, MAX_LEEWAY, Token, TokenError, VerifiedToken};

/// An issuer whose tokens are accepted.
#[derive(Debug, Clone)]
pub struct TrustedIssuer {
    /// What is demanded of its tokens.
    pub rules: IssuerRules,
    /// Where its keys come from.
    pub keys: KeySource,
    /// Where it is asked about tokens that are not JWTs; such tokens are refused if nowhere.
    pub introspection: Option<Introspection>,
}

/// Why a verifier cannot be made: the configuration is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    /// Two entries have the same `iss`.
    #[error("issuer {issuer} is configured twice")]
    Duplicate {
        /// The issuer.
        issuer: String,
    },
    /// No algorithm is allowed: no token could pass.
    #[error("issuer {issuer} has no algorithms")]
    NoAlgorithms {
        /// The issuer.
        issuer: String,
    },
    /// More than [`MAX_LEEWAY`].
    #[error("issuer {issuer} allows for more than {} s of clock skew", MAX_LEEWAY.as_secs())]
    Leeway {
        /// The issuer.
        issuer: String,
    },
    /// The key file or the CA file is of no use, or the address is not https.
    #[error("issuer {issuer}: {error}")]
    Keys {
        /// The issuer.
        issuer: String,
        /// What is wrong.
        error: KeysError,
    },
    /// The introspection endpoint's CA file is of no use, or the address is not https.
    #[error("issuer {issuer}: introspection: {error}")]
    Introspection {
        /// The issuer.
        issuer: String,
        /// What is wrong.
        error: FetchError,
    },
}

/// How an issuer is doing, for status and metrics.
#[derive(Debug, Clone)]
pub struct IssuerStatus {
    /// The issuer.
    pub issuer: String,
    /// How many keys it has; 0 when none are known or they are too old.
    pub keys: usize,
    /// How long ago they were fetched.
    pub age: Option<Duration>,
    /// Why the last refresh failed, if it did.
    pub error: Option<KeysError>,
}

/// Verifies tokens of several issuers. Cheap to clone; clones share keys.
///
/// Make one with [`Verifier::new`], then let [`Verifier::keep_fresh`] run: without it, keys
/// that are not in files are never fetched.
#[derive(Clone)]
pub struct Verifier {
    issuers: Arc<[Issuer]>,
    proxying: Proxying,
}

struct Issuer {
    rules: IssuerRules,
    source: KeySource,
    keys: Keys,
    introspector: Option<Introspector>,
}

impl Verifier {
    /// Checks the issuers and loads key files and CA files; does not touch the network. They are
    /// reached as the environment says.
    pub fn new(trusted: Vec<TrustedIssuer>) -> Result<Self, VerifierError> {
        Self::through(trusted, Proxying::Environment)
    }

    /// Like [`Verifier::new`], with the issuers reached by way of `proxying`.
    pub fn through(trusted: Vec<TrustedIssuer>, proxying: Proxying) -> Result<Self, VerifierError> {
        let mut known = HashSet::new();
        let mut issuers = Vec::new();
        for TrustedIssuer {
            rules,
            keys: source,
            introspection,
        } in trusted
        {
            let issuer = rules.issuer.clone();
            if !known.insert(issuer.clone()) {
                return Err(VerifierError::Duplicate { issuer });
            }
            if rules.algorithms.is_empty() {
                return Err(VerifierError::NoAlgorithms { issuer });
            }
            if rules.leeway > MAX_LEEWAY {
                return Err(VerifierError::Leeway { issuer });
            }
            let introspector = match introspection
                .map(|settings| Introspector::new(settings, proxying.clone()))
                .transpose()
            {
                Ok(introspector) => introspector,
                Err(error) => return Err(VerifierError::Introspection { issuer, error }),
            };
            match source.prepare(&issuer, &proxying) {
                Ok(given) => issuers.push(Issuer {
                    rules,
                    source,
                    keys: Keys::new(given),
                    introspector,
                }),
                Err(error) => return Err(VerifierError::Keys { issuer, error }),
            }
        }
        Ok(Self {
            issuers: issuers.into(),
            proxying,
        })
    }

    /// Judges a token at one time with the keys that are known. Never waits or locks. A token
    /// that newer keys might verify is refused, and a refresh is asked for.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<VerifiedToken, TokenError> {
        let token = Token::parse(token)?;
        let issuer = self.issuer(&token)?;
        let judged = issuer.judge(&token, now);
        if matches!(&judged, Err(error) if error.wants_newer_keys()) {
            issuer.keys.request();
        }
        judged
    }

    /// Judges a token now. A token that newer keys might verify waits for one refresh, a few
    /// seconds at most, unless the last such refresh was less than
    /// [`MIN_REFRESH_INTERVAL`](crate::keys::MIN_REFRESH_INTERVAL) ago. A token that is no JWT is
    /// asked about where an issuer can be asked.
    pub async fn verify_refreshing(&self, token: &str) -> Result<VerifiedToken, TokenError> {
        let parsed = Token::parse(token);
        // A JWT has three parts. Some opaque tokens have two, and an encrypted one has five.
        if matches!(parsed, Err(TokenError::NotCompact)) && token.matches('.').count() != 2 {
            return self.introspect(token).await;
        }
        let token = parsed?;
        let issuer = self.issuer(&token)?;
        match issuer.judge(&token, SystemTime::now()) {
            Err(error) if error.wants_newer_keys() => {
                if issuer.keys.refreshed().await {
                    issuer.judge(&token, SystemTime::now())
                } else {
                    Err(error)
                }
            }
            judged => judged,
        }
    }

    /// Asks the issuers that can be asked whose the token is, unless one has said so lately: all at once,
    /// so that one that does not answer keeps nobody waiting whose token is another's.
    async fn introspect(&self, token: &str) -> Result<VerifiedToken, TokenError> {
        let mut issuers = self.issuers.iter();
        let known = issuers.find_map(|issuer| issuer.introspector.as_ref()?.known(token));
        if let Some(verified) = known {
            return Ok(verified);
        }
        // Whoever goes away, or has an answer, takes the other questions along.
        let issuers = self.issuers.iter();
        let mut answers: FuturesUnordered<_> = issuers
            .filter_map(|issuer| Some(issuer.introspector.as_ref()?.judge(token, &issuer.rules)))
            .collect();
        let mut refusal = TokenError::NotCompact;
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(verified) => return Ok(verified),
                Err(error) if weight(&error) > weight(&refusal) => refusal = error,
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    /// Whether tokens can be judged: each issuer has been tried, and at least one has keys or can be
    /// asked about tokens, which an issuer without keys may want for all of them. So
    /// a node waits for its issuers at start, but one dead issuer among several does not take
    /// the node away from the tenants of the others.
    pub fn is_ready(&self) -> bool {
        let tried = |issuer: &Issuer| {
            issuer.keys.with(|_| ()).is_some() || issuer.keys.progress().ended > 0
        };
        self.issuers.is_empty()
            || (self.issuers.iter().all(tried)
                && self.issuers.iter().any(|issuer| {
                    issuer.introspector.is_some() || issuer.keys.with(|_| ()).is_some()
                }))
    }

    /// How each issuer is doing.
    pub fn status(&self) -> Vec<IssuerStatus> {
        let status = |issuer: &Issuer| IssuerStatus {
            issuer: issuer.rules.issuer.clone(),
            keys: issuer.keys.with(|keys| keys.len()).unwrap_or(0),
            age: issuer.keys.age(),
            error: issuer.keys.progress().error,
        };
        self.issuers.iter().map(status).collect()
    }

    /// Fetches and refreshes keys, for as long as it is polled. Once for all clones.
    pub fn keep_fresh(&self) -> impl Future<Output = ()> + Send + use<> {
        let (issuers, proxying) = (self.issuers.clone(), self.proxying.clone());
        async move {
            let each = issuers.iter().map(|issuer| issuer.keep_fresh(&proxying));
            join_all(each).await;
        }
    }

    fn issuer(&self, token: &Token<'_>) -> Result<&Issuer, TokenError> {
        let named = self
            .issuers
            .iter()
            .find(|issuer| issuer.rules.issuer == token.issuer());
        named.ok_or(TokenError::Issuer)
    }
}

impl Issuer {
    fn judge(&self, token: &Token<'_>, now: SystemTime) -> Result<VerifiedToken, TokenError> {
        let judged = self.keys.with(|keys| token.verify(&self.rules, keys, now));
        let issuer = || self.rules.issuer.clone();
        match judged {
            None => Err(TokenError::NoKeys { issuer: issuer() }),
            // It may have changed its keys since they could be had: that is no fault of the token's.
            Some(Err(TokenError::UnknownKey { .. })) if self.keys.progress().error.is_some() => {
                Err(TokenError::StaleKeys { issuer: issuer() })
            }
            Some(judged) => judged,
        }
    }

    async fn keep_fresh(&self, proxying: &Proxying) {
        let lasting = matches!(self.source, KeySource::File(_));
        let issuer = &self.rules.issuer;
        self.keys
            .keep_fresh(issuer, lasting, || self.source.fetch(issuer, proxying))
            .await;
    }
}

/// How much an issuer's refusal says, where several were asked. One that does not know the token says
/// least; where one that may know it does not answer, the token may be good.
fn weight(refusal: &TokenError) -> u8 {
    match refusal {
        TokenError::NotCompact => 0,
        TokenError::Inactive | TokenError::Issuer => 1,
        error if error.is_unavailable() => 2,
        _ => 3,
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issuers = self.issuers.iter().map(|issuer| &issuer.rules.issuer);
        f.debug_list().entries(issuers).finish()
    }
}
