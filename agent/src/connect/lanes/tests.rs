//! Sessions over several connections, with a relay of the tests at the other side.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use culvert_proto::control::Control;
use culvert_proto::head::{BodyLength, CallHead, CallId, Head, Mode};
use culvert_proto::mux::Side;
use culvert_proto::names::{EndpointName, TenantName};
use culvert_proto::principal::{Principal, PrincipalKind, Proof};
use culvert_session::upgrade::accept_key;
use culvert_session::{Controls, Item, SessionEvent};
use tokio::sync::mpsc;

use super::super::Slot;
use super::super::tests::{Agent, config, trust};
use super::*;
use crate::testing::{Connection, Identity, Server};

/// What a relay of these tests says of itself and does.
#[derive(Clone, Copy)]
struct Manners {
    features: u64,
    /// What happens to connections that join.
    joins: Joins,
}

#[derive(Clone, Copy)]
enum Joins {
    Taken,
    Refused,
    /// They reach another node.
    Elsewhere,
}

const GOOD: Manners = Manners {
    features: LANES,
    joins: Joins::Taken,
};

/// A connection as the relay sees it.
struct Accepted {
    lane: Option<Lane>,
    features: u64,
    session: Session,
    controls: Controls,
    _incoming: Incoming,
}

struct Relay {
    server: Server,
    identity: Identity,
    accepted: mpsc::Receiver<Accepted>,
    connections: Arc<AtomicUsize>,
}

impl Relay {
    async fn start(manners: Manners) -> Self {
        let identity = Identity::new(&["localhost"]);
        let (sender, accepted) = mpsc::channel(64);
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let server = Server::start(Some(&identity), move |connection: Connection| {
            let (sender, earlier) = (sender.clone(), counter.fetch_add(1, Ordering::SeqCst));
            async move {
                let session = serve(connection, manners, &sender, earlier).await;
                session.closed().await;
            }
        })
        .await;
        Self {
            server,
            identity,
            accepted,
            connections,
        }
    }

    /// An agent that is to have sessions with so many connections here.
    fn agent(&self, lanes: u8) -> Agent {
        let url = format!("wss://localhost:{}", self.server.address.port());
        let mut agent = Agent::new(&url, &trust(&self.identity));
        let link = Arc::get_mut(&mut agent.link).unwrap();
        link.lanes = lanes;
        link.reconnect = Duration::from_millis(1);
        agent
    }

    async fn next(&mut self) -> Accepted {
        let next = timeout(Duration::from_secs(60), self.accepted.recv());
        next.await.expect("nobody connects").unwrap()
    }

    /// The first connection of a session, and its id.
    async fn first(&mut self) -> (Accepted, LaneId) {
        let first = self.next().await;
        match first.lane {
            Some(Lane::First(id)) => (first, id),
            other => panic!("{other:?}"),
        }
    }
}

async fn serve(
    mut connection: Connection,
    manners: Manners,
    sender: &mpsc::Sender<Accepted>,
    earlier: usize,
) -> Session {
    let request = connection.request().await.unwrap();
    let key = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("sec-websocket-key")
            .then(|| value.to_owned())
    };
    let key = request.lines().find_map(key).unwrap();
    connection
        .send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: culvert.v1\r\n\r\n",
            accept_key(key.as_bytes())
        ))
        .await;
    let mut config = config(Side::Acceptor, "relay-1");
    config.hello.features = manners.features;
    // Only the first connection reaches this node.
    if matches!(manners.joins, Joins::Elsewhere) && earlier > 0 {
        config.hello.instance = [2; 16];
    }
    let io = WebSocketIo::acceptor(connection.into_io());
    let (session, incoming, mut controls) = Session::spawn(io, config);
    let Ok(hello) = session.ready().await else {
        return session;
    };
    if matches!(hello.lane, Some(Lane::Joins(_))) {
        if matches!(manners.joins, Joins::Refused) {
            session.close(GoawayCode::NotJoined, "the test says no");
            return session;
        }
    } else {
        let Some(SessionEvent::Control(Control::Register { request, offers })) =
            controls.recv().await
        else {
            panic!("no REGISTER");
        };
        let results = offers
            .into_iter()
            .map(|offer| culvert_proto::control::Registration {
                endpoint: offer.endpoint,
                refused: None,
            })
            .collect();
        let registered = Control::Registered { request, results };
        session.send_control(&registered).unwrap();
    }
    let accepted = Accepted {
        lane: hello.lane,
        features: hello.features,
        session: session.clone(),
        controls,
        _incoming: incoming,
    };
    let _ = sender.send(accepted).await;
    session
}

fn call() -> CallHead {
    CallHead {
        call: CallId([7; 16]),
        endpoint: EndpointName::new("nowhere").unwrap(),
        mode: Mode::Http,
        method: http::Method::GET,
        target: Bytes::from_static(b"/"),
        headers: http::HeaderMap::new(),
        body: BodyLength::Empty,
        upgrade: None,
        authority: Bytes::from_static(b"nowhere--acme.relay.test"),
        source: None,
        caller: Principal {
            tenant: TenantName::new("acme").unwrap(),
            subject: "director-7".into(),
            scopes: vec![],
            kind: PrincipalKind::Caller,
            expires: 4_000_000_000,
            proof: Proof::Jwt,
        },
        token: None,
    }
}

#[tokio::test]
async fn a_session_gets_as_many_connections_as_it_is_to_have_and_serves_calls_on_each() {
    let mut relay = Relay::start(GOOD).await;
    let agent = relay.agent(3);
    let slot = tokio::spawn(Slot::new(agent.link.clone(), 0).keep());
    let (first, id) = relay.first().await;
    assert_eq!(first.features, LANES);
    let mut lanes = vec![first];
    for _ in 0..2 {
        let mut lane = relay.next().await;
        assert_eq!(lane.lane, Some(Lane::Joins(id)));
        assert!(
            timeout(Duration::ZERO, lane.controls.recv()).await.is_err(),
            "a lane says nothing of its own"
        );
        lanes.push(lane);
    }
    for lane in &lanes {
        let mut stream = lane.session.open(&call(), Bytes::new(), true).unwrap();
        let answer = stream.recv.item().await;
        assert!(
            matches!(answer, Ok(Item::Head(Head::Refusal(_)))),
            "{answer:?}"
        );
    }
    assert_eq!(agent.link.live.all().len(), 1);
    agent.link.stop.cancel();
    slot.await.unwrap();
    assert!(lanes.iter().all(|lane| lane.session.is_open()));
}

#[tokio::test]
async fn an_agent_that_wants_one_connection_says_nothing_of_lanes() {
    let mut relay = Relay::start(GOOD).await;
    let agent = relay.agent(1);
    let slot = tokio::spawn(Slot::new(agent.link.clone(), 0).keep());
    let first = relay.next().await;
    assert_eq!((first.lane, first.features), (None, 0));
    agent.link.stop.cancel();
    slot.await.unwrap();
}

#[tokio::test]
async fn a_lost_lane_is_dialled_again_and_the_session_goes_on() {
    let mut relay = Relay::start(GOOD).await;
    let agent = relay.agent(2);
    let slot = tokio::spawn(Slot::new(agent.link.clone(), 0).keep());
    let (first, id) = relay.first().await;
    for _ in 0..3 {
        let lane = relay.next().await;
        assert_eq!(lane.lane, Some(Lane::Joins(id)));
        lane.session
            .close(GoawayCode::Internal, "this lane has a bad day");
    }
    let lane = relay.next().await;
    assert_eq!(lane.lane, Some(Lane::Joins(id)));
    assert!(first.session.is_open());
    agent.link.stop.cancel();
    slot.await.unwrap();
}

#[tokio::test]
async fn lanes_end_with_their_session_and_the_next_session_has_its_own() {
    let mut relay = Relay::start(GOOD).await;
    let agent = relay.agent(2);
    let slot = tokio::spawn(Slot::new(agent.link.clone(), 0).keep());
    let (first, old) = relay.first().await;
    let lane = relay.next().await;
    first.session.close(GoawayCode::Internal, "a bad day");
    lane.session.closed().await;
    let (_first, new) = relay.first().await;
    assert_ne!(old, new);
    assert_eq!(relay.next().await.lane, Some(Lane::Joins(new)));
    agent.link.stop.cancel();
    slot.await.unwrap();
}

#[tokio::test]
async fn lanes_that_are_refused_are_given_up_and_the_session_goes_on() {
    for joins in [Joins::Refused, Joins::Elsewhere] {
        let mut relay = Relay::start(Manners { joins, ..GOOD }).await;
        let agent = relay.agent(3);
        let begun = tokio::spawn({
            let link = agent.link.clone();
            async move {
                let io = dial(&link.target, "one", SOFTWARE).await.unwrap();
                let (config, id) = first(&link);
                let (session, _incoming, _controls) = Session::spawn(io, config);
                let register = Control::Register {
                    request: 1,
                    offers: vec![],
                };
                let relay = session.ready().await.unwrap();
                session.send_control(&register).unwrap();
                let lanes = Lanes {
                    link,
                    session: session.clone(),
                    id: id.unwrap(),
                    relay,
                    node: "relay-1".into(),
                };
                lanes.keep().await;
                assert!(session.is_open());
                assert_eq!(session.lanes(), 1);
            }
        });
        let (_first, _) = relay.first().await;
        let done = timeout(Duration::from_secs(60), begun);
        done.await.expect("it is given up").unwrap();
        let asked = relay.connections.load(Ordering::SeqCst) - 1;
        assert_eq!(asked, 2 * MAX_REFUSALS as usize);
    }
}

#[tokio::test]
async fn a_relay_without_the_feature_is_not_asked_for_lanes() {
    let mut relay = Relay::start(Manners {
        features: 0,
        ..GOOD
    })
    .await;
    let agent = relay.agent(3);
    let slot = tokio::spawn(Slot::new(agent.link.clone(), 0).keep());
    let (first, _) = relay.first().await;
    first.session.close(GoawayCode::Internal, "a bad day");
    // The next connection is a session, not a lane.
    relay.first().await;
    agent.link.stop.cancel();
    slot.await.unwrap();
}
