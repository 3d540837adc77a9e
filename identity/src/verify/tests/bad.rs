//! The table of bad tokens: each is refused by the check that it breaks.

mod claims;

use culvert_proto::names::NameError;

use super::*;
use crate::testing::base64;

type Case = (String, String, TokenError);

/// Cases with names that are fixed.
fn named<const N: usize>(cases: [(&str, String, TokenError); N]) -> Vec<Case> {
    cases
        .into_iter()
        .map(|(name, token, error)| (name.to_owned(), token, error))
        .collect()
}

fn missing(name: &str) -> TokenError {
    TokenError::Missing(name.into())
}

fn wrong_type(name: &str) -> TokenError {
    TokenError::WrongType(name.into())
}

/// Tokens that do not get as far as a key.
fn malformed(signer: &Signer) -> Vec<Case> {
    let good = signer.token();
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let raw = |header: &str, claims: &str| signer.sign_text(header, claims);
    let (plain_header, plain_claims) = (signer.header().to_string(), claims().to_string());
    let padded = with_claims(signer, json!({"padding": "x".repeat(MAX_TOKEN)}));
    named([
        ("empty", String::new(), TokenError::NotCompact),
        ("too long", padded, TokenError::TooLong),
        (
            "long rubbish",
            ".".repeat(MAX_TOKEN + 1),
            TokenError::TooLong,
        ),
        ("one part", header.into(), TokenError::NotCompact),
        (
            "two parts",
            format!("{header}.{payload}"),
            TokenError::NotCompact,
        ),
        (
            "four parts",
            format!("{good}.{signature}"),
            TokenError::NotCompact,
        ),
        (
            "five parts (JWE)",
            format!("{good}.a.b"),
            TokenError::NotCompact,
        ),
        ("only dots", "..".into(), TokenError::Header),
        ("padded base64", format!("{good}="), TokenError::NotCompact),
        (
            "plain base64",
            format!("{header}+.{payload}.{signature}"),
            TokenError::NotCompact,
        ),
        ("space in front", format!(" {good}"), TokenError::NotCompact),
        (
            "line break behind",
            format!("{good}\n"),
            TokenError::NotCompact,
        ),
        (
            "JSON form",
            json!({"payload": payload}).to_string(),
            TokenError::NotCompact,
        ),
        (
            "not ASCII",
            format!("{header}é.{payload}.{signature}"),
            TokenError::NotCompact,
        ),
        (
            "header is no JSON",
            raw("{", &plain_claims),
            TokenError::Header,
        ),
        (
            "header is an array",
            raw("[]", &plain_claims),
            TokenError::Header,
        ),
        (
            "header is a string",
            raw("\"x\"", &plain_claims),
            TokenError::Header,
        ),
        (
            "header repeats alg",
            raw(
                &plain_header.replacen('{', "{\"alg\":\"none\",", 1),
                &plain_claims,
            ),
            TokenError::Header,
        ),
        (
            "header repeats kid, escaped",
            raw(
                &plain_header.replacen('{', "{\"\\u006bid\":\"x\",", 1),
                &plain_claims,
            ),
            TokenError::Header,
        ),
        (
            "claims are no JSON",
            raw(&plain_header, "{]"),
            TokenError::Claims,
        ),
        (
            "claims are an array",
            raw(&plain_header, "[]"),
            TokenError::Claims,
        ),
        (
            "claims are null",
            raw(&plain_header, "null"),
            TokenError::Claims,
        ),
        (
            "claims repeat sub",
            raw(
                &plain_header,
                &plain_claims.replacen('{', "{\"sub\":\"root\",", 1),
            ),
            TokenError::Claims,
        ),
        (
            "crit",
            with_header(signer, json!({"crit": ["exp"]})),
            TokenError::Critical,
        ),
        (
            "empty crit",
            with_header(signer, json!({"crit": []})),
            TokenError::Critical,
        ),
        (
            "no alg",
            with_header(signer, json!({"alg": null})),
            missing("alg"),
        ),
        (
            "alg is a number",
            with_header(signer, json!({"alg": 1})),
            wrong_type("alg"),
        ),
        (
            "alg is an array",
            with_header(signer, json!({"alg": ["EdDSA"]})),
            wrong_type("alg"),
        ),
        (
            "typ is a number",
            with_header(signer, json!({"typ": 1})),
            wrong_type("typ"),
        ),
        (
            "ID token by typ",
            with_header(signer, json!({"typ": "id+jwt"})),
            TokenError::Type,
        ),
        (
            "logout token",
            with_header(signer, json!({"typ": "logout+jwt"})),
            TokenError::Type,
        ),
        (
            "DPoP proof",
            with_header(signer, json!({"typ": "dpop+jwt"})),
            TokenError::Type,
        ),
        (
            "JOSE",
            with_header(signer, json!({"typ": "JOSE"})),
            TokenError::Type,
        ),
        (
            "empty typ",
            with_header(signer, json!({"typ": ""})),
            TokenError::Type,
        ),
        (
            "kid is a number",
            with_header(signer, json!({"kid": 7})),
            wrong_type("kid"),
        ),
        (
            "kid is an object",
            with_header(signer, json!({"kid": {}})),
            wrong_type("kid"),
        ),
        (
            "long kid",
            with_header(signer, json!({"kid": "k".repeat(129)})),
            TokenError::KeyId,
        ),
    ])
}

/// Tokens whose algorithm, key or signature is wrong.
fn forged(signer: &Signer) -> Vec<Case> {
    let good = signer.token();
    let (message, signature) = good.rsplit_once('.').unwrap();
    let raw = signer.signature(message.as_bytes());
    let signed_by = |signature: &[u8]| format!("{message}.{}", base64(signature));
    let unknown = TokenError::UnknownKey {
        issuer: testing::ISSUER.into(),
    };
    let hmac_header = json!({"alg": "HS256", "typ": "at+jwt", "kid": "k1"});
    let hmac_message = format!(
        "{}.{}",
        base64(hmac_header.to_string()),
        base64(claims().to_string())
    );
    let public = signer.jwk()["x"].as_str().unwrap().to_owned();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, public.as_bytes());
    let tag = aws_lc_rs::hmac::sign(&key, hmac_message.as_bytes());
    let none = |alg: &str| {
        let header = json!({"alg": alg, "typ": "at+jwt", "kid": "k1"}).to_string();
        format!("{}.{}.", base64(header), base64(claims().to_string()))
    };
    let other = ed25519();
    let swapped = {
        let payload = base64(merged(claims(), json!({"tenant": "rival"})).to_string());
        format!(
            "{}.{payload}.{signature}",
            message.split_once('.').unwrap().0
        )
    };
    named([
        ("alg none", none("none"), TokenError::Algorithm),
        ("alg NONE", none("nOnE"), TokenError::Algorithm),
        (
            "good alg, no signature",
            none("EdDSA"),
            TokenError::Signature,
        ),
        (
            "HMAC with the public key",
            format!("{hmac_message}.{}", base64(tag)),
            TokenError::Algorithm,
        ),
        (
            "alg unknown",
            with_header(signer, json!({"alg": "ES256K"})),
            TokenError::Algorithm,
        ),
        (
            "alg in lower case",
            with_header(signer, json!({"alg": "eddsa"})),
            TokenError::Algorithm,
        ),
        (
            "alg not configured",
            with_header(signer, json!({"alg": "PS256"})),
            TokenError::Algorithm,
        ),
        (
            "alg of another kind of key",
            with_header(signer, json!({"alg": "ES256"})),
            TokenError::KeyMismatch,
        ),
        (
            "unknown kid",
            with_header(signer, json!({"kid": "k2"})),
            unknown.clone(),
        ),
        (
            "kid with other case",
            with_header(signer, json!({"kid": "K1"})),
            unknown.clone(),
        ),
        (
            "kid as a path",
            with_header(signer, json!({"kid": "../../k1"})),
            unknown.clone(),
        ),
        (
            "empty kid",
            with_header(signer, json!({"kid": ""})),
            unknown,
        ),
        ("another's signature", other.token(), TokenError::Signature),
        (
            "another's signature, no kid",
            with_header(&other, json!({"kid": null})),
            TokenError::UnnamedKey {
                issuer: testing::ISSUER.into(),
            },
        ),
        ("claims swapped", swapped, TokenError::Signature),
        (
            "signature cut",
            signed_by(&raw[..60]),
            TokenError::Signature,
        ),
        (
            "signature of zeros",
            signed_by(&[0; 64]),
            TokenError::Signature,
        ),
        (
            "signature doubled",
            signed_by(&[raw.as_slice(), &raw].concat()),
            TokenError::Signature,
        ),
    ])
}

#[test]
fn every_bad_token_is_refused_by_the_check_that_it_breaks() {
    let signer = ed25519();
    let mut cases = malformed(&signer);
    cases.extend(forged(&signer));
    cases.extend(claims::unacceptable(&signer));
    for (name, token, expected) in cases {
        assert_eq!(judge(&token, &signer), Err(expected), "{name}");
    }
}

/// Neither the log nor the peer gets to see a piece of the token.
#[test]
fn no_refusal_shows_text_of_the_token() {
    const CANARY: &str = "canary-7f3a";
    let signer = ed25519();
    let mut tokens = Vec::new();
    for name in ["alg", "typ", "kid"] {
        tokens.push(with_header(&signer, json!({name: CANARY})));
        tokens.push(with_header(&signer, json!({name: [CANARY]})));
    }
    for name in [
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
        for value in [
            json!([[CANARY]]),
            json!({CANARY: CANARY}),
            json!(format!("{CANARY}\n\u{e9}")),
        ] {
            tokens.push(with_claims(&signer, json!({name: value})));
        }
    }
    let cases = malformed(&signer)
        .into_iter()
        .chain(forged(&signer))
        .chain(claims::unacceptable(&signer));
    tokens.extend(cases.map(|(_, token, _)| token));
    for token in tokens {
        let Err(error) = judge(&token, &signer) else {
            continue;
        };
        let shown = format!("{error} {error:?} {}", error.public_reason());
        assert!(!shown.contains(CANARY), "{shown}");
        for part in token.split('.').filter(|part| part.len() > 8) {
            assert!(!shown.contains(part), "{shown}");
        }
    }
}

#[test]
fn debug_of_a_parsed_token_shows_nothing_of_it() {
    let signer = ed25519();
    let token = signer.token();
    assert_eq!(
        format!("{:?}", Token::parse(&token).unwrap()),
        "Token { .. }"
    );
}

#[test]
fn only_refusals_for_want_of_keys_ask_for_newer_ones() {
    let signer = ed25519();
    let asking: Vec<String> = malformed(&signer)
        .into_iter()
        .chain(forged(&signer))
        .chain(claims::unacceptable(&signer))
        .filter(|(_, _, error)| error.wants_newer_keys())
        .map(|(name, _, _)| name)
        .collect();
    assert_eq!(
        asking,
        [
            "unknown kid",
            "kid with other case",
            "kid as a path",
            "empty kid",
            "another's signature, no kid"
        ]
    );
}
