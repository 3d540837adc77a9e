//! What every registry must do.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use culvert_config::cluster::{RedisDirectory, Topology};
use culvert_config::units::Span;
use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::Mode;
use culvert_proto::names::{EndpointName, TenantName};
use culvert_proto::priority::Priority;
use culvert_tests::redis::Redis;
use tokio::time::timeout;

use crate::cluster::memory::MemoryRegistry;
use crate::cluster::redis::RedisRegistry;
use crate::cluster::registry::{Entry, Instance, Load, Registry, Route, Seen};
use crate::revocations::sharing::{Says, Word};
use crate::revocations::{MAX_REVOCATIONS, RevocationId, Scope};

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
    let none = registry
        .renew(&entry("a", 1, 1, Vec::new()), Load::default(), LEASE)
        .await
        .unwrap();
    assert!(!none, "what is not there cannot be renewed");

    let first = entry(
        "a",
        1,
        1,
        vec![route("acme", "vcenter"), route("globex", "vcenter")],
    );
    registry
        .publish(&first, Load::default(), LEASE)
        .await
        .unwrap();
    assert_eq!(all(&registry).await[0].load, Some(Load::default()));
    // What is renewed is the lease and the load, and nothing else.
    let busy = Load {
        sessions: 5,
        connections: 1000,
        calls: u64::MAX,
    };
    assert!(registry.renew(&first, busy, LEASE).await.unwrap());
    let seen = all(&registry).await;
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].load, Some(busy));
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
    registry
        .publish(&second, Load::default(), LEASE)
        .await
        .unwrap();
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
    registry
        .publish(&changed, Load::default(), LEASE)
        .await
        .unwrap();
    assert_eq!(registry.read(&known).await.unwrap().len(), 2);
    assert_eq!(all(&registry).await[0].entry, changed);

    registry.withdraw(&first.instance).await.unwrap();
    assert_eq!(all(&registry).await.len(), 1);
    assert!(
        !registry
            .renew(&first, Load::default(), LEASE)
            .await
            .unwrap()
    );
}

fn word(number: u64, says: Says, left: Option<Duration>) -> Word {
    let id = format!("{number:016x}").parse().unwrap();
    Word { id, says, left }
}

fn holds(subject: &str) -> Says {
    Says::Holds {
        scope: Scope {
            subject: Some(subject.into()),
            tenant: Some(TenantName::new("acme").unwrap()),
            ..Scope::default()
        },
        reason: Some("a laptop was stolen".into()),
        since: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        ttl: Some(Duration::from_secs(86_400)),
    }
}

/// The words that lie there, by id, and whether each has an end.
async fn words(registry: &impl Registry) -> Vec<(RevocationId, Says, bool)> {
    let heard = registry.hear(None).await.unwrap().unwrap();
    let mut words: Vec<_> = heard
        .words
        .into_iter()
        .map(|word| {
            assert!(word.left.is_none_or(|left| left <= LEASE));
            (word.id, word.says, word.left.is_some())
        })
        .collect();
    words.sort_by_key(|word| word.0);
    words
}

/// Words about revocations, but for their end.
async fn revokes(registry: impl Registry) {
    let none = registry.hear(None).await.unwrap().unwrap();
    assert!(none.words.is_empty());
    assert!(registry.hear(Some(&none.stamp)).await.unwrap().is_none());

    let said = [
        word(1, holds("ann"), Some(LEASE)),
        word(2, holds("\"bob\" \u{e9}"), None),
    ];
    registry.say(&said).await.unwrap();
    let heard = registry.hear(Some(&none.stamp)).await.unwrap().unwrap();
    assert_eq!(heard.words.len(), 2, "the stamp is another one");
    assert!(registry.hear(Some(&heard.stamp)).await.unwrap().is_none());
    let lies = |at: usize| (said[at].id, said[at].says.clone(), said[at].left.is_some());
    assert_eq!(words(&registry).await, [lies(0), lies(1)], "as it was said");

    // That something holds takes the place of nothing; that it was lifted, of everything.
    registry.say(&[word(1, holds("eve"), None)]).await.unwrap();
    assert_eq!(words(&registry).await[0], lies(0));
    let lifted = word(1, Says::Lifted, Some(LEASE));
    registry.say(std::slice::from_ref(&lifted)).await.unwrap();
    registry.say(&said).await.unwrap();
    let heard = words(&registry).await;
    assert_eq!(heard, [(lifted.id, Says::Lifted, true), lies(1)]);

    // As many as a node may hold, and remembers that they were lifted.
    let many: Vec<_> = (0..2 * MAX_REVOCATIONS as u64)
        .map(|number| word(1000 + number, holds("ann"), Some(LEASE)))
        .collect();
    registry.say(&many).await.unwrap();
    assert_eq!(words(&registry).await.len(), 2 + many.len());
}

#[tokio::test(start_paused = true)]
async fn memory_keeps_words() {
    revokes(MemoryRegistry::default()).await;
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
        .publish(&entry("b", 1, 1, Vec::new()), Load::default(), LEASE)
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
    registry
        .publish(&mine, Load::default(), LEASE)
        .await
        .unwrap();
    tokio::time::advance(LEASE / 2).await;
    assert!(registry.renew(&mine, Load::default(), LEASE).await.unwrap());
    tokio::time::advance(LEASE - Duration::from_secs(1)).await;
    assert_eq!(all(&registry).await.len(), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(all(&registry).await.is_empty());
    assert!(!registry.renew(&mine, Load::default(), LEASE).await.unwrap());
}

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
    RedisRegistry::new(&RedisDirectory {
        urls: vec![redis.url()],
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
    assert_eq!((seen.len(), &seen[0].entry), (1, &mine));
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
