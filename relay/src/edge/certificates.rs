//! Callers that show a client certificate, in place of a token.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_config::RelayConfig;
use culvert_config::caller::Caller;
use culvert_identity::verify::{PatternError, VerifiedToken};
use culvert_identity::{CertificateError, EndpointPatterns, KnownCaller, KnownCallers};
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::tls::PublicTls;

/// Who calls with which certificate, and which authorities sign them.
#[derive(Debug)]
pub struct CertificateCallers {
    known: KnownCallers,
    tls: Arc<PublicTls>,
}

/// The certificates that a connection's client has shown, its own first, and what was made of
/// them.
pub(crate) struct ShownCertificate {
    chain: Vec<CertificateDer<'static>>,
    judged: Mutex<Option<Judged>>,
}

/// A judgement by authorities that may be replaced meanwhile.
struct Judged {
    by: Arc<dyn ClientCertVerifier>,
    outcome: Result<Arc<VerifiedToken>, CertificateError>,
}

impl CertificateCallers {
    /// The callers of a configuration; `None` where no certificates are asked for.
    pub(crate) fn new(
        config: &RelayConfig,
        tls: Arc<PublicTls>,
    ) -> Result<Option<Self>, PatternError> {
        if tls.clients().is_none() {
            return Ok(None);
        }
        let calls = |scope: &String| {
            config
                .issuers
                .iter()
                .any(|issuer| issuer.call_scope == *scope)
        };
        let known = |caller: &Caller| {
            let endpoints = caller.endpoints.clone().map(EndpointPatterns::new);
            Ok(KnownCaller {
                name: caller.san.clone(),
                tenant: caller.tenant.clone(),
                endpoints: endpoints.transpose()?,
                may_call: caller.scopes.iter().any(calls),
                scopes: caller.scopes.clone(),
            })
        };
        let known = config.callers.iter().map(known);
        let known = KnownCallers::new(known.collect::<Result<Vec<_>, _>>()?);
        Ok(Some(Self { known, tls }))
    }

    /// Who has shown this, at this time. A judgement is remembered until the certificate's time is
    /// over or the authorities are read again.
    pub(crate) fn judge(
        &self,
        shown: &ShownCertificate,
        now: SystemTime,
    ) -> Result<Arc<VerifiedToken>, CertificateError> {
        let by = self.tls.clients().ok_or(CertificateError::Authority)?;
        let mut judged = shown.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(judged) = judged
            .as_ref()
            .filter(|judged| Arc::ptr_eq(&judged.by, &by))
        {
            return match &judged.outcome {
                Ok(caller) if caller.principal.expires_at() <= now => Err(CertificateError::Time),
                outcome => outcome.clone(),
            };
        }
        let outcome = self.judge_anew(&shown.chain, &*by, now).map(Arc::new);
        *judged = Some(Judged {
            by,
            outcome: outcome.clone(),
        });
        outcome
    }

    /// The handshake has verified the chain, unless it resumed a session; and other authorities may
    /// have been accepted then.
    fn judge_anew(
        &self,
        chain: &[CertificateDer<'static>],
        by: &dyn ClientCertVerifier,
        now: SystemTime,
    ) -> Result<VerifiedToken, CertificateError> {
        let (own, further) = chain.split_first().ok_or(CertificateError::Unreadable)?;
        let caller = self.known.judge(own, now)?;
        let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        by.verify_client_cert(own, further, UnixTime::since_unix_epoch(since))
            .map_err(|_| CertificateError::Authority)?;
        Ok(caller)
    }
}

impl ShownCertificate {
    /// Of a client that has shown these; `None` if it has shown none.
    pub(crate) fn of(chain: &[CertificateDer<'static>]) -> Option<Self> {
        (!chain.is_empty()).then(|| Self {
            chain: chain.to_vec(),
            judged: Mutex::default(),
        })
    }
}

impl fmt::Debug for ShownCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShownCertificate").finish_non_exhaustive()
    }
}
