use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::*;

/// Longer than any test runs.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// A link to a listener of the test's own.
fn link(line: Line) -> (Link, TcpListener) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let link = Link::start(listener.local_addr().unwrap(), line).unwrap();
    (link, listener)
}

/// A connection through the link: both its ends.
fn connect(link: &Link, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let near = TcpStream::connect(link.address()).unwrap();
    (near, listener.accept().unwrap().0)
}

fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        thread::yield_now();
    }
}

fn read(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    stream.read_exact(&mut read).unwrap();
    read
}

#[test]
fn bytes_arrive_complete_and_in_order_whatever_the_line_is_like() {
    let (link, listener) = link(Line {
        delay: Duration::from_millis(1),
        rate: Some(50_000_000),
        loss: 0.05,
    });
    let (mut near, mut far) = connect(&link, &listener);
    let sent: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let copy = sent.clone();
    let sender = thread::spawn(move || near.write_all(&copy));
    let mut received = Vec::new();
    far.read_to_end(&mut received).unwrap();
    sender.join().unwrap().unwrap();
    assert!(received == sent);
    assert_eq!((link.taken(), link.carried()), (4_000_000, 4_000_000));
}

#[test]
fn connections_share_the_rate_of_their_line() {
    let (link, listener) = link(Line {
        rate: Some(100_000),
        ..Line::default()
    });
    let (mut busy, mut far_busy) = connect(&link, &listener);
    let (mut other, mut far_other) = connect(&link, &listener);
    let reading = thread::spawn(move || read(&mut far_busy, 40_000).len());
    busy.write_all(&[0; 40_000]).unwrap();
    wait_until(|| link.taken() == 40_000);
    // It waits for the line, as long as all that was taken before it needs, and then for its own
    // 300 ms.
    other.write_all(&[1; 30_000]).unwrap();
    assert_eq!(read(&mut far_other, 30_000), [1; 30_000]);
    // Alone it would have overtaken the others, that need 400 ms.
    assert!(link.carried() >= 40_000, "{} bytes", link.carried());
    assert_eq!(reading.join().unwrap(), 40_000);
}

#[test]
fn what_is_sent_first_on_a_long_line_arrives_after_what_is_sent_next_on_a_short_one() {
    let (long, at_long) = link(Line {
        delay: Duration::from_millis(500),
        ..Line::default()
    });
    let (short, at_short) = link(Line::default());
    let (mut near_long, mut far_long) = connect(&long, &at_long);
    let (mut near_short, mut far_short) = connect(&short, &at_short);
    let (sender, arrivals) = channel();
    let other = sender.clone();
    let one = thread::spawn(move || other.send(read(&mut far_long, 1)));
    let two = thread::spawn(move || sender.send(read(&mut far_short, 1)));
    near_long.write_all(b"L").unwrap();
    wait_until(|| long.taken() == 1);
    near_short.write_all(b"S").unwrap();
    assert_eq!(arrivals.iter().collect::<Vec<_>>(), [b"S", b"L"]);
    one.join().unwrap().unwrap();
    two.join().unwrap().unwrap();
}

#[test]
fn what_comes_during_a_stall_waits_and_arrives_after_it() {
    let (link, listener) = link(Line::default());
    let (mut near, mut far) = connect(&link, &listener);
    near.write_all(b"before").unwrap();
    assert_eq!(read(&mut far, 6), b"before");
    wait_until(|| link.carried() == 6);
    link.stall(FOR_EVER);
    near.write_all(b"during").unwrap();
    far.write_all(b"and back").unwrap();
    wait_until(|| link.taken() == 6 + 6 + 8);
    assert_eq!(link.carried(), 6);
    link.stall(Duration::ZERO);
    assert_eq!(read(&mut far, 6), b"during");
    assert_eq!(read(&mut near, 8), b"and back");
}

#[test]
fn a_stall_ends_by_itself() {
    let (link, listener) = link(Line::default());
    let (mut near, mut far) = connect(&link, &listener);
    link.stall(Duration::from_millis(5));
    near.write_all(b"a").unwrap();
    assert_eq!(read(&mut far, 1), b"a");
}

#[test]
fn a_cut_ends_present_connections_and_takes_new_ones() {
    let (link, listener) = link(Line::default());
    let (mut near, mut far) = connect(&link, &listener);
    near.write_all(b"a").unwrap();
    assert_eq!(read(&mut far, 1), b"a");
    link.cut();
    assert_eq!(near.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(far.read(&mut [0]).unwrap_or(0), 0);
    let (mut near, mut far) = connect(&link, &listener);
    near.write_all(b"b").unwrap();
    assert_eq!(read(&mut far, 1), b"b");
}

#[test]
fn a_black_hole_swallows_present_connections_and_carries_new_ones() {
    let (link, listener) = link(Line::default());
    let (mut near, mut far) = connect(&link, &listener);
    near.write_all(b"a").unwrap();
    assert_eq!(read(&mut far, 1), b"a");
    link.black_hole();
    near.write_all(b"lost").unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    wait_until(|| link.taken() == 5);
    let (mut new_near, mut new_far) = connect(&link, &listener);
    new_near.write_all(b"b").unwrap();
    assert_eq!(read(&mut new_far, 1), b"b");
    // Not even the end of the sender's bytes came through: a read would block.
    far.set_nonblocking(true).unwrap();
    let error = far.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    wait_until(|| link.carried() == 2);
}

#[test]
fn a_link_that_refuses_closes_new_connections_and_keeps_present_ones() {
    let (link, listener) = link(Line::default());
    let (mut near, mut far) = connect(&link, &listener);
    near.write_all(b"a").unwrap();
    assert_eq!(read(&mut far, 1), b"a");
    link.refuse(true);
    let mut refused = TcpStream::connect(link.address()).unwrap();
    assert_eq!(refused.read(&mut [0]).unwrap_or(0), 0);
    near.write_all(b"b").unwrap();
    assert_eq!(read(&mut far, 1), b"b");
    link.refuse(false);
    let (mut near, mut far) = connect(&link, &listener);
    near.write_all(b"c").unwrap();
    assert_eq!(read(&mut far, 1), b"c");
}

#[test]
fn loss_counts_packets() {
    assert_eq!(lost(0, 0.5), 0.0);
    assert_eq!(lost(1, 0.5), 0.5);
    assert_eq!(lost(PACKET, 0.5), 0.5);
    assert_eq!(lost(PACKET + 1, 0.5), 0.75);
    assert_eq!(lost(CHUNK, 0.0), 0.0);
}
