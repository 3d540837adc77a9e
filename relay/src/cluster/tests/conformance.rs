//! What every registry must do.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use culvert_config::cluster::{RedisDirectory, Topology};
use culvert_config::units::Span;
use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::Mode;
use culvert_proto::names::{EndpointName, TenantName};
use culvert_proto::priority::Priority;
use tokio::time::timeout;

use crate::cluster::memory::MemoryRegistry;
use crate::cluster::redis::RedisRegistry;
use crate::cluster::registry::{Entry, Instance, Registry, Route, Seen};

const LEASE: Duration = Duration::from_secs(60);

pub(super) fn instance(node: &str, process: u8) -> Instance {
    Instance {
        node: node.into(),
        process: [process; 16],
    }
}

pub(super) fn route(tenant: &str, endpoint: &str) -> Route {
    Route {
        tenant: TenantName::new(tenant).unwrap(),
        endpoint: EndpointName::new(endpoint).unwrap(),
        names: vec![ConnectName::parse("vc.sddc.local:443").unwrap()],
        tunnel: Some(Mode::Tcp),
        priority: Some(Priority::Bulk),
    }
}

fn entry(node: &str, process: u8, version: u64, routes: Vec<Route>) -> Entry {
    Entry {
        instance: instance(node, process),
        version,
        address: format!("{node}.example.com:9443"),
        leaving: false,
        routes,
    }
}

async fn all(registry: &impl Registry) -> Vec<Seen> {
    let mut seen = registry.read(&HashMap::new()).await.unwrap();
    seen.sort_by(|a, b| a.entry.instance.cmp(&b.entry.instance));
    seen
}

/// Everything but the end of a lease, which takes a clock.
async fn conforms(registry: impl Registry) {
    assert!(all(&registry).await.is_empty());
    let none = registry.renew(&instance("a", 1), LEASE).await.unwrap();
    assert!(!none, "what is not there cannot be renewed");

    let first = entry(
        "a",
        1,
        1,
        vec![route("acme", "vcenter"), route("globex", "vcenter")],
    );
    registry.publish(&first, LEASE).await.unwrap();
    assert!(registry.renew(&first.instance, LEASE).await.unwrap());
    let seen = all(&registry).await;
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (&seen[0].entry, seen[0].unchanged),
        (&first, false),
        "whole, as it was left"
    );

    // The same name and another process: both are there.
    let second = Entry {
        leaving: true,
        ..entry("a", 2, 7, Vec::new())
    };
    registry.publish(&second, LEASE).await.unwrap();
    let seen = all(&registry).await;
    assert_eq!(
        seen.iter().map(|seen| &seen.entry).collect::<Vec<_>>(),
        [&first, &second]
    );

    // Who knows a version is spared the routes.
    let known = HashMap::from([(first.instance.clone(), 1), (second.instance.clone(), 6)]);
    let mut seen = registry.read(&known).await.unwrap();
    seen.sort_by(|a, b| a.entry.instance.cmp(&b.entry.instance));
    assert!(seen[0].unchanged && seen[0].entry.routes.is_empty());
    assert_eq!((&seen[1].entry, seen[1].unchanged), (&second, false));

    // Another version takes the place of the one before.
    let changed = entry("a", 1, 2, vec![route("acme", "nsx")]);
    registry.publish(&changed, LEASE).await.unwrap();
    assert_eq!(registry.read(&known).await.unwrap().len(), 2);
    assert_eq!(all(&registry).await[0].entry, changed);

    registry.withdraw(&first.instance).await.unwrap();
    assert_eq!(all(&registry).await.len(), 1);
    assert!(!registry.renew(&first.instance, LEASE).await.unwrap());
}

/// A hint comes to one who waits for it, and a wait can be given up and begun anew.
async fn hints(one: impl Registry, other: impl Registry) {
    let wait = async {
        loop {
            if timeout(Duration::from_secs(1), one.hint()).await.is_ok() {
                break;
            }
        }
    };
    // The first hint may be that hints come at all.
    timeout(Duration::from_secs(30), wait).await.unwrap();
    other
        .publish(&entry("b", 1, 1, Vec::new()), LEASE)
        .await
        .unwrap();
    timeout(Duration::from_secs(30), one.hint())
        .await
        .expect("a hint");
}

#[tokio::test(start_paused = true)]
async fn memory_conforms() {
    conforms(MemoryRegistry::default()).await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_ends_with_its_lease() {
    let registry = MemoryRegistry::default();
    let mine = entry("a", 1, 1, Vec::new());
    registry.publish(&mine, LEASE).await.unwrap();
    tokio::time::advance(LEASE / 2).await;
    assert!(registry.renew(&mine.instance, LEASE).await.unwrap());
    tokio::time::advance(LEASE - Duration::from_secs(1)).await;
    assert_eq!(all(&registry).await.len(), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(all(&registry).await.is_empty());
    assert!(!registry.renew(&mine.instance, LEASE).await.unwrap());
}

/// A Redis of this test's own; ended when it is dropped.
struct Redis {
    process: Child,
    port: u16,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `None`, loudly, where there is no Redis: `tests/run.sh` installs it.
fn redis() -> Option<Redis> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let process = Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
        ])
        .args(["--dir", "/tmp", "--requirepass", "a secret"])
        .stdout(Stdio::null())
        .spawn();
    let Ok(process) = process else {
        eprintln!("skipped: redis-server is not installed (tests/run.sh does that)");
        return None;
    };
    let redis = Redis { process, port };
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
    Some(redis)
}

impl Redis {
    fn registry(&self, prefix: &str) -> RedisRegistry {
        RedisRegistry::new(&RedisDirectory {
            urls: vec![format!("redis://127.0.0.1:{}", self.port)],
            topology: Topology::Single,
            prefix: prefix.into(),
            lease: Span(LEASE),
            username: None,
            password: Some("a secret".into()),
            ca: None,
        })
        .unwrap()
    }

    fn command(&self, words: &[&str]) {
        let done = Command::new("redis-cli")
            .args([
                "-p",
                &self.port.to_string(),
                "-a",
                "a secret",
                "--no-auth-warning",
            ])
            .args(words)
            .stdout(Stdio::null())
            .status();
        assert!(done.unwrap().success());
    }
}

#[tokio::test]
async fn redis_conforms() {
    let Some(redis) = redis() else { return };
    conforms(redis.registry("one")).await;
    hints(redis.registry("two"), redis.registry("two")).await;
    let others = all(&redis.registry("three")).await;
    assert!(others.is_empty(), "clusters of other prefixes are not seen");
}

/// The lease is the engine's to end.
#[tokio::test]
async fn an_entry_in_redis_ends_with_its_lease() {
    let Some(redis) = redis() else { return };
    let registry = redis.registry("lease");
    let short = Duration::from_millis(100);
    registry
        .publish(&entry("a", 1, 1, Vec::new()), short)
        .await
        .unwrap();
    while !all(&registry).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!registry.renew(&instance("a", 1), LEASE).await.unwrap());
}

/// What others left there does no harm: it is passed over.
#[tokio::test]
async fn what_is_no_entry_is_passed_over() {
    let Some(redis) = redis() else { return };
    let registry = redis.registry("foreign");
    registry
        .publish(&entry("a", 1, 1, vec![route("acme", "vcenter")]), LEASE)
        .await
        .unwrap();
    let process = "0".repeat(32);
    for (name, meta, routes) in [
        (
            "no-process",
            r#"{"version":1,"address":"x:1","leaving":false}"#,
            r#"{"version":1,"routes":[]}"#,
        ),
        (
            &format!("json.{process}"),
            "no json",
            r#"{"version":1,"routes":[]}"#,
        ),
        (
            &format!("routes.{process}"),
            r#"{"version":1,"address":"x:1","leaving":false}"#,
            "no json",
        ),
    ] {
        redis.command(&["SADD", "{foreign}:nodes", name]);
        redis.command(&["SET", &format!("{{foreign}}:node:{name}"), meta]);
        redis.command(&["SET", &format!("{{foreign}}:routes:{name}"), routes]);
    }
    let name = format!("names.{process}");
    redis.command(&["SADD", "{foreign}:nodes", &name]);
    redis.command(&[
        "SET",
        &format!("{{foreign}}:node:{name}"),
        r#"{"version":3,"address":"x:1","leaving":false,"later":1}"#,
    ]);
    redis.command(&[
        "SET",
        &format!("{{foreign}}:routes:{name}"),
        r#"{"version":3,"routes":[{"tenant":"acme--x","endpoint":"vcenter"},
            {"tenant":"acme","endpoint":"VC"},{"tenant":"acme","endpoint":"nsx","tunnel":"http"},
            {"tenant":"acme","endpoint":"esx","names":["no name"]},{"tenant":"acme","endpoint":"good"}]}"#,
    ]);
    let seen = all(&registry).await;
    let nodes: Vec<_> = seen
        .iter()
        .map(|seen| seen.entry.instance.node.as_str())
        .collect();
    assert_eq!(nodes, ["a", "names"]);
    let routes: Vec<_> = seen[1]
        .entry
        .routes
        .iter()
        .map(|route| route.endpoint.as_str())
        .collect();
    assert_eq!(routes, ["good"]);
}
