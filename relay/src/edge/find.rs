//! What a call looks for: a session that serves its endpoint.

use culvert_http::Problem;
use culvert_proto::code::ErrorCode;
use culvert_proto::connect_name::ConnectName;
use culvert_proto::names::{EndpointName, TenantName};

use super::forward::unknown_endpoint;
use crate::directory::{Directory, Lookup, Target};
use crate::place::Place;

/// An endpoint to find sessions of, one call long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finder<'f> {
    pub(crate) directory: &'f Directory,
    pub(crate) tenant: &'f TenantName,
    pub(crate) endpoint: &'f EndpointName,
    /// The name that the session must declare, in proxy modes.
    pub(crate) name: Option<&'f ConnectName>,
}

impl Finder<'_> {
    /// What to say where there is nothing.
    pub(super) fn unknown(&self) -> Problem {
        too_early(self.directory, self.tenant).unwrap_or_else(unknown_endpoint)
    }

    /// Where the call can go now.
    pub(crate) fn look(&self) -> Lookup {
        match self.name {
            Some(name) => self.directory.lookup_name(self.tenant, self.endpoint, name),
            None => self.directory.lookup(self.tenant, self.endpoint),
        }
    }

    /// Another node has no session after all: it is not asked again until the next look at the registry
    /// finds that it still claims the endpoint, or finds nothing. One that drains is not asked anyway, and
    /// the endpoint is on its way elsewhere.
    pub(super) fn missed(&self, place: &Place) {
        if let Place::There(link) = place
            && !place.is_closing()
            && !link.is_leaving()
        {
            self.directory
                .withdraw(self.tenant, self.endpoint, link.id());
            link.note_miss();
        }
    }
}

/// What to say instead of "unknown" where agents may only not be back yet. Tools take a 404 for a thing
/// that is gone, and forget it: so it is said of nothing that may come back.
pub(super) fn too_early(directory: &Directory, tenant: &TenantName) -> Option<Problem> {
    let detail =
        "this relay has just started, and none of your agents has come back yet; try again";
    let is_early = directory.is_too_early(tenant);
    is_early.then(|| Problem::new(ErrorCode::EndpointOffline, detail))
}
