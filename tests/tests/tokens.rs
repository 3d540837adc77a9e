//! Who may call: every kind of token that is not exactly right is refused, before anything is
//! sent to the agent.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use culvert_demo::tokens::{self, SigningKey};
use culvert_tests::curl::{Answer, Curl, Http};
use culvert_tests::issuer::{AGENT, NO_SCOPE, NO_TENANT, world};
use culvert_tests::stack::caller_token;
use culvert_tests::wait::until;
use culvert_tests::{Stack, Upstream};
use serde_json::{Value, json};

/// A call with `token`, which must not be let through.
fn refused(stack: &Stack, token: &str) -> Answer {
    let answer = Curl::new(&stack.url("/api/vm")).token(token).ok();
    assert!([401, 403].contains(&answer.status), "{answer}");
    answer
}

#[test]
fn the_tokens_that_the_tests_forge_are_good_but_for_what_they_change() {
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    let token = world().forge(|_| ());
    assert_eq!(Curl::new(&stack.url("/")).token(&token).ok().status, 200);
}

/// Every way in which the claims can be wrong, signed with the right key.
#[test]
fn a_token_with_wrong_claims_is_refused_and_the_relays_log_says_why() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &str); 16] = [
        ("expired", |c| c["exp"] = json!(tokens::now() - 120), "exp"),
        ("expiry is text", |c| c["exp"] = json!("4102444800"), "exp"),
        ("no expiry", |c| remove(c, "exp"), "exp"),
        (
            "not valid yet",
            |c| c["nbf"] = json!(tokens::now() + 600),
            "nbf",
        ),
        ("another audience", |c| c["aud"] = json!("elsewhere"), "aud"),
        ("audience in part", |c| c["aud"] = json!("culvert2"), "aud"),
        ("no audience", |c| remove(c, "aud"), "aud"),
        (
            "another issuer",
            |c| c["iss"] = json!("https://evil.example"),
            "iss",
        ),
        (
            "issuer with a slash",
            |c| c["iss"] = json!(format!("{}/", world().issuer)),
            "iss",
        ),
        ("no issuer", |c| remove(c, "iss"), "iss"),
        ("no tenant", |c| remove(c, "tenant"), "tenant"),
        ("tenant is a number", |c| c["tenant"] = json!(7), "tenant"),
        (
            "tenant is a list",
            |c| c["tenant"] = json!(["acme"]),
            "tenant",
        ),
        (
            "tenant is no name",
            |c| c["tenant"] = json!("acme--x"),
            "tenant",
        ),
        ("tenant is empty", |c| c["tenant"] = json!(""), "tenant"),
        ("no subject at all", anonymous, "sub"),
    ];
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    for (what, change, word) in cases {
        let answer = refused(&stack, &world().forge(change));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "unauthenticated"),
            "{what}"
        );
        answer.assert_refused(401, "unauthenticated", "relay");
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert!(challenge.contains("invalid_token"), "{what}: {answer}");
        let call = answer.call();
        until(&format!("the relay's log says {word:?} of {what}"), || {
            let log = stack.relay.log();
            let line = log.lines().find(|line| line.contains(&call));
            line.is_some_and(|line| line.contains(word))
        });
    }
    assert_eq!(upstream.requests().len(), 0);
}

fn anonymous(claims: &mut Value) {
    remove(claims, "sub");
    remove(claims, "client_id");
}

fn remove(claims: &mut Value, name: &str) {
    claims.as_object_mut().unwrap().remove(name);
}

#[test]
fn a_token_without_the_scope_to_call_is_forbidden() {
    let scope = |scope: &str| world().forge(|claims| claims["scope"] = json!(scope));
    let tokens = [
        ("the agent's", world().token(AGENT)),
        ("another", scope("openid profile")),
        (
            "the word with more or less",
            scope("culvert:caller culvert:cal"),
        ),
        ("the word in capitals", scope("CULVERT:CALL")),
    ];
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    for (what, token) in tokens {
        let answer = refused(&stack, &token);
        assert_eq!(answer.code(), "forbidden", "{what}: {answer}");
        answer.assert_refused(403, "forbidden", "relay");
    }
    for token in [world().token(NO_SCOPE), scope("")] {
        refused(&stack, &token).assert_refused(403, "forbidden", "relay");
    }
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn a_token_of_no_tenant_is_refused_though_the_issuer_signed_it() {
    let stack = Stack::start(&Upstream::plain().url());
    refused(&stack, &world().token(NO_TENANT)).assert_refused(401, "unauthenticated", "relay");
}

/// Every way in which the signature can be wrong, over right claims.
#[test]
fn a_token_that_the_issuers_key_did_not_sign_is_refused() {
    let claims = world().claims();
    let good = world().forge(|_| ());
    let parts: Vec<&str> = good.split('.').collect();
    let body = |value: &Value| BASE64.encode(value.to_string());

    let same_id = SigningKey::generate("tests-1").unwrap();
    let other_id = SigningKey::generate("unheard-of").unwrap();
    let none = json!({ "alg": "none", "typ": "at+jwt", "kid": "tests-1" });
    let embedded =
        json!({ "alg": "ES256", "typ": "at+jwt", "jwk": same_id.public_jwk(), "kid": "tests-1" });
    let other_signature = same_id.sign(&claims).unwrap();
    let other_signature = other_signature.rsplit('.').next().unwrap();
    let mut escalated = claims.clone();
    escalated["tenant"] = json!("globex");
    let mut id = claims.clone();
    id["nonce"] = json!("n");

    let cases = [
        (
            "another key under the same id",
            same_id.sign(&claims).unwrap(),
        ),
        (
            "another key under another id",
            other_id.sign(&claims).unwrap(),
        ),
        (
            "alg none, no signature",
            format!("{}.{}.", body(&none), parts[1]),
        ),
        (
            "alg none, old signature",
            format!("{}.{}.{}", body(&none), parts[1], parts[2]),
        ),
        (
            "alg None",
            format!("{}.{}.", body(&json!({ "alg": "None" })), parts[1]),
        ),
        ("HS256 with the public key", hs256(&claims)),
        (
            "its own key inside",
            format!("{}.{}.{other_signature}", body(&embedded), parts[1]),
        ),
        (
            "changed claims",
            format!("{}.{}.{}", parts[0], body(&escalated), parts[2]),
        ),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("four parts", format!("{good}.{}", parts[2])),
        ("an ID token", world().key.sign_as("JWT", &id).unwrap()),
        (
            "a logout token",
            world().key.sign_as("logout+jwt", &claims).unwrap(),
        ),
    ];
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    for (what, token) in cases {
        let answer = refused(&stack, &token);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "unauthenticated"),
            "{what}"
        );
    }
    assert_eq!(upstream.requests().len(), 0);
}

/// The classical confusion: the public key, which everybody knows, used as a shared secret.
fn hs256(claims: &Value) -> String {
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    header.typ = Some("at+jwt".into());
    header.kid = Some("tests-1".into());
    let jwk = world().key.public_jwk().to_string();
    let key = jsonwebtoken::EncodingKey::from_secret(jwk.as_bytes());
    jsonwebtoken::encode(&header, claims, &key).unwrap()
}

#[test]
fn what_is_no_token_at_all_is_refused() {
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    let long = "a".repeat(17 * 1024);
    for token in [
        "",
        "garbage",
        "a.b.c",
        "....",
        "e30.e30.e30",
        "\u{e4}.\u{f6}.\u{fc}",
        &long,
    ] {
        for http in Http::BOTH {
            let answer = Curl::new(&stack.url("/")).token(token).http(http).ok();
            assert!(
                [400, 401, 431].contains(&answer.status),
                "{token:.20}: {answer}"
            );
            answer.call();
        }
    }
    for header in [
        format!("Culvert-Authorization: {}", caller_token()),
        format!("Culvert-Authorization: Basic {}", caller_token()),
        format!("Culvert-Authorization: Bearer {0} {0}", caller_token()),
        format!("Culvert-Authorization: Bearer {0},{0}", caller_token()),
        // The relay takes no credential from where the upstream's belongs.
        format!("Authorization: Bearer {}", caller_token()),
        format!("Cookie: access_token={}", caller_token()),
    ] {
        let answer = Curl::new(&stack.url("/")).header(&header).ok();
        assert!(
            [400, 401].contains(&answer.status),
            "{header:.50}: {answer}"
        );
    }
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn a_token_in_the_query_or_in_two_headers_is_refused() {
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    let query = format!("/api/vm?access_token={}", caller_token());
    let answer = Curl::new(&stack.url(&query)).ok();
    assert!([400, 401].contains(&answer.status), "{answer}");
    for http in Http::BOTH {
        let twice = stack.call("/").token(caller_token()).http(http).ok();
        assert!([400, 401].contains(&twice.status), "{twice}");
    }
    assert_eq!(upstream.requests().len(), 0);
}

/// The issuer is asked for nothing that a stranger's token names.
#[test]
fn a_token_cannot_send_the_relay_for_keys() {
    let trap = Upstream::plain();
    let stack = Stack::start(&Upstream::plain().url());
    let key = SigningKey::generate("trap").unwrap();
    let signed = key.sign(&world().claims()).unwrap();
    let parts: Vec<&str> = signed.split('.').collect();
    for name in ["jku", "x5u"] {
        let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": "trap", name: trap.url() });
        let header = BASE64.encode(header.to_string());
        refused(&stack, &format!("{header}.{}.{}", parts[1], parts[2]));
    }
    let foreign = world().forge(|c| c["iss"] = json!(trap.url()));
    refused(&stack, &foreign);
    assert_eq!(trap.connections(), 0);
}

#[test]
fn an_agent_without_the_right_to_register_is_turned_away_and_says_so() {
    let upstream = Upstream::plain();
    let mut stack = Stack::start(&upstream.url());
    // The same agent, with a caller's client.
    let config = std::fs::read_to_string(stack.file("agent.toml")).unwrap();
    let config = config.replace(AGENT, culvert_tests::issuer::CALLER);
    let config = config.replace("culvert:register", "culvert:call");
    std::fs::write(stack.file("agent.toml"), config).unwrap();
    stack.agent.kill();
    let before = stack.agent.log().len();
    stack.restart_agent();
    until("the agent says that it was turned away", || {
        let log = stack.agent.log()[before..].to_lowercase();
        ["403", "forbidden", "scope", "refused"]
            .iter()
            .any(|word| log.contains(word))
    });
    let answer = stack.call("/").ok();
    answer.assert_refused(503, "endpoint-offline", "relay");
    assert_eq!(upstream.requests().len(), 0);
}

/// curl 7.88 (Debian 12) throws an answer away whose call was reset behind it, which is what an HTTP/2
/// server does that does not read the rest of the body.
#[test]
fn whoever_posts_without_a_good_token_is_told_so_over_http2() {
    let stack = Stack::start(&Upstream::plain().url());
    let body = stack.file("body");
    for length in [0, 3, 4000, 16 << 20] {
        std::fs::write(&body, vec![b'x'; length]).unwrap();
        let sent = format!("@{}", body.display());
        for round in 0..10 {
            let post = Curl::new(&stack.url("/api/session")).http(Http::Two);
            let post = post.args(["--data-binary", &sent]);
            let post = if round % 2 == 0 {
                post
            } else {
                post.token("a.b.c")
            };
            post.ok().assert_refused(401, "unauthenticated", "relay");
        }
    }
}
