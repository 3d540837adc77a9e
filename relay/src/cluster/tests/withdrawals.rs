//! What is revoked on one node holds on the others, whatever the registry does.

use std::time::Duration;

use super::nodes::{Node, pass};
use crate::cluster::memory::MemoryRegistry;
use crate::cluster::registry::{Registry, WORDS};
use crate::revocations::sharing::Told;
use crate::revocations::{Revocation, RevocationId, Scope};

impl Node {
    pub(super) fn revoke(&self, subject: &str) -> RevocationId {
        let scope = Scope {
            subject: Some(subject.to_owned()),
            ..Scope::default()
        };
        let revocation = Revocation::new(scope, Some("stolen".into()), None);
        self.revocations.add(revocation).unwrap().id
    }

    fn knows(&self, id: RevocationId) -> bool {
        self.revocations.list().iter().any(|known| known.id == id)
    }
}

fn two_nodes(registry: &MemoryRegistry) -> [Node; 2] {
    [
        Node::start_named(registry, "a", 1),
        Node::start_named(registry, "b", 2),
    ]
}

async fn lies_there(registry: &MemoryRegistry) -> usize {
    registry.hear(None).await.unwrap().unwrap().words.len()
}

#[tokio::test(start_paused = true)]
async fn what_is_revoked_or_lifted_on_one_node_is_so_on_all_within_two_seconds() {
    let registry = MemoryRegistry::default();
    let nodes = two_nodes(&registry);
    pass(1).await;
    // With hints at once, without at the next look.
    for (hints, within) in [(true, 0), (false, 2)] {
        registry.lose_hints(!hints);
        let id = nodes[0].revoke("ann");
        tokio::time::sleep(Duration::from_millis(100)).await;
        pass(within).await;
        assert!(nodes.iter().all(|node| node.knows(id)), "hints: {hints}");
        assert_eq!(nodes[0].revocations.told(id), Told::Everybody);
        // Whoever knows it can lift it.
        nodes[1].revocations.lift(id).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        pass(within).await;
        assert!(!nodes.iter().any(|node| node.knows(id)), "hints: {hints}");
    }
    let id = nodes[1].revoke("bob");
    pass(2).await;
    let later = Node::start_named(&registry, "c", 3);
    pass(1).await;
    assert!(later.knows(id));
    assert_eq!(later.revocations.len(), 1, "what is lifted is not news");
}

#[tokio::test(start_paused = true)]
async fn without_the_registry_it_holds_here_and_elsewhere_as_soon_as_it_answers() {
    let registry = MemoryRegistry::default();
    let nodes = two_nodes(&registry);
    let before = nodes[0].revoke("ann");
    pass(2).await;
    registry.set_down(true);
    let (id, lifted) = (nodes[0].revoke("bob"), before);
    nodes[1].revocations.lift(lifted).unwrap();
    pass(600).await;
    assert!(nodes[0].knows(id) && !nodes[1].knows(id));
    assert!(nodes[0].knows(lifted) && !nodes[1].knows(lifted));
    assert_eq!(nodes[0].revocations.told(id), Told::NotYet);
    registry.set_down(false);
    pass(2).await;
    for node in &nodes {
        assert!(node.knows(id) && !node.knows(lifted));
        assert_eq!(node.revocations.told(id), Told::Everybody);
    }
}

#[tokio::test(start_paused = true)]
async fn who_can_say_nothing_hears_what_others_have_said() {
    let registry = MemoryRegistry::default();
    let nodes = two_nodes(&registry);
    pass(2).await;
    registry.lose_hints(true);
    let id = nodes[1].revoke("ann");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(nodes[1].revocations.told(id), Told::Everybody);
    assert!(!nodes[0].knows(id), "it has not looked yet");
    registry.set_read_only(true);
    let untold = nodes[0].revoke("bob");
    pass(3).await;
    assert!(nodes[0].knows(id));
    assert_eq!(nodes[0].revocations.told(untold), Told::NotYet);
}

/// An engine without disk is started again and knows nothing.
#[tokio::test(start_paused = true)]
async fn a_registry_that_comes_back_empty_hears_everything_again() {
    let registry = MemoryRegistry::default();
    let nodes = two_nodes(&registry);
    let (held, lifted) = (nodes[0].revoke("ann"), nodes[0].revoke("bob"));
    pass(2).await;
    nodes[1].revocations.lift(lifted).unwrap();
    pass(2).await;
    registry.forget();
    assert_eq!(lies_there(&registry).await, 0);
    pass(2).await;
    assert_eq!(lies_there(&registry).await, 2, "what was lifted too");
    for node in &nodes {
        assert!(node.knows(held) && !node.knows(lifted));
    }
    // The one who said it is gone: the other knows.
    let [first, second] = nodes;
    drop(first);
    registry.forget();
    pass(2).await;
    let later = Node::start_named(&registry, "c", 3);
    pass(1).await;
    assert!(later.knows(held) && second.knows(held));
}

/// One word that an engine does not take keeps no others from being heard, and is said to be missing.
#[tokio::test(start_paused = true)]
async fn what_the_registry_refuses_to_take_holds_up_nothing_else() {
    let registry = MemoryRegistry::default();
    let nodes = two_nodes(&registry);
    pass(1).await;
    registry.set_down(true);
    let ids: Vec<_> = (0..4 * WORDS)
        .map(|number| nodes[0].revoke(&format!("subject-{number}")))
        .collect();
    let refused = *ids.iter().min().unwrap();
    registry.refuse(Some(refused));
    registry.set_down(false);
    pass(3).await;
    let known = |id: &&RevocationId| nodes[1].knows(**id);
    assert_eq!(ids.iter().filter(known).count(), 3 * WORDS);
    assert_eq!(nodes[0].revocations.told(refused), Told::NotYet);
    let trouble = nodes[0].neighbours.trouble().unwrap();
    assert!(trouble.contains("a word is refused"), "{trouble}");
    registry.refuse(None);
    pass(3).await;
    assert_eq!(ids.iter().filter(known).count(), ids.len());
}
