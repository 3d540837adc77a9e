//! Calls that are answered, and who may make them.

use culvert_http::Alpn;
use culvert_proto::code::GoawayCode;
use culvert_proto::head::{BodyLength, Mode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::rig::*;

#[tokio::test]
async fn an_allowed_call_reaches_the_agent_parsed_and_its_answer_the_caller() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let request = format!(
        "POST /api/%76m?x=%2f HTTP/1.1\r\nHost: VC--acme.relay.test:8443\r\n\
         Authorization: Basic eDp5\r\nCookie: a=b\r\nvmware-api-session-id: s\r\n\
         X-Forwarded-For: 10.0.0.1\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n{}\
         Content-Length: 5\r\n\r\nhello",
        rig.bearer()
    );
    let agent_side = async {
        let (head, mut stream) = agent.accept().await;
        assert_eq!(head.endpoint.as_str(), "vc");
        assert_eq!(head.mode, Mode::Http);
        assert_eq!(head.method, "POST");
        assert_eq!(show(&head.target), "/api/vm?x=%2f");
        assert_eq!(show(&head.authority), "VC--acme.relay.test:8443");
        assert_eq!(head.body, BodyLength::Exact(5));
        assert_eq!(head.source, Some("192.0.2.7".parse().unwrap()));
        assert_eq!(head.caller.tenant, tenant("acme"));
        assert_eq!(head.caller.subject, "director-7");
        assert!(head.caller.has_scope("vcenter.read"));
        let mut names: Vec<_> = head.headers.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        let passed = [
            "authorization",
            "cookie",
            "traceparent",
            "vmware-api-session-id",
        ];
        assert_eq!(names, passed);
        assert_eq!(read_body(&mut stream).await, "hello");
        let fields = [
            ("set-cookie", "k=v"),
            ("culvert-call", "forged"),
            ("etag", "e"),
        ];
        answer(&mut stream, 201, &fields, b"done").await;
        head.call
    };
    let (reply, call) = tokio::join!(rig.exchange(request), agent_side);
    assert_eq!((reply.status, show(&reply.body)), (201, "done"));
    assert_eq!(reply.header("culvert-call"), call.to_string());
    assert_eq!(reply.headers.get_all("culvert-call").iter().count(), 1);
    assert_eq!(reply.header("content-length"), "4");
    assert_eq!(reply.header("set-cookie"), "k=v");
    assert_eq!(reply.header("etag"), "e");
    let text = rig.metrics.render().unwrap();
    assert!(text.contains("culvert_relay_calls_total{outcome=\"answered\",code=\"2xx\"} 1"));
    assert!(text.contains("culvert_relay_received_bytes_total 5\n"));
    assert!(text.contains("culvert_relay_sent_bytes_total 4\n"));
}

#[tokio::test]
async fn http_2_calls_share_a_connection() {
    let rig = Rig::new();
    rig.agent("vc").await.echo();
    let sender = rig.http2().await;
    let calls = (0..50).map(|_| {
        let mut sender = sender.clone();
        let request = rig.request("PUT", "/a?b", "body");
        async move { Reply::of(sender.send_request(request).await.unwrap()).await }
    });
    for reply in futures_util::future::join_all(calls).await {
        assert_eq!((reply.status, show(&reply.body)), (200, "PUT /a?b body"));
        assert_eq!(reply.header("culvert-call").len(), 32);
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_turn_on_one_connection() {
    let rig = Rig::new();
    rig.agent("vc").await.echo();
    let one = |path, last| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{last}{}\r\n",
            rig.bearer()
        )
    };
    let requests = [
        one("/1", ""),
        one("/2", ""),
        one("/3", "Connection: close\r\n"),
    ]
    .concat();
    let mut caller = rig.connect(Alpn::Http1);
    caller.write_all(requests.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    tokio::time::timeout(SOON, caller.read_to_end(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let at: Vec<_> = ["GET /1 ", "GET /2 ", "GET /3 "]
        .map(|body| text.find(body).unwrap())
        .into();
    assert!(
        at.is_sorted() && text.matches("HTTP/1.1 200 OK").count() == 3,
        "{text}"
    );
}

#[tokio::test]
async fn who_may_call_what_is_decided_before_anything_is_looked_up() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    rig.agent("lost").await.relay.close(GoawayCode::Drain, "");
    let token = |changes| rig.token(changes);
    let good = token(json!({}));
    let (host, vc) = (DOMAIN, HOST);
    let other = format!("vc--umbrella.{host}");
    let none = format!("nothing--acme.{host}");
    let cases = [
        ("no token", vc, String::new(), 401, "unauthenticated"),
        (
            "no token, no endpoint",
            &none,
            String::new(),
            401,
            "unauthenticated",
        ),
        (
            "no token, no host",
            "else.test",
            String::new(),
            401,
            "unauthenticated",
        ),
        ("nonsense", vc, "a.b.c".into(), 401, "unauthenticated"),
        (
            "expired",
            vc,
            token(json!({"exp": 1})),
            401,
            "unauthenticated",
        ),
        (
            "audience",
            vc,
            token(json!({"aud": "x"})),
            401,
            "unauthenticated",
        ),
        (
            "another's endpoint",
            &other,
            good.clone(),
            404,
            "unknown-endpoint",
        ),
        ("no endpoint", &none, good.clone(), 404, "unknown-endpoint"),
        (
            "no host",
            "else.test",
            good.clone(),
            404,
            "unknown-endpoint",
        ),
        ("scope", vc, token(json!({"scope": "x"})), 403, "forbidden"),
        (
            "scope, another's",
            &other,
            token(json!({"scope": "x"})),
            403,
            "forbidden",
        ),
        (
            "endpoints",
            vc,
            token(json!({"culvert_endpoints": ["n*"]})),
            403,
            "forbidden",
        ),
        (
            "tenant",
            vc,
            token(json!({"tenant": "umbrella"})),
            404,
            "unknown-endpoint",
        ),
    ];
    for (name, host, token, status, code) in cases {
        let credential = match &*token {
            "" => String::new(),
            token => format!("Proxy-Authorization: Bearer {token}\r\n"),
        };
        let request =
            format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{credential}\r\n");
        let reply = rig.exchange(request).await;
        assert_eq!((reply.status, &*reply.code()), (status, code), "{name}");
        let challenged = reply.headers.contains_key("www-authenticate");
        assert_eq!(challenged, matches!(status, 401 | 403), "{name}");
    }
    assert!(agent.is_untouched().await);
}

#[tokio::test]
async fn another_tenants_endpoint_looks_like_none() {
    let rig = Rig::new();
    let _agent = rig.agent("vc").await;
    let credential = format!(
        "Culvert-Authorization: Bearer {}\r\n",
        rig.token(json!({"tenant": "umbrella"}))
    );
    let mut replies = Vec::new();
    for host in [
        HOST,
        "nothing--acme.relay.test",
        "nothing--umbrella.relay.test",
    ] {
        let request =
            format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{credential}\r\n");
        let reply = rig.exchange(request).await;
        let id = reply.header("culvert-call").to_owned();
        let head = format!("{:?}", reply.headers).replace(&id, "ID");
        let date = reply.header("date").to_owned();
        replies.push((
            reply.status,
            head.replace(&date, ""),
            show(&reply.body).replace(&id, "ID"),
        ));
    }
    assert_eq!(replies[0], replies[1]);
    assert_eq!(replies[0], replies[2]);
}

#[tokio::test]
async fn a_drain_lets_calls_finish_and_takes_no_more() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let mut busy = rig.connect(Alpn::Http1);
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n", rig.bearer());
    busy.write_all(request.as_bytes()).await.unwrap();
    let (_, mut one) = agent.accept().await;
    let mut sender = rig.http2().await;
    let sent = tokio::spawn(sender.send_request(rig.request("GET", "/", "")));
    let (_, mut two) = agent.accept().await;
    let mut idle = rig.connect(Alpn::Http1);
    rig.drain.cancel();
    let mut nothing = Vec::new();
    tokio::time::timeout(SOON, idle.read_to_end(&mut nothing))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(nothing, b"");
    answer(&mut one, 200, &[], b"one").await;
    answer(&mut two, 200, &[], b"two").await;
    let reply = Reply::read_to_end(&mut busy).await;
    assert_eq!(
        (show(&reply.body), reply.header("connection")),
        ("one", "close")
    );
    let reply = Reply::of(sent.await.unwrap().unwrap()).await;
    assert_eq!(show(&reply.body), "two");
    assert!(
        sender
            .send_request(rig.request("GET", "/", ""))
            .await
            .is_err()
    );
}

/// A caller reuses a connection without knowing that the node has just begun to drain: the call is
/// served, and the answer says that the connection ends.
#[tokio::test]
async fn a_call_that_meets_the_drain_on_an_idle_connection_is_served() {
    let rig = Rig::new();
    let mut agent = rig.agent("vc").await;
    let mut caller = rig.connect(Alpn::Http1);
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n", rig.bearer());
    caller.write_all(request.as_bytes()).await.unwrap();
    let (_, mut first) = agent.accept().await;
    answer(&mut first, 200, &[("content-length", "5")], b"first").await;
    let mut reply = Vec::new();
    while !reply.ends_with(b"first") {
        assert_ne!(caller.read_buf(&mut reply).await.unwrap(), 0);
    }
    rig.drain.cancel();
    tokio::task::yield_now().await;
    caller.write_all(request.as_bytes()).await.unwrap();
    let (_, mut second) = agent.accept().await;
    answer(&mut second, 200, &[], b"second").await;
    let reply = Reply::read_to_end(&mut caller).await;
    assert_eq!(
        (show(&reply.body), reply.header("connection")),
        ("second", "close")
    );
}

#[tokio::test]
async fn the_relays_own_name_serves_the_errors_and_nothing_else() {
    let rig = Rig::new();
    let get = |path, method| {
        format!("{method} {path} HTTP/1.1\r\nHost: {DOMAIN}\r\nConnection: close\r\n\r\n")
    };
    let page = rig.exchange(get("/.culvert/errors", "GET")).await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, "text/html; charset=utf-8")
    );
    assert!(show(&page.body).contains("<h2 id=\"policy-denied\">"));
    assert_eq!(page.header("culvert-call").len(), 32);
    let head = rig.exchange(get("/.culvert/errors", "HEAD")).await;
    assert_eq!(head.header("content-length"), page.header("content-length"));
    assert_eq!(head.body, b"");
    for (path, method) in [
        ("/", "GET"),
        ("/.culvert", "GET"),
        ("/.culvert/errors", "POST"),
    ] {
        let reply = rig.exchange(get(path, method)).await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (404, "unknown-endpoint"),
            "{path}"
        );
    }
    let reply = rig.exchange(get("/.culvert/v1/session", "GET")).await;
    assert_eq!((reply.status, &*reply.code()), (426, "bad-request"));
    assert_eq!(reply.header("upgrade"), "websocket");
}
