//! The rules between the rooms (`docs/rooms.md`): which crate may know what. A crate that learns
//! what it must not fails here, before anybody has to find it in review.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Crate name to the names of its direct normal and build dependencies, for the whole graph.
struct Graph {
    edges: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn load() -> Self {
        let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
            .args(["metadata", "--format-version", "1", "--locked", "--offline"])
            // What other systems would need was never downloaded.
            .args(["--filter-platform", &host])
            .current_dir(workspace())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let names: BTreeMap<&str, &str> = metadata["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| (p["id"].as_str().unwrap(), p["name"].as_str().unwrap()))
            .collect();
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in metadata["resolve"]["nodes"].as_array().unwrap() {
            let from = names[node["id"].as_str().unwrap()];
            let known = edges.entry(from.to_owned()).or_default();
            for dependency in node["deps"].as_array().unwrap() {
                let kinds = dependency["dep_kinds"].as_array().unwrap();
                if kinds.iter().any(|kind| kind["kind"] != "dev") {
                    known.insert(names[dependency["pkg"].as_str().unwrap()].to_owned());
                }
            }
        }
        Self { edges }
    }

    fn direct(&self, room: &str) -> &BTreeSet<String> {
        self.edges
            .get(room)
            .unwrap_or_else(|| panic!("there is no room {room}"))
    }

    fn reachable(&self, room: &str) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut open = vec![room.to_owned()];
        while let Some(next) = open.pop() {
            for dependency in self.direct(&next) {
                if seen.insert(dependency.clone()) {
                    open.push(dependency.clone());
                }
            }
        }
        seen
    }
}

#[test]
fn the_pure_rooms_know_only_what_is_listed() {
    let graph = Graph::load();
    let rooms: [(&str, &[&str]); 2] = [
        ("culvert-proto", &["bytes", "http", "thiserror"]),
        (
            "culvert-policy",
            &["ipnet", "memchr", "quick-xml", "thiserror"],
        ),
    ];
    for (room, allowed) in rooms {
        for dependency in graph.direct(room) {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{room} must stay pure, but depends on {dependency}; allowed are {allowed:?}"
            );
        }
    }
}

#[test]
fn no_room_reaches_what_it_must_not_know() {
    let graph = Graph::load();
    let programs = [
        "culvert-relay",
        "culvert-agent",
        "culvert-connect",
        "culvert-demo",
        "culvert-tests",
    ];
    let rooms: [(&str, &[&str]); 8] = [
        (
            "culvert-admin",
            &[
                "culvert-http",
                "culvert-policy",
                "culvert-identity",
                "culvert-config",
            ],
        ),
        (
            "culvert-process",
            &[
                "rustls",
                "hyper",
                "culvert-proto",
                "culvert-session",
                "culvert-config",
            ],
        ),
        (
            "culvert-proto",
            &[
                "tokio",
                "mio",
                "rustls",
                "hyper",
                "toml",
                "serde_json",
                "tracing",
            ],
        ),
        (
            "culvert-policy",
            &["tokio", "mio", "rustls", "hyper", "toml", "culvert-proto"],
        ),
        (
            "culvert-session",
            &[
                "hyper",
                "jsonwebtoken",
                "toml",
                "culvert-policy",
                "culvert-identity",
                "culvert-config",
            ],
        ),
        (
            "culvert-http",
            &[
                "rustls",
                "jsonwebtoken",
                "toml",
                "culvert-session",
                "culvert-policy",
                "culvert-identity",
                "culvert-config",
            ],
        ),
        (
            "culvert-identity",
            &[
                "culvert-session",
                "culvert-policy",
                "culvert-config",
                "toml",
            ],
        ),
        (
            "culvert-config",
            &[
                "tokio",
                "mio",
                "rustls",
                "hyper",
                "culvert-session",
                "culvert-identity",
            ],
        ),
    ];
    for (room, forbidden) in rooms {
        let reachable = graph.reachable(room);
        for name in forbidden.iter().chain(&programs) {
            assert!(
                !reachable.contains(*name),
                "{room} must not know {name}, but reaches it"
            );
        }
    }
}

#[test]
fn the_programs_do_not_know_each_other() {
    let graph = Graph::load();
    for program in [
        "culvert-relay",
        "culvert-agent",
        "culvert-connect",
        "culvert-demo",
    ] {
        let reachable = graph.reachable(program);
        for other in [
            "culvert-relay",
            "culvert-agent",
            "culvert-connect",
            "culvert-demo",
            "culvert-tests",
        ] {
            assert!(
                program == other || !reachable.contains(other),
                "{program} must not know {other}"
            );
        }
    }
}

#[test]
fn there_is_one_tls_provider() {
    // Metadata lists optional dependencies that no feature switches on; the tree does not.
    let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args([
            "tree",
            "--workspace",
            "--prefix",
            "none",
            "--edges",
            "normal,build",
        ])
        .args(["--locked", "--offline"])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<_> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(names.contains("aws-lc-rs"));
    for name in ["openssl", "openssl-sys", "native-tls"] {
        assert!(
            !names.contains(name),
            "{name} is built in; aws-lc-rs is the provider"
        );
    }
}

/// Rules within a crate: no file below the folder (or the file of that name) has any of the words.
#[test]
fn no_module_names_what_it_must_not_know() {
    let rules: [(&str, &[&str]); 5] = [
        // Fetching keys is the neighbour's work.
        (
            "identity/src/verify",
            &[
                "reqwest",
                "tokio",
                "hyper",
                "SystemTime::now",
                "crate::fetch",
            ],
        ),
        // The edge works on stream handles, wherever the session lives.
        (
            "relay/src/edge",
            &[
                "culvert_proto::frame",
                "culvert_proto::mux",
                "tokio_tungstenite",
            ],
        ),
        // The directory maps names to sessions.
        (
            "relay/src/directory",
            &[
                "hyper",
                "http::",
                "http_body",
                "CallHead",
                "tokio_tungstenite",
            ],
        ),
        // The upstream takes what the policy permitted; it does not ask it.
        (
            "agent/src/upstream",
            &["Policy::", ".decide(", "tokio_tungstenite"],
        ),
        // What speaks HTTP with callers leaves the decision to `serve`.
        (
            "agent/src/terminate",
            &["Policy::", ".decide", "Permit", "culvert_proto::mux::Mux"],
        ),
    ];
    for (module, words) in rules {
        let files = sources(&workspace().join(module));
        assert!(!files.is_empty(), "there is no module {module}");
        for file in files.iter().filter(|file| !is_test(file)) {
            let text = std::fs::read_to_string(file).unwrap();
            for (number, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                for word in words {
                    assert!(
                        !code.contains(word),
                        "{}:{}: {module} must not know {word}",
                        file.display(),
                        number + 1
                    );
                }
            }
        }
    }
}

fn is_test(file: &Path) -> bool {
    file.components().any(|part| {
        let part = part.as_os_str().to_string_lossy();
        part.starts_with("tests") || part.ends_with("_tests.rs")
    })
}

/// `module.rs` and everything below `module/`.
fn sources(module: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = Some(module.with_extension("rs"))
        .filter(|f| f.exists())
        .into_iter()
        .collect();
    let mut open = vec![module.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}
