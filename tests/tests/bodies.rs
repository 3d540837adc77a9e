//! Bodies of any length pass both ways, unchanged, at the pace of the slower side, in little
//! memory.

use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

use culvert_tests::curl::Http;
use culvert_tests::pattern::{BLOCK, Check, Source};
use culvert_tests::raw::Raw;
use culvert_tests::stack::caller_token;
use culvert_tests::upstream::Then;
use culvert_tests::wait::LONG;
use culvert_tests::{Nginx, Stack, Upstream};

const GIB: u64 = 1 << 30;

/// What neither program may ever hold, whatever passes through it.
const MEMORY: u64 = 96 << 20;

#[track_caller]
fn assert_little_memory(stack: &Stack) {
    for (name, process) in [("relay", &stack.relay), ("agent", &stack.agent)] {
        let peak = process.peak_memory();
        assert!(peak < MEMORY, "the {name} held {} MiB", peak >> 20);
    }
}

#[test]
fn a_download_of_one_gib_arrives_whole_in_flat_memory() {
    let upstream = Upstream::start(|_, connection| {
        connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {GIB}\r\n\r\n"))?;
        let (mut source, mut block) = (Source::default(), [0; BLOCK]);
        for _ in 0..GIB / BLOCK as u64 {
            source.fill(&mut block);
            connection.send(block)?;
        }
        Ok(Then::KeepAlive)
    });
    let stack = Stack::start(&upstream.url());
    let mut download = stack.call("/big").http(Http::Two).start();
    let head = download.head();
    assert_eq!(head.status, 200, "{head}");
    assert_eq!(
        head.header("content-length"),
        Some(GIB.to_string().as_str())
    );
    let mut check = Check::default();
    download.each(|piece| check.take(piece));
    let end = download.finish();
    assert_eq!((end.exit, check.result()), (Some(0), Ok(GIB)), "{end}");
    assert_little_memory(&stack);
}

#[test]
fn an_upload_of_one_gib_arrives_whole_in_flat_memory() {
    let (result, received) = mpsc::channel();
    let upstream = Upstream::start(move |request, connection| {
        let mut check = Check::default();
        connection.read_body(request, |piece| check.take(piece))?;
        // The test is over if nobody waits any more.
        let _ = result.send(check.result());
        connection.answer("201 Created", b"")
    });
    let stack = Stack::start(&upstream.url());
    let mut upload = stack
        .call("/big")
        .args(["--upload-file", "-"])
        .http(Http::One)
        .start();
    let mut input = upload.input();
    let writer = std::thread::spawn(move || {
        let (mut source, mut block) = (Source::default(), [0; BLOCK]);
        for _ in 0..GIB / BLOCK as u64 {
            source.fill(&mut block);
            input.write_all(&block)?;
        }
        std::io::Result::Ok(())
    });
    let head = upload.head();
    assert_eq!(head.status, 201, "{head}");
    writer.join().unwrap().expect("curl takes all of it");
    assert_eq!(upload.finish().exit, Some(0));
    assert_eq!(received.recv_timeout(LONG), Ok(Ok(GIB)));
    assert_little_memory(&stack);
}

#[test]
fn files_pass_unchanged_through_a_real_server() {
    let nginx = Nginx::start();
    let stack = Stack::start(&nginx.url());
    for (name, length) in [
        ("empty", 0),
        ("one", 1),
        ("odd", 65_537),
        ("long", 9_000_001),
    ] {
        let (mut source, mut block, mut body) = (Source::default(), [0; BLOCK], Vec::new());
        while body.len() < length {
            source.fill(&mut block);
            body.extend_from_slice(&block);
        }
        body.truncate(length);
        let file = stack.file(name);
        std::fs::write(&file, &body).unwrap();
        for http in Http::BOTH {
            let path = format!("/files/{name}-{http:?}");
            let file = file.to_str().unwrap();
            let put = stack
                .call(&path)
                .args(["--upload-file", file])
                .http(http)
                .ok();
            assert!([201, 204].contains(&put.status), "{put}");
            let got = stack.call(&path).http(http).ok();
            assert_eq!(got.status, 200);
            assert!(got.body == body, "{path} has changed");
        }
    }
}

/// An upload tells its length to the upstream if the caller told it, and is chunked if not.
#[test]
fn the_framing_of_a_request_follows_the_callers() {
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    for http in Http::BOTH {
        stack
            .call("/length")
            .args(["--data-binary", "12345"])
            .http(http)
            .ok();
        let mut chunked = stack
            .call("/chunked")
            .args(["--upload-file", "-"])
            .http(http)
            .start();
        chunked.input().write_all(b"123").unwrap();
        assert_eq!(chunked.head().status, 200);
        stack.call("/none").http(http).ok();
    }
    for request in upstream.requests() {
        let framing = (
            request.all("content-length"),
            request.all("transfer-encoding"),
        );
        let expected = match request.target() {
            "/length" => (vec!["5"], vec![]),
            "/chunked" => (vec![], vec!["chunked"]),
            _ => (vec![], vec![]),
        };
        assert_eq!(framing, expected, "{request:?}");
    }
}

/// Pieces go on as they come: what watches events sees each one at once.
#[test]
fn a_body_is_passed_on_piece_by_piece() {
    let (next, go) = mpsc::channel::<()>();
    let go = std::sync::Mutex::new(go);
    let upstream = Upstream::start(move |_, connection| {
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for number in 0..5 {
            connection.send_chunk(format!("event {number}\n").as_bytes())?;
            // The next piece is sent only when the caller has this one.
            if go.lock().unwrap().recv_timeout(LONG).is_err() {
                return Ok(Then::Close);
            }
        }
        connection.send("0\r\n\r\n")?;
        Ok(Then::KeepAlive)
    });
    let stack = Stack::start(&upstream.url());
    for http in Http::BOTH {
        let mut events = stack.call("/events").http(http).start();
        assert_eq!(events.head().status, 200);
        for number in 0..5 {
            assert_eq!(events.body(8), format!("event {number}\n").as_bytes());
            next.send(()).unwrap();
        }
        assert_eq!(events.finish().exit, Some(0));
    }
}

#[test]
fn a_caller_that_does_not_read_stops_the_upstream_and_disturbs_nobody() {
    const LIMIT: u64 = 512 << 20;
    let (result, sent) = mpsc::channel();
    let upstream = Upstream::start(move |request, connection| {
        if request.target() != "/endless" {
            return connection.answer("200 OK", b"quick");
        }
        connection.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {LIMIT}\r\n\r\n"
        ))?;
        let patience = Duration::from_secs(2);
        let _ = result.send(connection.send_until_stuck(&[0; BLOCK], patience, LIMIT));
        Ok(Then::Close)
    });
    let stack = Stack::start(&upstream.url());
    let mut stuck = stack.call("/endless").http(Http::Two).start();
    assert_eq!(stuck.head().status, 200);
    for _ in 0..20 {
        assert_eq!(stack.call("/quick").ok().status, 200);
    }
    let sent = sent.recv_timeout(LONG).expect("the upstream is held up");
    assert!(
        sent < LIMIT / 4,
        "the way took {} MiB that nobody read",
        sent >> 20
    );
    assert_little_memory(&stack);
    stuck.kill();
}

/// An upstream may answer before it has read the body; the caller gets that answer at once.
#[test]
fn an_early_answer_does_not_wait_for_the_upload() {
    let upstream = Upstream::start(|_, connection| {
        connection.answer("413 Content Too Large", b"too large")?;
        // Read on, so that no reset destroys the answer on its way.
        connection.closed_within(LONG);
        Ok(Then::Close)
    });
    let stack = Stack::start(&upstream.url());
    let host = "vcenter--acme.localhost";
    let token = caller_token();
    let mut raw = Raw::connect(host, stack.public);
    // The rest of the body is never sent.
    raw.send(format!(
        "PUT /up HTTP/1.1\r\nHost: {host}\r\nCulvert-Authorization: Bearer {token}\r\n\
         Content-Length: 1000000\r\n\r\nthe first bytes"
    ));
    let received = raw.receive(Duration::from_secs(2)).text();
    assert!(received.starts_with("HTTP/1.1 413 "), "{received}");
    assert!(received.ends_with("too large"), "{received}");
}

/// A caller in the midst of a large body looks for an answer when it has sent it, or when it cannot send;
/// then the answer must still be there. Debian's curl throws it away if its HTTP/2 stream was reset.
#[test]
fn an_early_answer_reaches_a_caller_in_the_midst_of_its_body() {
    let upstream = Upstream::start(|_, connection| {
        connection.answer("413 Content Too Large", b"too large")?;
        // Read on, so that no reset destroys the answer on its way.
        connection.closed_within(LONG);
        Ok(Then::Close)
    });
    let stack = Stack::start(&upstream.url());
    let body = stack.file("body");
    std::fs::write(&body, vec![b'x'; 30_000_000]).unwrap();
    let sent = format!("@{}", body.display());
    for http in Http::BOTH {
        for (path, status) in [("/up", 413), ("/forbidden/up", 403)] {
            for round in 0..5 {
                let call = stack.call(path).http(http).header("Expect:");
                let answer = call.args(["--data-binary", &sent]).run();
                assert_eq!(answer.status, status, "{http:?} {path} {round}: {answer}");
            }
        }
    }
}

/// The next call, maybe a write, must not pay for it.
#[test]
fn a_connection_is_of_use_after_an_early_answer_or_says_that_it_is_not() {
    let stack = Stack::start(&Upstream::plain().url());
    let host = "vcenter--acme.localhost";
    let head = |path: &str, length: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nCulvert-Authorization: Bearer {}\r\n\
             Content-Length: {length}\r\n\r\n",
            caller_token()
        )
    };
    for length in [5_000, 60_000, 300_000, 2_000_000] {
        let mut raw = Raw::connect(host, stack.public);
        raw.send(head("/forbidden/up", length));
        raw.send(vec![b'x'; length]);
        raw.send(head("/up", 1) + "x");
        let received = raw.receive(Duration::from_secs(3)).text();
        assert!(
            received.starts_with("HTTP/1.1 403 "),
            "{length}: {received}"
        );
        assert!(received.contains("HTTP/1.1 200 "), "{length}: {received}");
    }
}
