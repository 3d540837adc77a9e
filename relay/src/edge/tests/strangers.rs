//! What those may do who have not shown a valid credential.

use std::time::Duration;

use culvert_config::quota::PerSecond;
use culvert_config::relay::RelayLimits;
use culvert_http::Alpn;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::connect::read_head;
use super::frames::Frames;
use super::rig::{DOMAIN, HOST, Rig, SOON, show};

const TEN: Duration = Duration::from_secs(10);

/// How long a connection lives on which this is sent every so often.
async fn life(rig: &Rig, alpn: Alpn, bytes: &[u8], every: Duration) -> Duration {
    let start = Instant::now();
    let (mut read, mut write) = tokio::io::split(rig.connect(alpn));
    let bytes = bytes.to_vec();
    tokio::spawn(async move {
        while write.write_all(&bytes).await.is_ok() {
            sleep(every).await;
        }
    });
    let mut all = Vec::new();
    let _ = timeout(SOON, read.read_to_end(&mut all))
        .await
        .expect("it stays");
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nobody_proves_who_they_are_is_gone_after_ten_seconds() {
    let rig = Rig::new();
    let page = b"GET /.culvert/errors HTTP/1.1\r\nHost: relay.test\r\n\r\n";
    let nobody = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let wrong =
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nCulvert-Authorization: Bearer a.b.c\r\n\r\n");
    let every = Duration::from_secs(1);
    for bytes in [&page[..], nobody.as_bytes(), wrong.as_bytes(), b"", b"G"] {
        let life = life(&rig, Alpn::Http1, bytes, every).await;
        assert!(life <= TEN, "{}: {life:?}", bytes.escape_ascii());
    }
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let life = life(&rig, Alpn::H2, preface, Duration::from_secs(60)).await;
    assert!(life <= TEN, "{life:?}");
    let metrics = rig.metrics.render().unwrap();
    assert!(
        metrics.contains("culvert_relay_unauthenticated_closes_total "),
        "{metrics}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_with_a_valid_credential_stays_as_long_as_it_likes() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let mut waiting = rig.connect(Alpn::Http1);
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n", rig.bearer());
    waiting.write_all(request.as_bytes()).await.unwrap();
    let (_, mut stream) = agent.accept().await;
    sleep(Duration::from_secs(1800)).await;
    super::rig::answer(&mut stream, 204, &[], b"").await;
    assert!(read_head(&mut waiting).await.starts_with("http/1.1 204 "));
    // And idle for its time, which is another.
    sleep(Duration::from_secs(50)).await;
    waiting.write_all(request.as_bytes()).await.unwrap();
    let (_, mut stream) = agent.accept().await;
    super::rig::answer(&mut stream, 204, &[], b"").await;
    assert!(read_head(&mut waiting).await.starts_with("http/1.1 204 "));
}

/// A relay that lets a source fail once a second, and a credential that it has accepted.
async fn strict() -> (Rig, String) {
    let limits = RelayLimits {
        failures_per_source: PerSecond(1),
        ..RelayLimits::default()
    };
    let rig = Rig::with_limits(limits);
    rig.agent("vc").await.echo();
    let known = rig.bearer();
    assert_eq!(rig.exchange(Rig::get("/", &known)).await.status, 200);
    (rig, known)
}

#[tokio::test(start_paused = true)]
async fn too_many_wrong_credentials_get_429_and_good_ones_that_are_known_pass() {
    let (rig, known) = strict().await;
    let wrong = |number: usize| {
        let token = rig.token(json!({"aud": "elsewhere", "jti": number.to_string()}));
        Rig::get("/", &format!("Proxy-Authorization: Bearer {token}\r\n"))
    };
    for number in 0..10 {
        assert_eq!(rig.exchange(wrong(number)).await.status, 401, "{number}");
    }
    let limited = rig.exchange(wrong(10)).await;
    assert_eq!(
        (limited.status, limited.code().as_str()),
        (429, "rate-limited")
    );
    assert_eq!(limited.header("retry-after"), "1");
    assert_eq!(rig.exchange(Rig::get("/", &known)).await.status, 200);
    // None at all costs nothing, and is told what is missing.
    assert_eq!(rig.exchange(Rig::get("/", "")).await.status, 401);
    let fresh = rig.token(json!({"jti": "fresh"}));
    let fresh = format!("Proxy-Authorization: Bearer {fresh}\r\n");
    assert_eq!(rig.exchange(Rig::get("/", &fresh)).await.status, 429);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(rig.exchange(Rig::get("/", &fresh)).await.status, 200);
    let metrics = rig.metrics.render().unwrap();
    assert!(
        metrics.contains("culvert_relay_rate_limited_total 2\n"),
        "{metrics}"
    );
}

/// Somebody has a token that is bound to a key, and not the key: neither new connections nor one that
/// stays open help.
#[tokio::test(start_paused = true)]
async fn proofs_that_fail_are_charged_like_wrong_credentials() {
    let (rig, known) = strict().await;
    let stolen = rig.token(json!({"cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}));
    let guessed = format!("Culvert-Authorization: DPoP {stolen}\r\nCulvert-DPoP: a.b.c\r\n");
    let plain = format!("Culvert-Authorization: Bearer {stolen}\r\n");
    for fields in [&guessed, &plain] {
        for number in 0..3 {
            let refused = rig.exchange(Rig::get("/", fields)).await;
            assert_eq!(refused.status, 401, "{number}");
        }
    }
    let mut open = rig.connect(Alpn::Http1);
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{guessed}\r\n");
    for number in 0..5 {
        open.write_all(request.as_bytes()).await.unwrap();
        let status = if number < 4 { "401" } else { "429" };
        let head = read_head(&mut open).await;
        assert!(
            head.starts_with(&format!("http/1.1 {status} ")),
            "{number}: {head}"
        );
        let length = head.split("content-length: ").nth(1).unwrap();
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        open.read_exact(&mut vec![0; length]).await.unwrap();
    }
    assert_eq!(rig.exchange(Rig::get("/", &guessed)).await.status, 429);
    assert_eq!(rig.exchange(Rig::get("/", &known)).await.status, 200);
}

/// What the relay says to somebody whom nobody knows, whatever it is, it says ten times on a connection
/// and no more; what is long counts for more.
#[tokio::test(start_paused = true)]
async fn a_stranger_gets_few_answers_whatever_it_asks_for() {
    let rig = Rig::new();
    let page = rig.exchange(format!(
        "GET /.culvert/errors HTTP/1.1\r\nHost: {DOMAIN}\r\nConnection: close\r\n\r\n"
    ));
    assert!((4608..8000).contains(&page.await.body.len()));
    for (path, most) in [
        ("/.culvert/errors", 2),
        ("/.culvert/nothing", 10),
        ("/.culvert/v1/session", 10),
        ("/a;b%zz", 10),
    ] {
        let mut caller = rig.connect(Alpn::Http1);
        let request = format!("GET {path} HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n");
        let mut all = Vec::new();
        let _ = caller.write_all(request.repeat(100).as_bytes()).await;
        let read = timeout(SOON, caller.read_to_end(&mut all)).await;
        read.expect("it stays").unwrap();
        let all = show(&all).to_lowercase();
        let answers: Vec<_> = all.split("http/1.1 ").skip(1).collect();
        assert!((1..=most).contains(&answers.len()), "{path}: {all}");
        for (number, answer) in answers.iter().enumerate() {
            let (head, _) = answer.split_once("\r\n\r\n").unwrap();
            let is_last = number + 1 == answers.len();
            let mut lines = head.lines();
            let says = lines.any(|line| line.starts_with("connection:") && line.ends_with("close"));
            assert_eq!(says, is_last, "{path}: {head}");
        }

        let mut caller = Frames::open(&rig).await;
        for _ in 0..100 {
            caller.get(DOMAIN, path, None).await;
        }
        let heard = caller.go_on(DOMAIN, path, None, SOON).await;
        // Two may be in flight when it is over.
        let answered = heard.answered.len();
        assert!((1..=most + 2).contains(&answered), "{path}: {heard:?}");
        assert!(heard.after < Duration::from_secs(1), "{path}: {heard:?}");
    }
}

/// Whoever has shown a credential gets what it asks for.
#[tokio::test(start_paused = true)]
async fn one_with_a_valid_credential_gets_any_number_of_answers() {
    let rig = Rig::new();
    rig.agent("vc").await.echo();
    let mut caller = rig.connect(Alpn::Http1);
    let request = |path: &str, fields: &str| {
        format!("HEAD {path} HTTP/1.1\r\nHost: {DOMAIN}\r\n{fields}\r\n")
    };
    let known = rig.bearer();
    let proof = format!("HEAD / HTTP/1.1\r\nHost: {HOST}\r\n{known}\r\n");
    caller.write_all(proof.as_bytes()).await.unwrap();
    assert!(read_head(&mut caller).await.starts_with("http/1.1 200 "));
    for _ in 0..30 {
        let page = request("/.culvert/errors", "");
        caller.write_all(page.as_bytes()).await.unwrap();
        assert!(read_head(&mut caller).await.starts_with("http/1.1 200 "));
    }
}
