//! What the relay serves itself.

use std::sync::Arc;

use bytes::Bytes;
use culvert_http::Problem;
use culvert_http::upload::Upload;
use culvert_identity::verify::{ProvedRequest, ProvedTarget};
use culvert_proto::code::ErrorCode;
use culvert_session::dial::SESSION_PATH;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, PROXY_AUTHORIZATION, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use super::authenticate::must_call;
use super::call::Answer;
use super::connection::Connection;
use super::forward::unknown_endpoint;
use super::record::CallRecord;
use super::{ERRORS_PATH, Edge, pac};

/// Most bytes of a script that counts as nothing. A longer one draws on its tenant's part of the memory:
/// how long it is, the tenant's agents decide.
const SHORT: usize = 16 * 1024;

/// A browser asks for the script again after so many seconds, and not before.
const PAC_CACHE: &str = "private, max-age=60";

impl Edge {
    /// What the relay serves under its own name.
    pub(super) async fn own_page(
        &self,
        connection: &Arc<Connection>,
        request: Request<Upload>,
        authority: &str,
        record: &mut CallRecord,
    ) -> Result<Answer, Problem> {
        match (request.method(), request.uri().path()) {
            (_, SESSION_PATH) => {
                record.on_session_request();
                let upgraded = self
                    .agents
                    .clone()
                    .upgrade(request, connection.peer)
                    .await?;
                if upgraded.status() == StatusCode::SWITCHING_PROTOCOLS {
                    connection.prove();
                    connection.traffic.switch();
                }
                Ok(Answer::Own(upgraded.map(|_| Bytes::new())))
            }
            (&Method::GET | &Method::HEAD, ERRORS_PATH) => {
                let page = self.errors.clone();
                Ok(page_answer(&request, "text/html; charset=utf-8", page))
            }
            (&Method::GET | &Method::HEAD, pac::PATH) => {
                let port = authority.rsplit_once(':').map_or("443", |(_, port)| port);
                let proxy = format!("HTTPS {}:{port}", self.routes.domain());
                self.pac(connection, &request, authority, &proxy, record)
                    .await
            }
            _ => Err(unknown_endpoint()),
        }
    }

    /// What the plaintext proxy listener serves beside CONNECT.
    pub(super) async fn proxy_page(
        &self,
        connection: &Arc<Connection>,
        request: Request<Upload>,
        authority: &str,
        record: &mut CallRecord,
    ) -> Result<Answer, Problem> {
        let only_asks = matches!(*request.method(), Method::GET | Method::HEAD);
        if !only_asks || request.uri().path() != pac::PATH {
            return Err(Problem::bad_request(
                "this address is a proxy and takes CONNECT only",
            ));
        }
        let port = match authority.rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => "",
            _ => ":80",
        };
        let proxy = format!("PROXY {authority}{port}");
        self.pac(connection, &request, authority, &proxy, record)
            .await
    }

    /// The script for the caller's tenant, with what its credential is good for.
    async fn pac(
        &self,
        connection: &Connection,
        request: &Request<Upload>,
        authority: &str,
        proxy: &str,
        record: &mut CallRecord,
    ) -> Result<Answer, Problem> {
        let credentials = credentials(request.headers());
        let proved = ProvedRequest {
            method: request.method().as_str(),
            to: ProvedTarget::Https {
                authority,
                path: pac::PATH,
            },
        };
        let caller = self.authenticate(connection, &credentials, &proved).await;
        let caller = caller.map_err(|problem| Problem {
            basic: true,
            ..problem
        })?;
        let caller = caller.verified;
        record.caller = Some(caller.clone());
        must_call(&caller)?;
        let _leave = self.begin(record, None)?;
        let tenant = &caller.principal.tenant;
        let names = self.directory.names(tenant);
        let names: Vec<_> = names
            .into_iter()
            .filter(|(_, endpoint)| caller.may_call_endpoint(endpoint))
            .map(|(name, _)| name)
            .collect();
        let script = pac::script(proxy, &names);
        if script.len() > SHORT {
            let held = u32::try_from(script.len()).ok();
            let held = held.and_then(|bytes| self.waiting.of(tenant).hold(bytes));
            record.held = Some(held.ok_or_else(no_room)?);
        }
        let Answer::Own(mut response) = page_answer(request, pac::CONTENT_TYPE, script) else {
            return Err(unknown_endpoint());
        };
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(PAC_CACHE));
        let vary = "authorization, proxy-authorization, culvert-authorization";
        headers.insert(VARY, HeaderValue::from_static(vary));
        Ok(Answer::Own(response))
    }
}

fn no_room() -> Problem {
    let detail = "there is no memory for the names of your tenant at the moment; try again";
    Problem::new(ErrorCode::Overloaded, detail)
}

/// A request's credentials for a page of the relay's own: there is no upstream to which
/// `Authorization` could belong, and it is what tools that fetch the script know.
fn credentials(headers: &HeaderMap) -> HeaderMap {
    let mut credentials = headers.clone();
    for value in headers.get_all(AUTHORIZATION) {
        credentials.append(PROXY_AUTHORIZATION, value.clone());
    }
    credentials
}

fn page_answer(request: &Request<Upload>, kind: &'static str, page: Bytes) -> Answer {
    let length = HeaderValue::from(page.len());
    let is_head = request.method() == Method::HEAD;
    let mut response = Response::new(if is_head { Bytes::new() } else { page });
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if is_head {
        headers.insert(CONTENT_LENGTH, length);
    }
    Answer::Own(response)
}
