//! Every check of the page "Tokens" of the threat model, and what passes them.

mod bad;
mod dpop;
mod key_set;
mod properties;

use std::time::Duration;

use culvert_proto::names::EndpointName;
use culvert_proto::principal::{PrincipalKind, Proof};
use serde_json::{Value, json};

use super::*;
use crate::testing::{self, NOW, Signer, claims, now, rules};

/// Judges `token` by the rules and one key.
fn judge(token: &str, signer: &Signer) -> Result<VerifiedToken, TokenError> {
    Token::parse(token)?.verify(&rules(), &testing::key_set([signer]), now())
}

/// A token with these claims on top of good ones; `null` takes one away.
fn with_claims(signer: &Signer, changes: Value) -> String {
    signer.sign(&signer.header(), &merged(claims(), changes))
}

/// A token with these header members on top of good ones; `null` takes one away.
fn with_header(signer: &Signer, changes: Value) -> String {
    signer.sign(&merged(signer.header(), changes), &claims())
}

fn merged(mut object: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => object.as_object_mut().unwrap().remove(name),
            value => object
                .as_object_mut()
                .unwrap()
                .insert(name.clone(), value.clone()),
        };
    }
    object
}

fn ed25519() -> Signer {
    Signer::new("k1", Algorithm::EdDSA)
}

#[test]
fn a_good_token_becomes_the_principal_that_it_states() {
    let signer = ed25519();
    let verified = judge(&signer.token(), &signer).unwrap();
    let principal = &verified.principal;
    assert_eq!(principal.tenant.as_str(), "acme");
    assert_eq!(principal.subject, "director-7");
    assert_eq!(principal.scopes, ["culvert:call", "vcenter.read"]);
    assert_eq!(principal.kind, PrincipalKind::Caller);
    assert_eq!(principal.expires, NOW + 300);
    assert_eq!(principal.proof, Proof::Jwt);
    assert!(verified.may_call);
    assert!(!verified.may_register);
    assert!(verified.endpoints.is_empty());
    assert_eq!(verified.call_endpoints, None);
}

#[test]
fn every_configured_algorithm_verifies_with_a_key_of_its_kind() {
    for algorithm in Algorithm::ALL {
        if matches!(
            algorithm,
            Algorithm::RS384 | Algorithm::PS384 | Algorithm::PS512
        ) {
            continue; // The same code as their siblings; the test's signer lacks them.
        }
        let signer = Signer::new("k1", algorithm);
        let rules = IssuerRules {
            algorithms: vec![algorithm],
            ..rules()
        };
        let token = signer.token();
        let token = Token::parse(&token).unwrap();
        let verified = token.verify(&rules, &testing::key_set([&signer]), now());
        assert!(verified.is_ok(), "{algorithm}");
    }
}

#[test]
fn the_legal_spellings_of_a_good_token_are_all_taken() {
    let signer = ed25519();
    for header in [
        json!({"typ": "at+jwt"}),
        json!({"typ": "AT+JWT"}),
        json!({"typ": "application/at+jwt"}),
        json!({"typ": "JWT"}),
        json!({"typ": null}),
        json!({"kid": null}),
        json!({"alg": "Ed25519"}),
        json!({"x": {"unknown": [1, 2, 3]}}),
    ] {
        assert!(
            judge(&with_header(&signer, header.clone()), &signer).is_ok(),
            "{header}"
        );
    }
    for changes in [
        json!({"aud": ["other", "culvert"]}),
        json!({"scope": ["culvert:call", "vcenter.read"]}),
        json!({"scope": " culvert:call  vcenter.read "}),
        json!({"exp": NOW as f64 + 300.75}),
        json!({"nbf": null, "iat": null}),
        json!({"unknown": {"deep": [[[]]]}}),
    ] {
        let verified = judge(&with_claims(&signer, changes.clone()), &signer);
        let verified = verified.unwrap_or_else(|error| panic!("{changes}: {error}"));
        assert_eq!(verified.principal.expires, NOW + 300);
        assert_eq!(verified.principal.scopes, ["culvert:call", "vcenter.read"]);
    }
}

/// `jku`, `x5u`, `jwk` and `x5c` are not even looked at: neither do they lead to another key, nor
/// do they matter beside a good signature.
#[test]
fn keys_that_the_token_brings_along_are_ignored() {
    let (ours, theirs) = (ed25519(), ed25519());
    let mut jwk = theirs.jwk();
    jwk["kid"] = json!("k1");
    let lures = json!({
        "jwk": jwk, "jku": "https://evil.example/jwks", "x5u": "https://evil.example/x", "x5c": 7,
    });
    assert!(judge(&with_header(&ours, lures.clone()), &ours).is_ok());
    assert_eq!(
        judge(&with_header(&theirs, lures), &ours),
        Err(TokenError::Signature)
    );
}

#[test]
fn scopes_decide_what_a_token_may() {
    let signer = ed25519();
    let may = |scope: &str| {
        let verified = judge(&with_claims(&signer, json!({"scope": scope})), &signer).unwrap();
        (
            verified.may_register,
            verified.may_call,
            verified.principal.kind,
        )
    };
    assert_eq!(may("culvert:register"), (true, false, PrincipalKind::Agent));
    assert_eq!(may("culvert:call"), (false, true, PrincipalKind::Caller));
    assert_eq!(
        may("culvert:call culvert:register"),
        (true, true, PrincipalKind::Caller)
    );
    for none in [json!(null), json!("  "), json!([])] {
        let token = with_claims(&signer, json!({ "scope": none }));
        let verified = judge(&token, &signer).unwrap();
        assert!(!verified.may_register && !verified.may_call, "{none}");
    }
    // Whole words, with their case.
    for near in [
        "culvert:calls",
        "xculvert:call",
        "Culvert:Call",
        "culvert",
        "culvert:",
        "",
    ] {
        assert_eq!(may(near), (false, false, PrincipalKind::Caller), "{near}");
    }
}

#[test]
fn endpoint_patterns_allow_registering_and_limit_calling() {
    let signer = ed25519();
    let token = |changes| judge(&with_claims(&signer, changes), &signer).unwrap();
    let (vcenter, nsx) = (
        EndpointName::new("vcenter").unwrap(),
        EndpointName::new("nsx").unwrap(),
    );

    let agent = token(json!({"scope": "culvert:register", "culvert_endpoints": ["vc*", "esx-1"]}));
    assert!(agent.may_register_endpoint(&vcenter));
    assert!(!agent.may_register_endpoint(&nsx));
    assert!(!agent.may_call_endpoint(&vcenter));

    let unlisted = token(json!({"scope": "culvert:register"}));
    assert!(!unlisted.may_register_endpoint(&vcenter));

    let one = token(json!({"scope": "culvert:register", "culvert_endpoints": "vcenter"}));
    assert!(one.may_register_endpoint(&vcenter));

    let anywhere = token(json!({"scope": "culvert:call"}));
    assert!(anywhere.may_call_endpoint(&vcenter) && anywhere.may_call_endpoint(&nsx));
    assert!(!anywhere.may_register_endpoint(&vcenter));

    let limited = token(json!({"scope": "culvert:call", "culvert_endpoints": ["nsx"]}));
    assert!(limited.may_call_endpoint(&nsx));
    assert!(!limited.may_call_endpoint(&vcenter));

    let nothing = token(json!({"scope": "culvert:call", "culvert_endpoints": []}));
    assert!(!nothing.may_call_endpoint(&nsx));
}

#[test]
fn a_client_id_stands_in_for_an_absent_subject_only() {
    let signer = ed25519();
    let subject = |changes| {
        judge(&with_claims(&signer, changes), &signer).map(|token| token.principal.subject)
    };
    assert_eq!(
        subject(json!({"sub": null, "client_id": "agent-1"})),
        Ok("agent-1".into())
    );
    assert_eq!(
        subject(json!({"client_id": "agent-1"})),
        Ok("director-7".into())
    );
    let missing = |name: &str| Err(TokenError::Missing(name.into()));
    assert_eq!(
        subject(json!({"sub": "", "client_id": "agent-1"})),
        missing("sub")
    );
    assert_eq!(
        subject(json!({"sub": null, "client_id": ""})),
        missing("client_id")
    );
    assert_eq!(
        subject(json!({"sub": null, "client_id": "a\nb"})),
        Err(TokenError::Subject)
    );
}

/// A good signature is remembered; that makes no other token good, and no token good for longer.
#[test]
fn a_token_that_was_good_before_is_judged_anew() {
    let signer = ed25519();
    let keys = testing::key_set([&signer]);
    let text = signer.token();
    let at = |text: &str, rules: &IssuerRules, keys: &KeySet, seconds: u64| {
        let now = now() + Duration::from_secs(seconds);
        Token::parse(text)?.verify(rules, keys, now).map(|_| ())
    };
    for _ in 0..2 {
        assert_eq!(at(&text, &rules(), &keys, 0), Ok(()));
    }
    assert_eq!(at(&text, &rules(), &keys, 3600), Err(TokenError::Expired));
    let elsewhere = IssuerRules {
        audience: "elsewhere".into(),
        ..rules()
    };
    let audience = TokenError::Audience {
        expected: "elsewhere".into(),
    };
    assert_eq!(at(&text, &elsewhere, &keys, 0), Err(audience));
    let stricter = IssuerRules {
        algorithms: vec![Algorithm::ES256],
        ..rules()
    };
    assert_eq!(at(&text, &stricter, &keys, 0), Err(TokenError::Algorithm));

    let (message, _) = text.rsplit_once('.').unwrap();
    let forged = format!("{message}.{}", testing::base64([0; 64]));
    assert_eq!(at(&forged, &rules(), &keys, 0), Err(TokenError::Signature));
    let rotated = testing::key_set([&ed25519()]);
    assert_eq!(at(&text, &rules(), &rotated, 0), Err(TokenError::Signature));
}

/// Of several issuers, one must not be able to make tokens for the others' tenants.
#[test]
fn an_issuer_speaks_for_its_own_tenants_alone() {
    let signer = ed25519();
    let keys = testing::key_set([&signer]);
    let text = signer.token();
    let judged = |tenants: Option<&[&str]>| {
        let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        let rules = IssuerRules {
            tenants: tenants.map(names),
            ..rules()
        };
        let token = Token::parse(&text)?;
        token.verify(&rules, &keys, now()).map(|_| ())
    };
    assert_eq!(judged(None), Ok(()));
    assert_eq!(judged(Some(&["globex", "acme"])), Ok(()));
    assert_eq!(judged(Some(&["globex"])), Err(TokenError::OtherTenant));
    assert_eq!(judged(Some(&[])), Err(TokenError::OtherTenant));
}

#[test]
fn the_skew_is_allowed_for_to_the_second_and_never_beyond_a_minute() {
    let signer = ed25519();
    let at = |leeway: u64, exp: u64, nbf: u64| {
        let token = with_claims(&signer, json!({"exp": exp, "nbf": nbf}));
        let rules = IssuerRules {
            leeway: Duration::from_secs(leeway),
            ..rules()
        };
        let token = Token::parse(&token).unwrap();
        token
            .verify(&rules, &testing::key_set([&signer]), now())
            .map(|_| ())
    };
    let (past, ahead) = (NOW - 100, NOW + 100);
    assert_eq!(at(0, NOW + 1, past), Ok(()));
    assert_eq!(at(0, NOW, past), Err(TokenError::Expired));
    assert_eq!(at(60, NOW - 59, past), Ok(()));
    assert_eq!(at(60, NOW - 60, past), Err(TokenError::Expired));
    assert_eq!(at(3600, NOW - 60, past), Err(TokenError::Expired));
    assert_eq!(at(0, ahead, NOW), Ok(()));
    assert_eq!(at(0, ahead, NOW + 1), Err(TokenError::NotYetValid));
    assert_eq!(at(60, ahead, NOW + 60), Ok(()));
    assert_eq!(at(60, ahead, NOW + 61), Err(TokenError::NotYetValid));
    assert_eq!(at(3600, ahead, NOW + 61), Err(TokenError::NotYetValid));
}

#[test]
fn the_latest_possible_expiry_is_a_time_that_clocks_can_hold() {
    let signer = ed25519();
    let token = with_claims(&signer, json!({"exp": 253_402_300_799_u64}));
    let principal = judge(&token, &signer).unwrap().principal;
    assert!(principal.expires_at() > now());
}

#[test]
fn only_the_keys_of_the_named_issuer_count() {
    let (ours, theirs) = (ed25519(), ed25519());
    let other = IssuerRules {
        issuer: "https://other.example.com".into(),
        ..rules()
    };
    let token = ours.token();
    let parsed = Token::parse(&token).unwrap();
    assert_eq!(parsed.issuer(), testing::ISSUER);
    // Good key, other issuer's rules; good rules, other issuer's key under the same id.
    let keys = testing::key_set([&ours]);
    assert_eq!(parsed.verify(&other, &keys, now()), Err(TokenError::Issuer));
    let keys = testing::key_set([&theirs]);
    assert_eq!(
        parsed.verify(&rules(), &keys, now()),
        Err(TokenError::Signature)
    );
}

#[test]
fn algorithms_are_named_exactly_and_never_symmetric() {
    for algorithm in Algorithm::ALL {
        assert_eq!(algorithm.as_str().parse(), Ok(algorithm));
    }
    for name in [
        "none", "None", "NONE", "", "HS256", "HS384", "HS512", "es256", "ES256 ", "ES512",
    ] {
        assert_eq!(name.parse::<Algorithm>(), Err(AlgorithmError), "{name:?}");
    }
}
