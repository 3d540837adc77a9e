//! What is known of a call before anything is asked: checked, and the same for everybody who
//! looks at it.

use std::net::IpAddr;

use bytes::Bytes;
use culvert_http::upgrade::is_http;
use culvert_policy::{CallFacts, CanonicalTarget, Look, PathOptions, Policy, Soap, TargetError};
use culvert_proto::code::ErrorCode;
use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::{BodyLength, CallHead, CallId, CallerToken, Mode, Refusal};
use culvert_proto::heads::is_method;
use culvert_proto::names::EndpointName;
use culvert_proto::principal::Principal;
use http::Method;
use http::header::{HeaderMap, UPGRADE};

/// The facts of a call that do not change while it lasts.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) id: CallId,
    /// The CONNECT within which it came, where its TLS ends here.
    pub(crate) within: Option<CallId>,
    pub(crate) endpoint: EndpointName,
    pub(crate) mode: Mode,
    pub(crate) method: Method,
    /// As it came: canonical only once [`target`](Self::target) says so.
    pub(crate) target: Bytes,
    /// The declared name that it is for, where its TLS ends here.
    pub(crate) name: Option<ConnectName>,
    /// The protocol that it asks to switch to.
    pub(crate) upgrade: Option<String>,
    pub(crate) source: Option<IpAddr>,
    pub(crate) caller: Principal,
}

/// What is forwarded of a head beside the facts.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) headers: HeaderMap,
    pub(crate) length: BodyLength,
    /// The name under which the caller called.
    pub(crate) authority: Bytes,
    /// The caller's token, for this agent alone.
    pub(crate) token: Option<CallerToken>,
}

impl Call {
    pub(crate) fn of(head: CallHead) -> (Self, Message) {
        let CallHead {
            call: id,
            endpoint,
            mode,
            method,
            target,
            headers,
            body: length,
            upgrade,
            authority,
            source,
            caller,
            token,
        } = head;
        let call = Self {
            id,
            within: None,
            endpoint,
            mode,
            method,
            target,
            name: None,
            upgrade,
            source,
            caller,
        };
        (
            call,
            Message {
                headers,
                length,
                authority,
                token,
            },
        )
    }

    /// Whether it came within a connection whose TLS ends here, and not from the relay.
    pub(crate) fn is_inside(&self) -> bool {
        self.within.is_some()
    }

    /// The canonical target. The relay has made it so: another one shows a relay that is broken
    /// or hostile.
    pub(crate) fn canonical(&self, options: PathOptions) -> Result<CanonicalTarget, BadHead> {
        let text = std::str::from_utf8(&self.target).map_err(|_| TargetError::NotUtf8)?;
        Ok(CanonicalTarget::parse_canonical(text, options)?)
    }

    /// Checks what the relay ought to have checked, and what this version cannot do.
    pub(crate) fn check(&self, message: &Message) -> Result<(), BadHead> {
        let is_method = is_method(self.method.as_str().as_bytes());
        if !is_method || matches!(self.method, Method::CONNECT | Method::TRACE) {
            return Err(BadHead::Method);
        }
        let may_switch = |protocol: &str| {
            !is_http(protocol) && self.method == Method::GET && message.length == BodyLength::Empty
        };
        if message.headers.contains_key(UPGRADE) || !self.upgrade.as_deref().is_none_or(may_switch)
        {
            return Err(BadHead::Upgrade);
        }
        Ok(())
    }

    /// The name that a CONNECT is for. The relay has brought it to its one spelling.
    pub(crate) fn connect_name(&self) -> Result<ConnectName, BadHead> {
        let text = std::str::from_utf8(&self.target).map_err(|_| BadHead::Name)?;
        let name = ConnectName::parse(text).map_err(|_| BadHead::Name)?;
        let is_call = self.method == Method::CONNECT && self.upgrade.is_none();
        if is_call && name.as_str() == text {
            Ok(name)
        } else {
            Err(BadHead::Name)
        }
    }

    /// What the policy is asked about where the agent sees bytes only.
    pub(crate) fn passage_facts<'a>(&'a self, name: &'a ConnectName) -> CallFacts<'a> {
        CallFacts {
            endpoint: self.endpoint.as_str(),
            mode: crate::policy::mode(self.mode),
            method: self.method.as_str(),
            target: None,
            destination: None,
            caller: &self.caller.subject,
            scopes: &self.caller.scopes,
            soap: Soap::No,
            upgrade: None,
            source: self.source,
            host: Some(name.host()),
            port: Some(name.port()),
        }
    }

    /// How the call has to be looked into. Servers read an envelope from whatever brings a body.
    pub(crate) fn look(
        &self,
        policy: &Policy,
        target: &CanonicalTarget,
        length: BodyLength,
    ) -> Look {
        let method = match length {
            BodyLength::Empty | BodyLength::Exact(0) => self.method.as_str(),
            BodyLength::Exact(_) | BodyLength::Unknown => "POST",
        };
        policy.look(self.endpoint.as_str(), method, target)
    }

    /// What the policy is asked about.
    pub(crate) fn facts<'a>(
        &'a self,
        target: &'a CanonicalTarget,
        destination: Option<&'a CanonicalTarget>,
        soap: Soap<'a>,
    ) -> CallFacts<'a> {
        CallFacts {
            endpoint: self.endpoint.as_str(),
            mode: crate::policy::mode(self.mode),
            method: self.method.as_str(),
            target: Some(target),
            destination,
            caller: &self.caller.subject,
            scopes: &self.caller.scopes,
            soap,
            upgrade: self.upgrade.as_deref(),
            source: self.source,
            host: self.name.as_ref().map(ConnectName::host),
            port: self.name.as_ref().map(ConnectName::port),
        }
    }
}

/// Why a head is refused before the policy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadHead {
    /// An endpoint that this agent does not have.
    #[error("this agent has no such endpoint")]
    Endpoint,
    /// A mode that the endpoint does not have.
    #[error("the endpoint does not have this call mode")]
    Mode,
    /// A call by the endpoint's host name where it has only CONNECT.
    #[error("this endpoint takes no calls by its host name: use the relay as a proxy (CONNECT)")]
    HostMode,
    /// Not a name that the endpoint declares.
    #[error("the endpoint does not declare this name and port")]
    Name,
    /// Not a method that is forwarded.
    #[error("the method is not one that is forwarded")]
    Method,
    /// Not a canonical target.
    #[error("the target is not accepted: {0}")]
    Target(#[from] TargetError),
    /// An upgrade to another HTTP, or one that is not a GET without a body.
    #[error("an upgrade is forwarded for a GET without a body, and never to another HTTP")]
    Upgrade,
    /// A part that cannot be forwarded.
    #[error(transparent)]
    Request(#[from] crate::upstream::RequestError),
}

impl BadHead {
    /// Whether no relay in good order would have sent it.
    pub(crate) fn is_suspicious(self) -> bool {
        match self {
            // What an endpoint accepts in paths beyond the strict form is only known here.
            Self::Target(error) => error.accepted_by().is_none(),
            // Which modes an endpoint has, relays that were here before do not know.
            Self::Mode | Self::HostMode => false,
            Self::Endpoint | Self::Name | Self::Method | Self::Upgrade | Self::Request(_) => true,
        }
    }

    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Endpoint => "unknown-endpoint",
            Self::Mode | Self::HostMode => "mode",
            Self::Name => "name",
            Self::Method => "method",
            Self::Target(error) => error.reason(),
            Self::Upgrade => "upgrade",
            Self::Request(_) => "request",
        }
    }

    pub(crate) fn refusal(self) -> Refusal {
        let code = match self {
            Self::Endpoint | Self::Name => ErrorCode::UnknownEndpoint,
            Self::Mode
            | Self::HostMode
            | Self::Method
            | Self::Target(_)
            | Self::Upgrade
            | Self::Request(_) => ErrorCode::BadRequest,
        };
        Refusal {
            code,
            detail: format!("The agent refused the call: {self}."),
            rule: None,
            soap: false,
        }
    }
}
