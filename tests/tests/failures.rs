//! What a caller gets when something on the way is down, wrong, or ends in the middle: always an
//! error, never a clean end that looks like a whole answer.

use std::sync::mpsc::{self, Receiver};

use culvert_demo::certs::Authority;
use culvert_tests::curl::{Curl, Http};
use culvert_tests::stack::caller_token;
use culvert_tests::upstream::Then;
use culvert_tests::wait::{LONG, eventually, until};
use culvert_tests::{Nginx, Stack, Upstream, port};
use rustix::process::Signal;

/// How an answer says where it ends.
const FRAMINGS: [&str; 2] = ["Content-Length: 1000000", "Transfer-Encoding: chunked"];

/// An upstream that sends a head and a piece of the body, and then waits. The receiver gets,
/// for each such call, whether the agent closed the connection.
fn stuck_upstream() -> (Upstream, Receiver<bool>) {
    let (result, closed) = mpsc::channel();
    let upstream = Upstream::start(move |request, connection| {
        let framing = request.all("x-framing");
        let framing = framing.first().copied().unwrap_or(FRAMINGS[0]).to_owned();
        connection.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"))?;
        if framing.ends_with("chunked") {
            connection.send_chunk(b"first")?;
        } else {
            connection.send("first")?;
        }
        let _ = result.send(connection.closed_within(LONG));
        Ok(Then::Close)
    });
    (upstream, closed)
}

#[test]
fn an_endpoint_whose_agent_left_is_offline_and_one_that_never_was_is_unknown() {
    let mut stack = Stack::start(&Upstream::plain().url());
    stack.agent.kill();
    for http in Http::BOTH {
        eventually("the endpoint is offline", || {
            let answer = stack.call("/").http(http).ok();
            (answer.code() == "endpoint-offline").then_some(answer)
        });
        let answer = stack.call("/").http(http).ok();
        answer.assert_refused(503, "endpoint-offline", "relay");
        let after = answer
            .header("retry-after")
            .and_then(|value| value.parse::<u32>().ok());
        assert!(after.is_some_and(|seconds| seconds > 0), "{answer}");
        let unknown = stack.call_endpoint("nothing", "/").http(http).ok();
        unknown.assert_refused(404, "unknown-endpoint", "relay");
    }
    stack.restart_agent();
    stack.await_endpoint("vcenter");
    assert_eq!(stack.call("/").ok().status, 200);
}

/// Terraform takes a 404 for a thing that is gone, and forgets it.
#[test]
fn a_relay_that_has_just_started_does_not_call_unknown_what_may_come_back() {
    let mut stack = Stack::start(&Upstream::plain().url());
    stack.agent.kill();
    stack.relay.kill();
    stack.restart_relay();
    for http in Http::BOTH {
        let answer = stack.call("/").http(http).ok();
        answer.assert_refused(503, "endpoint-offline", "relay");
        assert!(answer.header("retry-after").is_some(), "{answer}");
    }
    let credential = format!("x:{}", caller_token());
    let proxied = Curl::through(stack.public, "https://vcenter.sddc.test/");
    let refused = proxied.args(["--proxy-user", &credential]).run();
    assert!(refused.errors.contains("503"), "{}", refused.errors);
    stack.restart_agent();
    stack.await_endpoint("vcenter");
    let unknown = stack.call_endpoint("nothing", "/").ok();
    unknown.assert_refused(404, "unknown-endpoint", "relay");
}

#[test]
fn an_upstream_that_is_down_is_named_as_the_cause() {
    let upstream = Upstream::plain();
    let down = format!("https://localhost:{}", port::free());
    let mut stack = Stack::options()
        .endpoint("down", &down)
        .endpoint("vcenter", &upstream.url())
        .start();
    stack.await_endpoint("vcenter");
    for http in Http::BOTH {
        for method in ["GET", "POST"] {
            let answer = stack
                .call_endpoint("down", "/")
                .method(method)
                .http(http)
                .ok();
            answer.assert_refused(502, "upstream-unreachable", "agent");
        }
    }
    assert_eq!(
        stack.call("/").ok().status,
        200,
        "another endpoint has nothing to do with it"
    );
}

#[test]
fn an_upstream_that_comes_back_is_used_again() {
    let mut nginx = Nginx::start();
    let stack = Stack::start(&nginx.url());
    for _ in 0..3 {
        assert_eq!(stack.call("/api/vm").ok().status, 200);
        nginx.stop();
        let down = stack.call("/api/vm").method("POST").ok();
        down.assert_refused(502, "upstream-unreachable", "agent");
        nginx.restart();
    }
    assert_eq!(stack.call("/api/vm").ok().status, 200);
}

#[test]
fn an_upstream_with_a_wrong_certificate_gets_no_request() {
    let stranger = Authority::generate().unwrap();
    let nginx = Nginx::start_signed_by(&stranger);
    let good = Upstream::plain();
    // The right authority, but another name.
    let elsewhere = good.url().replace("localhost", "127.0.0.1");
    let mut stack = Stack::options()
        .endpoint("untrusted", &nginx.url())
        .endpoint("second", &elsewhere)
        .start();
    stack.await_endpoint("second");
    for endpoint in ["untrusted", "second"] {
        let answer = stack.call_endpoint(endpoint, "/api/vm").ok();
        answer.assert_refused(502, "upstream-tls", "agent");
    }
    assert_eq!(nginx.access_log(), "");
    assert_eq!(good.requests().len(), 0);
}

#[test]
fn an_upstream_that_speaks_no_http_is_an_error() {
    let answers = [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nBad Header: 1\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 99 Low\r\n\r\n",
        "",
    ];
    let upstream = Upstream::start(move |request, connection| {
        let number: usize = request.target()[1..].parse().unwrap();
        connection.send(answers[number])?;
        Ok(Then::Close)
    });
    let stack = Stack::start(&upstream.url());
    for (number, sent) in answers.iter().enumerate() {
        let answer = stack.call(&format!("/{number}")).ok();
        assert_eq!(answer.status, 502, "{sent:?}: {answer}");
        answer.assert_refused(502, &answer.code(), "agent");
        assert!(answer.code().starts_with("upstream-"), "{sent:?}: {answer}");
    }
}

#[test]
fn an_answer_that_breaks_off_is_an_error_for_the_caller() {
    let upstream = Upstream::start(|request, connection| {
        let framing = request.all("x-framing")[0].to_owned();
        let chunked = framing.ends_with("chunked");
        connection.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"))?;
        for _ in 0..10 {
            if chunked {
                connection.send_chunk(b"piece")?;
            } else {
                connection.send("piece")?;
            }
        }
        Ok(Then::Close)
    });
    let stack = Stack::start(&upstream.url());
    for framing in FRAMINGS {
        for http in Http::BOTH {
            let framing = format!("X-Framing: {framing}");
            let answer = stack.call("/").header(&framing).http(http).run();
            // Before anything was passed on, there is still time for an answer of our own.
            if answer.status == 502 {
                answer.assert_refused(502, "upstream-protocol", "agent");
            } else {
                assert_ne!(answer.exit, Some(0), "{framing} over {http:?}: {answer}");
            }
        }
    }
}

/// What came may be what the caller was after: a log to its last line, a download to go on with.
#[test]
fn what_an_upstream_said_before_it_broke_off_arrives() {
    const CAME: usize = 300_000;
    let upstream = Upstream::breaking_off(CAME);
    let stack = Stack::start(&upstream.url());
    for http in Http::BOTH {
        for _ in 0..10 {
            let answer = stack.call("/").http(http).run();
            assert_eq!(answer.status, 200, "{answer}");
            assert_eq!(answer.body.len(), CAME, "{http:?}");
            assert_ne!(answer.exit, Some(0), "it was not all");
        }
    }
}

/// The end of what came waits in the relay then, and the news that there is no more must not overtake it.
#[test]
fn it_arrives_at_a_caller_that_is_slower_than_the_upstream_too() {
    const CAME: usize = 16_000_000;
    let upstream = Upstream::breaking_off(CAME);
    let stack = Stack::start(&upstream.url());
    for http in Http::BOTH {
        let call = stack.call("/").http(http);
        let answer = call.args(["--limit-rate", "4M"]).run();
        assert_eq!(answer.status, 200, "{answer}");
        assert_eq!(answer.body.len(), CAME, "{http:?}");
        assert_ne!(answer.exit, Some(0), "it was not all");
    }
}

#[test]
fn a_caller_that_leaves_in_the_middle_frees_the_upstream() {
    let (upstream, closed) = stuck_upstream();
    let stack = Stack::start(&upstream.url());
    for framing in FRAMINGS {
        for http in Http::BOTH {
            let framing = format!("X-Framing: {framing}");
            let mut call = stack.call("/").header(&framing).http(http).start();
            assert_eq!(call.head().status, 200);
            assert_eq!(call.body(5), b"first");
            call.kill();
            assert_eq!(
                closed.recv_timeout(LONG),
                Ok(true),
                "the upstream still sends"
            );
        }
    }
}

#[test]
fn a_caller_that_leaves_before_the_answer_frees_the_upstream() {
    let (result, closed) = mpsc::channel();
    let (arrived, called) = mpsc::channel();
    let upstream = Upstream::start(move |_, connection| {
        let _ = arrived.send(());
        let _ = result.send(connection.closed_within(LONG));
        Ok(Then::Close)
    });
    let stack = Stack::start(&upstream.url());
    for http in Http::BOTH {
        let call = stack.call("/slow").http(http).start();
        called
            .recv_timeout(LONG)
            .expect("the call reaches the upstream");
        call.kill();
        assert_eq!(
            closed.recv_timeout(LONG),
            Ok(true),
            "the upstream still works"
        );
    }
}

#[test]
fn a_killed_agent_is_an_error_for_calls_in_flight() {
    for framing in FRAMINGS {
        let (upstream, _closed) = stuck_upstream();
        let mut stack = Stack::start(&upstream.url());
        let framing = format!("X-Framing: {framing}");
        let mut calls = Http::BOTH.map(|http| {
            let mut call = stack.call("/").header(&framing).http(http).start();
            assert_eq!(call.head().status, 200);
            assert_eq!(call.body(5), b"first");
            (http, call)
        });
        stack.agent.kill();
        for (http, call) in &mut calls {
            assert_eq!(call.body(1), b"", "{framing} over {http:?}");
        }
        for (http, call) in calls {
            let end = call.finish();
            assert_ne!(end.exit, Some(0), "{framing} over {http:?} ended cleanly");
        }
    }
}

#[test]
fn a_killed_agent_before_the_answer_is_a_lost_session() {
    let (arrived, called) = mpsc::channel();
    let upstream = Upstream::start(move |_, connection| {
        let _ = arrived.send(());
        connection.closed_within(LONG);
        Ok(Then::Close)
    });
    let mut stack = Stack::start(&upstream.url());
    // A write, which is never sent twice.
    let calls = Http::BOTH.map(|http| stack.call("/").method("POST").http(http).start());
    for _ in &calls {
        called
            .recv_timeout(LONG)
            .expect("the call reaches the upstream");
    }
    stack.agent.kill();
    for call in calls {
        call.answer().assert_refused(502, "session-lost", "relay");
    }
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn a_relay_that_was_killed_and_is_back_gets_its_agent_back() {
    let upstream = Upstream::plain();
    let mut stack = Stack::start(&upstream.url());
    assert_eq!(stack.call("/").ok().status, 200);
    for _ in 0..2 {
        stack.kill_relay();
        stack.restart_relay();
        // Nobody touches the agent.
        stack.await_endpoint("vcenter");
        assert_eq!(stack.call("/").ok().status, 200);
    }
}

#[test]
fn a_killed_relay_frees_the_upstreams_of_its_calls() {
    let (upstream, closed) = stuck_upstream();
    let mut stack = Stack::start(&upstream.url());
    let mut call = stack.call("/").start();
    assert_eq!(call.head().status, 200);
    assert_eq!(call.body(5), b"first");
    stack.kill_relay();
    assert_eq!(closed.recv_timeout(LONG), Ok(true));
    assert_ne!(call.finish().exit, Some(0));
    stack.agent.assert_running();
}

#[test]
fn an_agent_that_starts_before_its_relay_waits_for_it() {
    let upstream = Upstream::plain();
    let mut stack = Stack::start(&upstream.url());
    stack.kill_relay();
    stack.agent.kill();
    let log = stack.agent.log().len();
    stack.restart_agent();
    until("the agent has tried to connect", || {
        stack.agent.log().len() > log
    });
    stack.agent.assert_running();
    stack.restart_relay();
    stack.await_endpoint("vcenter");
}

/// A frozen program neither answers nor closes: only a timer can tell.
/// The relay would believe in the dead session until its silence is noticed, and give it calls: the
/// agent, which is back long before, says that it takes its own session's place.
#[test]
fn a_session_that_only_the_relay_believes_in_is_replaced_at_once() {
    let (arrived, called) = mpsc::channel();
    let upstream = Upstream::start(move |request, connection| {
        if request.target() == "/held" {
            let _ = arrived.send(());
            connection.closed_within(LONG);
            return Ok(Then::Close);
        }
        connection.read_body(request, |_| ())?;
        connection.answer("200 OK", b"hello")
    });
    let options = Stack::options().endpoint("vcenter", &upstream.url());
    let mut stack = options.over_wires().start();
    let mut held = stack.call("/held").args(["--data", "x"]).start();
    called.recv_timeout(LONG).unwrap();
    stack.wires().strand(0);
    let answer = held.head();
    let first = stack.wires().opened();
    assert_eq!((answer.status, first), (502, 2), "{answer:?}");
    for _ in 0..20 {
        // What is given to a dead session is not sent again: it may have been done.
        let answer = stack.call("/").args(["--data", "x"]).ok();
        assert_eq!(answer.status, 200, "{answer}");
    }
    let sessions = stack.admin("/api/v1/status").json()["sessions"].clone();
    assert_eq!(sessions.as_array().unwrap().len(), 1, "{sessions}");
    assert_eq!(sessions[0]["replaces"], 1, "{sessions}");
    let metrics = stack.admin("/metrics").text();
    let ends = "culvert_relay_session_ends_total{reason=";
    assert!(
        metrics.contains(&format!("{ends}\"replaced\"}} 1\n")),
        "{metrics}"
    );
    assert!(
        !metrics.contains(&format!("{ends}\"timeout\"}}")),
        "{metrics}"
    );
    let notice = &stack.status()["sessions"][0]["notice"];
    assert!(
        notice.as_str().unwrap().contains("place of session 1"),
        "{notice}"
    );
    stack.agent.assert_running();
}

#[test]
fn a_frozen_agent_is_noticed_and_comes_back_when_it_thaws() {
    let (upstream, _closed) = stuck_upstream();
    let mut stack = Stack::start(&upstream.url());
    let mut call = stack.call("/").http(Http::Two).start();
    assert_eq!(call.head().status, 200);
    assert_eq!(call.body(5), b"first");
    stack.agent.signal(Signal::STOP);
    assert_ne!(call.finish().exit, Some(0));
    eventually("the endpoint is offline", || {
        let answer = stack
            .call("/forbidden/probe")
            .arg("--max-time")
            .arg("20")
            .run();
        (answer.code() == "endpoint-offline").then_some(())
    });
    // Like a machine that was suspended: its session is gone, and it opens another.
    stack.agent.signal(Signal::CONT);
    stack.await_endpoint("vcenter");
}

#[test]
fn a_frozen_relay_is_noticed_and_found_again_when_it_thaws() {
    let mut stack = Stack::start(&Upstream::plain().url());
    stack.relay.signal(Signal::STOP);
    until("the agent has noticed", || {
        stack.agent.log().contains("nothing came from the peer for")
    });
    stack.relay.signal(Signal::CONT);
    stack.await_endpoint("vcenter");
    assert_eq!(stack.call("/").ok().status, 200);
}

#[test]
fn a_slow_upstream_is_given_up_when_its_time_is_over() {
    let upstream = Upstream::start(|_, connection| {
        connection.closed_within(LONG);
        Ok(Then::Close)
    });
    let options = Stack::options().endpoint("vcenter", &upstream.url());
    let stack = options
        .endpoint_settings("timeouts = { head = \"200ms\" }")
        .start();
    for http in Http::BOTH {
        let answer = stack.call("/").http(http).ok();
        answer.assert_refused(504, "upstream-timeout", "agent");
    }
}
