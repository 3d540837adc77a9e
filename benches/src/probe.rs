//! Checks a [`Lab`]: whether its wire does what was asked, measured with plain sockets.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::Lab;
use crate::load::Failure;

/// Datagrams that are sent, one every [`GAP`]: with 0.1 % loss each way some 40 do not return.
const DATAGRAMS: u32 = 20_000;

/// Between two datagrams.
const GAP: Duration = Duration::from_micros(100);

/// What datagrams that the far side returns saw.
#[derive(Debug)]
pub struct Echo {
    /// The median round trip.
    pub rtt: Duration,
    /// The share that did not return: lost on either way.
    pub lost: f64,
}

/// Sends small datagrams to the far side and back.
pub fn echo(lab: &Lab) -> Result<Echo, Failure> {
    let far = lab.at_far_side(|| UdpSocket::bind((lab.far(), 0)))?;
    let near = UdpSocket::bind((lab.near(), 0))?;
    near.connect(far.local_addr()?)?;
    // Longer than any round trip here; after it, what has not come is lost.
    let patience = Some(Duration::from_secs(2));
    far.set_read_timeout(patience)?;
    near.set_read_timeout(patience)?;
    thread::spawn(move || return_all(&far));
    let sender = near.try_clone()?;
    let start = Instant::now();
    thread::spawn(move || {
        for number in 0..DATAGRAMS {
            let due = start + number * GAP;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let sent = start.elapsed().as_nanos() as u64;
            let _ = sender.send(&sent.to_be_bytes());
        }
    });
    let mut trips = Vec::new();
    let mut datagram = [0; 8];
    while near.recv(&mut datagram).is_ok() {
        let sent = Duration::from_nanos(u64::from_be_bytes(datagram));
        trips.push(start.elapsed() - sent);
        if trips.len() == DATAGRAMS as usize {
            break;
        }
    }
    trips.sort_unstable();
    let rtt = *trips
        .get(trips.len() / 2)
        .ok_or("not one datagram came back over the wire")?;
    let lost = 1.0 - trips.len() as f64 / f64::from(DATAGRAMS);
    Ok(Echo { rtt, lost })
}

fn return_all(socket: &UdpSocket) {
    let mut datagram = [0; 64];
    while let Ok((bytes, from)) = socket.recv_from(&mut datagram) {
        let _ = socket.send_to(&datagram[..bytes], from);
    }
}

/// Bytes per second that one plain TCP connection carries from the far side in `time`.
pub fn tcp(lab: &Lab, time: Duration) -> Result<f64, Failure> {
    let listener = lab.listen_far(SocketAddr::new(lab.far().into(), 0))?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    thread::spawn(move || send_zeros(&listener));
    let start = Instant::now();
    let mut bytes = 0;
    let mut buffer = vec![0; 256 << 10];
    while start.elapsed() < time {
        bytes += near.read(&mut buffer)?;
    }
    Ok(bytes as f64 / start.elapsed().as_secs_f64())
}

fn send_zeros(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    let zeros = vec![0; 256 << 10];
    loop {
        stream.write_all(&zeros)?;
    }
}
