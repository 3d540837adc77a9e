//! What connections cost on which nobody has shown a valid credential, whatever they do.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use culvert_tests::raw::Raw;
use culvert_tests::wait::until;
use culvert_tests::way::client_hello;
use culvert_tests::{Curl, Stack, Upstream};

/// Connections in each state. What the program needs once for all of them is shared by so many.
const CONNECTIONS: usize = 300;

/// What one may cost, in bytes, and what one of the few may that hold a long head which is not whole.
const MOST: u64 = 64 * 1024;
const MOST_OF_FEW: u64 = 128 * 1024;

/// How many of one source may hold a head of more than 16 KiB at once.
const FEW: usize = 64;

const HOST: &str = "vcenter--acme.localhost";

/// Timers that leave a slow machine the time to open all of them.
const PATIENT: &str =
    "\n[limits]\nunauthenticated = \"2m\"\ntls_handshake = \"2m\"\nrequest_head = \"2m\"\n";

/// The beginning of a head that never ends, as long as one may be.
fn half_a_head() -> String {
    let mut head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n");
    while head.len() < 63 * 1024 {
        head.push_str(&format!("Cookie: {}\r\n", "c".repeat(1024)));
    }
    head
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let header = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&header, payload].concat()
}

/// Preface, SETTINGS, and a header block that never ends, as long as one may be.
fn half_a_block() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    // Literal fields that are not indexed: `a: ccc...`, each of 126 bytes.
    let field = [&[0, 1, b'a', 126][..], &[b'c'; 126]].concat();
    bytes.extend(frame(1, 0, 1, &field));
    for _ in 0..60 {
        bytes.extend(frame(9, 0, 1, &field.repeat(8)));
    }
    bytes
}

/// A header block that never ends, of fields of one byte: `accept: `, from the static table.
fn small_fields() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 0, 1, &[0x93; 2000]));
    bytes
}

/// As many requests without a credential as are answered before the connection ends, each with the
/// beginning of a body.
fn bodies() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    // :method POST, :scheme https, :path /, :authority HOST.
    let length = u8::try_from(HOST.len()).unwrap();
    let head = [&[0x83, 0x87, 0x84, 0x01, length], HOST.as_bytes()].concat();
    for number in 0..9 {
        bytes.extend(frame(1, 4, 2 * number + 1, &head));
        bytes.extend(frame(0, 0, 2 * number + 1, &[b'x'; 2048]));
    }
    bytes
}

/// Half of what a client says first in TLS.
fn half_a_hello() -> Vec<u8> {
    let mut hello = client_hello(HOST, &["http/1.1"]);
    hello.truncate(hello.len() / 2);
    hello
}

/// What the relay has in memory, in bytes.
fn resident(stack: &Stack) -> u64 {
    let smaps = fs::read_to_string(format!("/proc/{}/smaps_rollup", stack.relay.id()));
    let smaps = smaps.expect("it is running");
    let line = smaps.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    1024 * kib.unwrap().trim().parse::<u64>().unwrap()
}

/// What it has once it takes no more.
fn settled(stack: &Stack) -> u64 {
    let (mut last, mut same) = (0, 0);
    until("the relay has read what it reads", || {
        std::thread::sleep(Duration::from_millis(20));
        let now = resident(stack);
        same = if now == last { same + 1 } else { 0 };
        last = now;
        same == 10
    });
    last
}

/// What each of many connections costs a relay of its own that are opened like this; at least so
/// many of them are not cut.
fn cost<C>(least: usize, open: impl Fn(u16) -> C) -> u64 {
    let upstream = Upstream::plain();
    let options = Stack::options().endpoint("vcenter", &upstream.url());
    let mut stack = options.relay(PATIENT).start();
    // The code is in memory then.
    drop((0..10).map(|_| open(stack.public)).collect::<Vec<_>>());
    let before = settled(&stack);
    let held: Vec<_> = (0..CONNECTIONS).map(|_| open(stack.public)).collect();
    let after = settled(&stack);
    let metrics = Curl::new(&format!("http://127.0.0.1:{}/metrics", stack.admin)).run();
    let open = metrics.text();
    let open = open
        .lines()
        .find_map(|line| line.strip_prefix("culvert_relay_connections "))
        .map(|number| number.parse::<usize>().unwrap());
    assert!(open.unwrap() >= least, "they are still open: {open:?}");
    drop(held);
    stack.relay.assert_running();
    after.saturating_sub(before) / CONNECTIONS as u64
}

#[test]
fn a_connection_without_a_credential_costs_little_whatever_it_does() {
    let tls = |port, alpn: &str, bytes: &[u8]| {
        let mut connection = Raw::connect_with(HOST, port, &[alpn]);
        connection.send(bytes);
        connection
    };
    let (hello, head) = (half_a_hello(), half_a_head());
    let (block, small, bodies) = (half_a_block(), small_fields(), bodies());
    let plain = |port, bytes: &[u8]| {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        connection.write_all(bytes).unwrap();
        connection
    };
    let all = CONNECTIONS;
    let costs = [
        ("only TCP", MOST, cost(all, |port| plain(port, b""))),
        (
            "half a handshake",
            MOST,
            cost(all, |port| plain(port, &hello)),
        ),
        (
            "idle after TLS",
            MOST,
            cost(all, |port| tls(port, "http/1.1", b"")),
        ),
        (
            "half a head",
            MOST,
            cost(all, |port| {
                tls(port, "http/1.1", &head.as_bytes()[..16_000])
            }),
        ),
        (
            "half a head of 64 KiB",
            MOST_OF_FEW,
            cost(FEW, |port| tls(port, "http/1.1", head.as_bytes())),
        ),
        (
            "idle HTTP/2",
            MOST,
            cost(all, |port| tls(port, "h2", &block[..33])),
        ),
        (
            "half a header block",
            MOST,
            cost(all, |port| tls(port, "h2", &block[..16_000])),
        ),
        (
            "half a header block of 64 KiB",
            MOST_OF_FEW,
            cost(FEW, |port| tls(port, "h2", &block)),
        ),
        (
            "half a header block of small fields",
            MOST,
            cost(all, |port| tls(port, "h2", &small)),
        ),
        ("bodies", MOST, cost(all, |port| tls(port, "h2", &bodies))),
    ];
    eprintln!("{costs:?}");
    for (state, most, cost) in costs {
        assert!(cost <= most, "{state}: {cost} bytes each; all: {costs:?}");
    }
}
