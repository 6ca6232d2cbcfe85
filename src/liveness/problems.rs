//! Stale leases as problems of a store, for `sublet doctor`: the store itself cannot find them.
//!
//! Only the network namespace of a lease counts as proof here; no runtime is asked. [`stale`] decides.

use super::stale;
use super::stale::Liveness;
use crate::alloc::Context;
use crate::error::shown_network;
use crate::liveness;
use crate::model::Lease;
use crate::store::Problem;

/// Age in seconds below which a lease is not judged, because its container may still be starting.
const GRACE: u64 = 60;

/// A problem for each lease whose network namespace is provably gone.
pub fn find(leases: &[Lease], cx: &Context) -> Vec<Problem> {
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
