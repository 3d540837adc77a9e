//! Key sets as issuers publish them, with all their oddities.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use super::*;
use crate::testing::base64;

fn parse(keys: Value) -> Result<KeySet, KeySetError> {
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes())
}

/// Why the only key of a set is of no use.
fn fault(key: Value) -> KeyFault {
    match parse(json!([key])) {
        Err(KeySetError::NoUsableKey { first: Some(fault) }) => fault,
        other => panic!("{other:?}"),
    }
}

fn judge_with(token: &str, keys: Value) -> Result<(), TokenError> {
    Token::parse(token)?
        .verify(&rules(), &parse(keys).unwrap(), now())
        .map(|_| ())
}

#[test]
fn keys_that_are_of_no_use_are_skipped() {
    let signer = Signer::new("k1", Algorithm::ES256);
    let mut encryption = ed25519().jwk();
    encryption["use"] = json!("enc");
    let keys = parse(json!([
        {"kty": "oct", "k": "c2VjcmV0", "kid": "k1", "alg": "HS256"},
        {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"},
        encryption, 7, null, "key", [], {},
        signer.jwk(),
    ]));
    let keys = keys.unwrap();
    assert_eq!((keys.len(), keys.skipped()), (1, 9));
    let token = signer.token();
    assert!(
        Token::parse(&token)
            .unwrap()
            .verify(&rules(), &keys, now())
            .is_ok()
    );
}

#[test]
fn each_useless_key_has_its_reason() {
    let changed = |signer: &Signer, changes| merged(signer.jwk(), changes);
    let (ec, ed) = (Signer::new("k1", Algorithm::ES256), ed25519());
    let (rsa, p384) = (
        Signer::new("k1", Algorithm::RS256),
        Signer::new("k1", Algorithm::ES384),
    );

    assert_eq!(fault(changed(&ec, json!({"kty": null}))), KeyFault::NotAJwk);
    assert_eq!(fault(changed(&ec, json!({"kid": 1}))), KeyFault::NotAJwk);
    assert_eq!(
        fault(changed(&ec, json!({"kid": "k".repeat(129)}))),
        KeyFault::KeyId
    );
    assert_eq!(
        fault(changed(&ec, json!({"use": "enc"}))),
        KeyFault::Purpose
    );
    assert_eq!(
        fault(changed(&ec, json!({"key_ops": ["sign"]}))),
        KeyFault::Purpose
    );
    assert_eq!(
        fault(changed(&ec, json!({"alg": "ECDH-ES"}))),
        KeyFault::Purpose
    );
    assert_eq!(
        fault(changed(&ec, json!({"alg": "ES384"}))),
        KeyFault::Purpose
    );
    assert_eq!(
        fault(changed(&rsa, json!({"alg": "RSA-OAEP"}))),
        KeyFault::Purpose
    );
    assert_eq!(fault(changed(&ec, json!({"crv": "P-521"}))), KeyFault::Kind);
    assert_eq!(fault(changed(&ec, json!({"kty": "oct"}))), KeyFault::Kind);
    assert_eq!(
        fault(changed(&ed, json!({"crv": "X25519"}))),
        KeyFault::Kind
    );

    let material = KeyFault::Material;
    assert_eq!(fault(changed(&ec, json!({"x": null}))), material);
    assert_eq!(fault(changed(&ec, json!({"x": "not base64!"}))), material);
    assert_eq!(fault(changed(&ec, json!({"x": base64([1; 31])}))), material);
    assert_eq!(
        fault(changed(&ec, json!({"x": base64([1; 32])}))),
        material,
        "not on the curve"
    );
    assert_eq!(fault(changed(&p384, json!({"crv": "P-256"}))), material);
    assert_eq!(fault(changed(&ed, json!({"x": base64([1; 31])}))), material);
    let modulus = |bits: usize| {
        let mut bytes = vec![0; bits / 8];
        SystemRandom::new().fill(&mut bytes).unwrap();
        bytes[0] |= 0x80;
        *bytes.last_mut().unwrap() |= 1;
        base64(bytes)
    };
    assert_eq!(fault(changed(&rsa, json!({"n": modulus(1024)}))), material);
    assert_eq!(fault(changed(&rsa, json!({"n": modulus(2040)}))), material);
    assert_eq!(fault(changed(&rsa, json!({"n": modulus(8200)}))), material);
    for exponent in [
        &[1][..],
        &[0],
        &[],
        &[0, 0, 1],
        &[2],
        &[1, 0, 0, 0, 0, 0, 0, 0, 1],
    ] {
        assert_eq!(
            fault(changed(&rsa, json!({"e": base64(exponent)}))),
            material
        );
    }
}

#[test]
fn a_sign_byte_before_the_numbers_of_an_rsa_key_is_forgiven() {
    let signer = Signer::new("k1", Algorithm::RS256);
    let mut jwk = signer.jwk();
    for member in ["n", "e"] {
        let bytes = BASE64_URL_SAFE_NO_PAD
            .decode(jwk[member].as_str().unwrap())
            .unwrap();
        jwk[member] = json!(base64([&[0], bytes.as_slice()].concat()));
    }
    assert_eq!(judge_with(&signer.token(), json!([jwk])), Ok(()));
}

#[test]
fn what_is_no_key_set_is_refused_whole() {
    let refused = |json: &str| KeySet::parse(json.as_bytes()).unwrap_err();
    for json in [
        "",
        "[]",
        "{}",
        "null",
        r#"{"keys":{}}"#,
        r#"{"keys":[}"#,
        "<html>",
    ] {
        assert_eq!(refused(json), KeySetError::NotAKeySet, "{json}");
    }
    assert_eq!(
        refused(r#"{"keys":[]}"#),
        KeySetError::NoUsableKey { first: None }
    );
    let many = vec![json!({}); MAX_KEYS + 1];
    assert_eq!(parse(json!(many)).unwrap_err(), KeySetError::TooManyKeys);
    assert_eq!(refused(&" ".repeat(MAX_KEY_SET + 1)), KeySetError::TooLarge);
}

#[test]
fn a_key_for_one_algorithm_verifies_no_other() {
    let mut signer = Signer::new("k1", Algorithm::RS512);
    let jwk = |alg: &str| json!([merged(signer.jwk(), json!({"alg": alg}))]);
    let (rs512, rs256) = (jwk("RS512"), jwk("RS256"));
    assert_eq!(judge_with(&signer.token(), rs512.clone()), Ok(()));
    assert_eq!(
        judge_with(&signer.token(), rs256),
        Err(TokenError::KeyMismatch)
    );
    signer.algorithm = Algorithm::RS256;
    assert_eq!(
        judge_with(&signer.token(), rs512),
        Err(TokenError::KeyMismatch)
    );
}

/// RFC 7517, 4.5: keys of different kinds may have the same id.
#[test]
fn keys_may_share_an_id() {
    let keys = [ed25519(), Signer::new("k1", Algorithm::ES256), ed25519()];
    let set: Vec<Value> = keys.iter().map(Signer::jwk).collect();
    for signer in &keys {
        assert_eq!(judge_with(&signer.token(), json!(set)), Ok(()));
    }
}

#[test]
fn a_token_without_kid_is_tried_with_every_fitting_key_of_a_small_set() {
    let keys = [
        ed25519(),
        Signer::new("k2", Algorithm::ES256),
        Signer::new("k3", Algorithm::EdDSA),
    ];
    let set = json!(keys.iter().map(Signer::jwk).collect::<Vec<_>>());
    for signer in &keys {
        assert_eq!(
            judge_with(&with_header(signer, json!({"kid": null})), set.clone()),
            Ok(())
        );
    }
    // A key without id is not found by a token that names one.
    let unnamed = json!([merged(keys[0].jwk(), json!({"kid": null}))]);
    assert!(matches!(
        judge_with(&keys[0].token(), unnamed),
        Err(TokenError::UnknownKey { .. })
    ));
}

#[test]
fn the_work_for_one_token_is_bounded() {
    let keys: Vec<Signer> = (0..5).map(|_| ed25519()).collect();
    let set = json!(keys.iter().map(Signer::jwk).collect::<Vec<_>>());
    assert_eq!(judge_with(&keys[3].token(), set.clone()), Ok(()));
    assert_eq!(
        judge_with(&keys[4].token(), set),
        Err(TokenError::Signature)
    );
}
