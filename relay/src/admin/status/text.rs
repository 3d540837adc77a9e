//! The status of a node as text: what `culvert-relay status` prints, and the status page shows.

use std::fmt::{self, Write};

use culvert_process::words::{count, sentence};

use super::{ClusterStatus, EndpointStatus, Status, TenantStatus};
use crate::admin::date;
use crate::cluster::Load;

/// For a terminal. What agents say of themselves is shown escaped.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            node,
            version,
            state,
            uptime_s,
            connections,
            calls,
            ..
        } = self;
        writeln!(
            f,
            "{node}: {} (version {version}, up {uptime_s} s)",
            state.as_str()
        )?;
        for what in &self.waiting_for {
            writeln!(f, "  {what}")?;
        }
        if let Some(date) = self.certificate_expires.and_then(date::of) {
            writeln!(f, "certificate good until {date}")?;
        }
        let (connections, calls) = (count(*connections, "connection"), count(*calls, "call"));
        writeln!(f, "{connections}, {calls} in flight")?;
        writeln!(f, "\n{}", count(self.sessions.len(), "session"))?;
        for session in &self.sessions {
            let agent = session.agent.as_deref().unwrap_or("?").escape_debug();
            let mut line = format!(
                "  {:<5} {}/{agent} from {}, {} s, {}",
                session.id,
                session.tenant,
                session.peer,
                session.age_s,
                count(session.calls, "call")
            );
            if let Some(rtt) = session.rtt_ms {
                write!(line, ", {rtt:.1} ms")?;
            }
            if session.lanes > 1 {
                write!(line, ", {} lanes", session.lanes)?;
            }
            match session.replaced_by {
                Some(newer) => write!(line, ", replaced by {newer}")?,
                None if session.draining => line.push_str(", draining"),
                None => {}
            }
            writeln!(f, "{line}: {}", session.endpoints.join(" "))?;
        }
        writeln!(f, "\n{}", count(self.endpoints.len(), "endpoint"))?;
        for endpoint in &self.endpoints {
            let EndpointStatus {
                tenant,
                endpoint,
                sessions,
                draining,
                elsewhere,
            } = endpoint;
            match (sessions, elsewhere) {
                (0, 0) => write!(f, "  {endpoint}--{tenant}: offline")?,
                _ => write!(f, "  {endpoint}--{tenant}: {}", count(*sessions, "session"))?,
            }
            if *draining > 0 {
                write!(f, ", {draining} draining")?;
            }
            match elsewhere {
                0 => writeln!(f)?,
                _ => writeln!(f, ", on {}", count(*elsewhere, "other node"))?,
            }
        }
        writeln!(f, "\n{}", count(self.tenants.len(), "tenant"))?;
        for tenant in &self.tenants {
            let TenantStatus {
                tenant,
                sessions,
                max_sessions,
                calls,
                max_calls,
                refused,
            } = tenant;
            write!(
                f,
                "  {tenant}: {sessions} of {max_sessions} sessions, {calls} of {max_calls} calls"
            )?;
            match refused {
                0 => writeln!(f)?,
                _ => writeln!(f, ", {refused} refused over its quota")?,
            }
        }
        writeln!(f, "\n{}", count(self.issuers.len(), "issuer"))?;
        for issuer in &self.issuers {
            write!(f, "  {}: {}", issuer.issuer, count(issuer.keys, "key"))?;
            if let Some(age) = issuer.age_s {
                write!(f, ", {age} s old")?;
            }
            match &issuer.error {
                Some(error) => writeln!(f, " ({})", sentence(error))?,
                None => writeln!(f)?,
            }
        }
        match &self.cluster {
            Some(cluster) => write!(f, "\n{cluster}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ClusterStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |load: &Load| {
            let Load {
                sessions,
                connections,
                calls,
            } = load;
            let (sessions, calls) = (count(*sessions, "session"), count(*calls, "call"));
            format!(
                "{sessions}, {}, {calls} in flight",
                count(*connections, "connection")
            )
        };
        writeln!(
            f,
            "cluster of {} nodes: {}",
            self.nodes.len() + 1,
            words(&self.load)
        )?;
        for other in &self.nodes {
            // Whoever can write to the registry chooses these.
            let (node, address) = (other.node.escape_debug(), other.address.escape_debug());
            write!(f, "  {node} at {address}: ")?;
            match &other.load {
                Some(load) => write!(f, "{}", words(load))?,
                None => write!(f, "load unknown")?,
            }
            write!(f, ", {}", count(other.endpoints, "endpoint"))?;
            if !other.reached {
                write!(f, ", NOT REACHED from here")?;
            }
            writeln!(f, "{}", if other.leaving { ", leaving" } else { "" })?;
        }
        if let Some(error) = &self.registry_error {
            let error = sentence(error);
            writeln!(
                f,
                "  THE REGISTRY FAILS, this or what other nodes see may be old: {error}"
            )?;
        }
        Ok(())
    }
}
