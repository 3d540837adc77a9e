//! Streams as HTTP bodies.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use culvert_proto::code::{GoawayCode, ResetCode};
use culvert_proto::head::{BodyLength, Head};
use culvert_proto::mux::{Item, StreamError};
use culvert_session::body::{RecvBody, RecvBodyError, SendBodyError, send_body};
use culvert_session::{SendStream, Stream};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody};

use crate::support::{End, answer, call, pair, read_all, settle, soon, stream};

const TEXT: Bytes = Bytes::from_static(b"twelve bytes");

/// Sends `TEXT` and what `end` adds; gives the receiving side as a body of `length`.
async fn body_of(
    (relay, agent): &mut (End, End),
    length: BodyLength,
    end: impl AsyncFnOnce(&mut SendStream),
) -> RecvBody {
    let (mut near, far) = stream(relay, agent).await;
    near.send.write_bytes(TEXT).await.unwrap();
    end(&mut near.send).await;
    settle().await;
    RecvBody::new(far.recv, length)
}

#[tokio::test(start_paused = true)]
async fn an_exact_length_is_announced_and_kept() {
    let mut ends = pair().await;
    let mut body = body_of(&mut ends, BodyLength::Exact(12), async |send| {
        send.finish().unwrap()
    })
    .await;
    assert_eq!(body.size_hint().exact(), Some(12));
    assert!(!body.is_end_stream());
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), TEXT);
    assert!(body.is_end_stream(), "the end is known with the last byte");
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.frame().await.is_none());
    assert!(body.frame().await.is_none());

    let empty = body_of(&mut ends, BodyLength::Empty, async |_| {}).await;
    assert!(empty.is_end_stream());
    let unknown = body_of(&mut ends, BodyLength::Unknown, async |send| {
        send.finish().unwrap()
    });
    let unknown = unknown.await;
    assert_eq!(unknown.size_hint().exact(), None);
    assert_eq!(unknown.collect().await.unwrap().to_bytes(), TEXT);
}

#[tokio::test(start_paused = true)]
async fn trailers_come_after_the_data_whatever_the_length() {
    let mut ends = pair().await;
    for length in [BodyLength::Unknown, BodyLength::Exact(12)] {
        let body = body_of(&mut ends, length, async |send| {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-checksum", "7".parse().unwrap());
            send.send_head(&Head::Trailers(trailers)).await.unwrap();
            send.finish().unwrap();
        })
        .await;
        let all = body.collect().await.unwrap();
        assert_eq!(all.trailers().unwrap()["x-checksum"], "7");
        assert_eq!(all.to_bytes(), TEXT);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_cut_short_is_an_error_and_never_an_end() {
    let mut ends = pair().await;
    let finish = async |send: &mut SendStream| send.finish().unwrap();
    let reset = async |send: &mut SendStream| send.reset(ResetCode::Truncated);
    let error = |body: RecvBody| async { body.collect().await.map(drop).unwrap_err() };

    let body = body_of(&mut ends, BodyLength::Exact(20), finish).await;
    assert_eq!(error(body).await, RecvBodyError::Short { missing: 8 });
    let body = body_of(&mut ends, BodyLength::Exact(11), finish).await;
    assert_eq!(error(body).await, RecvBodyError::Long);
    for length in [
        BodyLength::Unknown,
        BodyLength::Exact(20),
        BodyLength::Exact(12),
    ] {
        let body = body_of(&mut ends, length, reset).await;
        let reset = RecvBodyError::Stream(StreamError::Reset(ResetCode::Truncated));
        assert_eq!(error(body).await, reset);
    }

    // A body of which somebody forgot to take the head first.
    let near = ends.0.session.open(&call(), Bytes::new(), false).unwrap();
    let (_, mut far) = ends.1.incoming.accept().await.unwrap();
    far.send
        .send_head(&answer(BodyLength::Unknown))
        .await
        .unwrap();
    assert_eq!(
        error(RecvBody::new(near.recv, BodyLength::Unknown)).await,
        RecvBodyError::Head
    );

    let (mut near, far) = stream(&ends.0, &mut ends.1).await;
    near.send.write_bytes(TEXT).await.unwrap();
    let reading = tokio::spawn(error(RecvBody::new(far.recv, BodyLength::Unknown)));
    settle().await;
    ends.0
        .session
        .close(GoawayCode::Revoked, "the test says so");
    let lost = RecvBodyError::Stream(StreamError::SessionLost);
    assert_eq!(soon(reading).await.unwrap(), lost);
}

#[tokio::test(start_paused = true)]
async fn a_body_is_sent_whole_with_its_trailers() {
    let (relay, mut agent) = pair().await;
    let (mut near, far) = stream(&relay, &mut agent).await;
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-checksum", "7".parse().unwrap());
    let frames = [
        Frame::data(TEXT),
        Frame::data(TEXT),
        Frame::trailers(trailers),
    ];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Infallible>)));
    send_body(body, &mut near.send).await.unwrap();
    let all = RecvBody::new(far.recv, BodyLength::Unknown)
        .collect()
        .await
        .unwrap();
    assert_eq!(all.trailers().unwrap()["x-checksum"], "7");
    assert_eq!(all.to_bytes(), [TEXT, TEXT].concat());

    let (mut near, mut far) = stream(&relay, &mut agent).await;
    send_body(Full::new(Bytes::new()), &mut near.send)
        .await
        .unwrap();
    assert_eq!(read_all(&mut far.recv).await, b"");
}

/// A source that gives `TEXT` and then nothing; who holds the other `Arc` sees it dropped.
struct Stalled {
    first: Option<Bytes>,
    _alive: Arc<()>,
}

impl Body for Stalled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.first.take().map_or(Poll::Pending, |data| {
            Poll::Ready(Some(Ok(Frame::data(data))))
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_goes_away_cancels_a_source_that_has_nothing_to_give() {
    let (relay, mut agent) = pair().await;
    type Leave = fn(Stream) -> Option<Stream>;
    let stop: Leave = |mut far| {
        far.recv.stop(ResetCode::Timeout);
        Some(far)
    };
    let reset: Leave = |mut far| {
        far.send.reset(ResetCode::Timeout);
        Some(far)
    };
    let ways = [
        (stop, StreamError::Stopped(ResetCode::Timeout)),
        (reset, StreamError::Reset(ResetCode::Timeout)),
        (|_| None, StreamError::Reset(ResetCode::Cancelled)),
    ];
    for (leave, expected) in ways {
        let (mut near, mut far) = stream(&relay, &mut agent).await;
        let alive = Arc::new(());
        let body = Stalled {
            first: Some(TEXT),
            _alive: alive.clone(),
        };
        let sending = tokio::spawn(async move { send_body(body, &mut near.send).await });
        assert!(matches!(far.recv.item().await, Ok(Item::Data(data)) if data == TEXT));
        settle().await;
        assert_eq!(Arc::strong_count(&alive), 2);
        let _far = leave(far);
        let SendBodyError::Stream(error) = soon(sending).await.unwrap().unwrap_err();
        assert_eq!(error, expected);
        assert_eq!(Arc::strong_count(&alive), 1, "the source is dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_needs_no_more_is_no_failure() {
    let (relay, mut agent) = pair().await;
    let (mut near, mut far) = stream(&relay, &mut agent).await;
    let body = Stalled {
        first: None,
        _alive: Arc::new(()),
    };
    let sending = tokio::spawn(async move { send_body(body, &mut near.send).await });
    far.recv.stop(ResetCode::NotNeeded);
    soon(sending).await.unwrap().unwrap();

    // An HTTP/1 writer drops the body with its last announced byte.
    let (mut near, far) = stream(&relay, &mut agent).await;
    near.send.write_bytes(TEXT).await.unwrap();
    let mut body = RecvBody::new(far.recv, BodyLength::Exact(12));
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(
        soon(near.send.stopped()).await,
        StreamError::Stopped(ResetCode::NotNeeded)
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_tells_the_peer_that_the_body_is_not_whole() {
    let (relay, mut agent) = pair().await;
    let (mut near, far) = stream(&relay, &mut agent).await;
    let frames = [Ok(Frame::data(TEXT)), Err("disk on fire")];
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let error = send_body(body, &mut near.send).await.unwrap_err();
    assert_eq!(error, SendBodyError::Source("disk on fire"));
    let error = RecvBody::new(far.recv, BodyLength::Unknown)
        .collect()
        .await
        .unwrap_err();
    assert_eq!(
        error,
        RecvBodyError::Stream(StreamError::Reset(ResetCode::Truncated))
    );
}
