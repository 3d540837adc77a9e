//! Where a call can go: to a session of this node, or to another node that has one.

use std::sync::Arc;

use bytes::Bytes;
use culvert_proto::head::CallHead;
use culvert_session::{OpenError, Session, Stream};
use tokio::runtime::Handle;

use crate::directory::Target;
use crate::peer::Link;

/// Something that carries calls. Clones are of the same.
#[derive(Debug, Clone)]
pub enum Place {
    /// A session of this node with an agent.
    Here(Session),
    /// The way to another node.
    There(Arc<Link>),
}

impl Place {
    /// Opens a stream for a call; see [`Session::open`].
    pub(crate) fn open(
        &self,
        head: &CallHead,
        body: Bytes,
        end: bool,
    ) -> Result<Stream, OpenError> {
        match self {
            Self::Here(session) => session.open(head, body, end),
            Self::There(link) => match link.session() {
                Some(session) => session.open(head, body, end),
                None => Err(OpenError::Closed),
            },
        }
    }
}

impl Place {
    /// The runtime that carries it: work that has much to do with it costs least there.
    pub(crate) fn runtime(&self) -> Option<Handle> {
        match self {
            Self::Here(session) => session.runtime().cloned(),
            Self::There(link) => link.session()?.runtime().cloned(),
        }
    }
}

impl Target for Place {
    fn is_closing(&self) -> bool {
        let closing = |session: &Session| !session.is_open() || session.is_draining();
        match self {
            Self::Here(session) => closing(session),
            Self::There(link) => link.session().is_none_or(|session| closing(&session)),
        }
    }

    fn load(&self) -> usize {
        match self {
            Self::Here(session) => session.stream_count(),
            // A node that is about to leave comes last.
            Self::There(link) if link.is_leaving() => usize::MAX / 2,
            Self::There(link) => link.session().map_or(0, |session| session.stream_count()),
        }
    }

    fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    fn is_near(&self) -> bool {
        let runs_here =
            |carrier: Handle| Handle::try_current().is_ok_and(|h| h.id() == carrier.id());
        self.runtime().is_some_and(runs_here)
    }
}
