//! An agent that comes back: which older session it replaces, which ones it leaves alone, and who is
//! told what.

use std::time::Duration;

use bytes::Bytes;
use culvert_proto::code::GoawayCode;
use culvert_proto::control::{Control, Hello, Lane, Offer, Slot};
use culvert_proto::mux::LANES;
use culvert_proto::names::{EndpointName, TenantName};
use culvert_session::{Item, SessionEvent};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::rig::{Agent, Rig, call, good, hello, soon};
use crate::admin::status::Status;
use crate::directory::Lookup;

fn in_slot(number: u8, older_lives: bool) -> Hello {
    Hello {
        slot: Some(Slot {
            number,
            older_lives,
        }),
        ..hello()
    }
}

impl Rig {
    /// A session with this greeting that serves `vcenter`.
    async fn slotted(&self, claims: Value, hello: Hello) -> Agent {
        let mut agent = self.open_with(&self.issuer.token(claims), hello).await;
        agent.register(&["vcenter"]).await;
        agent
    }

    /// Opens so many calls to `vcenter` as the edge would.
    fn calls(&self, count: usize) -> Vec<culvert_session::Stream> {
        let tenant = TenantName::new("acme").unwrap();
        let endpoint = EndpointName::new("vcenter").unwrap();
        let open = |_| match self.node.directory.lookup(&tenant, &endpoint) {
            Lookup::Session(place, _) => place.open(&call(), Bytes::new(), true).unwrap(),
            other => panic!("unexpected {other:?}"),
        };
        (0..count).map(open).collect()
    }

    async fn has_sessions(&self, count: usize) {
        let has = async {
            while self.node.agents.len() != count {
                sleep(Duration::from_millis(1)).await;
            }
        };
        soon(has).await;
    }
}

/// Nothing more than a moment: what is to be told is told in it.
async fn a_moment() {
    sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_comes_back_takes_the_place_of_the_session_that_it_lost() {
    let rig = Rig::new();
    let old = rig.slotted(good(), in_slot(1, false)).await;
    let mut lost = rig.calls(1);
    let mut new = rig.slotted(good(), in_slot(1, false)).await;
    let told = new.notice().await;
    assert!(told.contains("place of session 1 "), "{told}");
    assert_eq!(old.closed().await, GoawayCode::Replaced);
    let end = soon(lost.remove(0).recv.item()).await;
    assert!(end.is_err(), "a call that nobody can answer ends: {end:?}");
    rig.has_sessions(1).await;

    let _calls = rig.calls(5);
    for _ in 0..5 {
        soon(new.incoming.accept()).await.unwrap();
    }
    let status = Status::of(&rig.node);
    let session = &status.sessions[0];
    assert_eq!((session.id, session.replaces), (2, Some(1)));
    let metrics = rig.node.metrics.render().unwrap();
    let ended = "culvert_relay_session_ends_total{reason=\"replaced\"} 1\n";
    assert!(metrics.contains(ended), "{metrics}");
}

/// Make before break: an agent that still knows the older session keeps its calls.
#[tokio::test(start_paused = true)]
async fn calls_of_a_session_that_its_agent_still_knows_go_on() {
    let rig = Rig::new();
    let mut old = rig.slotted(good(), in_slot(0, false)).await;
    let mut calls = rig.calls(1);
    let (_, mut served) = soon(old.incoming.accept()).await.unwrap();
    let mut new = rig.slotted(good(), in_slot(0, true)).await;
    new.notice().await;
    let told = soon(old.controls.recv()).await;
    let Some(SessionEvent::Draining { code, .. }) = told else {
        panic!("unexpected {told:?}")
    };
    assert_eq!(code, GoawayCode::Replaced);
    let _calls_after = rig.calls(5);
    for _ in 0..5 {
        soon(new.incoming.accept()).await.unwrap();
    }

    // Longer than any timer of a session.
    sleep(Duration::from_secs(60)).await;
    let status = Status::of(&rig.node);
    assert_eq!(status.sessions[0].replaced_by, Some(2));
    assert!(status.to_string().contains("replaced by 2"), "{status}");
    let word = Bytes::from_static(b"the last word");
    served.send.write_bytes(word.clone()).await.unwrap();
    served.send.finish().unwrap();
    drop(served);
    let answer = &mut calls[0].recv;
    assert!(matches!(answer.item().await, Ok(Item::Data(data)) if data == word));
    assert!(matches!(answer.item().await, Ok(Item::Finished)));
    drop(calls);
    assert_eq!(old.closed().await, GoawayCode::Replaced);
    assert!(new.session.is_open());
}

#[tokio::test(start_paused = true)]
async fn nobody_else_is_replaced() {
    let rig = Rig::new();
    let mine = rig.slotted(good(), in_slot(0, false)).await;
    let another_slot = in_slot(1, false);
    let another_process = Hello {
        instance: [8; 16],
        ..in_slot(0, false)
    };
    let _others = [
        rig.slotted(good(), another_slot).await,
        rig.slotted(good(), another_process).await,
        rig.slotted(json!({ "sub": "sddc-2" }), in_slot(0, false))
            .await,
        rig.slotted(json!({ "tenant": "globex" }), in_slot(0, false))
            .await,
        // An agent of an earlier version says nothing of slots.
        rig.slotted(good(), hello()).await,
        rig.slotted(good(), hello()).await,
    ];
    a_moment().await;
    assert!(mine.session.is_open() && !mine.session.is_draining());
    assert_eq!(rig.node.agents.len(), 7);
    let status = Status::of(&rig.node);
    assert!(
        status
            .sessions
            .iter()
            .all(|session| session.replaced_by.is_none())
    );
}

/// A session that serves nothing is nobody's replacement: the agent only looks which node answers.
#[tokio::test(start_paused = true)]
async fn a_session_replaces_another_only_once_it_serves() {
    let rig = Rig::new();
    let old = rig.slotted(good(), in_slot(0, false)).await;
    let token = rig.issuer.token(good());
    let mut new = rig.open_with(&token, in_slot(0, false)).await;
    a_moment().await;
    assert!(old.session.is_open() && !old.session.is_draining());
    let refused = new.register(&["not-mine"]).await;
    assert!(refused[0].refused.is_some());
    a_moment().await;
    assert!(old.session.is_open() && !old.session.is_draining());
    new.register(&["vcenter"]).await;
    assert_eq!(old.closed().await, GoawayCode::Replaced);
}

/// However the two registrations arrive, the session that began later stays.
#[tokio::test(start_paused = true)]
async fn the_session_that_began_later_is_the_one_that_stays() {
    let rig = Rig::new();
    let token = rig.issuer.token(good());
    let slow = rig.open_with(&token, in_slot(0, false)).await;
    let mut quick = rig.open_with(&token, in_slot(0, false)).await;
    quick.register(&["vcenter"]).await;
    let offers = vec![Offer {
        endpoint: EndpointName::new("vcenter").unwrap(),
        modes: vec![],
        connect: vec![],
        priority: None,
    }];
    let register = Control::Register { request: 1, offers };
    slow.session.send_control(&register).unwrap();
    assert_eq!(slow.closed().await, GoawayCode::Replaced);
    assert!(quick.notice().await.contains("place of session 1 "));
    // Nor does it come back by registering again.
    quick.register(&["vcenter"]).await;
    rig.has_sessions(1).await;
    drop(quick);
    rig.has_sessions(0).await;
    assert_eq!(rig.node.agents.places.taken(), 0, "nothing is kept of it");
}

#[tokio::test(start_paused = true)]
async fn a_lane_replaces_nothing() {
    let rig = Rig::new();
    let id = *b"0123456789abcdef";
    let laned = |lane| Hello {
        features: LANES,
        lane: Some(lane),
        ..in_slot(0, false)
    };
    let first = rig.slotted(good(), laned(Lane::First(id))).await;
    let token = rig.issuer.token(good());
    let lane = rig.open_with(&token, laned(Lane::Joins(id))).await;
    a_moment().await;
    assert!(first.session.is_open() && !first.session.is_draining());
    assert!(lane.session.is_open());
    assert_eq!(rig.node.agents.records()[0].session.lanes(), 2);
}

/// Both are told, and somebody who comes and goes does not fill anybody's log.
#[tokio::test(start_paused = true)]
async fn processes_that_share_an_endpoint_are_told_so_now_and_then() {
    let rig = Rig::new();
    let mut mine = rig.slotted(good(), in_slot(0, false)).await;
    let other = || rig.slotted(json!({ "sub": "sddc-2" }), in_slot(0, false));
    let mut theirs = other().await;
    let told = theirs.notice().await;
    assert!(told.contains("vcenter too: they share the calls"), "{told}");
    let told = mine.notice().await;
    assert!(told.contains("(sddc-2) serves vcenter too"), "{told}");
    for _ in 0..50 {
        let mut again = other().await;
        again.notice().await;
    }
    a_moment().await;
    assert!(mine.session.is_open());
    // Slept, not skipped: both sides go on asking each other whether they live.
    sleep(Duration::from_secs(60)).await;
    let _again = other().await;
    // What came in between would have come first.
    assert!(mine.notice().await.contains("(sddc-2) serves vcenter too"));
    let nothing = tokio::time::timeout(Duration::from_secs(1), mine.controls.recv()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}
