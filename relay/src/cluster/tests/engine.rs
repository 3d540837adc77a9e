//! The registry in a real Redis: what every registry must do, and what comes of what others leave there, of
//! routes that are many, and of an engine that says no or is gone.

use std::sync::Arc;
use std::time::Duration;

use culvert_config::cluster::{RedisDirectory, Topology};
use culvert_config::units::Span;
use culvert_tests::redis::Redis;
use culvert_tests::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::conformance::{
    LEASE, all, conforms, entry, hints, holds, instance, revokes, route, word, words,
};
use crate::cluster::redis::RedisRegistry;
use crate::cluster::registry::{Entry, Load, Registry, RegistryError, Route};

const PASSWORD: &str = "a secret";

/// One that wants a password.
fn redis() -> Redis {
    Redis::with(&["--requirepass", PASSWORD])
}

/// What others write there.
fn write(redis: &Redis, words: &[&str]) {
    let authenticated = ["-a", PASSWORD, "--no-auth-warning"];
    let reply = redis.command(&[&authenticated, words].concat());
    assert!(["1", "OK"].contains(&reply.as_str()), "{words:?}: {reply}");
}

fn registry(redis: &Redis, prefix: &str) -> RedisRegistry {
    registry_at(&redis.url(), prefix)
}

fn registry_at(url: &str, prefix: &str) -> RedisRegistry {
    RedisRegistry::new(&RedisDirectory {
        urls: vec![url.to_owned()],
        topology: Topology::Single,
        prefix: prefix.into(),
        lease: Span(LEASE),
        username: None,
        password: Some(PASSWORD.into()),
        ca: None,
    })
    .unwrap()
}

#[tokio::test]
async fn redis_conforms() {
    let redis = redis();
    conforms(registry(&redis, "one")).await;
    hints(registry(&redis, "two"), registry(&redis, "two")).await;
    let others = all(&registry(&redis, "three")).await;
    assert!(others.is_empty(), "clusters of other prefixes are not seen");
}

/// A way to an engine on this machine that lets through whatever is said on a connection, until its nodes are
/// asked for there; then it says so.
async fn stalling(engine: u16) -> (u16, Arc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, stalled) = (
        listener.local_addr().unwrap().port(),
        Arc::new(Notify::new()),
    );
    let stalls = stalled.clone();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(("127.0.0.1", engine)).await.unwrap();
            tokio::spawn(pass_on(near, far, stalls.clone()));
        }
    });
    (port, stalled)
}

async fn pass_on(near: TcpStream, far: TcpStream, stalled: Arc<Notify>) {
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let asked = async {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = from_near.read(&mut piece).await {
            let piece = &piece[..length];
            if piece.windows(8).any(|word| word == b"SMEMBERS") {
                stalled.notify_one();
                std::future::pending::<()>().await;
            }
            to_far.write_all(piece).await.unwrap();
        }
    };
    let _ = tokio::join!(asked, tokio::io::copy(&mut from_far, &mut to_near));
}

#[tokio::test]
async fn what_keeps_the_lease_does_not_wait_for_other_answers() {
    let redis = redis();
    let (port, stalled) = stalling(redis.port()).await;
    let registry = registry_at(&format!("redis://127.0.0.1:{port}"), "slow");
    let mine = entry("a", 1, 1, Vec::new());
    let load = Load::default();
    registry.publish(&mine, load, LEASE).await.unwrap();
    let renewed = async {
        stalled.notified().await;
        registry.renew(&mine, load, LEASE).await
    };
    tokio::select! {
        read = registry.read() => panic!("it waits for no answer any more: {read:?}"),
        renewed = renewed => assert!(renewed.unwrap()),
    }
}

/// The lease is the engine's to end.
#[tokio::test]
async fn an_entry_in_redis_ends_with_its_lease() {
    let redis = redis();
    let registry = registry(&redis, "lease");
    let short = Duration::from_millis(100);
    registry
        .publish(&entry("a", 1, 1, Vec::new()), Load::default(), short)
        .await
        .unwrap();
    while !all(&registry).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        !registry
            .renew(&entry("a", 1, 1, Vec::new()), Load::default(), LEASE)
            .await
            .unwrap()
    );
}

/// Without its replicas an engine takes no writes; what nodes ended without a word left there is not
/// tidied then, and what is there is read all the same.
#[tokio::test]
async fn an_engine_that_takes_no_writes_is_read() {
    let redis = redis();
    let registry = registry(&redis, "still");
    let mine = entry("a", 1, 1, vec![route("acme", "vcenter")]);
    registry
        .publish(&mine, Load::default(), LEASE)
        .await
        .unwrap();
    let said = word(1, holds("ann"), Some(LEASE));
    registry.say(std::slice::from_ref(&said)).await.unwrap();
    let ended = format!("b.{}", "0".repeat(32));
    write(&redis, &["SADD", "{still}:nodes", &ended]);
    write(&redis, &["SADD", "{still}:revocations", "00000000000000a1"]);
    write(&redis, &["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let refused = registry.renew(&mine, Load::default(), LEASE).await;
    assert!(refused.is_err(), "{refused:?}");
    let seen = all(&registry).await;
    assert_eq!((seen.len(), &seen[0].0), (1, &mine));
    assert_eq!(words(&registry).await, [(said.id, said.says, true)]);
}

/// What others left there does no harm: it is passed over.
#[tokio::test]
async fn what_is_no_entry_is_passed_over() {
    let redis = redis();
    let registry = registry(&redis, "foreign");
    registry
        .publish(
            &entry("a", 1, 1, vec![route("acme", "vcenter")]),
            Load::default(),
            LEASE,
        )
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
        write(&redis, &["SADD", "{foreign}:nodes", name]);
        write(&redis, &["SET", &format!("{{foreign}}:node:{name}"), meta]);
        write(
            &redis,
            &["SET", &format!("{{foreign}}:routes:{name}"), routes],
        );
    }
    let name = format!("names.{process}");
    write(&redis, &["SADD", "{foreign}:nodes", &name]);
    write(
        &redis,
        &[
            "SET",
            &format!("{{foreign}}:node:{name}"),
            r#"{"version":3,"address":"x:1","leaving":false,"later":1}"#,
        ],
    );
    write(
        &redis,
        &[
            "SET",
            &format!("{{foreign}}:routes:{name}"),
            r#"{"version":3,"routes":[{"tenant":"acme--x","endpoint":"vcenter"},
            {"tenant":"acme","endpoint":"VC"},{"tenant":"acme","endpoint":"nsx","tunnel":"http"},
            {"tenant":"acme","endpoint":"esx","names":["no name"]},{"tenant":"acme","endpoint":"good"}]}"#,
        ],
    );
    let seen = all(&registry).await;
    let nodes: Vec<_> = seen
        .iter()
        .map(|(entry, _)| entry.instance.node.as_str())
        .collect();
    assert_eq!(nodes, ["a", "names"]);
    let routes: Vec<_> = seen[1]
        .0
        .routes
        .iter()
        .map(|route| route.endpoint.as_str())
        .collect();
    assert_eq!(routes, ["good"]);
}

fn routes_key(prefix: &str, entry: &Entry) -> String {
    format!("{{{prefix}}}:routes:{}", entry.instance)
}

/// More routes than an engine gives at once, all with the same name.
fn many_routes(name: &str) -> Vec<Route> {
    let routes = (0..30_000).map(|number| Route {
        names: Vec::new(),
        ..route("acme", &format!("{name}-{number}"))
    });
    routes.collect()
}

#[tokio::test]
async fn many_routes_are_read_whole() {
    let redis = redis();
    let registry = registry(&redis, "many");
    let mine = entry("a", 1, 1, many_routes("esx"));
    let load = Load::default();
    registry.publish(&mine, load, LEASE).await.unwrap();
    let length = redis.command(&[
        "-a",
        PASSWORD,
        "--no-auth-warning",
        "STRLEN",
        &routes_key("many", &mine),
    ]);
    assert!(length.parse::<usize>().unwrap() > 2 << 20, "{length}");
    assert_eq!(all(&registry).await, [(mine, Some(load))]);
}

/// They are read in pieces, and pieces of different versions are not put together.
#[tokio::test]
async fn routes_that_change_while_they_are_read_are_those_of_one_version() {
    let redis = redis();
    let (reading, writing) = (registry(&redis, "torn"), registry(&redis, "torn"));
    let versions = ["aaa", "bbb"].map(many_routes);
    let write = async |version: u64| {
        let routes = versions[version as usize % 2].clone();
        let entry = entry("a", 1, version, routes);
        let done = writing.publish(&entry, Load::default(), LEASE).await;
        done.unwrap();
    };
    write(0).await;
    let writes = async {
        for version in 1..40 {
            write(version).await;
        }
    };
    let reads = async {
        let mut whole = 0;
        for _ in 0..40 {
            let read = reading.routes(&instance("a", 1)).await.unwrap();
            if let Some(read) = read {
                assert!(read.routes == versions[read.version as usize % 2]);
                whole += 1;
            }
        }
        whole
    };
    let (_, whole) = tokio::join!(writes, reads);
    eprintln!("{whole} of 40 reads were whole");
}

/// What it says no to is no news of the rest.
#[tokio::test]
async fn what_the_engine_refuses_is_told_apart_from_an_engine_that_is_away() {
    let mut redis = redis();
    let registry = registry(&redis, "refused");
    let mine = entry("a", 1, 1, Vec::new());
    write(&redis, &["LPUSH", &routes_key("refused", &mine), "x"]);
    let refused = registry.routes(&mine.instance).await;
    assert!(
        matches!(refused, Err(RegistryError::Refused(_))),
        "{refused:?}"
    );
    write(&redis, &["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let refused = registry.publish(&mine, Load::default(), LEASE).await;
    assert!(
        matches!(refused, Err(RegistryError::Refused(_))),
        "{refused:?}"
    );
    redis.kill();
    let away = registry.read().await;
    assert!(matches!(away, Err(RegistryError::Engine(_))), "{away:?}");
}

#[tokio::test]
async fn redis_keeps_words() {
    let redis = redis();
    revokes(registry(&redis, "words")).await;
    assert!(words(&registry(&redis, "others")).await.is_empty());
}

/// The end of a word is the engine's to keep, and what others left there does no harm.
#[tokio::test]
async fn what_is_over_or_no_word_is_not_heard() {
    let redis = redis();
    let registry = registry(&redis, "foreign");
    let short = Some(Duration::from_millis(100));
    registry.say(&[word(1, holds("ann"), short)]).await.unwrap();
    while !words(&registry).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let huge = format!(r#"{{"subject":"{}"}}"#, "x".repeat(100_000));
    for (name, text) in [
        ("no-id", r#"{"subject":"ann"}"#),
        ("00000000000000a1", "no json"),
        ("00000000000000a2", "{}"),
        ("00000000000000a3", r#"{"tenant":"acme--x"}"#),
        ("00000000000000a4", r#"{"endpoint":"vcenter"}"#),
        ("00000000000000a5", r#"{"session":7}"#),
        ("00000000000000a6", &huge),
        ("00000000000000a7", r#"{"subject":"ann","later":1}"#),
    ] {
        write(&redis, &["SADD", "{foreign}:revocations", name]);
        write(
            &redis,
            &["SET", &format!("{{foreign}}:revocation:{name}"), text],
        );
    }
    write(
        &redis,
        &["SADD", "{foreign}:revocations", "00000000000000a8"],
    );
    let heard = words(&registry).await;
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(heard[0].0.to_string(), "00000000000000a7");
}

/// That nothing is heard any more is said, and the next wait tries anew.
#[tokio::test]
async fn who_waits_for_hints_hears_that_the_engine_is_gone() {
    let mut redis = redis();
    let registry = registry(&redis, "gone");
    registry.hint().await.unwrap();
    redis.kill();
    let gone = timeout(Duration::from_secs(30), registry.hint()).await;
    assert!(matches!(gone, Ok(Err(_))), "{gone:?}");
    let away = timeout(Duration::from_secs(30), registry.hint()).await;
    assert!(matches!(away, Ok(Err(_))), "{away:?}");
    redis.restart();
    registry.hint().await.unwrap();
}

/// Without that, nobody would notice that the other end of a silent subscription is gone.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn connections_with_the_engine_are_kept_alive() {
    let redis = redis();
    let registry = registry(&redis, "alive");
    registry.hint().await.unwrap();
    registry.read().await.unwrap();
    let port = format!(":{:04X}", redis.port());
    // Where this process is the one that dialled, and the connection stands: which timer runs.
    let timers = || -> Vec<String> {
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let rows = table.lines().map(|line| line.split_whitespace().collect());
        let ours = |row: &Vec<&str>| row[2].ends_with(&port) && row[3] == "01";
        let rows = rows.filter(ours);
        rows.map(|row| row[5][..2].to_owned()).collect()
    };
    eventually("both have the timer of keep-alive", || {
        let timers = timers();
        (timers.len() == 2 && timers.iter().all(|timer| timer == "02")).then_some(())
    });
}
