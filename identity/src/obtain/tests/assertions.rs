//! `private_key_jwt`: what the issuer gets to see, and which keys are refused at once.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use serde_json::{Value, json};

use super::*;
use crate::fetch::Proxying;
use crate::testing::server::{Server, json_answer};
use crate::verify::Algorithm;

fn assertions(key: &KeyPair, algorithm: Algorithm) -> Result<Assertions, BadSigningKey> {
    Assertions::new(
        &key.serialize_pem().into(),
        algorithm,
        Some("key-1".into()),
        None,
    )
}

#[tokio::test]
async fn the_client_proves_itself_by_its_key_and_never_twice_by_the_same_assertion() {
    let server = Server::start(|_| {
        json_answer(
            200,
            &json!({"access_token": "token", "token_type": "bearer", "expires_in": 60}),
        )
    })
    .await;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let client = OAuthClient {
        server: TokenServer::TokenUrl(server.url("/token")),
        client_id: "sddc-fra-1".into(),
        auth: ClientAuth::PrivateKeyJwt(assertions(&key, Algorithm::ES256).unwrap()),
        audience: None,
        resource: None,
        scope: "culvert:register".into(),
        ca: None,
        proxying: Proxying::default(),
    };
    client.client_credentials().await.unwrap();
    client.client_credentials().await.unwrap();

    let mut ids = Vec::new();
    for seen in server.seen() {
        assert_eq!(seen.header("authorization"), None);
        assert_eq!(seen.field("client_secret"), None);
        assert_eq!(
            seen.field("client_assertion_type").as_deref(),
            Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
        );
        let assertion = seen.field("client_assertion").unwrap();
        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
        rules.set_audience(&[server.url("/token")]);
        rules.set_issuer(&["sddc-fra-1"]);
        rules.sub = Some("sddc-fra-1".into());
        rules.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        let public = jsonwebtoken::DecodingKey::from_ec_pem(key.public_key_pem().as_bytes());
        let verified = jsonwebtoken::decode::<Value>(&assertion, &public.unwrap(), &rules).unwrap();
        assert_eq!(verified.header.kid.as_deref(), Some("key-1"));
        let (issued, expires) = (&verified.claims["iat"], &verified.claims["exp"]);
        assert_eq!(expires.as_u64().unwrap() - issued.as_u64().unwrap(), 60);
        ids.push(verified.claims["jti"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn a_key_that_cannot_sign_is_refused_before_it_is_needed() {
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let ed = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    assert!(assertions(&p384, Algorithm::ES384).is_ok());
    assert!(assertions(&ed, Algorithm::EdDSA).is_ok());
    for (key, algorithm) in [
        (&p384, Algorithm::ES256),
        (&ed, Algorithm::ES256),
        (&ed, Algorithm::RS256),
    ] {
        let refused = assertions(key, algorithm).unwrap_err().to_string();
        assert!(refused.contains(algorithm.as_str()), "{refused}");
    }
    let nonsense = Assertions::new(&"no key".into(), Algorithm::ES256, None, None);
    assert!(nonsense.is_err());
}

#[test]
fn a_key_is_not_shown() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let shown = format!("{:?}", assertions(&key, Algorithm::ES256).unwrap());
    assert_eq!(
        shown,
        "Assertions { algorithm: ES256, key_id: Some(\"key-1\"), .. }"
    );
}
