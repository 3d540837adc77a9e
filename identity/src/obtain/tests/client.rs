//! One request for a token: what is sent, and what each answer means.

use serde_json::{Value, json};
use url::Url;

use super::*;
use crate::fetch::{DiscoveryError, FetchError, MAX_ANSWER, Proxying};
use crate::testing::server::{Answer, Server, deserted, json_answer, text_answer};

const SECRET: &str = "s3cret/+ %";

fn credentials(server: TokenServer) -> OAuthClient {
    OAuthClient {
        server,
        client_id: "sddc-fra-1".into(),
        auth: ClientAuth::Basic(SECRET.into()),
        audience: Some("culvert".into()),
        resource: None,
        scope: "culvert:register culvert:call".into(),
        ca: None,
        proxying: Proxying::Environment,
    }
}

fn granted() -> Value {
    json!({"access_token": "abc.def.ghi", "token_type": "Bearer", "expires_in": 600})
}

/// The outcome where the token endpoint answers like this.
async fn outcome(answer: Answer) -> Result<AccessToken, ObtainError> {
    let server = Server::start(move |_| answer.clone()).await;
    credentials(TokenServer::TokenUrl(server.url("/token")))
        .client_credentials()
        .await
}

async fn refusal(answer: Answer) -> ObtainError {
    outcome(answer).await.expect_err("a refusal was expected")
}

#[tokio::test]
async fn a_token_is_asked_for_as_oauth_prescribes() {
    let server = Server::start(|_| json_answer(200, &granted())).await;
    let asked_at = Instant::now();
    let token = credentials(TokenServer::TokenUrl(server.url("/token")))
        .client_credentials()
        .await
        .unwrap();
    assert_eq!(token.expose(), "abc.def.ghi");
    assert_eq!(token.lifetime, Duration::from_secs(600));
    assert!(token.expires_at >= asked_at + token.lifetime);
    assert!(token.expires_at <= Instant::now() + token.lifetime);

    let [seen] = server.seen().try_into().unwrap();
    assert_eq!(
        (seen.method.as_str(), seen.path.as_str()),
        ("POST", "/token")
    );
    assert_eq!(
        seen.header("content-type"),
        Some("application/x-www-form-urlencoded")
    );
    assert_eq!(
        seen.field("grant_type").as_deref(),
        Some("client_credentials")
    );
    assert_eq!(
        seen.field("scope").as_deref(),
        Some("culvert:register culvert:call")
    );
    assert_eq!(seen.field("audience").as_deref(), Some("culvert"));
    assert_eq!(seen.field("resource"), None, "a word is no resource");
    // RFC 6749, 2.3.1: form-encoded, then joined, then base64.
    assert_eq!(
        seen.header("authorization"),
        Some("Basic c2RkYy1mcmEtMTpzM2NyZXQlMkYlMkIrJTI1")
    );
    assert_eq!(
        (seen.field("client_id"), seen.field("client_secret")),
        (None, None)
    );
}

#[tokio::test]
async fn the_secret_goes_into_the_body_where_the_server_wants_it_there() {
    let server = Server::start(|_| json_answer(200, &granted())).await;
    let mut credentials = credentials(TokenServer::TokenUrl(server.url("/token")));
    credentials.auth = ClientAuth::Post(SECRET.into());
    credentials.client_credentials().await.unwrap();
    let [seen] = server.seen().try_into().unwrap();
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(seen.field("client_id").as_deref(), Some("sddc-fra-1"));
    assert_eq!(seen.field("client_secret").as_deref(), Some(SECRET));
}

#[tokio::test]
async fn an_audience_that_is_a_uri_is_also_asked_for_as_a_resource() {
    let server = Server::start(|_| json_answer(200, &granted())).await;
    let mut credentials = credentials(TokenServer::TokenUrl(server.url("/token")));
    credentials.audience = Some("https://relay.example.com".into());
    credentials.client_credentials().await.unwrap();
    credentials.resource = Some("urn:culvert".into());
    credentials.client_credentials().await.unwrap();
    let resources: Vec<_> = server
        .seen()
        .iter()
        .map(|seen| seen.field("resource"))
        .collect();
    assert_eq!(
        resources,
        [
            Some("https://relay.example.com".to_owned()),
            Some("urn:culvert".to_owned())
        ]
    );
    for seen in server.seen() {
        assert_eq!(
            seen.field("audience").as_deref(),
            Some("https://relay.example.com")
        );
    }
}

#[tokio::test]
async fn the_token_endpoint_is_found_by_discovery() {
    let server = Server::start(|_| text_answer(500, "text/plain", "not yet")).await;
    let base = server.base();
    server.answer(move |seen| match seen.path.as_str() {
        "/.well-known/openid-configuration" => json_answer(
            200,
            &json!({"issuer": base, "token_endpoint": format!("{base}/oauth/token")}),
        ),
        "/oauth/token" => json_answer(200, &granted()),
        _ => text_answer(404, "text/html", "<html>"),
    });
    let credentials = credentials(TokenServer::Issuer(server.base()));
    assert_eq!(
        credentials.client_credentials().await.unwrap().expose(),
        "abc.def.ghi"
    );
}

#[tokio::test]
async fn metadata_without_a_token_endpoint_or_of_another_issuer_gets_no_secret() {
    let server = Server::start(|_| text_answer(500, "text/plain", "not yet")).await;
    let base = server.base();
    let credentials = credentials(TokenServer::Issuer(server.base()));
    let issuer = base.clone();
    server.answer(move |_| json_answer(200, &json!({"issuer": issuer})));
    let error = credentials.client_credentials().await.unwrap_err();
    assert!(matches!(
        error,
        ObtainError::Discovery(DiscoveryError::Lacks {
            member: "token_endpoint",
            ..
        })
    ));
    let endpoint = format!("{base}/token");
    server.answer(move |_| {
        json_answer(
            200,
            &json!({"issuer": "https://evil.example", "token_endpoint": endpoint}),
        )
    });
    let error = credentials.client_credentials().await.unwrap_err();
    assert!(matches!(
        error,
        ObtainError::Discovery(DiscoveryError::IssuerMismatch { .. })
    ));
    assert_eq!(error.fault(), Fault::Configuration);
    assert!(server.seen().iter().all(|seen| seen.method == "GET"));
}

#[tokio::test]
async fn a_refused_client_is_told_what_to_check() {
    let body =
        json!({"error": "invalid_client", "error_description": "client authentication failed"});
    let error = refusal(json_answer(401, &body)).await;
    let description = Some("client authentication failed".to_owned());
    assert_eq!(error, ObtainError::InvalidClient { description });
    assert_eq!(error.fault(), Fault::Configuration);
    let text = error.to_string();
    assert!(
        text.contains("client_id") && text.contains("client authentication failed"),
        "{text}"
    );
}

#[tokio::test]
async fn each_refused_request_has_its_advice() {
    for (code, advice) in [
        ("invalid_scope", "check scope"),
        ("invalid_target", "check audience"),
        ("unauthorized_client", "this grant"),
        ("unsupported_grant_type", "this grant"),
        ("invalid_request", "check scope and audience"),
        ("something_new", "check scope and audience"),
    ] {
        let error = refusal(json_answer(400, &json!({"error": code}))).await;
        assert_eq!(
            error,
            ObtainError::Refused {
                code: code.into(),
                description: None
            }
        );
        assert!(error.to_string().contains(advice), "{error}");
        assert_eq!(error.fault(), Fault::Configuration);
    }
}

#[tokio::test]
async fn what_the_issuer_says_is_bounded_plain_and_never_the_secret() {
    let say = async |text: String| {
        let body = json!({"error": "invalid_client", "error_description": text});
        match refusal(json_answer(401, &body)).await {
            ObtainError::InvalidClient { description } => description,
            other => panic!("{other}"),
        }
    };
    assert_eq!(say("x".repeat(5000)).await.unwrap().len(), 256);
    assert_eq!(say("a\r\nb\u{1b}[31m".into()).await.unwrap(), "ab[31m");
    assert_eq!(say(format!("bad secret {SECRET}")).await, None);
}

#[tokio::test]
async fn answers_that_oauth_does_not_know_are_refused() {
    let with = |changes: Value| {
        let mut body = granted();
        for (name, value) in changes.as_object().unwrap() {
            body[name] = value.clone();
        }
        json_answer(200, &body)
    };
    for answer in [
        text_answer(200, "text/html", "<html>login</html>"),
        text_answer(200, "application/json", "{"),
        text_answer(200, "application/json", ""),
        text_answer(400, "text/html", "<html>bad</html>"),
        text_answer(403, "text/plain", ""),
        json_answer(200, &json!({"token_type": "Bearer"})),
        json_answer(200, &json!({"access_token": "abc"})),
        json_answer(200, &json!([granted()])),
        with(json!({"access_token": ""})),
        with(json!({"access_token": 7})),
        with(json!({"access_token": "a b"})),
        with(json!({"access_token": "a\r\nHost: evil"})),
        with(json!({"access_token": "t".repeat(16 * 1024 + 1)})),
        with(json!({"token_type": "DPoP"})),
        with(json!({"expires_in": 0})),
        with(json!({"expires_in": -5})),
    ] {
        let shown = format!("{answer:?}");
        let error = refusal(answer).await;
        assert!(
            matches!(error, ObtainError::BadAnswer(_)),
            "{shown}: {error}"
        );
    }
}

#[tokio::test]
async fn a_life_that_is_not_stated_is_short_and_one_that_is_absurd_is_cut() {
    let life = async |answer: Value| outcome(json_answer(200, &answer)).await.unwrap().lifetime;
    assert_eq!(
        life(json!({"access_token": "a", "token_type": "bearer"})).await,
        ASSUMED_LIFE
    );
    let endless = json!({"access_token": "a", "token_type": "bearer", "expires_in": u64::MAX});
    assert_eq!(life(endless).await, MAX_LIFE);
}

#[tokio::test]
async fn failures_of_the_issuer_are_the_issuers_fault() {
    let server =
        Server::start(|_| text_answer(200, "application/json", vec![b' '; MAX_ANSWER + 1]));
    let server = server.await;
    let credentials = credentials(TokenServer::TokenUrl(server.url("/token")));
    let oversized = credentials.client_credentials().await.unwrap_err();
    assert!(matches!(
        oversized,
        ObtainError::Exchange(FetchError::TooLarge { .. })
    ));

    server.answer(|_| {
        let mut answer = text_answer(503, "text/html", "down");
        answer
            .headers_mut()
            .insert("retry-after", "17".parse().unwrap());
        answer
    });
    let down = credentials.client_credentials().await.unwrap_err();
    assert!(matches!(
        down,
        ObtainError::Exchange(FetchError::Status { status: 503, .. })
    ));
    assert_eq!(down.retry_after(), Some(Duration::from_secs(17)));

    server.answer(|_| text_answer(429, "text/html", "slow down"));
    let busy = credentials.client_credentials().await.unwrap_err();
    for error in [oversized, down, busy] {
        assert_eq!(error.fault(), Fault::Issuer, "{error}");
    }
}

/// The secret follows no redirect.
#[tokio::test]
async fn redirects_are_not_followed() {
    let server = Server::start(|_| text_answer(500, "text/plain", "not yet")).await;
    let elsewhere = format!("{}/elsewhere", server.base());
    server.answer(move |_| {
        let mut answer = text_answer(307, "text/plain", "");
        answer
            .headers_mut()
            .insert("location", elsewhere.parse().unwrap());
        answer
    });
    let error = credentials(TokenServer::TokenUrl(server.url("/token")))
        .client_credentials()
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        ObtainError::Exchange(FetchError::Status { status: 307, .. })
    ));
    assert_eq!(error.fault(), Fault::Configuration);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn an_issuer_that_is_away_is_told_from_one_that_is_not_trusted() {
    let url = Url::parse(&format!("http://{}/token?secret=1", deserted())).unwrap();
    let away = credentials(TokenServer::TokenUrl(url))
        .client_credentials()
        .await
        .unwrap_err();
    assert!(
        matches!(away, ObtainError::Exchange(FetchError::Unreachable { .. })),
        "{away}"
    );
    assert_eq!(away.fault(), Fault::Issuer);
    assert!(!away.to_string().contains("secret=1"));

    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let server = Server::start_tls(&ca, |_| json_answer(200, &granted())).await;
    let mut credentials = credentials(TokenServer::TokenUrl(server.url("/token")));
    let untrusted = credentials.client_credentials().await.unwrap_err();
    assert!(
        matches!(untrusted, ObtainError::Exchange(FetchError::Tls { .. })),
        "{untrusted}"
    );
    assert_eq!(untrusted.fault(), Fault::Configuration);
    credentials.ca = Some(ca);
    assert!(credentials.client_credentials().await.is_ok());
}

#[tokio::test]
async fn secrets_go_over_https_or_loopback_only() {
    let url = Url::parse("http://issuer.example.com/token").unwrap();
    let error = credentials(TokenServer::TokenUrl(url))
        .client_credentials()
        .await
        .unwrap_err();
    assert!(
        matches!(error, ObtainError::Exchange(FetchError::Address { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn neither_the_secret_nor_the_token_shows_in_debug_output() {
    let token = outcome(json_answer(200, &granted())).await.unwrap();
    assert!(!format!("{token:?}").contains("abc"));
    let url = Url::parse("https://issuer.example.com/token").unwrap();
    let shown = format!("{:?}", credentials(TokenServer::TokenUrl(url)));
    assert!(
        shown.contains("sddc-fra-1") && !shown.contains(SECRET),
        "{shown}"
    );
    let body = json!({"access_token": "t0ken with spaces", "token_type": "Bearer"});
    let error = refusal(json_answer(200, &body)).await;
    assert!(!format!("{error} {error:?}").contains("t0ken"));
}

#[tokio::test]
async fn an_outage_ends_when_the_issuer_is_back() {
    let address = deserted();
    let url = Url::parse(&format!("http://{address}/token")).unwrap();
    let source = started(TokenSource::new(Grant::ClientCredentials(credentials(
        TokenServer::TokenUrl(url),
    ))));
    assert!(matches!(
        source.token().await,
        Err(ObtainError::Exchange(_))
    ));
    assert!(source.status().error.is_some());
    let mut tokens = source.watch();
    let _server = Server::start_at(address, |_| json_answer(200, &granted())).await;
    let token = tokens
        .wait_for(Option::is_some)
        .await
        .unwrap()
        .clone()
        .unwrap();
    assert_eq!(token.expose(), "abc.def.ghi");
    assert_eq!(source.token().await.unwrap().expose(), "abc.def.ghi");
}
