//! A caller that writes the frames of HTTP/2 itself, and so does what no client library does.

use std::io;
use std::time::Duration;

use culvert_http::Alpn;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep, timeout};

use super::rig::{Rig, SOON};

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
/// END_STREAM and END_HEADERS.
const WHOLE_REQUEST: u8 = 5;

/// Its end of a connection. It answers no PING.
pub(super) struct Frames {
    read: ReadHalf<DuplexStream>,
    asking: Asking,
}

/// The half that asks.
struct Asking {
    write: WriteHalf<DuplexStream>,
    next: u32,
}

/// What has come until the connection closed.
#[derive(Debug)]
pub(super) struct Heard {
    /// The streams whose answers have begun, in this order.
    pub(super) answered: Vec<u32>,
    /// How long that took.
    pub(super) after: Duration,
}

impl Frames {
    pub(super) async fn open(rig: &Rig) -> Self {
        let (read, mut write) = tokio::io::split(rig.connect(Alpn::H2));
        let settings = frame(SETTINGS, 0, 0, b"");
        // Answers are not to end for want of room.
        let room = frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes());
        let opening = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], &room].concat();
        write.write_all(&opening).await.unwrap();
        let asking = Asking { write, next: 1 };
        Self { read, asking }
    }

    /// Asks for a path; says on which stream.
    pub(super) async fn get(&mut self, host: &str, path: &str, token: Option<&str>) -> u32 {
        self.asking.get(host, path, token).await.unwrap()
    }

    /// Asks again and again, and hears what comes until the connection closes.
    pub(super) async fn go_on(
        self,
        host: &'static str,
        path: &'static str,
        token: Option<String>,
        every: Duration,
    ) -> Heard {
        let Self { read, mut asking } = self;
        let start = Instant::now();
        let asking = tokio::spawn(async move {
            while asking.get(host, path, token.as_deref()).await.is_ok() {
                sleep(every).await;
            }
        });
        let answered = timeout(SOON, answers(read)).await;
        asking.abort();
        Heard {
            answered: answered.expect("the connection stays open"),
            after: start.elapsed(),
        }
    }
}

impl Asking {
    /// An error: the connection is closed.
    async fn get(&mut self, host: &str, path: &str, token: Option<&str>) -> io::Result<u32> {
        // GET and https by their places in the static table, the others by their names' places.
        let mut block = vec![0x82, 0x87, 0x04];
        text(&mut block, path);
        block.push(0x01);
        text(&mut block, host);
        if let Some(token) = token {
            block.push(0x00);
            text(&mut block, "culvert-authorization");
            text(&mut block, &format!("Bearer {token}"));
        }
        let stream = self.next;
        self.next += 2;
        let request = frame(HEADERS, WHOLE_REQUEST, stream, &block);
        self.write.write_all(&request).await?;
        Ok(stream)
    }
}

async fn answers(mut read: ReadHalf<DuplexStream>) -> Vec<u32> {
    let mut answered = Vec::new();
    let mut header = [0; 9];
    while read.read_exact(&mut header).await.is_ok() {
        let [high, mid, low, kind, _, stream @ ..] = header;
        let length = u32::from_be_bytes([0, high, mid, low]);
        let mut payload = vec![0; length as usize];
        if read.read_exact(&mut payload).await.is_err() {
            break;
        }
        if kind == HEADERS {
            answered.push(u32::from_be_bytes(stream));
        }
    }
    answered
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

/// A string of HPACK, without Huffman's code (RFC 7541, 5).
fn text(block: &mut Vec<u8>, text: &str) {
    match text.len().checked_sub(127) {
        None => block.push(text.len() as u8),
        Some(mut rest) => {
            block.push(127);
            while rest >= 128 {
                block.push((rest % 128) as u8 | 0x80);
                rest /= 128;
            }
            block.push(rest as u8);
        }
    }
    block.extend_from_slice(text.as_bytes());
}
