//! How sessions end, and who learns of it.

use std::time::Duration;

use bytes::Bytes;
use culvert_proto::code::{GoawayCode, ResetCode};
use culvert_proto::control::Control;
use culvert_proto::limits::Limits;
use culvert_proto::mux::{self, Item, OpenError, Side, StreamError};
use culvert_session::{SessionError, SessionEvent, WebSocketIo};
use tokio::time::Instant;

use crate::support::{
    End, call, config, connection, pair, pair_over_wire, read_all, settle, soon, stream,
};

const TEXT: Bytes = Bytes::from_static(b"what came before");

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_fails_everything_at_once_but_what_has_arrived() {
    let (mut relay, mut agent, wire) = pair_over_wire().await;
    let (mut whole, mut whole_far) = stream(&relay, &mut agent).await;
    let (mut cut, mut cut_far) = stream(&relay, &mut agent).await;
    for far in [&mut whole_far, &mut cut_far] {
        far.send.write_bytes(TEXT).await.unwrap();
    }
    whole_far.send.finish().unwrap();
    settle().await;
    let before = Instant::now();
    wire.cut();

    assert!(matches!(relay.session.closed().await, SessionError::Io(_)));
    assert!(matches!(agent.session.closed().await, SessionError::Io(_)));
    assert_eq!(soon(whole.send.stopped()).await, StreamError::SessionLost);
    assert_eq!(
        read_all(&mut whole.recv).await,
        TEXT,
        "a whole answer stays whole"
    );
    assert!(matches!(cut.recv.item().await, Ok(Item::Data(data)) if data == TEXT));
    assert_eq!(cut.recv.item().await.unwrap_err(), StreamError::SessionLost);
    assert_eq!(
        cut.send.write_bytes(TEXT).await,
        Err(StreamError::SessionLost)
    );
    assert_eq!(cut.send.finish(), Err(StreamError::SessionLost));
    let refused = relay.session.open(&call(), Bytes::new(), true).unwrap_err();
    assert_eq!(refused, OpenError::Closed);
    assert!(relay.incoming.accept().await.is_none());
    assert!(relay.controls.recv().await.is_none());
    assert!(!relay.session.is_open());
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_dropped_is_not_wanted_any_more_and_by_a_panic_a_defect() {
    let (relay, mut agent, _wire) = pair_over_wire().await;
    for (defect, code) in [(false, ResetCode::Cancelled), (true, ResetCode::Internal)] {
        let (mut near, far) = stream(&relay, &mut agent).await;
        let holder = tokio::spawn(async move {
            let _far = far;
            assert!(!defect, "a defect");
        });
        assert_eq!(holder.await.is_err(), defect);
        let error = near.recv.item().await.unwrap_err();
        assert_eq!(error, StreamError::Reset(code));
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_falls_silent_is_known_to_be_dead_within_fifteen_seconds() {
    let (relay, mut agent, wire) = pair_over_wire().await;
    let (mut near, _far) = stream(&relay, &mut agent).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(relay.session.is_open(), "an idle session lives");
    assert!(relay.session.rtt().is_some());

    wire.silence();
    let silent = Instant::now();
    let error = near.recv.item().await.unwrap_err();
    assert_eq!(error, StreamError::SessionLost);
    let Limits {
        dead_after,
        ping_interval,
        ..
    } = Limits::default();
    let waited = silent.elapsed();
    assert!(
        waited <= dead_after + Duration::from_millis(10) && waited < Duration::from_secs(15),
        "{waited:?}"
    );
    assert!(waited >= dead_after - ping_interval, "{waited:?}");
    assert!(matches!(
        agent.session.closed().await,
        SessionError::Protocol(mux::SessionError::Timeout(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_greets_is_given_up() {
    let (near, _far) = connection();
    let end = End::over(WebSocketIo::dialer(near, vec![]), config(Side::Dialer));
    let error = end.session.open(&call(), Bytes::new(), true).unwrap_err();
    assert_eq!(error, OpenError::NotReady);
    let before = Instant::now();
    let error = end.session.ready().await.unwrap_err();
    assert!(
        matches!(error, SessionError::Protocol(mux::SessionError::Timeout(_))),
        "{error}"
    );
    assert!(before.elapsed() < Limits::default().hello_timeout + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_drained_session_takes_no_new_streams_and_finishes_the_old_ones() {
    let (relay, mut agent) = pair().await;
    let (mut near, mut far) = stream(&relay, &mut agent).await;
    relay.session.drain(Duration::from_secs(3));
    let Some(SessionEvent::Draining { code, retry_after }) = soon(agent.controls.recv()).await
    else {
        panic!("the agent learns of the drain");
    };
    assert_eq!(
        (code, retry_after),
        (GoawayCode::Drain, Duration::from_secs(3))
    );
    assert!(relay.session.is_draining() && agent.session.is_draining());
    for end in [&relay, &agent] {
        let error = end.session.open(&call(), Bytes::new(), true).unwrap_err();
        assert_eq!(error, OpenError::Draining);
    }
    far.send.write_bytes(TEXT).await.unwrap();
    far.send.finish().unwrap();
    assert_eq!(read_all(&mut near.recv).await, TEXT);
    assert!(relay.session.is_open() && agent.session.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_closed_session_ends_on_both_sides_with_the_code_and_the_reason() {
    let (relay, mut agent) = pair().await;
    let (_near, mut far) = stream(&relay, &mut agent).await;
    relay
        .session
        .close(GoawayCode::TokenExpired, "the token has expired");
    let error = agent.session.closed().await.to_string();
    assert!(error.contains("token-expired"), "{error}");
    assert!(error.contains("the token has expired"), "{error}");
    let error = relay.session.clone().closed().await.to_string();
    assert!(error.contains("token-expired"), "{error}");
    assert_eq!(far.recv.item().await.unwrap_err(), StreamError::SessionLost);
    assert!(agent.incoming.accept().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_session_lives_as_long_as_its_last_handle() {
    let (relay, mut agent) = pair().await;
    let (mut near, mut far) = stream(&relay, &mut agent).await;
    drop(relay);
    far.send.write_bytes(TEXT).await.unwrap();
    assert!(matches!(soon(near.recv.item()).await, Ok(Item::Data(data)) if data == TEXT));
    assert!(agent.session.is_open());
    drop(near);
    soon(agent.session.closed()).await;
}

#[test]
fn handles_outlive_the_runtime_and_learn_of_its_end() {
    let driving = tokio::runtime::Runtime::new().unwrap();
    let ((relay, mut near), _agent) = driving.block_on(async {
        let (relay, mut agent) = pair().await;
        let (near, far) = stream(&relay, &mut agent).await;
        ((relay, near), (agent, far))
    });
    drop(driving);
    let watching = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    watching.block_on(async {
        assert!(matches!(
            relay.session.closed().await,
            SessionError::Aborted
        ));
        assert_eq!(
            near.recv.item().await.unwrap_err(),
            StreamError::SessionLost
        );
        assert_eq!(near.send.stopped().await, StreamError::SessionLost);
    });
}

#[tokio::test(start_paused = true)]
async fn calls_that_nobody_accepts_are_refused() {
    let (relay, agent) = pair().await;
    let mut early = relay.session.open(&call(), Bytes::new(), true).unwrap();
    settle().await;
    drop(agent.incoming);
    let mut late = relay.session.open(&call(), Bytes::new(), true).unwrap();
    for stream in [&mut early, &mut late] {
        let error = soon(stream.recv.item()).await.unwrap_err();
        assert_eq!(error, StreamError::Reset(ResetCode::Refused));
    }
    assert!(agent.session.is_open());
}

fn notice(number: usize) -> Control {
    Control::Notice {
        code: None,
        text: format!("notice {number}"),
    }
}

#[tokio::test(start_paused = true)]
async fn control_messages_arrive_in_order_and_too_many_unread_ones_end_the_session() {
    let (relay, mut agent) = pair().await;
    for number in 0..100 {
        relay.session.send_control(&notice(number)).unwrap();
        let Some(SessionEvent::Control(Control::Notice { text, .. })) = agent.controls.recv().await
        else {
            panic!("a notice was sent");
        };
        assert_eq!(text, format!("notice {number}"));
    }
    let mut unread = 0;
    while relay.session.send_control(&notice(unread)).is_ok() {
        unread += 1;
        assert!(unread < 200, "nobody reads, and yet it goes on");
        settle().await;
    }
    let error = agent.session.closed().await.to_string();
    assert!(error.contains("flood"), "{error}");
    // What was queued before is still there, and no more than that.
    let mut left = 0;
    while agent.controls.recv().await.is_some() {
        left += 1;
    }
    assert!((1..=32).contains(&left), "{left}");
}

#[tokio::test(start_paused = true)]
async fn a_session_answers_while_its_streams_are_full_of_data() {
    // A writer that fills its window must not keep control, pings or small calls from passing.
    let (relay, mut agent) = pair().await;
    let (mut bulk, _unread) = stream(&relay, &mut agent).await;
    let writer = tokio::spawn(async move {
        while bulk
            .send
            .write_bytes(Bytes::from(vec![0; 64 * 1024]))
            .await
            .is_ok()
        {}
    });
    settle().await;
    relay.session.send_control(&notice(1)).unwrap();
    assert!(soon(agent.controls.recv()).await.is_some());
    let (mut near, mut far) = soon(stream(&relay, &mut agent)).await;
    near.send.finish().unwrap();
    assert!(read_all(&mut far.recv).await.is_empty());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(relay.session.is_open());
    writer.abort();
}
