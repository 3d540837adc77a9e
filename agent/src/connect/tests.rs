//! Sessions from dial to end, with a relay of the tests at the other side.

mod keeper;
mod trust;

use std::sync::atomic::{AtomicUsize, Ordering};

use culvert_proto::control::{Control, Hello, Registration};
use culvert_proto::head::Mode;
use culvert_proto::limits::Limits;
use culvert_proto::mux::Side;
use culvert_proto::names::EndpointName;
use culvert_session::tls::{ServerTrust, TlsMin, client_tls};
use culvert_session::upgrade::accept_key;
use culvert_session::{Controls, Incoming, SessionEvent};
use secrecy::SecretString;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use super::live::Choice;
use super::*;
use crate::policy::ActivePolicy;
use crate::serve::Accounts;
use crate::testing::{Connection, Identity, Server};

pub(super) fn token(text: &str) -> AccessToken {
    AccessToken {
        secret: SecretString::from(text),
        expires_at: Instant::now() + Duration::from_secs(3600),
        lifetime: Duration::from_secs(3600),
    }
}

pub(super) fn config(side: Side, name: &str) -> mux::Config {
    let hello = Hello {
        min_version: 1,
        max_version: 1,
        features: 0,
        name: name.into(),
        instance: [1; 16],
        software: SOFTWARE.into(),
        max_streams: 10,
        initial_window: 256 * 1024,
        lane: None,
        slot: None,
    };
    mux::Config {
        side,
        hello,
        limits: Limits::default(),
    }
}

fn offer(name: &str) -> Offer {
    let endpoint = EndpointName::new(name).unwrap();
    Offer {
        endpoint,
        modes: vec![Mode::Http],
        connect: vec![],
        priority: None,
    }
}

/// An agent without upstreams: sessions are all that matters here.
pub(super) struct Agent {
    pub(super) link: Arc<Link>,
    tokens: watch::Sender<Option<AccessToken>>,
    renewals: Arc<AtomicUsize>,
}

impl Agent {
    pub(super) fn new(relay: &str, trust: &ServerTrust) -> Self {
        let nothing = Arc::new(ActivePolicy::new(culvert_policy::Policy::deny_all(), false));
        let policy = watch::Sender::new(nothing);
        let tokens = watch::Sender::new(Some(token("one")));
        let renewals = Arc::new(AtomicUsize::new(0));
        let counter = renewals.clone();
        let tls = client_tls(trust, TlsMin::V13).unwrap();
        let link = Link {
            target: DialTarget::new(relay, tls).unwrap(),
            tokens: tokens.subscribe(),
            renew: Box::new(move || {
                counter.fetch_add(1, Ordering::Relaxed);
            }),
            mux: config(Side::Dialer, "agent-1"),
            lanes: 1,
            offers: vec![offer("vcenter"), offer("nsx")],
            serving: Arc::new(
                Serving::new(&[], "relay.example", policy.subscribe(), Accounts::idle()).unwrap(),
            ),
            reconnect: Duration::from_secs(15),
            stop: CancellationToken::new(),
            live: Arc::default(),
        };
        Self {
            link: Arc::new(link),
            tokens,
            renewals,
        }
    }

    fn in_memory() -> Self {
        Self::new("wss://relay.example", &ServerTrust::Pins(vec![[7; 32]]))
    }

    /// Waits until the status says that just these endpoints are refused.
    async fn refuses(&self, names: &[&str]) {
        let refused = || {
            let results = self.link.live.all()[0].registered();
            let refused = results.into_iter().filter(|r| r.refused.is_some());
            refused.map(|result| result.endpoint).collect::<Vec<_>>()
        };
        let agreed = async {
            while refused() != names {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = timeout(Duration::from_secs(10), agreed).await;
        assert!(in_time.is_ok(), "refused are {:?}", refused());
    }

    /// Begins a session over a connection in memory.
    fn begin(&self) -> (tokio::task::JoinHandle<Result<Running, Lost>>, DuplexStream) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let link = self.link.clone();
        let begun = tokio::spawn(async move {
            let mut slot = Slot::new(link, 0);
            slot.begin(WebSocketIo::dialer(near, vec![]), token("one"), true)
                .await
        });
        (begun, far)
    }
}

/// The relay's side of one session.
pub(super) struct RelaySide {
    session: Session,
    controls: Controls,
    _incoming: Incoming,
}

impl RelaySide {
    async fn over<IO>(io: IO) -> Self
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let config = config(Side::Acceptor, "relay-1");
        let (session, _incoming, controls) = Session::spawn(WebSocketIo::acceptor(io), config);
        session.ready().await.unwrap();
        Self {
            session,
            controls,
            _incoming,
        }
    }

    async fn control(&mut self) -> Control {
        match self.controls.recv().await.unwrap() {
            SessionEvent::Control(control) => control,
            other @ SessionEvent::Draining { .. } => panic!("{other:?}"),
        }
    }

    /// Takes a REGISTER and answers it; `refused` are the names that are refused.
    async fn register(&mut self, refused: &[&str]) {
        let Control::Register { request, offers } = self.control().await else {
            panic!("no REGISTER")
        };
        let result = |offer: Offer| {
            let no = refused.contains(&offer.endpoint.as_str());
            let refused = no.then(|| "not among the token's endpoints".to_owned());
            Registration {
                endpoint: offer.endpoint,
                refused,
            }
        };
        let results = offers.into_iter().map(result).collect();
        self.session
            .send_control(&Control::Registered { request, results })
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_begins_with_the_offer_of_every_endpoint() {
    let agent = Agent::in_memory();
    let (begun, far) = agent.begin();
    let mut relay = RelaySide::over(far).await;
    let Control::Register { request, offers } = relay.control().await else {
        panic!()
    };
    let names: Vec<&str> = offers.iter().map(|offer| offer.endpoint.as_str()).collect();
    assert_eq!(names, ["vcenter", "nsx"]);
    let results = offers
        .iter()
        .map(|offer| Registration {
            endpoint: offer.endpoint.clone(),
            refused: None,
        })
        .collect();
    relay
        .session
        .send_control(&Control::Registered { request, results })
        .unwrap();
    let running = begun.await.unwrap().unwrap();
    assert!(running.session.is_open());
    assert_eq!(agent.link.live.all().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_refuses_every_endpoint_is_left() {
    let agent = Agent::in_memory();
    let (begun, far) = agent.begin();
    let mut relay = RelaySide::over(far).await;
    relay.register(&["vcenter", "nsx"]).await;
    assert!(matches!(begun.await.unwrap().err(), Some(Lost::Nothing)));
    relay.session.closed().await;
}

#[tokio::test(start_paused = true)]
async fn one_endpoint_that_is_registered_is_reason_enough_to_stay() {
    let agent = Agent::in_memory();
    let (begun, far) = agent.begin();
    let mut relay = RelaySide::over(far).await;
    relay.register(&["nsx"]).await;
    begun.await.unwrap().unwrap();
    assert!(relay.session.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_does_not_greet_or_answer_is_given_up() {
    let agent = Agent::in_memory();
    let (begun, _far) = agent.begin();
    assert!(matches!(
        begun.await.unwrap().err(),
        Some(Lost::Greeting | Lost::Session(_))
    ));
    let (begun, far) = agent.begin();
    let relay = RelaySide::over(far).await;
    assert!(matches!(
        begun.await.unwrap().err(),
        Some(Lost::Registration)
    ));
    relay.session.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_says_why() {
    let agent = Agent::in_memory();
    let (begun, far) = agent.begin();
    let mut relay = RelaySide::over(far).await;
    relay.register(&[]).await;
    let running = begun.await.unwrap().unwrap();
    relay
        .session
        .close(GoawayCode::Revoked, "the operator said so");
    let lost = running.lost.await.unwrap();
    assert!(lost.to_string().contains("the operator said so"), "{lost}");
}

#[tokio::test(start_paused = true)]
async fn a_drained_session_goes_on_until_it_is_replaced_and_its_calls_are_done() {
    let agent = Agent::in_memory();
    let (begun, far) = agent.begin();
    let mut relay = RelaySide::over(far).await;
    relay.register(&[]).await;
    let mut running = begun.await.unwrap().unwrap();
    relay.session.drain(Duration::from_secs(3));
    let lost = (&mut running.lost).await.unwrap();
    assert_eq!(lost.floor(), Some(Duration::from_secs(3)));
    sleep(Duration::from_secs(60)).await;
    assert!(relay.session.is_open(), "nothing has taken over yet");
    running.replace();
    relay.session.closed().await;
}

/// What it carries may take hours.
#[tokio::test(start_paused = true)]
async fn a_session_that_was_replaced_leaves_its_node_to_others_at_once() {
    let agent = Agent::in_memory();
    let (running, relay) = begin(&mut Slot::new(agent.link.clone(), 0)).await;
    assert_eq!(agent.link.live.nodes(), 1);
    running.replace();
    let left = async {
        while agent.link.live.nodes() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(1), left).await.unwrap();
    assert!(relay.session.is_open());
}

/// Whatever a relay does to keep them.
#[tokio::test(start_paused = true)]
async fn a_slot_has_no_more_sessions_than_it_may_and_closes_the_oldest_first() {
    let agent = Agent::in_memory();
    let mut slot = Slot::new(agent.link.clone(), 0);
    let mut begun = Vec::new();
    for _ in 0..MAX_SESSIONS + 3 {
        begun.push(begin(&mut slot).await);
    }
    let open = begun.iter().map(|(running, _)| running.session.is_open());
    let expected = (0..MAX_SESSIONS + 3).map(|number| number >= 3);
    assert!(open.eq(expected));
}

/// A relay on loopback: what it is asked on each connection, and its side of those that it
/// accepts.
pub(super) async fn relay(
    refuse: Option<&'static str>,
) -> (Server, Identity, mpsc::Receiver<(String, RelaySide)>) {
    let identity = Identity::new(&["localhost"]);
    let (sender, accepted) = mpsc::channel(8);
    let server = Server::start(Some(&identity), move |mut connection: Connection| {
        let sender = sender.clone();
        async move {
            let Some(request) = connection.request().await else { return };
            if let Some(answer) = refuse {
                connection.send(answer).await;
                return;
            }
            let key = |line: &str| line.to_ascii_lowercase().strip_prefix("sec-websocket-key: ").map(|_| line[19..].to_owned());
            let key = request.lines().find_map(key).unwrap();
            connection
                .send(format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: culvert.v1\r\n\r\n",
                    accept_key(key.as_bytes())
                ))
                .await;
            let mut side = RelaySide::over(connection.into_io()).await;
            side.register(&[]).await;
            let session = side.session.clone();
            let _ = sender.send((request, side)).await;
            session.closed().await;
        }
    })
    .await;
    (server, identity, accepted)
}

pub(super) fn trust(identity: &Identity) -> ServerTrust {
    ServerTrust::Pins(vec![culvert_session::tls::pin_of(&identity.certificate)])
}

#[tokio::test]
async fn a_lost_session_is_replaced_by_itself_until_the_agent_stops() {
    let (server, identity, mut accepted) = relay(None).await;
    let url = format!("wss://localhost:{}", server.address.port());
    let agent = Agent::new(&url, &trust(&identity));
    let slot = tokio::spawn(Slot::new(agent.link.clone(), 0).keep());
    for round in 0..3 {
        let (request, side) = accepted.recv().await.unwrap();
        assert!(
            request.starts_with("GET /.culvert/v1/session HTTP/1.1\r\n"),
            "{request}"
        );
        let authorization = format!(
            "authorization: bearer {}",
            if round == 0 { "one" } else { "two" }
        );
        assert!(
            request.to_ascii_lowercase().contains(&authorization),
            "{request}"
        );
        agent.tokens.send_replace(Some(token("two")));
        side.session
            .close(GoawayCode::Internal, "this relay has a bad day");
    }
    let (_, side) = accepted.recv().await.unwrap();
    agent.link.stop.cancel();
    slot.await.unwrap();
    assert!(
        side.session.is_open(),
        "ending sessions is the drain's business"
    );
}

#[tokio::test]
async fn a_token_that_the_relay_refuses_is_renewed() {
    let refuse = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
    let (mut server, identity, _accepted) = relay(Some(refuse)).await;
    let url = format!("wss://localhost:{}", server.address.port());
    let agent = Agent::new(&url, &trust(&identity));
    let slot = tokio::spawn(Slot::new(agent.link.clone(), 0).keep());
    server.ended(2).await;
    assert!(agent.renewals.load(Ordering::Relaxed) >= 1);
    agent.link.stop.cancel();
    slot.await.unwrap();
}

#[tokio::test]
async fn without_a_token_the_agent_waits_and_dials_once_it_has_one() {
    let (server, identity, mut accepted) = relay(None).await;
    let url = format!("wss://localhost:{}", server.address.port());
    let agent = Agent::new(&url, &trust(&identity));
    agent.tokens.send_replace(None);
    let slot = tokio::spawn(Slot::new(agent.link.clone(), 0).keep());
    tokio::task::yield_now().await;
    assert_eq!(server.connections(), 0);
    agent.tokens.send_replace(Some(token("late")));
    let (request, _side) = accepted.recv().await.unwrap();
    assert!(request.contains("Bearer late"), "{request}");
    agent.link.stop.cancel();
    slot.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_sends_what_agents_send_is_left() {
    let agent = Agent::in_memory();
    for control in [
        Control::Auth {
            token: "x".to_owned(),
        },
        Control::Register {
            request: 1,
            offers: vec![offer("vcenter")],
        },
    ] {
        let (begun, far) = agent.begin();
        let mut relay = RelaySide::over(far).await;
        relay.register(&[]).await;
        let running = begun.await.unwrap().unwrap();
        relay.session.send_control(&control).unwrap();
        let ended = timeout(Duration::from_secs(1), running.lost).await;
        let lost = ended.expect("the session goes on").unwrap();
        assert_eq!(
            lost.to_string(),
            "the session ended: this side ended the session (protocol)"
        );
    }
}

/// A session that shares its node with another one, and its slot, which looks for another node
/// before long.
async fn sharing(agent: &Agent) -> (Slot, Running, RelaySide, Choice) {
    let other = agent.link.live.choose([1; 16], true).unwrap();
    let mut slot = Slot::new(agent.link.clone(), 0);
    let (running, relay) = begin(&mut slot).await;
    assert!(running.shares);
    (slot, running, relay, other)
}

/// A session of a slot, over a connection in memory.
async fn begin(slot: &mut Slot) -> (Running, RelaySide) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let io = WebSocketIo::dialer(near, vec![]);
    let (running, relay) = tokio::join!(slot.begin(io, token("one"), true), async {
        let mut relay = RelaySide::over(far).await;
        relay.register(&[]).await;
        relay
    });
    (running.unwrap(), relay)
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_looks_for_another_node_hears_that_the_agent_stops_or_its_session_is_lost() {
    for stops in [true, false] {
        let agent = Agent::in_memory();
        let (mut slot, mut running, relay, _other) = sharing(&agent).await;
        // From now on no attempt comes to an end.
        agent.tokens.send_replace(None);
        let end = async {
            sleep(2 * LOOK_AGAIN).await;
            match stops {
                true => agent.link.stop.cancel(),
                false => relay.session.close(GoawayCode::Internal, "a bad day"),
            }
        };
        let held = timeout(4 * LOOK_AGAIN, slot.hold(&mut running));
        let (held, ()) = tokio::join!(held, end);
        let lost = held.expect("it hears nothing");
        assert_eq!(lost.is_none(), stops, "{lost:?}");
    }
}

/// Nobody would dial again for it, and its node would be taken.
#[tokio::test(start_paused = true)]
async fn a_session_whose_attempt_is_given_up_does_not_stay() {
    let agent = Agent::in_memory();
    let (begun, far) = agent.begin();
    let mut relay = RelaySide::over(far).await;
    assert!(matches!(relay.control().await, Control::Register { .. }));
    begun.abort();
    let ended = timeout(Duration::from_secs(60), relay.session.closed()).await;
    ended.expect("it stays");
    assert_eq!(agent.link.live.nodes(), 0);
}

/// What a session says of its slot, so that the relay knows whose place it takes.
#[tokio::test]
async fn a_session_says_for_which_slot_it_is_and_whether_its_older_one_lives() {
    let (server, identity, mut accepted) = relay(None).await;
    let url = format!("wss://localhost:{}", server.address.port());
    let agent = Agent::new(&url, &trust(&identity));
    let slot = tokio::spawn(Slot::new(agent.link.clone(), 1).keep());
    let mut greeted = async || {
        let (_, side) = accepted.recv().await.unwrap();
        let slot = side.session.ready().await.unwrap().slot.unwrap();
        assert_eq!(slot.number, 1);
        (side, slot.older_lives)
    };
    let (first, older_lives) = greeted().await;
    assert!(!older_lives);
    first.session.drain(Duration::ZERO);
    let (second, older_lives) = greeted().await;
    assert!(older_lives, "make before break");
    first.session.closed().await;
    second.session.close(GoawayCode::Internal, "a bad day");
    let (_third, older_lives) = greeted().await;
    assert!(!older_lives);
    agent.link.stop.cancel();
    slot.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_the_relay_says_is_shown_to_operators() {
    let agent = Agent::in_memory();
    let (begun, far) = agent.begin();
    let mut relay = RelaySide::over(far).await;
    relay.register(&[]).await;
    let _running = begun.await.unwrap().unwrap();
    let text = "this session has taken the place of session 7".to_owned();
    let notice = Control::Notice { code: None, text };
    relay.session.send_control(&notice).unwrap();
    sleep(Duration::from_secs(1)).await;
    let said = agent.link.live.all()[0].notice().unwrap().text;
    assert!(said.contains("the place of session 7"), "{said}");
}
