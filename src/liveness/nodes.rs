//! Leases whose container is gone, as problems of a store: what the store itself cannot see.
//!
//! Owns: what counts as proof without asking a runtime (the network namespace alone). Does not own: the
//! judgement (`lost`), or freeing anything.

use super::stale;
use super::stale::{Evidence, Verdict};
use crate::alloc::Context;
use crate::error::{StoreError, shown_network};
use crate::liveness;
use crate::model::Lease;
use crate::store::{Problem, Store};

/// A lease younger than this is not judged, in seconds: its container may be on its way.
const GRACE: u64 = 60;

/// What the store finds, and leases whose container is gone.
pub fn problems(store: &mut dyn Store, cx: &Context) -> Result<Vec<Problem>, StoreError> {
    let mut problems: Vec<Problem> = Vec::new();
    store.problems(cx, &mut |problem| problems.push(problem))?;
    // The leases of a damaged store cannot be listed.
    if !problems.iter().any(|problem| problem.mendable) {
        let mut leases = Vec::new();
        store.list(cx, &mut |lease| {
            if lease.kind.collectable() && lease.origin.netns.is_some() {
                leases.push(lease);
            }
        })?;
        problems.extend(find(&leases, cx));
    }
    Ok(problems)
}

/// Those of the leases whose network namespace is provably gone.
fn find(leases: &[Lease], cx: &Context) -> Vec<Problem> {
    let netns = leases.iter().filter_map(|l| l.origin.netns.as_ref());
    let evidence = Evidence {
        now: cx.now,
        grace: GRACE,
        machine: cx.node.machine.clone(),
        boot: cx.boot.clone(),
        namespaces: liveness::namespaces(netns.map(|n| n.path.as_str())),
        by_netns: true,
        listings: Vec::new(),
    };
    let judged = leases.iter().zip(stale::judge(leases, &evidence));
    let lost = judged.filter_map(|(lease, verdict)| match verdict {
        Verdict::Lost(why) => Some(Problem {
            place: format!("{} of network {}", lease.addr, shown_network(lease)),
            what: format!("{} has it, and is gone: {why}", lease.owner),
            advice: "free it with `sublet gc --netns`".to_owned(),
            mendable: false,
        }),
        Verdict::Alive(_) | Verdict::CannotTell(_) => None,
    });
    lost.collect()
}
