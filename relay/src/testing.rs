//! What the tests of several modules share: an issuer of tokens, a node around it, and what is logged.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use culvert_config::issuer::{Algorithm, Introspection, Issuer, Jwks};
use culvert_config::relay::RelayLimits;
use culvert_identity::Verifier;
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;
use tracing::Dispatch;
use tracing::subscriber::DefaultGuard;

use crate::directory::Directory;
use crate::drain::Ending;
use crate::handshakes::Handshakes;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::revocations::Revocations;
use crate::sessions::{self, Agents};
use crate::strangers::Strangers;
use crate::tenants::Tenants;

const URL: &str = "https://issuer.test";

/// An issuer whose key set is in a file.
pub(crate) struct TestIssuer {
    key: KeyPair,
    folder: TempDir,
    /// Where it is asked about opaque tokens.
    pub(crate) introspection: Option<Introspection>,
}

impl TestIssuer {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let x = BASE64.encode(key.der_bytes());
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "alg": "EdDSA", "x": x});
        let folder = tempfile::tempdir().unwrap();
        let keys = json!({ "keys": [jwk] }).to_string();
        std::fs::write(folder.path().join("keys.json"), keys).unwrap();
        Self {
            key,
            folder,
            introspection: None,
        }
    }

    /// The issuer as a configuration has it.
    pub(crate) fn config(&self) -> Issuer {
        Issuer {
            tenants: None,
            url: URL.into(),
            audience: "culvert".into(),
            algorithms: vec![Algorithm::EdDSA],
            jwks: Jwks::File(self.folder.path().join("keys.json")),
            introspection: self.introspection.clone(),
            ca: None,
            tenant_claim: "tenant".into(),
            endpoints_claim: "culvert_endpoints".into(),
            register_scope: "culvert:register".into(),
            call_scope: "culvert:call".into(),
        }
    }

    pub(crate) fn verifier(&self) -> Arc<Verifier> {
        Arc::new(
            culvert_trust::verifier(&[self.config()], culvert_identity::Proxying::Environment)
                .unwrap(),
        )
    }

    /// A token of an agent of tenant acme, good for an hour, with some claims changed.
    pub(crate) fn token(&self, changes: Value) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let mut claims = json!({
            "iss": URL,
            "aud": "culvert",
            "sub": "sddc-1",
            "tenant": "acme",
            "scope": "culvert:register",
            "culvert_endpoints": ["vcenter", "esx-*"],
            "exp": now + 3600,
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k"});
        let part = |value: Value| BASE64.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = BASE64.encode(self.key.sign(message.as_bytes()).unwrap());
        format!("{message}.{signature}")
    }

    /// A token like [`token`](Self::token) that is good for so long.
    pub(crate) fn token_for(&self, life: Duration) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        self.token(json!({ "exp": (now + life).as_secs() }))
    }
}

/// A node without a public listener, which claims to listen.
pub(crate) fn node(issuer: &TestIssuer, limits: &RelayLimits) -> Arc<Node> {
    let verifier = issuer.verifier();
    let directory = Arc::new(Directory::new(limits.offline_memory.0));
    let metrics = Arc::new(Metrics::new());
    let tenants = Arc::new(Tenants::new(limits, &[], metrics.clone()));
    let revocations = Arc::new(Revocations::default());
    let agents = Agents::new(
        "relay-1",
        limits,
        sessions::Parts {
            verifier: verifier.clone(),
            directory: directory.clone(),
            strangers: Strangers::new(limits, metrics.clone()),
            handshakes: Handshakes::new(limits, metrics.clone()),
            tenants: tenants.clone(),
            revocations: revocations.clone(),
            metrics: metrics.clone(),
        },
    );
    Arc::new(Node {
        name: "relay-1".into(),
        started: Instant::now(),
        verifier,
        directory,
        agents,
        tenants,
        revocations,
        metrics,
        neighbours: None,
        ending: Ending::default(),
        listening: AtomicBool::new(true),
    })
}

/// Collects log lines.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Collects what is logged on this thread, while the guards are there.
    pub(crate) fn listen() -> (Self, (DefaultGuard, Dispatch)) {
        let lines = Self::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        // Tests on other threads meet the line too, and nobody listens there. With a single dispatcher
        // in the process, tracing would take their word for everybody's.
        let other = Dispatch::new(tracing_subscriber::registry());
        tracing::callsite::rebuild_interest_cache();
        (lines, (guard, other))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The access lines.
    pub(crate) fn access(&self) -> Vec<Value> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|line: &Value| line["target"] == "culvert::access")
            .collect()
    }
}
