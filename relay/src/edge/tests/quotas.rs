//! A tenant at its limits is told so, or slowed down, and nobody else notices.

use bytes::Bytes;
use culvert_config::quota::{ByteRate, PerSecond};
use culvert_config::relay::RelayLimits;
use culvert_config::units::Size;
use culvert_http::Alpn;
use culvert_proto::head::BodyLength;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Duration, Instant, timeout};

use super::connect::{NAME, read_head, way};
use super::rig::{DOMAIN, HOST, Rig, SOON, read_body, response};

#[tokio::test]
async fn a_call_above_the_quota_gets_429_and_the_next_one_passes() {
    let rig = Rig::with_limits(RelayLimits {
        tenant_max_calls: Some(1),
        ..RelayLimits::default()
    });
    let mut agent = rig.agent("vc").await;
    let mut held = rig.connect(Alpn::Http1);
    held.write_all(Rig::get("/held", &rig.bearer()).as_bytes())
        .await
        .unwrap();
    let (_, stream) = agent.accept().await;
    let reply = rig.exchange(Rig::get("/api", &rig.bearer())).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (429, "quota-exceeded")
    );
    assert_eq!(reply.header("retry-after"), "1");
    // Another tenant's caller is only told that there is nothing for it here.
    let globex = rig.token(json!({"tenant": "globex"}));
    let fields = format!("Culvert-Authorization: Bearer {globex}\r\n");
    assert_eq!(rig.exchange(Rig::get("/api", &fields)).await.status, 404);
    drop((held, stream));
    agent.echo();
    let mut status = 429;
    while status == 429 {
        status = rig.exchange(Rig::get("/api", &rig.bearer())).await.status;
    }
    assert_eq!(status, 200);
}

#[tokio::test(start_paused = true)]
async fn calls_above_the_rate_are_told_when_to_come_back() {
    let rig = Rig::with_limits(RelayLimits {
        tenant_max_call_rate: Some(PerSecond(2)),
        ..RelayLimits::default()
    });
    rig.agent("vc").await.echo();
    for (wait, status) in [(0, 200), (0, 200), (0, 429), (499, 429), (1, 200), (0, 429)] {
        tokio::time::advance(Duration::from_millis(wait)).await;
        let reply = rig.exchange(Rig::get("/api", &rig.bearer())).await;
        assert_eq!(reply.status, status, "{reply:?}");
        if status == 429 {
            assert_eq!(reply.header("retry-after"), "1");
        }
    }
    // What another tenant's name would have cost, one of nobody costs too.
    for host in ["vc--globex.relay.test", "nothing--globex.relay.test"] {
        tokio::time::advance(Duration::from_secs(1)).await;
        for status in [404, 404, 429] {
            let request = format!(
                "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{}\r\n",
                rig.bearer()
            );
            assert_eq!(rig.exchange(request).await.status, status, "{host}");
        }
    }
}

/// 64 KiB a second, and one second's worth at once.
fn slow() -> Rig {
    Rig::with_limits(RelayLimits {
        tenant_max_byte_rate: Some(ByteRate(64 * 1024)),
        ..RelayLimits::default()
    })
}

const BODY: usize = 640 * 1024;

fn is_ten_seconds_worth_less_the_first(start: Instant) {
    let took = start.elapsed().as_millis();
    // The last piece of up to 16 KiB is not waited for.
    assert!((8_700..9_300).contains(&took), "{took} ms");
}

#[tokio::test(start_paused = true)]
async fn an_answer_goes_at_the_tenants_rate_and_is_whole() {
    for alpn in [Alpn::Http1, Alpn::H2] {
        let rig = slow();
        let mut agent = rig.agent("vc").await;
        let serving = tokio::spawn(async move {
            let (_, mut stream) = agent.accept().await;
            let head = response(200, &[], BodyLength::Exact(BODY as u64));
            stream.send.send_head(&head).await.unwrap();
            for piece in vec![b'x'; BODY].chunks(16 * 1024) {
                stream
                    .send
                    .write_bytes(Bytes::copy_from_slice(piece))
                    .await
                    .unwrap();
            }
            stream.send.finish().unwrap();
            agent
        });
        let start = Instant::now();
        let body = match alpn {
            Alpn::Http1 => rig.exchange(Rig::get("/api", &rig.bearer())).await.body,
            Alpn::H2 => {
                let request = rig.request("GET", "/api", "");
                let answer = rig.http2().await.send_request(request).await.unwrap();
                super::rig::Reply::of(answer).await.body
            }
        };
        assert_eq!(body.len(), BODY);
        is_ten_seconds_worth_less_the_first(start);
        serving.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_goes_at_the_tenants_rate_and_its_caller_is_not_called_slow() {
    // A caller that had to send within a second.
    let mut limits = RelayLimits {
        tenant_max_byte_rate: Some(ByteRate(8 * 1024)),
        ..RelayLimits::default()
    };
    limits.stall.0 = Duration::from_secs(1);
    let rig = Rig::with_limits(limits);
    let mut agent = rig.agent("vc").await;
    let body = 320 * 1024;
    let head = format!(
        "POST /api HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: {body}\r\n{}\r\n",
        rig.bearer()
    );
    let start = Instant::now();
    let mut caller = rig.connect_through(Alpn::Http1, 1 << 20);
    caller.write_all(head.as_bytes()).await.unwrap();
    caller.write_all(&vec![b'x'; body]).await.unwrap();
    let (_, mut stream) = agent.accept().await;
    assert_eq!(read_body(&mut stream).await.len(), body);
    let took = start.elapsed().as_secs();
    // hyper hands over up to 128 KiB at once, and the last piece is not waited for.
    assert!((20..40).contains(&took), "{took} s");
    super::rig::answer(&mut stream, 204, &[], b"").await;
    assert!(read_head(&mut caller).await.starts_with("http/1.1 204 "));
}

#[tokio::test(start_paused = true)]
async fn what_passes_through_a_connect_goes_at_the_tenants_rate_too() {
    let rig = slow();
    let mut agent = rig.agent_with_names("vc", &[NAME]).await;
    let (caller, mut stream) = way(&rig, &mut agent).await;
    let start = Instant::now();
    let (mut from, mut to) = tokio::io::split(caller);
    let sending = async {
        to.write_all(&vec![b'i'; BODY / 2]).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let echoing = async {
        // As much back as came, while it comes.
        for piece in vec![b'o'; BODY / 2].chunks(16 * 1024) {
            stream
                .send
                .write_bytes(Bytes::copy_from_slice(piece))
                .await
                .unwrap();
        }
        stream.send.finish().unwrap();
    };
    let mut back = Vec::new();
    let reading = from.read_to_end(&mut back);
    let (_, (), read) = tokio::join!(sending, echoing, reading);
    read.unwrap();
    assert_eq!(back.len(), BODY / 2);
    assert_eq!(
        timeout(SOON, read_body(&mut stream)).await.unwrap().len(),
        BODY / 2
    );
    is_ten_seconds_worth_less_the_first(start);
}

#[tokio::test(start_paused = true)]
async fn a_slowed_call_ends_when_it_is_revoked() {
    let rig = slow();
    let mut agent = rig.agent("vc").await;
    let mut caller = rig.connect(Alpn::Http1);
    caller
        .write_all(Rig::get("/api", &rig.bearer()).as_bytes())
        .await
        .unwrap();
    let (_, mut stream) = agent.accept().await;
    let head = response(200, &[], BodyLength::Unknown);
    stream.send.send_head(&head).await.unwrap();
    stream
        .send
        .write_bytes(vec![b'x'; BODY / 4].into())
        .await
        .unwrap();
    read_head(&mut caller).await;
    let mut piece = vec![0; 64 * 1024];
    caller.read_exact(&mut piece).await.unwrap();
    let start = Instant::now();
    super::revoked::revoke(&rig, super::revoked::acme());
    let mut rest = Vec::new();
    let _ = timeout(SOON, caller.read_to_end(&mut rest)).await.unwrap();
    assert!(
        start.elapsed() < Duration::from_millis(100),
        "{:?}",
        start.elapsed()
    );
}

/// A tenant's agents decide how long its script is, and its callers for how long it is held.
#[tokio::test]
async fn scripts_that_nobody_takes_are_held_in_their_tenants_part_of_the_memory() {
    let rig = Rig::with_limits(RelayLimits {
        waiting_buffer: Size(1 << 20),
        ..RelayLimits::default()
    });
    let label = "x".repeat(60);
    let names: Vec<_> = (100..1100)
        .map(|number| format!("vc-{number}.{label}.{label}:443"))
        .collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let _agent = rig.agent_with_names("vc", &names).await;
    let io = TokioIo::new(rig.connect(Alpn::H2));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let builder = builder.initial_stream_window_size(1024);
    let (mut caller, connection) = builder.handshake(io).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut untaken = Vec::new();
    while untaken.len() < 20 {
        let mut request = rig.request("GET", "/", "");
        let page = format!("https://{DOMAIN}/.culvert/proxy.pac");
        *request.uri_mut() = page.parse().unwrap();
        let answer = caller.send_request(request).await.unwrap();
        if answer.status() != 200 {
            assert_eq!(answer.status(), 503);
            break;
        }
        untaken.push(answer);
    }
    assert!((1..10).contains(&untaken.len()), "{}", untaken.len());
    // A short one has room all the same.
    let globex = rig.token(json!({"tenant": "globex"}));
    let token = format!("Culvert-Authorization: Bearer {globex}\r\n");
    assert_eq!(rig.exchange(script(&token)).await.status, 200);

    drop((caller, untaken));
    connection.abort();
    let whole = loop {
        let reply = rig.exchange(script(&rig.bearer())).await;
        if reply.status == 200 {
            break reply;
        }
    };
    let whole = String::from_utf8(whole.body).unwrap();
    for name in names {
        assert!(whole.contains(name), "{name}");
    }
}

fn script(fields: &str) -> String {
    format!(
        "GET /.culvert/proxy.pac HTTP/1.1\r\nHost: {DOMAIN}\r\nConnection: close\r\n{fields}\r\n"
    )
}

/// A script costs what a call does.
#[tokio::test(start_paused = true)]
async fn a_script_is_one_of_the_calls_of_its_tenant() {
    let rig = Rig::with_limits(RelayLimits {
        tenant_max_call_rate: Some(PerSecond(2)),
        ..RelayLimits::default()
    });
    for status in [200, 200, 429] {
        let reply = rig.exchange(script(&rig.bearer())).await;
        assert_eq!(reply.status, status, "{reply:?}");
    }
}
