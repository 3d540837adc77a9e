//! Tokens that are well signed by their issuer, and still not good enough: claim, value, failed
//! check.

use serde_json::Value::Null;

use super::*;

pub(super) fn unacceptable(signer: &Signer) -> Vec<Case> {
    let mut cases = Vec::new();
    for (claim, value, error) in table() {
        let token = with_claims(signer, json!({claim: value}));
        cases.push((format!("{claim}: {value}"), token, error));
    }
    // Where `typ` leaves open what the token is.
    for (claim, value, error) in other_tokens() {
        let header = merged(signer.header(), json!({"typ": "JWT"}));
        let token = signer.sign(&header, &merged(claims(), json!({claim: value})));
        cases.push((format!("{claim}: {value}"), token, error));
    }
    for claim in [
        "iss",
        "exp",
        "nbf",
        "iat",
        "aud",
        "tenant",
        "sub",
        "scope",
        "culvert_endpoints",
    ] {
        let mut claims = claims();
        claims[claim] = Null;
        cases.push((
            format!("{claim}: null"),
            signer.sign(&signer.header(), &claims),
            wrong_type(claim),
        ));
    }
    cases
}

/// `null` stands for a claim that is absent.
#[rustfmt::skip]
fn table() -> Vec<(&'static str, Value, TokenError)> {
    let audience = || TokenError::Audience { expected: "culvert".into() };
    let tenant = TokenError::Tenant;
    let patterns = TokenError::Patterns;
    vec![
        ("iss", Null, missing("iss")),
        ("iss", json!([testing::ISSUER]), wrong_type("iss")),
        ("iss", json!(1), wrong_type("iss")),
        ("iss", json!("https://issuer.example.com/"), TokenError::Issuer),
        ("iss", json!("https://ISSUER.example.com"), TokenError::Issuer),
        ("iss", json!("https://issuer.example.com.evil"), TokenError::Issuer),
        ("exp", Null, missing("exp")),
        ("exp", json!(NOW - 3600), TokenError::Expired),
        ("exp", json!(0), TokenError::Expired),
        ("exp", json!("1790000300"), wrong_type("exp")),
        ("exp", json!(-1), wrong_type("exp")),
        ("exp", json!(u64::MAX), wrong_type("exp")),
        ("exp", json!(true), wrong_type("exp")),
        ("nbf", json!(NOW + 100), TokenError::NotYetValid),
        ("nbf", json!("0"), wrong_type("nbf")),
        ("iat", json!("now"), wrong_type("iat")),
        ("iat", json!(NOW + 100), TokenError::NotYetValid),
        ("aud", Null, missing("aud")),
        ("aud", json!("other"), audience()),
        ("aud", json!("culvert2"), audience()),
        ("aud", json!("CULVERT"), audience()),
        ("aud", json!("other culvert"), audience()),
        ("aud", json!([]), audience()),
        ("aud", json!(1), wrong_type("aud")),
        ("aud", json!({"culvert": 1}), wrong_type("aud")),
        ("aud", json!(["culvert", 1]), wrong_type("aud")),
        ("aud", json!([["culvert"]]), wrong_type("aud")),
        ("tenant", Null, missing("tenant")),
        ("tenant", json!(""), missing("tenant")),
        ("tenant", json!(1), wrong_type("tenant")),
        ("tenant", json!(["acme"]), wrong_type("tenant")),
        ("tenant", json!("Acme"), tenant(NameError::Byte)),
        ("tenant", json!("\u{430}cme"), tenant(NameError::Byte)),
        ("tenant", json!("acme "), tenant(NameError::Byte)),
        ("tenant", json!("a--b"), tenant(NameError::Dash)),
        ("tenant", json!("a".repeat(64)), tenant(NameError::TooLong)),
        ("sub", Null, missing("sub")),
        ("sub", json!(""), missing("sub")),
        ("sub", json!(7), wrong_type("sub")),
        ("sub", json!("s".repeat(MAX_SUBJECT + 1)), TokenError::Subject),
        ("sub", json!("a\nb"), TokenError::Subject),
        ("scope", json!(1), wrong_type("scope")),
        ("scope", json!({"culvert:call": true}), wrong_type("scope")),
        ("scope", json!(["culvert:call", 1]), wrong_type("scope")),
        ("scope", json!("a\tculvert:call"), TokenError::Scope),
        ("scope", json!("\"culvert:call\""), TokenError::Scope),
        ("scope", json!(["a culvert:call"]), TokenError::Scope),
        ("scope", json!(["culvert:call", ""]), TokenError::Scope),
        ("scope", json!("s".repeat(MAX_SCOPE + 1)), TokenError::Scope),
        ("scope", json!(vec!["s"; MAX_SCOPES + 1]), TokenError::TooManyScopes),
        ("culvert_endpoints", json!(1), wrong_type("culvert_endpoints")),
        ("culvert_endpoints", json!(["a", null]), wrong_type("culvert_endpoints")),
        ("culvert_endpoints", json!(["VCenter"]), patterns(PatternError::Byte)),
        ("culvert_endpoints", json!(["a b"]), patterns(PatternError::Byte)),
        ("culvert_endpoints", json!(""), patterns(PatternError::Length)),
        ("culvert_endpoints", json!(vec!["a"; MAX_PATTERNS + 1]), patterns(PatternError::TooMany)),
    ]
}

#[rustfmt::skip]
fn other_tokens() -> Vec<(&'static str, Value, TokenError)> {
    vec![
        ("typ", json!("ID"), TokenError::NotAccessToken),
        ("typ", json!("Refresh"), TokenError::NotAccessToken),
        ("typ", json!("Logout"), TokenError::NotAccessToken),
        ("typ", json!(1), wrong_type("typ")),
        ("nonce", json!("x"), TokenError::NotAccessToken),
        ("at_hash", json!("x"), TokenError::NotAccessToken),
        ("c_hash", json!("x"), TokenError::NotAccessToken),
        ("s_hash", json!("x"), TokenError::NotAccessToken),
        ("events", json!({}), TokenError::NotAccessToken),
    ]
}
