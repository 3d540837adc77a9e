//! Sessions over several connections, from the side that opens streams.

use std::time::Duration;

use bytes::Bytes;
use culvert_proto::code::GoawayCode;
use culvert_proto::head::BodyLength;
use culvert_proto::limits::Limits;
use culvert_proto::mux::{self, Item, Side};
use culvert_session::{JoinError, OpenError, SessionError, SessionEvent, Stream, StreamError};
use culvert_session::{Session, WebSocketIo};

use crate::support::{
    End, Wire, answer, call, config, config_with, connection, pair, pair_over_wire, settle,
    settled, soon,
};

/// A session of several connections; the first of each list is the session.
struct Laned {
    relay: Vec<End>,
    agent: Vec<End>,
    wires: Vec<Wire>,
}

impl Laned {
    async fn new(lanes: usize) -> Self {
        let (mut relay, mut agent, mut wires) = (vec![], vec![], vec![]);
        for _ in 0..lanes {
            let (dialer, acceptor, wire) = pair_over_wire().await;
            if let Some(End { session, .. }) = relay.first() {
                session.join(&acceptor.session, lanes).unwrap();
            }
            if let Some(End { session, .. }) = agent.first() {
                session.join(&dialer.session, lanes).unwrap();
            }
            relay.push(acceptor);
            agent.push(dialer);
            wires.push(wire);
        }
        Self {
            relay,
            agent,
            wires,
        }
    }

    fn session(&self) -> &Session {
        &self.relay[0].session
    }

    fn open(&self) -> Stream {
        self.session().open(&call(), Bytes::new(), false).unwrap()
    }

    /// The streams of each lane alone.
    fn streams(&self) -> Vec<usize> {
        let lanes = self.relay.iter().enumerate();
        let others: usize = self.relay[1..]
            .iter()
            .filter(|lane| lane.session.is_open())
            .map(|lane| lane.session.stream_count())
            .sum();
        lanes
            .map(|(at, lane)| lane.session.stream_count() - if at == 0 { others } else { 0 })
            .collect()
    }

    /// On which lane the stream is that was opened since `before`.
    fn grown(&self, before: &[usize]) -> usize {
        let now = self.streams();
        let at = now.iter().zip(before).position(|(now, was)| now > was);
        at.expect("a stream was opened")
    }

    /// Opens a stream, which the agent accepts; says on which lane it is.
    async fn stream(&mut self) -> (usize, Stream, Stream) {
        let before = self.streams();
        let near = self.open();
        let lane = self.grown(&before);
        let (_, far) = soon(self.agent[lane].incoming.accept()).await.unwrap();
        (lane, near, far)
    }
}

async fn item(stream: &mut Stream) -> Result<Item, StreamError> {
    soon(stream.recv.item()).await
}

#[tokio::test(start_paused = true)]
async fn streams_are_spread_over_lanes_that_are_as_good_as_each_other() {
    let laned = Laned::new(3).await;
    assert_eq!(laned.session().lanes(), 3);
    let streams: Vec<_> = (0..9).map(|_| laned.open()).collect();
    assert_eq!(laned.streams(), [3, 3, 3]);
    assert_eq!(laned.session().stream_count(), 9);
    settle().await;
    assert_eq!(laned.session().stats().opened, 9);
    drop(streams);
    settle().await;
    assert_eq!(laned.session().stream_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_works_on_every_lane() {
    let mut laned = Laned::new(3).await;
    let mut seen = [0; 3];
    for _ in 0..9 {
        let (lane, mut near, mut far) = laned.stream().await;
        seen[lane] += 1;
        far.send
            .send_head(&answer(BodyLength::Unknown))
            .await
            .unwrap();
        far.send
            .write_bytes(Bytes::from_static(b"hello"))
            .await
            .unwrap();
        far.send.finish().unwrap();
        assert!(matches!(item(&mut near).await, Ok(Item::Head(_))));
        assert!(matches!(item(&mut near).await, Ok(Item::Data(data)) if data == "hello"));
        assert!(matches!(item(&mut near).await, Ok(Item::Finished)));
        near.send.finish().unwrap();
        drop((near, far));
        settle().await;
    }
    assert_eq!(seen, [3, 3, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_lane_on_which_much_waits_to_be_sent_gets_no_further_stream() {
    let mut laned = Laned::new(2).await;
    let (busy, mut near, _far) = laned.stream().await;
    // More than the agent's window: the rest waits here, since the agent does not read.
    let upload = Bytes::from(vec![7; 400 * 1024]);
    let mut writing = Box::pin(near.send.write_bytes(upload));
    assert!(settled(&mut writing).await.is_some());
    assert!(laned.relay[busy].session.stats().queued > 0);
    let before = laned.streams();
    let _further: Vec<_> = (0..16).map(|_| laned.open()).collect();
    let now = laned.streams();
    assert_eq!(now[busy], before[busy]);
    assert_eq!(now[1 - busy], before[1 - busy] + 16);
}

#[tokio::test(start_paused = true)]
async fn a_download_counts_for_more_than_a_call_while_it_lasts() {
    let mut laned = Laned::new(2).await;
    let (busy, mut near, mut far) = laned.stream().await;
    far.send
        .send_head(&answer(BodyLength::Unknown))
        .await
        .unwrap();
    far.send
        .write_bytes(Bytes::from(vec![7; 100 * 1024]))
        .await
        .unwrap();
    let mut got = 0;
    while got < 100 * 1024 {
        if let Item::Data(data) = item(&mut near).await.unwrap() {
            got += data.len();
        }
    }
    // Nothing waits to be sent anywhere. The download has its stream and its window to count.
    let mut further = Vec::new();
    while laned.streams()[busy] == 1 {
        further.push(laned.open());
    }
    assert_eq!(laned.streams()[1 - busy], 17, "{:?}", laned.streams());
    drop(further);
    near.send.finish().unwrap();
    far.send.finish().unwrap();
    assert!(matches!(item(&mut near).await, Ok(Item::Finished)));
    drop((near, far));
    settle().await;
    assert_eq!(laned.streams(), [0, 0]);
    let _again: Vec<_> = (0..8).map(|_| laned.open()).collect();
    assert_eq!(laned.streams(), [4, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_full_lane_is_passed_over_and_a_full_session_says_so() {
    let narrow = |side, max_opened| {
        let limits = Limits {
            max_opened,
            ..Limits::default()
        };
        config_with(side, limits)
    };
    let mut ends = Vec::new();
    for max_opened in [1, 3] {
        let (near, far) = connection();
        let dialer = End::over(WebSocketIo::dialer(near, vec![]), config(Side::Dialer));
        let acceptor = narrow(Side::Acceptor, max_opened);
        let acceptor = End::over(WebSocketIo::acceptor(far), acceptor);
        acceptor.session.ready().await.unwrap();
        ends.push((dialer, acceptor));
    }
    let session = &ends[0].1.session;
    session.join(&ends[1].1.session, 2).unwrap();
    let open = || session.open(&call(), Bytes::new(), false);
    let _streams: Vec<_> = (0..4).map(|_| open().unwrap()).collect();
    assert_eq!(ends[1].1.session.stream_count(), 3);
    assert_eq!(open().unwrap_err(), OpenError::TooManyStreams);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lane_costs_its_own_streams_and_no_others() {
    let mut laned = Laned::new(3).await;
    let mut streams = Vec::new();
    for _ in 0..6 {
        streams.push(laned.stream().await);
    }
    laned.wires.remove(1).cut();
    settle().await;
    assert_eq!(laned.session().lanes(), 2);
    assert!(laned.session().is_open());
    for (lane, near, far) in &mut streams {
        if *lane == 1 {
            assert_eq!(item(near).await.unwrap_err(), StreamError::SessionLost);
            assert_eq!(item(far).await.unwrap_err(), StreamError::SessionLost);
        } else {
            let data = Bytes::from_static(b"still here");
            near.send.write_bytes(data.clone()).await.unwrap();
            assert!(matches!(item(far).await, Ok(Item::Data(came)) if came == data));
        }
    }
    drop(streams);
    settle().await;
    let _streams: Vec<_> = (0..4).map(|_| laned.open()).collect();
    assert_eq!(laned.streams(), [2, 0, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lane_makes_room_for_another() {
    let mut laned = Laned::new(2).await;
    let (_dialer, acceptor) = pair().await;
    let join = |laned: &Laned| laned.session().join(&acceptor.session, 2);
    assert_eq!(join(&laned), Err(JoinError::Full));
    laned.wires.remove(1).cut();
    settle().await;
    assert_eq!(join(&laned), Ok(()));
    assert_eq!(laned.session().lanes(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_first_connection_ends_every_lane_on_both_sides() {
    let mut laned = Laned::new(3).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(laned.stream().await);
    }
    laned.wires.remove(0).cut();
    for end in laned.relay.iter().chain(&laned.agent) {
        soon(end.session.closed()).await;
    }
    for (_, near, far) in &mut streams {
        assert_eq!(item(near).await.unwrap_err(), StreamError::SessionLost);
        assert_eq!(item(far).await.unwrap_err(), StreamError::SessionLost);
    }
    let refused = laned.session().open(&call(), Bytes::new(), true);
    assert_eq!(refused.unwrap_err(), OpenError::Closed);
    settle().await;
    assert_eq!(laned.session().lanes(), 1, "nothing is remembered");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_closed_tells_the_reason_on_every_lane() {
    let laned = Laned::new(3).await;
    laned
        .session()
        .close(GoawayCode::Revoked, "the operator said so");
    for end in &laned.agent {
        let error = soon(end.session.closed()).await;
        assert!(
            matches!(
                error,
                SessionError::Protocol(mux::SessionError::Closed {
                    code: GoawayCode::Revoked,
                    ..
                })
            ),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_covers_every_lane_and_lets_streams_finish() {
    let mut laned = Laned::new(3).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(laned.stream().await);
    }
    laned.agent[0].session.drain(Duration::ZERO);
    for end in &mut laned.relay {
        let event = soon(end.controls.recv()).await;
        assert!(matches!(event, Some(SessionEvent::Draining { .. })));
    }
    assert!(laned.session().is_draining());
    let refused = laned.session().open(&call(), Bytes::new(), true);
    assert_eq!(refused.unwrap_err(), OpenError::Draining);
    for (_, near, far) in &mut streams {
        let data = Bytes::from_static(b"the last words");
        near.send.write_bytes(data.clone()).await.unwrap();
        near.send.finish().unwrap();
        assert!(matches!(item(far).await, Ok(Item::Data(came)) if came == data));
        assert!(matches!(item(far).await, Ok(Item::Finished)));
    }
    let (_dialer, acceptor) = pair().await;
    let late = laned.session().join(&acceptor.session, 8);
    assert_eq!(late, Err(JoinError::Ending));
    assert!(acceptor.session.is_open(), "it is as it was");
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_drains_alone_gets_no_further_streams() {
    let laned = Laned::new(2).await;
    laned.agent[1].session.drain(Duration::ZERO);
    settle().await;
    assert!(!laned.session().is_draining());
    let _streams: Vec<_> = (0..4).map(|_| laned.open()).collect();
    assert_eq!(laned.streams(), [4, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_first_connection_ends_the_session_and_a_silent_lane_itself() {
    let laned = Laned::new(3).await;
    laned.wires[1].silence();
    soon(laned.relay[1].session.closed()).await;
    settle().await;
    assert_eq!(laned.session().lanes(), 2);
    laned.wires[0].silence();
    for end in &laned.relay {
        soon(end.session.closed()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_holds_takes_its_lanes_with_it() {
    let Laned {
        mut relay, agent, ..
    } = {
        let laned = Laned::new(2).await;
        settle().await;
        laned
    };
    drop(relay.remove(0));
    soon(agent[0].session.closed()).await;
    soon(agent[1].session.closed()).await;
    assert!(!relay[0].session.is_open());
}
