//! Proofs that a caller has its token's key (RFC 9449): each bad one is refused by the check that
//! it breaks.

use culvert_proto::connect_name::ConnectName;
use culvert_proto::limits::MAX_PROOF;

use super::*;
use crate::testing::base64;

/// A caller with a key of its own, and its bound token.
struct Holder {
    key: Signer,
    token: String,
    verified: VerifiedToken,
}

const GET: ProvedRequest<'_> = ProvedRequest {
    method: "GET",
    to: ProvedTarget::Https {
        authority: "vc--acme.relay.example",
        path: "/api/vm",
    },
};

impl Holder {
    fn new(algorithm: Algorithm) -> Self {
        let (issuer, key) = (ed25519(), Signer::new("caller", algorithm));
        let token = with_claims(&issuer, json!({"cnf": {"jkt": thumbprint(&key)}}));
        let verified = judge(&token, &issuer).unwrap();
        Self {
            key,
            token,
            verified,
        }
    }

    fn header(&self) -> Value {
        let mut jwk = self.key.jwk();
        for member in ["kid", "use"] {
            jwk.as_object_mut().unwrap().remove(member);
        }
        json!({"typ": "dpop+jwt", "alg": self.key.algorithm.as_str(), "jwk": jwk})
    }

    fn claims(&self) -> Value {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.token.as_bytes());
        json!({
            "jti": "1", "htm": "GET", "htu": "https://vc--acme.relay.example/api/vm",
            "iat": NOW, "ath": base64(hash),
        })
    }

    /// A proof with changes to a good one.
    fn proof(&self, header: Value, claims: Value) -> String {
        self.key.sign(
            &merged(self.header(), header),
            &merged(self.claims(), claims),
        )
    }

    fn check(&self, proof: &str) -> Result<(), ProofError> {
        self.check_for(proof, &GET)
    }

    fn check_for(&self, proof: &str, request: &ProvedRequest<'_>) -> Result<(), ProofError> {
        let proofs = Proofs::default();
        proofs.check(&self.verified, &self.token, Some(proof), request, now())
    }
}

/// By the signature library, which has its own.
fn thumbprint(key: &Signer) -> String {
    let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(key.jwk()).unwrap();
    let hash = jsonwebtoken::jwk::ThumbprintHash::SHA256;
    jwk.thumbprint(hash).unwrap()
}

#[test]
fn a_proof_by_the_bound_key_is_good_whatever_kind_the_key_is_of() {
    for algorithm in [
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::EdDSA,
        Algorithm::RS256,
    ] {
        let holder = Holder::new(algorithm);
        let proof = holder.proof(json!({}), json!({}));
        assert_eq!(holder.check(&proof), Ok(()), "{algorithm}");
    }
}

#[test]
fn a_bad_proof_is_refused_by_the_check_that_it_breaks() {
    let holder = Holder::new(Algorithm::ES256);
    let stranger = Holder::new(Algorithm::ES256);
    let header = |changes| holder.proof(changes, json!({}));
    let claims = |changes| holder.proof(json!({}), changes);
    let good = claims(json!({}));
    let parts: Vec<&str> = good.split('.').collect();
    let mut private = holder.header()["jwk"].clone();
    private["d"] = json!("AAAA");
    let mut escaped = holder.header()["jwk"].clone();
    escaped["x"] = json!(format!("\u{e9}{}", escaped["x"].as_str().unwrap()));
    let other_signature = holder.key.signature(b"something else");
    let cases = [
        ("empty", String::new(), ProofError::Malformed),
        (
            "two parts",
            format!("{}.{}", parts[0], parts[1]),
            ProofError::Malformed,
        ),
        ("four parts", format!("{good}.x"), ProofError::Malformed),
        (
            "too long",
            claims(json!({"pad": "x".repeat(MAX_PROOF)})),
            ProofError::Malformed,
        ),
        (
            "critical",
            header(json!({"crit": ["x"]})),
            ProofError::Malformed,
        ),
        ("no typ", header(json!({"typ": null})), ProofError::Type),
        (
            "an access token",
            header(json!({"typ": "at+jwt"})),
            ProofError::Type,
        ),
        (
            "alg none",
            header(json!({"alg": "none"})),
            ProofError::Algorithm,
        ),
        (
            "alg HS256",
            header(json!({"alg": "HS256"})),
            ProofError::Algorithm,
        ),
        (
            "alg of another kind of key",
            header(json!({"alg": "RS256"})),
            ProofError::Algorithm,
        ),
        ("no key", header(json!({"jwk": null})), ProofError::Key),
        (
            "a symmetric key",
            header(json!({"jwk": {"kty": "oct", "k": "AAAA"}})),
            ProofError::Key,
        ),
        (
            "a private key",
            header(json!({"jwk": private})),
            ProofError::Key,
        ),
        (
            "a key that is no base64url",
            header(json!({"jwk": escaped})),
            ProofError::Key,
        ),
        (
            "another key",
            stranger.proof(json!({}), holder.claims()),
            ProofError::OtherKey,
        ),
        (
            "the bound key, another's signature",
            stranger.key.sign(&holder.header(), &holder.claims()),
            ProofError::Signature,
        ),
        (
            "a signature of something else",
            format!("{}.{}.{}", parts[0], parts[1], base64(other_signature)),
            ProofError::Signature,
        ),
        (
            "no id",
            claims(json!({"jti": null})),
            ProofError::Claim("jti"),
        ),
        (
            "an empty id",
            claims(json!({"jti": ""})),
            ProofError::Claim("jti"),
        ),
        (
            "a long id",
            claims(json!({"jti": "x".repeat(MAX_PROOF_ID + 1)})),
            ProofError::Claim("jti"),
        ),
        (
            "no method",
            claims(json!({"htm": null})),
            ProofError::Claim("htm"),
        ),
        (
            "another method",
            claims(json!({"htm": "POST"})),
            ProofError::Method,
        ),
        (
            "a method in lower case",
            claims(json!({"htm": "get"})),
            ProofError::Method,
        ),
        (
            "no address",
            claims(json!({"htu": null})),
            ProofError::Claim("htu"),
        ),
        (
            "no token hash",
            claims(json!({"ath": null})),
            ProofError::Claim("ath"),
        ),
        (
            "another token",
            claims(json!({"ath": base64([7; 32])})),
            ProofError::Token,
        ),
        (
            "no time",
            claims(json!({"iat": null})),
            ProofError::Claim("iat"),
        ),
        (
            "time as text",
            claims(json!({"iat": NOW.to_string()})),
            ProofError::Claim("iat"),
        ),
        (
            "too old",
            claims(json!({"iat": NOW - 61})),
            ProofError::Time,
        ),
        (
            "too new",
            claims(json!({"iat": NOW + 61})),
            ProofError::Time,
        ),
    ];
    for (what, proof, error) in cases {
        assert_eq!(holder.check(&proof), Err(error), "{what}");
    }
    for edge in [NOW - 60, NOW + 60] {
        assert_eq!(holder.check(&claims(json!({"iat": edge}))), Ok(()));
    }
}

#[test]
fn an_address_is_compared_in_one_spelling_and_without_query() {
    let holder = Holder::new(Algorithm::ES256);
    let named = |htu: &str, request: &ProvedRequest<'_>| {
        let proof = holder.proof(json!({}), json!({"htu": htu, "htm": request.method}));
        holder.check_for(&proof, request).is_ok()
    };
    let path = "/api/v%2Fm/~x?filter=1";
    let request = ProvedRequest {
        method: "GET",
        to: ProvedTarget::Https {
            authority: "vc--acme.relay.example:8443",
            path,
        },
    };
    for same in [
        "https://vc--acme.relay.example:8443/api/v%2Fm/~x",
        "https://VC--acme.relay.example:8443/api/v%2fm/%7ex?other#part",
    ] {
        assert!(named(same, &request), "{same}");
    }
    for other in [
        "https://vc--acme.relay.example/api/v%2Fm/~x",
        "https://nsx--acme.relay.example:8443/api/v%2Fm/~x",
        "https://vc--acme.relay.example:8443/api/v/m/~x",
        "https://vc--acme.relay.example:8443/api/v%2Fm/~x/",
        "https://vc--acme.relay.example:8443/API/v%2Fm/~x",
        "http://vc--acme.relay.example:8443/api/v%2Fm/~x",
        "https://u@vc--acme.relay.example:8443/api/v%2Fm/~x",
        "/api/v%2Fm/~x",
        "",
    ] {
        assert!(!named(other, &request), "{other}");
    }
    assert!(named("https://vc--acme.relay.example:443/api/vm", &GET));
    // Tools that send these raw write them so here, too; the request has its one spelling by now.
    let raw = ProvedRequest {
        method: "GET",
        to: ProvedTarget::Https {
            authority: "vc--acme.relay.example",
            path: "/%5Ba%5D%7Bb%7D%7Cc%5Ed",
        },
    };
    for same in ["/[a]{b}|c^d", "/%5ba%5d%7bb%7d%7cc%5ed"] {
        assert!(named(
            &format!("https://vc--acme.relay.example{same}"),
            &raw
        ));
    }

    let name = ConnectName::parse("vc.sddc.local:443").unwrap();
    let connect = ProvedRequest {
        method: "CONNECT",
        to: ProvedTarget::Connect(&name),
    };
    for same in [
        "vc.sddc.local:443",
        "https://vc.sddc.local/",
        "https://VC.sddc.local:443",
    ] {
        assert!(named(same, &connect), "{same}");
    }
    for other in [
        "vc.sddc.local:444",
        "https://vc.sddc.local/x",
        "https://vc.sddc.local:444/",
        "nsx.sddc.local:443",
        "vc.sddc.local",
    ] {
        assert!(!named(other, &connect), "{other}");
    }
}

#[test]
fn a_proof_counts_once_and_a_bound_token_is_nothing_without_one() {
    let holder = Holder::new(Algorithm::EdDSA);
    let proofs = Proofs::default();
    let check =
        |proof: Option<&str>| proofs.check(&holder.verified, &holder.token, proof, &GET, now());
    assert_eq!(check(None), Err(ProofError::Missing));
    let proof = holder.proof(json!({}), json!({}));
    assert_eq!(check(Some(&proof)), Ok(()));
    assert_eq!(check(Some(&proof)), Err(ProofError::Replayed));
    // Another proof with the same id is the same one for all that the caller was asked.
    let again = holder.proof(json!({}), json!({"iat": NOW + 1}));
    assert_eq!(check(Some(&again)), Err(ProofError::Replayed));
    let next = holder.proof(json!({}), json!({"jti": "2"}));
    assert_eq!(check(Some(&next)), Ok(()));
    // Another caller's ids are its own.
    let other = Holder::new(Algorithm::EdDSA);
    let proof = other.proof(json!({}), json!({}));
    let checked = proofs.check(&other.verified, &other.token, Some(&proof), &GET, now());
    assert_eq!(checked, Ok(()));
}

#[test]
fn a_token_that_is_not_bound_takes_no_proof_and_one_bound_otherwise_is_refused() {
    let (issuer, holder) = (ed25519(), Holder::new(Algorithm::ES256));
    let token = issuer.token();
    let verified = judge(&token, &issuer).unwrap();
    assert_eq!(verified.bound_to, None);
    let proofs = Proofs::default();
    assert_eq!(proofs.check(&verified, &token, None, &GET, now()), Ok(()));
    let proof = holder.proof(json!({}), json!({}));
    let with = proofs.check(&verified, &token, Some(&proof), &GET, now());
    assert_eq!(with, Err(ProofError::NotBound));

    for cnf in [
        json!({}),
        json!({"x5t#S256": "A".repeat(43)}),
        json!({"jkt": 7}),
        json!({"jkt": ""}),
        json!({"jkt": "A".repeat(42)}),
    ] {
        let token = with_claims(&issuer, json!({ "cnf": cnf }));
        assert_eq!(judge(&token, &issuer), Err(TokenError::Binding), "{cnf}");
    }
    let token = with_claims(&issuer, json!({"cnf": "jkt"}));
    assert_eq!(
        judge(&token, &issuer),
        Err(TokenError::WrongType("cnf".into()))
    );
}
