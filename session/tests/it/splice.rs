//! A stream and a connection, tied together.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use culvert_proto::code::{GoawayCode, ResetCode};
use culvert_proto::mux::{Item, StreamError};
use culvert_session::splice::{Cut, Moved, SpliceError, splice};
use culvert_session::{RecvStream, Stream};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf,
    join,
};
use tokio::task::JoinHandle;

use crate::support::{End, WINDOW, pair, read_all, settle, settled, soon, stream};

const IDLE: Duration = Duration::from_secs(600);

/// A stream whose far end is tied to a connection, and the connection's other end.
struct Tied {
    near: Stream,
    connection: DuplexStream,
    splice: JoinHandle<(Result<(), SpliceError>, [usize; 2])>,
    ends: (End, End),
}

fn tie(
    stream: Stream,
    io: impl AsyncRead + AsyncWrite + Send + 'static,
    cut: Cut,
) -> JoinHandle<(Result<(), SpliceError>, [usize; 2])> {
    tokio::spawn(async move {
        let mut moved = [0, 0];
        let Stream { mut send, mut recv } = stream;
        let ended = splice(&mut send, &mut recv, io, cut, IDLE, |piece| match piece {
            Moved::Out(bytes) => moved[0] += bytes,
            Moved::In(bytes) => moved[1] += bytes,
            Moved::OutEnd => {}
        });
        (ended.await, moved)
    })
}

async fn tied() -> Tied {
    tied_through(|io| io, Cut::Breaks).await
}

async fn tied_through<IO>(wrap: impl FnOnce(DuplexStream) -> IO, cut: Cut) -> Tied
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let (relay, mut agent) = pair().await;
    let (near, far) = stream(&relay, &mut agent).await;
    let (connection, io) = tokio::io::duplex(16 * 1024);
    Tied {
        near,
        connection,
        splice: tie(far, wrap(io), cut),
        ends: (relay, agent),
    }
}

async fn end_of(recv: &mut RecvStream) -> Result<(), StreamError> {
    loop {
        if let Item::Finished = recv.item().await? {
            return Ok(());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_pass_both_ways_and_each_direction_ends_for_itself() {
    let Tied {
        mut near,
        mut connection,
        splice,
        ends: _ends,
    } = tied().await;
    near.write_all(b"question").await.unwrap();
    let mut question = [0; 8];
    connection.read_exact(&mut question).await.unwrap();
    assert_eq!(&question, b"question");
    near.shutdown().await.unwrap();
    let mut rest = Vec::new();
    connection.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    connection.write_all(b"answer").await.unwrap();
    connection.shutdown().await.unwrap();
    assert_eq!(soon(read_all(&mut near.recv)).await, b"answer");
    let (ended, moved) = soon(splice).await.unwrap();
    ended.unwrap();
    assert_eq!(moved, [8, 6]);
}

#[tokio::test(start_paused = true)]
async fn the_connection_may_end_its_direction_first() {
    let Tied {
        mut near,
        mut connection,
        splice,
        ends: _ends,
    } = tied().await;
    connection.shutdown().await.unwrap();
    soon(end_of(&mut near.recv)).await.unwrap();
    near.write_all(b"late").await.unwrap();
    near.shutdown().await.unwrap();
    let mut late = Vec::new();
    connection.read_to_end(&mut late).await.unwrap();
    assert_eq!(late, b"late");
    soon(splice).await.unwrap().0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_side_that_does_not_read_holds_the_other_up_in_bounded_memory() {
    let Tied {
        near,
        mut connection,
        splice: _splice,
        ends: _ends,
    } = tied().await;
    let piece = Bytes::from(vec![7; 4096]);
    let mut written = 0;
    while settled(connection.write_all(&piece)).await.is_some() {
        written += piece.len();
        assert!(written < 4 * WINDOW, "nobody reads, and all is taken");
    }
    drop(near);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_broken_off_takes_the_connection_with_it() {
    let Tied {
        mut near,
        mut connection,
        splice,
        ends: _ends,
    } = tied().await;
    near.send.reset(ResetCode::Cancelled);
    let (ended, _) = soon(splice).await.unwrap();
    assert!(
        matches!(ended, Err(SpliceError::Stream(StreamError::Reset(_)))),
        "{ended:?}"
    );
    assert_eq!(connection.read(&mut [0]).await.unwrap(), 0);
}

/// Who has said all may read no further: it is heard to its end nevertheless, however late.
#[tokio::test(start_paused = true)]
async fn a_peer_that_needs_no_more_is_heard_to_its_end() {
    let Tied {
        mut near,
        mut connection,
        splice,
        ends: _ends,
    } = tied().await;
    near.recv.stop(ResetCode::NotNeeded);
    let said = vec![7; 3 * WINDOW];
    let saying = async {
        near.write_all(&said).await.unwrap();
        near.shutdown().await.unwrap();
        drop(near);
    };
    let hearing = async {
        settle().await;
        // What nobody needs is taken all the same.
        connection.write_all(&vec![1; 4 * WINDOW]).await.unwrap();
        let mut heard = Vec::new();
        connection.read_to_end(&mut heard).await.unwrap();
        connection.shutdown().await.unwrap();
        heard
    };
    let (heard, ()) = soon(async { tokio::join!(hearing, saying) }).await;
    assert!(heard == said, "{} of {} bytes", heard.len(), said.len());
    let (ended, moved) = soon(splice).await.unwrap();
    ended.unwrap();
    assert_eq!(moved, [said.len(), 0]);
}

/// A connection that has heard all and ends nothing is not kept for what it might say.
#[tokio::test(start_paused = true)]
async fn a_connection_whose_words_nobody_needs_is_let_go_soon_after_it_has_all() {
    let Tied {
        mut near,
        mut connection,
        splice,
        ends: _ends,
    } = tied().await;
    near.recv.stop(ResetCode::NotNeeded);
    tokio::time::sleep(IDLE / 2).await;
    assert!(!splice.is_finished(), "the answer may take its time");
    near.write_all(b"that was all").await.unwrap();
    near.shutdown().await.unwrap();
    let mut heard = Vec::new();
    connection.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"that was all");
    let began = tokio::time::Instant::now();
    soon(splice).await.unwrap().0.unwrap();
    assert_eq!(began.elapsed().as_secs(), 2);
}

/// A caller that goes drops both halves, in any order.
#[tokio::test(start_paused = true)]
async fn a_stream_whose_handles_are_dropped_takes_the_connection_with_it() {
    let Tied {
        near,
        splice,
        connection: _connection,
        ends: _ends,
    } = tied().await;
    let (send, recv) = near.split();
    drop(recv);
    drop(send);
    let (ended, _) = soon(splice).await.unwrap();
    assert!(matches!(ended, Err(SpliceError::Stream(_))), "{ended:?}");
}

/// Fails to read once something was written.
struct Breaks(bool);

impl AsyncRead for Breaks {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncWrite for Breaks {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0 = true;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_is_no_end() {
    let (relay, mut agent) = pair().await;
    let (mut near, far) = stream(&relay, &mut agent).await;
    let splice = tie(far, Breaks(false), Cut::Ends);
    near.write_all(b"x").await.unwrap();
    assert_eq!(
        soon(end_of(&mut near.recv)).await,
        Err(StreamError::Reset(ResetCode::Truncated))
    );
    let (ended, _) = soon(splice).await.unwrap();
    assert!(matches!(ended, Err(SpliceError::Io(_))), "{ended:?}");
}

/// Ends as TLS does whose peer says no goodbye.
struct NoGoodbye(ReadHalf<DuplexStream>);

impl AsyncRead for NoGoodbye {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let read = Pin::new(&mut self.0).poll_read(cx, out);
        if matches!(read, Poll::Ready(Ok(()))) && out.filled().len() == before {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        read
    }
}

async fn tied_without_goodbye(cut: Cut) -> Tied {
    let wrap = |io| {
        let (read, write) = tokio::io::split(io);
        join(NoGoodbye(read), write)
    };
    tied_through(wrap, cut).await
}

/// Where what is carried has an end of its own: nothing of what came before is lost.
#[tokio::test(start_paused = true)]
async fn a_cut_is_an_end_behind_what_came_before_and_the_other_direction_goes_on() {
    let Tied {
        mut near,
        mut connection,
        splice,
        ends: _ends,
    } = tied_without_goodbye(Cut::Ends).await;
    let said = vec![7; 3 * WINDOW];
    let saying = async {
        connection.write_all(&said).await.unwrap();
        connection.shutdown().await.unwrap();
    };
    let (heard, ()) = soon(async { tokio::join!(read_all(&mut near.recv), saying) }).await;
    assert!(heard == said, "{} of {} bytes", heard.len(), said.len());
    near.write_all(b"late").await.unwrap();
    near.shutdown().await.unwrap();
    let mut late = Vec::new();
    connection.read_to_end(&mut late).await.unwrap();
    assert_eq!(late, b"late");
    soon(splice).await.unwrap().0.unwrap();
}

/// Who exits hears nothing any more; the other side is not kept until it happens to speak.
#[tokio::test(start_paused = true)]
async fn silence_after_a_cut_is_a_break_soon() {
    let Tied {
        mut near,
        mut connection,
        splice,
        ends: _ends,
    } = tied_without_goodbye(Cut::Ends).await;
    tokio::time::sleep(IDLE / 2).await;
    connection.shutdown().await.unwrap();
    soon(end_of(&mut near.recv)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    near.write_all(b"still here").await.unwrap();
    settle().await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(!splice.is_finished());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let why = soon(near.send.stopped()).await;
    assert_eq!(why, StreamError::Reset(ResetCode::Truncated));
    let (ended, _) = splice.await.unwrap();
    assert!(matches!(ended, Err(SpliceError::Io(_))), "{ended:?}");
}

/// Where nothing else would tell that there may have been more.
#[tokio::test(start_paused = true)]
async fn a_cut_is_a_break_where_it_has_to_be() {
    let Tied {
        mut near,
        mut connection,
        splice,
        ends: _ends,
    } = tied_without_goodbye(Cut::Breaks).await;
    connection.write_all(b"half").await.unwrap();
    connection.shutdown().await.unwrap();
    let end = soon(end_of(&mut near.recv)).await;
    assert_eq!(end, Err(StreamError::Reset(ResetCode::Truncated)));
    let (ended, _) = splice.await.unwrap();
    assert!(matches!(ended, Err(SpliceError::Io(_))), "{ended:?}");
}

/// A reset that overtook the data would take it back.
#[tokio::test(start_paused = true)]
async fn a_break_comes_behind_what_came_before() {
    let Tied {
        mut near,
        mut connection,
        splice,
        ends: _ends,
    } = tied_without_goodbye(Cut::Breaks).await;
    let said = vec![7; 3 * WINDOW];
    let saying = async {
        connection.write_all(&said).await.unwrap();
        connection.shutdown().await.unwrap();
    };
    let hearing = async {
        let mut heard = 0;
        loop {
            match near.recv.item().await {
                Ok(Item::Data(data)) => heard += data.len(),
                ended => return (heard, ended.map(|_| ())),
            }
        }
    };
    let (heard, ()) = soon(async { tokio::join!(hearing, saying) }).await;
    let broken = Err(StreamError::Reset(ResetCode::Truncated));
    assert_eq!(heard, (said.len(), broken));
    let (ended, _) = splice.await.unwrap();
    assert!(matches!(ended, Err(SpliceError::Io(_))), "{ended:?}");
}

/// The same at the other end, where a connection is slower than the tunnel; and whoever sends there
/// hears of the break no earlier.
#[tokio::test(start_paused = true)]
async fn what_came_before_a_break_is_passed_on() {
    for lost in [false, true] {
        let (relay, mut agent) = pair().await;
        let (near, mut far) = stream(&relay, &mut agent).await;
        let (mut connection, io) = tokio::io::duplex(1024);
        let splice = tie(near, io, Cut::Breaks);
        let said = vec![7; WINDOW / 2];
        far.write_all(&said).await.unwrap();
        if lost {
            settle().await;
            agent.session.close(GoawayCode::Internal, "enough");
        } else {
            far.send.cut_short(ResetCode::Truncated);
        }
        settle().await;
        connection.write_all(b"more").await.unwrap();
        settle().await;
        let mut heard = Vec::new();
        soon(connection.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard.len(), said.len());
        let (ended, _) = soon(splice).await.unwrap();
        let why = if lost {
            StreamError::SessionLost
        } else {
            StreamError::Reset(ResetCode::Truncated)
        };
        assert!(
            matches!(ended, Err(SpliceError::Stream(error)) if error == why),
            "{ended:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn silence_in_both_directions_has_a_limit_and_a_byte_begins_it_anew() {
    let Tied {
        mut near,
        mut connection,
        splice,
        ends: _ends,
    } = tied().await;
    tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
    connection.write_all(b"x").await.unwrap();
    settle().await;
    tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
    assert!(!splice.is_finished());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        end_of(&mut near.recv).await,
        Err(StreamError::Reset(ResetCode::Timeout))
    );
    let (ended, _) = splice.await.unwrap();
    assert!(matches!(ended, Err(SpliceError::Idle(IDLE))), "{ended:?}");
}

/// Takes several pieces at once, and never a whole number of them.
struct Gulps(WriteHalf<DuplexStream>, Arc<AtomicUsize>);

impl AsyncWrite for Gulps {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.1.fetch_max(pieces.len(), Ordering::Relaxed);
        let mut all: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| piece.iter().copied())
            .collect();
        all.truncate(20_011);
        Pin::new(&mut self.0).poll_write(cx, &all)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn pieces_that_are_written_together_arrive_in_order_and_whole() {
    let (relay, mut agent) = pair().await;
    let (mut near, far) = stream(&relay, &mut agent).await;
    let (mut connection, io) = tokio::io::duplex(1 << 20);
    let most = Arc::new(AtomicUsize::new(0));
    let sent: Vec<u8> = (0..200_000u32).flat_map(u32::to_be_bytes).collect();
    near.write_all(&sent[..150_000]).await.unwrap();
    // All that is there is taken at once.
    settle().await;
    let (read, write) = tokio::io::split(io);
    let splice = tie(far, join(read, Gulps(write, most.clone())), Cut::Breaks);
    let rest = sent[150_000..].to_vec();
    let sending = tokio::spawn(async move {
        near.write_all(&rest).await.unwrap();
        near.shutdown().await.unwrap();
        near
    });
    let mut received = Vec::new();
    soon(connection.read_to_end(&mut received)).await.unwrap();
    assert!(received == sent, "{} of {}", received.len(), sent.len());
    assert!((2..=4).contains(&most.load(Ordering::Relaxed)), "{most:?}");
    drop(connection);
    let _near = sending.await.unwrap();
    let (ended, moved) = soon(splice).await.unwrap();
    ended.unwrap();
    assert_eq!(moved, [sent.len(), 0]);
}
