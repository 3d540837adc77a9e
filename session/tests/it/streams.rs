//! Streams as their users see them.

use std::io;

use bytes::Bytes;
use culvert_proto::code::ResetCode;
use culvert_proto::head::{BodyLength, Head};
use culvert_proto::mux::{Item, StreamError};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::support::{
    WINDOW, answer, assert_bounded, call, pair, read_all, settle, settled, soon, stream,
};

#[tokio::test(start_paused = true)]
async fn a_call_and_its_answer_cross_whole() {
    let (relay, mut agent) = pair().await;
    let mut near = relay
        .session
        .open(&call(), Bytes::from_static(b"question"), true)
        .unwrap();
    let (head, mut far) = agent.incoming.accept().await.unwrap();
    assert_eq!(head.target, "/sdk");
    assert_eq!(head.caller.subject, "director-7");
    assert_eq!(read_all(&mut far.recv).await, b"question");

    far.send
        .send_head(&answer(BodyLength::Unknown))
        .await
        .unwrap();
    far.send
        .write_bytes(Bytes::from_static(b"answer"))
        .await
        .unwrap();
    far.send.finish().unwrap();
    let Item::Head(Head::Response(head)) = near.recv.item().await.unwrap() else {
        panic!()
    };
    assert_eq!(head.status, http::StatusCode::OK);
    assert_eq!(read_all(&mut near.recv).await, b"answer");
    assert!(
        matches!(near.recv.item().await, Ok(Item::Finished)),
        "the end stays the end"
    );
}

#[tokio::test(start_paused = true)]
async fn both_sides_open_streams() {
    let (mut dialer, mut acceptor) = pair().await;
    let (mut a, mut b) = stream(&dialer, &mut acceptor).await;
    let (mut c, mut d) = stream(&acceptor, &mut dialer).await;
    assert_ne!(a.id(), c.id());
    a.write_all(b"one").await.unwrap();
    c.write_all(b"two").await.unwrap();
    let mut bytes = [0; 3];
    b.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"one");
    d.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"two");
}

#[tokio::test(start_paused = true)]
async fn an_end_of_one_direction_leaves_the_other_open() {
    let (relay, mut agent) = pair().await;
    let (mut near, mut far) = stream(&relay, &mut agent).await;
    near.shutdown().await.unwrap();
    let mut nothing = Vec::new();
    far.read_to_end(&mut nothing).await.unwrap();
    assert!(nothing.is_empty());
    far.write_all(b"still here").await.unwrap();
    far.shutdown().await.unwrap();
    let mut text = String::new();
    near.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "still here");
}

/// The bytes at `from..from + length` of an endless pattern.
fn pattern(from: usize, length: usize) -> Bytes {
    (from..from + length).map(|at| (at % 251) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_mebibytes_cross_both_ways_at_once_in_bounded_memory() {
    const SIZE: usize = 64 << 20;
    const PIECE: usize = 251 * 200;
    let (relay, mut agent) = pair().await;
    let (near, far) = stream(&relay, &mut agent).await;
    let piece = pattern(0, PIECE);
    let mut tasks = JoinSet::new();
    for (mut send, mut recv) in [near.split(), far.split()] {
        let piece = piece.clone();
        tasks.spawn(async move {
            let mut left = SIZE;
            while left > 0 {
                let part = piece.slice(..PIECE.min(left));
                left -= part.len();
                send.write_bytes(part).await.unwrap();
            }
            send.finish().unwrap();
        });
        let (piece, sessions) = (
            pattern(0, 2 << 20),
            [relay.session.clone(), agent.session.clone()],
        );
        tasks.spawn(async move {
            let mut received = 0;
            loop {
                match recv.item().await.unwrap() {
                    Item::Data(data) => {
                        let from = received % 251;
                        assert!(data == piece[from..from + data.len()]);
                        received += data.len();
                    }
                    Item::Finished => break,
                    Item::Head(head) => panic!("{head:?}"),
                }
                sessions.iter().for_each(assert_bounded);
            }
            assert_eq!(received, SIZE);
        });
    }
    soon(tasks.join_all()).await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_stops_its_writer_and_nobody_else() {
    let (relay, mut agent) = pair().await;
    let (mut stuck, mut unread) = stream(&relay, &mut agent).await;
    let piece = pattern(0, 16 * 1024);
    let mut written = 0;
    while let Some(result) = settled(stuck.send.write_bytes(piece.clone())).await {
        result.unwrap();
        written += piece.len();
    }
    assert!(written >= WINDOW);
    [&relay, &agent]
        .iter()
        .for_each(|end| assert_bounded(&end.session));

    // Others go on, far beyond what the stuck one may hold.
    let (mut near, mut far) = stream(&relay, &mut agent).await;
    let sending = async {
        for _ in 0..512 {
            near.send.write_bytes(piece.clone()).await.unwrap();
        }
        near.send.finish().unwrap();
    };
    let (received, ()) = soon(async { tokio::join!(read_all(&mut far.recv), sending) }).await;
    assert_eq!(received.len(), 512 * piece.len());

    // And the stuck one goes on as soon as it is read.
    let reading = async {
        loop {
            unread.recv.item().await.unwrap();
        }
    };
    tokio::select! {
        result = soon(stuck.send.write_bytes(piece.clone())) => result.unwrap(),
        () = reading => unreachable!(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_streams_at_once_each_get_their_own_bytes_back() {
    let (relay, mut agent) = pair().await;
    tokio::spawn(async move {
        while let Some((_, mut stream)) = agent.incoming.accept().await {
            tokio::spawn(async move {
                stream
                    .send
                    .send_head(&answer(BodyLength::Unknown))
                    .await
                    .unwrap();
                let (mut read, mut write) = tokio::io::split(stream);
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            });
        }
    });
    let mut calls = JoinSet::new();
    for number in 0..1000 {
        let session = relay.session.clone();
        calls.spawn(async move {
            let text = Bytes::from(format!("call {number} ").repeat(100));
            let mut stream = session.open(&call(), text.clone(), true).unwrap();
            assert!(matches!(
                stream.recv.item().await,
                Ok(Item::Head(Head::Response(_)))
            ));
            assert_eq!(read_all(&mut stream.recv).await, text);
        });
    }
    soon(calls.join_all()).await;
    while relay.session.stream_count() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_seen_by_both_halves_of_the_peer_and_by_ones_own_other_half() {
    let (relay, mut agent) = pair().await;
    let (near, far) = stream(&relay, &mut agent).await;
    let ((mut near_send, mut near_recv), (mut far_send, mut far_recv)) =
        (near.split(), far.split());
    let own = tokio::spawn(async move { near_recv.item().await });
    let stopped = tokio::spawn(async move { far_send.stopped().await });
    let reading = tokio::spawn(async move { far_recv.item().await });
    settle().await;
    near_send.reset(ResetCode::Withdrawn);
    let reset = StreamError::Reset(ResetCode::Withdrawn);
    assert_eq!(soon(stopped).await.unwrap(), reset);
    assert_eq!(soon(reading).await.unwrap().unwrap_err(), reset);
    assert_eq!(soon(own).await.unwrap().unwrap_err(), reset);
    assert!(
        near_send
            .write_bytes(Bytes::from_static(b"x"))
            .await
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_reaches_a_writer_that_waits_for_credit_and_one_that_waits_for_nothing() {
    let (relay, mut agent) = pair().await;
    for fill in [true, false] {
        let (near, mut far) = stream(&relay, &mut agent).await;
        let (mut send, _recv) = near.split();
        let writer = tokio::spawn(async move {
            if !fill {
                return send.stopped().await;
            }
            loop {
                if let Err(error) = send.write_bytes(pattern(0, 16 * 1024)).await {
                    return error;
                }
            }
        });
        settle().await;
        far.recv.stop(ResetCode::NotNeeded);
        assert_eq!(
            soon(writer).await.unwrap(),
            StreamError::Stopped(ResetCode::NotNeeded)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_comes_before_its_call_is_accepted_is_not_lost() {
    let (relay, mut agent) = pair().await;
    let mut near = relay.session.open(&call(), Bytes::new(), true).unwrap();
    near.recv.stop(ResetCode::Cancelled);
    settle().await;
    let (_, mut far) = agent.incoming.accept().await.unwrap();
    assert_eq!(
        settled(far.send.stopped()).await,
        Some(StreamError::Stopped(ResetCode::Cancelled))
    );
}

#[tokio::test(start_paused = true)]
async fn dropped_handles_cancel_and_never_look_like_an_end() {
    let (relay, mut agent) = pair().await;
    let (near, mut far) = stream(&relay, &mut agent).await;
    let (send, recv) = near.split();
    drop(send);
    let error = soon(far.recv.item()).await.unwrap_err();
    assert_eq!(error, StreamError::Reset(ResetCode::Cancelled));
    drop((recv, far));

    let (near, mut far) = stream(&relay, &mut agent).await;
    let (mut send, recv) = near.split();
    drop(recv);
    assert_eq!(
        soon(far.send.stopped()).await,
        StreamError::Stopped(ResetCode::Cancelled)
    );
    // The other direction is not touched.
    send.write_bytes(Bytes::from_static(b"x")).await.unwrap();
    send.finish().unwrap();
    assert_eq!(read_all(&mut far.recv).await, b"x");
    drop((send, far));

    settle().await;
    assert_eq!(
        (relay.session.stream_count(), agent.session.stream_count()),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_reader_learns_that_its_own_sending_half_was_dropped() {
    let (relay, mut agent) = pair().await;
    let (near, _far) = stream(&relay, &mut agent).await;
    let (send, mut recv) = near.split();
    let reading = tokio::spawn(async move { recv.item().await });
    settle().await;
    drop(send);
    let error = soon(reading).await.unwrap().unwrap_err();
    assert_eq!(error, StreamError::Reset(ResetCode::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn a_finished_stream_takes_nothing_more() {
    let (relay, mut agent) = pair().await;
    let (mut near, _far) = stream(&relay, &mut agent).await;
    near.send.finish().unwrap();
    let error = near
        .send
        .write_bytes(Bytes::from_static(b"x"))
        .await
        .unwrap_err();
    assert_eq!(error, StreamError::Finished);
}

#[tokio::test(start_paused = true)]
async fn vectored_writes_are_gathered() {
    let (relay, mut agent) = pair().await;
    let (mut near, mut far) = stream(&relay, &mut agent).await;
    assert!(near.is_write_vectored());
    let slices = [
        io::IoSlice::new(b"a piece "),
        io::IoSlice::new(b""),
        io::IoSlice::new(b"here"),
    ];
    assert_eq!(near.write_vectored(&slices).await.unwrap(), 12);
    near.shutdown().await.unwrap();
    assert_eq!(read_all(&mut far.recv).await, b"a piece here");
}
