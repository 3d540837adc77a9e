//! Who calls, by the caller's own token: for agents that do not take the relay's word.
//!
//! The relay has verified the token a moment ago. One that is missing here, belongs to somebody
//! else than the relay says, or is not good for this call, shows a relay that is broken or hostile.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use culvert_config::verify_callers::VerifyCallers;
use culvert_identity::verify::{ProofError, Proofs, ProvedRequest, ProvedTarget, Token};
use culvert_identity::{AccessToken, Proxying, TokenError, Verifier, VerifierError};
use culvert_proto::code::ErrorCode;
use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::{CallerToken, Mode, Refusal};
use culvert_proto::names::TenantName;
use culvert_proto::principal::{Principal, Proof};
use tokio::sync::watch;

use super::call::{Call, Message};

/// Verifies callers by issuers and keys of the agent's own.
#[derive(Debug)]
pub(crate) struct CallerChecks {
    verifier: Verifier,
    proofs: Proofs,
    /// The agent's own tenant, once known.
    tenant: OnceLock<TenantName>,
    /// The claim of the agent's own token that has it.
    tenant_claim: String,
}

/// Why a caller is not taken for who the relay says it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unverified {
    /// The relay let it in by its client certificate.
    #[error("the caller has shown a client certificate, which only the relay can verify")]
    Certificate,
    /// No token came with the call.
    #[error("the relay passed no token of the caller's on")]
    NoToken,
    /// The token is not good.
    #[error("{0}")]
    Token(TokenError),
    /// Which tenant is this agent's?
    #[error("the agent does not know its own tenant: set verify_callers.tenant")]
    NoTenant,
    /// The token is another tenant's.
    #[error("the token is of another tenant")]
    Tenant,
    /// The token is somebody else's than the relay says.
    #[error("the token is not that of the caller whom the relay names")]
    AnotherCaller,
    /// The token's scope is not that of calling.
    #[error("the token lacks the scope that calling takes")]
    Scope,
    /// The token is not good for this endpoint.
    #[error("the token is not good for this endpoint")]
    Endpoint,
    /// The proof names another host than the endpoint's own.
    #[error("the DPoP proof is for a host that is not ENDPOINT--TENANT of this endpoint")]
    Host,
    /// The proof that the caller has its token's key.
    #[error("{0}")]
    Proof(ProofError),
}

impl CallerChecks {
    /// Loads key files and CA files, does not touch the network.
    pub(crate) fn new(config: &VerifyCallers, proxying: Proxying) -> Result<Self, VerifierError> {
        let tenant = OnceLock::new();
        if let Some(name) = &config.tenant {
            tenant.get_or_init(|| name.clone());
        }
        let claim = config.issuers.first().map(|issuer| &issuer.tenant_claim);
        Ok(Self {
            verifier: culvert_trust::verifier(&config.issuers, proxying)?,
            proofs: Proofs::default(),
            tenant,
            tenant_claim: claim.cloned().unwrap_or_default(),
        })
    }

    /// Keeps the issuers' keys fresh, and learns the agent's tenant from its own token where the
    /// configuration does not name it; for as long as it is polled.
    pub(crate) async fn keep(self: Arc<Self>, mut tokens: watch::Receiver<Option<AccessToken>>) {
        tokio::join!(self.verifier.keep_fresh(), self.learn_tenant(&mut tokens));
    }

    async fn learn_tenant(&self, tokens: &mut watch::Receiver<Option<AccessToken>>) {
        if self.tenant.get().is_none() {
            let own = tokens.wait_for(Option::is_some).await;
            let own = own.ok().and_then(|token| self.tenant_of(token.as_ref()?));
            match own {
                Some(name) => _ = self.tenant.set(name),
                None => tracing::error!(
                    claim = self.tenant_claim,
                    "the agent's own token does not say whose it is, so no caller can be \
                     verified: set verify_callers.tenant"
                ),
            }
        }
    }

    /// The tenant that the agent's own token names. It came from the issuer, whom the agent asked.
    fn tenant_of(&self, token: &AccessToken) -> Option<TenantName> {
        let token = Token::parse(token.expose()).ok()?;
        TenantName::new(&token.claim(&self.tenant_claim)?).ok()
    }

    /// Who calls, by the token that came with the call.
    pub(crate) async fn verify(
        &self,
        call: &Call,
        message: &Message,
    ) -> Result<Principal, Unverified> {
        let Some(CallerToken { token, proof }) = &message.token else {
            return Err(match call.caller.proof {
                Proof::Certificate => Unverified::Certificate,
                _ => Unverified::NoToken,
            });
        };
        let token =
            std::str::from_utf8(token).map_err(|_| Unverified::Token(TokenError::NotCompact))?;
        let verified = self.verifier.verify_refreshing(token).await;
        let verified = verified.map_err(Unverified::Token)?;
        let own = self.tenant.get().ok_or(Unverified::NoTenant)?;
        if verified.principal.tenant != *own {
            return Err(Unverified::Tenant);
        }
        let (here, there) = (&verified.principal, &call.caller);
        if (&here.tenant, &here.subject) != (&there.tenant, &there.subject) {
            return Err(Unverified::AnotherCaller);
        }
        if !verified.may_call {
            return Err(Unverified::Scope);
        }
        if !verified.may_call_endpoint(&call.endpoint) {
            return Err(Unverified::Endpoint);
        }
        let way;
        let to = if call.mode == Mode::Http {
            let authority = std::str::from_utf8(&message.authority).unwrap_or_default();
            if verified.bound_to.is_some() && !is_host_of(authority, call, own) {
                return Err(Unverified::Host);
            }
            let path = std::str::from_utf8(&call.target).unwrap_or_default();
            ProvedTarget::Https { authority, path }
        } else {
            let name = std::str::from_utf8(&call.target).unwrap_or_default();
            way = ConnectName::parse(name).map_err(|_| Unverified::Proof(ProofError::Address))?;
            ProvedTarget::Connect(&way)
        };
        let request = ProvedRequest {
            method: call.method.as_str(),
            to,
        };
        let proof = proof.as_deref().map(std::str::from_utf8).transpose();
        let proof = proof.map_err(|_| Unverified::Proof(ProofError::Malformed))?;
        self.proofs
            .check(&verified, token, proof, &request, SystemTime::now())
            .map_err(Unverified::Proof)?;
        Ok(verified.principal)
    }
}

/// Whether the host that a caller called is the endpoint's: what its proof names is then this
/// endpoint, whatever the relay makes of it.
fn is_host_of(authority: &str, call: &Call, tenant: &TenantName) -> bool {
    let label = authority.split('.').next().unwrap_or_default();
    let own = format!("{}--{tenant}", call.endpoint);
    label.eq_ignore_ascii_case(&own)
}

impl Unverified {
    /// Whether no relay in good order would have sent the call.
    pub(crate) fn is_suspicious(&self) -> bool {
        match self {
            Self::Certificate | Self::NoTenant => false,
            Self::Token(error) => {
                let late = matches!(error, TokenError::Expired | TokenError::NotYetValid);
                !late && !error.is_unavailable()
            }
            Self::Proof(error) => !matches!(error, ProofError::Time | ProofError::Crowded),
            Self::NoToken
            | Self::Tenant
            | Self::AnotherCaller
            | Self::Scope
            | Self::Endpoint
            | Self::Host => true,
        }
    }

    /// A bounded word for logs and metrics.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::NoToken => "no-token",
            Self::Token(error) if error.is_unavailable() => "unavailable",
            Self::Token(TokenError::Expired | TokenError::NotYetValid) => "token-time",
            Self::Token(_) => "token",
            Self::NoTenant => "own-tenant",
            Self::Tenant => "tenant",
            Self::AnotherCaller => "another-caller",
            Self::Scope => "scope",
            Self::Endpoint => "endpoint",
            Self::Host => "proof-host",
            Self::Proof(error) => error.as_str(),
        }
    }

    /// What the caller is told.
    pub(crate) fn refusal(&self) -> Refusal {
        let why = match self {
            Self::Certificate => {
                "it takes no client certificates, which only the relay can verify: call with a token"
            }
            Self::Token(error) => error.public_reason(),
            Self::Proof(error) => error.public_reason(),
            Self::NoTenant => "it does not know yet whose callers those are; tell its operator",
            Self::Host => "call the endpoint as ENDPOINT--TENANT.DOMAIN when the token is bound",
            Self::NoToken | Self::Tenant | Self::AnotherCaller | Self::Scope | Self::Endpoint => {
                "what the relay passed on does not prove it; tell its operator"
            }
        };
        let unavailable = matches!(self, Self::Token(error) if error.is_unavailable())
            || *self == Self::Proof(ProofError::Crowded);
        Refusal {
            code: if unavailable {
                ErrorCode::Overloaded
            } else {
                ErrorCode::CallerUnverified
            },
            detail: format!("The agent verifies callers itself: {why}."),
            rule: None,
            soap: false,
        }
    }
}
