//! What one source of strangers can take, and how much is said of it.

use super::*;
use crate::testing::Lines;

fn ip(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number])
}

#[tokio::test]
async fn one_source_of_strangers_leaves_seats_for_nodes() {
    let strangers = Strangers::new();
    let take = |from| strangers.seat(from).map(drop);
    let mut of_one: Vec<_> = (0..MAX_OF_SOURCE)
        .map(|_| strangers.seat(ip(1)).unwrap())
        .collect();
    assert_eq!(take(ip(1)), Err(NoSeat::OfSource));
    assert_eq!(take(ip(2)), Ok(()));
    of_one[0].prove();
    assert_eq!(take(ip(1)), Ok(()), "a node is no stranger");
    let again = strangers.seat(ip(1)).unwrap();
    assert_eq!(take(ip(1)), Err(NoSeat::OfSource));
    drop(of_one.pop());
    assert_eq!(take(ip(1)), Ok(()), "one is gone");

    drop((of_one, again));
    assert!(strangers.open().is_empty());
    assert_eq!(strangers.seats.available_permits(), MAX_CONNECTIONS);
}

/// However many sources say nothing: who has been here before, and proved to be a node, comes in.
#[tokio::test]
async fn many_sources_of_strangers_leave_seats_for_nodes() {
    let strangers = Strangers::new();
    strangers.seat(ip(200)).unwrap().prove();
    strangers.seat(ip(201)).map(drop).unwrap();
    let mut silent = Vec::new();
    for number in 0..MAX_CONNECTIONS {
        let from = ip((number % 100) as u8);
        silent.extend(strangers.seat(from).ok());
    }
    assert_eq!(silent.len(), MAX_STRANGERS);
    let take = |from| strangers.seat(from).map(drop);
    assert_eq!(take(ip(200)), Ok(()));
    assert_eq!(
        take(ip(201)),
        Err(NoSeat::Strangers),
        "it has proved nothing"
    );
    silent[0].prove();
    assert_eq!(take(ip(201)), Ok(()));
}

#[tokio::test]
async fn of_the_places_of_nodes_no_more_than_so_many_are_remembered() {
    let strangers = Strangers::new();
    for number in 0..=MAX_KNOWN {
        let from = IpAddr::from([10, 0, (number >> 8) as u8, number as u8]);
        strangers.seat(from).unwrap().prove();
    }
    assert_eq!(strangers.known().len(), 1);
}

#[tokio::test]
async fn there_are_seats_for_no_more_connections_than_can_be_served() {
    let strangers = Strangers::new();
    let _nodes: Vec<_> = (0..MAX_CONNECTIONS)
        .map(|_| {
            let mut seat = strangers.seat(ip(1)).unwrap();
            seat.prove();
            seat
        })
        .collect();
    assert_eq!(strangers.seat(ip(2)).map(drop), Err(NoSeat::All));
    assert!(
        strangers.open().is_empty(),
        "who has no seat is not counted"
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_of_strangers_has_a_line_in_ten_seconds_and_the_rest_is_counted() {
    let (lines, _guards) = Lines::listen();
    let strangers = Strangers::new();
    let said = || lines.text().lines().count();
    for number in 0..100 {
        strangers.complain(ip(1), &format_args!("no TLS, number {number}"));
        strangers.complain(ip(2), &"no certificate was shown");
    }
    assert_eq!(said(), 2, "{}", lines.text());
    strangers.say_rest();
    assert_eq!(said(), 2, "{}", lines.text());
    tokio::time::advance(QUIET).await;
    strangers.say_rest();
    assert_eq!(said(), 4, "{}", lines.text());
    let text = lines.text();
    let of_first = text.lines().rfind(|line| line.contains("192.0.2.1"));
    let of_first = of_first.unwrap_or_default();
    assert!(of_first.contains("\"connections\":99"), "{of_first}");
    assert!(of_first.contains("no TLS, number 99"), "{of_first}");

    tokio::time::advance(QUIET).await;
    strangers.say_rest();
    assert_eq!(said(), 4, "there was nothing more");
    assert!(strangers.said().is_empty());
    strangers.complain(ip(1), &"no TLS");
    assert_eq!(said(), 5);
}

#[tokio::test(start_paused = true)]
async fn however_many_sources_there_are_few_have_lines_of_their_own() {
    let (lines, _guards) = Lines::listen();
    let strangers = Strangers::new();
    for number in 0..=255 {
        strangers.complain(ip(number), &"no TLS");
        strangers.complain(ip(number), &"no TLS");
    }
    let said = || lines.text().lines().count();
    assert_eq!(said(), MAX_TOLD_APART + 1, "one is all the others'");
    tokio::time::advance(QUIET).await;
    strangers.say_rest();
    assert_eq!(said(), 2 * (MAX_TOLD_APART + 1));
    assert!(lines.text().contains("of many sources"), "{}", lines.text());
}
