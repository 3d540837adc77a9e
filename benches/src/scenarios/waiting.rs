//! Connections that wait: WebSockets and long polls.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request, header};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::Scenario;
use crate::client::{Task, Version, Wire, Worker, secure};
use crate::drive::{Bounds, Caller, Pace};
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
    pub(super) fn new(target: &Target, path: &str) -> Self {
        Self {
            target: target.clone(),
            path: path.to_owned(),
            socket: None,
        }
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
    async fn call(&mut self, recorder: &Recorder) -> Result<(), Failure> {
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
                let echo = || Echo::new(&way.target, &path);
                let echoes = std::iter::repeat_with(echo).take(count).collect();
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
    let task = Task::get(&format!("{path}?ms={}", HELD.as_millis()))?;
    let what = format!(
        "{count} long polls at a time over HTTP/2, each answered after {} s; latency is what it took longer than that.",
        HELD.as_secs()
    );
    let case = scenario.case(&format!("/{count}"), what);
    // Each is to be answered at least once.
    let time = suite.time().max(2 * HELD);
    for round in suite.rounds() {
        // nginx holds a connection to the next nginx for each: it is not made for this, and its
        // limit of connections is met first.
        for way in suite.turns(round) {
            if suite.stop.is_cancelled() {
                return Ok(());
            }
            let workers = Worker::several(&way.target, Version::Http2, &task, count).await?;
            suite
                .measure(&case, &way, time, async move |recorder, bounds| {
                    hold(workers, &recorder, &bounds).await
                })
                .await?;
        }
    }
    Ok(())
}

/// Polls until the time is over; polls that are held then are let go.
pub(super) async fn hold(
    workers: Vec<Worker>,
    recorder: &Arc<Recorder>,
    bounds: &Bounds,
) -> Result<Outcome, Failure> {
    let start = Instant::now();
    let count = workers.len() as f64;
    let mut polls = JoinSet::new();
    for mut worker in workers {
        let (recorder, patience) = (recorder.clone(), bounds.patience);
        polls.spawn(async move {
            // Not all in the same millisecond: clients are not.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..1000))).await;
            loop {
                let start = Instant::now();
                let result = match tokio::time::timeout(patience, worker.call(&recorder)).await {
                    Ok(result) => result,
                    Err(elapsed) => Err(elapsed.into()),
                };
                recorder.end(start.elapsed().saturating_sub(HELD), &result);
                if result.is_err() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
    }
    tokio::select! {
        () = tokio::time::sleep(bounds.time) => {}
        () = bounds.stop.cancelled() => {}
    }
    let outcome = Outcome::of(start.elapsed(), Pace::Closed);
    polls.shutdown().await;
    Ok(outcome.with("polls at a time", Value::higher(count, "")))
}
