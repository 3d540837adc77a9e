//! The tour: what the demo calls, what it expects, and what it tells about it.

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::header::CONTENT_LENGTH;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;

use crate::failure::{Doing, Failure, Result};
use crate::files;
use crate::screen::{Screen, Tone};
use crate::sddc::{IMAGE_SIZE, PASSWORD, SESSION_HEADER, USER};
use crate::setup::{CALLER, NO_TENANT, OTHER_CALLER, Setup, TENANT};
use crate::web::{Answer, Web};

/// The header that carries a caller's credential for the relay; `Authorization` is the API's.
pub(crate) const CREDENTIAL: &str = "Culvert-Authorization";

/// How long the agent may take to register.
const REGISTRATION: Duration = Duration::from_secs(30);

pub(crate) const INVENTORY: &str = "/api/vcenter/vm";
const STOP: &str = "/api/vcenter/vm/vm-11/power?action=stop";
const IMAGE: &str = "/folder/photon-5.0.iso";

/// Two callers on their way through the relay.
#[derive(Debug)]
pub struct Tour<'a> {
    setup: &'a Setup,
    web: Web,
    issuer: &'a str,
    screen: Screen,
    /// The session at the API, once signed in.
    session: String,
    surprises: Vec<String>,
}

/// A refusal to expect.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    layer: &'static str,
}

impl<'a> Tour<'a> {
    /// A tour of what `setup` describes, with tokens of `issuer`.
    pub fn new(setup: &'a Setup, issuer: &'a str, screen: Screen) -> Result<Self> {
        let web = Web::new(setup)?;
        Ok(Self {
            setup,
            web,
            issuer,
            screen,
            session: String::new(),
            surprises: Vec::new(),
        })
    }

    /// Waits until the relay says that it is ready.
    pub async fn relay_ready(&self) -> Result<()> {
        let url = format!("http://127.0.0.1:{}/readyz", self.setup.admin);
        until(
            Duration::from_secs(20),
            "the relay did not become ready",
            async || {
                let answer = self.web.send(self.web.request(Method::GET, &url)).await;
                answer.is_ok_and(|answer| answer.status == StatusCode::OK)
            },
        )
        .await
    }

    /// Waits until the agent has registered and signs in at the API through it.
    pub async fn sign_in(&mut self) -> Result<()> {
        let url = self.setup.url(TENANT, "/api/session");
        let token = self.token(CALLER).await?;
        let mut last = None;
        let late = "the agent did not register its endpoint";
        until(REGISTRATION, late, async || {
            let request = self
                .web
                .request(Method::POST, &url)
                .header(CREDENTIAL, bearer(&token));
            last = self
                .web
                .send(request.basic_auth(USER, Some(PASSWORD)))
                .await
                .ok();
            let absent = [StatusCode::NOT_FOUND, StatusCode::SERVICE_UNAVAILABLE];
            last.as_ref()
                .is_some_and(|answer| !absent.contains(&answer.status))
        })
        .await?;
        let answer = last.ok_or_else(|| Failure::new(late))?;
        self.session = serde_json::from_slice(&answer.body).unwrap_or_default();
        if answer.status != StatusCode::CREATED || self.session.is_empty() {
            let got = String::from_utf8_lossy(&answer.body).into_owned();
            let what = format!(
                "could not sign in through the relay: {} {got}",
                answer.status
            );
            return Err(Failure::new(what));
        }
        Ok(())
    }

    /// The session at the API, once signed in.
    pub(crate) fn session(&self) -> &str {
        &self.session
    }

    /// Writes a fresh token of each caller to files for `curl -H @FILE`.
    pub async fn write_headers(&self) -> Result<()> {
        for (caller, session) in [(CALLER, Some(&self.session)), (OTHER_CALLER, None)] {
            let mut headers = format!("{CREDENTIAL}: {}\n", bearer(&self.token(caller).await?));
            if let Some(session) = session {
                headers.push_str(&format!("{SESSION_HEADER}: {session}\n"));
            }
            files::write_private(
                &self.setup.folder.join(format!("{caller}.headers")),
                headers,
            )?;
        }
        Ok(())
    }

    /// Shows every step. What did not go as expected is said at once, and returned.
    pub async fn show(mut self) -> Result<Vec<String>> {
        self.allowed().await?;
        self.denied().await?;
        self.other_tenant().await?;
        self.no_token().await?;
        self.download().await?;
        Ok(self.surprises)
    }

    async fn allowed(&mut self) -> Result<()> {
        self.screen
            .title("1  Allowed: director-7 of tenant acme reads the inventory");
        let url = self.setup.url(TENANT, INVENTORY);
        let answer = self.call(CALLER, Method::GET, &url).await?;
        self.status(&answer, "from the SDDC API, through agent and relay");
        let vms: Vec<Value> = serde_json::from_slice(&answer.body).unwrap_or_default();
        for vm in &vms {
            let text = |key: &str| vm[key].as_str().unwrap_or("?").to_owned();
            let line = format!(
                "  {:<8}{:<9}{}",
                text("vm"),
                text("name"),
                text("power_state")
            );
            self.screen.line(&line);
        }
        self.call_id(&answer);
        self.expect(answer.status == StatusCode::OK && vms.len() == 3, || {
            format!(
                "expected 200 and 3 virtual machines, got {} and {}",
                answer.status,
                vms.len()
            )
        });
        Ok(())
    }

    async fn denied(&mut self) -> Result<()> {
        self.screen
            .title("2  Denied: the same caller tries to switch a machine off");
        let url = self.setup.url(TENANT, STOP);
        let answer = self.call(CALLER, Method::POST, &url).await?;
        let status = StatusCode::FORBIDDEN;
        self.refused(
            &answer,
            Refusal {
                status,
                code: "policy-denied",
                layer: "agent",
            },
        );

        let url = self.setup.url(TENANT, "/api/vcenter/vm/vm-11");
        let vm = self
            .web
            .send(self.authorized(CALLER, Method::GET, &url).await?)
            .await?;
        let vm: Value = serde_json::from_slice(&vm.body).unwrap_or_default();
        let state = vm["power_state"].as_str().unwrap_or("unknown");
        self.screen.line(&format!(
            "vm-11 is still {state}: the call did not reach the API"
        ));
        self.expect(state == "POWERED_ON", || {
            format!("expected vm-11 on, it is {state}")
        });
        Ok(())
    }

    async fn other_tenant(&mut self) -> Result<()> {
        self.screen
            .title("3  Wrong tenant: director-9 of tenant globex tries acme's endpoint");
        let url = self.setup.url(TENANT, INVENTORY);
        let answer = self.call(OTHER_CALLER, Method::GET, &url).await?;
        let status = StatusCode::NOT_FOUND;
        self.refused(
            &answer,
            Refusal {
                status,
                code: "unknown-endpoint",
                layer: "relay",
            },
        );
        let url = self.setup.url(NO_TENANT, INVENTORY);
        let none = self
            .web
            .send(self.authorized(OTHER_CALLER, Method::GET, &url).await?)
            .await?;
        let (theirs, own) = (answer.problem(), none.problem());
        let same = theirs
            .zip(own)
            .is_some_and(|(theirs, own)| theirs.code == own.code);
        if same {
            self.screen
                .line("the same answer as for an endpoint that does not exist at all");
        }
        self.expect(same, || {
            "expected the answer of an endpoint that does not exist".into()
        });
        Ok(())
    }

    async fn no_token(&mut self) -> Result<()> {
        self.screen
            .title("4  No credential: somebody from the internet");
        let url = self.setup.url(TENANT, INVENTORY);
        self.screen.line(&format!("> GET {url}"));
        let answer = self.web.send(self.web.request(Method::GET, &url)).await?;
        let status = StatusCode::UNAUTHORIZED;
        self.refused(
            &answer,
            Refusal {
                status,
                code: "unauthenticated",
                layer: "relay",
            },
        );
        let challenge = answer.header("www-authenticate").to_owned();
        self.expect(challenge.starts_with("Bearer"), || {
            format!("expected a Bearer challenge, got {challenge:?}")
        });
        Ok(())
    }

    async fn download(&mut self) -> Result<()> {
        self.screen
            .title("5  Streamed: an image passes through without being held anywhere");
        let url = self.setup.url(TENANT, IMAGE);
        self.screen.line(&format!("> GET {url}"));
        let start = Instant::now();
        let request = self.authorized(CALLER, Method::GET, &url).await?;
        let mut response = request.send().await.doing(|| "the request failed")?;
        let (status, mut received) = (response.status(), 0);
        let announced = response.headers().get(CONTENT_LENGTH).cloned();
        while let Some(chunk) = response
            .chunk()
            .await
            .doing(|| "the download was cut short")?
        {
            received += chunk.len() as u64;
        }
        let seconds = start.elapsed().as_secs_f64();
        let mib = received as f64 / f64::from(1 << 20);
        let text = format!("< {status}, {mib:.0} MiB in {seconds:.1} s");
        self.screen.line(&self.screen.paint(Tone::Good, &text));
        let whole = announced.is_some_and(|length| length == IMAGE_SIZE.to_string());
        self.expect(
            status == StatusCode::OK && whole && received == IMAGE_SIZE,
            || format!("expected {IMAGE_SIZE} bytes, announced and sent, got {status}, {received}"),
        );
        Ok(())
    }

    /// Prints a call as `caller`, sends it, and reads the answer.
    async fn call(&self, caller: &str, method: Method, url: &str) -> Result<Answer> {
        self.screen.line(&format!("> {method} {url}"));
        self.web
            .send(self.authorized(caller, method, url).await?)
            .await
    }

    /// A request with the credential of `caller` for the relay and the session for the API.
    async fn authorized(&self, caller: &str, method: Method, url: &str) -> Result<RequestBuilder> {
        let token = self.token(caller).await?;
        let request = self
            .web
            .request(method, url)
            .header(CREDENTIAL, bearer(&token));
        Ok(request.header(SESSION_HEADER, &self.session))
    }

    async fn token(&self, caller: &str) -> Result<String> {
        self.web.token_of(self.setup, self.issuer, caller).await
    }

    /// Prints a refusal and checks it against the one to expect.
    fn refused(&mut self, answer: &Answer, expected: Refusal) {
        let Refusal {
            status,
            code,
            layer,
        } = expected;
        let problem = answer.problem();
        let words = match &problem {
            Some(problem) => format!("{}, said by the {}", problem.code, problem.layer),
            None => "without a reason".to_owned(),
        };
        self.status(answer, &words);
        if let Some(problem) = &problem {
            self.screen.line(&format!("  {}", problem.detail));
            if let Some(rule) = &problem.rule {
                self.screen.line(&format!("  The rule: {rule}"));
            }
        }
        let proxy = answer.header("proxy-status").to_owned();
        self.screen.line(
            &self
                .screen
                .paint(Tone::Faint, &format!("  Proxy-Status: {proxy}")),
        );
        self.call_id(answer);
        let as_expected = answer.status == status
            && problem.is_some_and(|problem| problem.code == code && problem.layer == layer)
            && !proxy.is_empty();
        self.expect(as_expected, || {
            format!("expected {status} with {code} by the {layer} and a Proxy-Status")
        });
    }

    fn status(&self, answer: &Answer, words: &str) {
        let tone = if answer.status.is_success() {
            Tone::Good
        } else {
            Tone::Bad
        };
        self.screen.line(
            &self
                .screen
                .paint(tone, &format!("< {}, {words}", answer.status)),
        );
    }

    /// Prints the call's id, which every answer must carry.
    fn call_id(&mut self, answer: &Answer) {
        let id = answer.header("culvert-call").to_owned();
        self.screen.line(
            &self
                .screen
                .paint(Tone::Faint, &format!("  Culvert-Call: {id}")),
        );
        self.expect(!id.is_empty(), || "expected a Culvert-Call header".into());
    }

    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            let what = what();
            let text = self.screen.paint(Tone::Bad, &format!("UNEXPECTED: {what}"));
            self.screen.line(&text);
            self.surprises.push(what);
        }
    }
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// Asks `holds` until it does, at most for `limit`.
pub(crate) async fn until(
    limit: Duration,
    late: &str,
    mut holds: impl AsyncFnMut() -> bool,
) -> Result<()> {
    let asking = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let text = || format!("{late} within {} s", limit.as_secs());
    tokio::time::timeout(limit, asking)
        .await
        .map_err(|_| Failure::new(text()))
}

/// Prints the calls of the tour as commands for another shell; and the command that explains,
/// with the program `agent`, why one of them was denied.
pub fn print_commands(setup: &Setup, agent: &Path, screen: Screen) {
    let curl = |words: &str, tenant: &str, path: &str, caller: &str| {
        let url = setup.url(tenant, path);
        let host = url
            .trim_start_matches("https://")
            .split('/')
            .next()
            .unwrap_or_default();
        let caller = if caller.is_empty() {
            String::new()
        } else {
            format!(" -H @{caller}.headers")
        };
        screen.line(&format!(
            "curl -i{words} --cacert ca.pem --resolve {host}:127.0.0.1{caller} \\\n        '{url}'"
        ));
    };
    screen.title("Repeat them from another shell");
    screen.line(&format!("cd '{}'", setup.folder.display()));
    curl("", TENANT, INVENTORY, CALLER);
    curl(" -X POST", TENANT, STOP, CALLER);
    curl("", TENANT, INVENTORY, OTHER_CALLER);
    curl("", TENANT, INVENTORY, "");
    curl(" -o /dev/null", TENANT, IMAGE, CALLER);
    screen.title("Ask the agent why it denies the second");
    screen.line(&format!(
        "{} policy explain --config agent.toml \\",
        agent.display()
    ));
    screen.line(&format!(
        "     --endpoint vcenter --caller {CALLER} --method POST --path '{STOP}'"
    ));
}
