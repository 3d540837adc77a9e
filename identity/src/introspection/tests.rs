//! Opaque tokens: asked about, judged like any other, remembered briefly, refused in doubt.

use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::testing::rules;
use crate::testing::server::{Server, deserted, json_answer, text_answer};
use crate::{KeySource, TrustedIssuer, Verifier};
use culvert_proto::principal::Proof;

const SECRET: &str = "s3cret/+ %";

fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// What an issuer says of a good token.
fn active() -> Value {
    let rules = rules();
    json!({
        "active": true, "iss": rules.issuer, "aud": rules.audience, "sub": "director-7",
        "exp": seconds() + 300, "scope": rules.call_scope, "tenant": "acme",
        "token_type": "Bearer", "client_id": "director-7",
    })
}

/// An issuer that is asked there.
fn trusted(issuer: &str, url: Url) -> TrustedIssuer {
    let introspection = Introspection {
        url,
        client_id: "relay".into(),
        client_secret: SECRET.into(),
        ca: None,
    };
    TrustedIssuer {
        rules: IssuerRules {
            issuer: issuer.into(),
            ..rules()
        },
        keys: KeySource::Discovery { ca: None },
        introspection: Some(introspection),
    }
}

fn verifier(url: Url) -> Verifier {
    Verifier::new(vec![trusted(&rules().issuer, url)]).unwrap()
}

async fn judged(answer: Value) -> Result<VerifiedToken, TokenError> {
    let server = Server::start(move |_| json_answer(200, &answer)).await;
    let verifier = verifier(server.url("/introspect"));
    verifier.verify_refreshing("an-opaque-token").await
}

#[tokio::test]
async fn an_opaque_token_is_asked_about_once_and_makes_a_principal() {
    let server = Server::start(|_| json_answer(200, &active())).await;
    let verifier = verifier(server.url("/introspect"));
    for _ in 0..3 {
        let token = verifier.verify_refreshing("an-opaque-token").await.unwrap();
        assert_eq!(token.principal.tenant.as_str(), "acme");
        assert_eq!(token.principal.subject, "director-7");
        assert_eq!(token.principal.proof, Proof::Introspection);
        assert!(token.may_call && !token.may_register);
    }
    let [seen] = server.seen().try_into().unwrap();
    assert_eq!(
        (seen.method.as_str(), seen.path.as_str()),
        ("POST", "/introspect")
    );
    assert_eq!(seen.field("token").as_deref(), Some("an-opaque-token"));
    assert_eq!(
        seen.field("token_type_hint").as_deref(),
        Some("access_token")
    );
    assert_eq!(
        seen.header("authorization"),
        Some("Basic cmVsYXk6czNjcmV0JTJGJTJCKyUyNQ==")
    );
}

#[tokio::test]
async fn what_is_not_an_active_token_for_this_relay_is_refused() {
    for (change, expected) in [
        (json!({"active": false}), TokenError::Inactive),
        (json!({"typ": "Refresh"}), TokenError::NotAccessToken),
        (json!({"typ": "ID"}), TokenError::NotAccessToken),
        (
            json!({"token_use": "refresh_token"}),
            TokenError::NotAccessToken,
        ),
        (
            json!({"iss": "https://other.example.com"}),
            TokenError::Issuer,
        ),
        (json!({"exp": null}), TokenError::WrongType("exp".into())),
        (json!({"exp": 1}), TokenError::Expired),
        (json!({"nbf": seconds() + 3600}), TokenError::NotYetValid),
        (json!({"tenant": 7}), TokenError::WrongType("tenant".into())),
    ] {
        let mut answer = active();
        for (name, value) in change.as_object().unwrap() {
            answer[name] = value.clone();
        }
        assert_eq!(judged(answer).await.unwrap_err(), expected, "{change}");
    }
    for access in [
        json!({"typ": "Bearer"}),
        json!({"typ": "at+jwt"}),
        json!({"token_use": "access_token"}),
    ] {
        let mut answer = active();
        for (name, value) in access.as_object().unwrap() {
            answer[name] = value.clone();
        }
        assert!(judged(answer).await.is_ok(), "{access}");
    }
    for absent in ["aud", "exp", "tenant"] {
        let mut answer = active();
        answer.as_object_mut().unwrap().remove(absent);
        assert_eq!(
            judged(answer).await.unwrap_err(),
            TokenError::Missing(absent.into())
        );
    }
    let mut other = active();
    other["aud"] = json!(["another"]);
    assert!(matches!(
        judged(other).await,
        Err(TokenError::Audience { .. })
    ));
}

#[tokio::test]
async fn an_issuer_that_does_not_say_its_name_is_believed_and_a_bare_refusal_too() {
    let mut answer = active();
    answer.as_object_mut().unwrap().remove("iss");
    assert!(judged(answer).await.is_ok());
    let inactive = judged(json!({"active": false})).await.unwrap_err();
    assert_eq!(inactive, TokenError::Inactive);
}

#[tokio::test]
async fn without_an_answer_no_token_is_good() {
    let verifier = verifier(format!("http://{}/introspect", deserted()).parse().unwrap());
    let error = verifier
        .verify_refreshing("an-opaque-token")
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error}");

    for answer in [
        text_answer(500, "text/plain", "no"),
        text_answer(401, "text/plain", "who are you?"),
        text_answer(302, "text/plain", "over there"),
    ] {
        let server = Server::start(move |_| answer.clone()).await;
        let verifier = self::verifier(server.url("/introspect"));
        let error = verifier
            .verify_refreshing("an-opaque-token")
            .await
            .unwrap_err();
        assert!(error.is_unavailable(), "{error}");
    }
}

/// A page that a gateway puts in its place says nothing of the token, and is not remembered as if it did.
#[tokio::test]
async fn what_does_not_say_whether_a_token_is_active_is_no_answer() {
    for nonsense in [
        "",
        "[]",
        "<html>we are back soon</html>",
        "{}",
        "{\"active\":\"true\"}",
        "{\"active\":1}",
        "{\"active\":null}",
        "{\"active\":true,\"active\":false}",
    ] {
        let server = Server::start(move |_| text_answer(200, "application/json", nonsense)).await;
        let verifier = verifier(server.url("/introspect"));
        let refused = verifier.verify_refreshing("an-opaque-token").await;
        let error = refused.unwrap_err();
        assert!(error.is_unavailable(), "{nonsense}: {error}");
        server.answer(|_| json_answer(200, &active()));
        let verified = verifier.verify_refreshing("an-opaque-token").await;
        assert!(verified.is_ok(), "{nonsense}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_token_is_refused_when_the_memory_of_it_ends() {
    let server = Server::start(|_| json_answer(200, &active())).await;
    let verifier = verifier(server.url("/introspect"));
    verifier.verify_refreshing("token").await.unwrap();
    server.answer(|_| json_answer(200, &json!({"active": false})));
    verifier.verify_refreshing("token").await.unwrap();
    tokio::time::advance(MEMORY).await;
    let refused = verifier.verify_refreshing("token").await.unwrap_err();
    assert_eq!(refused, TokenError::Inactive);
}

#[tokio::test(start_paused = true)]
async fn the_ca_file_is_read_again_and_one_that_is_of_no_use_leaves_the_old_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let write_ca = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["ca".into()]).unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        std::fs::write(&ca, certificate.pem()).unwrap();
    };
    write_ca();
    let settings = Introspection {
        url: "https://issuer.example.com/introspect".parse().unwrap(),
        client_id: "relay".into(),
        client_secret: SECRET.into(),
        ca: Some(ca.clone()),
    };
    let introspector = Introspector::new(settings, Proxying::default()).unwrap();
    let first = introspector.fetcher().await;
    write_ca();
    assert!(Arc::ptr_eq(&first, &introspector.fetcher().await));
    tokio::time::advance(CA_MEMORY).await;
    let second = introspector.fetcher().await;
    assert!(!Arc::ptr_eq(&first, &second), "the old file is in force");
    std::fs::write(&ca, "half a file").unwrap();
    tokio::time::advance(CA_MEMORY).await;
    assert!(Arc::ptr_eq(&second, &introspector.fetcher().await));
    write_ca();
    tokio::time::advance(CA_MEMORY).await;
    assert!(!Arc::ptr_eq(&second, &introspector.fetcher().await));
}

/// Two issuers: one that takes questions and never answers, and this one after it.
async fn after_a_silent_one(server: &Server) -> (TcpListener, Verifier) {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/introspect", silent.local_addr().unwrap());
    let issuers = vec![
        trusted("https://silent.example.com", url.parse().unwrap()),
        trusted(&rules().issuer, server.url("/introspect")),
    ];
    (silent, Verifier::new(issuers).unwrap())
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_does_not_answer_holds_up_no_token_of_another() {
    let server = Server::start(|_| json_answer(200, &active())).await;
    let (silent, verifier) = after_a_silent_one(&server).await;
    let before = Instant::now();
    verifier.verify_refreshing("an-opaque-token").await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(1));
    silent.accept().await.unwrap();

    // Now it is known whose the token is, and nobody is asked.
    verifier.verify_refreshing("an-opaque-token").await.unwrap();
    assert_eq!(server.seen().len(), 1);
    let asked = timeout(Duration::from_secs(1), silent.accept()).await;
    assert!(asked.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_may_be_a_silent_issuers_is_not_called_wrong() {
    let server = Server::start(|_| json_answer(200, &json!({"active": false}))).await;
    let (_silent, verifier) = after_a_silent_one(&server).await;
    let refused = verifier.verify_refreshing("an-opaque-token").await;
    let error = refused.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
}

#[tokio::test]
async fn tokens_with_the_shape_of_a_jwt_are_not_asked_about() {
    let server = Server::start(|_| json_answer(200, &active())).await;
    let verifier = verifier(server.url("/introspect"));
    assert!(verifier.verify_refreshing("a.b.c").await.is_err());
    assert!(server.seen().is_empty());
    for token in ["a", "ory_at_key.signature", "a.b.c.d", "an.en.crypted.j.wt"] {
        assert!(verifier.verify_refreshing(token).await.is_ok(), "{token}");
    }
}

#[tokio::test]
async fn however_many_wrong_tokens_come_there_is_room_for_what_is_said_of_good_ones() {
    let settings = Introspection {
        url: "https://issuer.test/introspect".parse().unwrap(),
        client_id: "relay".into(),
        client_secret: SECRET.into(),
        ca: None,
    };
    let introspector = Introspector::new(settings, Proxying::Environment).unwrap();
    for number in 0..2 * MAX_REMEMBERED {
        let wrong = key(&number.to_string());
        introspector.remember(wrong, &Err(TokenError::Inactive));
    }
    assert_eq!(lock(&introspector.answers).len(), MAX_REMEMBERED);
    let answer = active().to_string();
    let good = judge_introspected(answer.as_bytes(), &rules(), SystemTime::now());
    introspector.remember(key("good"), &good);
    assert!(introspector.known("good").is_some());
    introspector.remember(key("wrong"), &Err(TokenError::Inactive));
    assert!(introspector.known("good").is_some());
    assert!(lock(&introspector.answers).len() <= MAX_REMEMBERED);
}
