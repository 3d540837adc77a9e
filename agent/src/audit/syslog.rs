//! Lines to a syslog server: RFC 5424 over a Unix datagram socket, UDP (RFC 5426) or TCP with
//! octet counting (RFC 6587).

use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, SystemTime};

use culvert_config::audit::SyslogServer;

/// Facility 13 (log audit), severity 5 (notice).
const PRIORITY: u8 = 13 * 8 + 5;

/// How long a server may take to accept a connection or a line.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest datagram, in bytes: by UDP there is room for some 500 more. What is longer (a target of very many
/// bytes that are written as four or five) loses its end.
const MAX_DATAGRAM: usize = 65_000;

/// The way to one server; connected when there is something to say.
#[derive(Debug)]
pub(crate) struct Syslog {
    server: SyslogServer,
    host: String,
    socket: Option<Socket>,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Syslog {
    pub(crate) fn new(server: SyslogServer) -> Self {
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy();
        // A HOSTNAME is printable ASCII without spaces, or "-" (RFC 5424, 6.2.4).
        let good =
            !host.is_empty() && host.len() <= 255 && host.bytes().all(|b| b.is_ascii_graphic());
        Self {
            server,
            host: if good { host.into_owned() } else { "-".into() },
            socket: None,
        }
    }

    /// Sends one line, over a new connection if there is none.
    pub(crate) fn send(&mut self, line: &[u8]) -> io::Result<()> {
        let message = self.message(line);
        let mut socket = match self.socket.take() {
            Some(socket) if !socket.is_closed() => socket,
            _ => Socket::connect(&self.server)?,
        };
        socket.send(&message)?;
        // Kept only if it is good: half a message on a connection would spoil the next one.
        self.socket = Some(socket);
        Ok(())
    }

    fn message(&self, line: &[u8]) -> Vec<u8> {
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        let process = std::process::id();
        let host = &self.host;
        let header = format!("<{PRIORITY}>1 {time} {host} culvert-agent {process} audit - ");
        [header.as_bytes(), line].concat()
    }
}

impl Socket {
    fn connect(server: &SyslogServer) -> io::Result<Self> {
        match server {
            SyslogServer::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Ok(Self::Unix(socket))
            }
            SyslogServer::Udp(address) => each_address(address, |address| {
                let any = if address.is_ipv4() {
                    "0.0.0.0:0"
                } else {
                    "[::]:0"
                };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                Ok(Self::Udp(socket))
            }),
            SyslogServer::Tcp(address) => each_address(address, |address| {
                let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }),
        }
    }

    /// Whether the server has closed the connection, so that what is sent goes nowhere.
    fn is_closed(&self) -> bool {
        let Self::Tcp(stream) = self else {
            return false;
        };
        if stream.set_nonblocking(true).is_err() {
            return true;
        }
        let peeked = stream.peek(&mut [0]);
        let waits = matches!(&peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        let open = waits || matches!(peeked, Ok(1..));
        stream.set_nonblocking(false).is_err() || !open
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(socket) => socket.send(datagram(message)).map(drop),
            Self::Udp(socket) => socket.send(datagram(message)).map(drop),
            Self::Tcp(stream) => {
                let framed = [format!("{} ", message.len()).as_bytes(), message].concat();
                stream.write_all(&framed)
            }
        }
    }
}

/// As much of a message as a datagram takes: a longer one is refused, and would be in the way of all others for
/// ever.
fn datagram(message: &[u8]) -> &[u8] {
    &message[..message.len().min(MAX_DATAGRAM)]
}

/// The first address of `HOST:PORT` that works.
fn each_address<T>(
    address: &str,
    connect: impl Fn(std::net::SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match connect(address) {
            Ok(connected) => return Ok(connected),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    /// `<109>1 TIME HOST culvert-agent PID audit - MSG`.
    fn assert_message(message: &[u8], line: &str) {
        let text = std::str::from_utf8(message).unwrap();
        let words: Vec<&str> = text.splitn(8, ' ').collect();
        assert_eq!(
            (words[0], words[3], words[5], words[6]),
            ("<109>1", "culvert-agent", "audit", "-")
        );
        humantime::parse_rfc3339(words[1]).unwrap();
        assert_eq!(words[4], std::process::id().to_string());
        assert_eq!(words[7], line);
    }

    #[test]
    fn a_datagram_is_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut buffer = [0; 1024];

        let server = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::new(SyslogServer::Unix(path.clone()));
        for line in ["{\"a\":1}", "{\"b\":2}"] {
            syslog.send(line.as_bytes()).unwrap();
            let length = server.recv(&mut buffer).unwrap();
            assert_message(&buffer[..length], line);
        }
        // The server was restarted.
        drop(server);
        syslog.send(b"{}").unwrap_err();
        std::fs::remove_file(&path).unwrap();
        let server = UnixDatagram::bind(&path).unwrap();
        syslog.send(b"{\"c\":3}").unwrap();
        let length = server.recv(&mut buffer).unwrap();
        assert_message(&buffer[..length], "{\"c\":3}");

        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap().to_string();
        Syslog::new(SyslogServer::Udp(address)).send(b"{}").unwrap();
        let length = server.recv(&mut buffer).unwrap();
        assert_message(&buffer[..length], "{}");
    }

    /// The writer would try it again and again, before all that comes after it.
    #[test]
    fn a_line_that_no_datagram_takes_loses_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let unix = UnixDatagram::bind(&path).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap().to_string();
        let long = vec![b'x'; 300_000];
        let mut buffer = vec![0; 70_000];
        Syslog::new(SyslogServer::Udp(address)).send(&long).unwrap();
        assert_eq!(udp.recv(&mut buffer).unwrap(), MAX_DATAGRAM);
        Syslog::new(SyslogServer::Unix(path)).send(&long).unwrap();
        assert_eq!(unix.recv(&mut buffer).unwrap(), MAX_DATAGRAM);
    }

    #[test]
    fn over_tcp_each_line_has_its_length_before_it_and_a_closed_connection_is_replaced() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut syslog = Syslog::new(SyslogServer::Tcp(address));
        for _ in 0..2 {
            syslog.send(b"{\"a\":1}").unwrap();
            syslog.send(b"{\"b\":2}").unwrap();
            let (mut connection, _) = listener.accept().unwrap();
            for line in ["{\"a\":1}", "{\"b\":2}"] {
                let mut length = String::new();
                let mut byte = [0];
                loop {
                    connection.read_exact(&mut byte).unwrap();
                    match byte[0] {
                        b' ' => break,
                        digit => length.push(char::from(digit)),
                    }
                }
                let mut message = vec![0; length.parse().unwrap()];
                connection.read_exact(&mut message).unwrap();
                assert_message(&message, line);
            }
            // The server ends, and the end has arrived before the next line is sent.
            connection.shutdown(std::net::Shutdown::Both).unwrap();
            drop(connection);
            let Some(Socket::Tcp(ours)) = &syslog.socket else {
                panic!()
            };
            assert_eq!(ours.peek(&mut [0]).unwrap(), 0);
        }
    }
}
