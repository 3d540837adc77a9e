//! Listener and client, over real sockets.

use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;
use culvert_admin::{Access, AskError, Client, Found, Listener, admit, answered};
use http::{Method, Request, StatusCode};

const CLIENT: Client = Client {
    program: "relay",
    setting: "listen.admin",
    example: "http://127.0.0.1:9901",
};

fn at(address: &str) -> Access {
    Access::new(address, None, None).unwrap()
}

/// Answers with the body that came.
async fn echo(listener: Listener) {
    let answer = |request: Request<Bytes>| async move {
        let admitted = admit(&request, "GET, HEAD, POST");
        answered(admitted.map(|()| Found::text(String::from_utf8_lossy(request.body()))))
    };
    listener.run(answer).await;
}

#[tokio::test]
async fn the_client_reaches_the_listener_until_it_is_gone() {
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let running = tokio::spawn(echo(listener));
    let sent = CLIENT
        .send(&at(&url), Method::POST, "/", "hello".into())
        .await;
    assert_eq!(sent.unwrap(), "hello");
    let slash = format!("{url}/");
    assert_eq!(CLIENT.get(&at(&slash), "/").await.unwrap(), "");

    let refused = CLIENT
        .send(&at(&url), Method::PUT, "/thing", Bytes::new())
        .await;
    match refused.unwrap_err() {
        AskError::Refused {
            path, status, text, ..
        } => {
            assert_eq!((path.as_str(), status.as_u16()), ("/thing", 405));
            assert_eq!(text, "this address takes GET, HEAD, POST");
        }
        other => panic!("{other}"),
    }
    running.abort();
    let _ = running.await;
    let gone = CLIENT.get(&at(&url), "/").await.unwrap_err();
    assert!(gone.is_gone(), "{gone}");
}

#[tokio::test]
async fn a_body_that_is_too_long_is_not_taken() {
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(echo(listener));
    for (length, taken) in [(16 * 1024, true), (16 * 1024 + 1, false)] {
        let body = Bytes::from(vec![b'x'; length]);
        let sent = CLIENT.send(&at(&url), Method::POST, "/", body).await;
        match sent {
            Ok(echoed) => assert!(taken && echoed.len() == length),
            Err(AskError::Refused { status, .. }) => {
                assert_eq!((status, taken), (StatusCode::PAYLOAD_TOO_LARGE, false));
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_socket_in_the_file_system_answers_and_replaces_one_that_was_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = Listener::unix(&path).await.unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    tokio::spawn(echo(listener));
    let address = at(&format!("unix:{}", path.display()));
    let sent = CLIENT.send(&address, Method::POST, "/", "hello".into());
    assert_eq!(sent.await.unwrap(), "hello");

    // One that is in use is not taken away from its program, and a file never.
    Listener::unix(&path).await.unwrap_err();
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    Listener::unix(&file).await.unwrap_err();
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[tokio::test]
async fn whoever_asks_in_vain_is_told_what_to_look_at() {
    for wrong in [
        "",
        "127.0.0.1:1",
        "localhost:9902",
        "ftp://127.0.0.1:1",
        "http://127.0.0.1:1/x",
        "http://127.0.0.1:1?a=b",
        "http://user:secret@127.0.0.1:1",
        "http://",
    ] {
        let error = CLIENT.get(&at(wrong), "/").await.unwrap_err();
        assert!(
            matches!(error, AskError::Address { .. }),
            "{wrong}: {error}"
        );
        assert!(error.to_string().contains(CLIENT.example), "{error}");
    }
    for nobody in ["http://127.0.0.1:1", "unix:/nonexistent.sock"] {
        let error = CLIENT.get(&at(nobody), "/").await.unwrap_err().to_string();
        assert!(
            error.contains("is it running, and is this its listen.admin?"),
            "{error}"
        );
    }
}
