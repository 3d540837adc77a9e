//! The PROXY protocol (HAProxy's specification, versions 1 and 2): a balancer in front says where a
//! connection really came from.

use std::io;
use std::net::SocketAddr;

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest header of version 1, in bytes, with its line end.
const MAX_V1: usize = 107;

/// The fixed part of version 2.
const FIXED_V2: usize = 16;

/// Most bytes behind it: addresses, and whatever a balancer adds.
const MAX_V2: usize = 2048;

/// As many bytes as both versions have at least.
const FIRST: usize = 12;

/// Reads the header that a connection begins with, and not a byte beyond. Gives the address that it
/// names; `None` where the balancer speaks for itself (health checks) or does not know.
pub(super) async fn read(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut header = vec![0; FIRST];
    io.read_exact(&mut header).await?;
    if header == v2::PROTOCOL_PREFIX {
        return read_v2(io, header).await;
    }
    while !header.ends_with(b"\r\n") {
        if !header.starts_with(b"PROXY ") || header.len() >= MAX_V1 {
            return Err(wrong("it begins with no PROXY header"));
        }
        header.push(io.read_u8().await?);
    }
    let parsed =
        v1::Header::try_from(header.as_slice()).map_err(|error| wrong(error.to_string()))?;
    Ok(match parsed.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(of) => Some((of.source_address, of.source_port).into()),
        v1::Addresses::Tcp6(of) => Some((of.source_address, of.source_port).into()),
    })
}

async fn read_v2(
    io: &mut (impl AsyncRead + Unpin),
    mut header: Vec<u8>,
) -> io::Result<Option<SocketAddr>> {
    let mut fixed = [0; FIXED_V2 - FIRST];
    io.read_exact(&mut fixed).await?;
    let rest = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if rest > MAX_V2 {
        return Err(wrong("its PROXY header is too long"));
    }
    header.extend_from_slice(&fixed);
    header.resize(FIXED_V2 + rest, 0);
    io.read_exact(&mut header[FIXED_V2..]).await?;
    let parsed =
        v2::Header::try_from(header.as_slice()).map_err(|error| wrong(error.to_string()))?;
    Ok(match (parsed.command, parsed.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(of)) => {
            Some((of.source_address, of.source_port).into())
        }
        (v2::Command::Proxy, v2::Addresses::IPv6(of)) => {
            Some((of.source_address, of.source_port).into())
        }
        _ => None,
    })
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a header says, and what is left of the connection.
    async fn take(bytes: &[u8]) -> Result<(Option<String>, Vec<u8>), io::ErrorKind> {
        let mut io = bytes;
        let address = read(&mut io).await.map_err(|error| error.kind())?;
        Ok((address.map(|address| address.to_string()), io.to_vec()))
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = v2::PROTOCOL_PREFIX.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        header.extend(payload);
        header
    }

    #[tokio::test]
    async fn a_header_is_taken_and_nothing_behind_it() {
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x1f, 0x90, 1, 0xbb];
        let mut v4_and_more = v4.to_vec();
        v4_and_more.extend([4, 0, 1, 42]);
        let mut v6 = vec![0; 36];
        v6[..2].copy_from_slice(&[0x20, 0x01]);
        v6[15] = 9;
        v6[32..].copy_from_slice(&[0, 80, 1, 0xbb]);
        for (header, address) in [
            (
                b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 443\r\n".to_vec(),
                Some("192.0.2.7:8080"),
            ),
            (
                b"PROXY TCP6 2001::9 ::1 80 443\r\n".to_vec(),
                Some("[2001::9]:80"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (
                b"PROXY UNKNOWN ffff:f ffff:f 65535 65535\r\n".to_vec(),
                None,
            ),
            (v2(0x21, 0x11, &v4), Some("192.0.2.7:8080")),
            (v2(0x21, 0x11, &v4_and_more), Some("192.0.2.7:8080")),
            (v2(0x21, 0x21, &v6), Some("[2001::9]:80")),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &v4), None),
        ] {
            let mut bytes = header.clone();
            bytes.extend(b"\x16\x03\x01");
            let (found, rest) = take(&bytes).await.unwrap();
            assert_eq!(found.as_deref(), address, "{}", header.escape_ascii());
            assert_eq!(rest, b"\x16\x03\x01");
            for cut in 0..header.len() {
                let end = take(&header[..cut]).await.unwrap_err();
                assert_eq!(
                    end,
                    io::ErrorKind::UnexpectedEof,
                    "{cut} of {}",
                    header.escape_ascii()
                );
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let mut endless = b"PROXY TCP4 ".to_vec();
        endless.resize(200, b'1');
        for bytes in [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00".to_vec(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 99999 443\r\n".to_vec(),
            b"PROXY TCP4 999.0.2.7 10.0.0.1 80 443\r\n".to_vec(),
            endless,
            v2(0x31, 0x11, &[0; 12]),
            v2(0x21, 0x11, &[0; 4]),
            v2(0x21, 0x11, &[0; 4000]),
        ] {
            let refused = take(&bytes).await.unwrap_err();
            assert_eq!(
                refused,
                io::ErrorKind::InvalidData,
                "{}",
                bytes.escape_ascii()
            );
        }
    }
}
