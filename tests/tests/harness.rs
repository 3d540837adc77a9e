//! The harness by itself, without relay and agent between: what the other tests rely on.

use std::io::Write;
use std::sync::mpsc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use culvert_tests::curl::{Curl, Http};
use culvert_tests::issuer::{AGENT, CALLER, NO_SCOPE, NO_TENANT, world};
use culvert_tests::upstream::Then;
use culvert_tests::wait::{LONG, until};
use culvert_tests::{Nginx, Upstream};
use serde_json::Value;

fn claims(token: &str) -> Value {
    let claims = token.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

#[test]
fn the_issuer_gives_each_client_what_its_tests_need() {
    let agent = claims(&world().token(AGENT));
    assert_eq!(
        (&agent["tenant"], &agent["scope"]),
        (&"acme".into(), &"culvert:register".into())
    );
    assert_eq!(agent["culvert_endpoints"][0], "vcenter");
    let caller = claims(&world().token(CALLER));
    assert_eq!(
        (&caller["sub"], &caller["scope"]),
        (&CALLER.into(), &"culvert:call".into())
    );
    assert_eq!(claims(&world().token(NO_SCOPE))["scope"], Value::Null);
    assert_eq!(claims(&world().token(NO_TENANT))["tenant"], Value::Null);
}

#[test]
fn a_forged_token_has_the_claims_of_a_real_one() {
    let (mut real, mut forged) = (claims(&world().token(CALLER)), world().claims());
    for differs in ["iat", "exp", "jti"] {
        real[differs] = Value::Null;
        forged[differs] = Value::Null;
    }
    assert_eq!(real, forged);
}

#[test]
fn nginx_tells_what_arrived() {
    let nginx = Nginx::start();
    let answer = Curl::new(&format!("{}/api/x?y=1", nginx.url())).ok();
    assert_eq!(
        (answer.status, &answer.json()["target"]),
        (200, &"/api/x?y=1".into())
    );
    // It writes that after it has answered.
    until("nginx has logged the call", || {
        nginx.access_log().contains("GET /api/x?y=1")
    });
}

#[test]
fn curl_fails_on_an_answer_that_is_cut_short() {
    for head in ["Content-Length: 20", "Transfer-Encoding: chunked"] {
        let upstream = Upstream::start(move |_, connection| {
            connection.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n"))?;
            Ok(Then::Close)
        });
        let answer = Curl::new(&upstream.url()).http(Http::One).run();
        assert_eq!(answer.status, 200);
        assert_ne!(answer.exit, Some(0), "{head}");
    }
}

#[test]
fn the_upstream_reads_bodies_and_sees_its_peer_leave() {
    let (result, closed) = mpsc::channel();
    let upstream = Upstream::start(move |request, connection| {
        let mut length = 0;
        connection.read_body(request, |piece| length += piece.len())?;
        connection.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{length:05}"
        ))?;
        result
            .send(connection.closed_within(LONG))
            .expect("the test waits");
        Ok(Then::Close)
    });
    let mut call = Curl::new(&upstream.url())
        .args(["--upload-file", "-"])
        .start();
    call.input().write_all(&[0; 12_345]).unwrap();
    assert_eq!(call.head().status, 200);
    assert_eq!(call.body(5), b"12345");
    call.kill();
    assert_eq!(closed.recv_timeout(LONG), Ok(true));
}
