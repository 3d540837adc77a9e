//! A sample SDDC API: as much of vCenter's REST interface as a first look needs.
//!
//! Sign in with a user and a password, list virtual machines, look at one, switch it off,
//! download an image. The inventory is made up and lives in memory; what is switched off stays
//! off until the next start, which is how the demo proves that a denied call did not arrive. Events
//! that are reported are counted by their id, which is how it proves that none was reported twice.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::failure::Result;
use crate::https::{self, Reply};

/// The user that may sign in.
pub const USER: &str = "administrator@vsphere.local";
/// The user's password; this API is for loopback alone.
pub const PASSWORD: &str = "VMware1!";
/// The header that carries a session, as vCenter calls it.
pub const SESSION_HEADER: &str = "vmware-api-session-id";
/// The size of the image that can be downloaded.
pub const IMAGE_SIZE: u64 = 64 << 20;

/// Sessions kept at most; then all start over.
const MAX_SESSIONS: usize = 1000;

/// Events kept at most.
const MAX_EVENTS: usize = 1_000_000;

/// The longest that a request may be worked on.
const MAX_WORK_MS: u64 = 10_000;

struct Vm {
    id: &'static str,
    name: &'static str,
    cpus: u32,
    memory_mib: u32,
    guest: &'static str,
    on: bool,
}

struct Inventory {
    sessions: HashSet<String>,
    /// How often each event was reported.
    events: HashMap<String, u32>,
    vms: Vec<Vm>,
}

/// Runs the API; its certificate comes from `folder`.
pub async fn run(folder: &Path) -> Result<()> {
    https::serve(folder, "sddc", |_| {
        let inventory = Arc::new(Mutex::new(Inventory::sample()));
        Ok(move |request: Request<Incoming>| {
            let reply = handle(&request, &mut lock(&inventory));
            let work = work(&request);
            async move {
                tokio::time::sleep(work).await;
                reply
            }
        })
    })
    .await
}

/// How long the API works on a request before it answers: `work_ms` of the query.
fn work<B>(request: &Request<B>) -> Duration {
    let query = request.uri().query().unwrap_or_default();
    let work = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "work_ms");
    let work = work.and_then(|(_, value)| value.parse().ok());
    Duration::from_millis(work.unwrap_or(0).min(MAX_WORK_MS))
}

fn lock(inventory: &Mutex<Inventory>) -> MutexGuard<'_, Inventory> {
    inventory.lock().unwrap_or_else(PoisonError::into_inner)
}

fn handle<B>(request: &Request<B>, inventory: &mut Inventory) -> Reply {
    let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
    let (method, query) = (request.method(), request.uri().query().unwrap_or_default());
    if (method, path.as_slice()) == (&Method::POST, &["api", "session"]) {
        return inventory.sign_in(request.headers());
    }
    if !inventory.signed_in(request.headers()) {
        return refuse(
            StatusCode::UNAUTHORIZED,
            "UNAUTHENTICATED",
            "Authentication required.",
        );
    }
    match (method, path.as_slice()) {
        (&Method::GET, ["api", "vcenter", "vm"]) => {
            let vms: Vec<Value> = inventory.vms.iter().map(Vm::summary).collect();
            https::json(StatusCode::OK, &json!(vms))
        }
        (&Method::GET, ["api", "vcenter", "vm", id]) => match inventory.vm(id) {
            Some(vm) => https::json(StatusCode::OK, &vm.info()),
            None => not_found(),
        },
        (&Method::POST, ["api", "vcenter", "vm", id, "power"]) => inventory
            .vm(id)
            .map_or_else(not_found, |vm| vm.power(query)),
        (&Method::POST, ["api", "vcenter", "events", id]) => inventory.report(id),
        (&Method::GET, ["api", "vcenter", "events"]) => {
            https::json(StatusCode::OK, &json!(inventory.events))
        }
        (&Method::GET, ["folder", "photon-5.0.iso"]) => {
            let mut reply = https::with_body(StatusCode::OK, Image { left: IMAGE_SIZE });
            let kind = HeaderValue::from_static("application/octet-stream");
            reply.headers_mut().insert(CONTENT_TYPE, kind);
            reply
        }
        _ => not_found(),
    }
}

impl Inventory {
    fn sample() -> Self {
        let vm = |id, name, cpus, memory_mib, guest| Vm {
            id,
            name,
            cpus,
            memory_mib,
            guest,
            on: true,
        };
        Self {
            sessions: HashSet::new(),
            events: HashMap::new(),
            vms: vec![
                vm("vm-11", "web-01", 2, 4096, "DEBIAN_12_64"),
                vm("vm-12", "web-02", 2, 4096, "DEBIAN_12_64"),
                vm("vm-27", "db-01", 8, 65536, "RHEL_9_64"),
            ],
        }
    }

    fn vm(&mut self, id: &str) -> Option<&mut Vm> {
        self.vms.iter_mut().find(|vm| vm.id == id)
    }

    fn report(&mut self, id: &str) -> Reply {
        if self.events.len() >= MAX_EVENTS {
            let text = "No further events are kept.";
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", text);
        }
        *self.events.entry(id.to_owned()).or_default() += 1;
        https::with_body(StatusCode::CREATED, Empty::new())
    }

    fn sign_in(&mut self, headers: &HeaderMap) -> Reply {
        let expected = format!(
            "Basic {}",
            BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"))
        );
        if headers
            .get(AUTHORIZATION)
            .is_none_or(|given| given.as_bytes() != expected.as_bytes())
        {
            let text = "Invalid credentials.";
            return refuse(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", text);
        }
        if self.sessions.len() >= MAX_SESSIONS {
            self.sessions.clear();
        }
        let id = format!("{:032x}", fastrand::u128(..));
        self.sessions.insert(id.clone());
        https::json(StatusCode::CREATED, &json!(id))
    }

    fn signed_in(&self, headers: &HeaderMap) -> bool {
        let id = headers.get(SESSION_HEADER).and_then(|id| id.to_str().ok());
        id.is_some_and(|id| self.sessions.contains(id))
    }
}

impl Vm {
    fn power_state(&self) -> &'static str {
        if self.on { "POWERED_ON" } else { "POWERED_OFF" }
    }

    fn summary(&self) -> Value {
        json!({
            "vm": self.id, "name": self.name, "power_state": self.power_state(),
            "cpu_count": self.cpus, "memory_size_MiB": self.memory_mib,
        })
    }

    fn info(&self) -> Value {
        json!({
            "name": self.name, "power_state": self.power_state(), "guest_OS": self.guest,
            "cpu": { "count": self.cpus }, "memory": { "size_MiB": self.memory_mib },
        })
    }

    fn power(&mut self, query: &str) -> Reply {
        let on = match query {
            "action=start" => true,
            "action=stop" => false,
            _ => {
                let text = "The action must be start or stop.";
                return refuse(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", text);
            }
        };
        if self.on == on {
            let text = "The virtual machine is already in that state.";
            return refuse(StatusCode::BAD_REQUEST, "ALREADY_IN_DESIRED_STATE", text);
        }
        self.on = on;
        https::with_body(StatusCode::NO_CONTENT, Empty::new())
    }
}

/// An error as vCenter words it.
fn refuse(status: StatusCode, kind: &str, text: &str) -> Reply {
    let messages = json!([{ "default_message": text, "args": [], "id": "demo" }]);
    https::json(status, &json!({ "error_type": kind, "messages": messages }))
}

fn not_found() -> Reply {
    refuse(
        StatusCode::NOT_FOUND,
        "NOT_FOUND",
        "The object or path does not exist.",
    )
}

/// The image: zeros, made while they are sent, so that its size costs no memory.
struct Image {
    left: u64,
}

impl Body for Image {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        let take = self.left.min(ZEROS.len() as u64);
        self.left -= take;
        let chunk = || Ok(Frame::data(Bytes::from_static(&ZEROS[..take as usize])));
        Poll::Ready((take > 0).then(chunk))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn call(inventory: &mut Inventory, method: &str, uri: &str, session: &str) -> Reply {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(SESSION_HEADER, session);
        handle(&request.body(()).unwrap(), inventory)
    }

    #[tokio::test]
    async fn a_session_opens_the_inventory_and_a_stop_is_seen() {
        let inventory = &mut Inventory::sample();
        let none = call(inventory, "GET", "/api/vcenter/vm", "no-session");
        assert_eq!(none.status(), StatusCode::UNAUTHORIZED);

        let basic = BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let request = Request::post("/api/session")
            .header(AUTHORIZATION, format!("Basic {basic}"))
            .body(())
            .unwrap();
        let reply = handle(&request, inventory);
        assert_eq!(reply.status(), StatusCode::CREATED);
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        let session: String = serde_json::from_slice(&body).unwrap();

        let uri = "/api/vcenter/vm/vm-11/power?action=stop";
        assert_eq!(
            call(inventory, "POST", uri, &session).status(),
            StatusCode::NO_CONTENT
        );
        let reply = call(inventory, "GET", "/api/vcenter/vm/vm-11", &session);
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        let vm: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(vm["power_state"], "POWERED_OFF");
    }

    #[tokio::test]
    async fn the_image_is_as_long_as_it_says() {
        let body = Image { left: 200_000 }.collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), 200_000);
    }
}
