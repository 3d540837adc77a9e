//! Connections that wait: WebSockets and long polls.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request, header};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::Scenario;
use crate::client::{Task, Version, Wire, Worker, secure};
use crate::drive::{Caller, Pace, drive};
use crate::load::{Failure, Refused, Target};
use crate::record::Recorder;
use crate::report::Value;
use crate::suite::{Outcome, Suite};

/// Bytes of a message.
const MESSAGE: usize = 200;

/// How long a poll waits for its answer.
const HELD: Duration = Duration::from_secs(2);

/// One WebSocket: a message goes there and back.
#[derive(Debug)]
pub(super) struct Echo {
    target: Target,
    path: String,
    socket: Option<WebSocketStream<TlsStream<Wire>>>,
}

impl Echo {
    /// `count` of them, open: a message is measured, not how it came to be possible.
    pub(super) async fn several(
        target: &Target,
        path: &str,
        count: usize,
    ) -> Result<Vec<Self>, Failure> {
        let mut echoes = Vec::with_capacity(count);
        for _ in 0..count {
            let mut echo = Self {
                target: target.clone(),
                path: path.to_owned(),
                socket: None,
            };
            echo.socket = Some(echo.open().await?);
            echoes.push(echo);
        }
        Ok(echoes)
    }

    async fn open(&self) -> Result<WebSocketStream<TlsStream<Wire>>, Failure> {
        let io = secure(&self.target, Version::Http1).await?;
        let host = &self.target.host;
        let mut request = Request::get(format!("wss://{host}{}", self.path)).body(())?;
        let headers = request.headers_mut();
        headers.extend(self.target.headers.clone());
        headers.insert(header::HOST, host.parse()?);
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        );
        headers.insert(header::SEC_WEBSOCKET_KEY, generate_key().parse()?);
        match Box::pin(client_async(request, io)).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(answer)) => {
                let status = answer.status();
                let body = answer.into_body().unwrap_or_default().into();
                Err(Refused { status, body }.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Caller for Echo {
    async fn call(&mut self, recorder: &Arc<Recorder>) -> Result<(), Failure> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => self.open().await?,
        };
        socket.send(Message::binary(vec![0; MESSAGE])).await?;
        loop {
            match socket.next().await {
                Some(Ok(Message::Binary(message))) if message.len() == MESSAGE => break,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(other)) => {
                    return Err(format!("another message came back: {other:?}").into());
                }
                Some(Err(error)) => return Err(error.into()),
                None => return Err("the WebSocket was closed".into()),
            }
        }
        recorder.carried(2 * MESSAGE as u64);
        self.socket = Some(socket);
        Ok(())
    }
}

/// Messages there and back, on one WebSocket and on many.
pub(super) async fn websocket(suite: &mut Suite, scenario: Scenario) -> Result<(), Failure> {
    let Some(path) = suite.site.paths.echo.clone() else {
        suite.skip(scenario.name(), "it needs --echo-path");
        return Ok(());
    };
    for count in [1, 64] {
        let what = format!(
            "Messages of {MESSAGE} bytes to an echo and back, one at a time on each of {count} WebSockets."
        );
        let case = scenario.case(&format!("/{count}"), what);
        for round in suite.rounds() {
            for way in suite.turns(round) {
                let echoes = Echo::several(&way.target, &path, count).await?;
                suite.drive(&case, &way, Pace::Closed, echoes).await?;
            }
        }
    }
    Ok(())
}

/// Calls whose answer takes its time, all at once, over HTTP/2.
pub(super) async fn polls(suite: &mut Suite, scenario: Scenario) -> Result<(), Failure> {
    let Some(path) = suite.site.paths.poll.clone() else {
        suite.skip(scenario.name(), "it needs --poll-path");
        return Ok(());
    };
    let count = suite.options.sessions.max(1);
    let what = format!(
        "{count} long polls at a time over HTTP/2, each answered after {} s; latency is what it took longer than that.",
        HELD.as_secs()
    );
    let case = scenario.case(&format!("/{count}"), what);
    // Each is to be answered at least once.
    let time = suite.time().max(2 * HELD);
    for round in suite.rounds() {
        for way in suite.turns(round) {
            if suite.stop.is_cancelled() {
                return Ok(());
            }
            let polls = Poll::several(&way.target, &path, count).await?;
            suite
                .measure(&case, &way, time, async move |recorder, bounds| {
                    let elapsed = drive(polls, Pace::Closed, &bounds, &recorder).await;
                    let outcome = Outcome::of(elapsed, Pace::Closed);
                    Ok(outcome.with("polls at a time", Value::higher(count as f64, "")))
                })
                .await?;
        }
    }
    Ok(())
}

/// A long poll.
#[derive(Debug)]
pub(super) struct Poll(Worker);

impl Poll {
    /// `count` of them, on connections that are open.
    pub(super) async fn several(
        target: &Target,
        path: &str,
        count: usize,
    ) -> Result<Vec<Self>, Failure> {
        let task = Task::get(&format!("{path}?ms={}", HELD.as_millis()))?;
        let workers = Worker::several(target, Version::Http2, &task, count).await?;
        Ok(workers.into_iter().map(Self).collect())
    }
}

impl Caller for Poll {
    async fn call(&mut self, recorder: &Arc<Recorder>) -> Result<(), Failure> {
        self.0.call(recorder).await
    }

    /// Not all in the same millisecond: clients are not.
    async fn begin(&mut self) {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..1000))).await;
    }

    fn held(&self) -> Duration {
        HELD
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;

    use super::*;
    use crate::load::tls_trusting;
    use crate::upstream;

    /// The opening is no part of the first message's latency.
    #[tokio::test]
    async fn websockets_are_open_before_their_first_message() {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let names = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = names.self_signed(&key).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = upstream::Options {
            listen: free.local_addr().unwrap(),
            certificate: folder.path().join("server.pem"),
            private_key: folder.path().join("server.key"),
        };
        fs::write(&options.certificate, certificate.pem()).unwrap();
        fs::write(&options.private_key, key.serialize_pem()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let target = Target {
            address: options.listen,
            host: "localhost".into(),
            headers: http::HeaderMap::new(),
            tls: tls_trusting(roots).unwrap(),
            proxy: None,
        };
        drop(free);
        let serving = tokio::spawn(async move { upstream::serve(&options).await });
        // Until it listens.
        let mut echoes = loop {
            match Echo::several(&target, "/echo", 2).await {
                Ok(echoes) => break echoes,
                Err(error) if serving.is_finished() => panic!("{error}"),
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert!(echoes.iter().all(|echo| echo.socket.is_some()));
        let recorder = Arc::new(Recorder::new().unwrap());
        echoes[1].call(&recorder).await.unwrap();
        assert_eq!(recorder.count().bytes, 2 * MESSAGE as u64);
        let refused = Echo::several(&target, "/nothing", 1).await.unwrap_err();
        assert!(refused.is::<Refused>(), "{refused}");
    }
}
