//! The issuer that all tests of a process share, and tokens that it would never issue.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use culvert_demo::certs::Authority;
use culvert_demo::tokens::{self, SigningKey};
use serde_json::{Value, json};

use crate::curl::Curl;
use crate::oauth::OAuthServer;
use crate::process::build_folder;
use crate::proof::ProofKey;

/// The audience of the relay.
pub const AUDIENCE: &str = "culvert";
/// How long the server's tokens live, in seconds.
pub const LIFETIME: u64 = 600;
/// A secret for all clients: there is nobody to keep it from.
const SECRET: &str = "a-secret-for-tests-alone";

/// The agent of tenant `acme`; its tokens name every endpoint that tests register, but `stray`.
pub const AGENT: &str = "agent-acme";
/// A caller of tenant `acme`.
pub const CALLER: &str = "caller-acme";
/// A caller of tenant `globex`.
pub const OTHER_CALLER: &str = "caller-globex";
/// The agent of tenant `globex`, whose endpoint is called `vcenter` too.
pub const OTHER_AGENT: &str = "agent-globex";
/// A client of tenant `acme` that asks for no scope.
pub const NO_SCOPE: &str = "no-scope";
/// A client that may call, of no tenant.
pub const NO_TENANT: &str = "no-tenant";

/// The authority that all tests of this process trust, and the OAuth server.
#[derive(Debug)]
pub struct World {
    /// Signs certificates of relay, issuer and upstreams.
    pub authority: Authority,
    /// The OAuth server's issuer URL.
    pub issuer: String,
    /// The key that the OAuth server signs with, so that tests can forge with it too.
    pub key: SigningKey,
    folder: PathBuf,
    server: OAuthServer,
}

/// The world, made at first use.
pub fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(World::make)
}

impl World {
    fn make() -> Self {
        let folder = lasting_folder();
        let authority = Authority::generate().expect("an authority");
        std::fs::write(folder.join("ca.pem"), authority.pem()).expect("ca.pem");
        let key = SigningKey::generate("tests-1").expect("a key");
        let config = json!({
            "keys": [key.private_jwk()],
            "audience": AUDIENCE,
            "lifetime": LIFETIME,
            "clients": clients(),
        });
        let server = OAuthServer::start(&authority, &folder, config);
        Self {
            authority,
            issuer: server.issuer().to_owned(),
            key,
            folder,
            server,
        }
    }

    /// The authority's certificate as a file.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The secret of every client.
    pub fn secret(&self) -> &'static str {
        SECRET
    }

    /// An access token of the OAuth server for `client`, with the scope that is its own.
    pub fn token(&self, client: &str) -> String {
        let scope = match client {
            AGENT | OTHER_AGENT => "&scope=culvert:register",
            NO_SCOPE => "",
            _ => "&scope=culvert:call",
        };
        self.server.token(client, SECRET, scope)
    }

    /// An access token of the OAuth server for `client` that is bound to the client's key.
    pub fn bound_token(&self, client: &str, key: &ProofKey) -> String {
        let url = format!("{}/token", self.issuer);
        let answer = Curl::new(&url)
            .header(&format!("DPoP: {}", key.prove("POST", &url, None)))
            .args(["--user", &format!("{client}:{SECRET}")])
            .args(["--data", "grant_type=client_credentials&scope=culvert:call"])
            .run();
        let answer = answer.json();
        assert_eq!(answer["token_type"], "DPoP", "{answer}");
        answer["access_token"].as_str().expect("a token").to_owned()
    }

    /// The claims of a token that the relay accepts from a caller of tenant `acme`.
    pub fn claims(&self) -> Value {
        json!({
            "iss": self.issuer, "aud": AUDIENCE, "sub": CALLER, "client_id": CALLER,
            "iat": tokens::now(), "exp": tokens::now() + LIFETIME, "jti": "forged",
            "scope": "culvert:call", "tenant": "acme",
        })
    }

    /// Those claims with changes, signed with the OAuth server's own key.
    pub fn forge(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = self.claims();
        change(&mut claims);
        self.key.sign(&claims).expect("a token")
    }
}

/// A folder for as long as this process runs, since statics are never dropped; those of
/// processes that have ended are removed.
fn lasting_folder() -> PathBuf {
    let folders = build_folder().join("culvert-tests");
    let mine = folders.join(std::process::id().to_string());
    for other in std::fs::read_dir(&folders).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(other.file_name()).exists() || other.path() == mine {
            // Another test may be quicker.
            let _ = std::fs::remove_dir_all(other.path());
        }
    }
    culvert_demo::files::private_folder(&mine).expect("a folder");
    mine
}

fn clients() -> Value {
    let endpoints = ["vcenter", "second", "down", "untrusted", "offline"];
    json!([
        { "id": AGENT, "secret": SECRET, "scope": "culvert:register", "tenant": "acme",
          "endpoints": endpoints },
        { "id": CALLER, "secret": SECRET, "scope": "culvert:call", "tenant": "acme" },
        { "id": OTHER_CALLER, "secret": SECRET, "scope": "culvert:call", "tenant": "globex" },
        { "id": OTHER_AGENT, "secret": SECRET, "scope": "culvert:register", "tenant": "globex",
          "endpoints": ["vcenter"] },
        { "id": NO_SCOPE, "secret": SECRET, "tenant": "acme" },
        { "id": NO_TENANT, "secret": SECRET, "scope": "culvert:call" },
    ])
}
