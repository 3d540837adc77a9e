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
        let Ok(thread) = Handle::try_current() else {
            return false;
        };
        let is_near = |session: &Session| session.runtime().is_some_and(|r| r.id() == thread.id());
        match self {
            Self::Here(session) => is_near(session),
            Self::There(link) => link.session().is_some_and(|session| is_near(&session)),
        }
    }
}
