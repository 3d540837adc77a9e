//! Revocations as operators write and read them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use culvert_admin::Refused;
use culvert_process::words::sentence;
use culvert_proto::names::NameError;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::date;
use crate::directory::SessionId;
use crate::node::Node;
use crate::revocations::sharing::Told;
use crate::revocations::{LONGEST, MAX_REASON, Revocation, RevocationId, Scope};

/// How long an answer waits for the registry to have what other nodes must know.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where they are.
pub(crate) const PATH: &str = "/api/v1/revocations";

/// What an operator asks for.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Asked {
    /// `sub` of a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    /// A tenant's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tenant: Option<String>,
    /// The id of a session, as the status shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<u64>,
    /// An endpoint of the tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// How long it holds, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ttl_s: Option<u64>,
    /// Until when it holds instead: seconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<u64>,
}

/// A revocation that holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(crate) id: String,
    pub(crate) subject: Option<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) session: Option<u64>,
    pub(crate) endpoint: Option<String>,
    pub(crate) reason: Option<String>,
    /// Since when: seconds since the Unix epoch.
    pub(crate) since: u64,
    /// Until when: seconds since the Unix epoch; `None`: until it is lifted.
    pub(crate) expires: Option<u64>,
    /// What the other nodes of the cluster know of it; `None`: it is not their affair.
    #[serde(default)]
    pub(crate) other_nodes: Option<OtherNodes>,
}

/// What other nodes know of a revocation, or that it was lifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OtherNodes {
    /// It is where they look every second.
    Told,
    /// The registry does not answer. The node keeps trying.
    Pending,
}

impl Shown {
    fn of(revocation: &Revocation, told: Told) -> Self {
        Self {
            other_nodes: match told {
                Told::Nobody => None,
                Told::Everybody => Some(OtherNodes::Told),
                Told::NotYet => Some(OtherNodes::Pending),
            },
            ..Self::from(revocation)
        }
    }

    /// The status of an answer: what is yet to come to other nodes is accepted and not done.
    pub(super) fn status(&self, done: StatusCode) -> StatusCode {
        match self.other_nodes {
            Some(OtherNodes::Pending) => StatusCode::ACCEPTED,
            _ => done,
        }
    }
}

/// All that hold.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) revocations: Vec<Shown>,
}

/// Whether a path is one of a revocation's, be it there or not.
pub(super) fn is_one(path: &str) -> bool {
    let below = path.strip_prefix(PATH);
    below.is_some_and(|below| below.starts_with('/'))
}

/// The id in the path of a revocation.
pub(super) fn id(path: &str) -> Option<RevocationId> {
    let id = path.strip_prefix(PATH)?.strip_prefix('/')?;
    id.parse().ok()
}

/// Adds what the body asks for.
pub(super) async fn add(node: &Node, headers: &HeaderMap, body: &Bytes) -> Result<Shown, Refused> {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind
        .and_then(|kind| kind.split(';').next())
        .unwrap_or_default();
    if !kind.trim().eq_ignore_ascii_case("application/json") {
        return Err(Refused::NotJson);
    }
    // A list of values would do for serde: by position, without the names that say what is meant.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Refused::Unclear("send an object".into()));
    }
    let asked: Asked =
        serde_json::from_slice(body).map_err(|error| Refused::Unclear(error.to_string()))?;
    let revocation = revocation(asked, SystemTime::now()).map_err(Refused::Unclear)?;
    // Ids count upwards: one that has not come yet would be somebody else's within the hour.
    if let Some(session) = revocation.scope.session
        && !node
            .agents
            .records()
            .iter()
            .any(|record| record.id == session)
    {
        return Err(Refused::Missing(format!(
            "this node has no session {session}; its status has those that there are, and another node's \
             are revoked there"
        )));
    }
    let added = node.revocations.add(revocation);
    let added = added.map_err(|full| Refused::Full(full.to_string()))?;
    node.count_revocations();
    let told = node.revocations.until_told(added.id, PATIENCE).await;
    let shown = Shown::of(&added, told);
    tracing::warn!(target: "culvert::security", revocation = %shown, "revoked by an operator");
    Ok(shown)
}

/// Takes one back.
pub(super) async fn lift(node: &Node, id: RevocationId) -> Result<Shown, Refused> {
    let lifted = node.revocations.lift(id);
    let lifted = lifted.ok_or_else(|| Refused::Missing(format!("there is no revocation {id}")))?;
    node.count_revocations();
    let told = match lifted.scope.session {
        // It was nobody else's affair, and is forgotten.
        Some(_) => Told::Nobody,
        None => node.revocations.until_told(id, PATIENCE).await,
    };
    let shown = Shown::of(&lifted, told);
    tracing::warn!(target: "culvert::security", revocation = %shown, "lifted by an operator");
    Ok(shown)
}

/// All that hold, oldest first.
pub(super) fn list(node: &Node) -> Listed {
    let revocations = node.revocations.list();
    Listed {
        revocations: revocations
            .iter()
            .map(|one| Shown::of(one, node.revocations.told(one.id)))
            .collect(),
    }
}

/// What was asked for, checked.
fn revocation(asked: Asked, now: SystemTime) -> Result<Revocation, String> {
    let name = |what: &str, error: NameError| format!("{what}: {error}");
    let tenant = asked.tenant.map(|tenant| tenant.parse()).transpose();
    let endpoint = asked.endpoint.map(|endpoint| endpoint.parse()).transpose();
    let scope = Scope {
        subject: asked.subject,
        tenant: tenant.map_err(|error| name("tenant", error))?,
        session: asked.session.map(SessionId),
        endpoint: endpoint.map_err(|error| name("endpoint", error))?,
    };
    scope.check().map_err(|error| error.to_string())?;
    if let Some(reason) = &asked.reason
        && (reason.len() > MAX_REASON || reason.contains(char::is_control))
    {
        return Err(format!(
            "reason: at most {MAX_REASON} bytes, no control characters"
        ));
    }
    let ttl = match (asked.ttl_s, asked.expires) {
        (Some(_), Some(_)) => return Err("give ttl_s or expires, not both".to_owned()),
        (ttl, None) => ttl.map(Duration::from_secs),
        (None, Some(expires)) => {
            let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            Some(Duration::from_secs(expires).saturating_sub(now))
        }
    };
    if ttl.is_some_and(|ttl| ttl.is_zero()) {
        return Err("it would be over already".to_owned());
    }
    // Milliseconds by mistake, say: an end that engines cannot count.
    if ttl.is_some_and(|ttl| ttl > LONGEST) {
        return Err(
            "it would end in more than a hundred years; without an end it holds until it is lifted"
                .to_owned(),
        );
    }
    Ok(Revocation::new(scope, asked.reason, ttl))
}

impl From<&Revocation> for Shown {
    fn from(revocation: &Revocation) -> Self {
        let Scope {
            subject,
            tenant,
            session,
            endpoint,
        } = &revocation.scope;
        let seconds = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH);
            since.unwrap_or_default().as_secs()
        };
        let expires = revocation
            .ttl
            .and_then(|ttl| revocation.since.checked_add(ttl));
        Self {
            id: revocation.id.to_string(),
            subject: subject.clone(),
            tenant: tenant.as_ref().map(ToString::to_string),
            session: session.map(|session| session.0),
            endpoint: endpoint.as_ref().map(ToString::to_string),
            reason: revocation.reason.clone(),
            since: seconds(revocation.since),
            expires: expires.map(seconds),
            other_nodes: None,
        }
    }
}

/// For a terminal, in one line.
impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        if let Some(subject) = &self.subject {
            write!(f, " subject {}", subject.escape_debug())?;
        }
        if let Some(tenant) = &self.tenant {
            write!(f, " tenant {tenant}")?;
        }
        if let Some(session) = self.session {
            write!(f, " session {session}")?;
        }
        if let Some(endpoint) = &self.endpoint {
            write!(f, " endpoint {endpoint}")?;
        }
        if let Some(expires) = self.expires {
            let date = date::of(expires).unwrap_or_else(|| expires.to_string());
            write!(f, ", until {date}")?;
        }
        if let Some(reason) = &self.reason {
            write!(f, ": {}", sentence(reason))?;
        }
        if self.other_nodes == Some(OtherNodes::Pending) {
            f.write_str(" (other nodes cannot be told yet; this one keeps trying)")?;
        }
        Ok(())
    }
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.revocations.is_empty() {
            return writeln!(f, "nothing is revoked");
        }
        for revocation in &self.revocations {
            writeln!(f, "{revocation}")?;
        }
        Ok(())
    }
}
