//! A listener for other machines: TLS, and a token that is asked of everybody for everything.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use culvert_admin::{Access, AskError, Client, Credential, Found, Listener, admit, answered};
use culvert_session::tls::{server_identity, server_tls};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use rcgen::{CertificateParams, KeyPair};
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

const CLIENT: Client = Client {
    program: "relay",
    setting: "listen.admin",
    example: "https://relay.example:9901",
};

const TOKEN: &str = "0123456789abcdef";

/// A listener, and the token that it reads.
struct Beyond {
    folder: TempDir,
    address: String,
    token: Arc<Mutex<Result<SecretString, String>>>,
}

impl Beyond {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
        let identity = server_identity(
            &folder.path().join("ca.pem"),
            &folder.path().join("key.pem"),
        );
        let tls = server_tls(identity.unwrap(), &[b"http/1.1"]);
        let token = Arc::new(Mutex::new(Ok(SecretString::from(TOKEN))));
        let read = token.clone();
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap()
            .over_tls(move || Ok(tls.clone()))
            .asking_for(Credential::new(move || read.lock().unwrap().clone()));
        let address = format!(
            "https://localhost:{}",
            listener.local_addr().unwrap().port()
        );
        tokio::spawn(listener.run(answer));
        Self {
            folder,
            address,
            token,
        }
    }

    fn access(&self, token: Option<&str>) -> Access {
        let ca: PathBuf = self.folder.path().join("ca.pem");
        Access::new(&self.address, token.map(SecretString::from), Some(&ca)).unwrap()
    }
}

async fn answer(request: Request<Bytes>) -> Response<Full<Bytes>> {
    answered(admit(&request, "GET, HEAD, POST").map(|()| Found::text("in")))
}

fn status(refused: AskError) -> StatusCode {
    match refused {
        AskError::Refused { status, .. } => status,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn whoever_shows_the_token_is_answered_and_nobody_else() {
    let beyond = Beyond::start().await;
    let body = CLIENT.get(&beyond.access(Some(TOKEN)), "/").await.unwrap();
    assert_eq!(&body[..], b"in");
    for token in [None, Some("0123456789abcdeF"), Some("")] {
        for path in ["/", "/healthz", "/metrics"] {
            let refused = CLIENT.get(&beyond.access(token), path).await.unwrap_err();
            assert_eq!(
                status(refused),
                StatusCode::UNAUTHORIZED,
                "{token:?} {path}"
            );
        }
        let access = beyond.access(token);
        let posted = CLIENT.send(&access, Method::POST, "/", Bytes::new()).await;
        assert_eq!(status(posted.unwrap_err()), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn a_new_token_counts_at_once_and_one_that_is_gone_shuts_the_door() {
    let beyond = Beyond::start().await;
    *beyond.token.lock().unwrap() = Ok(SecretString::from("another-token-of-it"));
    let old = CLIENT.get(&beyond.access(Some(TOKEN)), "/").await;
    assert_eq!(status(old.unwrap_err()), StatusCode::UNAUTHORIZED);
    let new = beyond.access(Some("another-token-of-it"));
    CLIENT.get(&new, "/").await.unwrap();
    *beyond.token.lock().unwrap() = Err("the file is gone".to_owned());
    let gone = CLIENT.get(&new, "/").await.unwrap_err();
    assert_eq!(status(gone), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_token_is_shown_to_no_listener_of_another_authority() {
    let (ours, other) = (Beyond::start().await, Beyond::start().await);
    let ca = other.folder.path().join("ca.pem");
    let access = Access::new(&ours.address, Some(SecretString::from(TOKEN)), Some(&ca)).unwrap();
    let refused = CLIENT.get(&access, "/").await.unwrap_err();
    assert!(matches!(refused, AskError::Answer { .. }), "{refused}");
    let words = "; name the authority of its certificate with --ca";
    assert!(refused.to_string().ends_with(words), "{refused}");
}

#[tokio::test]
async fn what_speaks_no_tls_gets_nothing() {
    let beyond = Beyond::start().await;
    let plain = beyond.address.replace("https://", "http://");
    let access = Access::new(&plain, Some(SecretString::from(TOKEN)), None).unwrap();
    let refused = CLIENT.get(&access, "/").await.unwrap_err();
    assert!(matches!(refused, AskError::Answer { .. }), "{refused}");
    assert!(
        refused.to_string().ends_with("; is it https://?"),
        "{refused}"
    );
}

#[tokio::test]
async fn who_asks_for_tls_where_there_is_none_is_told_so() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", server.local_addr().unwrap());
    let plain = async {
        let (mut io, _) = server.accept().await.unwrap();
        let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        io.write_all(answer).await.unwrap();
        io
    };
    let beyond = Beyond::start().await;
    let ca = beyond.folder.path().join("ca.pem");
    let access = Access::new(&address, None, Some(&ca)).unwrap();
    let (asked, _io) = tokio::join!(CLIENT.get(&access, "/"), plain);
    let refused = asked.unwrap_err().to_string();
    assert!(
        refused.ends_with("what answers there speaks no TLS; is it http://?"),
        "{refused}"
    );
}
