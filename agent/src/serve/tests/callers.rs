//! A relay that forges, strips, swaps or replays callers, against an agent that verifies them
//! itself.

use std::io::Write;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use culvert_config::issuer::{Algorithm, Introspection, Issuer, Jwks};
use culvert_config::verify_callers::VerifyCallers;
use culvert_identity::Proxying;
use culvert_proto::code::ErrorCode;
use culvert_proto::head::CallerToken;
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use serde_json::{Value, json};

use super::*;
use crate::serve::CallerChecks;
use crate::testing::Server;

const ISSUER: &str = "https://issuer.example";

/// Only what the token says counts: the relay may name scopes as it likes.
const BY_SCOPE: &str = r#"
version = 1
[[rule]]
id = "readers"
action = "allow"
method = ["GET"]
path = ["/api/**"]
caller = ["director-7"]
scope = ["vcenter.read"]
"#;

/// The issuer, and a caller with a key of its own.
struct Keys {
    issuer: KeyPair,
    caller: KeyPair,
    file: tempfile::NamedTempFile,
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn sha256(bytes: &[u8]) -> String {
    encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs()
}

fn sign(key: &KeyPair, header: &Value, claims: &Value) -> String {
    let message = format!(
        "{}.{}",
        encode(header.to_string()),
        encode(claims.to_string())
    );
    let signature = encode(key.sign(message.as_bytes()).unwrap());
    format!("{message}.{signature}")
}

impl Keys {
    fn new() -> Self {
        let key = || KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let (issuer, caller) = (key(), key());
        let x = encode(issuer.der_bytes());
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "alg": "EdDSA", "x": x});
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let set = json!({ "keys": [jwk] }).to_string();
        file.write_all(set.as_bytes()).unwrap();
        Self {
            issuer,
            caller,
            file,
        }
    }

    fn checks(&self) -> Arc<CallerChecks> {
        self.asking(None)
    }

    /// Checks that ask there about tokens that are not JWTs.
    fn asking(&self, introspection: Option<Introspection>) -> Arc<CallerChecks> {
        let config = VerifyCallers {
            tenant: Some(TenantName::new("acme").unwrap()),
            issuers: vec![Issuer {
                tenants: None,
                url: ISSUER.into(),
                audience: "culvert".into(),
                algorithms: vec![Algorithm::EdDSA],
                jwks: Jwks::File(self.file.path().to_owned()),
                introspection,
                ca: None,
                tenant_claim: "tenant".into(),
                endpoints_claim: "culvert_endpoints".into(),
                register_scope: "culvert:register".into(),
                call_scope: "culvert:call".into(),
            }],
        };
        Arc::new(CallerChecks::new(&config, Proxying::Environment).unwrap())
    }

    /// A good token with changes; `null` takes a claim away.
    fn token(&self, changes: Value) -> String {
        self.token_by(&self.issuer, changes)
    }

    fn token_by(&self, key: &KeyPair, changes: Value) -> String {
        let mut claims = json!({
            "iss": ISSUER, "aud": "culvert", "sub": "director-7", "tenant": "acme",
            "scope": "culvert:call vcenter.read", "exp": now() + 600,
        });
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => _ = claims.as_object_mut().unwrap().remove(name),
                value => claims[name] = value.clone(),
            }
        }
        let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k"});
        sign(key, &header, &claims)
    }

    /// A token that is bound to the caller's key.
    fn bound(&self) -> String {
        let jwk = self.jwk();
        let text = format!("{{\"crv\":\"Ed25519\",\"kty\":\"OKP\",\"x\":{}}}", jwk["x"]);
        self.token(json!({"cnf": {"jkt": sha256(text.as_bytes())}}))
    }

    fn jwk(&self) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "x": encode(self.caller.der_bytes())})
    }

    fn proof(&self, token: &str, method: &str, address: &str, id: &str) -> String {
        let header = json!({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": self.jwk()});
        let claims = json!({
            "jti": id, "htm": method, "htu": address, "iat": now(), "ath": sha256(token.as_bytes()),
        });
        sign(&self.caller, &header, &claims)
    }
}

/// A call with what the relay passes on of its caller's credential.
fn with(head: CallHead, token: &str, proof: Option<&str>) -> CallHead {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    CallHead {
        token: Some(CallerToken {
            token: bytes(token),
            proof: proof.map(bytes),
        }),
        ..head
    }
}

async fn tunnel(keys: &Keys) -> Tunnel {
    verifying(keys.checks()).await
}

async fn verifying(checks: Arc<CallerChecks>) -> Tunnel {
    let endpoint = endpoint(
        "http://127.0.0.1:9",
        culvert_config::endpoint::Trust::SystemRoots,
    );
    let (upstream, connections) = Upstream::in_memory(&endpoint);
    Tunnel::verifying(BY_SCOPE, &endpoint, upstream, connections, Some(checks)).await
}

/// The refusal of a call, of which the upstream heard nothing.
async fn refused(tunnel: &mut Tunnel, head: &CallHead) -> Refusal {
    let mut call = tunnel.call(head, "");
    let Ok(Head::Refusal(refusal)) = first(&mut call).await else {
        panic!("it is not refused");
    };
    tunnel.assert_untouched();
    refusal
}

/// The reason in the audit line of the call before, and whether it is a security event.
fn noted(tunnel: &Tunnel) -> (String, bool) {
    let line = tunnel.serving.accounts().audit.take_lines().remove(0);
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["outcome"], "refused", "{line}");
    let reason = line["reason"].as_str().unwrap();
    let word = reason.split(':').next().unwrap().to_owned();
    (word, line["security"] == "caller-unverified")
}

#[tokio::test]
async fn a_verified_caller_is_who_its_token_says_whatever_scopes_the_relay_names() {
    let keys = Keys::new();
    let mut tunnel = tunnel(&keys).await;
    // The relay names fewer scopes than the token has.
    let call = tunnel.call(&with(get("/api/vms"), &keys.token(json!({})), None), "");
    let mut upstream = tunnel.connection().await;
    let request = upstream.request().await.unwrap();
    assert!(request.starts_with("GET /api/vms"), "{request}");
    assert!(!request.contains("eyJ"), "the token went on: {request}");
    drop(call);
    // And more.
    let token = keys.token(json!({"scope": "culvert:call"}));
    let mut head = with(get("/api/vms"), &token, None);
    head.caller.scopes = vec!["culvert:call".into(), "vcenter.read".into()];
    let refusal = refused(&mut tunnel, &head).await;
    assert_eq!(refusal.code, ErrorCode::PolicyDenied);
}

#[tokio::test]
async fn a_caller_that_the_relay_forges_strips_or_swaps_is_refused_and_noted() {
    let keys = Keys::new();
    let stranger = Keys::new();
    let good = keys.token(json!({}));
    let token = |changes| with(get("/api/vms"), &keys.token(changes), None);
    let mut certificate = get("/api/vms");
    certificate.caller.proof = Proof::Certificate;
    let mut other_subject = with(get("/api/vms"), &good, None);
    other_subject.caller.subject = "admin".into();
    let mut other_tenant = with(get("/api/vms"), &good, None);
    other_tenant.caller.tenant = TenantName::new("globex").unwrap();
    let mut globex = token(json!({"tenant": "globex"}));
    globex.caller.tenant = TenantName::new("globex").unwrap();
    let forged = keys.token_by(&stranger.issuer, json!({}));
    let cases: Vec<(&str, CallHead, &str, bool)> = vec![
        ("stripped", get("/api/vms"), "no-token", true),
        ("a certificate, it says", certificate, "certificate", false),
        (
            "forged",
            with(get("/api/vms"), &forged, None),
            "token",
            true,
        ),
        ("nonsense", with(get("/api/vms"), "x", None), "token", true),
        (
            "another audience",
            token(json!({"aud": "x"})),
            "token",
            true,
        ),
        ("another issuer", token(json!({"iss": "x"})), "token", true),
        (
            "expired",
            token(json!({"exp": now() - 60})),
            "token-time",
            false,
        ),
        (
            "swapped",
            token(json!({"sub": "director-8"})),
            "another-caller",
            true,
        ),
        ("another name", other_subject, "another-caller", true),
        (
            "another tenant's name",
            other_tenant,
            "another-caller",
            true,
        ),
        ("another tenant's token", globex, "tenant", true),
        (
            "no scope",
            token(json!({"scope": "vcenter.read"})),
            "scope",
            true,
        ),
        (
            "another endpoint's token",
            token(json!({"culvert_endpoints": ["nsx"]})),
            "endpoint",
            true,
        ),
    ];
    for (what, head, reason, event) in cases {
        let mut tunnel = tunnel(&keys).await;
        let refusal = refused(&mut tunnel, &head).await;
        assert_eq!(refusal.code, ErrorCode::CallerUnverified, "{what}");
        assert!(refusal.detail.contains("verifies callers itself"), "{what}");
        let text = tunnel.serving.accounts().metrics.render().unwrap();
        let count = format!("culvert_agent_callers_unverified_total{{reason=\"{reason}\"}} 1");
        assert!(text.contains(&count), "{what}: {text}");
        tunnel.serving.calls().close();
        tunnel.serving.calls().wait().await;
        assert_eq!(noted(&tunnel), (reason.to_owned(), event), "{what}");
    }
}

#[tokio::test]
async fn a_bound_token_is_good_for_one_call_to_where_its_proof_says() {
    let keys = Keys::new();
    let mut tunnel = tunnel(&keys).await;
    let token = keys.bound();
    let here = "https://api--acme.relay.example/api/vms";
    let proof = keys.proof(&token, "GET", here, "1");
    let call = tunnel.call(&with(get("/api/vms?a=1"), &token, Some(&proof)), "");
    assert!(tunnel.connection().await.request().await.is_some());
    drop(call);

    let fresh = |method: &str, address: &str, id: &str| keys.proof(&token, method, address, id);
    let other_host = "https://nsx--acme.relay.example/api/vms";
    let mut elsewhere = with(
        get("/api/vms"),
        &token,
        Some(&fresh("GET", other_host, "2")),
    );
    elsewhere.authority = Bytes::from_static(b"nsx--acme.relay.example");
    let cases = [
        (
            "replayed",
            with(get("/api/vms"), &token, Some(&proof)),
            "proof-replayed",
        ),
        (
            "stripped",
            with(get("/api/vms"), &token, None),
            "proof-missing",
        ),
        (
            "another path",
            with(get("/api/hosts"), &token, Some(&fresh("GET", here, "3"))),
            "proof",
        ),
        (
            "another method",
            with(
                post("/api/vms", BodyLength::Empty),
                &token,
                Some(&fresh("GET", here, "4")),
            ),
            "proof",
        ),
        ("another endpoint's host", elsewhere, "proof-host"),
        (
            "another caller's key",
            with(
                get("/api/vms"),
                &token,
                Some(&Keys::new().proof(&token, "GET", here, "5")),
            ),
            "proof",
        ),
        (
            "a proof for a token that is not bound",
            with(
                get("/api/vms"),
                &keys.token(json!({})),
                Some(&fresh("GET", here, "6")),
            ),
            "proof-unwanted",
        ),
    ];
    for (what, head, reason) in cases {
        let refusal = refused(&mut tunnel, &head).await;
        assert_eq!(refusal.code, ErrorCode::CallerUnverified, "{what}");
        let text = tunnel.serving.accounts().metrics.render().unwrap();
        assert!(
            text.contains(&format!("{{reason=\"{reason}\"}}")),
            "{what}: {text}"
        );
    }
}

#[tokio::test]
async fn no_token_crosses_to_an_agent_that_does_not_ask_for_it() {
    let keys = Keys::new();
    let mut tunnel = Tunnel::new(POLICY).await;
    let call = tunnel.call(&with(get("/api/vms"), &keys.token(json!({})), None), "");
    assert!(tunnel.connection().await.request().await.is_some());
    drop(call);
    assert_eq!(tunnel.relay.features() & mux::CALLER_TOKENS, 0);
}

/// The audit log's `duration_ms` begins when the call comes, and one whose caller is still being
/// verified when the agent ends has come, too.
#[tokio::test]
async fn a_call_is_accounted_for_from_its_arrival() {
    let asked = Server::start(None, |mut connection| async move {
        connection.request().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
             Content-Length: 16\r\n\r\n{\"active\":false}";
        connection.send(answer).await;
        connection.closed().await;
    })
    .await;
    let keys = Keys::new();
    let checks = keys.asking(Some(Introspection {
        url: format!("http://{}/introspect", asked.address)
            .parse()
            .unwrap(),
        client_id: "agent".into(),
        client_secret: "secret".into(),
    }));
    let tunnel = verifying(checks).await;
    let mut call = tunnel.call(&with(get("/api/vms"), "opaque", None), "");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let metrics = &tunnel.serving.accounts().metrics;
    assert_eq!(metrics.calls_in_flight.get(), 1);
    let refused = refusal(&mut call).await;
    assert_eq!(refused.code, ErrorCode::CallerUnverified);
    tunnel.serving.calls().close();
    tunnel.serving.calls().wait().await;
    let lines = tunnel.serving.accounts().audit.take_lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    assert!(line["duration_ms"].as_u64().unwrap() >= 300, "{line}");
}
