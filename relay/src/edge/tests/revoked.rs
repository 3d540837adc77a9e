//! What an operator revokes ends, whatever the call is doing, and does not begin again.

use std::time::Duration;

use bytes::Bytes;
use culvert_http::Alpn;
use culvert_proto::code::ResetCode;
use culvert_proto::head::BodyLength;
use culvert_proto::names::EndpointName;
use culvert_session::StreamError;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::connect::{NAME, bearer, connect, read_head, way};
use super::rig::{HOST, Reply, Rig, SOON, response, tenant};
use crate::revocations::{Revocation, RevocationId, Scope};

/// Revokes, as the node would; says which revocation and how many calls it ended.
pub(super) fn revoke(rig: &Rig, scope: Scope) -> (RevocationId, usize) {
    let revocation = Revocation::new(scope, Some("for the auditors alone".into()), None);
    let id = rig.revocations.add(revocation).unwrap().id;
    (id, rig.tenants.end_revoked(&rig.revocations))
}

fn subject(name: &str) -> Scope {
    Scope {
        subject: Some(name.into()),
        ..Scope::default()
    }
}

pub(super) fn acme() -> Scope {
    Scope {
        tenant: Some(tenant("acme")),
        ..Scope::default()
    }
}

fn endpoint(name: &str) -> Scope {
    Scope {
        endpoint: Some(EndpointName::new(name).unwrap()),
        ..acme()
    }
}

async fn status_of(rig: &Rig, host: &str, claims: Value) -> (u16, String) {
    let token = rig.token(claims);
    let request = format!(
        "GET /api HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Culvert-Authorization: Bearer {token}\r\n\r\n"
    );
    let reply = rig.exchange(request).await;
    let code = if reply.status < 400 {
        String::new()
    } else {
        reply.code()
    };
    assert!(!String::from_utf8_lossy(&reply.body).contains("auditors"));
    (reply.status, code)
}

#[tokio::test]
async fn who_is_revoked_is_forbidden_until_it_is_lifted_and_nobody_else_notices() {
    let rig = Rig::new();
    rig.agent("vc").await.echo();
    rig.agent("nsx").await.echo();
    let nsx = "nsx--acme.relay.test";
    let other = json!({"sub": "director-8"});
    let globex = json!({"tenant": "globex"});
    let forbidden = (403, "forbidden".to_owned());
    let good = (200, String::new());
    let unknown = (404, "unknown-endpoint".to_owned());
    // (scope, director-7 to vc, director-7 to nsx, director-8 to vc).
    for (scope, seven, seven_nsx, eight) in [
        (subject("director-7"), &forbidden, &forbidden, &good),
        (acme(), &forbidden, &forbidden, &forbidden),
        (endpoint("vc"), &forbidden, &good, &forbidden),
        (endpoint("nsx"), &good, &forbidden, &good),
        (subject("sddc-1"), &good, &good, &good),
    ] {
        let (id, _) = revoke(&rig, scope.clone());
        assert_eq!(&status_of(&rig, HOST, json!({})).await, seven, "{scope:?}");
        assert_eq!(
            &status_of(&rig, nsx, json!({})).await,
            seven_nsx,
            "{scope:?}"
        );
        assert_eq!(
            &status_of(&rig, HOST, other.clone()).await,
            eight,
            "{scope:?}"
        );
        let stranger = status_of(&rig, HOST, globex.clone()).await;
        if scope.subject.as_deref() != Some("director-7") {
            assert_eq!(stranger, unknown, "{scope:?}");
        }
        rig.revocations.lift(id).unwrap();
        assert_eq!(status_of(&rig, HOST, json!({})).await, good);
    }
    assert_eq!(rig.tenants.in_progress(), 0);
}

#[tokio::test]
async fn a_connection_that_was_good_before_asks_for_every_call() {
    let rig = Rig::new();
    rig.agent("vc").await.echo();
    let mut caller = rig.connect(Alpn::Http1);
    let request = format!("GET /api HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n", rig.bearer());
    caller.write_all(request.as_bytes()).await.unwrap();
    assert!(read_head(&mut caller).await.starts_with("http/1.1 200 "));
    let mut body = [0; "GET /api ".len()];
    caller.read_exact(&mut body).await.unwrap();
    revoke(&rig, acme());
    caller.write_all(request.as_bytes()).await.unwrap();
    assert!(read_head(&mut caller).await.starts_with("http/1.1 403 "));
}

#[tokio::test]
async fn a_call_that_waits_for_its_answer_gets_one_and_the_agent_hears_that_it_is_over() {
    for alpn in [Alpn::Http1, Alpn::H2] {
        let rig = Rig::new();
        let mut agent = rig.agent("vc").await;
        let request = Rig::get("/api", &rig.bearer());
        let asking = async {
            match alpn {
                Alpn::Http1 => rig.exchange(&request).await,
                Alpn::H2 => {
                    let request = rig.request("GET", "/api", "");
                    Reply::of(rig.http2().await.send_request(request).await.unwrap()).await
                }
            }
        };
        let revoking = async {
            let (_, mut stream) = agent.accept().await;
            let (_, ended) = revoke(&rig, subject("director-7"));
            assert_eq!(ended, 1);
            timeout(SOON, stream.recv_ended()).await.unwrap();
        };
        let (reply, ()) = timeout(SOON, async { tokio::join!(asking, revoking) })
            .await
            .unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (403, "forbidden"));
    }
}

#[tokio::test]
async fn an_answer_that_is_under_way_breaks_off() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let mut sender = rig.http2().await;
    let asked = sender.send_request(rig.request("GET", "/api", ""));
    let asked = tokio::spawn(asked);
    let (_, mut stream) = agent.accept().await;
    let head = response(200, &[], BodyLength::Unknown);
    stream.send.send_head(&head).await.unwrap();
    stream
        .send
        .write_bytes(Bytes::from_static(b"first"))
        .await
        .unwrap();
    let mut body = asked.await.unwrap().unwrap().into_body();
    let frame = timeout(SOON, body.frame()).await.unwrap();
    assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "first");
    revoke(&rig, endpoint("vc"));
    assert!(timeout(SOON, body.frame()).await.unwrap().unwrap().is_err());
    timeout(SOON, stream.recv_ended()).await.unwrap();
}

/// Else it would go on for as long as a caller may be slow.
#[tokio::test(start_paused = true)]
async fn a_caller_that_takes_nothing_does_not_keep_a_revoked_call() {
    for alpn in [Alpn::Http1, Alpn::H2] {
        let rig = Rig::new();
        let mut agent = rig.agent("vc").await;
        let mut caller = rig.connect_through(alpn, 64 * 1024);
        let answered = match alpn {
            Alpn::Http1 => {
                let request = Rig::get("/api", &rig.bearer());
                caller.write_all(request.as_bytes()).await.unwrap();
                tokio::spawn(async move {
                    std::future::pending::<()>().await;
                    drop(caller);
                })
            }
            Alpn::H2 => {
                let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
                let (mut sender, connection) =
                    builder.handshake(TokioIo::new(caller)).await.unwrap();
                tokio::spawn(connection);
                let asked = sender.send_request(rig.request("GET", "/api", ""));
                tokio::spawn(async move {
                    let answer = asked.await;
                    std::future::pending::<()>().await;
                    drop((answer, sender));
                })
            }
        };
        let (_, mut stream) = agent.accept().await;
        let head = response(200, &[], BodyLength::Unknown);
        stream.send.send_head(&head).await.unwrap();
        let flood = async {
            let piece = Bytes::from(vec![b'x'; 16 * 1024]);
            while stream.send.write_bytes(piece.clone()).await.is_ok() {}
        };
        // Until everything on the way is full.
        assert!(timeout(Duration::from_secs(5), flood).await.is_err());
        let start = tokio::time::Instant::now();
        revoke(&rig, acme());
        timeout(SOON, stream.recv_ended()).await.unwrap();
        assert!(start.elapsed().as_secs() < 2, "{alpn:?}");
        answered.abort();
    }
}

/// What came before a break is written to its caller first, for as long as that is slow.
#[tokio::test(start_paused = true)]
async fn an_answer_that_broke_off_behind_a_caller_that_takes_nothing_does_not_outlive_its_revocation()
 {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let mut caller = rig.connect_through(Alpn::Http1, 16 * 1024);
    let request = Rig::get("/api", &rig.bearer());
    caller.write_all(request.as_bytes()).await.unwrap();
    let (_, mut stream) = agent.accept().await;
    let head = response(200, &[], BodyLength::Unknown);
    stream.send.send_head(&head).await.unwrap();
    // More than the caller's connection holds, and less than hyper does.
    let piece = Bytes::from(vec![b'x'; 40 * 1024]);
    stream.send.write_bytes(piece).await.unwrap();
    stream.send.cut_short(ResetCode::Truncated);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.tenants.in_progress(), 1, "it waits for its caller");
    assert_eq!(revoke(&rig, acme()).1, 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rig.tenants.in_progress(), 0);
    drop(caller);
}

#[tokio::test]
async fn a_way_through_is_cut_and_no_other_is_opened() {
    let rig = Rig::new();
    let mut agent = rig.agent_with_names("vc", &[NAME]).await;
    let (mut caller, mut stream) = way(&rig, &mut agent).await;
    revoke(&rig, endpoint("vc"));
    let mut rest = Vec::new();
    timeout(SOON, caller.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(rest, b"");
    timeout(SOON, stream.recv_ended()).await.unwrap();

    let mut caller = rig.connect(Alpn::Http1);
    let request = connect(NAME, &bearer(&rig));
    caller.write_all(request.as_bytes()).await.unwrap();
    assert!(read_head(&mut caller).await.starts_with("http/1.1 403 "));
    assert!(agent.is_untouched().await);
}

#[tokio::test]
async fn the_script_for_browsers_is_refused_too() {
    let rig = Rig::new();
    let request = format!(
        "GET /.culvert/proxy.pac HTTP/1.1\r\nHost: relay.test\r\nConnection: close\r\n{}\r\n",
        rig.bearer()
    );
    assert_eq!(rig.exchange(&request).await.status, 200);
    revoke(&rig, acme());
    assert_eq!(rig.exchange(&request).await.status, 403);
}

/// Waits for the other side to break a stream off.
trait RecvEnded {
    async fn recv_ended(&mut self);
}

impl RecvEnded for culvert_session::Stream {
    async fn recv_ended(&mut self) {
        loop {
            match self.recv.item().await {
                Err(StreamError::Reset(_)) => return,
                Err(error) => panic!("{error}"),
                Ok(culvert_session::Item::Finished) => {
                    let stopped = std::future::poll_fn(|cx| self.send.poll_stopped(cx));
                    stopped.await;
                    return;
                }
                Ok(_) => {}
            }
        }
    }
}
