//! A program that is terminated finishes what it has begun, and ends with 0; one that has nothing to do ends at
//! once.

use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};

use culvert_tests::curl::{Http, Running};
use culvert_tests::pattern::{BLOCK, Check, Source};
use culvert_tests::upstream::Then;
use culvert_tests::wait::{LONG, eventually, until};
use culvert_tests::{Stack, Upstream};

/// An upstream that sends half of its answer, and the other half when told.
fn half_an_answer() -> (Upstream, Sender<()>) {
    let (go, told) = mpsc::channel();
    let told = Mutex::new(told);
    let upstream = Upstream::start(move |_, connection| {
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")?;
        match told.lock().unwrap().recv_timeout(LONG) {
            Ok(()) => connection.send(" half")?,
            Err(_) => return Ok(Then::Close),
        }
        Ok(Then::KeepAlive)
    });
    (upstream, go)
}

/// A call that is surely in flight: its caller has half of the answer.
fn half_answered(stack: &Stack, http: Http) -> Running {
    let mut call = stack.call("/").http(http).start();
    assert_eq!(call.head().status, 200);
    assert_eq!(call.body(5), b"first");
    call
}

/// The same on a stack of its own, and what tells the upstream to go on.
fn call_in_flight(http: Http) -> (Stack, Running, Sender<()>) {
    let (upstream, go) = half_an_answer();
    let stack = Stack::start(&upstream.url());
    let call = half_answered(&stack, http);
    (stack, call, go)
}

/// Lets the upstream send the other half, which must arrive.
fn assert_finishes(call: Running, go: &Sender<()>) {
    go.send(()).unwrap();
    let end = call.finish();
    assert_eq!((end.exit, end.text().as_str()), (Some(0), " half"), "{end}");
}

#[test]
fn a_terminated_relay_finishes_the_calls_in_flight_and_exits_with_0() {
    for http in Http::BOTH {
        let (mut stack, call, go) = call_in_flight(http);
        stack.relay.terminate();
        until("the relay is no longer ready", || {
            stack.admin("/readyz").status != 200
        });
        assert_eq!(stack.relay.ended(), None, "a call is in flight");
        assert_finishes(call, &go);
        assert_eq!(stack.relay.wait().code(), Some(0));
        stack.agent.assert_running();
    }
}

/// As `systemctl stop` after `culvert-relay drain`, or a container's stop after its hook.
#[test]
fn a_relay_that_drains_already_is_in_no_hurry_when_it_is_terminated() {
    let (mut stack, call, go) = call_in_flight(Http::One);
    let admin = format!("http://127.0.0.1:{}", stack.admin);
    let output = culvert_tests::stack::run("culvert-relay", &["drain", "--admin", &admin]);
    assert_eq!(output.status.code(), Some(0));
    stack.relay.terminate();
    until("the relay has heard the signal", || {
        stack.relay.log().contains("the node drains already")
    });
    assert_finishes(call, &go);
    assert_eq!(stack.relay.wait().code(), Some(0));
}

#[test]
fn a_terminated_agent_finishes_the_calls_in_flight_and_exits_with_0() {
    for http in Http::BOTH {
        let (mut stack, call, go) = call_in_flight(http);
        stack.agent.terminate();
        eventually("new calls are turned away", || {
            let answer = stack.call("/forbidden/probe").ok();
            (answer.code() == "endpoint-offline").then_some(())
        });
        assert_eq!(stack.agent.ended(), None, "a call is in flight");
        assert_finishes(call, &go);
        assert_eq!(stack.agent.wait().code(), Some(0));
        stack.relay.assert_running();
    }
}

/// As who presses Ctrl-C twice.
#[test]
fn an_agent_that_is_terminated_again_gives_up_the_calls_in_flight() {
    let (upstream, _go) = half_an_answer();
    let mut stack = Stack::options()
        .endpoint("vcenter", &upstream.url())
        .agent("[limits]\ndrain = \"1h\"\n")
        .start();
    let call = half_answered(&stack, Http::One);
    stack.agent.terminate();
    until("the agent drains", || {
        stack.agent.log().contains("draining")
    });
    stack.agent.terminate();
    assert_eq!(stack.agent.wait().code(), Some(0));
    let end = call.finish();
    assert_ne!(end.exit, Some(0), "the answer is no whole one: {end}");
}

/// The upstream is done long before its caller is: what is still on the way arrives.
#[test]
fn a_program_that_is_terminated_delivers_what_a_slow_caller_has_not_read_yet() {
    const LENGTH: usize = 64 << 20;
    type Terminate = fn(&Stack);
    let terminate: [Terminate; 2] = [
        |stack| stack.agent.terminate(),
        |stack| stack.relay.terminate(),
    ];
    for terminate in terminate {
        for http in Http::BOTH {
            let upstream = Upstream::start(|_, connection| {
                connection.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"
                ))?;
                let (mut source, mut block) = (Source::default(), [0; BLOCK]);
                for _ in 0..LENGTH / BLOCK {
                    source.fill(&mut block);
                    connection.send(block)?;
                }
                Ok(Then::KeepAlive)
            });
            let stack = Stack::start(&upstream.url());
            let mut call = stack.call("/").http(http).start();
            assert_eq!(call.head().status, 200);
            // Nothing of the body is read before the program knows that it is to end.
            terminate(&stack);
            eventually("new calls are turned away", || {
                let probe = stack.call("/forbidden/probe").run();
                (probe.code() != "policy-denied").then_some(())
            });
            let mut check = Check::default();
            call.each(|piece| check.take(piece));
            let end = call.finish();
            let whole = (Some(0), Ok(LENGTH as u64));
            assert_eq!((end.exit, check.result()), whole, "{http:?}: {end}");
        }
    }
}

#[test]
fn idle_programs_end_at_once_when_terminated() {
    let mut stack = Stack::start(&Upstream::plain().url());
    stack.agent.terminate();
    assert_eq!(stack.agent.wait().code(), Some(0));
    stack.relay.terminate();
    assert_eq!(stack.relay.wait().code(), Some(0));
}
