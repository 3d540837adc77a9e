use tokio::io::DuplexStream;

use super::*;
use crate::load::tls_trusting;
use crate::record::kind;

const PROBLEM: &str = r#"{"code":"policy-denied"}"#;

/// Takes a request's head, refuses it, and closes while the body is on its way.
async fn refuse(mut io: DuplexStream, length: usize) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    let answer = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {length}\r\n\r\n{PROBLEM}");
    io.write_all(answer.as_bytes()).await.unwrap();
}

/// Somebody who uploads 16 MiB to the other end of this.
async fn uploader() -> (Worker, DuplexStream) {
    let roots = rustls::RootCertStore::empty();
    let target = Target {
        address: ([127, 0, 0, 1], 443).into(),
        host: "localhost".into(),
        headers: http::HeaderMap::new(),
        tls: tls_trusting(roots).unwrap(),
        proxy: None,
    };
    let task = Task::Put {
        path: "/sink".parse().unwrap(),
        bytes: 16 << 20,
    };
    let (near, far) = tokio::io::duplex(64 << 10);
    let mut worker = Worker::new(&target, Version::Http1, task);
    let near = TokioIo::new(Discarding::new(near));
    let (send, connection) = http1::handshake(near).await.unwrap();
    tokio::spawn(connection);
    worker.connection = Some(Connection::Http1(send));
    (worker, far)
}

/// Who uploads learns why it was refused, not that the connection broke.
#[tokio::test]
async fn an_upload_that_is_refused_before_its_end_is_counted_by_why() {
    // An answer that breaks off has a status at least.
    for (length, expected) in [
        (PROBLEM.len(), "policy-denied"),
        (PROBLEM.len() + 1, "status 403"),
    ] {
        let (mut worker, far) = uploader().await;
        let recorder = Arc::new(Recorder::new().unwrap());
        let (called, ()) = tokio::join!(worker.call(&recorder), refuse(far, length));
        assert_eq!(kind(&called.unwrap_err()), expected);
        assert_eq!(recorder.count().bytes, 0);
    }
}

/// Who takes a body slowly takes some of it: it is seen as it goes, and not only at its end.
#[tokio::test]
async fn an_upload_counts_as_it_goes_and_may_be_answered_by_any_success() {
    let (mut worker, mut far) = uploader().await;
    let recorder = Arc::new(Recorder::new().unwrap());
    let seen = recorder.clone();
    let take = async move {
        let mut part = vec![0; 1 << 20];
        far.read_exact(&mut part).await.unwrap();
        let bytes = seen.count().bytes;
        assert!((1 << 19..=2 << 20).contains(&bytes), "{bytes}");
        let mut left = (16 << 20) - (1 << 20);
        while left > 0 {
            left -= far.read(&mut part).await.unwrap().min(left);
        }
        far.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
        far
    };
    let (called, _far) = tokio::join!(worker.call(&recorder), take);
    called.unwrap();
    assert_eq!(recorder.count().bytes, 16 << 20);
}
