//! The beginning of a caller's TLS: whom it means to reach.
//!
//! In mode `connect` the agent sees the ClientHello and nothing behind it. It passes on not a byte
//! before it has read the server's name there (SNI, RFC 6066): else a caller that may connect to one
//! name could ask a server that has many for another. With encrypted ClientHello the outer name is
//! the one that is seen, and the one that counts.

use bytes::BytesMut;
use culvert_session::{Item, RecvStream, StreamError};
use rustls::server::Acceptor;

/// Longest ClientHello that is taken, with the records around it. The longest ones in use, with
/// post-quantum keys, have 2 KiB.
const MAX_HELLO: usize = 64 * 1024;

/// The type of a TLS record that can hold a ClientHello (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// A fatal alert `unrecognized_name` (RFC 6066, 3), which TLS clients show to their users.
pub(crate) const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

/// A ClientHello and whatever came behind it.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) bytes: BytesMut,
    /// The server's name, where one is given.
    name: Option<String>,
}

/// What came is no ClientHello.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoHello {
    #[error("the caller does not speak TLS")]
    NotTls,
    #[error("the caller's ClientHello is malformed: {0}")]
    Malformed(rustls::Error),
    #[error("the caller's ClientHello is longer than {MAX_HELLO} bytes")]
    TooLong,
    #[error("the caller ended before its ClientHello was whole")]
    Ended,
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl Hello {
    /// Reads until a ClientHello is whole, however it is cut into records and pieces.
    pub(super) async fn read(recv: &mut RecvStream) -> Result<Self, NoHello> {
        let mut acceptor = Acceptor::default();
        let mut bytes = BytesMut::new();
        loop {
            let data = match recv.item().await? {
                Item::Data(data) => data,
                Item::Head(_) | Item::Finished => return Err(NoHello::Ended),
            };
            bytes.extend_from_slice(&data);
            if bytes.first().is_some_and(|&kind| kind != HANDSHAKE) {
                return Err(NoHello::NotTls);
            }
            if let Some(name) = look(&mut acceptor, &data)? {
                return Ok(Self { bytes, name });
            }
            if bytes.len() > MAX_HELLO {
                return Err(NoHello::TooLong);
            }
        }
    }

    /// The server's name, where one is given.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

/// Shows the next bytes to the TLS library; the server's name once the ClientHello is whole.
fn look(acceptor: &mut Acceptor, mut data: &[u8]) -> Result<Option<Option<String>>, NoHello> {
    while !data.is_empty() {
        // Memory is its only source of errors, and that has no more than was given.
        if acceptor.read_tls(&mut data).is_err() {
            return Err(NoHello::TooLong);
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_owned);
                return Ok(Some(name));
            }
            Ok(None) => {}
            Err((error, _)) => return Err(NoHello::Malformed(error)),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::client_hello as hello;

    /// The same ClientHello in records of so many bytes.
    fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
        let pieces = hello[5..].chunks(size);
        pieces
            .flat_map(|piece| {
                let length = (piece.len() as u16).to_be_bytes();
                [&[HANDSHAKE, 3, 1], &length[..], piece].concat()
            })
            .collect()
    }

    #[test]
    fn the_name_is_found_however_the_hello_is_cut() {
        let whole = hello("vcenter.sddc.local");
        for records in [
            whole.clone(),
            in_records(&whole, 100),
            in_records(&whole, 7),
        ] {
            for piece in [1, 5, 64, records.len()] {
                let mut acceptor = Acceptor::default();
                let mut found = None;
                for (number, data) in records.chunks(piece).enumerate() {
                    found = look(&mut acceptor, data).unwrap();
                    let last = (number + 1) * piece >= records.len();
                    assert_eq!(found.is_some(), last, "pieces of {piece}");
                }
                assert_eq!(found.unwrap().as_deref(), Some("vcenter.sddc.local"));
            }
        }
        let mut acceptor = Acceptor::default();
        assert_eq!(look(&mut acceptor, &hello("10.0.0.5")).unwrap(), Some(None));
    }

    #[test]
    fn what_is_no_hello_is_refused() {
        let mut damaged = hello("vcenter.sddc.local");
        damaged[5] = 2;
        let endless = [
            &[HANDSHAKE, 3, 1, 0x40, 0],
            &[1, 0xff, 0xff, 0xff][..],
            &[0; 0x3ffc],
        ]
        .concat();
        for bytes in [
            &b"\x16\x03\x01\x00\x04\x02\0\0\0"[..],
            &damaged,
            &endless.repeat(5),
        ] {
            let mut acceptor = Acceptor::default();
            assert!(look(&mut acceptor, bytes).is_err());
        }
    }
}
