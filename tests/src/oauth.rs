//! The OAuth server (npm `oidc-provider`) as a process of its own.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use culvert_demo::certs::Authority;
use serde_json::{Value, json};

use crate::curl::Curl;

/// A running OAuth server. It ends when it is dropped, or when this process ends, whatever way.
#[derive(Debug)]
pub struct OAuthServer {
    config: PathBuf,
    server: Child,
    output: BufReader<ChildStdout>,
    issuer: String,
    refresh_token: Option<String>,
}

impl OAuthServer {
    /// Starts one with what `config` says (`oidc/server.mjs`); its certificate and its files are made
    /// here.
    pub fn start(authority: &Authority, folder: &Path, mut config: Value) -> Self {
        let leaf = authority.issue(&["localhost"]).expect("a certificate");
        leaf.write(folder, "issuer").expect("a certificate");
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect(name);
        config["tls"] = json!({ "certificate": read("issuer.pem"), "key": read("issuer.key") });
        let file = folder.join("oidc.json");
        std::fs::write(&file, config.to_string()).expect("oidc.json");
        Self::run(file)
    }

    fn run(config: PathBuf) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("oidc/server.mjs");
        assert!(
            script.with_file_name("node_modules").is_dir(),
            "the OAuth server is not installed: run tests/run.sh, or `npm ci` in tests/oidc"
        );
        let mut server = Command::new("node")
            .arg(&script)
            .arg(&config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node is installed");
        let mut output = BufReader::new(server.stdout.take().expect("piped"));
        let line = line(&mut output);
        let (issuer, token) = line.split_once(' ').unwrap_or((&line, ""));
        assert!(
            issuer.starts_with("https://"),
            "the OAuth server did not start; run it by hand"
        );
        Self {
            issuer: issuer.to_owned(),
            refresh_token: (!token.is_empty()).then(|| token.to_owned()),
            config,
            server,
            output,
        }
    }

    /// Its URL, which is `iss` in its tokens.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The refresh token that it was told to give out.
    pub fn refresh_token(&self) -> &str {
        self.refresh_token.as_deref().expect("it was told to")
    }

    /// An access token for a client with this secret.
    pub fn token(&self, client: &str, secret: &str, scope: &str) -> String {
        let answer = Curl::new(&format!("{}/token", self.issuer))
            .args(["--user", &format!("{client}:{secret}")])
            .args(["--data", &format!("grant_type=client_credentials{scope}")])
            .run()
            .json();
        let token = answer["access_token"].as_str();
        token
            .unwrap_or_else(|| panic!("no token for {client}: {answer}"))
            .to_owned()
    }

    /// Replaces its keys; it signs with the first one.
    pub fn replace_keys(&mut self, keys: &[Value]) {
        let input = self.server.stdin.as_mut().expect("piped");
        writeln!(input, "{}", json!({ "keys": keys })).expect("it runs");
        // It has other things to say, too.
        while line(&mut self.output) != "replaced" {}
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&mut self) {
        let _ = self.server.kill();
        self.server.wait().expect("it is our child");
    }

    /// Starts it again at the same address; it has forgotten what it gave out.
    pub fn restart(&mut self) {
        let port = self
            .issuer
            .rsplit(':')
            .next()
            .and_then(|port| port.parse::<u16>().ok());
        let config = std::fs::read_to_string(&self.config).expect("oidc.json");
        let mut config: Value = serde_json::from_str(&config).expect("oidc.json");
        config["port"] = json!(port);
        std::fs::write(&self.config, config.to_string()).expect("oidc.json");
        *self = Self::run(self.config.clone());
    }
}

impl Drop for OAuthServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn line(output: &mut impl BufRead) -> String {
    let mut line = String::new();
    output.read_line(&mut line).expect("readable");
    line.trim_end().to_owned()
}
