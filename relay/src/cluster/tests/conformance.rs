//! What every registry must do, and that the one in memory does it.

use std::time::{Duration, UNIX_EPOCH};

use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::Mode;
use culvert_proto::names::{EndpointName, TenantName};
use culvert_proto::priority::Priority;
use tokio::time::timeout;

use crate::cluster::memory::MemoryRegistry;
use crate::cluster::registry::{Entry, Instance, Load, Registry, Route, WORDS};
use crate::revocations::sharing::{Says, Word};
use crate::revocations::{MAX_REVOCATIONS, RevocationId, Scope};

pub(super) const LEASE: Duration = Duration::from_secs(60);

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

pub(super) fn entry(node: &str, process: u8, version: u64, routes: Vec<Route>) -> Entry {
    Entry {
        instance: instance(node, process),
        version,
        address: format!("{node}.example.com:9443"),
        leaving: false,
        routes,
    }
}

/// Every entry whose routes can be read, and its load, by node and process.
pub(super) async fn all(registry: &impl Registry) -> Vec<(Entry, Option<Load>)> {
    let mut all = Vec::new();
    for seen in registry.read().await.unwrap() {
        if let Some(read) = registry.routes(&seen.instance).await.unwrap() {
            let entry = Entry {
                instance: seen.instance,
                version: read.version,
                address: seen.address,
                leaving: seen.leaving,
                routes: read.routes,
            };
            assert_eq!(entry.version, seen.version);
            all.push((entry, seen.load));
        }
    }
    all.sort_by(|a, b| a.0.instance.cmp(&b.0.instance));
    all
}

/// Everything but the end of a lease, which takes a clock.
pub(super) async fn conforms(registry: impl Registry) {
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
    assert_eq!(all(&registry).await[0].1, Some(Load::default()));
    // What is renewed is the lease and the load, and nothing else.
    let busy = Load {
        sessions: 5,
        connections: 1000,
        calls: u64::MAX,
    };
    assert!(registry.renew(&first, busy, LEASE).await.unwrap());
    let seen = all(&registry).await;
    assert_eq!(seen.len(), 1);
    assert_eq!(
        seen[0],
        (first.clone(), Some(busy)),
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
        seen.iter().map(|seen| &seen.0).collect::<Vec<_>>(),
        [&first, &second]
    );

    // Another version takes the place of the one before.
    let changed = entry("a", 1, 2, vec![route("acme", "nsx")]);
    registry
        .publish(&changed, Load::default(), LEASE)
        .await
        .unwrap();
    assert_eq!(registry.read().await.unwrap().len(), 2);
    assert_eq!(all(&registry).await[0].0, changed);

    registry.withdraw(&first.instance).await.unwrap();
    assert_eq!(registry.routes(&first.instance).await.unwrap(), None);
    assert_eq!(all(&registry).await.len(), 1);
    assert!(
        !registry
            .renew(&first, Load::default(), LEASE)
            .await
            .unwrap()
    );
}

pub(super) fn word(number: u64, says: Says, left: Option<Duration>) -> Word {
    let id = format!("{number:016x}").parse().unwrap();
    Word { id, says, left }
}

pub(super) fn holds(subject: &str) -> Says {
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
pub(super) async fn words(registry: &impl Registry) -> Vec<(RevocationId, Says, bool)> {
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
pub(super) async fn revokes(registry: impl Registry) {
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
    for many in many.chunks(WORDS) {
        registry.say(many).await.unwrap();
    }
    assert_eq!(words(&registry).await.len(), 2 + many.len());
}

#[tokio::test(start_paused = true)]
async fn memory_keeps_words() {
    revokes(MemoryRegistry::default()).await;
}

/// A hint comes to one who waits for it.
pub(super) async fn hints(one: impl Registry, other: impl Registry) {
    let hint = async || timeout(Duration::from_secs(30), one.hint()).await;
    let publish = async || {
        let entry = entry("b", 1, 1, Vec::new());
        let done = other.publish(&entry, Load::default(), LEASE).await;
        done.unwrap();
    };
    publish().await;
    // The first hint may be that hints come at all.
    hint().await.expect("a hint").unwrap();
    publish().await;
    hint().await.expect("a hint").unwrap();
}

#[tokio::test(start_paused = true)]
async fn memory_hints() {
    let registry = MemoryRegistry::default();
    hints(registry.clone(), registry).await;
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
