//! Properties over generated tokens.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::testing::base64;

static SIGNER: LazyLock<Signer> = LazyLock::new(ed25519);
static KEYS: LazyLock<KeySet> = LazyLock::new(|| testing::key_set([&*SIGNER]));

fn verdict(token: &str) -> Result<VerifiedToken, TokenError> {
    Token::parse(token)?.verify(&rules(), &KEYS, now())
}

/// Any JSON value, small.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,24}".prop_map(Value::from),
        Just(json!("culvert")),
        Just(json!("culvert:call")),
        Just(json!(NOW + 100)),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(".{0,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_string_panics_or_passes(text in ".{0,200}") {
        prop_assert!(verdict(&text).is_err());
    }

    #[test]
    fn no_three_parts_panic_or_pass(
        header in prop_oneof![".{0,80}", Just(SIGNER.header().to_string())],
        claims in prop_oneof![".{0,80}", Just(claims().to_string())],
        signature in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let token = format!("{}.{}.{}", base64(header), base64(claims), base64(signature));
        prop_assert!(verdict(&token).is_err());
    }

    /// Not one byte of a token can be changed, left out or added.
    #[test]
    fn every_change_to_a_token_is_noticed(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        how in 0..3,
    ) {
        let good = SIGNER.token();
        prop_assert!(verdict(&good).is_ok());
        let mut bytes = good.clone().into_bytes();
        let at = at.index(bytes.len());
        match how {
            0 => bytes[at] = byte,
            1 => { bytes.remove(at); }
            _ => bytes.insert(at, byte),
        }
        if let Ok(text) = String::from_utf8(bytes) {
            prop_assert_eq!(verdict(&text).is_ok(), text == good);
        }
    }

    /// Whatever an issuer signs: no panic, and what passes keeps within the bounds.
    #[test]
    fn no_claims_panic_and_what_passes_is_within_bounds(
        name in prop::sample::select(vec![
            "iss", "exp", "nbf", "iat", "aud", "sub", "tenant", "scope", "culvert_endpoints", "typ",
        ]),
        value in json_value(),
    ) {
        let mut claims = claims();
        claims[name] = value;
        if let Ok(verified) = verdict(&SIGNER.sign(&SIGNER.header(), &claims)) {
            let principal = verified.principal;
            prop_assert!((1..=MAX_SUBJECT).contains(&principal.subject.len()));
            prop_assert!(principal.scopes.len() <= MAX_SCOPES);
            prop_assert!(principal.expires_at() + MAX_LEEWAY > now());
        }
    }

    #[test]
    fn no_header_panics(
        name in prop::sample::select(vec!["alg", "typ", "kid", "crit", "jwk", "x5c"]),
        value in json_value(),
    ) {
        let mut header = SIGNER.header();
        header[name] = value;
        let _ = verdict(&SIGNER.sign(&header, &claims()));
    }

    #[test]
    fn no_bytes_panic_the_reader_of_key_sets(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        name in prop::sample::select(vec!["kty", "crv", "x", "use", "alg", "kid", "key_ops"]),
        value in json_value(),
    ) {
        prop_assert!(KeySet::parse(&bytes).is_err());
        let mut jwk = SIGNER.jwk();
        jwk[name] = value;
        let _ = KeySet::parse(json!({"keys": [jwk]}).to_string().as_bytes());
    }
}
