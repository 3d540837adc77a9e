//! The verifier against issuers on loopback ports and key files.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::fetch::{DiscoveryError, FetchError, MAX_ANSWER};
use crate::testing::server::{Answer, Seen, Server, deserted, json_answer, text_answer};
use crate::testing::{Signer, claims, jwks, now, rules};
use crate::verify::{Algorithm, KeySetError};

fn trusted(issuer: &str, keys: KeySource) -> TrustedIssuer {
    TrustedIssuer {
        rules: IssuerRules {
            issuer: issuer.into(),
            ..rules()
        },
        keys,
        introspection: None,
    }
}

fn discovered(issuer: &str) -> Verifier {
    Verifier::new(vec![trusted(issuer, KeySource::Discovery { ca: None })]).unwrap()
}

/// A token of `issuer`, good now and for five minutes.
fn token_of(issuer: &str, signer: &Signer) -> String {
    let mut claims = claims();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    claims["iss"] = json!(issuer);
    claims["exp"] = json!(now + 300);
    claims["nbf"] = json!(now - 10);
    claims["iat"] = json!(now - 10);
    signer.sign(&signer.header(), &claims)
}

/// A server with OpenID Connect metadata, whose keys are those of `signers` at the moment.
async fn issuer_of(signers: Arc<Mutex<Vec<Signer>>>) -> Server {
    let server = Server::start(|_| text_answer(500, "text/plain", "not yet")).await;
    let base = server.base();
    server.answer(move |seen| match seen.path.as_str() {
        "/.well-known/openid-configuration" => json_answer(
            200,
            &json!({"issuer": base, "jwks_uri": format!("{base}/keys")}),
        ),
        "/keys" => json_answer(200, &jwks(&*signers.lock().unwrap())),
        _ => text_answer(404, "text/html", "<html>"),
    });
    server
}

/// Starts refreshing and waits until every issuer has been tried (again).
async fn started(verifier: &Verifier) -> JoinHandle<()> {
    let ended = |issuer: &Issuer| issuer.keys.progress().ended;
    let seen: Vec<u64> = verifier.issuers.iter().map(ended).collect();
    let task = tokio::spawn(verifier.keep_fresh());
    for (issuer, seen) in verifier.issuers.iter().zip(seen) {
        issuer.keys.ended_after(seen).await;
    }
    task
}

/// Why the keys of the only issuer could not be had.
async fn failure(verifier: &Verifier) -> KeysError {
    let task = started(verifier).await;
    task.abort();
    assert!(!verifier.is_ready());
    verifier
        .status()
        .remove(0)
        .error
        .expect("no keys were expected")
}

/// The failure of discovery at an issuer that answers like this.
async fn discovery_failure(
    answering: impl Fn(&Seen, &str) -> Answer + Send + 'static,
) -> KeysError {
    let server = Server::start(|_| text_answer(500, "text/plain", "not yet")).await;
    let base = server.base();
    server.answer(move |seen| answering(seen, &base));
    failure(&discovered(&server.base())).await
}

#[tokio::test]
async fn keys_are_found_by_discovery_and_tokens_verified_with_them() {
    let signer = Signer::new("k1", Algorithm::ES256);
    let server = issuer_of(Arc::new(Mutex::new(vec![signer.clone()]))).await;
    let verifier = discovered(&server.base());
    let token = token_of(&server.base(), &signer);
    assert!(!verifier.is_ready());
    assert!(matches!(
        verifier.verify(&token, now()),
        Err(TokenError::NoKeys { .. })
    ));

    let task = started(&verifier).await;
    assert!(verifier.is_ready());
    assert!(verifier.verify(&token, SystemTime::now()).is_ok());
    assert!(verifier.verify_refreshing(&token).await.is_ok());
    let status = verifier.status().remove(0);
    assert_eq!((status.keys, status.error), (1, None));
    task.abort();
}

#[tokio::test]
async fn metadata_of_rfc_8414_will_do_where_openid_connects_is_absent() {
    let signer = Signer::new("k1", Algorithm::ES256);
    let keys = jwks([&signer]);
    let server = Server::start(|_| text_answer(500, "text/plain", "not yet")).await;
    let (base, issuer) = (server.base(), format!("{}/realm", server.base()));
    let metadata = json!({"issuer": issuer, "jwks_uri": format!("{base}/keys")});
    server.answer(move |seen| match seen.path.as_str() {
        "/.well-known/oauth-authorization-server/realm" => json_answer(200, &metadata),
        "/keys" => json_answer(200, &keys),
        _ => text_answer(404, "text/html", "<html>"),
    });
    let verifier = discovered(&issuer);
    started(&verifier).await.abort();
    assert!(
        verifier
            .verify(&token_of(&issuer, &signer), SystemTime::now())
            .is_ok()
    );
}

/// The new key's first token is verified, not refused: it waits for the refresh that it caused.
#[tokio::test]
async fn a_rotation_costs_no_call() {
    let (old, new) = (
        Signer::new("k1", Algorithm::ES256),
        Signer::new("k2", Algorithm::ES256),
    );
    let signers = Arc::new(Mutex::new(vec![old.clone()]));
    let server = issuer_of(signers.clone()).await;
    let verifier = discovered(&server.base());
    let task = started(&verifier).await;

    signers.lock().unwrap().push(new.clone());
    let token = token_of(&server.base(), &new);
    assert!(verifier.verify_refreshing(&token).await.is_ok());
    assert!(
        verifier
            .verify_refreshing(&token_of(&server.base(), &old))
            .await
            .is_ok()
    );

    // A key that does not exist asks again, but the issuer is not bothered.
    let asked = server.seen().len();
    let unknown = token_of(&server.base(), &Signer::new("k3", Algorithm::ES256));
    for _ in 0..100 {
        let refused = verifier.verify_refreshing(&unknown).await;
        assert!(matches!(refused, Err(TokenError::UnknownKey { .. })));
    }
    assert_eq!(server.seen().len(), asked);
    task.abort();
}

/// Nobody can say then whether a key that is not known is a new one.
#[tokio::test]
async fn while_keys_cannot_be_had_a_token_of_an_unknown_key_is_not_called_wrong() {
    let signer = Signer::new("k1", Algorithm::ES256);
    let server = issuer_of(Arc::new(Mutex::new(vec![signer.clone()]))).await;
    let verifier = discovered(&server.base());
    let task = started(&verifier).await;
    let unknown = token_of(&server.base(), &Signer::new("k2", Algorithm::ES256));
    server.answer(|_| text_answer(500, "text/plain", "out of order"));
    // It waits for the refresh that it caused, which fails.
    let refused = verifier.verify_refreshing(&unknown).await.unwrap_err();
    assert!(refused.is_unavailable(), "{refused}");
    assert!(refused.wants_newer_keys());
    // What can be judged is judged.
    let known = token_of(&server.base(), &signer);
    assert!(verifier.verify_refreshing(&known).await.is_ok());
    let forged = token_of(&server.base(), &Signer::new("k1", Algorithm::ES256));
    assert_eq!(
        verifier.verify_refreshing(&forged).await,
        Err(TokenError::Signature)
    );
    task.abort();
}

/// Each issuer speaks with its own keys, even under the same key id.
#[tokio::test]
async fn the_keys_of_one_issuer_are_worth_nothing_at_another() {
    let (ours, theirs) = (
        Signer::new("k1", Algorithm::ES256),
        Signer::new("k1", Algorithm::ES256),
    );
    let one = issuer_of(Arc::new(Mutex::new(vec![ours.clone()]))).await;
    let two = issuer_of(Arc::new(Mutex::new(vec![theirs.clone()]))).await;
    let source = || KeySource::Discovery { ca: None };
    let both = vec![
        trusted(&one.base(), source()),
        trusted(&two.base(), source()),
    ];
    let verifier = Verifier::new(both).unwrap();
    started(&verifier).await.abort();
    let verify =
        |issuer: &str, signer| verifier.verify(&token_of(issuer, signer), SystemTime::now());
    assert!(verify(&one.base(), &ours).is_ok());
    assert!(verify(&two.base(), &theirs).is_ok());
    assert_eq!(verify(&one.base(), &theirs), Err(TokenError::Signature));
    assert_eq!(verify(&two.base(), &ours), Err(TokenError::Signature));
    assert_eq!(
        verify("https://three.example.com", &ours),
        Err(TokenError::Issuer)
    );
}

/// Its metadata need not name any (RFC 8414, 2).
#[tokio::test]
async fn an_issuer_that_can_be_asked_needs_no_keys_to_be_ready() {
    let server = Server::start(|_| json_answer(200, &json!({}))).await;
    let mut issuer = trusted(&server.base(), KeySource::Discovery { ca: None });
    issuer.introspection = Some(Introspection {
        url: server.url("/introspect"),
        client_id: "relay".into(),
        client_secret: "secret".into(),
        ca: None,
    });
    let verifier = Verifier::new(vec![issuer]).unwrap();
    assert!(!verifier.is_ready(), "it has not been tried");
    let task = started(&verifier).await;
    assert!(verifier.is_ready());
    assert_eq!(verifier.status()[0].keys, 0);
    task.abort();
}

#[tokio::test]
async fn one_dead_issuer_among_two_does_not_make_the_verifier_unready() {
    let signer = Signer::new("k1", Algorithm::ES256);
    let server = issuer_of(Arc::new(Mutex::new(vec![signer.clone()]))).await;
    let source = || KeySource::Discovery { ca: None };
    let dead = format!("http://{}", deserted());
    let both = vec![trusted(&server.base(), source()), trusted(&dead, source())];
    let verifier = Verifier::new(both).unwrap();
    assert!(!verifier.is_ready());
    let task = started(&verifier).await;
    assert!(verifier.is_ready());
    let refused = verifier
        .verify(&token_of(&dead, &signer), SystemTime::now())
        .unwrap_err();
    assert!(refused.is_unavailable());
    task.abort();
}

#[tokio::test]
async fn metadata_that_speaks_for_another_issuer_is_refused() {
    let error = discovery_failure(|_, base| {
        json_answer(
            200,
            &json!({"issuer": format!("{base}/"), "jwks_uri": format!("{base}/keys")}),
        )
    });
    let error = error.await;
    assert!(
        matches!(
            error,
            KeysError::Discovery(DiscoveryError::IssuerMismatch { .. })
        ),
        "{error}"
    );
}

#[tokio::test]
async fn metadata_that_is_nowhere_says_where_it_was_looked_for() {
    let error = discovery_failure(|_, _| text_answer(404, "text/html", "<html>")).await;
    assert!(
        matches!(error, KeysError::Discovery(DiscoveryError::NotFound { .. })),
        "{error}"
    );
    let error = discovery_failure(|_, _| text_answer(200, "text/html", "<html>")).await;
    assert!(
        matches!(error, KeysError::Discovery(DiscoveryError::NotFound { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn keys_are_fetched_from_https_or_loopback_only() {
    for uri in [
        json!("http://issuer.example.com/keys"),
        json!("file:///etc/passwd"),
        json!("keys"),
        Value::Null,
    ] {
        let error = discovery_failure(move |_, base| {
            json_answer(200, &json!({"issuer": base, "jwks_uri": uri}))
        });
        let error = error.await;
        let lacks = DiscoveryError::Lacks {
            url: String::new(),
            member: "jwks_uri",
        };
        let KeysError::Discovery(DiscoveryError::Lacks { member, .. }) = &error else {
            panic!("{error}, not {lacks}");
        };
        assert_eq!(*member, "jwks_uri");
    }
    let insecure = trusted(
        "http://issuer.example.com",
        KeySource::Discovery { ca: None },
    );
    let error = Verifier::new(vec![insecure]).unwrap_err();
    let VerifierError::Keys {
        error: KeysError::Fetch(FetchError::Address { .. }),
        ..
    } = error
    else {
        panic!("{error}");
    };
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let error = discovery_failure(|_, base| {
        let mut answer = text_answer(302, "text/plain", "");
        answer
            .headers_mut()
            .insert("location", format!("{base}/elsewhere").parse().unwrap());
        answer
    });
    let KeysError::Discovery(DiscoveryError::Fetch(FetchError::Status { status, .. })) =
        error.await
    else {
        panic!("a redirect was followed");
    };
    assert_eq!(status, 302);
}

/// What an address that should have keys may answer with instead.
#[tokio::test]
async fn answers_that_are_no_key_set_are_refused() {
    let answer = |status, body: &str| text_answer(status, "application/json", body.to_owned());
    let failure_of = async |answer: Answer| {
        let server = Server::start(move |_| answer.clone()).await;
        let source = KeySource::Url {
            url: server.url("/keys"),
            ca: None,
        };
        let verifier = Verifier::new(vec![trusted("https://issuer.example.com", source)]).unwrap();
        failure(&verifier).await
    };
    let key_set = |error: KeysError| match error {
        KeysError::KeySet { error, .. } => error,
        other => panic!("{other}"),
    };
    assert_eq!(
        key_set(failure_of(answer(200, "<html>")).await),
        KeySetError::NotAKeySet
    );
    assert_eq!(
        key_set(failure_of(answer(200, r#"{"keys":[]}"#)).await),
        KeySetError::NoUsableKey { first: None }
    );
    let error = failure_of(answer(200, &" ".repeat(MAX_ANSWER + 1))).await;
    assert!(
        matches!(error, KeysError::Fetch(FetchError::TooLarge { .. })),
        "{error}"
    );
    let error = failure_of(answer(503, "{}")).await;
    assert!(
        matches!(
            error,
            KeysError::Fetch(FetchError::Status { status: 503, .. })
        ),
        "{error}"
    );
}

#[tokio::test]
async fn an_issuer_with_a_private_ca_is_believed_only_with_that_ca() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, other) = (
        folder.path().join("ca.pem"),
        folder.path().join("other.pem"),
    );
    let signer = Signer::new("k1", Algorithm::ES256);
    let keys = jwks([&signer]);
    let server = Server::start_tls(&ca, move |_| json_answer(200, &keys)).await;
    let _other = Server::start_tls(&other, |_| json_answer(200, &json!({}))).await;
    let with_ca = |ca: Option<PathBuf>| {
        let source = KeySource::Url {
            url: server.url("/keys"),
            ca,
        };
        Verifier::new(vec![trusted(&server.base(), source)]).unwrap()
    };
    let verifier = with_ca(Some(ca));
    started(&verifier).await.abort();
    assert!(
        verifier
            .verify(&token_of(&server.base(), &signer), SystemTime::now())
            .is_ok()
    );

    for ca in [Some(other), None] {
        let error = failure(&with_ca(ca)).await;
        assert!(
            matches!(error, KeysError::Fetch(FetchError::Tls { .. })),
            "{error}"
        );
    }
}

#[tokio::test]
async fn keys_of_a_file_are_there_at_once_and_a_bad_file_keeps_the_old_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let (old, new) = (
        Signer::new("k1", Algorithm::ES256),
        Signer::new("k2", Algorithm::ES256),
    );
    std::fs::write(&path, jwks([&old]).to_string()).unwrap();
    let issuer = "https://issuer.example.com";
    let verifier = Verifier::new(vec![trusted(issuer, KeySource::File(path.clone()))]).unwrap();
    assert!(verifier.is_ready());
    assert!(
        verifier
            .verify(&token_of(issuer, &old), SystemTime::now())
            .is_ok()
    );

    let task = started(&verifier).await;
    std::fs::write(&path, jwks([&old, &new]).to_string()).unwrap();
    assert!(
        verifier
            .verify_refreshing(&token_of(issuer, &new))
            .await
            .is_ok()
    );
    task.abort();

    std::fs::write(&path, "{").unwrap();
    started(&verifier).await.abort();
    assert!(verifier.status()[0].error.is_some());
    assert!(verifier.is_ready());
    assert!(
        verifier
            .verify(&token_of(issuer, &new), SystemTime::now())
            .is_ok()
    );
}

#[test]
fn wrong_configuration_is_noticed_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let source = || KeySource::Discovery { ca: None };
    let issuer = "https://issuer.example.com";
    let refused = |issuers| Verifier::new(issuers).unwrap_err();

    let twice = vec![trusted(issuer, source()), trusted(issuer, source())];
    assert_eq!(
        refused(twice),
        VerifierError::Duplicate {
            issuer: issuer.into()
        }
    );
    let mut none = trusted(issuer, source());
    none.rules.algorithms.clear();
    assert_eq!(
        refused(vec![none]),
        VerifierError::NoAlgorithms {
            issuer: issuer.into()
        }
    );
    let mut lenient = trusted(issuer, source());
    lenient.rules.leeway = Duration::from_secs(61);
    assert_eq!(
        refused(vec![lenient]),
        VerifierError::Leeway {
            issuer: issuer.into()
        }
    );

    let keys_error = |source| match refused(vec![trusted(issuer, source)]) {
        VerifierError::Keys { error, .. } => error,
        other => panic!("{other}"),
    };
    let absent = folder.path().join("absent");
    assert!(matches!(
        keys_error(KeySource::File(absent.clone())),
        KeysError::File { .. }
    ));
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for ca in [absent, empty] {
        let error = keys_error(KeySource::Discovery { ca: Some(ca) });
        assert!(
            matches!(error, KeysError::Fetch(FetchError::Authorities { .. })),
            "{error}"
        );
    }
}
