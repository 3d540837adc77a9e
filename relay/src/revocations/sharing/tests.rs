//! Words of other nodes, in any order, and what becomes of the list.

use super::*;

fn scope(subject: &str) -> Scope {
    Scope {
        subject: Some(subject.to_owned()),
        ..Scope::default()
    }
}

fn shared() -> Revocations {
    let revocations = Revocations::default();
    revocations.share();
    revocations
}

fn revoke(revocations: &Revocations, subject: &str, ttl: Option<Duration>) -> RevocationId {
    let revocation = Revocation::new(scope(subject), None, ttl);
    revocations.add(revocation).unwrap().id
}

fn subjects(revocations: &Revocations) -> Vec<String> {
    let list = revocations.list();
    list.iter()
        .filter_map(|one| one.scope.subject.clone())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn what_one_node_says_holds_on_another_for_as_long_as_it_says() {
    let (here, there) = (shared(), shared());
    let hour = Duration::from_secs(3600);
    revoke(&here, "ann", Some(hour));
    revoke(&here, "bob", None);
    assert_eq!(here.untold().len(), 2);
    let mut added = there.additions();
    there.on_read(here.untold());
    assert!(added.has_changed().unwrap(), "what is in progress ends");
    added.mark_unchanged();
    assert_eq!(subjects(&there).len(), 2);
    assert!(there.untold().is_empty(), "it lies there already");
    let read = here.untold();
    here.on_told(&read);
    assert!(here.untold().is_empty());
    there.on_read(read);
    assert!(!added.has_changed().unwrap(), "nothing is new");
    tokio::time::advance(hour).await;
    assert_eq!(subjects(&there), ["bob"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_lifted_stays_lifted_in_whatever_order_the_words_arrive() {
    let (here, there) = (shared(), shared());
    let id = revoke(&here, "ann", None);
    let holds = here.untold();
    here.on_told(&holds);
    here.lift(id).unwrap();
    let lifted = here.untold();
    assert_eq!(lifted.len(), 1);
    assert_eq!(lifted[0].says, Says::Lifted);
    assert_eq!(here.told(id), Told::NotYet);
    for words in [
        [&holds[..], &lifted].concat(),
        [&lifted[..], &holds].concat(),
        lifted.clone(),
        holds.clone(),
    ] {
        here.on_read(words.clone());
        assert!(here.is_empty());
        there.on_read(words);
    }
    assert!(there.is_empty());
    // An old word lies there again: both say what has become of it.
    for node in [&here, &there] {
        node.on_read(holds.clone());
        assert_eq!(node.untold()[0].says, Says::Lifted);
    }
    tokio::time::advance(LIFTED_MEMORY).await;
    assert!(here.untold().is_empty(), "it is not remembered for ever");
}

#[tokio::test(start_paused = true)]
async fn what_the_registry_has_lost_is_said_again() {
    let (here, there) = (shared(), shared());
    let ann = revoke(&here, "ann", None);
    let bob = revoke(&here, "bob", None);
    let words = here.untold();
    here.on_told(&words);
    there.on_read(words);
    there.lift(bob).unwrap();
    for node in [&here, &there] {
        node.on_read(Vec::new());
        assert_eq!(node.told(ann), Told::NotYet);
    }
    assert_eq!(subjects(&here).len(), 2, "nothing is forgotten");
    assert_eq!(here.untold().len(), 2);
    let said: Vec<_> = there.untold().into_iter().map(|word| word.says).collect();
    assert_eq!(said.len(), 2);
    assert!(said.contains(&Says::Lifted));
}

#[tokio::test(start_paused = true)]
async fn a_session_is_this_nodes_alone_and_a_node_alone_tells_nobody() {
    let revocations = Revocations::default();
    let before = revoke(&revocations, "ann", None);
    assert!(revocations.untold().is_empty());
    assert_eq!(revocations.told(before), Told::Nobody);
    revocations.share();
    assert_eq!(revocations.untold().len(), 1);
    let session = Scope {
        session: Some(crate::directory::SessionId(7)),
        ..Scope::default()
    };
    let id = revocations
        .add(Revocation::new(session, None, None))
        .unwrap()
        .id;
    assert_eq!(revocations.untold().len(), 1);
    assert_eq!(revocations.told(id), Told::Nobody);
    revocations.lift(id).unwrap();
    assert_eq!(revocations.untold().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn however_much_is_said_only_so_much_is_held() {
    let revocations = shared();
    let words = (0..2 * MAX_REVOCATIONS as u64).map(|number| Word {
        id: format!("{number:016x}").parse().unwrap(),
        says: Says::Holds {
            scope: scope("ann"),
            reason: None,
            since: SystemTime::now(),
            ttl: None,
        },
        left: None,
    });
    let words: Vec<_> = words.collect();
    revocations.on_read(words.clone());
    assert_eq!(revocations.len(), MAX_REVOCATIONS);
    let lifted = words.into_iter().map(|word| Word {
        says: Says::Lifted,
        ..word
    });
    revocations.on_read(lifted.collect());
    assert!(revocations.is_empty());
    assert_eq!(revocations.read().shared.lifted.len(), MAX_REVOCATIONS);
}

/// Whoever asks for something to be revoked does not wait for a registry that is down.
#[tokio::test(start_paused = true)]
async fn nobody_waits_long_for_other_nodes() {
    let revocations = shared();
    let id = revoke(&revocations, "ann", None);
    let patience = Duration::from_secs(1);
    let start = Instant::now();
    assert_eq!(revocations.until_told(id, patience).await, Told::NotYet);
    assert_eq!(start.elapsed(), patience);
    let telling = async {
        tokio::time::sleep(patience / 2).await;
        revocations.on_told(&revocations.untold());
    };
    let (told, ()) = tokio::join!(revocations.until_told(id, patience), telling);
    assert_eq!(told, Told::Everybody);
    assert_eq!(start.elapsed(), patience * 3 / 2);
}
