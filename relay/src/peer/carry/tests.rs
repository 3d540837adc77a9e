//! Calls between the stream of another node and a session's, both played by the test.

use std::time::Duration;

use culvert_proto::code::GoawayCode;
use culvert_proto::growth::GrowthBudget;
use culvert_proto::head::{BodyLength, CallId, ResponseHead};
use culvert_proto::mux::Side;
use culvert_proto::names::{EndpointName, TenantName};
use culvert_proto::principal::{Principal, PrincipalKind, Proof};
use culvert_session::{Incoming, Session, WebSocketIo};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::io::duplex;
use tokio::time::{sleep, timeout};

use super::*;
use crate::directory::{Service, SessionId};
use crate::peer::Introduction;
use crate::place::Place;
use crate::revocations::Scope;

const SOON: Duration = Duration::from_secs(100);

/// Two ends of a session: the first one opens streams, which the second one takes.
async fn pair() -> (Session, Session, Incoming) {
    let introduction = Introduction {
        name: "n1".into(),
        instance: [1; 16],
        growth: GrowthBudget::new(1 << 20),
        waiting: GrowthBudget::new(1 << 20).by_tenant(),
    };
    let (near, far) = duplex(256 * 1024);
    let opens = introduction.config(Side::Dialer);
    let (opens, _, _) = Session::spawn(WebSocketIo::dialer(near, Vec::new()), opens);
    let takes = introduction.config(Side::Acceptor);
    let (takes, incoming, _) = Session::spawn(WebSocketIo::acceptor(far), takes);
    opens.ready().await.unwrap();
    takes.ready().await.unwrap();
    (opens, takes, incoming)
}

/// A node that has the endpoint that [`call_head`] is for, on this session.
fn carrier(session: Session) -> Arc<Carrier> {
    let directory = Directory::new(Duration::ZERO);
    let CallHead {
        endpoint, caller, ..
    } = call_head();
    let place = Place::Here(session);
    directory.register(
        &caller.tenant,
        &endpoint,
        SessionId(1),
        &place,
        Service::default(),
    );
    Arc::new(Carrier {
        directory: Arc::new(directory),
        revocations: Arc::default(),
        metrics: Arc::default(),
    })
}

fn call_head() -> CallHead {
    CallHead {
        call: CallId([7; 16]),
        endpoint: EndpointName::new("vc").unwrap(),
        mode: Mode::Http,
        method: Method::POST,
        target: Bytes::from_static(b"/api"),
        headers: HeaderMap::new(),
        body: BodyLength::Unknown,
        upgrade: None,
        authority: Bytes::from_static(b"vc--acme.relay.test"),
        source: None,
        caller: Principal {
            tenant: TenantName::new("acme").unwrap(),
            subject: "director-7".into(),
            scopes: vec!["culvert:call".into()],
            kind: PrincipalKind::Caller,
            expires: 4_000_000_000,
            proof: Proof::Jwt,
        },
        token: None,
    }
}

/// Trailers and the end of a body that has nothing else may come together with the head.
#[tokio::test(start_paused = true)]
async fn the_trailers_of_an_empty_body_arrive() {
    let (edge, _node, mut calls) = pair().await;
    let (session, _agent, mut taken) = pair().await;
    let carrier = carrier(session);
    let mut call = edge.open(&call_head(), Bytes::new(), false).unwrap();
    let sum = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("1"))]);
    call.send.send_head(&Head::Trailers(sum)).await.unwrap();
    call.send.finish().unwrap();
    let (head, stream) = calls.accept().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    tokio::spawn(async move { carrier.carry(head, stream).await });
    let (_, mut stream) = timeout(SOON, taken.accept()).await.unwrap().unwrap();
    match stream.recv.item().await.unwrap() {
        Item::Head(Head::Trailers(trailers)) => assert_eq!(trailers["x-sum"], "1"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(stream.recv.item().await, Ok(Item::Finished)));
}

/// Whether the upstream broke off or the agent went: what came before is the caller's, from whichever node.
#[tokio::test(start_paused = true)]
async fn what_came_before_a_break_is_passed_on() {
    for lost in [false, true] {
        let (edge, _node, mut calls) = pair().await;
        let (session, agent, mut taken) = pair().await;
        let carrier = carrier(session);
        let mut call = edge.open(&call_head(), Bytes::new(), false).unwrap();
        let (head, stream) = timeout(SOON, calls.accept()).await.unwrap().unwrap();
        tokio::spawn(async move { carrier.carry(head, stream).await });
        let (_, mut stream) = timeout(SOON, taken.accept()).await.unwrap().unwrap();
        // More than the caller's node gives credit for at once.
        let said = Bytes::from(vec![7; 400_000]);
        let answer = Head::Response(ResponseHead {
            status: StatusCode::OK,
            phrase: None,
            headers: HeaderMap::new(),
            body: BodyLength::Unknown,
        });
        let saying = tokio::spawn(async move {
            stream.send.send_head(&answer).await.unwrap();
            stream.send.write_bytes(said).await.unwrap();
            if lost {
                sleep(Duration::from_secs(1)).await;
                agent.close(GoawayCode::Internal, "enough");
            } else {
                // The handles of what is still to be sent may be gone.
                stream.send.cut_short(ResetCode::Truncated);
            }
            agent
        });
        sleep(Duration::from_secs(5)).await;
        let (mut heard, mut why) = (0, None);
        while why.is_none() {
            match timeout(SOON, call.recv.item()).await.unwrap() {
                Ok(Item::Data(data)) => heard += data.len(),
                Ok(Item::Head(Head::Taken | Head::Response(_))) => {}
                ended => why = Some(ended.map(|_| ())),
            }
        }
        let _agent = saying.await.unwrap();
        let code = if lost {
            ResetCode::Lost
        } else {
            ResetCode::Truncated
        };
        assert_eq!((heard, why), (400_000, Some(Err(StreamError::Reset(code)))));
    }
}

/// What is said of an agent's defect before its answer; a defect of the node itself has the code alone.
#[tokio::test(start_paused = true)]
async fn a_defect_of_the_agent_is_told_from_one_of_this_node() {
    for is_agents in [true, false] {
        let (edge, _node, mut calls) = pair().await;
        let (session, _agent, mut taken) = pair().await;
        let carrier = carrier(session);
        let mut call = edge.open(&call_head(), Bytes::new(), false).unwrap();
        let (head, stream) = timeout(SOON, calls.accept()).await.unwrap().unwrap();
        let carrying = tokio::spawn(async move {
            let carrying = carrier.carry(head, stream);
            if is_agents {
                return carrying.await;
            }
            let mut carrying = pin!(carrying);
            poll_fn(|cx| {
                let _ = carrying.as_mut().poll(cx);
                Poll::Ready(())
            })
            .await;
            panic!("as the test wants it");
        });
        if is_agents {
            let (_, mut stream) = timeout(SOON, taken.accept()).await.unwrap().unwrap();
            stream.send.reset(ResetCode::Internal);
        }
        let ended = loop {
            match timeout(SOON, call.recv.item()).await.unwrap() {
                Ok(Item::Head(Head::Taken)) => {}
                ended => break ended,
            }
        };
        match ended {
            Ok(Item::Head(Head::Refusal(refusal))) => {
                assert!(is_agents);
                assert_eq!(refusal.code, ErrorCode::SessionLost);
                assert!(
                    refusal.detail.contains("a defect of the agent"),
                    "{}",
                    refusal.detail
                );
            }
            Err(why) => {
                assert!(!is_agents);
                assert_eq!(why, StreamError::Reset(ResetCode::Internal));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(carrying.await.is_err(), !is_agents);
    }
}

/// An answer may do without the rest of its request, which may end in the same moment.
#[tokio::test(start_paused = true)]
async fn an_end_that_nobody_waits_for_is_no_harm_to_the_other_direction() {
    let (edge, _node, mut calls) = pair().await;
    let (session, _agent, mut taken) = pair().await;
    let _call = edge.open(&call_head(), Bytes::new(), false).unwrap();
    let (_, mut from) = timeout(SOON, calls.accept()).await.unwrap().unwrap();
    let mut to = session.open(&call_head(), Bytes::new(), false).unwrap();
    let (_, mut taken) = timeout(SOON, taken.accept()).await.unwrap().unwrap();
    taken.recv.stop(ResetCode::Cancelled);
    timeout(SOON, to.send.stopped()).await.unwrap();
    let ended = pass(&mut from.recv, &mut to.send, Some(Item::Finished), None).await;
    assert_eq!(ended, Ok(()));
}

fn revoke(carrier: &Carrier, scope: Scope) {
    let revocation = Revocation::new(scope, Some("laptop stolen".into()), None);
    carrier.revocations.add(revocation).unwrap();
}

fn acme() -> Scope {
    Scope {
        tenant: Some(TenantName::new("acme").unwrap()),
        ..Scope::default()
    }
}

/// Each node of a cluster hears of a revocation when it does: one that has may carry what another has let in.
#[tokio::test(start_paused = true)]
async fn a_call_that_another_node_let_in_is_refused_where_it_is_known_to_be_revoked() {
    let subject = |name: &str| Scope {
        subject: Some(name.into()),
        ..Scope::default()
    };
    let endpoint = |name: &str| Scope {
        endpoint: Some(EndpointName::new(name).unwrap()),
        ..acme()
    };
    for (scope, is_refused) in [
        (subject("director-7"), true),
        (acme(), true),
        (endpoint("vc"), true),
        (subject("director-8"), false),
        (endpoint("nsx"), false),
    ] {
        let (edge, _node, mut calls) = pair().await;
        let (session, _agent, mut taken) = pair().await;
        let carrier = carrier(session);
        revoke(&carrier, scope.clone());
        let mut call = edge.open(&call_head(), Bytes::new(), false).unwrap();
        let (head, stream) = timeout(SOON, calls.accept()).await.unwrap().unwrap();
        let carrying = {
            let carrier = carrier.clone();
            tokio::spawn(async move { carrier.carry(head, stream).await })
        };
        match timeout(SOON, call.recv.item()).await.unwrap().unwrap() {
            Item::Head(Head::Taken) => assert!(!is_refused, "{scope:?}"),
            Item::Head(Head::Refusal(refusal)) => {
                assert!(is_refused, "{scope:?}");
                assert_eq!(refusal.code, ErrorCode::Forbidden);
                assert!(!refusal.detail.contains("laptop"), "{}", refusal.detail);
                timeout(SOON, carrying).await.unwrap().unwrap();
                let untouched = timeout(Duration::from_secs(1), taken.accept()).await;
                assert!(untouched.is_err(), "the agent saw it");
            }
            other => panic!("{other:?}"),
        }
        let refused = carrier.metrics.revocations.refused_calls.get();
        assert_eq!(refused, u64::from(is_refused), "{scope:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_another_node_let_in_ends_when_it_is_revoked() {
    for is_answered in [false, true] {
        let (edge, _node, mut calls) = pair().await;
        let (session, _agent, mut taken) = pair().await;
        let carrier = carrier(session);
        let mut call = edge.open(&call_head(), Bytes::new(), false).unwrap();
        let (head, stream) = timeout(SOON, calls.accept()).await.unwrap().unwrap();
        let carrying = {
            let carrier = carrier.clone();
            tokio::spawn(async move { carrier.carry(head, stream).await })
        };
        let (_, mut stream) = timeout(SOON, taken.accept()).await.unwrap().unwrap();
        let first = timeout(SOON, call.recv.item()).await.unwrap();
        assert!(matches!(first, Ok(Item::Head(Head::Taken))), "{first:?}");
        if is_answered {
            let answer = Head::Response(ResponseHead {
                status: StatusCode::OK,
                phrase: None,
                headers: HeaderMap::new(),
                body: BodyLength::Unknown,
            });
            stream.send.send_head(&answer).await.unwrap();
            let head = timeout(SOON, call.recv.item()).await.unwrap();
            assert!(
                matches!(head, Ok(Item::Head(Head::Response(_)))),
                "{head:?}"
            );
        }
        let other = Scope {
            subject: Some("director-8".into()),
            ..Scope::default()
        };
        revoke(&carrier, other);
        let goes_on = timeout(Duration::from_secs(1), call.recv.item()).await;
        assert!(goes_on.is_err(), "somebody else was revoked: {goes_on:?}");

        revoke(&carrier, acme());
        match timeout(SOON, call.recv.item()).await.unwrap() {
            Ok(Item::Head(Head::Refusal(refusal))) => {
                assert!(!is_answered);
                assert_eq!(refusal.code, ErrorCode::Forbidden);
            }
            Err(why) => {
                assert!(is_answered);
                assert_eq!(why, StreamError::Reset(ResetCode::Withdrawn));
            }
            other => panic!("{other:?}"),
        }
        timeout(SOON, carrying).await.unwrap().unwrap();
        let gone = timeout(SOON, stream.send.stopped()).await.unwrap();
        assert_eq!(gone, StreamError::Reset(ResetCode::Cancelled));
        assert_eq!(carrier.metrics.revocations.ended_calls.get(), 1);
    }
}
