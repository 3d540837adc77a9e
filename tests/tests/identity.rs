//! Tokens of a real OAuth server, over its whole life: keys that change, outages, opaque tokens,
//! and every way in which an agent gets its own.

use std::path::Path;

use culvert_demo::files::write_private;
use culvert_demo::tokens::{self, SigningKey};
use culvert_tests::curl::{Curl, Http};
use culvert_tests::issuer::{AGENT, AUDIENCE, CALLER, world};
use culvert_tests::stack::Configured;
use culvert_tests::wait::{eventually, until};
use culvert_tests::{OAuthServer, Stack, Upstream};
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "another-secret-for-tests-alone";
/// Who asks about opaque tokens.
const RELAY: &str = "relay";

/// An OAuth server of a test's own.
fn server(key: &SigningKey, more: Value) -> (OAuthServer, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = json!({
        "keys": [key.private_jwk()], "audience": AUDIENCE, "lifetime": 600,
        "clients": [
            { "id": CALLER, "secret": SECRET, "scope": "culvert:call", "tenant": "acme" },
            { "id": AGENT, "secret": SECRET, "scope": "culvert:register", "tenant": "acme",
              "endpoints": ["vcenter"] },
            { "id": RELAY, "secret": SECRET },
        ],
    });
    for (name, value) in more.as_object().unwrap() {
        config[name] = value.clone();
    }
    (
        OAuthServer::start(&world().authority, folder.path(), config),
        folder,
    )
}

/// What makes a relay trust it, beside the issuer of all tests.
fn trust(server: &OAuthServer, more: &str) -> String {
    format!(
        "\n[[issuer]]\nurl = \"{}\"\naudience = \"{AUDIENCE}\"\nalgorithms = [\"ES256\"]\nca = \"{}\"\n{more}",
        server.issuer(),
        world().ca_file().display(),
    )
}

/// Relay and agent that are configured but not started; the agent gets its token as `oauth` says.
fn with_oauth(upstream: &Upstream, server: &OAuthServer, oauth: &str) -> Configured {
    let configured = Stack::options()
        .endpoint("vcenter", &upstream.url())
        .relay(&trust(server, ""))
        .configure();
    let file = configured.file("agent.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once("[oauth]").unwrap();
    let (_, after) = rest.split_once("\n\n").unwrap();
    let ca = world().ca_file();
    let text = format!("{before}[oauth]\n{oauth}\n\n{after}").replace("$CA", ca.to_str().unwrap());
    std::fs::write(file, text).unwrap();
    configured
}

/// `[oauth]` for a client of the server.
fn client(server: &OAuthServer, grant: &str) -> String {
    format!(
        "grant = \"{grant}\"\nissuer = \"{}\"\nclient_id = \"{AGENT}\"\naudience = \"{AUDIENCE}\"\n\
         scope = \"culvert:register\"\nca = \"$CA\"",
        server.issuer()
    )
}

fn caller_token(server: &OAuthServer) -> String {
    server.token(CALLER, SECRET, "&scope=culvert:call")
}

fn call(stack: &Stack, token: &str) -> u16 {
    // Each on a connection of its own: nothing is remembered there.
    Curl::new(&stack.url("/api")).token(token).ok().status
}

/// What the relay says of an issuer.
fn issuer_of(stack: &Stack, server: &OAuthServer) -> Value {
    let status = stack.admin("/api/v1/status").json();
    let issuers = status["issuers"].as_array().unwrap();
    let found = issuers
        .iter()
        .find(|issuer| issuer["issuer"] == server.issuer());
    found.unwrap().clone()
}

fn has_metric(stack: &Stack, server: &OAuthServer, line: &str) -> bool {
    let line = line.replace('$', server.issuer());
    let metrics = stack.admin("/metrics").text();
    metrics.contains(&format!("culvert_relay_{line}\n"))
}

#[test]
fn keys_are_replaced_without_a_failed_call() {
    let (first, second) = (SigningKey::generate("k1"), SigningKey::generate("k2"));
    let (first, second) = (first.unwrap(), second.unwrap());
    let (mut server, _folder) = server(&first, json!({}));
    let upstream = Upstream::plain();
    let stack = Stack::options()
        .endpoint("vcenter", &upstream.url())
        .relay(&trust(&server, ""))
        .start();
    let old = caller_token(&server);
    assert_eq!(call(&stack, &old), 200);
    // As issuers do it: both are published, the new one signs; then the old one goes.
    let new_first = [second.private_jwk(), first.private_jwk()];
    server.replace_keys(&new_first);
    for _ in 0..5 {
        let new = caller_token(&server);
        assert_eq!((call(&stack, &new), call(&stack, &old)), (200, 200));
    }
    server.replace_keys(&new_first[..1]);
    let new = caller_token(&server);
    for _ in 0..5 {
        assert_eq!(call(&stack, &new), 200);
    }
    assert_eq!(issuer_of(&stack, &server)["error"], Value::Null);
}

#[test]
fn an_outage_of_the_issuer_is_ridden_out_and_shown() {
    let key = SigningKey::generate("k1").unwrap();
    let (mut server, _folder) = server(&key, json!({ "lifetime": 20 }));
    let upstream = Upstream::plain();
    let oauth = client(&server, "client_credentials") + "\nclient_secret_file = \"own.secret\"";
    let configured = with_oauth(&upstream, &server, &oauth);
    write_private(&configured.file("own.secret"), SECRET).unwrap();
    let stack = configured.run();
    let session = |stack: &Stack| stack.admin("/api/v1/status").json()["sessions"][0].clone();
    let before = session(&stack);
    server.kill();

    // Whatever the issuer would have signed is as good as before.
    let mut claims = world().claims();
    claims["iss"] = json!(server.issuer());
    let token = key.sign(&claims).unwrap();
    assert_eq!(call(&stack, &token), 200);
    // A key that nobody knows makes the relay ask, in vain.
    let stranger = SigningKey::generate("k9").unwrap().sign(&claims).unwrap();
    until("the relay shows that the issuer is away", || {
        let refused = call(&stack, &stranger);
        assert!([401, 503].contains(&refused), "{refused}");
        issuer_of(&stack, &server)["error"].is_string()
    });
    assert!(has_metric(
        &stack,
        &server,
        "issuer_failing{issuer=\"$\"} 1"
    ));
    assert!(has_metric(&stack, &server, "issuer_keys{issuer=\"$\"} 1"));
    assert_eq!(stack.admin("/readyz").status, 200, "it still serves");
    until("the agent shows that it cannot renew its token", || {
        stack.status()["token"]["error"].is_string()
    });
    assert_eq!(call(&stack, &token), 200, "its session goes on");

    server.restart();
    until("the agent's token is renewed in its session", || {
        let now = session(&stack);
        now["token_expires"].as_u64() > before["token_expires"].as_u64()
    });
    assert_eq!(session(&stack)["id"], before["id"]);
    assert_eq!(call(&stack, &token), 200);
}

#[test]
fn an_opaque_token_is_what_its_issuer_says_of_it_and_nothing_without_it() {
    let key = SigningKey::generate("k1").unwrap();
    let (mut server, _folder) = server(&key, json!({ "opaque": true }));
    let upstream = Upstream::plain();
    let stack = Stack::options().endpoint("vcenter", &upstream.url());
    let ask = format!(
        "introspection = {{ url = \"{}/token/introspection\", client_id = \"{RELAY}\", \
         client_secret_file = \"introspection.secret\" }}\n",
        server.issuer()
    );
    let configured = stack.relay(&trust(&server, &ask)).configure();
    write_private(&configured.file("introspection.secret"), SECRET).unwrap();
    let stack = configured.run();
    let token = caller_token(&server);
    assert!(!token.contains('.'), "it is opaque");
    for http in Http::BOTH {
        let answer = Curl::new(&stack.url("/api")).token(&token).http(http).ok();
        assert_eq!(answer.status, 200, "{answer}");
    }
    // An agent's token is good for no call, another tenant's for none here.
    let agents = server.token(AGENT, SECRET, "&scope=culvert:register");
    assert_eq!(call(&stack, &agents), 403);
    assert_eq!(call(&stack, "never-issued-by-anybody"), 401);
    let fresh = caller_token(&server);
    server.kill();
    let refused = Curl::new(&stack.url("/api")).token(&fresh).ok();
    refused.assert_refused(503, "overloaded", "relay");
}

/// Each use of a refresh token is its last: the next one must be on disk before it is needed.
#[test]
fn a_refresh_token_outlives_an_agent_that_is_killed_again_and_again() {
    let key = SigningKey::generate("k1").unwrap();
    let consent = json!({ "refresh": { "client": AGENT, "account": "operator-1" } });
    let (server, _folder) = server(&key, consent);
    let upstream = Upstream::plain();
    let oauth = client(&server, "refresh_token")
        + "\nclient_secret_file = \"own.secret\"\nrefresh_token_file = \"grant/refresh.token\"";
    let configured = with_oauth(&upstream, &server, &oauth);
    write_private(&configured.file("own.secret"), SECRET).unwrap();
    let file = configured.file("grant/refresh.token");
    culvert_demo::files::private_folder(file.parent().unwrap()).unwrap();
    write_private(&file, server.refresh_token()).unwrap();
    let mut stack = configured.run();
    let mut seen = vec![server.refresh_token().to_owned()];
    for _ in 0..5 {
        stack.agent.kill();
        let token = std::fs::read_to_string(&file).unwrap().trim().to_owned();
        assert!(!seen.contains(&token), "the next one is on disk");
        seen.push(token);
        stack.restart_agent();
        stack.await_endpoint("vcenter");
        let status = stack.admin("/api/v1/status").json();
        let sessions = status["sessions"].as_array().unwrap();
        assert!(
            sessions
                .iter()
                .any(|session| session["subject"] == "operator-1"),
            "{status}"
        );
    }
}

#[test]
fn an_agent_proves_itself_with_its_key_and_with_no_other() {
    let key = SigningKey::generate("k1").unwrap();
    let own = SigningKey::generate("agent-key").unwrap();
    let clients = json!({ "clients": [
        { "id": AGENT, "key": own.public_jwk(), "scope": "culvert:register", "tenant": "acme",
          "endpoints": ["vcenter"] },
    ] });
    let (server, _folder) = server(&key, clients);
    let upstream = Upstream::plain();
    let oauth = client(&server, "client_credentials")
        + "\nprivate_key_jwt = { key_file = \"client.key\", key_id = \"agent-key\" }";
    let configured = with_oauth(&upstream, &server, &oauth);
    write_private(&configured.file("client.key"), own.pem()).unwrap();
    let mut stack = configured.run();
    assert_eq!(stack.call("/api").ok().status, 200);

    stack.agent.kill();
    let stranger = SigningKey::generate("agent-key").unwrap();
    write_private(&stack.file("client.key"), stranger.pem()).unwrap();
    let before = stack.agent.log().len();
    stack.restart_agent();
    until("the agent says that the issuer refuses it", || {
        stack.agent.log()[before..].contains("invalid_client")
    });
    assert!(!stack.agent.log().contains("PRIVATE KEY"));
}

#[test]
fn a_token_file_is_read_again_and_the_session_goes_on_with_what_is_in_it() {
    let upstream = Upstream::plain();
    let key = SigningKey::generate("k1").unwrap();
    let (server, _folder) = server(&key, json!({}));
    let oauth = "grant = \"token_file\"\nclient_id = \"agent-acme\"\ntoken_file = \"own.token\"";
    let configured = with_oauth(&upstream, &server, oauth);
    let write = |folder: &Path, life: u64| {
        let mut claims = world().claims();
        claims["iss"] = json!(server.issuer());
        claims["sub"] = json!(AGENT);
        claims["scope"] = json!("culvert:register");
        claims["culvert_endpoints"] = json!(["vcenter"]);
        let expires = tokens::now() + life;
        claims["exp"] = json!(expires);
        let next = folder.join("next.token");
        write_private(&next, key.sign(&claims).unwrap()).unwrap();
        // In one step, as whoever keeps such a file does it.
        std::fs::rename(next, folder.join("own.token")).unwrap();
        expires
    };
    let folder = configured.file("");
    write(&folder, 300);
    let stack = configured.run();
    let session = || stack.admin("/api/v1/status").json()["sessions"][0].clone();
    let id = session()["id"].clone();
    let expires = write(&folder, 600);
    eventually("the relay has the new token", || {
        (session()["token_expires"] == expires).then_some(())
    });
    assert_eq!(session()["id"], id);
    assert_eq!(stack.call("/api").ok().status, 200);
}

/// The relay with another clock, and the agent with yet another; time passes as it does. Caller and
/// issuer have the right one.
fn with_clocks(server: &OAuthServer, relay: i32, agent: i32) -> Stack {
    let upstream = Upstream::plain();
    let oauth = format!(
        "{}\nclient_secret_file = \"client\"",
        client(server, "client_credentials")
    );
    let configured = with_oauth(&upstream, server, &oauth);
    write_private(&configured.file("client"), SECRET).unwrap();
    configured.with_clocks(relay, agent)
}

fn session_error(stack: &Stack) -> String {
    let error = &stack.status()["last_session_error"];
    error.as_str().unwrap_or_default().to_owned()
}

/// What is forgiven is 30 s; here relay and agent are 40 s apart, and each 20 s from the issuer.
#[test]
fn clocks_that_differ_a_little_change_nothing() {
    let key = SigningKey::generate("clocks").unwrap();
    let (server, _files) = server(&key, json!({ "lifetime": 8 }));
    for (relay, agent) in [(20, -20), (-20, 20)] {
        let mut stack = with_clocks(&server, relay, agent);
        stack.await_ready();
        until("a call gets through", || {
            call(&stack, &caller_token(&server)) == 200
        });
        let renewed = "culvert_relay_session_renewals_total{outcome=\"renewed\"} ";
        until("the agent's token was renewed twice", || {
            let metrics = stack.admin("/metrics").text();
            let count = metrics
                .split(renewed)
                .nth(1)
                .and_then(|rest| rest.lines().next());
            count.is_some_and(|count| count.parse::<u32>().unwrap() >= 2)
        });
        assert_eq!(call(&stack, &caller_token(&server)), 200);
        let metrics = stack.admin("/metrics").text();
        let opened = "culvert_relay_session_opens_total 1\n";
        assert!(
            metrics.contains(opened),
            "one session all the time: {metrics}"
        );
    }
}

/// A relay whose clock is wrong lets nobody in, and tells everybody why.
#[test]
fn a_clock_that_is_wrong_is_named_as_the_likely_cause() {
    let key = SigningKey::generate("clocks").unwrap();
    let (server, _files) = server(&key, json!({ "lifetime": 300 }));
    for (relay, word) in [(600, "ahead"), (-600, "behind")] {
        let mut stack = with_clocks(&server, relay, 0);
        stack.await_ready();
        let answer = Curl::new(&stack.url("/api"))
            .token(&caller_token(&server))
            .ok();
        answer.assert_refused(401, "unauthenticated", "relay");
        let text = format!("the clock here is {word}");
        assert!(answer.text().contains(&text), "{answer}");
        until("the agent knows why it has no session", || {
            session_error(&stack).contains(&text)
        });
        until("the relay's log says so too", || {
            let log = stack.relay.log();
            log.contains(&format!("this clock is {word}"))
        });
    }
}

/// An agent needs no right clock to be connected: it goes by how long its tokens last. Callers'
/// credentials are void for one that is ahead by more than they last.
#[test]
fn an_agent_whose_clock_is_wrong_is_connected_all_the_same() {
    let key = SigningKey::generate("clocks").unwrap();
    let (server, _files) = server(&key, json!({ "lifetime": 300 }));
    for (agent, status) in [(600, 403), (-600, 200)] {
        let mut stack = with_clocks(&server, 0, agent);
        stack.await_ready();
        until("a call gets through to the agent", || {
            call(&stack, &caller_token(&server)) == status
        });
        assert_eq!(stack.status()["ready"], true);
        assert_eq!(session_error(&stack), "");
    }
}
