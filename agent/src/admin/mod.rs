//! What operators ask: health, metrics, status (`culvert-admin`); nothing here changes anything.

mod listener;
pub(crate) mod status;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use culvert_admin::{Client, Found, Refused, admit, answered, status_page};
use http::{Request, Response};
use http_body_util::Full;

pub(crate) use self::listener::{Admin, AdminError};
pub(crate) use self::status::Desk;

/// Asks an agent that runs.
pub(crate) const CLIENT: Client = Client {
    program: "agent",
    setting: "[admin]",
    example: "http://127.0.0.1:9902 or unix:/run/culvert-agent/admin.sock",
};

/// The description of what is here.
const OPENAPI: &str = include_str!("openapi.json");

/// Answers one request; what its body says does not matter.
pub(crate) fn answer<B>(desk: &Desk, request: &Request<B>) -> Response<Full<Bytes>> {
    answered(route(desk, request))
}

fn route<B>(desk: &Desk, request: &Request<B>) -> Result<Found, Refused> {
    admit(request, "GET, HEAD")?;
    match request.uri().path() {
        "/" => {
            let status = desk.status().to_string();
            let page = status_page("culvert-agent", "culvert-agent", &status);
            Ok(Found::html(page))
        }
        "/healthz" => Ok(Found::text("ok\n")),
        "/readyz" => match desk.status().waiting_for {
            why if why.is_empty() => Ok(Found::text("ready\n")),
            why => Err(Refused::NotReady(why)),
        },
        "/metrics" => {
            let text = desk.metrics().map_err(|_| Refused::Failed)?;
            Ok(Found::metrics(text))
        }
        "/api/v1/status" => Found::json(&desk.status()),
        "/api/v1/openapi.json" => Ok(Found::json_text(OPENAPI)),
        _ => Err(Refused::NotFound),
    }
}
