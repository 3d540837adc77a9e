//! What lies under `deploy/` is what the programs take: no container engine is needed to find a typing
//! error in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use culvert_tests::issuer::world;
use culvert_tests::stack::run;
use serde_json::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The folder as a container sees it: the configuration, and what is mounted beside it.
fn mounted() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["relay.toml", "agent.toml", "policy.toml"] {
        std::fs::copy(
            deploy().join("compose").join(file),
            folder.path().join(file),
        )
        .unwrap();
    }
    let authority = &world().authority;
    let relay = ["relay.example.com", "*.relay.example.com"];
    authority
        .issue(&relay)
        .unwrap()
        .write(folder.path(), "relay")
        .unwrap();
    let node = authority.issue(&["relays.culvert.internal"]).unwrap();
    node.write(folder.path(), "node").unwrap();
    for file in ["nodes-ca.pem", "relay-ca.pem"] {
        std::fs::write(folder.path().join(file), authority.pem()).unwrap();
    }
    for secret in ["valkey-password", "secret"] {
        culvert_demo::files::write_private(&folder.path().join(secret), "a-secret").unwrap();
    }
    folder
}

#[test]
fn compose_s_relay_and_agent_pass_their_own_check() {
    let folder = mounted();
    for (program, file) in [
        ("culvert-relay", "relay.toml"),
        ("culvert-agent", "agent.toml"),
    ] {
        let config = folder.path().join(file);
        let output = run(program, &["check", "--config", config.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}

#[test]
fn compose_s_balancer_is_a_configuration_of_haproxy() {
    let output = Command::new("haproxy")
        .args(["-c", "-f"])
        .arg(deploy().join("compose/haproxy.cfg"))
        .output()
        .expect("haproxy is installed");
    assert!(output.status.success(), "{output:?}");
}

/// Everything that the file mounts is there or listed among the secrets that `docs/operations.md` names,
/// services depend on services that there are, and the balancer's network is the one that relays take
/// the PROXY protocol from.
#[test]
fn compose_refers_to_nothing_that_is_not_there() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/.venv/bin/python3");
    let output = Command::new(python)
        .args([
            "-c",
            "import json,sys,yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))",
        ])
        .arg(deploy().join("compose.yaml"))
        .output()
        .expect("tests/run.sh makes it");
    let compose: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let services = compose["services"].as_object().expect("services");
    assert_eq!(services.len(), 6, "{output:?}");
    let manual = std::fs::read_to_string(deploy().join("../docs/operations.md")).unwrap();
    for (name, service) in services {
        for mount in service["volumes"].as_array().into_iter().flatten() {
            let source = mount.as_str().unwrap().split(':').next().unwrap();
            match source.strip_prefix("./compose/secrets/") {
                Some(secret) => assert!(manual.contains(&format!("`{secret}`")), "{secret}"),
                None => assert!(deploy().join(source).is_file(), "{name}: {source}"),
            }
        }
        for other in service["depends_on"].as_array().into_iter().flatten() {
            assert!(
                services.contains_key(other.as_str().unwrap()),
                "{name}: {other}"
            );
        }
        for network in service["networks"].as_array().into_iter().flatten() {
            let networks = &compose["networks"];
            assert!(!networks[network.as_str().unwrap()].is_null(), "{name}");
        }
        if let Some(dockerfile) = service["build"]["dockerfile"].as_str() {
            assert!(deploy().join("..").join(dockerfile).is_file());
        }
    }
    let subnet = &compose["networks"]["front"]["ipam"]["config"][0]["subnet"];
    let relay = std::fs::read_to_string(deploy().join("compose/relay.toml")).unwrap();
    let trusted = format!("proxy_protocol = [{subnet}]");
    assert!(relay.contains(&trusted), "{trusted}");
}

/// It asks for root where it has to. Those that did so themselves differed, and one did not.
#[test]
fn packages_are_installed_by_one_script() {
    for script in [
        ".ci/run",
        "benches/instructions.sh",
        "deploy/packages.sh",
        "deploy/release.sh",
        "deploy/systemd/verify.sh",
        "tests/run.sh",
    ] {
        let text = std::fs::read_to_string(deploy().join("..").join(script)).unwrap();
        for line in text.lines() {
            assert!(!line.contains("apt-get install"), "{script}: {line}");
        }
    }
}
