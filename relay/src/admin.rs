//! What operators ask: health, metrics, status, drain, revocations (`culvert-admin`).

mod date;
pub(crate) mod revocations;
pub(crate) mod status;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use culvert_admin::{Client, Credential, Found, Listener, Refused, admit, answered, status_page};
use culvert_config::admin::AdminToken;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;

use self::status::{State, Status};
use crate::node::Node;
use crate::tls::PublicTls;

/// Asks a relay that runs.
pub(crate) const CLIENT: Client = Client {
    program: "relay",
    setting: "listen.admin",
    example: "http://127.0.0.1:9901",
};

/// The description of what is here.
const OPENAPI: &str = include_str!("admin/openapi.json");

/// The admin listener.
pub(crate) struct Admin {
    listener: Listener,
    node: Arc<Node>,
}

impl Admin {
    /// Answers on this listener.
    pub(crate) fn new(listener: Listener, node: Arc<Node>) -> Self {
        Self { listener, node }
    }

    /// Answers until it is dropped.
    pub(crate) async fn run(self) {
        let node = self.node;
        let answer = move |request: Request<Bytes>| {
            let node = node.clone();
            async move { answer(&node, &request).await }
        };
        self.listener.run(answer).await;
    }
}

/// Binds the address: for this machine in plain text, for others over TLS.
pub(crate) async fn bind(
    address: SocketAddr,
    token: Option<AdminToken>,
    tls: Arc<PublicTls>,
) -> io::Result<Listener> {
    let mut listener = Listener::tcp(address).await?;
    if !address.ip().is_loopback() {
        listener = listener.over_tls(move || Ok(tls.admin()));
    }
    if let Some(token) = token {
        listener = listener.asking_for(Credential::new(move || token.read()));
    }
    Ok(listener)
}

/// Answers one request.
pub(crate) async fn answer(node: &Node, request: &Request<Bytes>) -> Response<Full<Bytes>> {
    answered(route(node, request).await)
}

async fn route(node: &Node, request: &Request<Bytes>) -> Result<Found, Refused> {
    let (path, method) = (request.uri().path(), request.method());
    let allowed = match path {
        "/api/v1/drain" => "POST",
        revocations::PATH => "GET, HEAD, POST",
        _ if revocations::is_one(path) => "DELETE",
        _ => "GET, HEAD",
    };
    admit(request, allowed)?;
    match path {
        "/" => {
            let status = Status::of(node);
            let title = format!("{} - culvert-relay", status.node);
            let page = status_page(&title, &status.node, &status.to_string());
            Ok(Found::html(page))
        }
        "/healthz" => Ok(Found::text("ok\n")),
        "/readyz" => match node.state() {
            (State::Ready, _) => Ok(Found::text("ready\n")),
            (_, why) => Err(Refused::NotReady(why)),
        },
        "/metrics" => {
            let text = node.render_metrics().map_err(|_| Refused::Failed)?;
            Ok(Found::metrics(text))
        }
        "/api/v1/status" => Found::json(&Status::of(node)),
        "/api/v1/drain" => {
            node.ask_to_drain();
            let state = State::Draining;
            let draining = Found::json(&status::Draining { state })?;
            Ok(draining.with_status(StatusCode::ACCEPTED))
        }
        "/api/v1/openapi.json" => Ok(Found::json_text(OPENAPI)),
        revocations::PATH if method == Method::POST => {
            let added = revocations::add(node, request.headers(), request.body()).await?;
            Ok(Found::json(&added)?.with_status(added.status(StatusCode::CREATED)))
        }
        revocations::PATH => Found::json(&revocations::list(node)),
        _ => match revocations::id(path) {
            Some(id) => {
                let lifted = revocations::lift(node, id).await?;
                Ok(Found::json(&lifted)?.with_status(lifted.status(StatusCode::OK)))
            }
            None => Err(Refused::NotFound),
        },
    }
}
