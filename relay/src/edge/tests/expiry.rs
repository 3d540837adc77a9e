//! Calls end within 30 s of their caller's token, whatever the agent does.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use culvert_http::Alpn;
use culvert_proto::head::BodyLength;
use culvert_session::Stream;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;

use super::connect::read_head;
use super::rig::{FakeAgent, Rig, response};

const NAME: &str = "vcenter.sddc.local:443";

/// A token that expires (or has expired) so many seconds from now.
fn token(rig: &Rig, seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    rig.token(json!({ "exp": now.as_secs().cast_signed() + seconds }))
}

/// The call that comes next, and the time until the relay has ended it.
async fn ended(agent: &mut FakeAgent, opened: impl AsyncFnOnce(&mut Stream)) -> Duration {
    let (_, mut stream) = agent.accept().await;
    let began = Instant::now();
    opened(&mut stream).await;
    stream.send.stopped().await;
    began.elapsed()
}

/// In virtual seconds; the token's are real ones, of which some are over meanwhile.
fn assert_about(elapsed: Duration, seconds: u64) {
    let most = Duration::from_secs(seconds);
    assert!(
        elapsed <= most && elapsed + Duration::from_secs(5) > most,
        "{elapsed:?}"
    );
}

async fn begin(rig: &Rig, request: String) -> DuplexStream {
    let mut caller = rig.connect(Alpn::Http1);
    caller.write_all(request.as_bytes()).await.unwrap();
    caller
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_or_streams_ends_30_s_after_its_token() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    for (seconds, end) in [(10, 40), (-20, 10)] {
        let credential = format!("Culvert-Authorization: Bearer {}\r\n", token(&rig, seconds));
        let mut waiting = begin(&rig, Rig::get("/poll", &credential)).await;
        assert_about(ended(&mut agent, async |_| ()).await, end);
        let head = read_head(&mut waiting).await;
        assert!(head.starts_with("http/1.1 401 "), "{head}");

        let mut streaming = begin(&rig, Rig::get("/stream", &credential)).await;
        let stream = async |stream: &mut Stream| {
            let head = response(200, &[], BodyLength::Exact(1000));
            stream.send.send_head(&head).await.unwrap();
            let first = Bytes::from_static(b"hello");
            stream.send.write_bytes(first).await.unwrap();
        };
        assert_about(ended(&mut agent, stream).await, end);
        let mut all = Vec::new();
        let _ = streaming.read_to_end(&mut all).await;
        assert!(all.ends_with(b"hello"), "{}", all.escape_ascii());
    }
}

#[tokio::test(start_paused = true)]
async fn a_way_ends_30_s_after_its_token() {
    let rig = Rig::new();
    let mut agent = rig.agent_with_names("vc", &[NAME]).await;
    for (seconds, end) in [(10, 40), (-20, 10)] {
        let token = token(&rig, seconds);
        let request = format!(
            "CONNECT {NAME} HTTP/1.1\r\nHost: {NAME}\r\nProxy-Authorization: Bearer {token}\r\n\r\n"
        );
        let mut caller = begin(&rig, request).await;
        let open = async |stream: &mut Stream| {
            let opened = response(200, &[], BodyLength::Unknown);
            stream.send.send_head(&opened).await.unwrap();
        };
        assert_about(ended(&mut agent, open).await, end);
        let head = read_head(&mut caller).await;
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert_eq!(caller.read_to_end(&mut Vec::new()).await.unwrap_or(0), 0);
    }
}
