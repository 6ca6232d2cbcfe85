//! Leases whose container is gone, as problems of a store: what the store itself cannot see.
//!
//! Owns: what counts as proof without asking a runtime (the network namespace alone). Does not own: the
//! judgement (`lost`), or freeing anything.

use super::stale;
use super::stale::{Evidence, Verdict};
use crate::alloc::Context;
use crate::error::shown_network;
use crate::liveness;
use crate::model::Lease;
use crate::store::Problem;

/// A lease younger than this is not judged, in seconds: its container may be on its way.
const GRACE: u64 = 60;

/// Those of the leases whose network namespace is provably gone.
pub fn find(leases: &[Lease], cx: &Context) -> Vec<Problem> {
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
