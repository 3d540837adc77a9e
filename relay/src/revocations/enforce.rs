//! From the list to what is in progress: each addition ends what it forbids.

use std::sync::Arc;

use crate::node::Node;

/// Ends sessions and calls as they are withdrawn. Runs until it is dropped.
pub(crate) async fn enforce(node: Arc<Node>) {
    let mut additions = node.revocations.additions();
    // The first look is at what was there before this began.
    additions.mark_changed();
    while additions.changed().await.is_ok() {
        let sessions = node.agents.end_revoked();
        let calls = node.tenants.end_revoked(&node.revocations);
        node.metrics.revocations.ended_calls.inc_by(calls as u64);
        if sessions + calls > 0 {
            tracing::info!(sessions, calls, "what was revoked is ended");
        }
    }
}
