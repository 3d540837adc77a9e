//! The program as an administrator meets it: commands, words, exit codes.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

mod check;
mod policy;
mod terminate;

const AGENT: &str = r#"
[relay]
url = "wss://relay.example.com"
ca = "ca.pem"

[oauth]
grant = "client_credentials"
issuer = "https://issuer.example.com"
client_id = "sddc-fra-1"
client_secret_file = "secret"

[[endpoint]]
name = "vcenter"
upstream = "https://vcenter.sddc.local"
pin_sha256 = ["0707070707070707070707070707070707070707070707070707070707070707"]

[policy]
file = "policy.toml"
"#;

const POLICY: &str = r#"
version = 1

[[rule]]
id = "inventory"
action = "allow"
endpoint = ["vcenter"]
method = ["GET"]
path = ["/api/vcenter/**"]
caller = ["director-*"]

[[test]]
name = "directors read"
call = { endpoint = "vcenter", method = "GET", path = "/api/vcenter/vm", caller = "director-7" }
expect = "allow"
"#;

/// A folder with an agent's files.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let certificate = rcgen::generate_simple_self_signed(vec!["relay".to_owned()]).unwrap();
        files.write("ca.pem", &certificate.cert.pem());
        files.write("agent.toml", AGENT);
        files.write("policy.toml", POLICY);
        let secret = files.write("secret", "very-secret\n");
        std::fs::set_permissions(secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        files
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("agent.toml")
    }
}

fn agent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_culvert-agent"))
        .args(arguments)
        .output()
        .unwrap()
}

fn check(config: &Path) -> Output {
    agent(&["check", "--config", config.to_str().unwrap()])
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn wrong_usage_is_2_and_help_and_version_are_0() {
    assert_eq!(agent(&["check"]).status.code(), Some(2));
    assert_eq!(agent(&["--no-such-flag"]).status.code(), Some(2));
    assert_eq!(agent(&["--help"]).status.code(), Some(0));
    let version = agent(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert!(stdout(&version).starts_with("culvert-agent "));
}

/// A script that writes it to a file must not go on with half of it.
#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let files = Files::new();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_culvert-agent"))
        .args(["check", "--config", files.config().to_str().unwrap()])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot be written"), "{output:?}");
}
