//! From the words of a configuration to those of [`culvert_identity`], for relay and agent alike.
//!
//! `config` must not know what runs, and `identity` no files of ours; this is the one place that
//! knows both.

use std::time::Duration;

use culvert_config::issuer::{Algorithm, Issuer, Jwks};
use culvert_identity::verify::{self, MAX_LEEWAY};
use culvert_identity::{
    Introspection, IssuerRules, KeySource, Proxying, TrustedIssuer, Verifier, VerifierError,
};

/// The clock skew that tokens are forgiven: clocks that are kept are closer than that.
pub const LEEWAY: Duration = Duration::from_secs(30);
const _: () = assert!(LEEWAY.as_secs() <= MAX_LEEWAY.as_secs());

/// Verifies tokens of these issuers, which are reached by way of `proxying`. Loads key files and
/// CA files, does not touch the network.
pub fn verifier(issuers: &[Issuer], proxying: Proxying) -> Result<Verifier, VerifierError> {
    Verifier::through(issuers.iter().map(trusted).collect(), proxying)
}

fn trusted(issuer: &Issuer) -> TrustedIssuer {
    let rules = IssuerRules {
        issuer: issuer.url.clone(),
        audience: issuer.audience.clone(),
        algorithms: issuer.algorithms.iter().copied().map(algorithm).collect(),
        tenant_claim: issuer.tenant_claim.clone(),
        tenants: issuer.tenants.clone(),
        endpoints_claim: issuer.endpoints_claim.clone(),
        register_scope: issuer.register_scope.clone(),
        call_scope: issuer.call_scope.clone(),
        leeway: LEEWAY,
    };
    let ca = issuer.ca.clone();
    let keys = match &issuer.jwks {
        Jwks::Discovery => KeySource::Discovery { ca },
        Jwks::Url(url) => KeySource::Url {
            url: url.clone(),
            ca,
        },
        Jwks::File(path) => KeySource::File(path.clone()),
    };
    let introspection = issuer.introspection.as_ref().map(|asked| Introspection {
        url: asked.url.clone(),
        client_id: asked.client_id.clone(),
        client_secret: asked.client_secret.clone(),
        ca: issuer.ca.clone(),
    });
    TrustedIssuer {
        rules,
        keys,
        introspection,
    }
}

/// A signature algorithm.
pub fn algorithm(algorithm: Algorithm) -> verify::Algorithm {
    match algorithm {
        Algorithm::ES256 => verify::Algorithm::ES256,
        Algorithm::ES384 => verify::Algorithm::ES384,
        Algorithm::RS256 => verify::Algorithm::RS256,
        Algorithm::RS384 => verify::Algorithm::RS384,
        Algorithm::RS512 => verify::Algorithm::RS512,
        Algorithm::PS256 => verify::Algorithm::PS256,
        Algorithm::PS384 => verify::Algorithm::PS384,
        Algorithm::PS512 => verify::Algorithm::PS512,
        Algorithm::EdDSA => verify::Algorithm::EdDSA,
    }
}
