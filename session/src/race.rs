//! Connecting to a host that has several addresses.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Head start of one address over the next (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Addresses that are tried.
const MAX_ADDRESSES: usize = 8;

/// Connects to the first address that answers, in the manner of Happy Eyeballs (RFC 8305): IPv6
/// and IPv4 take turns, beginning with the family of the first address; each attempt has 250 ms
/// before the next begins beside it, and a failed one makes place for the next at once. A dead
/// address costs a quarter of a second, not a timeout.
///
/// Fails as the last attempt to fail did. Sets no limit of its own: a dead host takes as long as
/// the kernel tries. Cancel safe: dropping the future ends every attempt.
pub async fn connect(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    connect_in_order(alternate(addresses)).await
}

/// The same in the order of `addresses`, whatever their families.
pub(crate) async fn connect_in_order(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    race(addresses, TcpStream::connect).await
}

async fn race<T, A>(addresses: Vec<SocketAddr>, attempt: impl Fn(SocketAddr) -> A) -> io::Result<T>
where
    T: Send + 'static,
    A: Future<Output = io::Result<T>> + Send + 'static,
{
    let mut waiting = addresses.into_iter().take(MAX_ADDRESSES);
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        if let Some(address) = waiting.next() {
            attempts.spawn(attempt(address));
        }
        tokio::select! {
            ended = attempts.join_next() => match ended {
                Some(Ok(Ok(connected))) => return Ok(connected),
                Some(Ok(Err(error))) => failure = error,
                Some(Err(error)) => failure = io::Error::other(error),
                None => return Err(failure),
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if waiting.len() > 0 => {}
        }
    }
}

/// IPv6 and IPv4 in turns, beginning with the family that the resolver put first.
pub(crate) fn alternate(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let mut turns = Vec::with_capacity(one.len() + other.len());
    one.reverse();
    other.reverse();
    while !(one.is_empty() && other.is_empty()) {
        turns.extend(one.pop());
        turns.extend(other.pop());
    }
    turns
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::time::Instant;

    use super::*;

    fn parse(list: &[&str]) -> Vec<SocketAddr> {
        let parse = |address: &&str| address.parse().unwrap();
        list.iter().map(parse).collect()
    }

    #[test]
    fn address_families_take_turns() {
        let given = parse(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "1.1.1.2:1"]);
        let turns = parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "[::3]:1"]);
        assert_eq!(alternate(given), turns);
    }

    /// What a host does to an attempt.
    #[derive(Clone, Copy)]
    enum Host {
        Silent,
        Refuses,
        Answers(u64),
    }

    /// Races over hosts; the address that won, how long it took, and when each was tried.
    async fn over(hosts: &[Host]) -> (io::Result<usize>, Duration, Vec<u128>) {
        let start = Instant::now();
        let tried = Arc::new(Mutex::new(Vec::new()));
        let addresses = (0..hosts.len()).map(|n| ([10, 0, 0, n as u8], 1).into());
        let outcome = race(addresses.collect(), |address: SocketAddr| {
            tried.lock().unwrap().push(start.elapsed().as_millis());
            let SocketAddr::V4(v4) = address else {
                panic!("only IPv4 here")
            };
            let number = usize::from(v4.ip().octets()[3]);
            let host = hosts[number];
            async move {
                match host {
                    Host::Silent => std::future::pending().await,
                    Host::Refuses => Err(io::ErrorKind::ConnectionRefused.into()),
                    Host::Answers(after) => {
                        tokio::time::sleep(Duration::from_millis(after)).await;
                        Ok(number)
                    }
                }
            }
        });
        let outcome = outcome.await;
        let tried = tried.lock().unwrap().clone();
        (outcome, start.elapsed(), tried)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_costs_a_quarter_of_a_second_and_a_refused_one_nothing() {
        use Host::{Answers, Refuses, Silent};
        for (hosts, winner, millis, tried) in [
            (&[Answers(40), Answers(1)][..], 0, 40, &[0][..]),
            (&[Silent, Answers(5)], 1, 255, &[0, 250]),
            (&[Answers(600), Answers(10)], 1, 260, &[0, 250]),
            (&[Answers(300), Answers(100)], 0, 300, &[0, 250]),
            (&[Refuses, Refuses, Answers(5)], 2, 5, &[0, 0, 0]),
            (
                &[Silent, Refuses, Silent, Answers(0)],
                3,
                500,
                &[0, 250, 250, 500],
            ),
        ] {
            let (outcome, took, times) = over(hosts).await;
            assert_eq!(outcome.unwrap(), winner);
            assert_eq!(took.as_millis(), millis);
            assert_eq!(times, tried);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_refuse_or_there_are_none_that_is_an_error_at_once() {
        let (outcome, took, tried) = over(&[Host::Refuses; 20]).await;
        assert_eq!(
            outcome.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert_eq!((took.as_millis(), tried.len()), (0, MAX_ADDRESSES));
        let (outcome, ..) = over(&[]).await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_dead_address_does_not_keep_from_a_live_one() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = listener.local_addr().unwrap();
        let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = dead.local_addr().unwrap();
        drop(dead);
        let stream = connect(vec![refused, live]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), live);
        assert!(connect(vec![refused]).await.is_err());
    }
}
