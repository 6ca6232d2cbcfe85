//! The problems of a store, for `sublet doctor`: those that the store finds, and stale leases, which it cannot.
//!
//! Only the network namespace of a lease counts as proof here; no runtime is asked. [`stale`] decides.

use super::stale;
use super::stale::Liveness;
use crate::alloc::Context;
use crate::error::{StoreError, shown_network};
use crate::liveness;
use crate::model::Lease;
use crate::store::{Problem, Store};

/// Age in seconds below which a lease is not judged, because its container may still be starting.
const GRACE: u64 = 60;

/// The problems that the store finds, and the stale leases.
pub fn find(store: &mut dyn Store, cx: &Context) -> Result<Vec<Problem>, StoreError> {
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
        problems.extend(stale_leases(&leases, cx));
    }
    Ok(problems)
}

/// A problem for each lease whose network namespace is provably gone.
fn stale_leases(leases: &[Lease], cx: &Context) -> Vec<Problem> {
    let evidence = liveness::evidence(leases, cx, GRACE, true, Vec::new());
    let assessed = leases.iter().zip(stale::assess(leases, &evidence));
    let problems = assessed.filter_map(|(lease, liveness)| match liveness {
        Liveness::Stale(why) => Some(Problem {
            place: format!("{} of network {}", lease.addr, shown_network(lease)),
            what: format!("{} has it, and is gone: {why}", lease.owner),
            advice: "free it with `sublet gc --netns`".to_owned(),
            mendable: false,
        }),
        Liveness::Alive(_) | Liveness::Unknown(_) => None,
    });
    problems.collect()
}
